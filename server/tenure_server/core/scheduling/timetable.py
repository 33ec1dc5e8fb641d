"""The schedules of one tenant in memory: where each stands, its open runs, and who is next."""

from __future__ import annotations

import heapq

from tenure_server.core.scheduling.schedules import (
    LABEL_SCHEDULE,
    Idle,
    Schedule,
    Standing,
    Step,
    next_step,
)

#: So many times that no longer count may be kept beside those that do.
_STALE_MAX = 1024


class Entry:
    """A schedule and where it stands."""

    __slots__ = ("running", "schedule", "standing", "turn")

    def __init__(self, schedule: Schedule, standing: Standing) -> None:
        self.schedule = schedule
        self.standing = standing
        #: Its runs that have not ended.
        self.running: set[str] = set()
        #: Which of the times noted for it counts.
        self.turn = 0

    def step(self, now_us: int) -> Step:
        """What is to be done now."""
        return next_step(self.schedule, self.standing, len(self.running), now_us)

    @property
    def input_bytes(self) -> int:
        """How much memory its input takes."""
        return 0 if self.schedule.input is None else len(self.schedule.input.data)


class Timetable:
    """Whoever changes an entry calls `look_again` afterwards."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.input_bytes = 0
        self._of_run: dict[str, Entry] = {}
        #: When to look at whom: time, name, turn. Only the last turn of each counts.
        self._heap: list[tuple[int, str, int]] = []

    def put(self, schedule: Schedule, standing: Standing) -> Entry:
        """Takes a schedule, new or changed."""
        entry = self.entries.get(schedule.name)
        if entry is None:
            entry = self.entries[schedule.name] = Entry(schedule, standing)
        else:
            self.input_bytes -= entry.input_bytes
            entry.schedule, entry.standing = schedule, standing
        self.input_bytes += entry.input_bytes
        return entry

    def remove(self, name: str) -> None:
        """Forgets a schedule. Its runs go on."""
        entry = self.entries.pop(name)
        self.input_bytes -= entry.input_bytes
        for run_id in entry.running:
            del self._of_run[run_id]

    # -- runs

    @property
    def watches_runs(self) -> bool:
        """Whether the end of any run matters."""
        return bool(self._of_run)

    def opened(self, run_id: str, labels: dict[str, str]) -> None:
        """Notes an open run, if it is one of a schedule."""
        entry = self.entries.get(labels.get(LABEL_SCHEDULE, ""))
        if entry is not None:
            entry.running.add(run_id)
            self._of_run[run_id] = entry

    def ended(self, run_id: str) -> Entry | None:
        """Notes that a run has ended, and gives the schedule that it was one of."""
        entry = self._of_run.pop(run_id, None)
        if entry is not None:
            entry.running.discard(run_id)
        return entry

    # -- time

    def look_again(self, entry: Entry, now_us: int) -> None:
        """Finds out anew when something is to be done for a schedule."""
        entry.turn += 1
        match entry.step(now_us):
            case Idle(None):
                return
            case Idle(until_us):
                at_us = until_us
            case _:
                at_us = now_us
        assert at_us is not None
        heapq.heappush(self._heap, (at_us, entry.schedule.name, entry.turn))
        if len(self._heap) > 2 * len(self.entries) + _STALE_MAX:
            self._heap = [one for one in self._heap if self._counts(one)]
            heapq.heapify(self._heap)

    def next_us(self) -> int | None:
        """When something is to be done next, or None."""
        while self._heap:
            if self._counts(self._heap[0]):
                return self._heap[0][0]
            heapq.heappop(self._heap)
        return None

    def due(self, now_us: int) -> Entry | None:
        """The schedule for which something is to be done now, or None."""
        next_us = self.next_us()
        if next_us is None or next_us > now_us:
            return None
        return self.entries[self._heap[0][1]]

    def _counts(self, noted: tuple[int, str, int]) -> bool:
        entry = self.entries.get(noted[1])
        return entry is not None and entry.turn == noted[2]
