"""One heap for all deadlines of the agent, behind one timer of the loop.

A timer per task, as `asyncio.timeout` makes them, was measured at a quarter of an agent's time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable


class Deadline:
    """Something to do at a time, until it is cancelled."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        """Makes it never happen. Its place in the heap is given up when its time comes."""
        self.act = None


class Deadlines:
    """Calls what is due, on the loop, never early."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def at(self, when: float, act: Callable[[], None]) -> Deadline:
        """Plans a call for a time of the loop's clock."""
        deadline = Deadline(act)
        heapq.heappush(self._heap, (when, next(self._order), deadline))
        if when < self._timer_at:
            self._arm(when)
        return deadline

    def close(self) -> None:
        """Forgets all deadlines."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, float("inf")

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._ring)
        self._timer_at = when

    def _ring(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        # The loop may ring within its clock's resolution before the time.
        now = max(self._loop.time(), self._heap[0][0] if self._heap else 0.0)
        due: list[Deadline] = []
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].act is None):
            due.append(heapq.heappop(self._heap)[2])
        if self._heap:
            self._arm(self._heap[0][0])
        for deadline in due:
            if deadline.act is not None:
                deadline.act()
