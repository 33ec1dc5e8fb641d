"""The times at which tasks want attention: retries, attempts out of time, timers and waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

#: Time, what for, run id, task number. For a lease whose time is up it is the lease's term.
Alarm = tuple[int, int, str, int]
#: Asks for attention.
SetAlarm = Callable[[int, int, str, int], None]
#: For a retry that falls due.
RETRY = 0
#: For a task that is active: its activity knows more.
ACTIVITY = -1
#: For a task that was never leased though it was ready for long enough.
QUEUE = -2
#: For a task that has taken too long in all.
TOTAL = -3
#: For a task of which no further attempt may begin.
ATTEMPTS = -4
#: For a leased task of which its agent has said nothing for too long.
HEARTBEAT = -5
#: For a run whose time is up. Its task number means nothing.
DEADLINE = -6

#: So many alarms may wait before those that no longer matter are looked for.
_SWEEP_MIN = 1024


class Alarms:
    """Alarms by time. Hardly one is taken back: those that no longer matter are swept out."""

    __slots__ = ("_heap", "_matters", "_sweep_at")

    def __init__(self, matters: Callable[[Alarm], bool]) -> None:
        self._heap: list[Alarm] = []
        self._matters = matters
        self._sweep_at = _SWEEP_MIN

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_us(self) -> int | None:
        """When the first is due, or None."""
        return self._heap[0][0] if self._heap else None

    def set(self, at_us: int, term: int, run_id: str, index: int) -> None:
        """Sets an alarm."""
        heapq.heappush(self._heap, (at_us, term, run_id, index))
        # An attempt that may take a day and takes a second would stay here for the day.
        if len(self._heap) > self._sweep_at:
            self._heap = [alarm for alarm in self._heap if self._matters(alarm)]
            heapq.heapify(self._heap)
            self._sweep_at = max(_SWEEP_MIN, 2 * len(self._heap))

    def forget(self, run_id: str) -> None:
        """Takes back all that were set for a run: its tasks have other numbers from now on."""
        self._heap = [alarm for alarm in self._heap if alarm[2] != run_id]
        heapq.heapify(self._heap)

    def forget_idle(self) -> None:
        """Takes out what would be next and no longer matters, so that `next_us` is true."""
        while self._heap and not self._matters(self._heap[0]):
            heapq.heappop(self._heap)

    def due(self, now_us: int) -> Iterator[Alarm]:
        """Takes out those that are due, also those that are set meanwhile."""
        while self._heap and self._heap[0][0] <= now_us:
            yield heapq.heappop(self._heap)
