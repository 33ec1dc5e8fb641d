"""What a run looks like from its definition and its rows.

Tasks that were never touched have no row: where they stand follows from the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import TASK_ENDED, TaskState
from tenure_server.core.runs.extensions import ITEMS, Shape, parts_of
from tenure_server.core.runs.triggers import Turn, turn


def task_states(shape: Shape, rows: Mapping[int, TaskState]) -> list[TaskState]:
    """The state of every task, from the states of those that have a row."""
    planned = shape.planned
    states = [state_of(shape, number, rows) for number in range(planned)]
    beside = range(planned, len(shape.tasks))
    states += [rows.get(number, TaskState.WAITING) for number in beside]
    for index in {one.of for one in shape.extensions if one.kind == ITEMS}:
        if states[index] is TaskState.ACTIVE:
            _wake(shape, index, states)
    return states


def _wake(shape: Shape, index: int, states: list[TaskState]) -> None:
    """The first items of a list that wait are ready, as long as there are places for them."""
    declared = shape.tasks[index].for_each
    assert declared is not None
    parts = parts_of(shape.planned, shape.extensions, index)
    waiting = [part for part in parts if states[part] is TaskState.WAITING]
    awake = sum(states[part] not in TASK_ENDED for part in parts) - len(waiting)
    for part in waiting[: (declared.parallelism or len(parts)) - awake]:
        states[part] = TaskState.READY


def state_of(shape: Shape, number: int, rows: Mapping[int, TaskState]) -> TaskState:
    """The state of a task of the definition, from the rows of itself and of what it depends on."""
    row = rows.get(number)
    # A row that says so was opened again, and stands where one without a row does.
    if row is not None and row is not TaskState.WAITING:
        return row
    if number in shape.aftermath:
        return TaskState.WAITING
    upstream = [rows.get(up, TaskState.WAITING) for up in shape.graph.upstream[number]]
    come = turn(shape.tasks[number].trigger, upstream) is Turn.COME
    return TaskState.READY if come else TaskState.WAITING


def counts(states: Sequence[TaskState]) -> records.Counts:
    """How many tasks are in each state."""
    tallies = [0] * (max(TaskState) + 1)
    for state in states:
        tallies[state] += 1
    return records.Counts.of(tallies)
