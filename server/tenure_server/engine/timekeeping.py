"""Follows the machine's clock when somebody set it, or when the machine slept.

The coordinator's own clock goes on evenly, so that leases and waits last as long as they should. A
machine that sleeps stops it, though, and one that learns the time of day late began it wrong; then
schedules would fire late, and evidence tell another time, until the next start. So now and then it
is looked how far the two are apart.

- Set forward: it follows in one step. Every lease would end in it, so memory is thrown away and
  read back, as after a failed commit: each lease then has its whole time anew. What fell due
  meanwhile is done.
- Set back: it goes on as it was, since time must not go back under what was decided by it. The next
  start goes by the machine.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from tenure_server.core import errors
from tenure_server.engine.firing import Firing
from tenure_server.engine.floor import Floor

#: How often it is looked.
LOOK_SECONDS = 10.0
#: What is less happens to every clock, and does no harm.
APART_US = 10_000_000

log = structlog.get_logger()


class Followed(Protocol):
    """A clock of the engine that knows its machine's."""

    def behind_us(self) -> int:
        """How far the machine's clock is ahead of this one; negative when it was set back."""

    def catch_up(self) -> None:
        """Goes forward to the machine's clock, in one step. Never goes back."""


class Timekeeper:
    """Compares the clock of an engine with that of its machine."""

    def __init__(self, clock: Followed, floor: Floor, firing: Firing) -> None:
        self._clock = clock
        self._floor = floor
        self._firing = firing
        self._told = False

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Follows the machine's clock if that is ahead, and tells once if it is behind."""
        behind_us = self._clock.behind_us()
        if behind_us > APART_US:
            log.warning("the machine's clock was set forward", seconds=behind_us / 1e6)
            self._clock.catch_up()
            self._floor.start_over(
                errors.StoreUnavailable("the clock was set; nothing was acknowledged")
            )
            # What they wait for may have come, and their alarms were set by the time before.
            self._floor.pass_time()
            self._firing.pass_time()
        elif behind_us < -APART_US and not self._told:
            self._told = True
            log.warning(
                "the machine's clock was set back; the coordinator goes by it after a restart",
                seconds=-behind_us / 1e6,
            )
