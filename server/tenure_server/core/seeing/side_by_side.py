"""Two runs laid side by side: in what they differ, and where they first went apart."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from tenure_server.core.definitions.definition import WorkflowTask
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import TaskState
from tenure_server.core.runs.extensions import Shape


class RunDifference(enum.IntEnum):
    """In what two runs can differ as a whole. Numbers as in the contract."""

    WORKFLOW = 1
    DEFINITION = 2
    CONSTITUTION = 3
    INPUT = 4
    LABELS = 5
    PRIORITY = 6
    STATE = 7


class TaskDifference(enum.IntEnum):
    """In what a task of two runs can differ. Numbers as in the contract."""

    MISSING = 1
    DEFINITION = 2
    STATE = 3
    ATTEMPTS = 4
    FAILURE = 5
    OUTPUT = 6


@dataclass(frozen=True, slots=True)
class Side:
    """A run with what became of its tasks."""

    run: records.Run
    #: As evidence has it; empty for none.
    input_digest: str
    shape: Shape
    #: Of each task, by number.
    states: Sequence[TaskState]
    #: The tasks that have a row, by number.
    rows: Mapping[int, records.Task]


@dataclass(frozen=True, slots=True)
class SeenTask:
    """A task of one side."""

    node: WorkflowTask
    state: TaskState
    row: records.Task | None

    @property
    def attempt(self) -> int:
        """How many attempts were begun."""
        return 0 if self.row is None else self.row.attempt

    @property
    def failure_code(self) -> str:
        """The code of its last failure, empty for none."""
        return "" if self.row is None or self.row.failure is None else self.row.failure.code

    @property
    def end_us(self) -> int | None:
        """When it ended."""
        return None if self.row is None else self.row.end_us

    @property
    def duration_us(self) -> int | None:
        """From its last lease to its end."""
        if self.row is None or self.row.end_us is None or self.row.lease_us is None:
            return None
        return max(0, self.row.end_us - self.row.lease_us)

    @property
    def result(self) -> bytes | None:
        """The digest of what it came to, if it succeeded: the same for the same output."""
        if self.row is None or self.state is not TaskState.SUCCEEDED:
            return None
        return self.row.result_hash


@dataclass(frozen=True, slots=True)
class TaskPair:
    """A task of two runs, None where a run does not have it."""

    key: str
    left: SeenTask | None
    right: SeenTask | None
    differences: tuple[TaskDifference, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What there is to say of two runs."""

    differences: tuple[RunDifference, ...]
    #: In the order of the left definition; what only the right one has comes last.
    tasks: tuple[TaskPair, ...]
    #: The key of the differing task that ended soonest after its run began. Empty: none differs.
    first: str

    @property
    def differing(self) -> list[TaskPair]:
        """The tasks that differ."""
        return [pair for pair in self.tasks if pair.differences]


def compare(left: Side, right: Side) -> Comparison:
    """Lays two runs side by side. How long things took is no difference."""
    mine, theirs = _tasks(left), _tasks(right)
    keys = dict.fromkeys([*mine, *theirs])
    pairs = tuple(_pair(key, mine.get(key), theirs.get(key)) for key in keys)
    return Comparison(tuple(_run_differences(left, right)), pairs, _first(left, right, pairs))


_ALIKE = {
    RunDifference.WORKFLOW: attrgetter("run.workflow"),
    RunDifference.DEFINITION: attrgetter("run.workflow_digest"),
    RunDifference.CONSTITUTION: attrgetter("run.constitution_digest"),
    RunDifference.INPUT: attrgetter("input_digest"),
    RunDifference.LABELS: attrgetter("run.labels"),
    RunDifference.PRIORITY: attrgetter("run.priority"),
    RunDifference.STATE: attrgetter("run.state"),
}


def _run_differences(left: Side, right: Side) -> list[RunDifference]:
    return [kind for kind, of in _ALIKE.items() if of(left) != of(right)]


def _tasks(side: Side) -> dict[str, SeenTask]:
    return {
        side.shape.graph.keys[number]: SeenTask(node, side.states[number], side.rows.get(number))
        for number, node in enumerate(side.shape.tasks)
    }


def _pair(key: str, left: SeenTask | None, right: SeenTask | None) -> TaskPair:
    if left is None or right is None:
        return TaskPair(key, left, right, (TaskDifference.MISSING,))
    found = []
    if left.node != right.node:
        found.append(TaskDifference.DEFINITION)
    if left.state is not right.state:
        found.append(TaskDifference.STATE)
    if left.attempt != right.attempt:
        found.append(TaskDifference.ATTEMPTS)
    if left.failure_code != right.failure_code:
        found.append(TaskDifference.FAILURE)
    # What is not known of one side is no difference.
    if left.result and right.result and left.result != right.result:
        found.append(TaskDifference.OUTPUT)
    return TaskPair(key, left, right, tuple(found))


def _first(left: Side, right: Side, pairs: Sequence[TaskPair]) -> str:
    """The differing task that ended soonest after its run began; without an end, the first one."""
    ends = []
    for number, pair in enumerate(pairs):
        if not pair.differences:
            continue
        for side, task in ((left, pair.left), (right, pair.right)):
            if task is not None and task.end_us is not None:
                ends.append((task.end_us - side.run.create_us, number))
    if ends:
        return pairs[min(ends)[1]].key
    return next((pair.key for pair in pairs if pair.differences), "")
