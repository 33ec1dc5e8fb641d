"""Nothing to do: what coordinator and agent cost while they wait."""

from __future__ import annotations

import asyncio
import time

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_most, median

NAME = "idle"
TASKS = 500
SETTLE_SECONDS = 2.0
SPAN_SECONDS = 10.0


async def measure(plan: Plan) -> list[Figure]:
    """CPU in percent of one core, and how often any thread wakes, some time after work was done."""
    definition = workload.fan_out(TASKS)
    coordinator, agent, coordinator_wakes, agent_wakes = [], [], [], []
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            run_id = await load.start(await load.register(definition))
            await load.ended(run_id)
            await load.verify(definition, run_id)
        await asyncio.sleep(SETTLE_SECONDS)
        for _ in range(plan.rounds):
            woken = house.coordinator.wake_ups(), house.agent.wake_ups()
            before, begin = house.usage(), time.perf_counter()
            await asyncio.sleep(SPAN_SECONDS)
            used, seconds = house.usage().since(before), time.perf_counter() - begin
            coordinator.append(used.coordinator_seconds / seconds * 100)
            agent.append(used.agent_seconds / seconds * 100)
            coordinator_wakes.append((house.coordinator.wake_ups() - woken[0]) / seconds)
            agent_wakes.append((house.agent.wake_ups() - woken[1]) / seconds)
        await house.stop()
    return [
        median(NAME, "coordinator CPU", coordinator, "% of a core", plan.target(at_most(1))),
        median(NAME, "agent CPU", agent, "% of a core", plan.target(at_most(1))),
        median(NAME, "coordinator wake-ups", coordinator_wakes, "per second"),
        median(NAME, "agent wake-ups", agent_wakes, "per second"),
    ]
