"""One short chain on an idle system, again and again: how long a person or program waits."""

from __future__ import annotations

import time

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_most, median, percentile

NAME = "chain-latency"
LENGTH = 4
CHAINS = 200
WARM_UP_CHAINS = 20


async def measure(plan: Plan) -> list[Figure]:
    """From the request to start until the watching client hears of the end; and a hop by the
    coordinator's clock, which is a quarter of what the run took.
    """
    chains = plan.count(CHAINS)
    definition = workload.chain(LENGTH)
    p50s, p99s, hop_p50s = [], [], []
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            workflow = await load.register(definition)
            for _ in range(WARM_UP_CHAINS):
                await load.ended(await load.start(workflow))
            for _ in range(plan.rounds):
                took, run_ids = [], []
                for _ in range(chains):
                    begin = time.perf_counter()
                    run_id = await load.start(workflow)
                    await load.ended(run_id)
                    took.append((time.perf_counter() - begin) * 1e3)
                    run_ids.append(run_id)
                hops = [
                    record.seconds / LENGTH * 1e3
                    async for record in load.verify_all(definition, run_ids)
                ]
                p50s.append(percentile(took, 0.5))
                p99s.append(percentile(took, 0.99))
                hop_p50s.append(percentile(hops, 0.5))
        await house.stop()
    return [
        median(NAME, "chain of 4, p50", p50s, "ms", plan.target(at_most(9))),
        median(NAME, "chain of 4, p99", p99s, "ms", plan.target(at_most(30))),
        median(NAME, "hop, p50", hop_p50s, "ms", plan.target(at_most(2))),
    ]
