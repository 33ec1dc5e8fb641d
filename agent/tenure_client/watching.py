"""Watching a run: its events in order, without gap or repeat, over lines that may break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import grpc.aio

from tenure.v1 import runs_pb2
from tenure_client.connection import Connection

#: Kinds of event after which a run has no other.
LAST_KINDS: Final = frozenset(
    {
        runs_pb2.RUN_EVENT_KIND_RUN_SUCCEEDED,
        runs_pb2.RUN_EVENT_KIND_RUN_FAILED,
        runs_pb2.RUN_EVENT_KIND_RUN_CANCELLED,
    }
)
#: States that a run does not leave.
ENDED_STATES: Final = frozenset(
    {
        runs_pb2.RUN_STATE_SUCCEEDED,
        runs_pb2.RUN_STATE_FAILED,
        runs_pb2.RUN_STATE_CANCELLED,
    }
)

#: Between streams that end early without a word.
_PAUSE_SECONDS = 0.2

_Call = grpc.aio.UnaryStreamCall[runs_pb2.WatchRunRequest, runs_pb2.WatchRunResponse]


class Watch:
    """One watch over a run; it knows the last event it gave and goes on from there."""

    def __init__(
        self, connection: Connection, run_id: str, *, after_sequence: int, run_events_only: bool
    ) -> None:
        self._connection = connection
        self._run_id = run_id
        self._last = after_sequence
        self._run_events_only = run_events_only
        self._call: _Call | None = None

    async def events(self) -> AsyncGenerator[runs_pb2.RunEvent, None]:
        """Gives the events until the run's last one. Raises TenureError.

        A line that stays broken is an error only after the connection's time for retries, which
        counts anew from each event.
        """
        try:
            while True:
                batch = await self._next_batch()
                for event in batch:
                    # A coordinator may begin again a little earlier; nobody sees an event twice.
                    if event.sequence <= self._last:
                        continue
                    self._last = event.sequence
                    yield event
                    if event.kind in LAST_KINDS:
                        return
                if batch:
                    continue
                if await self._has_ended():
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            if self._call is not None:
                self._call.cancel()

    async def _next_batch(self) -> list[runs_pb2.RunEvent]:
        """Gives the next events; none when the stream ended before the run's last one."""
        async for attempt in self._connection.retrying():
            with attempt:
                try:
                    return await self._read()
                except grpc.aio.AioRpcError as error:
                    self._call = None
                    raise self._connection.failed(error) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _read(self) -> list[runs_pb2.RunEvent]:
        if self._call is None:
            request = runs_pb2.WatchRunRequest(
                run_id=self._run_id,
                after_sequence=self._last,
                run_events_only=self._run_events_only,
            )
            watch = self._connection.stubs().runs.WatchRun
            self._call = watch(request, metadata=self._connection.metadata())
        message = await self._call.read()
        if isinstance(message, runs_pb2.WatchRunResponse):
            return list(message.events)
        self._call = None
        return []

    async def _has_ended(self) -> bool:
        """Tells whether a stream that ended early has nothing more to give.

        A coordinator that stops may end a stream in the middle. One that ends it for a run that
        is over has nothing after the number we asked from.
        """
        request = runs_pb2.GetRunRequest(run_id=self._run_id)
        answer = await self._connection.call(lambda stubs: stubs.runs.GetRun, request)
        if answer.run.state not in ENDED_STATES:
            return False
        return not await self._has_more()

    async def _has_more(self) -> bool:
        """Tells whether the log has events after the last one that was given."""
        request = runs_pb2.ListRunEventsRequest(
            run_id=self._run_id, after_sequence=self._last, page_size=1
        )
        answer = await self._connection.call(lambda stubs: stubs.runs.ListRunEvents, request)
        return len(answer.events) > 0
