"""Watching a run: its events in order, without gap or repeat, over lines that may break."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from operator import attrgetter
from typing import Final

from tenure.v1 import runs_pb2
from tenure_client.connection import Connection
from tenure_client.requests import PAGE_SIZE
from tenure_client.resuming import ResumingStream

#: Kinds of event after which a run has no other.
LAST_KINDS: Final = frozenset(
    {
        runs_pb2.RUN_EVENT_KIND_RUN_SUCCEEDED,
        runs_pb2.RUN_EVENT_KIND_RUN_FAILED,
        runs_pb2.RUN_EVENT_KIND_RUN_CANCELLED,
        runs_pb2.RUN_EVENT_KIND_RUN_CLOSED,
    }
)
#: States that a run does not leave.
ENDED_STATES: Final = frozenset(
    {
        runs_pb2.RUN_STATE_SUCCEEDED,
        runs_pb2.RUN_STATE_FAILED,
        runs_pb2.RUN_STATE_CANCELLED,
        runs_pb2.RUN_STATE_CLOSED,
    }
)


async def so_far(
    connection: Connection, run_id: str, *, after_sequence: int
) -> AsyncGenerator[runs_pb2.RunEvent, None]:
    """Gives what happened in a run until now, in order. Raises TenureError."""
    request = runs_pb2.ListRunEventsRequest(
        run_id=run_id, after_sequence=after_sequence, page_size=PAGE_SIZE
    )
    while True:
        page = await connection.call(lambda to: to.runs.ListRunEvents, request)
        for event in page.events:
            yield event
        if not page.next_after_sequence:
            return
        request.after_sequence = page.next_after_sequence


class Watch:
    """One watch over a run, which goes on from the last event it gave."""

    def __init__(
        self, connection: Connection, run_id: str, *, after_sequence: int, run_events_only: bool
    ) -> None:
        self._connection = connection
        self._run_id = run_id

        def request(sequence: int) -> runs_pb2.WatchRunRequest:
            return runs_pb2.WatchRunRequest(
                run_id=run_id, after_sequence=sequence - 1, run_events_only=run_events_only
            )

        self._stream = ResumingStream[runs_pb2.WatchRunResponse, runs_pb2.RunEvent](
            connection,
            next_number=after_sequence + 1,
            method=lambda to: to.runs.WatchRun,
            request=request,
            things=attrgetter("events"),
            number=attrgetter("sequence"),
        )

    async def events(self) -> AsyncGenerator[runs_pb2.RunEvent, None]:
        """Gives the events until the run's last one. Raises TenureError."""
        async with aclosing(self._stream.batches()) as batches:
            async for batch in batches:
                if batch is None and await self._has_ended():
                    return
                for event in batch or ():
                    yield event
                    if event.kind in LAST_KINDS:
                        return

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
            run_id=self._run_id, after_sequence=self._stream.next_number - 1, page_size=1
        )
        answer = await self._connection.call(lambda stubs: stubs.runs.ListRunEvents, request)
        return len(answer.events) > 0
