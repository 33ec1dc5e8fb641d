"""A wide fan-out whose outputs all come together in one task."""

from __future__ import annotations

import asyncio
import time

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.results import Figure, median
from benchmarks.verification import WrongHistoryError
from tenure.v1 import agents_pb2
from tenure_client import payload

NAME = "fan-in"
TASKS = 5_000
_LEASE_SECONDS = 30


async def measure(plan: Plan) -> list[Figure]:
    """Tasks/s from the request to start until somebody holds the last task with all outputs."""
    tasks = plan.count(TASKS)
    definition = workload.fan_in(tasks)
    rates, coordinator_us, run_ids = [], [], []
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load, house.load("agent") as joiner:
            await load.register(definition)
            for _ in range(plan.rounds + 1):
                joining = asyncio.create_task(_join(joiner))
                before = house.usage()
                begin = time.perf_counter()
                run_ids.append(await load.start(definition.name))
                lease = await joining
                rates.append(tasks / (time.perf_counter() - begin))
                used = house.usage().since(before)
                coordinator_us.append(used.coordinator_seconds / tasks * 1e6)
                _check(lease, tasks)
                await joiner.settle([lease])
                await load.ended(run_ids[-1])
            async for _ in load.verify_all(definition, run_ids):
                pass
        await house.stop()
    # The first was the warm-up.
    return [
        median(NAME, f"{tasks:,} outputs into one task", rates[1:], "tasks/s"),
        median(NAME, "coordinator CPU", coordinator_us[1:], "us/task"),
    ]


async def _join(joiner: Load) -> agents_pb2.Lease:
    leases = await joiner.lease("joiner", workload.JOIN, wait_seconds=_LEASE_SECONDS)
    if not leases:
        raise WrongHistoryError(f"the last task was not leased within {_LEASE_SECONDS} s")
    return leases[0]


def _check(lease: agents_pb2.Lease, tasks: int) -> None:
    """Raises WrongHistoryError unless the task was given every output as it was."""
    if len(lease.upstream) != tasks:
        raise WrongHistoryError(f"the last task was given {len(lease.upstream)} of {tasks} outputs")
    for number in range(tasks):
        found = payload.decode(lease.upstream[f"task-{number}"])
        if found != workload.value_of(number):
            raise WrongHistoryError(f"the output of task-{number} was given as {found!r}")
