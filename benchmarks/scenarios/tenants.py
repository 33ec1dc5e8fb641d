"""Many tenants on the same agents: are equals served equally, and does a flood hurt the others?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from benchmarks import workload
from benchmarks.installation import Installation, installed
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.record import Record
from benchmarks.results import Figure, at_least, at_most, median, percentile
from benchmarks.verification import WrongHistoryError

NAME = "tenants"
EQUALS = tuple(f"equal-{number}" for number in range(1, 9))
FLOOD, SMALL = "flood", "small"
EQUAL_TASKS = 2_000
FLOOD_RUNS = 10
FLOOD_TASKS = 10_000
SMALL_RUNS = 200
#: Between two runs of the small tenant.
PAUSE_SECONDS = 0.02


async def measure(plan: Plan) -> list[Figure]:
    """Jain's index over what equals were leased while all of them had work; and a small tenant's
    waits, from the acceptance of a run of one task to its lease, by the coordinator's clock.
    """
    indexes, alone, beside, ratios = [], [], [], []
    for _ in range(plan.rounds):
        async with installed(plan.new_store) as house:
            indexes.append(await _fairness(house, plan.count(EQUAL_TASKS)))
            await house.stop()
        async with installed(plan.new_store) as house:
            alone_seconds, beside_seconds = await _waits(house, plan)
            alone.append(percentile(alone_seconds, 0.99) * 1e3)
            beside.append(percentile(beside_seconds, 0.99) * 1e3)
            ratios.append(beside[-1] / alone[-1])
            await house.stop()
    flood = f"{FLOOD_RUNS * plan.count(FLOOD_TASKS):,}"
    return [
        median(NAME, f"Jain's index of {len(EQUALS)} equals", indexes, "", at_least(0.99)),
        median(NAME, "small tenant's wait alone, p99", alone, "ms"),
        median(NAME, f"beside a flood of {flood}, p99", beside, "ms"),
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


async def _waits(house: Installation, plan: Plan) -> tuple[list[float], list[float]]:
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
        beside = []
        while not over.done():
            beside += await _one_by_one(small, single.name, 1)
        await over
        records = [record async for record in flooding.verify_all(flood, flood_ids)]
        waits_alone = [_wait(it) async for it in small.verify_all(single, alone)]
        found = [it async for it in small.verify_all(single, beside)]
    # At the end of the flood nobody waits behind it any longer.
    end = max(record.lease_times()[-1] for record in records)
    waits_beside = [_wait(record) for record in found if record.begin_seconds < end]
    if len(waits_beside) < runs // 10:
        raise WrongHistoryError(f"only {len(waits_beside)} runs began before the flood was over")
    return waits_alone, waits_beside


async def _one_by_one(load: Load, workflow: str, runs: int) -> list[str]:
    run_ids = []
    for _ in range(runs):
        run_ids.append(await load.start(workflow))
        await load.ended(run_ids[-1])
        await asyncio.sleep(PAUSE_SECONDS)
    return run_ids


def _wait(record: Record) -> float:
    return record.lease_times()[0] - record.begin_seconds
