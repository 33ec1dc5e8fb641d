"""Whether the items of lists stayed within what is declared, and lists came to what they did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.history import Observations, Record, StoredEvent
from tests.chaos.rules.course import ENDED, Course, courses, list_of

from tenure_server.core.definitions.declared import item_key
from tenure_server.core.definitions.features import ForEach

_BEGUN = {"LEASED", "ACTIVE", "RETRYING", "READY"}


def items_are_bounded(_: Observations, record: Record) -> Iterator[str]:
    """No more items at once, in all, or failed than declared; a list has what its items gave."""
    for course in courses(record):
        lists = {
            task.key: _List(course, task.key, task.for_each, record)
            for task in course.definition.tasks
            if task.for_each is not None
        }
        if not lists:
            continue
        for event in course.steps():
            of = lists.get(list_of(event.task) or event.task)
            for what in () if of is None else of.wrong(event):
                yield f"run {course.run_id}, event {event.sequence}: {what}"
        for one in lists.values():
            for what in one.wrong_at_end():
                yield f"run {course.run_id}: {what}"


@dataclass(slots=True)
class _List:
    """One task of one run."""

    course: Course
    key: str
    declared: ForEach
    record: Record
    #: How many items its list has. -1: it was not worked out.
    count: int = -1
    by_hand: bool = False
    _items: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def wrong(self, event: StoredEvent) -> Iterator[str]:
        """What is wrong with an event of the list or of an item."""
        if event.task == self.key:
            yield from self._wrong_list(event)
        elif event.kind in ("task.leased", "task.activated"):
            yield from self._wrong_item(event)

    def _states(self) -> dict[str, str]:
        keys = [item_key(self.key, number) for number in range(max(self.count, 0))]
        return {key: self.course.of(key) for key in keys}

    def _failed(self) -> int:
        return sum(state == "FAILED" for state in self._states().values())

    def _wrong_list(self, event: StoredEvent) -> Iterator[str]:
        most = self.declared.failures_max
        if event.kind == "task.activated":
            self.count = int(event.message.split()[0])
            if self.count > self.declared.items_max:
                yield f"{self.key} has {self.count} items of at most {self.declared.items_max}"
        elif event.kind == "task.reopened":
            self.count = -1
        elif event.kind == "task.succeeded":
            self.by_hand = self.record.act_of(self.course.run_id, event) == "task.settle"
            if self.by_hand:
                return
            open_ = [key for key, state in self._states().items() if state not in ENDED]
            if open_ or self.count < 0:
                yield f"{self.key} succeeded without {open_}"
            if 0 <= most < self._failed():
                yield f"{self.key} succeeded with {self._failed()} failed items of {most}"
        elif event.kind == "task.failed" and event.code == "ITEMS_FAILED":
            failed = self._failed()
            if most < 0 or failed <= most:
                yield f"{self.key} failed with {failed} failed items of {most}"

    def _wrong_item(self, event: StoredEvent) -> Iterator[str]:
        states, most = self._states(), self.declared.failures_max
        if event.task not in states:
            yield f"{event.task} began, of {self.count} items"
            return
        begun = sum(state in _BEGUN for key, state in states.items() if key != event.task)
        if self.declared.parallelism and begun + 1 > self.declared.parallelism:
            yield f"{begun + 1} items of {self.key} at once, of {self.declared.parallelism}"
        if 0 <= most < self._failed():
            yield f"{event.task} began though {self._failed()} had failed, of {most}"

    def wrong_at_end(self) -> Iterator[str]:
        """What is wrong with its output, which is in the order of the items."""
        run_id = self.course.run_id
        stored = self.record.tasks.get((run_id, self.key))
        if stored is None or stored.state != "SUCCEEDED" or self.by_hand or self.count < 0:
            return
        wanted = []
        for key in self._states():
            item = self.record.tasks.get((run_id, key))
            succeeded = item is not None and item.state == "SUCCEEDED"
            wanted.append(item.output if item is not None and succeeded else None)
        if stored.output != wanted:
            yield f"{self.key} came to {stored.output}, its items to {wanted}"
