"""One task for each item of a list, beside as many tasks that the definition names itself."""

from __future__ import annotations

import json
import time

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_least, median
from tenure.v1 import payload_pb2, workflows_pb2

NAME = "for-each"
ITEMS = 10_000
WARM_UP_ITEMS = 500


async def measure(plan: Plan) -> list[Figure]:
    """Tasks/s from the request to start until the client knows of the end, of both in turn; the
    list is the run's input.
    """
    items = plan.count(ITEMS)
    plain, listed = workload.fan_out(items), workload.for_each()
    plain_rates, rates, ratios, plain_runs, runs = [], [], [], [], []
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            await load.register(plain)
            await load.register(listed)
            warm_up = await load.register(workload.fan_out(WARM_UP_ITEMS))
            await load.ended(await load.start(warm_up))
            await _run(load, listed, WARM_UP_ITEMS)
            for _ in range(plan.rounds):
                run_id, seconds = await _run(load, plain, 0)
                plain_runs.append(run_id)
                plain_rates.append(items / seconds)
                run_id, seconds = await _run(load, listed, items)
                runs.append(run_id)
                rates.append(items / seconds)
                ratios.append(rates[-1] / plain_rates[-1])
            async for _ in load.verify_all(plain, plain_runs):
                pass
            for run_id in runs:
                await load.verify(listed, run_id, items=items)
        await house.stop()
    return [
        median(NAME, "throughput of items", rates, "tasks/s"),
        median(NAME, "throughput of plain tasks", plain_rates, "tasks/s"),
        median(NAME, "items over plain", ratios, "", plan.target(at_least(0.8))),
    ]


async def _run(
    load: Load, definition: workflows_pb2.WorkflowDefinition, items: int
) -> tuple[str, float]:
    data = json.dumps(list(range(items))).encode()
    content = payload_pb2.Payload(data=data, content_type="application/json") if items else None
    begin = time.perf_counter()
    run_id = await load.start(definition.name, content)
    await load.ended(run_id)
    return run_id, time.perf_counter() - begin
