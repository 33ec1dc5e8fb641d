"""Reads the schedules of one tenant, inside `Store.reading`."""

from __future__ import annotations

from typing import Any

from peewee import Node

from tenure_server.core.scheduling.schedules import FireLine, Schedule, Standing
from tenure_server.store import schedule_rows, schedule_tables, statements
from tenure_server.store.database import Store

_SCHEDULE = schedule_tables.Schedule
_STANDING = schedule_tables.ScheduleStanding
_FIRE = schedule_tables.ScheduleFire
_slot = statements.slot
_NUMBER_MAX = (1 << 63) - 1

_SCHEDULES = _SCHEDULE.select(*schedule_rows.SCHEDULE).where(
    _SCHEDULE.tenant_id == _slot("tenant_id")
)
_STANDINGS = _STANDING.select(*schedule_rows.STANDING).where(
    _STANDING.tenant_id == _slot("tenant_id")
)
_FIRES = (
    _FIRE.select(*schedule_rows.FIRE)
    .where(
        _FIRE.tenant_id == _slot("tenant_id"),
        _FIRE.name == _slot("name"),
        _FIRE.number < _slot("before"),
    )
    .order_by(_FIRE.number.desc())
    .limit(_slot("limit"))
)


class ScheduleReads:
    """Reads what belongs to one tenant. Raises StoreFailed through `Store.reading`."""

    def __init__(self, store: Store, tenant_id: str) -> None:
        self._store = store
        self._tenant_id = tenant_id

    def schedules(self) -> list[tuple[Schedule, Standing]]:
        """Every schedule and how far it has come. Raises LookupError where a part is missing."""
        standings = dict(map(schedule_rows.standing, self._rows(_STANDINGS)))
        found = [schedule_rows.schedule(row) for row in self._rows(_SCHEDULES)]
        return [(schedule, standings[schedule.name]) for schedule in found]

    def lines(self, name: str, before: int | None, limit: int) -> list[FireLine]:
        """What became of the fires of a schedule, the newest first, from below a number on."""
        found = self._rows(
            _FIRES, name=name, before=_NUMBER_MAX if before is None else before, limit=limit
        )
        return [schedule_rows.fire(row) for row in found]

    def _rows(self, query: Node, **values: Any) -> list[tuple[Any, ...]]:
        return self._store.rows(query, {**values, "tenant_id": self._tenant_id}, needs="tenant_id")
