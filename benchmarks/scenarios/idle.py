"""Nothing to do: what coordinator and agent cost while they wait."""

from __future__ import annotations

import asyncio
import time

from benchmarks import database, workload
from benchmarks.installation import Installation, installed
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_most, median

NAME = "idle"
TASKS = 500
SETTLE_SECONDS = 2.0
SPAN_SECONDS = 10.0


async def measure(plan: Plan) -> list[Figure]:
    """CPU in percent of one core, how often any thread wakes, and what the store hears meanwhile,
    some time after work was done.
    """
    definition = workload.fan_out(TASKS)
    rates: dict[str, list[float]] = {}
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            run_id = await load.start(await load.register(definition))
            await load.ended(run_id)
            await load.verify(definition, run_id)
        await asyncio.sleep(SETTLE_SECONDS)
        for _ in range(plan.rounds):
            before, begin = await _counters(house), time.perf_counter()
            await asyncio.sleep(SPAN_SECONDS)
            after, seconds = await _counters(house), time.perf_counter() - begin
            for name, count in after.items():
                rates.setdefault(name, []).append((count - before[name]) / seconds)
        await house.stop()
    of_core, a_second, a_minute = (100, "% of a core"), (1, "per second"), (60, "per minute")
    shown = {
        "coordinator CPU": (*of_core, plan.target(at_most(1))),
        "agent CPU": (*of_core, plan.target(at_most(1))),
        "coordinator wake-ups": (*a_second, None),
        "agent wake-ups": (*a_second, None),
        "KiB the coordinator writes": (60 / 1024, "per minute", None),
        "transactions of the database": (*a_minute, None),
    }
    return [
        median(NAME, name, [rate * times for rate in rates[name]], unit, target)
        for name, (times, unit, target) in shown.items()
        if name in rates
    ]


async def _counters(house: Installation) -> dict[str, float]:
    """Everything that only grows."""
    used = house.usage()
    counters: dict[str, float] = {
        "coordinator CPU": used.coordinator_seconds,
        "agent CPU": used.agent_seconds,
        "coordinator wake-ups": house.coordinator.wake_ups(),
        "agent wake-ups": house.agent.wake_ups(),
        "KiB the coordinator writes": house.coordinator.written_bytes(),
    }
    if house.store.startswith("postgresql"):
        counters["transactions of the database"] = await database.transactions(house.store)
    return counters
