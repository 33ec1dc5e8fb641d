"""One run of many independent tasks: throughput, commits, and what a task costs."""

from __future__ import annotations

import time

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_least, at_most, median

NAME = "fan-out"
TASKS = 10_000
WARM_UP_TASKS = 500


async def measure(plan: Plan) -> list[Figure]:
    """Tasks/s from the request to start until the client knows of the end, which follows the
    last commit; CPU from /proc; commits of the coordinator's whole life, its first keys included.
    """
    tasks = plan.count(TASKS)
    definition = workload.fan_out(tasks)
    rates, server_rates, coordinator_us, agent_us = [], [], [], []
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            await load.register(definition)
            warm_up = await load.register(workload.fan_out(WARM_UP_TASKS))
            await load.ended(await load.start(warm_up))
            run_ids = []
            for _ in range(plan.rounds):
                before = house.usage()
                begin = time.perf_counter()
                run_ids.append(await load.start(definition.name))
                await load.ended(run_ids[-1])
                rates.append(tasks / (time.perf_counter() - begin))
                used = house.usage().since(before)
                coordinator_us.append(used.coordinator_seconds / tasks * 1e6)
                agent_us.append(used.agent_seconds / tasks * 1e6)
            async for record in load.verify_all(definition, run_ids):
                server_rates.append(tasks / record.seconds)
        commits = await house.stop()
    per_10k = commits / (WARM_UP_TASKS + tasks * plan.rounds) * 10_000
    return [
        median(
            NAME,
            "throughput",
            rates,
            "tasks/s",
            plan.target(at_least(10_000), postgresql=at_least(5_000)),
        ),
        median(NAME, "throughput, coordinator's clock", server_rates, "tasks/s"),
        median(NAME, "commits per 10,000 tasks", [per_10k], "commits", plan.target(at_most(100))),
        median(NAME, "coordinator CPU", coordinator_us, "us/task", plan.target(at_most(60))),
        median(NAME, "agent CPU", agent_us, "us/task"),
    ]
