"""When schedules fire: several parts together, bounds, and a jitter that keeps order."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_server.core.scheduling.fire_times import SECOND_US, FireTimes, Interval
from tenure_server.core.scheduling.wall_clock import Cron

HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US
NOW_US = 1_790_000_000 * SECOND_US


def first(times: FireTimes, count: int, after_us: int = 0) -> list[int]:
    """The first times behind a moment, in hours of it."""
    return [(one - after_us) // HOUR_US for one in islice(times.from_on(after_us), count)]


def test_an_interval_counts_from_its_anchor_in_both_directions() -> None:
    interval = Interval(6 * HOUR_US, 100 * HOUR_US)
    assert first(FireTimes(intervals=(interval,)), 3) == [4, 10, 16]


def test_what_two_parts_name_is_one_time() -> None:
    times = FireTimes(
        crons=(Cron("0 */6 * * *"), Cron("0 6 * * *")),
        intervals=(Interval(4 * HOUR_US),),
        times_us=(5 * HOUR_US, 12 * HOUR_US),
    )
    assert first(times, 7) == [4, 5, 6, 8, 12, 16, 18]


def test_bounds_hold_the_start_and_exclude_the_end() -> None:
    times = FireTimes(intervals=(Interval(HOUR_US),), start_us=3 * HOUR_US, end_us=6 * HOUR_US)
    assert first(times, 9) == [3, 4, 5]


def test_single_times_come_to_an_end() -> None:
    times = FireTimes(times_us=(HOUR_US, 2 * HOUR_US))
    assert first(times, 9) == [1, 2]
    assert times.after(2 * HOUR_US) is None


@pytest.mark.parametrize(
    ("times", "paths"),
    [
        (FireTimes(), [""]),
        (FireTimes(crons=(Cron("0 0 * * *"), Cron("x"))), ["crons[1].expression"]),
        (FireTimes(crons=(Cron("0 0 * * *", "Mars"),)), ["crons[0].time_zone"]),
        (FireTimes(crons=(Cron("0 0 */40 * MON#2"),)), ["crons[0].expression"]),
        (FireTimes(intervals=(Interval(SECOND_US - 1),)), ["intervals[0].every"]),
        (FireTimes(times_us=(1,), start_us=5, end_us=5), ["end_time"]),
        (FireTimes(times_us=(1,), start_us=5, end_us=6), []),
    ],
)
def test_what_is_wrong_is_named_by_its_path(times: FireTimes, paths: list[str]) -> None:
    assert [path for path, _ in times.violations()] == paths


def test_without_jitter_a_fire_is_due_at_its_time() -> None:
    times = FireTimes(intervals=(Interval(HOUR_US),))
    assert times.due_us("any", HOUR_US) == HOUR_US


def test_jitter_differs_between_schedules_and_times_but_not_between_two_looks() -> None:
    times = FireTimes(intervals=(Interval(HOUR_US),), jitter_us=600 * SECOND_US)
    due = {
        (name, at): times.due_us(name, at) - at
        for name in ("one", "two")
        for at in range(0, 20 * HOUR_US, HOUR_US)
    }
    assert len(set(due.values())) == len(due)
    assert due == {(name, at): times.due_us(name, at) - at for name, at in due}
    assert max(due.values()) > 300 * SECOND_US > min(due.values())


parts = st.builds(
    FireTimes,
    crons=st.lists(
        st.sampled_from([Cron("*/5 * * * *"), Cron("30 2 * * *", "Europe/Vienna")]), max_size=2
    ).map(tuple),
    intervals=st.lists(
        st.builds(Interval, st.integers(SECOND_US, 3 * DAY_US), st.integers(0, NOW_US)),
        min_size=1,
        max_size=3,
    ).map(tuple),
    times_us=st.lists(st.integers(NOW_US, NOW_US + DAY_US), max_size=5).map(
        lambda found: tuple(sorted(set(found)))
    ),
    jitter_us=st.integers(0, DAY_US),
)


@given(parts, st.integers(NOW_US - DAY_US, NOW_US + DAY_US))
def test_fires_keep_their_order_whatever_the_jitter(times: FireTimes, at_us: int) -> None:
    """Each is due at or behind its time, and not behind the next time."""
    found = list(islice(times.from_on(at_us), 20))
    assert found == sorted(set(found))
    assert all(one > at_us for one in found)
    due = [times.due_us("any", one) for one in found]
    assert due == sorted(due)
    for one, due_us in zip(found, due, strict=True):
        assert one <= due_us <= one + times.jitter_us
    for following, due_us in zip(found[1:], due, strict=False):
        assert due_us <= following
