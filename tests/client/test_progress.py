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


def test_the_total_grows_with_the_items_of_a_list() -> None:
    tally = progress.Tally(2)
    begun = event(2, "TASK_ACTIVATED", "each", message="3 items")
    assert progress.makes_tasks(begun)
    assert not progress.makes_tasks(event(2, "TASK_ACTIVATED", "nap", message="timer"))
    for each in (
        event(1, "RUN_STARTED"),
        begun,
        event(3, "TASK_LEASED", "each[0]"),
        event(4, "TASK_LEASED", "each[1]"),
        event(5, "TASK_LEASED", "each[2]"),
    ):
        tally.take(each)
    assert tally.total == 4


def test_leases_are_judged_by_trigger_rules_and_items_by_their_list() -> None:
    definition = workflows_pb2.WorkflowDefinition(name="w")
    definition.tasks.add(key="a")
    definition.tasks.add(key="each", depends_on=["a"]).for_each.items = "run.input"
    rule = workflows_pb2.TRIGGER_RULE_ALL_DONE
    definition.tasks.add(key="z", depends_on=["each"], trigger=rule)
    early = [event(1, "TASK_LEASED", "each[0]"), event(2, "TASK_LEASED", "z")]
    assert list(report.order_violations(definition, early)) == [
        ("each[0]", "before 'a' succeeded"),
        ("z", "before 'each' ended"),
    ]
    good = [
        event(1, "TASK_SUCCEEDED", "a"),
        event(2, "TASK_LEASED", "each[0]"),
        event(3, "TASK_FAILED", "each"),
        event(4, "TASK_LEASED", "z"),
    ]
    assert list(report.order_violations(definition, good)) == []


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
    missing = [("c", "before 'b' succeeded")]
    assert list(report.order_violations(definition, early)) == missing
    failed = [event(1, "TASK_FAILED", "a"), event(2, "TASK_LEASED", "b")]
    assert list(report.order_violations(definition, failed)) == [("b", "before 'a' succeeded")]


def test_trigger_rules_and_what_undoes_others_are_no_violations() -> None:
    definition = definition_of(a=[], b=["a"])
    definition.tasks[1].trigger = workflows_pb2.TRIGGER_RULE_ANY_FAILED
    good = [
        event(1, "TASK_LEASED", "a"),
        event(2, "TASK_FAILED", "a"),
        event(3, "TASK_LEASED", "b"),
        event(4, "TASK_SUCCEEDED", "b"),
        event(5, "TASK_LEASED", "b~undo"),
    ]
    assert list(report.order_violations(definition, good)) == []
    early = [good[0], event(2, "TASK_SUCCEEDED", "a"), good[2]]
    assert list(report.order_violations(definition, early)) == [("b", "before any of a failed")]


def test_what_undoes_others_counts_beside_the_tasks_of_the_definition() -> None:
    tally = progress.Tally(2)
    for number, (what, key) in enumerate(
        [("SUCCEEDED", "a"), ("FAILED", "b"), ("LEASED", "a~undo"), ("SUCCEEDED", "a~undo")]
    ):
        tally.take(event(number, f"TASK_{what}", key))
        assert tally.ended <= tally.total
    assert (tally.ended, tally.total) == (3, 3)


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
