"""The states are what the drawing says, and failed attempts are retried as their policy says."""

from __future__ import annotations

import enum
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_server.core.definitions.definition import DAY_US, RetryPolicy
from tenure_server.core.definitions.features import Backoff
from tenure_server.core.ledger import lifecycle
from tenure_server.core.ledger.lifecycle import (
    RUN_ENDED,
    RUN_TRANSITIONS,
    TASK_ENDED,
    TASK_TRANSITIONS,
    Fail,
    Failure,
    Retry,
    RunState,
    TaskState,
    after_failure,
    retry_delay_us,
)

NOW_US = 1_700_000_000_000_000
ARROW = re.compile(r"([A-Z_]+) *(?:(─+[a-z ]+─+▶)|(◀─+[a-z ]+─+)) *(?=([A-Z_]+))")


def drawn(picture: str) -> set[tuple[str, str]]:
    """The transitions that a drawing shows."""
    found = set()
    for left, forth, _, right in ARROW.findall(picture):
        found.add((left, right) if forth else (right, left))
    return found


def test_the_drawing_shows_the_transitions_of_the_tables() -> None:
    words = str(lifecycle.__doc__)
    tasks, runs = words.split("A task::")[1].split("A run::")
    assert drawn(tasks) == {(one.name, two.name) for one, two in TASK_TRANSITIONS}
    assert drawn(runs) == {(one.name, two.name) for one, two in RUN_TRANSITIONS}


def ends(
    transitions: frozenset[tuple[enum.IntEnum, enum.IntEnum]], states: type[enum.IntEnum]
) -> set[enum.IntEnum]:
    """The states that nothing leaves."""
    return set(states) - {before for before, _ in transitions}


def test_only_ended_states_are_never_left() -> None:
    assert ends(TASK_TRANSITIONS, TaskState) == TASK_ENDED
    assert ends(RUN_TRANSITIONS, RunState) == RUN_ENDED


@pytest.mark.parametrize(
    ("transitions", "first", "states"),
    [
        (TASK_TRANSITIONS, TaskState.WAITING, TaskState),
        (RUN_TRANSITIONS, RunState.RUNNING, RunState),
    ],
)
def test_every_state_is_reached_from_the_first(
    transitions: frozenset[tuple[enum.IntEnum, enum.IntEnum]],
    first: enum.IntEnum,
    states: type[enum.IntEnum],
) -> None:
    reached = {first}
    for _ in states:
        reached |= {after for before, after in transitions if before in reached}
    assert reached == set(states)


POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 100),
    initial_delay_us=st.integers(0, DAY_US),
    max_delay_us=st.integers(0, DAY_US),
    multiplier=st.floats(1, 10),
    jitter=st.floats(0, 1),
    backoff=st.sampled_from(Backoff),
)
CHANCE = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, 100), CHANCE)
def test_a_wait_lies_between_its_jitter_and_its_cap(
    policy: RetryPolicy, attempt: int, random: float
) -> None:
    wait = retry_delay_us(policy, attempt=attempt, random=random)
    full = retry_delay_us(policy, attempt=attempt, random=0)
    assert 0 <= wait <= full <= policy.max_delay_us
    assert full * (1 - policy.jitter) - 1 <= wait
    if attempt == 1:
        assert full == min(policy.initial_delay_us, policy.max_delay_us)


@given(POLICIES, st.integers(1, 99), CHANCE)
def test_waits_do_not_become_shorter(policy: RetryPolicy, attempt: int, random: float) -> None:
    first = retry_delay_us(policy, attempt=attempt, random=random)
    assert first <= retry_delay_us(policy, attempt=attempt + 1, random=random)


def test_waits_grow_by_the_multiplier_up_to_the_cap() -> None:
    policy = RetryPolicy(initial_delay_us=100, max_delay_us=1000, multiplier=3, jitter=0.5)
    waits = [retry_delay_us(policy, attempt=attempt, random=0) for attempt in range(1, 6)]
    assert waits == [100, 300, 900, 1000, 1000]
    assert retry_delay_us(policy, attempt=1, random=0.5) == 75


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (Backoff.EXPONENTIAL, [100, 300, 900, 1000, 1000]),
        (Backoff.FIXED, [100, 100, 100, 100, 100]),
        (Backoff.LINEAR, [100, 200, 300, 400, 500]),
    ],
)
def test_waits_grow_as_the_strategy_says(backoff: Backoff, waits: list[int]) -> None:
    policy = RetryPolicy(
        initial_delay_us=100, max_delay_us=1000, multiplier=3, jitter=0.5, backoff=backoff
    )
    found = [retry_delay_us(policy, attempt=attempt, random=0) for attempt in range(1, 6)]
    assert found == waits
    shorter = [retry_delay_us(policy, attempt=attempt, random=0.5) for attempt in range(1, 6)]
    assert shorter == [wait * 3 // 4 for wait in waits]


def test_a_linear_wait_is_capped() -> None:
    policy = RetryPolicy(initial_delay_us=100, max_delay_us=250, jitter=0, backoff=Backoff.LINEAR)
    assert retry_delay_us(policy, attempt=100, random=0) == 250


@pytest.mark.parametrize(
    ("until", "decision"),
    [
        (None, Retry(NOW_US + 100)),
        (101, Retry(NOW_US + 100)),
        (100, Fail("attempt 2 would begin after retry.total_timeout")),
        (0, Fail("attempt 2 would begin after retry.total_timeout")),
        (-1, Fail("attempt 2 would begin after retry.total_timeout")),
    ],
)
def test_no_attempt_is_planned_for_after_the_time_of_all(
    until: int | None, decision: Retry | Fail
) -> None:
    found = after_failure(
        POLICY,
        attempt=1,
        failure=Failure("BOOM"),
        now_us=NOW_US,
        random=0,
        until_us=None if until is None else NOW_US + until,
    )
    assert found == decision


POLICY = RetryPolicy(
    max_attempts=3, initial_delay_us=100, multiplier=2, jitter=0, non_retryable_codes=("BAD",)
)


@pytest.mark.parametrize(
    ("attempt", "failure", "decision"),
    [
        (1, Failure("E"), Retry(NOW_US + 100)),
        (2, Failure("E"), Retry(NOW_US + 200)),
        (3, Failure("E"), Fail("attempt 3 of 3 failed")),
        (4, Failure("E"), Fail("attempt 4 of 3 failed")),
        (1, Failure("BAD"), Fail("the policy does not retry BAD")),
        (1, Failure("bad"), Retry(NOW_US + 100)),
        (1, Failure("E", "", True), Fail("the failure is not retryable")),
    ],
)
def test_what_becomes_of_a_failed_attempt(
    attempt: int, failure: Failure, decision: Retry | Fail
) -> None:
    found = after_failure(POLICY, attempt=attempt, failure=failure, now_us=NOW_US, random=0.5)
    assert found == decision


@given(POLICIES, st.integers(1, 200), CHANCE)
def test_attempts_are_bounded(policy: RetryPolicy, attempt: int, random: float) -> None:
    found = after_failure(
        policy, attempt=attempt, failure=Failure("E"), now_us=NOW_US, random=random
    )
    assert isinstance(found, Fail) == (attempt >= policy.max_attempts)
