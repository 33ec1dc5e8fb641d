"""What can be seen of schedules: how they stand, when they fire next, and what became of fires."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tenure_server.core.scheduling.schedules import FireLine, Schedule, Standing, next_time
from tenure_server.core.scheduling.timetable import Entry
from tenure_server.engine.firing import Firing
from tenure_server.engine.floor import Floor
from tenure_server.store.database import Store
from tenure_server.store.schedule_reads import ScheduleReads


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A schedule as it is shown."""

    tenant_id: str
    schedule: Schedule
    standing: Standing
    #: Its runs that have not ended, in order.
    running: tuple[str, ...]
    #: When it fires next, should it not be paused.
    next_due_us: int | None


def seen_of(tenant_id: str, entry: Entry) -> Seen:
    """A schedule as it is now."""
    _, due_us = next_time(entry.schedule, entry.standing)
    return Seen(
        tenant_id=tenant_id,
        schedule=entry.schedule,
        standing=entry.standing,
        running=tuple(sorted(entry.running)),
        next_due_us=due_us or None,
    )


class ScheduleViews:
    """Shows what is committed. Raises SeatElsewhere and StoreUnavailable."""

    def __init__(
        self, floor: Floor, store: Store, firing: Firing, *, read: Callable[..., Awaitable[Any]]
    ) -> None:
        self._floor = floor
        self._store = store
        self._firing = firing
        self._read = read

    async def get(self, tenant_id: str, name: str) -> Seen:
        """One schedule. Raises NotFound, SeatElsewhere, StoreUnavailable."""
        seen = seen_of(tenant_id, self._firing.entry(tenant_id, name))
        await self._floor.flushed()
        return seen

    async def page(self, tenant_id: str, workflow: str, after: str, limit: int) -> list[Seen]:
        """Schedules by name from behind a name on; only those of a workflow, if it is named."""
        entries = self._firing.timetable(tenant_id).entries
        names = sorted(
            name
            for name, entry in entries.items()
            if name > after and workflow in ("", entry.schedule.workflow)
        )
        found = [seen_of(tenant_id, entries[name]) for name in names[:limit]]
        await self._floor.flushed()
        return found

    async def lines(
        self, tenant_id: str, name: str, before: int | None, limit: int
    ) -> list[FireLine]:
        """What became of the fires of a schedule, the newest first. Raises NotFound."""
        self._firing.entry(tenant_id, name)
        reads = ScheduleReads(self._store, tenant_id)
        found: list[FireLine] = await self._read(reads.lines, name, before, limit)
        return found

    async def upcoming(
        self, tenant_id: str, name: str, after_us: int | None, limit: int
    ) -> list[tuple[int, int]]:
        """When a schedule fires from behind a nominal time on: nominal and due times."""
        entry = self._firing.entry(tenant_id, name)
        schedule, standing = entry.schedule, entry.standing
        await self._floor.flushed()

        def work() -> list[tuple[int, int]]:
            times = schedule.times
            # Those that the remaining runs do not reach never come.
            coming = islice(times.from_on(standing.cursor_us), standing.remaining)
            if after_us is not None and standing.remaining is None:
                coming = islice(times.from_on(max(after_us, standing.cursor_us)), None)
            later = (one for one in coming if after_us is None or one > after_us)
            return [(one, times.due_us(name, one)) for one in islice(later, limit)]

        return await asyncio.to_thread(work)
