"""Of paused workflows and tenants nothing new is leased; when they go on, all goes on at once."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from tests.server.core.world import SECOND, World, flow, task

from tenure_server.core.definitions.features import Concurrency, Timer
from tenure_server.core.desks import pauses
from tenure_server.core.ledger.lifecycle import RunState, TaskState, Verdict
from tenure_server.core.ledger.records import Pause
from tenure_server.core.seeing.hindrances import Kind, explain
from tenure_server.core.seeing.ready_hindrances import Why, why_not


def pause(world: World, *names: str) -> None:
    """Has these workflows paused, and under an empty name the tenant, and nothing else."""
    taken = {
        name: Pause(workflow=name, reason="look first", pause_us=1, paused_by="key")
        for name in names
    }
    pauses.take(world.desk, taken, world.now_us)


def reopen(world: World) -> None:
    """Reads the desk back with what is paused of it."""
    taken = world.desk.pauses
    world.reopen()
    world.desk.pauses = taken


def leased(world: World, *kinds: str) -> list[str]:
    """The tasks that an agent of these kinds is granted."""
    return [lease.task_key for lease in world.grant(world.agent(kinds=kinds or ("work",)))]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("what", ["flow", pauses.TENANT])
def test_nothing_new_is_leased_and_what_is_leased_goes_on(what: str, restart: bool) -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"), task("c"))
    lease = world.hold_one()
    pause(world, what)
    assert leased(world) == []
    assert world.settle(lease) is Verdict.APPLIED
    if restart:
        reopen(world)
    assert world.states(world.again(run)) == {"a": "SUCCEEDED", "b": "READY", "c": "READY"}
    assert leased(world) == []
    pause(world)
    assert sorted(leased(world)) == ["b", "c"]


def test_only_the_paused_workflow_waits_and_its_new_runs_wait_with_it() -> None:
    world = World()
    pause(world, "flow")
    world.start(task("a"))
    world.start_flow(flow(task("b"), name="other"))
    assert leased(world) == ["b"]


@pytest.mark.parametrize("limit", [0, 1])
def test_every_bucket_that_waited_comes_back(limit: int) -> None:
    world = World()
    same = Concurrency(limit=9)
    runs = [
        world.start(
            task("a"),
            task("b", kind="rare"),
            task("c", concurrency=same),
            max_leases=limit,
            priority=priority,
        )
        for priority in (0, 5, 0)
    ]
    pause(world, "flow")
    assert leased(world, "work", "rare") == []
    pause(world)
    got: list[str] = []
    agent = world.agent(kinds=("work", "rare"))
    while leases := world.grant(agent):
        for lease in leases:
            world.desk.accept(lease)
            world.settle(lease)
        got += [lease.task_key for lease in leases]
    assert sorted(got) == sorted("abc" * 3)
    assert {run.state for run in runs} == {RunState.SUCCEEDED}


def test_a_run_that_ends_while_its_workflow_is_paused_leaves_nothing_behind() -> None:
    world = World()
    first, second = world.start(task("a")), world.start(task("a"))
    pause(world, "flow")
    assert leased(world) == []
    world.desk.cancel_run(first, "", world.now_us)
    assert leased(world) == []
    pause(world)
    [lease] = world.grant()
    assert lease.run is second


def test_a_run_that_is_paused_itself_stays_so() -> None:
    world = World()
    run = world.start(task("a"))
    world.desk.interventions.pause(run, "", world.now_us)
    pause(world, "flow", pauses.TENANT)
    world.desk.interventions.resume(run, "", world.now_us)
    assert leased(world) == []
    pause(world, "flow")
    assert leased(world) == []
    world.desk.interventions.pause(run, "", world.now_us)
    pause(world)
    assert leased(world) == []
    world.desk.interventions.resume(run, "", world.now_us)
    assert leased(world) == ["a"]


@pytest.mark.parametrize("restart", [False, True])
def test_nobody_fails_of_waiting_meanwhile(restart: bool) -> None:
    world = World()
    run = world.start(task("a", queue_timeout_us=10 * SECOND))
    pause(world, "flow")
    world.wait(20 * SECOND)
    if restart:
        reopen(world)
        world.wait(SECOND)
    pause(world)
    world.wait(9 * SECOND)
    run = world.again(run)
    assert world.state(run, "a") is TaskState.READY
    world.wait(SECOND)
    assert world.state(run, "a") is TaskState.FAILED


def test_timers_go_on() -> None:
    world = World()
    run = world.start(task("nap", kind="", wait=Timer(delay_us=SECOND)), task("a", "nap"))
    pause(world, pauses.TENANT)
    world.wait(SECOND)
    assert world.states(run) == {"nap": "SUCCEEDED", "a": "READY"}


def test_each_task_says_what_is_paused_and_why() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"))
    agents = [world.agent()]

    def kinds(index: int) -> Iterable[Kind]:
        [explained] = explain(world.desk, run, [index], agents, world.now_us)
        return [hindrance.kind for hindrance in explained.hindrances]

    pause(world, "flow")
    assert kinds(0) == [Kind.WORKFLOW_PAUSED]
    assert kinds(1) == [Kind.TASKS, Kind.WORKFLOW_PAUSED]
    reason = why_not(world.desk, run, 0, agents, world.now_us)
    assert (reason.why, reason.facts["reason"]) == (Why.PAUSED, "look first")
    pause(world, "flow", pauses.TENANT)
    assert kinds(0) == [Kind.TENANT_PAUSED]
    assert kinds(1) == [Kind.TASKS, Kind.TENANT_PAUSED, Kind.WORKFLOW_PAUSED]
