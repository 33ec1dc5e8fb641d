"""Times of coordinators whose clocks were set are put in order again."""

from __future__ import annotations

from tests.chaos import clocks
from tests.chaos.history import Happening

HOURS = 11 * clocks.STEP_SECONDS


def _happening(number: int, at: float) -> Happening:
    return Happening(run_id="run", sequence=number, kind="task.leased", at=at)


def test_a_time_is_found_whatever_hour_the_clock_showed() -> None:
    assert clocks.nearest(1000.5 + HOURS, 1000.0) == 1000.5
    assert clocks.nearest(999.5 - HOURS, 1000.0) == 999.5
    assert clocks.nearest(1200.0, 1000.0) == 1200.0


def test_a_log_under_clocks_that_were_set_reads_like_one_under_a_clock_that_was_not() -> None:
    told = [100.0, 101.0, 102.0 + HOURS, 103.0 - HOURS, 104.0 - HOURS, 105.0]
    log = [_happening(number, at) for number, at in enumerate(told)]
    assert [item.at for item in clocks.evenly(log)] == [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    assert [item.sequence for item in clocks.evenly(log)] == [0, 1, 2, 3, 4, 5]
