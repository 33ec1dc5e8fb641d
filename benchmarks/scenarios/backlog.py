"""Many tasks wait: does that slow dispatch, and how much memory do they take?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks import workload
from benchmarks.installation import Installation, installed
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_least, at_most, median
from tenure.v1 import workflows_pb2

NAME = "backlog"
MILLION = "backlog-million"
RUNS = 10
MILLION_RUNS = 100
TASKS = 10_000
#: A run whose backlog is about 1,000 in the middle of its window.
SMALL_TASKS = 2_500
SMALL_RUNS = 7
#: Successes at both ends of a window that do not count: begin and end are another matter.
EDGE = 500
WINDOW = 10_000
SETTLE_SECONDS = 1.0


async def measure(plan: Plan) -> list[Figure]:
    """A hundred thousand waiting."""
    return await _measure(plan, NAME, RUNS, plan.rounds)


async def measure_million(plan: Plan) -> list[Figure]:
    """A million waiting; once, for it takes minutes."""
    return await _measure(plan, MILLION, MILLION_RUNS, 1)


async def _measure(plan: Plan, name: str, runs: int, rounds: int) -> list[Figure]:
    """Rates by the times of successes in the record, small and large backlog in turn."""
    small_rates, large_rates, ratios, per_task = [], [], [], []
    large = workload.fan_out(plan.count(TASKS))
    for _ in range(rounds):
        async with installed(plan.new_store) as house:
            await house.start_agent()
            small_rates.append(await _small(house))
            await house.agent.stop()
            rate, bytes_per_task = await _large(house, large, runs)
            large_rates.append(rate)
            ratios.append(rate / small_rates[-1])
            per_task.append(bytes_per_task / 1024)
            await house.stop()
    waiting = f"{runs * len(large.tasks):,} waiting"
    return [
        median(name, "dispatch, about 1,000 waiting", small_rates, "tasks/s"),
        median(name, f"dispatch, {waiting}", large_rates, "tasks/s"),
        median(name, "dispatch, ratio of the two", ratios, "", plan.target(at_least(0.8))),
        median(name, "memory per waiting task", per_task, "KiB", plan.target(at_most(1))),
    ]


async def _small(house: Installation) -> float:
    """The rate of runs one after another, each small."""
    definition = workload.fan_out(SMALL_TASKS)
    seconds = 0.0
    async with house.load() as load:
        workflow = await load.register(definition)
        for _ in range(SMALL_RUNS):
            run_id = await load.start(workflow)
            await load.ended(run_id)
            record = await load.verify(definition, run_id)
            seconds += _window_seconds(record.success_times(), SMALL_TASKS - 2 * EDGE)
    return SMALL_RUNS * (SMALL_TASKS - 2 * EDGE) / seconds


async def _large(
    house: Installation, definition: workflows_pb2.WorkflowDefinition, runs: int
) -> tuple[float, float]:
    """The rate at the head of a long queue, and the bytes of memory that each waiting task took.

    The agent comes when all of them wait.
    """
    total = runs * len(definition.tasks)
    async with house.load() as load:
        workflow = await load.register(definition)
        before = house.coordinator.rss_bytes()
        run_ids = await load.start_batch(workflow, runs)
        await asyncio.sleep(SETTLE_SECONDS)
        grown = house.coordinator.rss_bytes() - before
        await house.start_agent()
        await load.all_ended(run_ids)
        times: list[float] = []
        async for record in load.verify_all(definition, run_ids):
            times.extend(record.success_times())
    window = min(WINDOW, total - 2 * EDGE)
    return window / _window_seconds(sorted(times), window), grown / total


def _window_seconds(times: Sequence[float], window: int) -> float:
    """How long it took to do so many tasks, once it was well under way."""
    return times[EDGE + window] - times[EDGE]
