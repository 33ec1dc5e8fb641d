"""What an evaluation takes is told in the seconds of one machine, on whatever machine it runs."""

from __future__ import annotations

from itertools import accumulate, chain, repeat

import pytest

from tenure_constitution import trial
from tenure_constitution.laws import Point
from tenure_constitution.stopwatch import KNOWN_SECONDS, LOOKS, SLOWNESS_MAX, Stopwatch

#: How often a stopwatch asks what time it is before it knows how slow the machine is.
ASKED = 6 * LOOKS


class Clock:
    """Gives one time between two questions for the known evaluation, then one for all others."""

    def __init__(self, known: float, others: float) -> None:
        steps = chain([0.0], repeat(known, ASKED - 1), repeat(others))
        self._times = accumulate(steps)

    def __call__(self) -> float:
        return next(self._times)


@pytest.mark.parametrize("slowness", [0.5, 1.0, 3.0])
def test_a_slower_machine_tells_the_same_seconds(slowness: float) -> None:
    stopwatch = Stopwatch(Clock(KNOWN_SECONDS * slowness, 0.002 * slowness))
    assert stopwatch.seconds(lambda: None) == pytest.approx(0.002)


def test_a_machine_that_is_far_too_slow_is_told_so() -> None:
    stopwatch = Stopwatch(Clock(KNOWN_SECONDS * 40, 0.002 * 40))
    assert stopwatch.seconds(lambda: None) == pytest.approx(0.002 * 40 / SLOWNESS_MAX)


def test_what_takes_too_long_by_the_stopwatch_is_refused_and_what_does_not_is_not() -> None:
    expression = "task.kind != 'shell'"
    at_bound = trial.EVALUATION_SECONDS_MAX
    problem, _ = trial.attempt(
        expression, Point.LEASE, Stopwatch(Clock(KNOWN_SECONDS, at_bound * 1.02))
    )
    assert problem == "takes too long to evaluate: 5.1 ms, at most 5 ms are allowed"
    problem, seconds = trial.attempt(
        expression, Point.LEASE, Stopwatch(Clock(KNOWN_SECONDS, at_bound * 0.99))
    )
    assert not problem
    assert seconds == pytest.approx(at_bound * 0.99)


def test_the_known_evaluation_takes_time_on_a_real_machine() -> None:
    took = 0

    def evaluate() -> None:
        nonlocal took
        took += 1

    assert Stopwatch().seconds(evaluate) > 0
    assert took == 3
