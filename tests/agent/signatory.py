"""Signs batches of leases as a coordinator does."""

from __future__ import annotations

from tenure.v1 import agents_pb2, payload_pb2
from tenure_evidence import keys, mandate, notes, tree
from tenure_evidence.canonical import canonical
from tenure_evidence.digests import given_digest, payload_digest
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

    def sign(self, batch: agents_pb2.LeaseBatch) -> None:
        """Gives the leases of a batch their mandate."""
        runs = {run.run_id: run for run in batch.runs}
        hashes = [OTHER_ITEM]
        for lease in batch.leases:
            lease.mandate, lease.mandate_position = len(batch.mandates), len(hashes)
            lease.grant_us, lease.grant_sequence = 1_700_000_000_000_000, len(hashes) + 1
            hashes.append(tree.leaf_hash(self._item(lease, runs[lease.run_id])))
        entry = canonical(
            {
                "version": 1,
                "log": self.log,
                "index": 9,
                "kind": "lease.grant",
                "items": {"count": len(hashes), "root": tree.root(hashes).hex()},
            }
        )
        batch.mandates.add(
            entry=entry,
            signature=mandate.sign(self.key, entry),
            key_hash=self.key.verifier.hash,
            leaf_hashes=b"".join(hashes),
        )

    def _item(self, lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> bytes:
        given = given_digest(
            _digest(lease.input) if lease.HasField("input") else None,
            _digest(run.input) if run.HasField("input") else None,
            [(key, _digest(output)) for key, output in lease.upstream.items()],
            _digest(lease.checkpoint) if lease.HasField("checkpoint") else None,
        )
        return mandate.lease_item(
            run=lease.run_id,
            seq=lease.grant_sequence,
            at=lease.grant_us,
            task=lease.task_key,
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
