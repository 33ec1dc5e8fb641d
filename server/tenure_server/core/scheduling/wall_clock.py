"""Cron expressions on the wall clocks of the world: when they match, as instants.

cronsim reads the expressions and says which minutes of a wall clock they name. What follows from a
clock that is set is decided here, as cron of Debian does:

- An expression that names its times, as ``30 2 * * *`` does, stands for a job at a time of the day.
  A time that is skipped when the clock is set forward comes at the moment it is set; a time that
  the clock shows twice counts the first time only.
- An expression with a ``*`` in front of its minutes or hours, or one with seconds, stands for a
  rhythm. It goes on with what the clock shows: nothing happens in a skipped hour, and what is shown
  twice counts twice.

Instants are whole seconds since the Unix epoch. The rules of zones are data, those of the `tzdata`
that the host has or, where it has none, of the package.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

#: More than any clock was ever set by, and less than lies between two times that it is set.
_WINDOW = 25 * 3600
#: Nothing is looked for beyond: the years that Python's times end with are near.
_LAST = int(datetime(9900, 1, 1, tzinfo=UTC).timestamp())
_SECOND = timedelta(seconds=1)
_EPOCH = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)

EXPRESSION_CHARACTERS_MAX = 200
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Cron:
    """An expression of five fields, or six with seconds in front, on the clock of a zone."""

    expression: str
    #: An IANA name, such as ``Europe/Vienna``.
    zone: str = "UTC"

    def problem(self) -> tuple[str, str] | None:
        """The member that cannot be used, and why; None when it can."""
        try:
            _zone(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return "time_zone", f"{self.zone!r} is not a time zone that is known here"
        if len(self.expression) > EXPRESSION_CHARACTERS_MAX:
            return "expression", f"must have at most {EXPRESSION_CHARACTERS_MAX} characters"
        try:
            _pattern(self.expression)
        except CronSimError as error:
            return "expression", f"is no cron expression: {str(error).lower()}"
        return None

    def after(self, at: int) -> int | None:
        """The first instant behind another at which it matches; None when none comes in 50 years.

        Only for what has no problem.
        """
        zone = _zone(self.zone)
        if _names_times(self.expression):
            return _next_time(self.expression, zone, at)
        return _next_of_rhythm(self.expression, zone, at)


@lru_cache(maxsize=4096)
def _pattern(expression: str) -> CronSim:
    return CronSim(ALIASES.get(expression.strip().lower(), expression), _EPOCH)


@lru_cache(maxsize=4096)
def _names_times(expression: str) -> bool:
    fields = ALIASES.get(expression.strip().lower(), expression).split()
    return len(fields) == 5 and not any(one.startswith("*") for one in fields[:2])


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _shown_after(expression: str, wall: datetime) -> datetime | None:
    """The first time behind another that an expression names, on a clock that is never set."""
    pattern = copy.copy(_pattern(expression))
    pattern.dt = wall
    try:
        return next(pattern)
    except (StopIteration, OverflowError, ValueError):
        return None


def _next_time(expression: str, zone: ZoneInfo, at: int) -> int | None:
    wall: datetime | None = datetime.fromtimestamp(at, zone).replace(tzinfo=None)
    # What was shown before `at` lies before it. The other way round not: hence the loop, which is
    # long only in an hour that comes again.
    while wall is not None and (wall := _shown_after(expression, wall)) is not None:
        instant = _first_instant(wall, zone)
        if instant > at:
            return instant
    return None


def _first_instant(wall: datetime, zone: ZoneInfo) -> int:
    """When a clock first shows a time, or the moment at which it skips it."""
    instant = int(wall.replace(tzinfo=zone, fold=0).timestamp())
    if datetime.fromtimestamp(instant, zone).replace(tzinfo=None) == wall:
        return instant
    # In a gap, fold 0 counts by the clock before it was set, and so ends behind that moment.
    before = int(wall.replace(tzinfo=zone, fold=1).timestamp())
    return _set_between(zone, before, instant) or instant


def _next_of_rhythm(expression: str, zone: ZoneInfo, at: int) -> int | None:
    """Goes from one setting of the clock to the next; in between, clock and time go together."""
    start = at  # from here on the offset holds
    behind = at  # what is looked for comes behind
    while start < _LAST:
        offset = _offset(zone, start)
        wall = _EPOCH + timedelta(seconds=behind + offset)
        shown = _shown_after(expression, wall)
        if shown is None:
            return None
        instant = int((shown - _EPOCH) / _SECOND) - offset
        horizon = start + _WINDOW
        if (changed := _set_between(zone, start, min(instant, horizon))) is not None:
            start, behind = changed, changed - 1
        elif instant <= horizon:
            return instant
        else:
            # Nothing is shown that matches until shortly before, however the clock is set.
            start = behind = max(horizon, instant - _WINDOW)
    return None


def _set_between(zone: ZoneInfo, low: int, high: int) -> int | None:
    """The moment in (low, high] at which a clock is set; at most one lies there. None: none."""
    offset = _offset(zone, low)
    if high <= low or _offset(zone, high) == offset:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return high


def _offset(zone: ZoneInfo, at: int) -> int:
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    return 0 if offset is None else int(offset / _SECOND)
