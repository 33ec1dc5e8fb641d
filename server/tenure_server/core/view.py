"""What a run looks like from its definition and its rows.

Tasks that were never touched have no row: where they stand follows from the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tenure_server.core import records
from tenure_server.core.graph import Graph
from tenure_server.core.lifecycle import TaskState


def task_states(graph: Graph, rows: Mapping[int, TaskState]) -> list[TaskState]:
    """The state of every task, from the states of those that have a row."""
    return [
        rows.get(number) or _untouched(graph.upstream[number], rows)
        for number in range(len(graph.keys))
    ]


def _untouched(upstream: Sequence[int], rows: Mapping[int, TaskState]) -> TaskState:
    if all(rows.get(number) is TaskState.SUCCEEDED for number in upstream):
        return TaskState.READY
    return TaskState.WAITING


def counts(states: Sequence[TaskState]) -> records.Counts:
    """How many tasks are in each state."""
    by_state = Counter(states)
    return records.Counts(
        total=len(states),
        waiting=by_state[TaskState.WAITING],
        ready=by_state[TaskState.READY],
        leased=by_state[TaskState.LEASED],
        retrying=by_state[TaskState.RETRYING],
        succeeded=by_state[TaskState.SUCCEEDED],
        failed=by_state[TaskState.FAILED],
        upstream_failed=by_state[TaskState.UPSTREAM_FAILED],
        cancelled=by_state[TaskState.CANCELLED],
    )
