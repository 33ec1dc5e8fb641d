"""Writes what was decided of schedules, inside the transaction of the runs that they start."""

from __future__ import annotations

from typing import Any

from peewee import EXCLUDED

from tenure_server.core.ledger.journal import Changes
from tenure_server.core.scheduling.schedules import Schedule, Standing
from tenure_server.store import schedule_rows, schedule_tables
from tenure_server.store.backend import Database
from tenure_server.store.errors import StoreConflict

#: So many lines of a schedule's history are kept; its evidence stays.
LINES_KEPT = 1000
#: The most rows in one statement.
ROWS_MAX = 500

_SCHEDULE = schedule_tables.Schedule
_STANDING = schedule_tables.ScheduleStanding
_FIRE = schedule_tables.ScheduleFire


def write_schedules(database: Database, changes: Changes) -> None:
    """Writes the last word on each schedule, and every line of history.

    Raises StoreConflict when another coordinator has written under a later term.
    """
    schedules: dict[tuple[str, str], Schedule] = {}
    standings: dict[tuple[str, str], Standing] = {}
    gone: set[tuple[str, str]] = set()
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for change in changes.schedules:
        key = change.tenant_id, change.name
        if change.standing is None:
            schedules.pop(key, None)
            standings.pop(key, None)
            lines.pop(key, None)
            gone.add(key)
            continue
        standings[key] = change.standing
        if change.schedule is not None:
            schedules[key] = change.schedule
        rows = [schedule_rows.fire_row(*key, line) for line in change.lines]
        lines.setdefault(key, []).extend(rows)
    for key in gone:
        _forget(database, *key)
    for (tenant_id, _), schedule in schedules.items():
        _write_schedule(database, tenant_id, schedule)
    for (tenant_id, name), standing in standings.items():
        _write_standing(database, tenant_id, name, changes.seats[tenant_id], standing)
    for (tenant_id, name), written in lines.items():
        for start in range(0, len(written), ROWS_MAX):
            database.execute(_FIRE.insert_many(written[start : start + ROWS_MAX]))
        if written:
            _forget_lines(database, tenant_id, name, written[-1]["number"] - LINES_KEPT)


def _write_schedule(database: Database, tenant_id: str, schedule: Schedule) -> None:
    row = schedule_rows.schedule_row(tenant_id, schedule)
    changing = [
        getattr(_SCHEDULE, column)
        for column in row
        if column not in ("tenant_id", "name", "create_us", "created_by")
    ]
    key = [_SCHEDULE.tenant_id, _SCHEDULE.name]
    insert = _SCHEDULE.insert(row)
    database.execute(insert.on_conflict(conflict_target=key, preserve=changing))


def _write_standing(
    database: Database, tenant_id: str, name: str, term: int, standing: Standing
) -> None:
    row = schedule_rows.standing_row(tenant_id, name, term, standing)
    upsert = _STANDING.insert(row).on_conflict(
        conflict_target=[_STANDING.tenant_id, _STANDING.name],
        preserve=[_STANDING.term, _STANDING.standing],
        where=_STANDING.term <= EXCLUDED.term,
    )
    if database.rows_affected(database.execute(upsert)) != 1:
        raise StoreConflict(f"schedule {name} was written under a later term")


def _forget(database: Database, tenant_id: str, name: str) -> None:
    for table in (_FIRE, _STANDING, _SCHEDULE):
        same = (table.tenant_id == tenant_id) & (table.name == name)
        database.execute(table.delete().where(same))


def _forget_lines(database: Database, tenant_id: str, name: str, until: int) -> None:
    if until > 0:
        old = (_FIRE.tenant_id == tenant_id) & (_FIRE.name == name) & (_FIRE.number <= until)
        database.execute(_FIRE.delete().where(old))
