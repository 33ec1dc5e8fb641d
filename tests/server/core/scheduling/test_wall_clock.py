"""Cron expressions on real clocks, in the nights in which these are set; in odd zones too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_server.core.scheduling.wall_clock import Cron

ZONES = (
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour
    "America/Havana",  # at midnight
    "Africa/Casablanca",  # around Ramadan
    "Asia/Kathmandu",  # 5:45
    "Pacific/Apia",  # left out a day in 2011
)


def shown(cron: Cron, start: str, count: int) -> list[str]:
    """What the clock shows at the first matches behind a local time."""
    zone = ZoneInfo(cron.zone)
    at: int | None = int(datetime.fromisoformat(start).replace(tzinfo=zone).timestamp())
    found: list[str] = []
    while len(found) < count and at is not None and (at := cron.after(at)) is not None:
        found.append(datetime.fromtimestamp(at, zone).strftime("%m-%d %H:%M %z"))
    return found


@pytest.mark.parametrize(
    ("cron", "start", "expected"),
    [
        pytest.param(
            Cron("30 2 * * *", "Europe/Vienna"),
            "2026-03-28T03:00",
            ["03-29 03:00 +0200", "03-30 02:30 +0200"],
            id="a time that is skipped comes when the clock is set",
        ),
        pytest.param(
            Cron("0,30 2 * * *", "Europe/Vienna"),
            "2026-03-28T03:00",
            ["03-29 03:00 +0200", "03-30 02:00 +0200"],
            id="two of them come as one",
        ),
        pytest.param(
            Cron("30 2 * * *", "Europe/Vienna"),
            "2026-10-24T03:00",
            ["10-25 02:30 +0200", "10-26 02:30 +0100"],
            id="a time that is shown twice comes once",
        ),
        pytest.param(
            Cron("*/30 * * * *", "Europe/Vienna"),
            "2026-03-29T01:00",
            ["03-29 01:30 +0100", "03-29 03:00 +0200"],
            id="a rhythm leaves out what is skipped",
        ),
        pytest.param(
            Cron("0 * * * *", "Europe/Vienna"),
            "2026-10-25T01:00",
            ["10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100"],
            id="a rhythm counts twice what is shown twice",
        ),
        pytest.param(
            Cron("*/15 2 * * *", "America/New_York"),
            "2026-03-07T02:45",
            ["03-09 02:00 -0400", "03-09 02:15 -0400"],
            id="a rhythm within a skipped hour leaves out the day",
        ),
        pytest.param(
            Cron("*/20 3 * * *", "Australia/Lord_Howe"),
            "2026-10-04T00:00",
            ["10-04 03:00 +1100", "10-04 03:20 +1100", "10-04 03:40 +1100"],
            id="a clock set by half an hour loses no minute of the hours behind it",
        ),
        pytest.param(
            Cron("*/10 1 * * *", "Australia/Lord_Howe"),
            "2026-04-05T01:40",
            ["04-05 01:50 +1100", "04-05 01:30 +1030", "04-05 01:40 +1030", "04-05 01:50 +1030"],
            id="a clock set back by half an hour shows half an hour twice",
        ),
        pytest.param(
            Cron("0 0 * * *", "America/Havana"),
            "2026-03-07T00:00",
            ["03-08 01:00 -0400", "03-09 00:00 -0400"],
            id="midnight can be skipped too",
        ),
        pytest.param(
            Cron("0 12 * * *", "Pacific/Apia"),
            "2011-12-29T00:00",
            ["12-29 12:00 -1000", "12-31 00:00 +1400", "12-31 12:00 +1400"],
            id="and a whole day",
        ),
        pytest.param(
            Cron("0 9 L * *", "UTC"),
            "2026-01-31T09:00",
            ["02-28 09:00 +0000", "03-31 09:00 +0000"],
            id="the last day of a month",
        ),
        pytest.param(Cron("@weekly"), "2026-11-26T00:00", ["11-29 00:00 +0000"], id="an alias"),
        pytest.param(
            Cron("*/30 0 12 * * *"),
            "2026-01-01T12:00",
            ["01-01 12:00 +0000", "01-02 12:00 +0000"],
            id="seconds",
        ),
        pytest.param(Cron("0 0 29 2 *"), "2026-01-01T00:00", ["02-29 00:00 +0000"], id="leap day"),
    ],
)
def test_what_the_clock_shows(cron: Cron, start: str, expected: list[str]) -> None:
    """In the words of docs/schedules.md."""
    assert cron.problem() is None
    assert shown(cron, start, len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "member"),
    [
        (Cron("* * * *"), "expression"),
        (Cron(""), "expression"),
        (Cron("61 * * * *"), "expression"),
        (Cron("0 0 31 2 *"), "expression"),
        (Cron("@reboot"), "expression"),
        (Cron("*/0 * * * *"), "expression"),
        (Cron("0 " * 200), "expression"),
        (Cron("0 0 * * *", "Europe/Nowhere"), "time_zone"),
        (Cron("0 0 * * *", "../../etc/passwd"), "time_zone"),
        (Cron("0 0 * * *", "/etc/localtime"), "time_zone"),
        (Cron("0 0 * * *", "Europe"), "time_zone"),
        (Cron("0 0 * * *", ""), "time_zone"),
    ],
)
def test_what_cannot_be_used_is_named(cron: Cron, member: str) -> None:
    """Zones are names, never paths."""
    problem = cron.problem()
    assert problem is not None
    assert problem[0] == member


@given(st.text("0123456789*/,-#LW ABCJANMO?@\u0660", max_size=40), st.sampled_from(ZONES))
def test_any_text_is_an_expression_or_has_a_problem(text: str, zone: str) -> None:
    """Nothing else comes out of what people send."""
    cron = Cron(text, zone)
    if cron.problem() is None:
        at = cron.after(1_790_000_000)
        assert at is None or at > 1_790_000_000


minutes = st.one_of(
    st.sampled_from(["*", "*/7", "*/20"]), st.integers(0, 59).map(str), st.just("0,30")
)
hours = st.one_of(st.sampled_from(["*", "*/2"]), st.integers(0, 23).map(str), st.just("1-3"))
crons = st.builds(
    lambda minute, hour, day, zone: Cron(f"{minute} {hour} {day}", zone),
    minutes,
    hours,
    st.sampled_from(["* * *", "*/9 * *", "* * SUN"]),
    st.sampled_from(ZONES),
)
#: In the years in which these zones set their clocks, near the days on which most do.
moments = st.integers(1_293_836_400, 1_893_452_400)


def instants(cron: Cron, start: int, end: int) -> list[int]:
    """Every match in (start, end]."""
    found = []
    at = cron.after(start)
    while at is not None and at <= end:
        found.append(at)
        at = cron.after(at)
    return found


@given(crons, moments, st.integers(0, 3 * 86_400))
def test_where_one_begins_to_look_makes_no_difference(cron: Cron, start: int, later: int) -> None:
    """The times are a set: those behind a moment are the same, seen from there or from before."""
    end = start + 4 * 86_400
    from_start = instants(cron, start, end)
    assert from_start == sorted(set(from_start))
    assert instants(cron, start + later, end) == [at for at in from_start if at > start + later]


@given(crons.filter(lambda cron: "*" in "".join(cron.expression.split()[:2])), moments)
def test_a_rhythm_is_what_the_clock_shows_minute_by_minute(cron: Cron, start: int) -> None:
    """Compared with asking the clock at every minute of two days, and the days around them."""
    zone = ZoneInfo(cron.zone)
    start -= start % 60
    plain = Cron(cron.expression)
    expected = []
    for at in range(start + 60, start + 30 * 3600, 60):
        wall = datetime.fromtimestamp(at, zone).replace(tzinfo=UTC)
        before = int((wall - timedelta(seconds=1)).timestamp())
        if plain.after(before) == int(wall.timestamp()):
            expected.append(at)
    assert instants(cron, start, start + 30 * 3600 - 60) == expected


@given(st.integers(0, 23), st.integers(0, 59), st.sampled_from(ZONES), moments)
def test_a_time_of_the_day_comes_once_on_every_day(
    hour: int, minute: int, zone: str, start: int
) -> None:
    """Whatever is done to the clock, but for a day that is left out."""
    cron = Cron(f"{minute} {hour} * * *", zone)
    found = instants(cron, start, start + 100 * 86_400)
    days = [datetime.fromtimestamp(at, ZoneInfo(zone)).date() for at in found]
    assert len(days) in (99, 100, 101)
    gaps = {(after - before).days for before, after in pairwise(days)}
    # On the night of a day left out, its fire comes at the moment the calendar is set, beside the
    # next one's.
    assert gaps <= ({1} if zone != "Pacific/Apia" else {0, 1, 2})
