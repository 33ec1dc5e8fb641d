"""An agent executes what the coordinator signed, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_evidence import keys, mandate, notes, tree
from tenure_evidence.canonical import canonical, read
from tenure_evidence.digests import given_digest, payload_digest
from tenure_evidence.items import lease_item
from tenure_evidence.signing import SigningKey

INSTALLATION = "6f1c64a4-1d55-4f39-9a86-b3ab2ea3ed4e"
KEY = SigningKey(notes.installation_name(INSTALLATION), bytes(32))
CHAIN = keys.Chain.read(KEY.verifier.text, [])
FACTS: dict[str, Any] = {
    "run": "r-1",
    "seq": 2,
    "at": 1_000,
    "tasks": ["extract"],
    "attempt": 1,
    "term": 7,
    "agent": "a-1",
    "definition": "sha256:" + "1" * 64,
    "constitution": "sha256:" + "2" * 64,
    "handler": "http.get",
    "given": given_digest(payload_digest(b"{}", ""), None, [], None),
}
ITEMS = [lease_item(**{**FACTS, "run": f"r-{number}"}) for number in range(1, 6)]


def batch(**changes: Any) -> mandate.Mandate:
    leaves = tuple(tree.leaf_hash(item) for item in ITEMS)
    entry = canonical(
        {
            "version": 1,
            "log": "acme",
            "index": 9,
            "kind": "lease.grant",
            "items": {"count": len(leaves), "root": tree.root(leaves).hex()},
            **changes,
        }
    )
    return mandate.Mandate(
        entry=entry,
        signature=mandate.sign(KEY, entry),
        key_hash=KEY.verifier.hash,
        leaf_hashes=leaves,
    )


def test_every_lease_of_a_batch_is_checked_at_its_place() -> None:
    signed = batch()
    mandate.check(signed, CHAIN, "acme")
    for position, item in enumerate(ITEMS):
        mandate.check_item(signed, position, item)
        with pytest.raises(mandate.MandateInvalid, match="not the one"):
            mandate.check_item(signed, (position + 1) % 5, item)
    for position in (-1, 5):
        with pytest.raises(mandate.MandateInvalid, match="place"):
            mandate.check_item(signed, position, ITEMS[0])


@pytest.mark.parametrize(
    "change",
    [
        {"run": "r-2"}, {"seq": 3}, {"at": 1_001}, {"attempt": 2}, {"term": 8},
        {"tasks": ["load"]}, {"tasks": ["extract", "load"]},
        {"agent": "a-2"}, {"definition": "sha256:" + "3" * 64}, {"handler": "shell"},
        {"constitution": "sha256:" + "3" * 64}, {"given": bytes(32)},
    ],
)  # fmt: skip
def test_a_lease_that_differs_in_anything_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(mandate.MandateInvalid, match="not the one"):
        mandate.check_item(batch(), 0, lease_item(**{**FACTS, **change}))


def test_a_mandate_of_anyone_or_anything_else_is_refused() -> None:
    signed = batch()
    stranger = SigningKey(KEY.verifier.name, bytes([1]) * 32)
    for changed, reason in (
        (replace(signed, entry=signed.entry.replace(b"acme", b"acne")), "does not verify"),
        (replace(signed, signature=bytes(64)), "does not verify"),
        (replace(signed, signature=b""), "does not verify"),
        (replace(signed, signature=mandate.sign(stranger, signed.entry)), "does not verify"),
        (replace(signed, signature=KEY.sign(signed.entry)), "does not verify"),
        (replace(signed, key_hash=stranger.verifier.hash), "not one that is trusted"),
        (replace(signed, leaf_hashes=signed.leaf_hashes[:-1]), "hashes of the items"),
        (replace(signed, leaf_hashes=signed.leaf_hashes[::-1]), "hashes of the items"),
        (batch(log="beta"), "tenant"),
        (batch(items={"count": 5}), "hashes of the items"),
    ):
        with pytest.raises(mandate.MandateInvalid, match=reason):
            mandate.check(changed, CHAIN, "acme")
    spaced = signed.entry + b" "
    with pytest.raises(mandate.MandateInvalid, match="canonical"):
        mandate.check(
            replace(signed, entry=spaced, signature=mandate.sign(KEY, spaced)), CHAIN, "acme"
        )


def test_the_item_has_the_members_that_are_documented() -> None:
    assert read(ITEMS[0]) == {
        "run": "r-1", "seq": 2, "at": 1_000, "kind": "task.leased", "task": "extract",
        "attempt": 1, "term": 7, "agent": "a-1", "definition": FACTS["definition"],
        "constitution": FACTS["constitution"], "handler": "http.get",
        "input": "sha256:" + FACTS["given"].hex(),
    }  # fmt: skip


@given(
    agent=st.text(max_size=20), task=st.text(min_size=1, max_size=20), handler=st.text(max_size=20)
)
def test_an_item_written_by_hand_is_what_the_canonical_form_gives(
    agent: str, task: str, handler: str
) -> None:
    facts: dict[str, Any] = {**FACTS, "agent": agent, "handler": handler}
    rest = {name: value for name, value in facts.items() if name not in ("given", "tasks")}
    said = {**rest, "kind": "task.leased", "input": "sha256:" + facts["given"].hex()}
    assert lease_item(**{**facts, "tasks": [task]}) == canonical({**said, "task": task})
    both = [task, "load"]
    assert lease_item(**{**facts, "tasks": both}) == canonical({**said, "tasks": both})
