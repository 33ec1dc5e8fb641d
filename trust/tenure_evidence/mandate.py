"""The mandate of a lease: the coordinator's signed word that this task is to be executed.

Signed once for a batch: the signature is over the entry of the act, the entry has the root of the
tree over everything that happened by it, and each lease stands in one leaf of that tree: by itself,
or with others that differ in their task only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tenure_evidence import keys, tree
from tenure_evidence.canonical import NotCanonical, read
from tenure_evidence.notes import Signer

_PREFIX = b"tenure.v1/mandate\n"


class MandateInvalid(ValueError):  # noqa: N818 - a finding about a lease
    """A lease must not be executed, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """What comes with a batch of leases."""

    entry: bytes
    #: Ed25519, 64 bytes.
    signature: bytes
    #: Of the key that signed, 4 bytes.
    key_hash: bytes
    #: Of all items of the entry, in order.
    leaf_hashes: tuple[bytes, ...]
    #: Of the items that are about several tasks: by their places, and for each task which of the
    #: item's events is its own, from 0.
    shared: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


def sign(signer: Signer, entry: bytes) -> bytes:
    """Signs the entry of a batch. Gives 64 bytes."""
    return signer.sign(_PREFIX + entry)


def check(mandate: Mandate, chain: keys.Chain, tenant: str) -> None:
    """Checks what a whole batch has in common. Raises MandateInvalid.

    `chain` begins with the key that the agent trusts. Each lease still needs `check_item`.
    """
    try:
        key = chain.key_for(mandate.key_hash)
    except keys.KeyUnknown as error:
        raise MandateInvalid(f"signed by {error}") from None
    if not key.verifies(mandate.signature, _PREFIX + mandate.entry):
        raise MandateInvalid(f"signature of key {mandate.key_hash.hex()} does not verify")
    try:
        entry = read(mandate.entry)
    except NotCanonical as error:
        raise MandateInvalid(f"entry {error}") from None
    if entry.get("log") != tenant:
        raise MandateInvalid(f"entry is of tenant {entry.get('log')!r}, the lease of {tenant!r}")
    expected = {"count": len(mandate.leaf_hashes), "root": tree.root(mandate.leaf_hashes).hex()}
    if entry.get("items") != expected:
        raise MandateInvalid("hashes of the items do not give the root that was signed")


def check_item(mandate: Mandate, position: int, item: bytes) -> None:
    """Checks that a lease's item, made anew, stands at its place of a checked mandate.

    It is made with `items.lease_item`. Raises MandateInvalid.
    """
    if not 0 <= position < len(mandate.leaf_hashes):
        count = len(mandate.leaf_hashes)
        raise MandateInvalid(f"lease stands at place {position} of {count}")
    if tree.leaf_hash(item) != mandate.leaf_hashes[position]:
        raise MandateInvalid("lease is not the one that was signed")
