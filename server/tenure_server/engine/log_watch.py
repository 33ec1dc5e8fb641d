"""Readers of logs: woken at each commit, they read what is new from the store.

Entries are not handed over: what is in a log is what is stored, and a reader of it must see just
that. So there is nothing to keep for slow readers either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.engine.lanes import Lanes
from tenure_server.store.evidence_reads import EvidenceReads, Wanted

#: How many entries are read at once. A reader that never reads on holds one page.
PAGE = 100
#: How often a log is looked at to which other coordinators write as well.
SHARED_SECONDS = 0.5


class LogWatcher:
    """One reader of one log."""

    __slots__ = ("_wake", "over", "tenant_id")

    def __init__(self, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        #: True when nothing more will come from here.
        self.over = False
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Says that there is something to read."""
        self._wake.set()

    def end(self) -> None:
        """Says that nothing more will come."""
        self.over = True
        self._wake.set()

    async def wait(self, seconds: float | None) -> None:
        """Waits until there is something to read, or for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()


class LogWatchers:
    """All readers, by log. Those who want the same page share one look at it."""

    def __init__(self, lanes: Lanes) -> None:
        self._by_tenant: dict[str, set[LogWatcher]] = {}
        self._lanes = lanes
        #: How often logs have grown: what was seen before says nothing of what came since.
        self._growth = 0
        #: The page of each log that was looked at last, and what had been asked.
        self._seen: dict[str, tuple[tuple[int, bool, int], Sequence[records.LogEntry]]] = {}

    async def page(
        self,
        reads: EvidenceReads,
        read: Callable[..., Awaitable[Any]],
        index: int,
        *,
        with_items: bool,
    ) -> Sequence[records.LogEntry]:
        """Reads entries from a number on: once for all who ask it one after the other."""
        async with self._lanes.lane(reads.tenant_id):
            asked = (index, with_items, self._growth)
            before, found = self._seen.get(reads.tenant_id, (None, ()))
            if before != asked:
                found = await read(reads.entries, index, PAGE, Wanted(with_items=with_items))
                if reads.tenant_id in self._by_tenant:
                    self._seen[reads.tenant_id] = asked, found
            return found

    def join(self, tenant_id: str) -> LogWatcher:
        """Begins to wake a reader."""
        watcher = LogWatcher(tenant_id)
        self._by_tenant.setdefault(tenant_id, set()).add(watcher)
        return watcher

    def leave(self, watcher: LogWatcher) -> None:
        """Ends it."""
        watchers = self._by_tenant.get(watcher.tenant_id, set())
        watchers.discard(watcher)
        if not watchers:
            self._by_tenant.pop(watcher.tenant_id, None)
            self._seen.pop(watcher.tenant_id, None)

    def look_again(self) -> None:
        """Says that logs may have grown by others' hands."""
        self._growth += 1

    def publish(self, tenant_ids: Iterable[str]) -> None:
        """Wakes the readers of logs that have grown."""
        if self._by_tenant:
            self._growth += 1
            for tenant_id in set(tenant_ids) & self._by_tenant.keys():
                for watcher in self._by_tenant[tenant_id]:
                    watcher.wake()

    def end_all(self, tenant_id: str | None = None) -> None:
        """Ends the readers of one log, or all."""
        for name, watchers in list(self._by_tenant.items()):
            if tenant_id in (None, name):
                for watcher in watchers:
                    watcher.end()


async def follow_log(
    watchers: LogWatchers,
    reads: EvidenceReads,
    read: Callable[..., Awaitable[Any]],
    *,
    index: int,
    with_items: bool,
    shared: bool,
) -> AsyncIterator[Sequence[records.LogEntry]]:
    """Yields the entries of a log from a number on, and then as they are committed.

    `shared` says that others write to the log too. Raises Stopping when nothing more will come from
    here, and Quarantined for a log with a gap.
    """
    watcher = watchers.join(reads.tenant_id)
    try:
        while True:
            while found := await watchers.page(reads, read, index, with_items=with_items):
                for number, entry in enumerate(found, start=index):
                    if entry.index != number:
                        raise errors.Quarantined(reads.tenant_id, f"entry {number} is missing")
                index = found[-1].index + 1
                yield found
            if watcher.over:
                raise errors.Stopping("the coordinator cannot follow the log any longer")
            await watcher.wait(SHARED_SECONDS if shared else None)
            if shared:
                watchers.look_again()
    finally:
        watchers.leave(watcher)
