"""A client starts one run on an idle system: how long until it is told that it counts?"""

from __future__ import annotations

import time

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.plan import Plan
from benchmarks.results import Figure, median, percentile

NAME = "start-latency"
STARTS = 300
WARM_UP_STARTS = 20


async def measure(plan: Plan) -> list[Figure]:
    """From the request until its answer, which follows the commit; each run ends before the next
    one starts.
    """
    starts = plan.count(STARTS)
    definition = workload.fan_out(1)
    p50s, p99s = [], []
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            workflow = await load.register(definition)
            for _ in range(WARM_UP_STARTS):
                await load.ended(await load.start(workflow))
            for _ in range(plan.rounds):
                took, run_ids = [], []
                for _ in range(starts):
                    begin = time.perf_counter()
                    run_ids.append(await load.start(workflow))
                    took.append((time.perf_counter() - begin) * 1e3)
                    await load.ended(run_ids[-1])
                async for _ in load.verify_all(definition, run_ids):
                    pass
                p50s.append(percentile(took, 0.5))
                p99s.append(percentile(took, 0.99))
        await house.stop()
    return [
        median(NAME, "StartRun, p50", p50s, "ms"),
        median(NAME, "StartRun, p99", p99s, "ms"),
    ]
