"""Two runs side by side: what counts as a difference, and where they first went apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tenure_server.core.definitions.definition import WorkflowDefinition, WorkflowTask
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState
from tenure_server.core.runs.extensions import Shape
from tenure_server.core.seeing.side_by_side import RunDifference, Side, TaskDifference, compare

BEGIN = 1_000_000
TASKS = (
    WorkflowTask(key="a", kind="k"),
    WorkflowTask(key="b", kind="k", depends_on=("a",)),
    WorkflowTask(key="c", kind="k", depends_on=("a",)),
)


def run(**changes: Any) -> records.Run:
    """A run."""
    values: dict[str, Any] = {
        "tenant_id": "acme",
        "run_id": "r",
        "workflow": "w",
        "workflow_version": 1,
        "workflow_digest": "sha256:w",
        "state": RunState.SUCCEEDED,
        "priority": 0,
        "labels": {},
        "input": None,
        "correlation_id": "c",
        "started_by": "k",
        "reason": "",
        "task_count": 3,
        "succeeded": 3,
        "failed": 0,
        "upstream_failed": 0,
        "cancelled": 0,
        "create_us": BEGIN,
        "start_us": BEGIN,
        "end_us": BEGIN + 100,
    }
    return records.Run(**{**values, **changes})


def row(index: int, **changes: Any) -> records.Task:
    """A task that succeeded at ten times its number."""
    values: dict[str, Any] = {
        "run_id": "r",
        "task_index": index,
        "task_key": TASKS[index].key,
        "state": TaskState.SUCCEEDED,
        "attempt": 1,
        "term": 1,
        "lost": 0,
        "agent": "host",
        "holder": "k",
        "token_hash": None,
        "lease_us": BEGIN + 10 * index,
        "end_us": BEGIN + 10 * index + 5,
        "retry_us": None,
        "result_hash": b"same",
        "failure": None,
        "output": None,
        "checkpoint": None,
    }
    return records.Task(**{**values, **changes})


def side(*rows: records.Task, tasks: tuple[WorkflowTask, ...] = TASKS, **changes: Any) -> Side:
    """A run with these rows of tasks, and usual ones for the others."""
    found = {number: row(number) for number in range(len(TASKS))}
    found |= {it.task_index: it for it in rows}
    digest = changes.pop("input_digest", "sha256:i")
    definition = WorkflowDefinition(name="w", tasks=tasks)
    states = [found[number].state for number in range(len(tasks))]
    return Side(run(**changes), digest, Shape(tasks, definition.check()), states, found)


def test_a_run_is_like_itself_however_long_it_took() -> None:
    slow = side(row(1, end_us=BEGIN + 90_000, agent="other", term=7), create_us=BEGIN, run_id="s")
    found = compare(side(), slow)
    assert (found.differences, found.differing, found.first) == ((), [], "")
    assert [pair.key for pair in found.tasks] == ["a", "b", "c"]


def test_every_way_in_which_runs_differ_is_named() -> None:
    changes: dict[RunDifference, dict[str, Any]] = {
        RunDifference.WORKFLOW: {"workflow": "v"},
        RunDifference.DEFINITION: {"workflow_digest": "sha256:v"},
        RunDifference.CONSTITUTION: {"constitution_digest": "sha256:c"},
        RunDifference.INPUT: {"input_digest": ""},
        RunDifference.LABELS: {"labels": {"env": "prod"}},
        RunDifference.PRIORITY: {"priority": 1},
        RunDifference.STATE: {"state": RunState.FAILED},
    }
    assert changes.keys() == set(RunDifference)
    for difference, change in changes.items():
        assert compare(side(), side(**change)).differences == (difference,)
    together: dict[str, Any] = {}
    for change in changes.values():
        together |= change
    assert compare(side(), side(**together)).differences == tuple(RunDifference)


def test_every_way_in_which_tasks_differ_is_named() -> None:
    other = replace(TASKS[1], kind="z")
    failure = Failure("BROKEN", "no luck")
    changes: dict[TaskDifference, Side] = {
        TaskDifference.MISSING: side(tasks=(TASKS[0], TASKS[2])),
        TaskDifference.DEFINITION: side(tasks=(TASKS[0], other, TASKS[2])),
        TaskDifference.STATE: side(row(1, state=TaskState.CANCELLED, result_hash=None)),
        TaskDifference.ATTEMPTS: side(row(1, attempt=2)),
        TaskDifference.FAILURE: side(row(1, failure=failure)),
        TaskDifference.OUTPUT: side(row(1, result_hash=b"other")),
    }
    assert changes.keys() == set(TaskDifference)
    for difference, right in changes.items():
        found = compare(side(), right)
        assert [pair.differences for pair in found.differing] == [(difference,)]
        assert found.first == "b"


def test_results_that_are_not_known_on_both_sides_are_no_difference() -> None:
    assert not compare(side(), side(row(1, result_hash=None))).differing
    failed = {"state": TaskState.FAILED, "failure": Failure("A")}
    both = [side(row(1, result_hash=digest, **failed)) for digest in (b"1", b"2")]
    assert not compare(*both).differing


def test_they_went_apart_where_a_differing_task_ended_soonest_after_its_run_began() -> None:
    """Whichever side it is on, and whenever the runs were."""
    left = side(row(1, attempt=2))
    later = 7_000_000_000
    rows = [
        row(n, lease_us=BEGIN + later + 10 * n, end_us=BEGIN + later + 10 * n + 5) for n in range(3)
    ]
    rows[2] = replace(rows[2], attempt=5, end_us=BEGIN + later + 1)
    right = side(*rows, create_us=BEGIN + later)
    for pair in ((left, right), (right, left)):
        found = compare(*pair)
        assert [one.key for one in found.differing] == ["b", "c"]
        assert found.first == "c"


def test_without_any_end_the_first_differing_task_is_named() -> None:
    left, right = (
        side(*(row(n, end_us=None, attempt=attempt) for n in range(3))) for attempt in (1, 2)
    )
    assert compare(left, right).first == "a"


def test_what_only_the_right_one_has_comes_last() -> None:
    found = compare(side(tasks=(TASKS[0], TASKS[2])), side())
    assert [pair.key for pair in found.tasks] == ["a", "c", "b"]
    assert found.tasks[-1].left is None


def test_how_long_a_task_took_is_known_only_from_both_its_ends() -> None:
    found = compare(side(row(1, lease_us=None)), side())
    pair = found.tasks[1]
    assert pair.left is not None
    assert pair.right is not None
    assert (pair.left.duration_us, pair.right.duration_us) == (None, 5)
