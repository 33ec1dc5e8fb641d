"""One heap for all deadlines of the agent, behind one timer of the loop.

A timer per task, as `asyncio.timeout` makes them, was measured at a quarter of an agent's time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from tenure_agent.alarm import Alarm


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
        self._heap: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()
        self._alarm = Alarm(loop, self._ring)

    def at(self, when: float, act: Callable[[], None]) -> Deadline:
        """Plans a call for a time of the loop's clock."""
        deadline = Deadline(act)
        heapq.heappush(self._heap, (when, next(self._order), deadline))
        if when < self._alarm.at:
            self._alarm.set(when)
        return deadline

    def close(self) -> None:
        """Forgets all deadlines."""
        self._heap.clear()
        self._alarm.clear()

    def _ring(self, _at: float, now: float) -> None:
        due: list[Deadline] = []
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].act is None):
            due.append(heapq.heappop(self._heap)[2])
        if self._heap:
            self._alarm.set(self._heap[0][0])
        for deadline in due:
            if deadline.act is not None:
                deadline.act()
