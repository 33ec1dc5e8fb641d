"""For every ready task that is not leased there is a reason, and it is the right one."""

from __future__ import annotations

import pytest
from tests.server.core.world import SECOND, World, flow, task

from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.features import Concurrency, Placement, Rate
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.seeing.ready_hindrances import Why, why_not

WAYS = (
    "key_limit",
    "rate",
    "too_heavy",
    "workflow_limit",
    "tenant_limit",
    "no_agent",
    "placement",
    "no_slots",
)


def arrange(world: World, why: str) -> LiveRun:
    """A world in which the task `late` waits for this."""
    same = Concurrency(limit=1)
    match why:
        case "key_limit":
            late = [task("late", concurrency=same)]
        case "rate":
            late = [task("late", rate=Rate(count=1, per_us=SECOND))]
        case "too_heavy":
            late = [task("late", weight=1000)]
        case "tenant_limit":
            late = [task("late", weight=20)]
        case "no_agent":
            late = [task("late", kind="nobody")]
        case "placement":
            late = [task("late", placement=Placement(required={"gpu": "a"}))]
        case "no_slots":
            late = [task("late", weight=9)]
        case _:
            late = [task("late")]
    definition = flow(*late, max_leases=1 if why == "workflow_limit" else 0)
    world.start_flow(definition)
    world.grant(world.agent("host", slots=9), at_most=1)
    return world.start_flow(definition)


@pytest.mark.parametrize("why", WAYS)
def test_each_limit_is_told_from_the_others(why: str) -> None:
    world = World(max_leases=20 if why in ("tenant_limit", "too_heavy") else 1000)
    if why == "tenant_limit":
        world.start(task("held"))
        world.grant_one(world.agent("other", slots=1))
    run = arrange(world, why)
    agents = [world.agents["key-1", "host"]]
    if why == "no_slots":
        assert agents[0].free_slots == 0
    reason = why_not(world.desk, run, 0, agents, world.now_us)
    assert reason.why is Why(why)
    assert reason.facts
    assert world.grant(agents[0]) == []


def test_what_its_run_waits_for_and_who_goes_first_is_told() -> None:
    world = World()
    limited = WorkflowDefinition(name="one", tasks=(task("a"),), concurrency=Concurrency(limit=1))
    inside, held = world.start_flow(limited), world.start_flow(limited)
    agent = world.agent()

    def reason(run: LiveRun) -> Why:
        return why_not(world.desk, run, 0, [agent], world.now_us).why

    assert reason(inside) is Why.NEXT
    assert reason(held) is Why.RUN_LIMIT
    urgent = world.start(task("urgent"), priority=3)
    found = why_not(world.desk, inside, 0, [agent], world.now_us)
    assert found.why is Why.BEHIND
    assert found.facts == {"priority": 0, "run": urgent.run_id, "task": "urgent"}
    world.desk.interventions.pause(inside, "", world.now_us)
    assert reason(inside) is Why.RUN_STATE
    world.grant(agent)
    assert reason(urgent) is Why.NOT_READY
