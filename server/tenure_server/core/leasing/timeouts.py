"""When tasks and runs have taken too long.

What counts is wall time, also while nothing is decided: every time that matters lies in the task's
row, so that a coordinator that takes the work over goes by the same. Only tasks that declare such a
time have a row before their first lease.

Of `TaskFacts.detail` these keys belong here, each a time in microseconds: ``queue_by``,
``total_by`` and ``attempts_by``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenure_server.core.leasing.alarms import ATTEMPTS, QUEUE, TOTAL, SetAlarm
from tenure_server.core.ledger.lifecycle import Failure

if TYPE_CHECKING:
    from tenure_server.core.definitions.declared import WorkflowTask
    from tenure_server.core.leasing.leases import Lease
    from tenure_server.core.runs.live import LiveRun
    from tenure_server.core.runs.tasks import TaskFacts

#: How much later than its agent the coordinator finds an attempt out of time, or silent.
GRACE_US = 1_000_000

_KEYS = {QUEUE: "queue_by", TOTAL: "total_by", ATTEMPTS: "attempts_by"}


def begin(task: WorkflowTask, facts: TaskFacts, now_us: int) -> bool:
    """The turn of a task has come: notes until when it may do what. False: it declares nothing."""
    if task.queue_timeout_us is None and task.total_timeout_us is None:
        return False
    if task.queue_timeout_us is not None:
        facts.keep(queue_by=now_us + task.queue_timeout_us)
    if task.total_timeout_us is not None:
        facts.keep(total_by=now_us + task.total_timeout_us)
    return True


def attempted(task: WorkflowTask, facts: TaskFacts, now_us: int) -> bool:
    """An attempt begins of a task that bounds all of them. False: not the first one."""
    if facts.detail is not None and "attempts_by" in facts.detail:
        return False
    assert task.retry.total_timeout_us is not None
    facts.keep(attempts_by=now_us + task.retry.total_timeout_us)
    return True


def set_alarms(run: LiveRun, index: int, facts: TaskFacts, alarm: SetAlarm) -> None:
    """Asks for attention at every time that is noted."""
    detail = facts.detail
    if detail is not None:
        for what, key in _KEYS.items():
            if key in detail:
                alarm(detail[key], what, run.run_id, index)


def attempts_by(facts: TaskFacts) -> int | None:
    """When no further attempt may begin any more, or None."""
    return None if facts.detail is None else facts.detail.get("attempts_by")


def failure(
    facts: TaskFacts, now_us: int, *, at_work: bool = False, paused: bool = False
) -> Failure | None:
    """Why a task must end now, whatever it does, or None. What is at work may end its attempt."""
    detail = facts.detail
    if detail is None:
        return None
    if now_us >= detail.get("total_by", now_us + 1):
        return Failure("TOTAL_TIMED_OUT", f"it took longer than total_timeout{_last(facts)}", True)
    if at_work:
        return None
    # Whoever pauses a run does not want its tasks to fail of it.
    unleased = facts.lease_us is None
    if unleased and not paused and now_us >= detail.get("queue_by", now_us + 1):
        return Failure("QUEUE_TIMED_OUT", "nobody leased it within queue_timeout", True)
    if now_us >= detail.get("attempts_by", now_us + 1):
        message = f"no further attempt may begin after retry.total_timeout{_last(facts)}"
        return Failure("RETRY_TIMED_OUT", message, True)
    return None


def requeue(task: WorkflowTask, facts: TaskFacts, now_us: int) -> bool:
    """A paused run goes on: its ready task may be ready for all of its time. False: no matter."""
    if facts.lease_us is not None or facts.detail is None or "queue_by" not in facts.detail:
        return False
    assert task.queue_timeout_us is not None
    facts.keep(queue_by=now_us + task.queue_timeout_us)
    return True


def moved(
    before: WorkflowTask, after: WorkflowTask, detail: dict[str, Any] | None, now_us: int
) -> dict[str, Any] | None:
    """What is kept of a task that has begun, once it is declared otherwise.

    Its times count from when they did; those that were not declared before, from now on.
    """
    kept = dict(detail or {})
    for key, span_us, was_us in (
        ("queue_by", after.queue_timeout_us, before.queue_timeout_us),
        ("total_by", after.total_timeout_us, before.total_timeout_us),
        ("attempts_by", after.retry.total_timeout_us, before.retry.total_timeout_us),
    ):
        if span_us is None:
            kept.pop(key, None)
        elif key in kept and was_us is not None:
            kept[key] += span_us - was_us
        elif key == "total_by":
            # The others begin with its turn, and with its next lease.
            kept[key] = now_us + span_us
    return kept or None


def is_over(detail: dict[str, Any] | None, now_us: int, *, at_work: bool) -> bool:
    """Whether a time that is kept of a task is up already."""
    keys = ("total_by",) if at_work else ("total_by", "attempts_by")
    return detail is not None and any(detail.get(key, now_us + 1) <= now_us for key in keys)


def _last(facts: TaskFacts) -> str:
    return (
        "" if facts.failure is None else f"; attempt {facts.attempt} failed: {facts.failure.code}"
    )


# -- attempts


def heard_by(lease: Lease) -> int:
    """When a silent attempt fails."""
    assert lease.task.heartbeat_timeout_us is not None
    return lease.heard_us + lease.task.heartbeat_timeout_us + GRACE_US


ATTEMPT_FAILURE = Failure("TIMED_OUT", "the attempt took longer than attempt_timeout")
SILENCE = Failure(
    "HEARTBEAT_TIMED_OUT", "its agent told of neither progress nor checkpoint in time"
)


# -- runs


def run_deadline_us(
    total_timeout_us: int | None, create_us: int, parent_us: int | None = None
) -> int | None:
    """Until when a run may take. It ends no later than the run that it was started for."""
    own_us = None if total_timeout_us is None else create_us + total_timeout_us
    if own_us is None or parent_us is None:
        return parent_us if own_us is None else own_us
    return min(own_us, parent_us)
