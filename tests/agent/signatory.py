"""Signs batches of leases as a coordinator does."""

from __future__ import annotations

from collections.abc import Sequence

from tenure.v1 import agents_pb2, payload_pb2
from tenure_evidence import keys, mandate, notes, tree
from tenure_evidence.canonical import canonical
from tenure_evidence.digests import given_digest, payload_digest
from tenure_evidence.items import lease_item
from tenure_evidence.signing import SigningKey

INSTALLATION = "6f1c64a4-1d55-4f39-9a86-b3ab2ea3ed4e"
NAME = notes.installation_name(INSTALLATION)
#: Of something else that happened in the same act as the leases that are signed.
OTHER_ITEM = tree.leaf_hash(b"{}")


class Signatory:
    """The keys of an installation, and what they sign."""

    def __init__(self, seed: int = 0, *, agent: str = "host-1", log: str = "acme") -> None:
        self.agent = agent
        self.log = log
        self._seed = seed
        self.key = SigningKey(NAME, bytes([seed]) * 32)
        self.root_key = self.key.verifier.text
        self.certificates: list[str] = []

    def rotate(self) -> None:
        """Lets a new key follow the one that signs."""
        self._seed += 1
        new = SigningKey(NAME, bytes([self._seed]) * 32)
        number = len(self.certificates) + 2
        note = keys.certificate(self.key, INSTALLATION, number, new.verifier, 5)
        self.certificates.append(note)
        self.key = new

    def welcome(self) -> agents_pb2.Welcome:
        """What it tells an agent."""
        return agents_pb2.Welcome(root_key=self.root_key, certificates=self.certificates)

    def sign(self, batch: agents_pb2.LeaseBatch, *, together: int = 0) -> None:
        """Gives the leases of a batch their mandate; the last so many share an item."""
        runs = {run.run_id: run for run in batch.runs}
        hashes, signed = [OTHER_ITEM], batch.mandates.add()
        alone = len(batch.leases) - together
        for lease in batch.leases[:alone]:
            self._grant(lease, len(batch.mandates) - 1, len(hashes), len(hashes) + 1)
            hashes.append(tree.leaf_hash(self._item(lease, runs[lease.run_id])))
        if together:
            shared, tasks = batch.leases[alone:], [it.task_key for it in batch.leases[alone:]]
            for number, lease in enumerate(shared):
                self._grant(lease, len(batch.mandates) - 1, len(hashes), 100 + number)
            signed.shared.add(position=len(hashes), tasks=tasks)
            first = shared[0]
            hashes.append(tree.leaf_hash(self._item(first, runs[first.run_id], tasks)))
        entry = canonical(
            {
                "version": 1,
                "log": self.log,
                "index": 9,
                "kind": "lease.grant",
                "items": {"count": len(hashes), "root": tree.root(hashes).hex()},
            }
        )
        signed.entry = entry
        signed.signature = mandate.sign(self.key, entry)
        signed.key_hash = self.key.verifier.hash
        signed.leaf_hashes = b"".join(hashes)

    @staticmethod
    def _grant(lease: agents_pb2.Lease, number: int, position: int, sequence: int) -> None:
        lease.mandate, lease.mandate_position = number, position
        lease.grant_us, lease.grant_sequence = 1_700_000_000_000_000, sequence

    def _item(
        self, lease: agents_pb2.Lease, run: agents_pb2.RunContext, tasks: Sequence[str] = ()
    ) -> bytes:
        given = given_digest(
            _digest(lease.input) if lease.HasField("input") else None,
            _digest(run.input) if run.HasField("input") else None,
            [(key, _digest(output)) for key, output in lease.upstream.items()],
            _digest(lease.checkpoint) if lease.HasField("checkpoint") else None,
        )
        return lease_item(
            run=lease.run_id,
            seq=lease.grant_sequence,
            at=lease.grant_us,
            tasks=tasks or [lease.task_key],
            attempt=lease.attempt,
            term=lease.term,
            agent=self.agent,
            definition=run.workflow_digest,
            constitution=run.constitution_digest,
            handler=lease.kind,
            given=given,
        )


def _digest(payload: payload_pb2.Payload) -> bytes:
    return payload_digest(payload.data, payload.content_type)
