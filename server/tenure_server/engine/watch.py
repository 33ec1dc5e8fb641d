"""Readers of run events: told what was committed, in order, without gap or repeat.

A reader that keeps up is handed the events themselves. One that lags is only woken, and reads what
it missed from the store, so that no reader can make memory grow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Row
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RUN_ENDS, RUN_EVENTS, EventKind
from tenure_server.engine.lanes import Lanes
from tenure_server.engine.log_watch import LogWatchers
from tenure_server.store.reads import TenantReads

#: How many events are kept for a reader that has not taken them yet.
BACKLOG_MAX = 4096

#: How many events are read from the store at once.
PAGE = 1000

#: How often a run is looked at that another coordinator decides for.
FOREIGN_SECONDS = 0.5

_LAST_EVENTS = frozenset(RUN_ENDS.values())


class Watcher:
    """One reader of one run."""

    __slots__ = (
        "_backlog",
        "_wake",
        "lost_track",
        "over",
        "run_events_only",
        "run_id",
        "tenant_id",
    )

    def __init__(self, tenant_id: str, run_id: str, *, run_events_only: bool) -> None:
        self.tenant_id = tenant_id
        self.run_id = run_id
        self.run_events_only = run_events_only
        self._backlog: list[records.Event] = []
        self._wake = asyncio.Event()
        #: True when events went by that were not kept: read from the store.
        self.lost_track = False
        #: True when nothing more will come from here: the coordinator lost the tenant or stops.
        self.over = False

    def offer(self, events: Sequence[records.Event]) -> None:
        """Hands events over, or notes that they have to be read."""
        if self.over:
            # Between these and what came before lies what nobody here knows to be kept.
            return
        if len(self._backlog) + len(events) > BACKLOG_MAX:
            self._backlog.clear()
            self.lost_track = True
        if not self.lost_track:
            self._backlog += events
        self._wake.set()

    def end(self) -> None:
        """Says that nothing more will come."""
        self.over = True
        self._wake.set()

    async def wait(self, seconds: float | None) -> bool:
        """Waits until there is something to take. False: the time was up first."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def take(self) -> Sequence[records.Event]:
        """Gives what was handed over. Check `lost_track` first."""
        events, self._backlog = self._backlog, []
        return events

    def found_track(self) -> None:
        """Says that the store will be read from here on: what is handed over counts again."""
        self.lost_track = False
        self._backlog.clear()


class Watchers:
    """All readers, by run."""

    def __init__(self) -> None:
        #: Where readers wait for their tenant's turn to read.
        self.lanes = Lanes()
        #: The readers of logs, who end when those of runs do.
        self.logs = LogWatchers(self.lanes)
        self._by_run: dict[str, list[Watcher]] = {}

    def join(self, tenant_id: str, run_id: str, *, run_events_only: bool) -> Watcher:
        """Begins to hand over the events of a run that are committed from now on."""
        watcher = Watcher(tenant_id, run_id, run_events_only=run_events_only)
        self._by_run.setdefault(run_id, []).append(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Ends it."""
        watchers = self._by_run.get(watcher.run_id, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            self._by_run.pop(watcher.run_id, None)

    def publish(self, rows: Sequence[Row]) -> None:
        """Hands committed events to those who watch their runs."""
        by_run = self._by_run
        if not by_run:
            return
        watched: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row[1] in by_run:
                watched.setdefault((row[0], row[1]), []).append(row)
        for (tenant_id, run_id), found in watched.items():
            watchers = [it for it in by_run[run_id] if it.tenant_id == tenant_id]
            # Most events concern a task, and most readers only wait for the run's end.
            of_run = [event_of(row) for row in found if row[4] in RUN_EVENTS]
            every: list[records.Event] | None = None
            for watcher in watchers:
                if watcher.run_events_only:
                    if of_run:
                        watcher.offer(of_run)
                    continue
                if every is None:
                    every = [event_of(row) for row in found]
                watcher.offer(every)

    def end_all(self, tenant_id: str | None = None) -> None:
        """Ends the readers of one tenant, or all."""
        self.logs.end_all(tenant_id)
        for watchers in list(self._by_run.values()):
            for watcher in list(watchers):
                if tenant_id in (None, watcher.tenant_id):
                    watcher.end()


def event_of(row: Row) -> records.Event:
    """The event of a journal row."""
    return records.Event(
        run_id=row[1],
        sequence=row[2],
        at_us=row[3],
        kind=EventKind(row[4]),
        task_key=row[5],
        attempt=row[6],
        term=row[7],
        agent=row[8],
        code=row[9],
        message=row[10],
    )


async def follow(
    watchers: Watchers,
    reads: TenantReads,
    read: Callable[..., Awaitable[Any]],
    tenant_id: str,
    run_id: str,
    *,
    after_sequence: int,
    run_events_only: bool,
    decided_here: Callable[[], bool],
) -> AsyncIterator[Sequence[records.Event]]:
    """Yields the events of a run, from the store and then as they are committed."""
    watcher = watchers.join(tenant_id, run_id, run_events_only=run_events_only)
    lane = partial(watchers.lanes.lane, tenant_id)
    last = after_sequence
    watcher.lost_track = True
    try:
        while True:
            if watcher.lost_track:
                watcher.found_track()
                # The state is read first: a run that has ended then has all its events stored.
                async with lane():
                    record = await read(reads.run, run_id)
                if record is None:
                    raise errors.NotFound("run", run_id)
                while True:
                    async with lane():
                        stored = await read(reads.events, run_id, last, PAGE, run_events_only)
                    if not stored:
                        break
                    last = stored[-1].sequence
                    yield stored
                    if stored[-1].kind in _LAST_EVENTS:
                        return
                if record.state in RUN_ENDED:
                    return
            taken = watcher.take()
            if events := [event for event in taken if event.sequence > last]:
                last = events[-1].sequence
                yield events
            if taken and taken[-1].kind in _LAST_EVENTS:
                return
            if watcher.over:
                raise errors.Stopping("the coordinator cannot follow the run any longer")
            if not await watcher.wait(None if decided_here() else FOREIGN_SECONDS):
                watcher.lost_track = True
    finally:
        watchers.leave(watcher)
