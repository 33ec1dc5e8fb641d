"""Whether schedules fired each of their times once, and kept their overlap policies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import takewhile

from tests.chaos.history import Entry, Observations, Record, StoredSchedule
from tests.chaos.rules.course import RUN_ENDS

from tenure_server.core.scheduling.schedules import (
    LABEL_CAUSE,
    LABEL_SCHEDULE,
    LABEL_SCHEDULED_AT,
    MISSED_COUNT_MAX,
    Cause,
    FireLine,
    Outcome,
    Overlap,
)

#: How long a coordinator may be about to do what is due.
_MAY_TAKE_SECONDS = 2.0
Name = tuple[str, str]


def each_time_fires_once(_: Observations, record: Record) -> Iterator[str]:
    """Each time is decided once, none is left out, and a run is there for each that started one."""
    runs: dict[Name, Counter[str]] = defaultdict(Counter)
    for run_id, stored in record.runs.items():
        if LABEL_SCHEDULE in stored.labels and not stored.parent:
            runs[stored.tenant, stored.labels[LABEL_SCHEDULE]][run_id] += 1
    for name, schedule in record.schedules.items():
        for what in _of_lines(name, schedule, record):
            yield f"schedule {name}: {what}"
        started = Counter(
            line.run_id or "" for line in schedule.lines if line.outcome is Outcome.STARTED
        )
        for run_id in runs[name] | started:
            if runs[name][run_id] != 1 or started[run_id] != 1:
                yield f"schedule {name}: run {run_id} is in {started[run_id]} lines of its history"


def _of_lines(name: Name, schedule: StoredSchedule, record: Record) -> Iterator[str]:
    lines, waiting = schedule.lines, set()
    if [line.number for line in lines] != list(range(1, schedule.standing.number + 1)):
        yield f"{len(lines)} lines of {schedule.standing.number}"
    decided: Counter[int] = Counter()
    for line in lines:
        if line.cause is not Cause.TIME:
            continue
        if line.outcome is Outcome.WAITS:
            waiting.add(line.nominal_us)
        else:
            waiting.discard(line.nominal_us)
            for nominal_us in _times_of(schedule, line):
                decided[nominal_us] += 1
        if line.outcome is Outcome.STARTED and not _is_its_run(name, line, record):
            yield f"{_text(line.nominal_us)} has run {line.run_id}, which is another's"
    kept = {fire.nominal_us for fire in schedule.standing.waiting if fire.cause is Cause.TIME}
    if waiting != kept:
        yield f"{sorted(map(_text, waiting))} wait in its history, {sorted(map(_text, kept))} do"
    for nominal_us, times in decided.items():
        if times > 1 or nominal_us in waiting:
            yield f"{_text(nominal_us)} was decided {times}×"
    uncounted = list(_uncounted(schedule))
    for nominal_us in _expected(name, schedule, record):
        missed = any(begin <= nominal_us <= end for begin, end in uncounted)
        if nominal_us not in decided and nominal_us not in waiting and not missed:
            yield f"{_text(nominal_us)} was left out"


def _times_of(schedule: StoredSchedule, line: FireLine) -> Iterator[int]:
    yield line.nominal_us
    times = schedule.schedule.times.from_on(line.nominal_us)
    for _ in range(line.times - 1):
        yield next(times)


def _uncounted(schedule: StoredSchedule) -> Iterator[tuple[int, int]]:
    """From when to when more times were missed than anybody counts, as a clock that jumps does."""
    decided = [line.nominal_us for line in schedule.lines if line.cause is Cause.TIME]
    for line in schedule.lines:
        if line.times >= MISSED_COUNT_MAX:
            later = (at_us for at_us in decided if at_us > line.nominal_us)
            yield line.nominal_us, min(later, default=schedule.standing.cursor_us)


def _is_its_run(name: Name, line: FireLine, record: Record) -> bool:
    run = record.runs.get(line.run_id or "")
    if run is None or run.tenant != name[0]:
        return False
    wanted = {
        LABEL_SCHEDULE: name[1],
        LABEL_SCHEDULED_AT: _text(line.nominal_us),
        LABEL_CAUSE: line.cause.name.lower(),
    }
    return wanted.items() <= run.labels.items()


def _text(at_us: int) -> str:
    moment = datetime.fromtimestamp(at_us // 1_000_000, UTC).replace(microsecond=at_us % 1_000_000)
    return moment.isoformat().replace("+00:00", "Z")


def _expected(name: Name, schedule: StoredSchedule, record: Record) -> Iterator[int]:
    """The times up to where it stands, but those that passed while it was paused."""
    spans: list[list[float]] = []
    log = record.logs.get(name[0], ())
    for entry in log:
        if entry.subject.get("schedule") != name[1]:
            continue
        if entry.kind == "schedule.pause" and not (spans and spans[-1][1] == float("inf")):
            # What is still to be done when it is paused is done, or is not.
            spans.append([_stirred(entry, log), float("inf")])
        elif entry.kind == "schedule.resume" and spans:
            spans[-1][1] = min(spans[-1][1], entry.at)
    made = schedule.schedule.create_us
    until = schedule.standing.cursor_us
    times = schedule.schedule.times.from_on(made)
    for nominal_us in takewhile(lambda one: one <= until, times):
        at = nominal_us / 1e6
        if not any(begin <= at <= end for begin, end in spans):
            yield nominal_us


def _stirred(entry: Entry, log: Sequence[Entry]) -> float:
    """The last time before an act that somebody did anything: maybe nobody was there since."""
    return max((one.at for one in log if one.at < entry.at - _MAY_TAKE_SECONDS), default=0.0)


def overlaps_are_kept(_: Observations, record: Record) -> Iterator[str]:
    """By its own times a schedule starts no run while one is open, unless it allows all."""
    for tenant, log in record.logs.items():
        open_: dict[str, set[str]] = defaultdict(set)
        for entry in log:
            for item in entry.items:
                stored = record.runs.get(item.run_id)
                name = "" if stored is None else stored.labels.get(LABEL_SCHEDULE, "")
                if stored is None or not name or stored.parent or item.task:
                    continue
                schedule = record.schedules.get((tenant, name))
                if item.kind == "run.started" and schedule is not None:
                    alone = schedule.schedule.overlap is not Overlap.ALLOW_ALL
                    by_time = stored.labels[LABEL_CAUSE] == "time"
                    if by_time and alone and open_[name]:
                        yield f"schedule {name} of {tenant}: {item.run_id} beside {open_[name]}"
                if item.kind in ("run.started", "run.reopened"):
                    open_[name].add(item.run_id)
                elif item.kind in RUN_ENDS:
                    open_[name].discard(item.run_id)
