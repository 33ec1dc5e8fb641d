"""A run while it runs: what its events add up to, and how that is shown."""

from __future__ import annotations

import io

from rich.console import Console
from tests.client.conftest import event

from tenure.v1 import runs_pb2, workflows_pb2
from tenure_client.cli import progress, report


def test_events_add_up_to_counts() -> None:
    tally = progress.Tally(6)
    events = [
        event(1, "RUN_STARTED"),
        event(2, "TASK_LEASED", "a"),
        event(3, "TASK_LEASED", "b"),
        event(4, "TASK_LEASED", "c"),
        event(5, "TASK_SUCCEEDED", "a"),
        event(6, "TASK_RETRYING", "b"),
        event(7, "TASK_LEASE_LOST", "c"),
    ]
    for each in events:
        tally.take(each)
    assert (tally.ended, tally.summary()) == (1, "1 retrying")
    for each in (
        event(8, "TASK_LEASED", "b"),
        event(9, "TASK_LEASED", "c"),
        event(10, "TASK_CHECKPOINTED", "c"),
    ):
        tally.take(each)
    assert tally.summary() == "2 running"
    for each in (
        event(11, "TASK_FAILED", "b"),
        event(12, "TASK_UPSTREAM_FAILED", "d"),
        event(13, "TASK_CANCELLED", "c"),
    ):
        tally.take(each)
    assert (tally.ended, tally.running, tally.retrying) == (4, {}, set())
    assert tally.summary() == "1 failed, 1 upstream failed, 1 cancelled"


def test_a_terminal_shows_bar_counts_and_running_tasks() -> None:
    screen = io.StringIO()
    tally = progress.Tally(20)
    bars = progress.Bars("[b]name", tally, Console(file=screen, force_terminal=True, width=80))
    with bars:
        for number in range(progress.RUNNING_TASKS_SHOWN + 3):
            tally.take(event(number, "TASK_LEASED", f"task-{number}", agent="host-1"))
        tally.take(event(90, "TASK_SUCCEEDED", "task-0"))
    shown = screen.getvalue()
    assert "[b]name" in shown
    assert "1/20" in shown
    assert "8 running" in shown
    assert "> task-1" in shown
    assert "and 2 more" in shown


def definition_of(**depends_on: list[str]) -> workflows_pb2.WorkflowDefinition:
    tasks = [
        workflows_pb2.WorkflowTask(key=key, kind="k", depends_on=names)
        for key, names in depends_on.items()
    ]
    return workflows_pb2.WorkflowDefinition(name="a", tasks=tasks)


def test_a_lease_before_a_dependency_has_succeeded_is_a_violation() -> None:
    definition = definition_of(a=[], b=["a"], c=["a", "b"])
    good = [
        event(1, "TASK_LEASED", "a"),
        event(2, "TASK_SUCCEEDED", "a"),
        event(3, "TASK_LEASED", "b"),
        event(4, "TASK_SUCCEEDED", "b"),
        event(5, "TASK_LEASED", "c"),
    ]
    assert list(report.order_violations(definition, reversed(good))) == []
    early = [*good[:3], event(4, "TASK_LEASED", "c"), event(5, "TASK_SUCCEEDED", "b")]
    assert list(report.order_violations(definition, early)) == [("c", "b")]
    failed = [event(1, "TASK_FAILED", "a"), event(2, "TASK_LEASED", "b")]
    assert list(report.order_violations(definition, failed)) == [("b", "a")]


def test_the_critical_path_of_no_trace_is_made_of_measured_times() -> None:
    definition = definition_of(a=[], b=["a"], c=["a"], d=["b", "c"])
    tasks = []
    for key, begin, end in (("a", 0, 2), ("b", 2, 3), ("c", 2, 7)):
        task = runs_pb2.Task(key=key)
        task.lease_time.FromSeconds(begin)
        task.end_time.FromSeconds(end)
        tasks.append(task)
    tasks.append(runs_pb2.Task(key="d"))
    assert report.critical_path_seconds(definition, tasks, 0.001) == 7.0
