"""What an agent checks before it executes: that its coordinator signed each lease as it came.

The trusted key is configured. Each welcome brings the keys that follow it; each batch of leases
brings mandates, which are signed once for all leases of one grant. A lease is what was signed if
the item of evidence made anew from what really came has the hash that stands at its place. No
input or output here, and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog

from tenure.v1 import agents_pb2, payload_pb2
from tenure_evidence import keys, mandate
from tenure_evidence.digests import given_digest, payload_digest
from tenure_evidence.items import lease_item
from tenure_evidence.mandate import Mandate, MandateInvalid
from tenure_evidence.notes import VerifierKey
from tenure_evidence.tree import HASH_BYTES

#: The code of the failure by which a lease is refused.
MANDATE_INVALID = "MANDATE_INVALID"

log: structlog.stdlib.BoundLogger = structlog.get_logger("mandates")


class CoordinatorUntrusted(Exception):  # noqa: N818 - a finding about a coordinator
    """The keys of a coordinator do not lead back to the one that is configured."""


class KeyMissing(Exception):  # noqa: N818 - worth another welcome
    """A mandate was signed by a key that the welcome did not bring: there may be a newer one."""


class Guard:
    """Checks leases against their mandates, from one welcome to the next."""

    def __init__(self, key: VerifierKey, *, agent: str, tenants: Sequence[str] = ()) -> None:
        """`tenants` are those that the agent was told to serve; empty: whichever come."""
        self._key = key
        self.agent = agent
        self.tenants = frozenset(tenants)
        self._chain = keys.Chain.read(key.text, ())
        #: The key that was missed last. A coordinator that still lacks it after a welcome never
        #: had it.
        self._missed = b""
        #: How many leases were what had been signed, and how many were not.
        self.passed = 0
        self.refused = 0

    def welcome(self, welcome: agents_pb2.Welcome) -> None:
        """Takes the keys of a coordinator. Raises CoordinatorUntrusted."""
        if not welcome.root_key:
            raise CoordinatorUntrusted("the coordinator has no key that signs leases")
        try:
            chain = keys.Chain.read(welcome.root_key, welcome.certificates)
            trusted = chain.trusting(self._key)
        except (keys.ChainInvalid, keys.KeyUnknown) as error:
            reason = f"the coordinator's keys do not lead to the configured public key: {error}"
            raise CoordinatorUntrusted(reason) from None
        if trusted.newest not in self._chain.keys:
            # Else another of our coordinators has told us of newer ones already.
            self._chain = trusted
        log.info(
            "leases are checked against their mandates",
            public_key=self._key.hash.hex(),
            newest_key=self._chain.newest.hash.hex(),
            passed=self.passed,
            refused=self.refused,
        )

    def batch(self, batch: agents_pb2.LeaseBatch) -> Batch:
        """Begins to check a batch.

        Raises KeyMissing, once for each key, when another welcome may bring what is missing.
        """
        for message in batch.mandates:
            try:
                self._chain.key_for(message.key_hash)
            except keys.KeyUnknown as error:
                if message.key_hash != self._missed:
                    self._missed = message.key_hash
                    raise KeyMissing(f"a mandate is signed by a newer key: {error}") from None
        return Batch(self, self._chain, batch.mandates)


class Batch:
    """The mandates of one batch: each is checked once, when a lease asks for it first."""

    def __init__(
        self, guard: Guard, chain: keys.Chain, mandates: Iterable[agents_pb2.Mandate]
    ) -> None:
        self._guard = guard
        self._chain = chain
        self._mandates = list(mandates)
        #: By number and tenant; a text says what is wrong with it.
        self._checked: dict[tuple[int, str], Mandate | str] = {}
        self._inputs: dict[str, bytes | None] = {}
        #: The words of items of several leases that were found to be what was signed.
        self._found: set[tuple[object, ...]] = set()

    def objection(self, lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> str:
        """Why a lease must not be executed; empty when it is what was signed.

        `run` is the one description of its run in the batch.
        """
        try:
            signed = self._signed(lease.mandate, run.tenant_id)
            self._check_item(signed, lease, run)
        except MandateInvalid as error:
            self._guard.refused += 1
            return str(error)
        self._guard.passed += 1
        return ""

    def _signed(self, number: int, tenant: str) -> Mandate:
        """A mandate that holds for a tenant. Raises MandateInvalid."""
        checked = self._checked.get((number, tenant))
        if checked is None:
            try:
                checked = self._check(number, tenant)
            except MandateInvalid as error:
                checked = str(error)
            self._checked[number, tenant] = checked
        if isinstance(checked, str):
            raise MandateInvalid(checked)
        return checked

    def _check(self, number: int, tenant: str) -> Mandate:
        if self._guard.tenants and tenant not in self._guard.tenants:
            raise MandateInvalid(f"lease is of tenant {tenant!r}, which this agent does not serve")
        if not 0 <= number < len(self._mandates):
            raise MandateInvalid("lease came without a mandate")
        signed = _mandate(self._mandates[number])
        mandate.check(signed, self._chain, tenant)
        return signed

    def _check_item(
        self, signed: Mandate, lease: agents_pb2.Lease, run: agents_pb2.RunContext
    ) -> None:
        """Makes the item of evidence anew as it must have been signed. Raises MandateInvalid."""
        position = lease.mandate_position
        shared = signed.shared.get(position)
        words = {
            "run": lease.run_id,
            "seq": lease.grant_sequence,
            "at": lease.grant_us,
            "attempt": lease.attempt,
            "term": lease.term,
            "agent": self._guard.agent,
            "definition": run.workflow_digest,
            "constitution": run.constitution_digest,
            "handler": lease.kind,
            "given": self._given(lease, run),
        }
        if shared is None:
            mandate.check_item(signed, position, _item(words, (lease.task_key,)))
            return
        if lease.task_key not in shared:
            raise MandateInvalid("lease is not among those that were signed together")
        words["seq"] = lease.grant_sequence - shared[lease.task_key]
        # Once for all leases of an item: whose words are the same makes the same item.
        key = (lease.mandate, position, *words.values())
        if key not in self._found:
            mandate.check_item(signed, position, _item(words, tuple(shared)))
            self._found.add(key)

    def _given(self, lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> bytes:
        """The digest of everything that came with a lease."""
        inputs = self._inputs
        if run.run_id not in inputs:
            inputs[run.run_id] = _digest(run.input) if run.HasField("input") else None
        return given_digest(
            _digest(lease.input) if lease.HasField("input") else None,
            inputs[run.run_id],
            _digests(lease.upstream) if lease.upstream else (),
            _digest(lease.checkpoint) if lease.HasField("checkpoint") else None,
        )


def _item(words: Mapping[str, Any], tasks: Sequence[str]) -> bytes:
    try:
        return lease_item(tasks=tasks, **words)
    except TypeError as error:
        raise MandateInvalid(f"lease cannot be written down: {error}") from None


def _mandate(message: agents_pb2.Mandate) -> Mandate:
    """Reads a mandate. Raises MandateInvalid."""
    hashes = message.leaf_hashes
    if len(hashes) % HASH_BYTES:
        raise MandateInvalid(f"hashes of the items are {len(hashes)} bytes, not so many times 32")
    return Mandate(
        entry=message.entry,
        signature=message.signature,
        key_hash=message.key_hash,
        leaf_hashes=tuple(
            hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)
        ),
        shared={
            item.position: {task: number for number, task in enumerate(item.tasks)}
            for item in message.shared
        },
    )


def _digests(upstream: Mapping[str, payload_pb2.Payload]) -> list[tuple[str, bytes]]:
    return [(key, _digest(output)) for key, output in upstream.items()]


def _digest(payload: payload_pb2.Payload) -> bytes:
    """The digest of a payload. Raises MandateInvalid for one that the coordinator never sends."""
    if payload.WhichOneof("body") != "data":
        raise MandateInvalid("a payload has no bytes")
    return payload_digest(payload.data, payload.content_type)
