"""Many tenants on the same agents: are equals served equally, and does a flood hurt the others?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import workload
from benchmarks.installation import Installation, installed
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_least, at_most, median, percentile
from benchmarks.verification import WrongHistoryError
from tenure.v1 import workflows_pb2

NAME = "tenants"
EQUALS = tuple(f"equal-{number}" for number in range(1, 9))
FLOOD, SMALL = "flood", "small"
EQUAL_TASKS = 2_000
FLOOD_RUNS = 10
FLOOD_TASKS = 10_000
SMALL_RUNS = 200
#: Between two runs of the small tenant.
PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """How long the small tenant waited for one run of one task."""

    #: From the request until it knew of the end.
    run_seconds: float
    #: From the acceptance to the lease, by the coordinator's clock.
    lease_seconds: float
    #: When the run was accepted.
    begin_seconds: float


async def measure(plan: Plan) -> list[Figure]:
    """Jain's index over what equals were leased while all of them had work; and how long a small
    tenant waits for a run of one task, from its request until it knows of the end.
    """
    indexes, alone, beside, ratios, leases = [], [], [], [], []
    for _ in range(plan.rounds):
        async with installed(plan.new_store) as house:
            indexes.append(await _fairness(house, plan.count(EQUAL_TASKS)))
            await house.stop()
        async with installed(plan.new_store) as house:
            waits_alone, waits_beside = await _waits(house, plan)
            alone.append(percentile([it.run_seconds for it in waits_alone], 0.99) * 1e3)
            beside.append(percentile([it.run_seconds for it in waits_beside], 0.99) * 1e3)
            leases.append(percentile([it.lease_seconds for it in waits_beside], 0.99) * 1e3)
            ratios.append(beside[-1] / alone[-1])
            await house.stop()
    flood = f"{FLOOD_RUNS * plan.count(FLOOD_TASKS):,}"
    return [
        median(NAME, f"Jain's index of {len(EQUALS)} equals", indexes, "", at_least(0.99)),
        median(NAME, "small tenant's wait alone, p99", alone, "ms"),
        median(NAME, f"beside a flood of {flood}, p99", beside, "ms"),
        median(NAME, "of these until the lease, p99", leases, "ms"),
        median(NAME, "beside over alone", ratios, "", plan.target(at_most(2))),
    ]


def jain(served: Sequence[int]) -> float:
    """Jain's index: 1 when all were served equally, 1/n when one got everything."""
    return sum(served) ** 2 / (len(served) * sum(one * one for one in served))


async def _fairness(house: Installation, tasks: int) -> float:
    """All tasks wait before the agent comes; what counts ends when the first has none left."""
    definition = workload.fan_out(tasks)
    keys = await house.add_tenants(EQUALS)
    async with contextlib.AsyncExitStack() as lines:
        loads = {
            tenant: await lines.enter_async_context(house.load_of(keys["admin"], tenant))
            for tenant in EQUALS
        }
        runs = {}
        for tenant, load in loads.items():
            runs[tenant] = await load.start(await load.register(definition))
        await house.start_agent(key=keys["agent"])
        await asyncio.gather(*(load.ended(runs[tenant]) for tenant, load in loads.items()))
        times = {
            tenant: (await load.verify(definition, runs[tenant])).lease_times()
            for tenant, load in loads.items()
        }
    return jain(served_while_all_waited(times))


def served_while_all_waited(times: Mapping[str, Sequence[float]]) -> list[int]:
    """How many leases each got before the first of them had got its last one."""
    end = min(granted[-1] for granted in times.values())
    return [sum(moment < end for moment in granted) for granted in times.values()]


async def _waits(house: Installation, plan: Plan) -> tuple[list[Wait], list[Wait]]:
    """The small tenant's waits alone, and beside the flood."""
    keys = await house.add_tenants((FLOOD, SMALL))
    await house.start_agent(key=keys["agent"])
    flood = workload.fan_out(plan.count(FLOOD_TASKS))
    single = workload.fan_out(1)
    runs = plan.count(SMALL_RUNS)
    async with (
        house.load_of(keys["admin"], FLOOD) as flooding,
        house.load_of(keys["admin"], SMALL) as small,
    ):
        await flooding.register(flood)
        await small.register(single)
        runs = plan.count(SMALL_RUNS)
        await _one_by_one(small, single.name, max(1, runs // 10))
        alone = await _one_by_one(small, single.name, runs)
        flood_ids = await flooding.start_batch(flood.name, FLOOD_RUNS)
        over = asyncio.gather(*(flooding.ended(run_id) for run_id in flood_ids))
        beside: dict[str, float] = {}
        while not over.done():
            beside |= await _one_by_one(small, single.name, 1)
        await over
        records = [record async for record in flooding.verify_all(flood, flood_ids)]
        waits_alone = await _verified(small, single, alone)
        found = await _verified(small, single, beside)
    # At the end of the flood nobody waits behind it any longer.
    end = max(record.lease_times()[-1] for record in records)
    waits_beside = [wait for wait in found if wait.begin_seconds < end]
    if len(waits_beside) < runs // 10:
        raise WrongHistoryError(f"only {len(waits_beside)} runs began before the flood was over")
    return waits_alone, waits_beside


async def _one_by_one(load: Load, workflow: str, runs: int) -> dict[str, float]:
    """Runs and how long each took, in seconds by our clock."""
    took = {}
    for _ in range(runs):
        begin = time.perf_counter()
        run_id = await load.start(workflow)
        await load.ended(run_id)
        took[run_id] = time.perf_counter() - begin
        await asyncio.sleep(PAUSE_SECONDS)
    return took


async def _verified(
    load: Load, definition: workflows_pb2.WorkflowDefinition, took: Mapping[str, float]
) -> list[Wait]:
    return [
        Wait(
            run_seconds=took[record.run.run_id],
            lease_seconds=record.lease_times()[0] - record.begin_seconds,
            begin_seconds=record.begin_seconds,
        )
        async for record in load.verify_all(definition, list(took))
    ]
