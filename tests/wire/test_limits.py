"""Limits hold at every instant under parallel load, nothing leaks, and shares are fair."""

from __future__ import annotations

from collections import Counter

from tests.wire import history
from tests.wire.installation import Installation

from tenure.v1 import runs_pb2
from tenure_client.builder import Workflow

FLOOD = 300
FEW = 20


async def test_no_limit_is_exceeded_under_parallel_load(house: Installation) -> None:
    """Slots of agents, leases of workflows and of the tenant; and all of each is used."""
    await house.add_tenant("limited", max_leases=7)
    async with (
        house.passing_agent("of-3", tenants=("limited",), slots=3),
        house.passing_agent("of-6", tenants=("limited",), slots=6),
        house.client("admin", "limited") as client,
    ):
        run_ids = []
        for name, most in (("narrow", 2), ("wide", 0)):
            with Workflow(name, max_leases=most) as workflow:
                for number in range(40):
                    workflow.task(str(number), kind="tenure.trace", input={"seconds": 0.02})
            await client.register_workflow(workflow.definition())
            run_ids += [(await client.start_run(name)).run_id for _ in range(2)]
        for run_id in run_ids:
            assert (await client.wait_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        peaks = history.peaks(await history.read(client, run_ids))
        leases = [agent.leases async for agent in client.list_agents()]
    assert peaks.tenants["limited"] == 7
    assert peaks.workflows["narrow"] == 2
    assert peaks.agents["of-3"] <= 3
    assert peaks.agents["of-6"] <= 6
    assert leases == [0, 0], "no slot stays taken"


async def test_a_small_tenant_gets_its_share_beside_a_flood(house: Installation) -> None:
    """On one agent of both: while both have work, they hold leases as their weights say."""
    tenants = ("large", "small")
    for tenant in tenants:
        await house.add_tenant(tenant)
    with Workflow("flood") as flood, Workflow("few") as few:
        for number in range(FLOOD):
            flood.task(str(number), kind="tenure.trace", input={"seconds": 0.02})
        for number in range(FEW):
            few.task(str(number), kind="tenure.trace", input={"seconds": 0.02})
    async with house.client("admin", "large") as large, house.client("admin", "small") as small:
        await large.register_workflow(flood.definition())
        await small.register_workflow(few.definition())
        flooding = (await large.start_run("flood")).run_id
        waiting = (await small.start_run("few")).run_id
        async with house.passing_agent("both", tenants=tenants, slots=4):
            assert (await small.wait_run(waiting)).state == runs_pb2.RUN_STATE_SUCCEEDED
            assert (await large.wait_run(flooding)).state == runs_pb2.RUN_STATE_SUCCEEDED
        (of_few,) = await history.read(small, [waiting])
        (of_flood,) = await history.read(large, [flooding])
    last = max(e.time.ToNanoseconds() for e in of_few.events if e.kind == history.LEASED)
    granted = Counter(
        each.run.tenant_id
        for each in (of_few, of_flood)
        for event in each.events
        if event.kind == history.LEASED and event.time.ToNanoseconds() <= last
    )
    assert granted["small"] == FEW
    assert granted["large"] <= 2 * FEW, "until the few were through, the flood got about as much"
    assert history.peaks([of_few, of_flood]).agents["both"] <= 4
