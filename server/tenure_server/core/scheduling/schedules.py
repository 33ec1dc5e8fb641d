"""Schedules: what each is, where it stands, and what is to be done next. Decisions are values.

    Schedule    what was asked for: what is started, when, and how fires that meet are dealt with
    Standing    how far it has come; kept, and written with every decision
    next_step   what is to be done at a time: start, skip, let wait, count as missed, or idle
    after       the standing once a step was done

A fire is one nominal time that the schedule, a person or a backfill asks a run for. Whatever
becomes of it is decided once: the step that decides moves the standing past it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from tenure_server.core.definitions.definition import Payload
from tenure_server.core.scheduling.fire_times import SECOND_US, FireTimes

#: Begins the labels by which a run tells where it comes from. Nobody else may give such labels.
RESERVED_LABELS = "tenure.schedule"
LABEL_SCHEDULE = "tenure.schedule"
LABEL_SCHEDULED_AT = "tenure.scheduled_at"
LABEL_CAUSE = "tenure.schedule_cause"

CATCHUP_US = 3600 * SECOND_US
#: The most fires that wait for the end of a run.
WAITING_MAX = 100
#: The most backfills of a schedule that are under way, and the most times in one.
BACKFILLS_MAX = 10
BACKFILL_TIMES_MAX = 10_000
#: So many missed fires are counted one by one; where there are more, the rest is passed over.
MISSED_COUNT_MAX = 1000


class Overlap(enum.IntEnum):
    """What becomes of a fire while a run of the schedule is open. Numbers as in the contract."""

    SKIP = 1
    BUFFER_ONE = 2
    BUFFER_ALL = 3
    CANCEL_RUNNING = 4
    ALLOW_ALL = 5


class Cause(enum.IntEnum):
    """Who asked for a fire. Numbers as in the contract."""

    TIME = 1
    TRIGGER = 2
    BACKFILL = 3


class Outcome(enum.IntEnum):
    """What became of a fire. Numbers as in the contract."""

    STARTED = 1
    WAITS = 2
    SKIPPED = 3
    MISSED = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Author:
    """On whose behalf runs are started: a key, and the roles that it had when it asked."""

    api_key_id: str
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What was asked for."""

    name: str
    workflow: str
    #: 0: the newest when it fires.
    version: int = 0
    input: Payload | None = None
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    times: FireTimes
    overlap: Overlap = Overlap.SKIP
    #: A fire that is later than that is missed.
    catchup_us: int = CATCHUP_US
    pause_on_failure: bool = False
    notes: str = ""
    #: Whoever made or changed it last: for him its runs are started.
    author: Author
    create_us: int
    created_by: str
    update_us: int


@dataclass(frozen=True, slots=True)
class Fire:
    """One time that a run is asked for."""

    nominal_us: int
    cause: Cause
    author: Author


@dataclass(frozen=True, slots=True)
class Backfill:
    """A period whose times are fired again or for the first time, in order."""

    #: Times up to here are done.
    cursor_us: int
    end_us: int
    overlap: Overlap
    author: Author


@dataclass(frozen=True, slots=True)
class Pause:
    """Why nothing fires. `by` is empty when the schedule paused itself after a failure."""

    at_us: int
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many fires came to which end."""

    started: int = 0
    skipped: int = 0
    missed: int = 0
    refused: int = 0
    failed_runs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a schedule has come."""

    #: What becomes of the nominal times up to here is decided.
    cursor_us: int
    #: Of the last line in its history.
    number: int = 0
    pause: Pause | None = None
    #: How many runs its times may still start. None: without limit.
    remaining: int | None = None
    waiting: tuple[Fire, ...] = ()
    backfills: tuple[Backfill, ...] = ()
    tally: Tally = Tally()


@dataclass(frozen=True, slots=True, kw_only=True)
class FireLine:
    """A line of a schedule's history: what became of a fire."""

    number: int
    nominal_us: int
    at_us: int
    cause: Cause
    outcome: Outcome
    #: So many fires, of which `nominal_us` is the first; more than one only where they were missed.
    times: int = 1
    run_id: str | None = None
    #: Why nothing was started: a reason of the contract where it was refused, and a sentence.
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleChange:
    """What one decision writes of a schedule."""

    tenant_id: str
    name: str
    #: None: what was asked for is as it was.
    schedule: Schedule | None = None
    #: None: the schedule is gone.
    standing: Standing | None
    lines: tuple[FireLine, ...] = ()


# -- steps


class Source(enum.Enum):
    """Where a fire was taken from, and so what moves once it is decided."""

    TIMES = "times"
    WAITING = "waiting"
    BACKFILL = "backfill"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Start:
    """Start a run, if nothing stands against it."""

    fire: Fire
    source: Source


@dataclass(frozen=True, slots=True)
class Skip:
    """Start nothing."""

    fire: Fire
    source: Source
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Let the fire wait until no run is open; some that waited before it give way."""

    fire: Fire
    source: Source
    #: Whether the open runs are cancelled for it.
    cancels: bool = False
    instead_of: tuple[Fire, ...] = ()


@dataclass(frozen=True, slots=True)
class Miss:
    """Count fires that nobody was there to do."""

    first_us: int
    last_us: int
    count: int
    #: Up to where nothing is looked at any more.
    cursor_us: int

    @property
    def reason(self) -> str:
        """In words."""
        more = " or more" if self.count >= MISSED_COUNT_MAX else ""
        noun = "fire time" if self.count == 1 else "fire times"
        return f"{self.count}{more} {noun} outside of the catch-up window"


@dataclass(frozen=True, slots=True)
class Finish:
    """The first backfill has no times left."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is to be done before a time, or before something happens."""

    until_us: int | None


Decision = Start | Skip | Wait
Step = Decision | Miss | Finish | Idle


def decide(
    overlap: Overlap, running: int, waiting: Sequence[Fire], fire: Fire, source: Source
) -> Decision:
    """What becomes of a fire while so many runs of the schedule are open."""
    if overlap is Overlap.ALLOW_ALL or not (running or waiting):
        return Start(fire, source)
    match overlap:
        case Overlap.BUFFER_ONE if not waiting:
            return Wait(fire, source)
        case Overlap.BUFFER_ALL if len(waiting) < WAITING_MAX:
            return Wait(fire, source)
        case Overlap.CANCEL_RUNNING:
            return Wait(fire, source, cancels=True, instead_of=tuple(waiting))
        case Overlap.SKIP:
            return Skip(fire, source, "a run of the schedule is open")
        case _:
            number = "one fire waits" if len(waiting) == 1 else f"{len(waiting)} fires wait"
            return Skip(fire, source, f"{number} already")


def next_step(schedule: Schedule, standing: Standing, running: int, now_us: int) -> Step:
    """What is to be done now, with so many runs of the schedule open."""
    if standing.pause is not None:
        return Idle(None)
    if standing.waiting and not running:
        fire = standing.waiting[0]
        if fire.cause is Cause.TIME and standing.remaining == 0:
            return Skip(fire, Source.WAITING, "no runs remain")
        return Start(fire, Source.WAITING)
    nominal_us, due_us = next_time(schedule, standing)
    if nominal_us is not None and due_us <= now_us:
        if due_us + schedule.catchup_us < now_us:
            return _missed(schedule, standing, nominal_us, now_us)
        fire = Fire(nominal_us, Cause.TIME, schedule.author)
        return decide(schedule.overlap, running, standing.waiting, fire, Source.TIMES)
    if (step := _backfilling(schedule, standing, running)) is not None:
        return step
    return Idle(None if nominal_us is None else due_us)


def next_time(schedule: Schedule, standing: Standing) -> tuple[int | None, int]:
    """The next nominal time and when it is due; None and 0 where there is none."""
    if standing.remaining == 0:
        return None, 0
    nominal_us = schedule.times.after(standing.cursor_us)
    if nominal_us is None:
        return None, 0
    return nominal_us, schedule.times.due_us(schedule.name, nominal_us)


def _missed(schedule: Schedule, standing: Standing, first_us: int, now_us: int) -> Miss:
    times = schedule.times
    late_us = now_us - schedule.catchup_us
    last_us, count = first_us, 0
    for nominal_us in islice(times.from_on(standing.cursor_us), MISSED_COUNT_MAX):
        if times.due_us(schedule.name, nominal_us) >= late_us:
            return Miss(first_us, last_us, count, last_us)
        last_us, count = nominal_us, count + 1
    # None of these is due later than its jitter, so they are too late as well.
    return Miss(first_us, last_us, count, max(last_us, late_us - times.jitter_us - 1))


def _backfilling(schedule: Schedule, standing: Standing, running: int) -> Decision | Finish | None:
    if not standing.backfills:
        return None
    backfill = standing.backfills[0]
    nominal_us = schedule.times.after(backfill.cursor_us)
    if nominal_us is None or nominal_us >= backfill.end_us:
        return Finish()
    if backfill.overlap is Overlap.BUFFER_ALL and (running or standing.waiting):
        # Its times wait where they are: there is no need to write them down one by one.
        return None
    fire = Fire(nominal_us, Cause.BACKFILL, backfill.author)
    return decide(backfill.overlap, running, standing.waiting, fire, Source.BACKFILL)


# -- what follows


def after(standing: Standing, step: Decision | Miss | Finish) -> Standing:
    """The standing once a step was done."""
    tally = standing.tally
    match step:
        case Finish():
            return replace(standing, backfills=standing.backfills[1:])
        case Miss():
            tally = replace(tally, missed=tally.missed + step.count)
            return replace(standing, cursor_us=step.cursor_us, tally=tally, number=_lines(standing))
        case Start():
            remaining = standing.remaining
            if remaining is not None and step.fire.cause is Cause.TIME:
                remaining = max(0, remaining - 1)
            tally = replace(tally, started=tally.started + 1)
            moved = _past(standing, step)
            return replace(moved, tally=tally, remaining=remaining, number=_lines(standing))
        case Skip():
            tally = replace(tally, skipped=tally.skipped + 1)
            return replace(_past(standing, step), tally=tally, number=_lines(standing))
        case Wait():
            kept = tuple(one for one in standing.waiting if one not in step.instead_of)
            tally = replace(tally, skipped=tally.skipped + len(step.instead_of))
            return replace(
                _past(standing, step),
                waiting=(*kept, step.fire),
                tally=tally,
                number=_lines(standing, 1 + len(step.instead_of)),
            )


def refused(standing: Standing, step: Start) -> Standing:
    """The standing once a start was refused: the fire is done with all the same."""
    tally = replace(standing.tally, refused=standing.tally.refused + 1)
    return replace(_past(standing, step), tally=tally, number=_lines(standing))


def failed(standing: Standing) -> Standing:
    """The standing once a run of the schedule has failed."""
    tally = replace(standing.tally, failed_runs=standing.tally.failed_runs + 1)
    return replace(standing, tally=tally)


def resumed(standing: Standing, now_us: int) -> Standing:
    """The standing when it goes on: what it would have fired meanwhile, it does not."""
    return replace(standing, pause=None, cursor_us=max(standing.cursor_us, now_us))


def _past(standing: Standing, step: Decision) -> Standing:
    match step.source:
        case Source.TIMES:
            return replace(standing, cursor_us=step.fire.nominal_us)
        case Source.WAITING:
            return replace(standing, waiting=standing.waiting[1:])
        case Source.BACKFILL:
            first, *rest = standing.backfills
            moved = replace(first, cursor_us=step.fire.nominal_us)
            return replace(standing, backfills=(moved, *rest))
        case Source.CALL:
            return standing


def _lines(standing: Standing, more: int = 1) -> int:
    return standing.number + more
