"""Conditions: tasks that are executed only when something holds."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import SECOND, World, flow, json_payload, portrait, task

from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.definitions.features import ForEach, Timer, TriggerRule
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import EventKind, RunState


def done(output: Any) -> Success:
    return Success(json_payload(output))


def last_event(world: World, run_id: str, key: str) -> dict[str, Any]:
    world.commit()
    return [event for event in world.tables.events[run_id] if event["task_key"] == key][-1]


@pytest.fixture
def world() -> World:
    return World()


def test_a_task_whose_condition_holds_is_executed_and_another_is_skipped(world: World) -> None:
    run = world.start(
        task("score"),
        task("praise", "score", when="tasks.score.output.points > 9"),
        task("blame", "score", when="tasks.score.output.points < 3"),
    )
    world.settle(world.hold_one(), done({"points": 10}))
    assert world.states(run) == {"score": "SUCCEEDED", "praise": "READY", "blame": "SKIPPED"}
    event = last_event(world, run.run_id, "blame")
    assert event["kind"] == EventKind.TASK_SKIPPED
    assert event["message"] == "its condition does not hold: tasks.score.output.points < 3"
    world.settle(world.hold_one())
    assert run.state is RunState.SUCCEEDED


def test_what_depends_on_a_skipped_task_goes_by_its_trigger_rule(world: World) -> None:
    run = world.start(
        task("maybe", when="run.input.n > 100"),
        task("strict", "maybe"),
        task("behind", "strict"),
        task("lenient", "maybe", trigger=TriggerRule.NONE_FAILED),
    )
    assert world.states(run) == {
        "maybe": "SKIPPED",
        "strict": "SKIPPED",
        "behind": "SKIPPED",
        "lenient": "READY",
    }


def test_a_run_of_which_everything_is_skipped_has_succeeded(world: World) -> None:
    run = world.start(task("a", when="false"), task("b", "a"))
    assert run.state is RunState.SUCCEEDED
    assert run.run_id not in world.desk.runs
    world.commit()


def test_a_condition_that_comes_to_nothing_fails_its_task_and_the_run_goes_on(
    world: World,
) -> None:
    run = world.start(
        task("a", when="run.input.missing == 1", retry=RetryPolicy(max_attempts=5)),
        task("behind", "a"),
        task("clean-up", "a", trigger=TriggerRule.ALL_DONE),
    )
    assert world.states(run) == {"a": "FAILED", "behind": "UPSTREAM_FAILED", "clean-up": "READY"}
    event = last_event(world, run.run_id, "a")
    assert event["code"] == "CONDITION_FAILED"
    assert event["message"].startswith("when: run.input.missing == 1: ")
    assert "has no 'missing'" in event["message"]
    world.settle(world.hold_one())
    assert run.state is RunState.FAILED
    assert run.reason == "task a failed: CONDITION_FAILED"


def test_conditions_hold_for_what_waits_and_for_lists_too(world: World) -> None:
    run = world.start(
        task("nap", kind="", wait=Timer(delay_us=SECOND), when="run.input.n == 0"),
        task("list", for_each=ForEach(items="[1, 2]"), when="run.input.n == 0"),
        task("rest", kind="", wait=Timer(delay_us=SECOND), when="run.input.n == 1"),
    )
    assert world.states(run) == {"nap": "SKIPPED", "list": "SKIPPED", "rest": "ACTIVE"}


def test_a_restart_does_not_ask_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.start(task("a"), task("b", "a", when="tasks.a.output.go"))
    world.settle(world.hold_one(), done({"go": True}))
    before = portrait(world.desk)
    monkeypatch.setattr("tenure_server.core.runs.data_flow.holds", None)
    world.reopen()
    assert portrait(world.desk) == before
    assert world.states(world.desk.runs[run.run_id])["b"] == "READY"


def test_a_long_chain_of_tasks_that_end_at_once_is_not_too_deep(world: World) -> None:
    tasks = [task("t0", when="false")]
    for number in range(1, 2000):
        tasks.append(
            task(
                f"t{number}",
                f"t{number - 1}",
                trigger=TriggerRule.NONE_FAILED,
                **({"when": "false"} if number % 2 else {"for_each": ForEach(items="[]")}),
            )
        )
    run = world.start_flow(flow(*tasks))
    assert run.state is RunState.SUCCEEDED
    assert world.states(run)["t1998"] == "SUCCEEDED"
    world.commit()


def test_executing_a_task_again_asks_its_condition_again(world: World) -> None:
    run = world.start(task("a"), task("b", "a", when="tasks.a.output.go"), task("c"))
    first, other = world.grant(at_most=2)
    world.settle(first, done({"go": False}))
    assert world.states(run)["b"] == "SKIPPED"
    world.execute_again(run, "a")
    world.settle(world.hold_one(), done({"go": True}))
    assert world.states(run)["b"] == "READY"
    world.settle(world.hold_one())
    world.settle(other)
    assert run.state is RunState.SUCCEEDED
    world.commit()
