"""One timer of the loop for many moments: it rings at the earliest that it was set to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Rings once. To ring again it must be set again. Moments are those of the engine's clock."""

    __slots__ = ("_now_us", "_ring", "_timer", "at_us")

    def __init__(self, now_us: Callable[[], int], ring: Callable[[], None]) -> None:
        """`ring` is called when the time has come."""
        self._now_us = now_us
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        #: When it rings, in microseconds since the Unix epoch; None when it is not set.
        self.at_us: int | None = None

    def set(self, at_us: int) -> None:
        """Has it ring at a moment, unless it does earlier."""
        if self.at_us is not None and self.at_us <= at_us:
            return
        self.clear()
        self.at_us = at_us
        wait_seconds = max(0.0, (at_us - self._now_us()) / 1e6)
        self._timer = asyncio.get_running_loop().call_later(wait_seconds, self._rings)

    def clear(self) -> None:
        """Has it not ring."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.at_us = None

    def _rings(self) -> None:
        self._timer = self.at_us = None
        self._ring()
