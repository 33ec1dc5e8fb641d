"""Many short chains at once, started with one call for all or one call for each."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.results import Figure, Target, at_least, median

BATCH = "chains-batch"
UNARY = "chains-unary"
RUNS = 1000
LENGTH = 4
WARM_UP_RUNS = 64

Start = Callable[[Load, str, int], Awaitable[list[str]]]


async def measure_batch(plan: Plan) -> list[Figure]:
    """All runs started with one BatchStartRuns."""
    return await _measure(plan, BATCH, Load.start_batch, at_least(8_000))


async def measure_unary(plan: Plan) -> list[Figure]:
    """Each run started with a StartRun of its own, 64 at a time."""
    return await _measure(plan, UNARY, Load.start_each, at_least(4_000))


async def _measure(plan: Plan, name: str, start: Start, target: Target) -> list[Figure]:
    """Tasks/s from the first request until the client knows that no run is open any longer."""
    runs = plan.count(RUNS)
    tasks = runs * LENGTH
    definition = workload.chain(LENGTH)
    rates, server_rates, coordinator_us, agent_us = [], [], [], []
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            workflow = await load.register(definition)
            await load.all_ended(await start(load, workflow, WARM_UP_RUNS))
            rounds = []
            for _ in range(plan.rounds):
                before = house.usage()
                begin = time.perf_counter()
                run_ids = await start(load, workflow, runs)
                await load.all_ended(run_ids)
                rates.append(tasks / (time.perf_counter() - begin))
                used = house.usage().since(before)
                coordinator_us.append(used.coordinator_seconds / tasks * 1e6)
                agent_us.append(used.agent_seconds / tasks * 1e6)
                rounds.append(run_ids)
            for run_ids in rounds:
                records = [record async for record in load.verify_all(definition, run_ids)]
                begin = min(record.begin_seconds for record in records)
                end = max(record.end_seconds for record in records)
                server_rates.append(tasks / (end - begin))
        await house.stop()
    return [
        median(name, "throughput", rates, "tasks/s", plan.target(target)),
        median(name, "throughput, coordinator's clock", server_rates, "tasks/s"),
        median(name, "coordinator CPU", coordinator_us, "us/task"),
        median(name, "agent CPU", agent_us, "us/task"),
    ]
