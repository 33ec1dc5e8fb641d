"""The service Evidence: the logs, their checkpoints and proofs, and what can be taken home."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from tenure.v1 import evidence_pb2, evidence_pb2_grpc
from tenure_evidence import tree
from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.engine import bundles
from tenure_server.engine.engine import Engine
from tenure_server.rpc import access, convert, pages
from tenure_server.rpc.doorway import Context
from tenure_server.store.database import Store
from tenure_server.store.evidence_reads import EvidenceReads, Wanted

#: How much of a bundle goes into one message.
CHUNK_BYTES = 1 << 20
#: The most that one message of entries holds, unless one entry alone is larger.
MESSAGE_BYTES = 8 << 20
#: How many exports of one tenant may be under way. Each holds its bundle until all is read.
EXPORTS_MAX = 8
_SIZE_MAX = (1 << 53) - 1


class Evidence(evidence_pb2_grpc.EvidenceServicer):
    """Converts, asks, converts. An operator's log is the installation's."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._exports: Counter[str] = Counter()

    async def ListEntries(
        self, request: evidence_pb2.ListEntriesRequest, context: Context
    ) -> evidence_pb2.ListEntriesResponse:
        """Lists entries by number."""
        caller = access.caller()
        limit = pages.limit(request)
        (after,) = pages.read(caller, request) or (-1,)
        reads = self._reads(caller)
        found = await self._engine.read(
            lambda: reads.entries(max(after + 1, request.from_index), limit + 1, _wanted(request))
        )
        response = evidence_pb2.ListEntriesResponse()
        # A page may hold less than it should: entries of large batches are large.
        shown = next(_portions(found[:limit]), [])
        response.entries.extend(shown)
        if len(shown) < len(found):
            response.next_page_token = pages.issue(caller, request, [shown[-1].index])
        return response

    async def GetCheckpoint(
        self, request: evidence_pb2.GetCheckpointRequest, context: Context
    ) -> evidence_pb2.GetCheckpointResponse:
        """Signs the log as it stands now."""
        checkpoint = await self._engine.logbook.checkpoint(access.caller().tenant_id)
        return evidence_pb2.GetCheckpointResponse(checkpoint=checkpoint.note, size=checkpoint.size)

    async def ListCheckpoints(
        self, request: evidence_pb2.ListCheckpointsRequest, context: Context
    ) -> evidence_pb2.ListCheckpointsResponse:
        """Lists the checkpoints that were signed, newest first."""
        caller = access.caller()
        limit = pages.limit(request)
        (below,) = pages.read(caller, request) or (_SIZE_MAX,)
        reads = self._reads(caller)
        found = await self._engine.read(lambda: reads.checkpoints(below, limit + 1))
        response = evidence_pb2.ListCheckpointsResponse(
            checkpoints=[
                evidence_pb2.Checkpoint(
                    note=checkpoint.note,
                    size=checkpoint.size,
                    create_time=convert.timestamp(checkpoint.create_us),
                )
                for checkpoint in found[:limit]
            ]
        )
        if len(found) > limit:
            response.next_page_token = pages.issue(caller, request, [found[limit - 1].size])
        return response

    async def GetInclusionProof(
        self, request: evidence_pb2.GetInclusionProofRequest, context: Context
    ) -> evidence_pb2.GetInclusionProofResponse:
        """Proves that an entry is in the log."""
        reads = self._reads(access.caller())

        def read() -> evidence_pb2.GetInclusionProofResponse:
            size = _size(reads, request.size)
            entry = reads.entry(request.index) if request.index < size else None
            if entry is None:
                raise errors.NotFound("entry", str(request.index))
            nodes = reads.nodes(tree.inclusion_nodes(request.index, size))
            with _whole(reads):
                proof = tree.inclusion_proof(request.index, size, nodes)
            return evidence_pb2.GetInclusionProofResponse(
                proof=proof, size=size, entry=_message(entry)
            )

        return await self._engine.read(read)

    async def GetConsistencyProof(
        self, request: evidence_pb2.GetConsistencyProofRequest, context: Context
    ) -> evidence_pb2.GetConsistencyProofResponse:
        """Proves that a log only grew."""
        reads = self._reads(access.caller())

        def read() -> evidence_pb2.GetConsistencyProofResponse:
            first, second = request.first_size, _size(reads, request.second_size)
            if request.second_size and first > second:
                raise errors.FieldsInvalid([("first_size", "is greater than second_size")])
            if first > second:
                raise errors.NotFound("size", str(first))
            nodes = reads.nodes(tree.consistency_nodes(first, second))
            with _whole(reads):
                proof = tree.consistency_proof(first, second, nodes)
            return evidence_pb2.GetConsistencyProofResponse(proof=proof, second_size=second)

        return await self._engine.read(read)

    async def ExportRun(
        self, request: evidence_pb2.ExportRunRequest, context: Context
    ) -> AsyncIterator[evidence_pb2.ExportRunResponse]:
        """Exports a run as a bundle, in pieces."""
        logbook, tenant_id = self._engine.logbook, access.caller().tenant_id
        with self._exporting(tenant_id):
            checkpoint = await logbook.checkpoint(tenant_id)
            made = await self._engine.read_long(
                bundles.of_run, self._store, logbook.notary.keys, checkpoint, request.run_id
            )
            for begin in range(0, len(made), CHUNK_BYTES):
                yield evidence_pb2.ExportRunResponse(chunk=made[begin : begin + CHUNK_BYTES])

    async def WatchEntries(
        self, request: evidence_pb2.WatchEntriesRequest, context: Context
    ) -> AsyncIterator[evidence_pb2.WatchEntriesResponse]:
        """Streams entries as they are committed."""
        steps: Any = self._engine.logbook.follow(
            access.caller().tenant_id, request.from_index, with_items=request.with_items
        )
        async with contextlib.aclosing(steps):
            async for found in steps:
                for entries in _portions(found):
                    yield evidence_pb2.WatchEntriesResponse(entries=entries)

    async def GetSigningKeys(
        self, request: evidence_pb2.GetSigningKeysRequest, context: Context
    ) -> evidence_pb2.GetSigningKeysResponse:
        """Gives the public keys."""
        keys = self._engine.logbook.notary.keys
        return evidence_pb2.GetSigningKeysResponse(
            root_key=keys.root_key, certificates=keys.certificates
        )

    @contextlib.contextmanager
    def _exporting(self, tenant_id: str) -> Iterator[None]:
        """Counts an export while it is under way. Raises Overloaded."""
        if self._exports[tenant_id] >= EXPORTS_MAX:
            raise errors.Overloaded(
                f"{EXPORTS_MAX} exports of the tenant are under way already", subject="exports"
            )
        self._exports[tenant_id] += 1
        try:
            yield
        finally:
            self._exports[tenant_id] -= 1
            if not self._exports[tenant_id]:
                del self._exports[tenant_id]

    def _reads(self, caller: access.Caller) -> EvidenceReads:
        # Empty for an operator, whom the gates let in without a tenant.
        return EvidenceReads(self._store, caller.tenant_id)


@contextlib.contextmanager
def _whole(reads: EvidenceReads) -> Iterator[None]:
    """Says which node of a tree is missing."""
    try:
        yield
    except KeyError as error:
        level, position = error.args[0]
        finding = f"entry {position << level}: node {position} of level {level} is missing"
        raise errors.Quarantined(reads.tenant_id, finding) from None


def _size(reads: EvidenceReads, asked: int) -> int:
    """The size that was asked for; 0 is the log as it stands. Raises NotFound."""
    size = reads.size()
    if asked > size:
        raise errors.NotFound("size", str(asked))
    return asked or size


def _wanted(request: evidence_pb2.ListEntriesRequest) -> Wanted:
    return Wanted(
        kind=request.kind,
        principal=request.principal,
        correlation_id=request.correlation_id,
        run_id=request.run_id,
        refused_only=request.refused_only,
        with_items=request.with_items,
    )


def _message(entry: records.LogEntry) -> evidence_pb2.EvidenceEntry:
    return evidence_pb2.EvidenceEntry(index=entry.index, entry=entry.entry, items=entry.items or ())


def _portions(
    found: Iterable[records.LogEntry],
) -> Iterator[list[evidence_pb2.EvidenceEntry]]:
    """Entries as messages, in portions that fit into an answer."""
    portion: list[evidence_pb2.EvidenceEntry] = []
    size = 0
    for entry in found:
        message = _message(entry)
        size += message.ByteSize()
        if portion and size > MESSAGE_BYTES:
            yield portion
            portion, size = [], message.ByteSize()
        portion.append(message)
    if portion:
        yield portion
