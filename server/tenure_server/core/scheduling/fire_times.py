"""When a schedule fires: its nominal times, in order, and when each is due.

A nominal time is one that the schedule names. It is what a run is told, what a fire is known by,
and what counts as done. When it is due lies at most the jitter behind, always the same for the same
schedule and time, and never beyond the next nominal time: fires keep their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tenure_server.core.scheduling.wall_clock import Cron

SECOND_US = 1_000_000
CRONS_MAX = 20
INTERVALS_MAX = 20
TIMES_MAX = 1000
#: Times beyond the year 9900 are none.
TIME_MAX_US = 250_000_000_000 * SECOND_US

Violation = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so often, counted from an anchor in both directions. Takes no notice of clocks."""

    every_us: int
    anchor_us: int = 0

    def after(self, at_us: int) -> int:
        """The first of its times behind another."""
        return at_us + self.every_us - (at_us - self.anchor_us) % self.every_us


@dataclass(frozen=True, slots=True, kw_only=True)
class FireTimes:
    """All times of a schedule; one that several of its parts name is one time."""

    crons: tuple[Cron, ...] = ()
    intervals: tuple[Interval, ...] = ()
    #: In order, each once.
    times_us: tuple[int, ...] = ()
    #: Only times from here on, and only before the end.
    start_us: int | None = None
    end_us: int | None = None
    jitter_us: int = 0

    def violations(self) -> list[Violation]:
        """What is wrong with it: pairs of path and reason."""
        found = [
            (f"{name}[{index}].{member}", reason)
            for name, index, member, reason in self._problems()
        ]
        if not (self.crons or self.intervals or self.times_us):
            found.append(("", "names no time: give crons, intervals or times"))
        if None not in (self.start_us, self.end_us) and self.start_us >= self.end_us:  # type: ignore[operator]
            found.append(("end_time", "must lie behind start_time"))
        return found

    def _problems(self) -> Iterator[tuple[str, int, str, str]]:
        for index, cron in enumerate(self.crons):
            if (problem := cron.problem()) is not None:
                yield "crons", index, *problem
            elif cron.after(0) is None:
                yield "crons", index, "expression", "names a time that never comes"
        for index, interval in enumerate(self.intervals):
            if interval.every_us < SECOND_US:
                yield "intervals", index, "every", "must be at least a second"

    def after(self, at_us: int) -> int | None:
        """The first nominal time behind another, or None."""
        if self.start_us is not None and at_us < self.start_us:
            at_us = self.start_us - 1
        seconds = at_us // SECOND_US
        found: list[int] = [one.after(at_us) for one in self.intervals]
        for cron in self.crons:
            if (second := cron.after(seconds)) is not None:
                found.append(second * SECOND_US)
        found += islice((one for one in self.times_us if one > at_us), 1)
        first = min(found, default=None)
        if first is None or first > TIME_MAX_US:
            return None
        return None if self.end_us is not None and first >= self.end_us else first

    def from_on(self, at_us: int) -> Iterator[int]:
        """The nominal times behind another, in order."""
        found = self.after(at_us)
        while found is not None:
            yield found
            found = self.after(found)

    def due_us(self, name: str, nominal_us: int) -> int:
        """When the fire of a nominal time is due. `name` tells schedules from each other."""
        if not self.jitter_us:
            return nominal_us
        following = self.after(nominal_us)
        span = self.jitter_us
        if following is not None:
            span = min(span, following - nominal_us)
        word = hashlib.sha256(f"{name}\0{nominal_us}".encode()).digest()[:8]
        return nominal_us + (int.from_bytes(word, "big") * span >> 64)
