"""Limits and order: who is leased when tasks declare more than kind and priority."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import LEASE_US, SECOND, World, flow, task

from tenure_server.core import errors
from tenure_server.core.definitions.definition import WorkflowDefinition, WorkflowTask
from tenure_server.core.definitions.features import (
    Concurrency,
    Placement,
    Rate,
    SignalWait,
    Strategy,
    TriggerRule,
)
from tenure_server.core.leasing.leases import STOPPED, AgentSlots, Lease
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState

MINUTE = 60 * SECOND


def keys(leases: list[Lease]) -> list[str]:
    """The keys of leased tasks in the order of their leases."""
    return [lease.task_key for lease in leases]


def hire(world: World, name: str, slots: int = 1, **labels: str) -> AgentSlots:
    """An agent with labels."""
    agent = world.agent(name, slots=slots)
    agent.introduce(labels)
    return agent


def line(world: World, *agents: AgentSlots) -> None:
    """Says who is on the line."""
    world.desk.placing.line = [agent for agent in agents if agent.free > 0]


def keyed(key: str, limit: int = 1, **options: Any) -> WorkflowTask:
    """A task of a key that its run's input gives."""
    return task(key, concurrency=Concurrency(limit=limit, key="run.input.k", **options))


# -- placement


def test_a_task_goes_only_to_an_agent_with_the_labels_that_it_requires() -> None:
    world = World()
    world.start(task("gpu", placement=Placement(required={"gpu": "a100"})), task("any"))
    assert keys(world.grant(hire(world, "plain", 5))) == ["any"]
    assert keys(world.grant(hire(world, "other", 5, gpu="t4"))) == []
    assert keys(world.grant(hire(world, "right", 5, gpu="a100", zone="x"))) == ["gpu"]


def test_an_agent_with_preferred_labels_goes_before_others_while_it_has_a_free_slot() -> None:
    world = World()
    near, far = hire(world, "near", 1, zone="a"), hire(world, "far", 5)
    preferred = Placement(preferred={"zone": "a"})
    world.start(task("one", placement=preferred), task("two", placement=preferred))
    line(world, near, far)
    assert keys(world.grant(far)) == []
    assert far.passed_over
    assert keys(world.grant(near)) == ["one"]
    assert keys(world.grant(far)) == ["two"], "none of the preferred has a free slot"


def test_a_sticky_task_goes_to_the_agent_that_last_executed_one_of_its_run() -> None:
    world = World()
    one, two = hire(world, "one"), hire(world, "two")
    world.start(task("first"), task("second", "first", placement=Placement(sticky=True)))
    world.settle(world.grant_one(two))
    two.credits = 1
    world.reopen()
    one, two = hire(world, "one"), hire(world, "two")
    line(world, one, two)
    assert keys(world.grant(one)) == [], "known after a restart, too"
    assert keys(world.grant(two)) == ["second"]


def test_a_sticky_task_goes_elsewhere_when_its_agent_has_no_free_slot() -> None:
    world = World()
    one, two = hire(world, "one"), hire(world, "two")
    world.start(task("first"), task("second", placement=Placement(sticky=True)))
    assert keys(world.grant(two)) == ["first"]
    line(world, one, two)
    assert keys(world.grant(one)) == ["second"]


# -- concurrency by key


def test_no_more_tasks_of_a_key_are_leased_than_its_limit_and_the_next_follows_at_once() -> None:
    world = World()
    for number in range(3):
        world.start_flow(flow(keyed(f"a{number}"), name=f"flow-{number}"), given={"k": "x"})
    world.start_flow(flow(keyed("b")), given={"k": "y"})
    leases = world.grant()
    assert keys(leases) == ["a0", "b"]
    world.reopen()
    assert world.grant() == [], "limits hold from the first grant after a restart"
    [first, _] = world.desk.leases.values()
    world.desk.give_back(first, world.now_us)
    [again] = world.grant()
    world.settle(again)
    assert keys(world.grant()) == ["a1"]


def test_a_key_that_no_expression_gives_is_the_tasks_own() -> None:
    world = World()
    limit = Concurrency(limit=1)
    for _ in range(2):
        world.start(task("a", concurrency=limit), task("b", concurrency=limit))
    assert keys(world.grant()) == ["a", "b"]
    assert world.grant() == []


def test_a_key_that_cannot_be_worked_out_fails_the_task() -> None:
    world = World()
    run = world.start_flow(flow(keyed("a"), task("b")), given={})
    assert keys(world.grant()) == ["b"]
    assert world.states(run)["a"] == "FAILED"
    assert run.reason == "task a failed: KEY_FAILED"


@pytest.mark.parametrize("end", [STOPPED, Failure("BOOM"), None])
def test_the_oldest_of_a_key_is_cancelled_for_a_newer_one(end: Any) -> None:
    world = World()
    strategy = {"strategy": Strategy.CANCEL_RUNNING}
    old = world.start_flow(flow(keyed("old", **strategy), task("after", "old")), given={"k": "x"})
    lease = world.hold_one()
    world.start_flow(flow(keyed("new", **strategy)), given={"k": "x"})
    world.desk.grants.admit(world.now_us)
    assert [one.task_key for one in world.desk.cancelling] == ["old"]
    assert world.grant() == [], "its place is free when it has ended"
    world.reopen()
    old = world.desk.runs[old.run_id]
    assert world.desk.leases[lease.key].cancelling, "known after a restart, too"
    if end is None:
        world.wait(LEASE_US)
    else:
        world.settle(lease, end)
    assert keys(world.grant()) == ["new"]
    assert world.states(old) == {"old": "CANCELLED", "after": "UPSTREAM_FAILED"}
    assert old.state is RunState.FAILED
    assert EventKind.TASK_CANCELLED in world.kinds(old)


def test_what_is_told_to_stop_and_succeeds_has_succeeded() -> None:
    world = World()
    strategy = {"strategy": Strategy.CANCEL_RUNNING}
    old = world.start_flow(flow(keyed("old", **strategy)), given={"k": "x"})
    lease = world.hold_one()
    world.start_flow(flow(keyed("new", **strategy)), given={"k": "x"})
    world.desk.grants.admit(world.now_us)
    world.settle(lease)
    assert old.state is RunState.SUCCEEDED
    assert keys(world.grant()) == ["new"]


def test_the_newest_of_a_full_key_is_cancelled() -> None:
    world = World()
    strategy = {"strategy": Strategy.CANCEL_NEWEST}
    world.start_flow(flow(keyed("old", **strategy)), given={"k": "x"})
    lease = world.grant_one()
    new = world.start_flow(
        flow(keyed("new", **strategy), task("then", "new", trigger=TriggerRule.ANY_FAILED)),
        given={"k": "x"},
    )
    assert keys(world.grant()) == ["then"], "for what follows, the cancelled one is lost"
    assert world.states(new)["new"] == "CANCELLED"
    assert world.desk.leases[lease.key].cancelling == ""


# -- concurrency of runs


def held_to(limit: int, *tasks: WorkflowTask, **options: Any) -> WorkflowDefinition:
    """A workflow of which so many runs of a key are open."""
    return WorkflowDefinition(
        name="runs",
        tasks=tasks,
        concurrency=Concurrency(limit=limit, key="run.input.k", **options),
    )


def test_runs_beyond_the_limit_wait_until_one_of_their_key_has_ended() -> None:
    world = World()
    runs = [world.start_flow(held_to(1, task("a")), given={"k": "x"}) for _ in range(3)]
    world.start_flow(held_to(1, task("b")), given={"k": "y"})
    first, _ = world.grant()
    world.reopen()
    assert world.grant() == []
    world.desk.cancel_run(world.desk.runs[runs[1].run_id], "", world.now_us)
    world.settle(first)
    world.reopen()
    [last] = world.grant()
    assert last.run.run_id == runs[2].run_id


def test_a_paused_run_keeps_its_place() -> None:
    world = World()
    one, two = (world.start_flow(held_to(1, task("a")), given={"k": "x"}) for _ in range(2))
    world.desk.interventions.pause(one, "", world.now_us)
    assert world.grant() == []
    world.desk.interventions.pause(two, "", world.now_us)
    world.desk.interventions.resume(two, "", world.now_us)
    assert world.grant() == [], "resumed, it still waits for its turn"
    world.desk.interventions.close(one, "", world.now_us)
    assert world.grant_one().run is two


@pytest.mark.parametrize("count", [1, 3])
def test_the_oldest_run_of_a_key_is_cancelled_for_a_newer_one(count: int) -> None:
    world = World()
    flow_ = held_to(1, task("a"), strategy=Strategy.CANCEL_RUNNING)
    old = world.start_flow(flow_, given={"k": "x"})
    lease = world.grant_one()
    newer = [world.start_flow(flow_, given={"k": "x"}) for _ in range(count)]
    world.desk.grants.admit(world.now_us)
    assert old.state is RunState.CANCELLING
    assert world.grant() == []
    world.settle(lease, STOPPED)
    assert world.grant_one().run is newer[-1], "only the newest is left"


def test_the_newest_run_of_a_full_key_is_cancelled() -> None:
    world = World()
    flow_ = held_to(1, task("a"), strategy=Strategy.CANCEL_NEWEST)
    old, new = (world.start_flow(flow_, given={"k": "x"}) for _ in range(2))
    assert world.grant_one().run is old
    assert new.state is RunState.CANCELLED


def test_a_run_that_is_opened_again_while_its_key_is_full_begins_nothing() -> None:
    """Neither what agents execute, nor what waits for the world."""
    world = World()
    waits = task("waits", kind="", wait=SignalWait(name="go"))
    definition = held_to(1, task("a"), waits)
    failed = world.start_flow(definition, given={"k": "x"})
    world.settle(world.hold_one(), Failure("BOOM"))
    world.desk.consequences.signals.signal(failed, "go", None, world.now_us)
    assert failed.state is RunState.FAILED
    other = world.start_flow(definition, given={"k": "x"})
    again = world.execute_again(failed, "a", "waits")
    assert world.states(again) == {"a": "READY", "waits": "WAITING"}
    [lease] = world.grant()
    assert lease.run is other
    world.settle(lease)
    world.desk.consequences.signals.signal(other, "go", None, world.now_us)
    assert keys(world.grant()) == ["a"]
    assert world.state(again, "waits") is TaskState.ACTIVE


def test_what_is_skipped_in_a_run_that_is_held_lets_nothing_begin() -> None:
    world = World()
    after = task("after", "a", kind="", wait=SignalWait(name="go"), trigger=TriggerRule.ALL_DONE)
    definition = held_to(1, task("a"), after)
    world.start_flow(definition, given={"k": "x"})
    held = world.start_flow(definition, given={"k": "x"})
    world.desk.interventions.skip(held, 0, "not today", world.now_us)
    assert world.states(held) == {"a": "SKIPPED", "after": "WAITING"}


def test_a_run_whose_key_cannot_be_worked_out_fails() -> None:
    world = World()
    run = world.start_flow(held_to(1, task("a"), task("b", "a")), given={})
    assert world.grant() == []
    assert run.state is RunState.FAILED
    assert run.reason == "task a failed: KEY_FAILED"


# -- rates


def test_no_more_leases_begin_in_a_span_than_the_rate_allows() -> None:
    world = World()
    world.start(task("own", rate=Rate(count=1, per_us=10 * SECOND)))
    rate = Rate(count=2, per_us=10 * SECOND, key="run.input.k")
    world.start_flow(flow(*[task(f"r{n}", rate=rate) for n in range(5)]), given={"k": "x"})
    leases = world.grant()
    assert keys(leases) == ["own", "r0", "r1"]
    for lease in leases:
        world.desk.accept(lease)
    assert world.desk.dues.next_us() is not None
    world.wait(10 * SECOND - 1)
    assert world.grant() == []
    assert world.desk.dues.next_us() == world.now_us + 1
    world.wait(1)
    assert keys(world.grant()) == ["r2", "r3"]


def test_after_a_restart_a_rate_counts_as_used_up() -> None:
    world = World()
    world.start(task("a", rate=Rate(count=1, per_us=10 * SECOND)))
    world.reopen()
    assert world.grant() == []
    world.wait(10 * SECOND)
    assert keys(world.grant()) == ["a"]


# -- weights


def test_a_lease_takes_as_many_slots_as_its_task_weighs() -> None:
    world = World(max_leases=7)
    world.start(task("a", weight=3), task("b", weight=3), task("c"), task("d"))
    agent = world.agent("host", slots=4)
    assert keys(world.grant(agent)) == ["a"], "the second keeps the last slot until it fits"
    assert agent.free_slots == 1
    world.reopen()
    agent = world.agent("host", slots=4)
    assert agent.free_slots == 1, "taken after a restart, too"
    assert keys(world.grant(world.agent("other", slots=4))) == ["b", "c"]
    assert not world.desk.has_room


def test_light_tasks_do_not_pass_a_heavy_one_by_for_ever() -> None:
    world = World()
    world.start(*[task(f"old{n}") for n in range(4)])
    agent = world.agent("host", slots=4)
    leases = world.grant(agent)
    world.start(task("heavy", weight=3))
    world.start(*[task(f"light{n}") for n in range(9)])
    for lease in leases[:2]:
        world.settle(lease)
        agent.credits += 1
        assert world.grant(agent) == []
    other = world.agent("other", slots=4)
    other.credits = 1
    assert keys(world.grant(other)) == ["heavy"]
    assert keys(world.grant(agent, at_most=1)) == ["light0"], "nothing is kept any more"


def test_a_heavy_task_gets_the_room_of_its_tenant_before_lighter_ones() -> None:
    world = World(max_leases=3)
    world.start(*[task(f"old{n}") for n in range(3)])
    leases = world.grant()
    world.start(task("heavy", weight=2))
    world.start(task("light", kind="play"))
    for lease, expected in zip(leases, [[], ["heavy"], []], strict=True):
        world.settle(lease)
        assert keys(world.grant()) == expected
        if expected != ["heavy"] and lease is leases[0]:
            assert world.grant(world.agent("player", kinds=["play"])) == []


def test_a_heavy_task_gets_the_room_of_its_workflow_before_lighter_ones() -> None:
    world = World()
    world.start_flow(flow(task("o1"), task("o2"), name="full", max_leases=2))
    one, two = world.grant()
    world.start_flow(flow(task("heavy", weight=2), name="full", max_leases=2))
    world.start_flow(flow(task("light"), name="full", max_leases=2))
    assert world.grant() == []
    world.settle(one)
    assert world.grant() == []
    world.settle(two)
    assert keys(world.grant()) == ["heavy"]


def test_a_task_that_weighs_more_than_its_tenant_may_hold_waits_for_a_higher_limit() -> None:
    world = World(max_leases=2)
    world.start(task("heavy", weight=3), task("light"))
    assert keys(world.grant()) == ["light"]
    world.limit(4)
    assert keys(world.grant()) == ["heavy"]


def test_a_weight_beyond_the_workflows_limit_is_refused() -> None:
    with pytest.raises(errors.FieldsInvalid, match="max_leases"):
        flow(task("heavy", weight=3), max_leases=2).check()


# -- priorities


def test_waiting_raises_a_priority_by_one_a_minute() -> None:
    world = World()
    world.start(task("old"), priority=0)
    assert world.grant(world.agent("none", kinds=["other"])) == []
    world.wait(6 * MINUTE)
    world.start(task("below"), task("next"), priority=5)
    world.start(task("above"), priority=7)
    assert keys(world.grant()) == ["above", "old", "below", "next"]


def test_what_waiting_adds_has_a_bound() -> None:
    world = World()
    world.start(task("old", priority=-50))
    assert world.grant(world.agent("none", kinds=["other"])) == []
    world.wait(24 * 60 * MINUTE)
    world.start(task("below", priority=9))
    world.start(task("above", priority=11))
    assert keys(world.grant()) == ["above", "old", "below"]


def test_after_a_restart_waiting_counts_anew() -> None:
    world = World()
    world.start(task("old", priority=0))
    assert world.grant(world.agent("none", kinds=["other"])) == []
    world.wait(30 * MINUTE)
    world.reopen()
    world.start(task("new", priority=5))
    assert keys(world.grant()) == ["new", "old"]
