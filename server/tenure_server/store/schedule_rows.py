"""Schedules to rows and back.

What is kept as JSON has the members of the core's values; times are microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tenure_server.core.scheduling.fire_times import FireTimes, Interval
from tenure_server.core.scheduling.schedules import (
    Author,
    Backfill,
    Cause,
    Fire,
    FireLine,
    Outcome,
    Overlap,
    Pause,
    Schedule,
    Standing,
    Tally,
)
from tenure_server.core.scheduling.wall_clock import Cron
from tenure_server.store import rows, schedule_tables

Row = Sequence[Any]

SCHEDULE = tuple(
    getattr(schedule_tables.Schedule, name)
    for name in ("name", "content", "input", "input_type", "create_us", "created_by", "update_us")
)
STANDING = (schedule_tables.ScheduleStanding.name, schedule_tables.ScheduleStanding.standing)
FIRE = tuple(
    getattr(schedule_tables.ScheduleFire, name)
    for name in (
        "number",
        "nominal_us",
        "at_us",
        "cause",
        "outcome",
        "times",
        "run_id",
        "code",
        "message",
    )
)


def schedule_row(tenant_id: str, value: Schedule) -> dict[str, Any]:
    """A schedule as a row."""
    return {
        "tenant_id": tenant_id,
        "name": value.name,
        "workflow": value.workflow,
        "content": content_of(value),
        "input": None if value.input is None else value.input.data,
        "input_type": None if value.input is None else value.input.content_type,
        "create_us": value.create_us,
        "created_by": value.created_by,
        "update_us": value.update_us,
    }


def content_of(value: Schedule) -> bytes:
    """What was asked for but the input, in one spelling."""
    times = value.times
    content = {
        "workflow": value.workflow,
        "version": value.version,
        "labels": value.labels,
        "priority": value.priority,
        "crons": [[one.expression, one.zone] for one in times.crons],
        "intervals": [[one.every_us, one.anchor_us] for one in times.intervals],
        "times": times.times_us,
        "start": times.start_us,
        "end": times.end_us,
        "jitter": times.jitter_us,
        "overlap": int(value.overlap),
        "catchup": value.catchup_us,
        "pause_on_failure": value.pause_on_failure,
        "notes": value.notes,
        "author": _author_json(value.author),
    }
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def schedule(row: Row) -> Schedule:
    """A schedule from the columns `SCHEDULE`."""
    name, content, data, content_type, create_us, created_by, update_us = row
    said = orjson.loads(bytes(content))
    times = FireTimes(
        crons=tuple(Cron(*one) for one in said["crons"]),
        intervals=tuple(Interval(*one) for one in said["intervals"]),
        times_us=tuple(said["times"]),
        start_us=said["start"],
        end_us=said["end"],
        jitter_us=said["jitter"],
    )
    return Schedule(
        name=name,
        workflow=said["workflow"],
        version=said["version"],
        input=rows.payload(data, content_type),
        labels=said["labels"],
        priority=said["priority"],
        times=times,
        overlap=Overlap(said["overlap"]),
        catchup_us=said["catchup"],
        pause_on_failure=said["pause_on_failure"],
        notes=said["notes"],
        author=_author(said["author"]),
        create_us=create_us,
        created_by=created_by,
        update_us=update_us,
    )


def standing_row(tenant_id: str, name: str, term: int, value: Standing) -> dict[str, Any]:
    """A standing as a row."""
    pause, tally = value.pause, value.tally
    content = {
        "cursor": value.cursor_us,
        "number": value.number,
        "pause": None if pause is None else [pause.at_us, pause.by, pause.reason],
        "remaining": value.remaining,
        "waiting": [
            [one.nominal_us, int(one.cause), _author_json(one.author)] for one in value.waiting
        ],
        "backfills": [
            [one.cursor_us, one.end_us, int(one.overlap), _author_json(one.author)]
            for one in value.backfills
        ],
        "tally": [
            tally.started,
            tally.skipped,
            tally.missed,
            tally.refused,
            tally.failed_runs,
        ],
    }
    return {
        "tenant_id": tenant_id,
        "name": name,
        "term": term,
        "standing": orjson.dumps(content, option=orjson.OPT_SORT_KEYS),
    }


def standing(row: Row) -> tuple[str, Standing]:
    """Whose standing, and the standing, from the columns `STANDING`."""
    said = orjson.loads(bytes(row[1]))
    started, skipped, missed, refused, failed_runs = said["tally"]
    return row[0], Standing(
        cursor_us=said["cursor"],
        number=said["number"],
        pause=None if said["pause"] is None else Pause(*said["pause"]),
        remaining=said["remaining"],
        waiting=tuple(
            Fire(nominal_us, Cause(cause), _author(author))
            for nominal_us, cause, author in said["waiting"]
        ),
        backfills=tuple(
            Backfill(cursor_us, end_us, Overlap(overlap), _author(author))
            for cursor_us, end_us, overlap, author in said["backfills"]
        ),
        tally=Tally(
            started=started,
            skipped=skipped,
            missed=missed,
            refused=refused,
            failed_runs=failed_runs,
        ),
    )


def fire_row(tenant_id: str, name: str, value: FireLine) -> dict[str, Any]:
    """A line of history as a row."""
    return {
        "tenant_id": tenant_id,
        "name": name,
        "number": value.number,
        "nominal_us": value.nominal_us,
        "at_us": value.at_us,
        "cause": int(value.cause),
        "outcome": int(value.outcome),
        "times": value.times,
        "run_id": value.run_id,
        "code": value.code,
        "message": value.message,
    }


def fire(row: Row) -> FireLine:
    """A line of history from the columns `FIRE`."""
    return FireLine(
        number=row[0],
        nominal_us=row[1],
        at_us=row[2],
        cause=Cause(row[3]),
        outcome=Outcome(row[4]),
        times=row[5],
        run_id=row[6],
        code=row[7],
        message=row[8],
    )


def _author_json(value: Author) -> list[Any]:
    return [value.api_key_id, value.roles]


def _author(said: Sequence[Any]) -> Author:
    return Author(said[0], tuple(said[1]))
