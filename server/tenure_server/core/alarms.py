"""The times at which tasks want attention: retries that fall due, attempts that run out of time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

#: Time, term of the lease whose time is up or 0 for a retry, run id, task number.
Alarm = tuple[int, int, str, int]

#: So many alarms may wait before those that no longer matter are looked for.
_SWEEP_MIN = 1024


class Alarms:
    """Alarms by time. Nobody takes one back: those that no longer matter are swept out."""

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

    def due(self, now_us: int) -> Iterator[Alarm]:
        """Takes out those that are due, also those that are set meanwhile."""
        while self._heap and self._heap[0][0] <= now_us:
            yield heapq.heappop(self._heap)
