"""Runs beyond the limit of their key: nothing of them begins, and then each task once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import SECOND, World, flow, task

from tenure_server.core.definitions.definition import WorkflowDefinition, WorkflowTask
from tenure_server.core.definitions.features import Concurrency, Strategy, Timer, TriggerRule
from tenure_server.core.leasing.leases import STOPPED
from tenure_server.core.ledger.lifecycle import EventKind, RunState
from tenure_server.core.runs.live import LiveRun

TIMER = Timer(delay_us=10 * SECOND)


def one_at_once(*tasks: WorkflowTask, limit: int = 1, **options: Any) -> WorkflowDefinition:
    """A workflow of which so many runs of a key are open."""
    limited = Concurrency(limit=limit, key="run.input.k", **options)
    return flow(*tasks, concurrency=limited)


def two_runs(world: World, *tasks: WorkflowTask) -> tuple[LiveRun, LiveRun]:
    """Two runs of a key, of which the second is held."""
    flow_ = one_at_once(*tasks)
    first, second = (world.start_flow(flow_, given={"k": "x"}) for _ in range(2))
    world.desk.grants.admit(world.now_us)
    assert second.held
    return first, second


def let_in(world: World, first: LiveRun) -> None:
    """The first run of a key ends, and the next one comes in."""
    world.desk.interventions.close(first, "", world.now_us)
    world.desk.grants.admit(world.now_us)


def test_a_run_that_is_let_in_begins_each_task_once() -> None:
    """Also one whose turn comes while those before it are looked at."""
    world = World()
    after = TriggerRule.ALL_DONE
    first, second = two_runs(
        world,
        task("a", when="false"),
        task("t", "a", kind="", wait=TIMER, trigger=after),
        task("b", "a", when="false", trigger=after),
        task("c", "a", trigger=after),
    )
    let_in(world, first)
    kinds = world.kinds(second)
    assert kinds.count(EventKind.TASK_SKIPPED) == 2
    assert kinds.count(EventKind.TASK_ACTIVATED) == 1
    assert [lease.task_key for lease in world.grant()] == ["c"]
    assert world.desk.ready.size == 0


@pytest.mark.parametrize("restart", [False, True])
def test_nothing_begins_when_a_task_of_a_held_run_is_skipped(restart: bool) -> None:
    world = World()
    first, second = two_runs(
        world, task("a"), task("t", "a", kind="", wait=TIMER, trigger=TriggerRule.ALL_DONE)
    )
    world.desk.interventions.skip(second, 0, "not needed", world.now_us)
    assert world.states(second) == {"a": "SKIPPED", "t": "WAITING"}
    if restart:
        world.reopen()
        first, second = world.again(first), world.again(second)
    let_in(world, first)
    assert world.states(second) == {"a": "SKIPPED", "t": "ACTIVE"}


def test_a_run_that_is_opened_again_is_held_like_a_new_one() -> None:
    world = World()
    first, second = two_runs(world, task("t", kind="", wait=TIMER))
    let_in(world, first)
    again = world.execute_again(first)
    assert again.held
    assert world.states(again) == {"t": "WAITING"}
    let_in(world, second)
    assert world.states(again) == {"t": "ACTIVE"}


@pytest.mark.parametrize("first", ["a", "z"])
def test_only_what_would_begin_first_fails_of_a_key_that_cannot_be_worked_out(first: str) -> None:
    """Whatever the order of the definition; what begins after that failure is executed."""
    world = World()
    tasks = [task(first), task("told", first, trigger=TriggerRule.ANY_FAILED)]
    run = world.start_flow(one_at_once(*sorted(tasks, key=lambda one: one.key)), given={})
    world.desk.grants.admit(world.now_us)
    assert world.states(run) == {first: "FAILED", "told": "READY"}
    assert world.failure(run, first) == "KEY_FAILED"
    assert [lease.task_key for lease in world.grant()] == ["told"]


@pytest.mark.parametrize("restart", ["never", "before it comes in", "after it came in"])
def test_the_oldest_run_goes_whenever_it_was_let_in(restart: str) -> None:
    """Runs are read back by their age: only what comes in later comes in behind younger ones."""
    world = World()
    flow_ = one_at_once(task("a"), limit=2, strategy=Strategy.CANCEL_RUNNING)
    old, newer = (world.start_flow(flow_, given={"k": "x"}) for _ in range(2))
    leases = {lease.run.run_id: lease for lease in world.grant()}
    world.desk.cancel_run(old, "", world.now_us)
    world.settle(leases[old.run_id], STOPPED)
    if restart == "before it comes in":
        world.reopen()
        newer = world.again(newer)
    # It comes in behind the newer one.
    old = world.execute_again(old)
    if restart == "after it came in":
        world.reopen()
        old, newer = world.again(old), world.again(newer)
    world.start_flow(flow_, given={"k": "x"})
    world.desk.grants.admit(world.now_us)
    assert (old.state, newer.state) == (RunState.CANCELLED, RunState.RUNNING)
