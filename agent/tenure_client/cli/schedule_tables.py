"""Schedules and their fires on the screen."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, TypeVar

import click

from tenure.v1 import schedules_pb2
from tenure_client import duration
from tenure_client.cli import output, plain

T = TypeVar("T")


class Whole(NamedTuple):
    """A schedule with some of what was and what is to come."""

    schedule: schedules_pb2.Schedule
    fires: list[schedules_pb2.ScheduleFire]
    upcoming: list[schedules_pb2.UpcomingFire]


async def some(found: AsyncGenerator[T, None], count: int) -> list[T]:
    """The first of what a list gives."""
    taken: list[T] = []
    async with aclosing(found):
        while len(taken) < count:
            try:
                taken.append(await anext(found))
            except StopAsyncIteration:
                break
    return taken


def show_all(found: Sequence[schedules_pb2.Schedule], *, json: bool) -> None:
    """Writes a list of schedules."""
    if json:
        output.document(list(found))
        return
    output.table(
        ("SCHEDULE", "STATE", "WORKFLOW", "TIMES", "NEXT", "STARTED#", "OTHER#", "OPEN#"),
        (
            (
                one.name,
                state_of(one),
                one.spec.start.workflow,
                times_line(one.spec.times),
                _time(one, "next_fire_time"),
                one.tally.started,
                one.tally.skipped + one.tally.missed + one.tally.refused,
                len(one.open_run_ids),
            )
            for one in found
        ),
        empty="no schedules",
    )


def show(schedule: schedules_pb2.Schedule, *, json: bool) -> None:
    """Writes a schedule."""
    if json:
        output.document(schedule)
        return
    start, tally = schedule.spec.start, schedule.tally
    version = f" version {start.workflow_version}" if start.workflow_version else ""
    remaining = schedule.spec.remaining_runs if schedule.spec.HasField("remaining_runs") else None
    backfills = [
        f"{plain.local_time(one.next_time)} until {plain.local_time(one.end_time)}"
        for one in schedule.backfills
    ]
    output.details(
        (
            ("schedule", schedule.name),
            ("state", state_of(schedule)),
            ("paused", _pause_line(schedule)),
            ("workflow", f"{start.workflow}{version}"),
            ("times", times_line(schedule.spec.times)),
            ("next", _time(schedule, "next_fire_time")),
            ("overlap", _word(schedules_pb2.OverlapPolicy.DESCRIPTOR, schedule.spec.overlap)),
            ("catch-up window", duration.short(duration.seconds_of(schedule.spec.catchup_window))),
            ("pause on failure", "yes" if schedule.spec.pause_on_failure else None),
            ("remaining runs", remaining),
            ("priority", start.priority or None),
            ("labels", output.words(start.labels)),
            ("acts for", schedule.acts_for),
            ("fires", _tally_line(tally)),
            ("open runs", ", ".join(schedule.open_run_ids)),
            ("waiting", len(schedule.waiting) or None),
            ("backfills", "; ".join(backfills)),
            ("notes", schedule.spec.notes),
        )
    )


def show_whole(whole: Whole, *, json: bool) -> None:
    """Writes a schedule with what became of its fires, and when the next ones come."""
    if json:
        output.document(
            {
                "schedule": whole.schedule,
                "fires": whole.fires,
                "upcoming": whole.upcoming,
            }
        )
        return
    show(whole.schedule, json=False)
    if whole.fires:
        click.echo()
        output.table(
            ("FIRE#", "TIME", "CAUSE", "OUTCOME", "RUN", "WHY"),
            (
                (
                    one.number,
                    plain.local_time(one.nominal_time),
                    _word(schedules_pb2.FireCause.DESCRIPTOR, one.cause),
                    plain.word(schedules_pb2.FireOutcome.DESCRIPTOR, one.outcome),
                    one.run_id or None,
                    one.message,
                )
                for one in whole.fires
            ),
            empty="",
        )
    if whole.upcoming:
        click.echo()
        output.table(
            ("UPCOMING", "DUE"),
            (
                (
                    plain.local_time(one.nominal_time),
                    plain.local_time(one.due_time, milliseconds=True),
                )
                for one in whole.upcoming
            ),
            empty="",
        )


def show_fire(fire: schedules_pb2.ScheduleFire, *, json: bool) -> None:
    """Writes what became of a fire."""
    if json:
        output.document(fire)
        return
    output.details(
        (
            ("outcome", plain.word(schedules_pb2.FireOutcome.DESCRIPTOR, fire.outcome)),
            ("run", fire.run_id),
            ("why", fire.message),
        )
    )


def show_backfill(answer: schedules_pb2.BackfillScheduleResponse, *, json: bool) -> None:
    """Writes what a backfill will do."""
    if json:
        output.document(answer)
        return
    times = "time" if answer.count == 1 else "times"
    output.details([("backfill", f"{answer.count} {times}"), ("schedule", answer.schedule.name)])


def show_deleted(name: str, *, json: bool) -> None:
    """Writes that a schedule is gone."""
    if json:
        output.document({"deleted": name})
    else:
        output.details([("deleted", name)])


def state_of(schedule: schedules_pb2.Schedule) -> str:
    """The word for whether a schedule fires."""
    return plain.word(schedules_pb2.ScheduleState.DESCRIPTOR, schedule.state)


def times_line(times: schedules_pb2.FireTimes) -> str:
    """When a schedule fires, on one line."""
    parts = [
        f"{one.expression} ({one.time_zone})" if one.time_zone else one.expression
        for one in times.crons
    ]
    parts += [f"every {duration.short(duration.seconds_of(one.every))}" for one in times.intervals]
    if times.fire_time:
        count = len(times.fire_time)
        parts.append(
            plain.local_time(times.fire_time[0]) if count == 1 else f"{count} single times"
        )
    if times.HasField("jitter"):
        parts.append(f"up to {duration.short(duration.seconds_of(times.jitter))} later")
    return ", ".join(parts)


def _tally_line(tally: schedules_pb2.ScheduleTally) -> str:
    counts = [(field.name, getattr(tally, field.name)) for field in tally.DESCRIPTOR.fields]
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts if count)


def _pause_line(schedule: schedules_pb2.Schedule) -> str:
    if not schedule.HasField("pause"):
        return ""
    pause = schedule.pause
    since = plain.local_time(pause.time)
    return f"since {since}: {pause.reason}" if pause.reason else f"since {since}"


def _time(schedule: schedules_pb2.Schedule, name: str) -> str | None:
    return plain.local_time(getattr(schedule, name)) if schedule.HasField(name) else None  # type: ignore[arg-type]


def _word(descriptor: object, number: int) -> str:
    return plain.word(descriptor, number).lower().replace("_", " ")
