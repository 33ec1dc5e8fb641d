"""Whether what tasks wait for came to them once, in order: signals, events, consent, time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeVar

from tests.chaos import clocks
from tests.chaos.history import DONE, Asked, Happening, Observations, Record
from tests.chaos.rules.course import Course, courses, declared
from tests.chaos.rules.spans import CLOCK_SECONDS

from tenure_server.core.definitions.features import Approval, EventWait, SignalWait, Timer, Wait

W = TypeVar("W", bound=Wait)
#: Where something was taken: run, task, number of the event.
_Place = tuple[str, str, int]


def _taken(record: Record, kind: type[Wait]) -> Mapping[str, list[tuple[_Place, int]]]:
    """Where tasks took what they waited for, by its digest, and by which entry of the log."""
    found: dict[str, list[tuple[_Place, int]]] = defaultdict(list)
    for log in record.logs.values():
        for entry in log:
            for item in entry.items:
                if item.kind != "task.succeeded" or not item.output:
                    continue
                if entry.kind == "task.settle" or _wait_of(record, item, kind) is None:
                    continue
                place = (item.run_id, item.task, item.sequence)
                found[item.output].append((place, entry.index))
    return found


def _wait_of(record: Record, item: Happening, kind: type[W]) -> W | None:
    definition = record.definition_of(item.run_id)
    task = None if definition is None else declared(definition, item.task)
    return task.wait if task is not None and isinstance(task.wait, kind) else None


def signals_come_once(observations: Observations, record: Record) -> Iterator[str]:
    """Each signal that was acknowledged was taken by one task or is kept; in their order."""
    taken = _taken(record, SignalWait)
    last: dict[tuple[str, str], tuple[float, float, str]] = {}
    asked = [one for one in observations if isinstance(one, Asked) and one.verb == "run.signal"]
    for one in sorted(asked, key=lambda one: one.began):
        stored = record.runs.get(one.run_id)
        if stored is None:
            continue
        places = [place for place, _ in taken.get(one.content, ()) if place[0] == one.run_id]
        elsewhere = len(taken.get(one.content, ())) - len(places)
        kept = list(stored.signals.get(one.name, ())).count(one.content)
        if len(places) + kept > 1 or elsewhere:
            yield f"signal {one.name} to {one.run_id} came {len(places)}×, and is kept {kept}×"
        if one.outcome != DONE:
            continue
        if not places and not kept:
            yield f"signal {one.name} to {one.run_id} was acknowledged and is lost"
            continue
        # The next one that is asked for after it was acknowledged cannot be taken before it.
        number = places[0][2] if places else float("inf")
        ended, before, name = last.get((one.run_id, one.name), (0.0, 0.0, ""))
        if name and ended < one.began and number < before:
            yield f"signal {one.name} to {one.run_id} was taken before an earlier one"
        if number >= before:
            last[one.run_id, one.name] = (one.ended, number, one.name)


def events_come_once(observations: Observations, record: Record) -> Iterator[str]:
    """Each event that was acknowledged did what was said, in one act; none did so in two."""
    taken = _taken(record, EventWait)
    started = Counter(
        stored.input.get("event")
        for stored in record.runs.values()
        if isinstance(stored.input, dict) and not stored.parent
    )
    for one in observations:
        if not isinstance(one, Asked) or one.verb != "event.publish":
            continue
        found = taken.get(one.content, [])
        acts = {index for _, index in found}
        if len(acts) > 1 or len({place[:2] for place, _ in found}) != len(found):
            yield f"event {one.name} {one.content} was taken by {sorted(acts)}"
        if one.outcome == DONE and len(found) != one.served:
            yield f"event {one.name} was said to be taken {one.served}×, and was {len(found)}×"
        runs = started.get(one.token, 0)
        if one.outcome == DONE and runs != len(one.started):
            yield f"event {one.name} was said to start {len(one.started)} runs, and did {runs}"
        for run_id in one.started:
            if run_id not in record.runs:
                yield f"event {one.name} was said to start run {run_id}, which is not there"


def consent_counts_once(_: Observations, record: Record) -> Iterator[str]:
    """Who has decided does not again, and a task ends with as many consents as it asks for."""
    for course in courses(record):
        asking = {
            task.key: task.wait
            for task in course.definition.tasks
            if isinstance(task.wait, Approval)
        }
        said: dict[str, list[str]] = {}
        for event in course.steps():
            if event.task not in asking:
                continue
            by_hand = record.act_of(course.run_id, event) == "task.settle"
            decided = said.setdefault(event.task, [])
            if event.kind == "task.activated":
                decided.clear()
            elif event.kind == "task.decided":
                who = event.message.split()[0]
                if any(one.split()[0] == who for one in decided):
                    yield f"run {course.run_id}: {who} decided {event.task} twice"
                decided.append(event.message)
            elif event.kind == "task.succeeded" and not by_hand:
                consents = sum(" consents" in one for one in decided)
                if consents != asking[event.task].quorum or len(decided) != consents:
                    yield f"run {course.run_id}: {event.task} succeeded after {decided}"


def nothing_comes_early(_: Observations, record: Record) -> Iterator[str]:
    """Timers, timeouts and waits that were in vain: not before their time."""
    for course in courses(record):
        begun: dict[str, float] = {}
        for event in course.steps():
            if event.kind in ("task.leased", "task.activated"):
                begun[event.task] = event.at
            span = _least_seconds(course, event.task, event.kind, event.code)
            if span is None or record.act_of(course.run_id, event) == "task.settle":
                continue
            # By a clock that may have been set meanwhile: one that was set forward ends waits too.
            evenly = clocks.nearest(event.at, begun[event.task])
            took = max(event.at, evenly) - begun[event.task]
            if took < span - CLOCK_SECONDS:
                yield f"run {course.run_id}: {event.kind} of {event.task} after {took:.3f} s"


def _least_seconds(course: Course, key: str, kind: str, code: str) -> float | None:
    """How long a task must have been at it for such an end. None: any time."""
    task = declared(course.definition, key)
    if task is None or kind not in ("task.succeeded", "task.failed", "task.retrying"):
        return None
    span_us = None
    if kind == "task.succeeded":
        span_us = task.wait.delay_us if isinstance(task.wait, Timer) else None
    elif code == "TIMED_OUT":
        span_us = task.attempt_timeout_us
    elif code == "HEARTBEAT_TIMED_OUT":
        span_us = task.heartbeat_timeout_us
    elif code in ("WAIT_TIMED_OUT", "APPROVAL_EXPIRED"):
        assert isinstance(task.wait, (SignalWait, EventWait, Approval))
        span_us = task.wait.timeout_us
    return None if span_us is None else span_us / 1e6
