"""Whom a full key costs its place is the same whatever happens meanwhile.

`cancel_running` and `cancel_newest`, of tasks and of runs: with retries, cancels, pauses, restarts,
and agents that are lost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.server.core.leasing.test_limits import held_to, keyed
from tests.server.core.world import LEASE_US, SECOND, World, flow, task

from tenure_server.core.definitions.definition import RetryPolicy, WorkflowDefinition, WorkflowTask
from tenure_server.core.definitions.features import Strategy
from tenure_server.core.leasing.leases import STOPPED
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState
from tenure_server.core.runs.live import LiveRun

BOOM = Failure("BOOM")
TWICE = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
RUNNING, NEWEST = Strategy.CANCEL_RUNNING, Strategy.CANCEL_NEWEST

restarts = pytest.mark.parametrize("restart", [False, True], ids=["in memory", "after a restart"])


def of_tasks(strategy: Strategy, **options: Any) -> WorkflowDefinition:
    """Runs whose tasks share a key."""
    return flow(keyed("a", strategy=strategy, **options))


def start(world: World, definition: WorkflowDefinition) -> LiveRun:
    """Starts a run of the key."""
    run = world.start_flow(definition, given={"k": "x"})
    world.desk.grants.admit(world.now_us)
    return run


def step(world: World, restart: bool) -> None:
    """Throws memory away where that is asked for."""
    if restart:
        world.reopen()


def state(world: World, run: LiveRun) -> RunState:
    """Where a run stands."""
    world.commit()
    return world.tables.run(run.run_id).state


def retrying(strategy: Strategy) -> WorkflowTask:
    """A task of the key with two attempts."""
    return replace(keyed("a", strategy=strategy), retry=TWICE)


# -- cancel_running, of tasks


@restarts
def test_a_place_that_is_free_until_the_next_attempt_goes_to_the_newer(restart: bool) -> None:
    world = World()
    definition = flow(retrying(RUNNING))
    old = start(world, definition)
    world.settle(world.hold_one(), BOOM)
    new = start(world, definition)
    lease = world.hold_one()
    assert lease.run is new
    step(world, restart)
    world.wait(SECOND)
    # The attempt that is due is the newer one now, and displaces what runs.
    world.desk.grants.admit(world.now_us)
    assert [one.key for one in world.desk.cancelling] == [lease.key]
    world.settle(lease, STOPPED)
    assert state(world, new) is RunState.FAILED
    world.settle(world.hold_one())
    assert state(world, old) is RunState.SUCCEEDED


@restarts
@pytest.mark.parametrize("how", ["lost", "cancelled", "closed"])
def test_whoever_was_to_make_way_does_so_however_its_lease_ends(how: str, restart: bool) -> None:
    world = World()
    old = start(world, of_tasks(RUNNING))
    lease = world.hold_one()
    new = start(world, of_tasks(RUNNING))
    step(world, restart)
    old = world.again(old)
    if how == "lost":
        world.wait(LEASE_US)
    elif how == "cancelled":
        world.desk.cancel_run(old, "enough", world.now_us)
        world.settle(lease, STOPPED)
    else:
        world.desk.interventions.close(old, "enough", world.now_us)
    ends = {"lost": RunState.FAILED, "cancelled": RunState.CANCELLED, "closed": RunState.CLOSED}
    assert state(world, old) is ends[how]
    assert world.grant_one().run.run_id == new.run_id


@restarts
def test_a_task_of_a_paused_run_makes_nobody_go_before_it_goes_on(restart: bool) -> None:
    world = World()
    start(world, of_tasks(RUNNING))
    lease = world.hold_one()
    new = world.start_flow(of_tasks(RUNNING), given={"k": "x"})
    world.desk.interventions.pause(new, "wait", world.now_us)
    step(world, restart)
    world.desk.grants.admit(world.now_us)
    assert not world.desk.leases[lease.key].cancelling
    world.desk.interventions.resume(world.again(new), "", world.now_us)
    world.desk.grants.admit(world.now_us)
    assert world.desk.leases[lease.key].cancelling


# -- cancel_newest, of tasks


@restarts
def test_an_attempt_that_comes_to_a_full_key_is_the_newest(restart: bool) -> None:
    world = World()
    definition = flow(retrying(NEWEST))
    old = start(world, definition)
    world.settle(world.hold_one(), BOOM)
    new = start(world, definition)
    lease = world.hold_one()
    step(world, restart)
    world.wait(SECOND)
    world.desk.grants.admit(world.now_us)
    assert state(world, old) is RunState.FAILED
    assert world.tables.task(old.run_id, 0).state is TaskState.CANCELLED
    world.settle(lease)
    assert state(world, new) is RunState.SUCCEEDED


@restarts
def test_a_lost_lease_leaves_its_place_and_is_new_when_it_is_ready_again(restart: bool) -> None:
    world = World()
    old = start(world, of_tasks(NEWEST))
    world.hold_one()
    world.wait(LEASE_US)
    step(world, restart)
    # Nobody came in between: it is leased again.
    lease = world.grant_one()
    assert (lease.run.run_id, lease.attempt) == (old.run_id, 1)


@restarts
def test_the_newest_of_a_paused_workflow_or_run_is_asked_when_it_goes_on(restart: bool) -> None:
    world = World()
    definition = of_tasks(NEWEST)
    new = world.start_flow(definition, given={"k": "x"})
    world.desk.interventions.pause(new, "wait", world.now_us)
    old = start(world, definition)
    lease = world.hold_one()
    assert lease.run is old
    step(world, restart)
    assert state(world, new) is RunState.PAUSED
    world.desk.interventions.resume(world.again(new), "", world.now_us)
    world.desk.grants.admit(world.now_us)
    assert state(world, new) is RunState.FAILED


# -- of runs


@restarts
def test_a_paused_run_has_its_place_and_may_lose_it_to_a_newer_one(restart: bool) -> None:
    world = World()
    definition = held_to(1, task("a"), strategy=RUNNING)
    old = start(world, definition)
    lease = world.hold_one()
    world.desk.interventions.pause(old, "wait", world.now_us)
    new = start(world, definition)
    step(world, restart)
    assert state(world, old) is RunState.CANCELLING
    world.settle(lease, STOPPED)
    assert world.grant_one().run.run_id == new.run_id


@restarts
@pytest.mark.parametrize("strategy", [Strategy.QUEUE, RUNNING, NEWEST])
def test_a_retry_within_a_run_keeps_the_place_of_the_run(strategy: Strategy, restart: bool) -> None:
    world = World()
    definition = held_to(1, task("a", retry=TWICE), strategy=strategy)
    old = start(world, definition)
    world.settle(world.hold_one(), BOOM)
    new = start(world, definition)
    step(world, restart)
    world.wait(SECOND)
    expected = {
        Strategy.QUEUE: (RunState.RUNNING, RunState.RUNNING),
        RUNNING: (RunState.CANCELLED, RunState.RUNNING),
        NEWEST: (RunState.RUNNING, RunState.CANCELLED),
    }
    assert (state(world, old), state(world, new)) == expected[strategy]
    assert world.grant_one().run.run_id == (new if strategy is RUNNING else old).run_id


@restarts
@pytest.mark.parametrize("strategy", [Strategy.QUEUE, RUNNING, NEWEST])
def test_a_run_whose_agent_is_lost_keeps_its_place(strategy: Strategy, restart: bool) -> None:
    world = World()
    definition = held_to(1, task("a"), strategy=strategy)
    old = start(world, definition)
    world.hold_one()
    step(world, restart)
    world.wait(LEASE_US)
    new = start(world, definition)
    if strategy is RUNNING:
        assert state(world, old) is RunState.CANCELLED
        assert world.grant_one().run.run_id == new.run_id
    else:
        assert world.grant_one().run.run_id == old.run_id
        assert (state(world, new) is RunState.CANCELLED) == (strategy is NEWEST)


@restarts
def test_a_run_that_is_opened_again_waits_for_a_place(restart: bool) -> None:
    world = World()
    definition = held_to(1, task("a"))
    old = start(world, definition)
    world.settle(world.hold_one(), BOOM)
    new = start(world, definition)
    world.execute_again(old)
    step(world, restart)
    lease = world.hold_one()
    assert lease.run.run_id == new.run_id
    assert world.grant() == []
    world.settle(lease)
    assert world.grant_one().run.run_id == old.run_id
