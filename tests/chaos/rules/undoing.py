"""Whether what had been done was undone when its run failed: all of it, once, the last first."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.history import Observations, Record, StoredEvent
from tests.chaos.rules.course import (
    ENDED,
    ON_FAILURE,
    UNDO,
    Course,
    courses,
    declared,
    is_beside,
)


def undone_in_reverse(_: Observations, record: Record) -> Iterator[str]:
    """What follows a failure is what is declared, in its order, one after the other."""
    for course in courses(record):
        plan: list[str] = []
        laid: list[str] = []
        for event in course.steps():
            if event.kind == "run.compensating":
                plan = _plan(course, laid)
                laid += plan
                if not plan:
                    yield f"run {course.run_id} undoes nothing"
            elif is_beside(event.task):
                if record.act_of(course.run_id, event) != "task.skip":
                    yield from _wrong(course, plan, event)
            elif event.kind == "run.failed" and (left := _left(course, laid)):
                yield f"run {course.run_id} failed without {left}"


def _plan(course: Course, laid: list[str]) -> list[str]:
    """What is to be done now. Whatever was laid down once is not done again."""
    plan: list[str] = []
    if not any(key.endswith(UNDO) for key in laid):
        plan += [f"{key}{UNDO}" for key in _to_undo(course)]
    if course.definition.on_failure is not None and ON_FAILURE not in laid:
        plan.append(ON_FAILURE)
    return plan


def _to_undo(course: Course) -> list[str]:
    """The tasks that can be undone and have succeeded, the last success first."""
    found = []
    for key, sequence in course.successes.items():
        task = declared(course.definition, key)
        if task is None or task.compensation is None:
            continue
        # Of a list the items are undone, each by itself.
        if task.for_each is None or task.key != key:
            found.append((sequence, key))
    return [key for _, key in sorted(found, reverse=True)]


def _wrong(course: Course, plan: list[str], event: StoredEvent) -> Iterator[str]:
    key = event.task
    if key not in plan:
        yield f"run {course.run_id}: {key} was not to be done"
        return
    before = [one for one in plan[: plan.index(key)] if course.of(one) not in ENDED]
    # When the run is cancelled or closed, all that is left ends at once.
    if before and event.kind != "task.cancelled":
        yield f"run {course.run_id}: {event.kind} of {key} before {before}"


def _left(course: Course, laid: list[str]) -> list[str]:
    left = [key for key in laid if course.of(key) not in ENDED]
    return left or _plan(course, laid)
