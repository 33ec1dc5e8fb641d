"""The states of tasks and runs, their transitions, and what becomes of a failed attempt.

A task::

    WAITING ──ready──▶ READY ──lease──▶ LEASED ──succeed──▶ SUCCEEDED
                                        LEASED ──fail──▶ FAILED
                                        LEASED ──retry──▶ RETRYING ──due──▶ READY
                       READY ◀──return──LEASED
    WAITING ──doom──▶ UPSTREAM_FAILED

    READY ──succeed──▶ SUCCEEDED    a late result still counts while its term is the last;
    READY ──retry──▶ RETRYING       or what goes with the lease has become too large
    READY ──fail──▶ FAILED

    WAITING ──cancel──▶ CANCELLED ◀──cancel──READY
    RETRYING ──cancel──▶ CANCELLED ◀──cancel──LEASED

What no agent executes is active meanwhile, and what a condition rules out is skipped::

    WAITING ──activate──▶ ACTIVE ──succeed──▶ SUCCEEDED
                          ACTIVE ──fail──▶ FAILED
                          ACTIVE ──retry──▶ RETRYING ──due──▶ ACTIVE
                          ACTIVE ──cancel──▶ CANCELLED
                          ACTIVE ──skip──▶ SKIPPED
    WAITING ──skip──▶ SKIPPED ◀──skip──READY
    WAITING ──fail──▶ FAILED        its condition cannot be told
                    RETRYING ──skip──▶ SKIPPED
                    RETRYING ──succeed──▶ SUCCEEDED   an operator settles it by hand
                    RETRYING ──fail──▶ FAILED
    WAITING ──succeed──▶ SUCCEEDED  an operator settles it by hand

A run::

    RUNNING ──succeed──▶ SUCCEEDED
    RUNNING ──fail──▶ FAILED
    RUNNING ──cancel──▶ CANCELLING ──end──▶ CANCELLED
    RUNNING ──cancel with no live lease──▶ CANCELLED
    RUNNING ──pause──▶ PAUSED ──resume──▶ RUNNING
    PAUSED ──succeed──▶ SUCCEEDED   what was leased has ended well, and was all
    PAUSED ──fail──▶ FAILED
    PAUSED ──cancel──▶ CANCELLING
    PAUSED ──cancel with no live lease──▶ CANCELLED
    RUNNING ──undo──▶ COMPENSATING ──end──▶ FAILED
    PAUSED ──undo──▶ COMPENSATING ──cancel──▶ CANCELLING
    COMPENSATING ──cancel with no live lease──▶ CANCELLED
    COMPENSATING ──pause──▶ PAUSED ──go on──▶ COMPENSATING
    RUNNING ──close──▶ CLOSED ◀──close──PAUSED
    CANCELLING ──close──▶ CLOSED ◀──close──COMPENSATING
    CANCELLING ──fail──▶ FAILED     its time was up
    CANCELLING ──undo──▶ COMPENSATING   likewise
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tenure_server.core.definitions.features import Backoff, RetryPolicy

#: How many leases of one attempt may expire before the task counts as failed. Those that were
#: given back, stopped or never accepted do not count.
LOST_LEASES_MAX = 10


class TaskState(enum.IntEnum):
    """Where a task stands. Numbers as in the contract and in the tables."""

    WAITING = 1
    READY = 2
    LEASED = 3
    RETRYING = 4
    SUCCEEDED = 5
    FAILED = 6
    UPSTREAM_FAILED = 7
    CANCELLED = 8
    SKIPPED = 9
    ACTIVE = 10


class RunState(enum.IntEnum):
    """Where a run stands. Numbers as in the contract and in the tables."""

    RUNNING = 1
    CANCELLING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    PAUSED = 6
    COMPENSATING = 7
    CLOSED = 8


class EventKind(enum.IntEnum):
    """What can happen in a run. Numbers as in the contract and in the log."""

    RUN_STARTED = 1
    RUN_CANCELLING = 2
    RUN_SUCCEEDED = 3
    RUN_FAILED = 4
    RUN_CANCELLED = 5
    TASK_LEASED = 6
    TASK_SUCCEEDED = 7
    TASK_RETRYING = 8
    TASK_FAILED = 9
    TASK_UPSTREAM_FAILED = 10
    TASK_CANCELLED = 11
    TASK_LEASE_LOST = 12
    TASK_LEASE_RETURNED = 13
    TASK_CHECKPOINTED = 14
    RUN_PAUSED = 15
    RUN_RESUMED = 16
    RUN_REOPENED = 17
    RUN_COMPENSATING = 18
    RUN_CLOSED = 19
    RUN_MOVED = 20
    RUN_SIGNALLED = 21
    TASK_SKIPPED = 22
    TASK_ACTIVATED = 23
    TASK_REOPENED = 24
    TASK_DECIDED = 25
    TASK_ESCALATED = 26
    TASK_REPEATED = 27


#: Events that concern the run as a whole.
RUN_EVENTS = frozenset(kind for kind in EventKind if kind.name.startswith("RUN_"))

#: States that a task never leaves.
TASK_ENDED = frozenset(
    {
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.UPSTREAM_FAILED,
        TaskState.CANCELLED,
        TaskState.SKIPPED,
    }
)
#: Ends that count as a failure for what depends on the task.
TASK_LOST = frozenset({TaskState.FAILED, TaskState.UPSTREAM_FAILED, TaskState.CANCELLED})
#: States that a run never leaves.
RUN_ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.CLOSED})
#: The event with which a run ends, by the state it then has.
RUN_ENDS = {state: EventKind[f"RUN_{state.name}"] for state in RUN_ENDED}
#: States of a run in which its ready tasks may be leased.
RUN_WORKING = frozenset({RunState.RUNNING, RunState.COMPENSATING})

TASK_TRANSITIONS: frozenset[tuple[TaskState, TaskState]] = frozenset(
    {
        (TaskState.WAITING, TaskState.READY),
        (TaskState.WAITING, TaskState.UPSTREAM_FAILED),
        (TaskState.READY, TaskState.LEASED),
        (TaskState.READY, TaskState.SUCCEEDED),
        (TaskState.READY, TaskState.FAILED),
        (TaskState.READY, TaskState.RETRYING),
        (TaskState.LEASED, TaskState.READY),
        (TaskState.LEASED, TaskState.SUCCEEDED),
        (TaskState.LEASED, TaskState.FAILED),
        (TaskState.LEASED, TaskState.RETRYING),
        (TaskState.RETRYING, TaskState.READY),
        (TaskState.WAITING, TaskState.CANCELLED),
        (TaskState.READY, TaskState.CANCELLED),
        (TaskState.LEASED, TaskState.CANCELLED),
        (TaskState.RETRYING, TaskState.CANCELLED),
        (TaskState.WAITING, TaskState.ACTIVE),
        (TaskState.WAITING, TaskState.SKIPPED),
        (TaskState.WAITING, TaskState.FAILED),
        (TaskState.WAITING, TaskState.SUCCEEDED),
        (TaskState.ACTIVE, TaskState.SUCCEEDED),
        (TaskState.ACTIVE, TaskState.FAILED),
        (TaskState.ACTIVE, TaskState.RETRYING),
        (TaskState.ACTIVE, TaskState.CANCELLED),
        (TaskState.ACTIVE, TaskState.SKIPPED),
        (TaskState.READY, TaskState.SKIPPED),
        (TaskState.RETRYING, TaskState.ACTIVE),
        (TaskState.RETRYING, TaskState.SKIPPED),
        (TaskState.RETRYING, TaskState.SUCCEEDED),
        (TaskState.RETRYING, TaskState.FAILED),
    }
)

RUN_TRANSITIONS: frozenset[tuple[RunState, RunState]] = frozenset(
    {
        (RunState.RUNNING, RunState.SUCCEEDED),
        (RunState.RUNNING, RunState.FAILED),
        (RunState.RUNNING, RunState.CANCELLING),
        (RunState.RUNNING, RunState.CANCELLED),
        (RunState.CANCELLING, RunState.CANCELLED),
        (RunState.CANCELLING, RunState.FAILED),
        (RunState.CANCELLING, RunState.COMPENSATING),
        (RunState.CANCELLING, RunState.CLOSED),
        (RunState.RUNNING, RunState.PAUSED),
        (RunState.RUNNING, RunState.COMPENSATING),
        (RunState.RUNNING, RunState.CLOSED),
        (RunState.PAUSED, RunState.RUNNING),
        (RunState.PAUSED, RunState.SUCCEEDED),
        (RunState.PAUSED, RunState.FAILED),
        (RunState.PAUSED, RunState.CANCELLING),
        (RunState.PAUSED, RunState.CANCELLED),
        (RunState.PAUSED, RunState.COMPENSATING),
        (RunState.PAUSED, RunState.CLOSED),
        (RunState.COMPENSATING, RunState.FAILED),
        (RunState.COMPENSATING, RunState.PAUSED),
        (RunState.COMPENSATING, RunState.CANCELLING),
        (RunState.COMPENSATING, RunState.CANCELLED),
        (RunState.COMPENSATING, RunState.CLOSED),
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed: a stable code, a sentence, and whether another attempt makes sense."""

    code: str
    message: str = ""
    non_retryable: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """The decision to make another attempt at a time."""

    at_us: int


@dataclass(frozen=True, slots=True)
class Fail:
    """The decision that the task has failed for good."""

    reason: str


def after_failure(
    policy: RetryPolicy,
    *,
    attempt: int,
    failure: Failure,
    now_us: int,
    random: float,
    until_us: int | None = None,
) -> Retry | Fail:
    """Decides what becomes of a failed attempt.

    `attempt` counts from 1; `random` lies in [0, 1) and shortens the wait by up to `policy.jitter`
    of it. No attempt begins at `until_us` or later; None: whenever.
    """
    if failure.non_retryable:
        return Fail("the failure is not retryable")
    if failure.code in policy.non_retryable_codes:
        return Fail(f"the policy does not retry {failure.code}")
    if attempt >= policy.max_attempts:
        return Fail(f"attempt {attempt} of {policy.max_attempts} failed")
    at_us = now_us + retry_delay_us(policy, attempt=attempt, random=random)
    if until_us is not None and at_us >= until_us:
        return Fail(f"attempt {attempt + 1} would begin after retry.total_timeout")
    return Retry(at_us)


def retry_delay_us(policy: RetryPolicy, *, attempt: int, random: float) -> int:
    """The wait after attempt number `attempt`, in microseconds."""
    growth: float
    match policy.backoff:
        case Backoff.FIXED:
            growth = 1
        case Backoff.LINEAR:
            growth = attempt
        case _:
            # The exponent is bounded so that a hundredth attempt cannot overflow the float.
            growth = policy.multiplier ** min(attempt - 1, 64)
    wait = min(policy.initial_delay_us * growth, policy.max_delay_us)
    return int(wait * (1 - policy.jitter * random))


class Verdict(enum.IntEnum):
    """What became of a result. Numbers as in the contract."""

    APPLIED = 1
    ALREADY_APPLIED = 2
    SUPERSEDED = 3
    RUN_CLOSED = 4
    UNKNOWN = 5
    OUTPUT_REFUSED = 6
    DENIED = 7
    ELSEWHERE = 8


class Standing(enum.IntEnum):
    """Whether a lease holds. Numbers as in the contract."""

    HELD = 1
    CANCELLING = 2
    LOST = 3
    ELSEWHERE = 4
