"""One timer of the loop for many moments: it rings at the earliest that it was set to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Rings once, never early. To ring again it must be set again."""

    __slots__ = ("_loop", "_ring", "_timer", "at")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ring: Callable[[float, float], None]
    ) -> None:
        """`ring` is given the moment that was set, and the time it is: by the loop's clock."""
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        #: When it rings; infinite when it is not set.
        self.at = float("inf")

    def set(self, when: float | None) -> None:
        """Has it ring at a moment, unless it does earlier. None: at no moment."""
        if when is None or when >= self.at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.at = when
        self._timer = self._loop.call_at(when, self._rings)

    def clear(self) -> None:
        """Has it not ring."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.at = None, float("inf")

    def _rings(self) -> None:
        at = self.at
        self._timer, self.at = None, float("inf")
        # The loop may ring within its clock's resolution before the time.
        self._ring(at, max(self._loop.time(), at))
