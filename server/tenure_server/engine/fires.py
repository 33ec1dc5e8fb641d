"""What is written down of the fires of a schedule: lines of its history, evidence, labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records
from tenure_server.core.scheduling import schedules
from tenure_server.core.scheduling.schedules import (
    Author,
    Cause,
    Fire,
    FireLine,
    Miss,
    Outcome,
    Schedule,
    Skip,
    Wait,
)
from tenure_server.core.scheduling.timetable import Entry
from tenure_server.engine.chance import draw

#: The most characters that the history keeps of a reason.
MESSAGE_MAX = 1000


def line_of(
    entry: Entry,
    fire: Fire,
    outcome: Outcome,
    now_us: int,
    *,
    run_id: str | None = None,
    code: str = "",
    message: str = "",
) -> FireLine:
    """The next line of a schedule's history."""
    return FireLine(
        number=entry.standing.number + 1,
        nominal_us=fire.nominal_us,
        at_us=now_us,
        cause=fire.cause,
        outcome=outcome,
        run_id=run_id,
        code=code,
        message=message[:MESSAGE_MAX],
    )


def lines_of(entry: Entry, step: Skip | Wait | Miss, now_us: int) -> Iterator[FireLine]:
    """The next lines of a schedule of which nothing is started now; of the fire itself last."""
    match step:
        case Skip():
            yield line_of(entry, step.fire, Outcome.SKIPPED, now_us, message=step.reason)
        case Wait():
            for number, fire in enumerate(step.instead_of):
                reason = "a later fire waits instead"
                line = line_of(entry, fire, Outcome.SKIPPED, now_us, message=reason)
                yield replace(line, number=line.number + number)
            line = line_of(entry, step.fire, Outcome.WAITS, now_us)
            yield replace(line, number=line.number + len(step.instead_of))
        case Miss():
            fire = Fire(step.first_us, Cause.TIME, entry.schedule.author)
            line = line_of(entry, fire, Outcome.MISSED, now_us, message=step.reason)
            yield replace(line, times=step.count)


def act_for(author: Author) -> Act:
    """The act of a fire, done for whoever asked for it."""
    return Act(
        kind="schedule.fire",
        principal=author.api_key_id,
        roles=author.roles,
        correlation_id=draw(16).hex(),
    )


def subject_of(schedule: Schedule, line: FireLine) -> dict[str, str]:
    """What the evidence says of a fire."""
    subject = {
        "schedule": schedule.name,
        "workflow": schedule.workflow,
        "scheduled_at": time_text(line.nominal_us),
        "cause": line.cause.name.lower(),
        "outcome": line.outcome.name.lower(),
    }
    if line.run_id is not None:
        subject["run"] = line.run_id
    if line.times > 1:
        subject["count"] = str(line.times)
    return subject


def start_of(schedule: Schedule, fire: Fire) -> records.StartRun:
    """The start of the run that a fire wants."""
    return records.StartRun(
        workflow=schedule.workflow,
        version=schedule.version,
        input=schedule.input,
        priority=schedule.priority,
        labels={
            **schedule.labels,
            schedules.LABEL_SCHEDULE: schedule.name,
            schedules.LABEL_SCHEDULED_AT: time_text(fire.nominal_us),
            schedules.LABEL_CAUSE: fire.cause.name.lower(),
        },
    )


def time_text(at_us: int) -> str:
    """A time as labels and evidence have it, such as ``2026-07-14T02:30:00Z``."""
    moment = datetime.fromtimestamp(at_us // 1_000_000, UTC).replace(microsecond=at_us % 1_000_000)
    return moment.isoformat().replace("+00:00", "Z")
