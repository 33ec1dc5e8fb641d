"""A place that is free under a limit goes to the next who waits, and nobody loses one in vain."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import SECOND, World, flow, task

from tenure_server.core.definitions.definition import WorkflowTask
from tenure_server.core.definitions.features import Concurrency, Rate, Strategy, TriggerRule
from tenure_server.core.desks import pauses
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.core.ledger.records import Pause
from tenure_server.core.runs.live import LiveRun

MINUTE = 60 * SECOND
#: Of a key of the workflow's own.
ONE: dict[str, Any] = {"concurrency": Concurrency(limit=1)}
RATED: dict[str, Any] = {"rate": Rate(count=1, per_us=MINUTE)}


def keyed(key: str, kind: str = "work", **options: Any) -> WorkflowTask:
    """A task of a key that all runs share."""
    return task(key, kind=kind, concurrency=Concurrency(limit=1, key="'all'", **options))


def granted(world: World) -> list[LiveRun]:
    """The runs of which something is leased."""
    return [lease.run for lease in world.grant()]


@pytest.mark.parametrize("limit", [ONE, RATED])
def test_a_free_place_goes_on_when_the_first_in_line_turns_out_to_be_impossible(
    limit: dict[str, Any],
) -> None:
    world = World()
    flow_ = flow(task("a", bindings={"n": "run.input.n"}, **limit))
    first, bad, last = (world.start_flow(flow_, given=given) for given in ({"n": 1}, {}, {"n": 2}))
    lease = world.hold_one()
    assert world.grant() == []
    world.settle(lease)
    world.wait(MINUTE)
    assert granted(world) == [last]
    assert (first.state, bad.state) == (RunState.SUCCEEDED, RunState.FAILED)


def test_what_an_impossible_task_lets_begin_is_leased_at_once() -> None:
    world = World()
    world.start_flow(
        flow(
            task("a", bindings={"n": "run.input.n"}),
            task("b", "a", trigger=TriggerRule.ALL_DONE, concurrency=ONE["concurrency"]),
        ),
        given={},
    )
    assert [lease.task_key for lease in world.grant()] == ["b"]


def test_a_run_that_is_let_in_by_an_impossible_task_begins_at_once() -> None:
    world = World()
    flow_ = flow(task("a", bindings={"n": "run.input.n"}), concurrency=Concurrency(limit=1))
    world.start_flow(flow_, given={})
    held = world.start_flow(flow_, given={"n": 1})
    assert granted(world) == [held]


# -- rates


def test_a_rate_that_allows_more_does_not_wait_for_a_slower_one_of_its_key() -> None:
    world = World()
    slow = Rate(count=1, per_us=10 * MINUTE, key="'all'")
    fast = Rate(count=1, per_us=MINUTE, key="'all'")
    world.start(task("f0", rate=fast), task("s0", rate=slow), task("f1", rate=fast))
    lease = world.hold_one()
    assert lease.task_key == "f0"
    assert world.grant() == []
    world.settle(lease)
    world.wait(MINUTE)
    assert [lease.task_key for lease in world.grant()] == ["f1"]
    world.wait(10 * MINUTE)
    assert [lease.task_key for lease in world.grant()] == ["s0"]


@pytest.mark.parametrize("known", [True, False])
def test_each_rate_of_a_key_counts_what_others_of_the_key_began(known: bool) -> None:
    """Also when it was not there yet."""
    world = World()
    many = flow(task("m", rate=Rate(count=2, per_us=10 * MINUTE, key="'all'")), name="many")
    one = flow(task("o", rate=Rate(count=1, per_us=MINUTE, key="'all'")), name="one")
    if known:
        world.desk.limits.gate_of(world.start_flow(many), 0)
        world.desk.cancel_run(next(iter(world.desk.runs.values())), "", world.now_us)
    for _ in range(2):
        world.start_flow(one)
        world.settle(world.hold_one())
        world.wait(MINUTE)
    world.start_flow(many)
    assert world.grant() == []
    world.wait(8 * MINUTE)
    assert [lease.task_key for lease in world.grant()] == ["m"]


# -- cancel_running


def test_nobody_is_stopped_for_nobody() -> None:
    world = World()
    flow_ = flow(task("first"), keyed("a", kind="play", strategy=Strategy.CANCEL_RUNNING))
    one, two = (world.start_flow(flow_) for _ in range(2))
    player, worker = world.agent("player", kinds=["play"]), world.agent("worker")
    lease = world.grant_one(player)
    assert lease.run is one
    assert world.grant(player) == []
    # The other run begins while its task waits, and so that stands elsewhere in the line.
    assert len(world.grant(worker)) == 2
    world.settle(lease)
    lease = world.grant_one(player)
    assert lease.run is two
    assert not lease.cancelling


def test_who_waits_in_the_queue_takes_nobodys_place() -> None:
    world = World()
    world.start(keyed("first"))
    first = world.hold_one()
    world.start(keyed("stays", strategy=Strategy.CANCEL_RUNNING), keyed("waits"))
    assert world.grant() == []
    assert first.cancelling
    world.settle(first)
    [lease] = world.grant()
    assert lease.task_key == "stays"
    assert not lease.cancelling


@pytest.mark.parametrize("strategy", [Strategy.CANCEL_RUNNING, Strategy.CANCEL_NEWEST])
def test_what_is_paused_takes_nobodys_place_and_is_not_turned_away(strategy: Strategy) -> None:
    world = World()
    world.start_flow(flow(keyed("a", strategy=strategy), name="at-work"))
    lease = world.hold_one()
    paused = Pause(workflow="rests", reason="", pause_us=1, paused_by="key")
    pauses.take(world.desk, {"rests": paused}, world.now_us)
    run = world.start_flow(flow(keyed("b", strategy=strategy), name="rests"))
    assert world.grant() == []
    assert not lease.cancelling
    assert world.states(run) == {"b": "READY"}
    pauses.take(world.desk, {}, world.now_us)
    world.grant()
    if strategy is Strategy.CANCEL_RUNNING:
        assert lease.cancelling
    else:
        assert world.states(run) == {"b": "CANCELLED"}
