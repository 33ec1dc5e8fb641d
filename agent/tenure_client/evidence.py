"""The log of evidence over the wire: entries as they are and as they come, proofs, bundles.

For an operator's key it is the installation's own log, for others their tenant's. Nothing is
verified here: `tenure_evidence` does that, from the canonical bytes that these calls give.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import grpc.aio

from tenure.v1 import evidence_pb2
from tenure_client.connection import Connection
from tenure_client.requests import PAGE_SIZE
from tenure_client.resuming import ResumingStream


def _unheard(_: int) -> None:
    """Takes what nobody wants to know."""


class Evidence:
    """What a caller may read of the evidence. All methods raise TenureError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def entries(
        self,
        *,
        from_index: int = 0,
        kind: str = "",
        principal: str = "",
        correlation_id: str = "",
        run_id: str = "",
        refused_only: bool = False,
        with_items: bool = False,
        page_size: int = 0,
    ) -> AsyncGenerator[evidence_pb2.EvidenceEntry, None]:
        """Gives the entries of which all that is asked for is true, by number.

        The list itself is evidenced, page by page: without a bound of the caller's own it may
        find what it has caused.
        """
        request = evidence_pb2.ListEntriesRequest(
            from_index=from_index,
            kind=kind,
            principal=principal,
            correlation_id=correlation_id,
            run_id=run_id,
            refused_only=refused_only,
            with_items=with_items,
            page_size=page_size or PAGE_SIZE,
        )
        async for page in self._connection.pages(lambda to: to.evidence.ListEntries, request):
            for entry in page.entries:
                yield entry

    async def checkpoint(self) -> evidence_pb2.GetCheckpointResponse:
        """Has the log signed as it stands now."""
        request = evidence_pb2.GetCheckpointRequest()
        return await self._connection.call(lambda to: to.evidence.GetCheckpoint, request)

    async def checkpoints(self) -> AsyncGenerator[evidence_pb2.Checkpoint, None]:
        """Gives the checkpoints that were kept, newest first."""
        request = evidence_pb2.ListCheckpointsRequest(page_size=PAGE_SIZE)
        async for page in self._connection.pages(lambda to: to.evidence.ListCheckpoints, request):
            for checkpoint in page.checkpoints:
                yield checkpoint

    async def inclusion_proof(
        self, index: int, *, size: int = 0
    ) -> evidence_pb2.GetInclusionProofResponse:
        """Proves that an entry is in the log at a size; 0 is the size it has now."""
        request = evidence_pb2.GetInclusionProofRequest(index=index, size=size)
        return await self._connection.call(lambda to: to.evidence.GetInclusionProof, request)

    async def consistency_proof(
        self, first_size: int, second_size: int = 0
    ) -> evidence_pb2.GetConsistencyProofResponse:
        """Proves that the log at one size is the beginning of the log at a later one."""
        request = evidence_pb2.GetConsistencyProofRequest(
            first_size=first_size, second_size=second_size
        )
        return await self._connection.call(lambda to: to.evidence.GetConsistencyProof, request)

    async def signing_keys(self) -> evidence_pb2.GetSigningKeysResponse:
        """Gives the root's verifier key and the certificates of the keys after it."""
        request = evidence_pb2.GetSigningKeysRequest()
        return await self._connection.call(lambda to: to.evidence.GetSigningKeys, request)

    async def export_run(
        self, run_id: str, path: Path, *, taken: Callable[[int], None] = _unheard
    ) -> int:
        """Writes the bundle of a run into a file, and gives its size in bytes.

        The file appears as a whole or not at all, and replaces one of that name. `taken` is told
        how many bytes have come so far. Raises OSError for what cannot be written.
        """
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            async for attempt in self._connection.retrying():
                with attempt:
                    size = await self._export(run_id, temporary, taken)
            await asyncio.to_thread(os.replace, temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return size

    async def _export(self, run_id: str, path: Path, taken: Callable[[int], None]) -> int:
        request = evidence_pb2.ExportRunRequest(run_id=run_id)
        export = self._connection.stubs().evidence.ExportRun
        call = export(request, metadata=self._connection.metadata())
        size = 0
        try:
            with path.open("wb") as file:
                async for message in call:
                    size += await asyncio.to_thread(file.write, message.chunk)
                    taken(size)
                await asyncio.to_thread(_sync, file)
        except grpc.aio.AioRpcError as error:
            raise self._connection.failed(error) from error
        finally:
            call.cancel()
        return size

    async def watch(
        self, *, from_index: int = 0, with_items: bool = False
    ) -> AsyncGenerator[evidence_pb2.EvidenceEntry, None]:
        """Gives entries from a number on as they are committed, until the caller leaves.

        A lost line is taken up again where it broke: no entry is missed and none comes twice.
        """

        def request(index: int) -> evidence_pb2.WatchEntriesRequest:
            return evidence_pb2.WatchEntriesRequest(from_index=index, with_items=with_items)

        stream = ResumingStream[evidence_pb2.WatchEntriesResponse, evidence_pb2.EvidenceEntry](
            self._connection,
            next_number=from_index,
            method=lambda to: to.evidence.WatchEntries,
            request=request,
            things=attrgetter("entries"),
            number=attrgetter("index"),
        )
        async with aclosing(stream.batches()) as batches:
            async for batch in batches:
                for entry in batch or ():
                    yield entry


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
