"""Whether runs went in the order that their graphs, trigger rules and states allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.history import Granted, Observations, Record, Settled, StoredEvent
from tests.chaos.rules.course import (
    ENDED,
    RUN_ENDS,
    Course,
    courses,
    declared,
    is_beside,
    list_of,
    stands,
)

from tenure_server.core.definitions.features import Strategy, TriggerRule

#: What happens to a task only when its turn has come.
_OWN = {"task.leased", "task.activated", "task.succeeded", "task.failed"}
#: What the event says of a task that its key's strategy cancels.
_CANCELLED_ALONE = {
    "a newer task of its key takes its place": Strategy.CANCEL_RUNNING,
    "tasks of its key were leased": Strategy.CANCEL_NEWEST,
}
#: How a run can fail though none of its tasks has.
_FAILED_ITSELF = ("it took longer than it may", "the run's output", "the outputs of its last tasks")


def graphs_are_followed(observations: Observations, record: Record) -> Iterator[str]:
    """Nothing begins before its turn, what is ruled out never does, and a run ends last."""
    for course in courses(record):
        judge = _Judge(course, record)
        for place, event in enumerate(course.steps(), start=1):
            if event.sequence != place:
                yield f"run {course.run_id} has event {event.sequence} in place of {place}"
                break
            for what in judge.of(event):
                yield f"run {course.run_id}, event {place}: {what}"
    yield from _order_as_seen(observations, record)


@dataclass(slots=True)
class _Judge:
    """Of one run."""

    course: Course
    record: Record
    #: The term of each task's last lease, and of the one before it was opened again.
    terms: dict[str, int] = field(default_factory=dict)
    leased: dict[str, int] = field(default_factory=dict)

    def of(self, event: StoredEvent) -> Iterator[str]:
        """What is wrong with an event, where the course stands before it."""
        course = self.course
        if course.state in RUN_ENDS.values() and event.kind != "run.reopened":
            yield f"{event.kind} after the end as {course.state}"
        if event.kind in RUN_ENDS:
            yield from self._of_end(event)
        if not event.task:
            return
        if course.of(event.task) in ENDED and event.kind != "task.reopened":
            yield f"{event.kind} of {event.task} after it had ended"
        elif event.kind == "task.leased":
            yield from self._of_lease(event)
        elif event.kind == "task.reopened":
            self.leased.pop(event.task, None)
        elif event.kind == "task.succeeded" and event.term != self.leased.get(
            event.task, event.term
        ):
            yield f"{event.task} succeeded under term {event.term}, not {self.leased[event.task]}"
        yield from self._of_turn(event)

    def _of_lease(self, event: StoredEvent) -> Iterator[str]:
        state, key = self.course.state, event.task
        if state != ("COMPENSATING" if is_beside(key) else "RUNNING"):
            yield f"{key} began while the run was {state}"
        if event.term <= self.terms.get(key, 0):
            yield f"the term of {key} did not grow: {event.term}"
        self.terms[key] = self.leased[key] = event.term

    def _of_turn(self, event: StoredEvent) -> Iterator[str]:
        """Of a task that nothing had happened to, whether its turn had come or was ruled out."""
        course, key = self.course, event.task
        if course.of(key) != "WAITING" or is_beside(key):
            return
        if of := list_of(key):
            if event.kind in _OWN and course.of(of) != "ACTIVE":
                yield f"{key} began while {of} was {course.of(of)}"
            return
        task = course.tasks.get(key)
        if task is None:
            yield f"{key} is no task of {course.definition.name}"
            return
        upstream = [course.of(up) for up in task.depends_on]
        turn = stands(task.trigger, upstream)
        before = dict(zip(task.depends_on, upstream, strict=True))
        if event.kind in _OWN and turn != "come":
            yield f"{event.kind} of {key} after {before}"
        elif event.kind == "task.upstream_failed" and turn != "doom":
            yield f"{key} was given up after {before}"
        elif event.kind == "task.skipped":
            by_hand = self.record.act_of(course.run_id, event) == "task.skip"
            by_condition = turn == "come" and task.when
            if not (by_hand or by_condition or turn == "skip"):
                yield f"{key} was skipped after {before}"
        elif event.kind == "task.cancelled" and not self._is_cancelled_rightly(event):
            yield f"{key} was cancelled, and its run was not: {event.message}"

    def _is_cancelled_rightly(self, event: StoredEvent) -> bool:
        course = self.course
        for said, strategy in _CANCELLED_ALONE.items():
            if said in event.message:
                limit = course.tasks[event.task].concurrency
                return limit is not None and limit.strategy is strategy
        after = course.events[event.sequence :]
        return course.state == "CANCELLING" or any(
            one.entry == event.entry and (one.kind in RUN_ENDS or one.kind in _ENDING)
            for one in after
        )

    def _of_end(self, event: StoredEvent) -> Iterator[str]:
        course = self.course
        open_ = [key for key in {**course.tasks, **course.states} if course.of(key) not in ENDED]
        if open_:
            yield f"{event.kind} without {sorted(open_)}"
        if event.kind == "run.succeeded" and course.has_failed:
            yield "succeeded though tasks had failed"
        told = course.has_failed or event.message.startswith(_FAILED_ITSELF)
        if event.kind == "run.failed" and not told:
            yield f"failed though no task had: {event.message}"


_ENDING = {"run.cancelling", "run.compensating"}


def _order_as_seen(observations: Observations, record: Record) -> Iterator[str]:
    """By what agents saw. Who did it may be one that nobody looked over the shoulder of."""
    sent: dict[tuple[str, str], float] = {}
    applied = set()
    for seen in observations:
        if isinstance(seen, Settled) and seen.end == "success":
            name = seen.lease[:2]
            sent[name] = min(sent.get(name, seen.sent), seen.sent)
            if seen.verdict == "APPLIED":
                applied.add(name)
    again = {
        run_id
        for run_id, events in record.events.items()
        if any(event.kind == "run.reopened" for event in events)
    }
    for seen in observations:
        if not isinstance(seen, Granted) or seen.lease[0] in again:
            continue
        run_id, key, _ = seen.lease
        definition = record.definition_of(run_id)
        task = None if definition is None else declared(definition, key)
        if task is None or task.trigger is not TriggerRule.ALL_SUCCEEDED:
            continue
        for upstream in task.depends_on:
            if (run_id, upstream) in applied and sent[run_id, upstream] > seen.received:
                yield f"run {run_id}: {key} was handed out before {upstream} was reported"
