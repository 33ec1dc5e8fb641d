"""kill -9 of the coordinator with a hundred thousand open tasks: how soon does it work again?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import grpc.aio

from benchmarks import workload
from benchmarks.installation import AGENT, Installation, installed
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_most, median
from tenure.v1 import agents_pb2

NAME = "restart"
#: Enough that a hundred thousand are open when half of the first run is done.
RUNS = 11
TASKS = 10_000
_LOOK_SECONDS = 0.01
_LEASE_WAIT_SECONDS = 1
_LEASE_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comeback:
    """How long after its start the coordinator did what, in seconds."""

    serving_seconds: float
    lease_seconds: float
    agent_seconds: float
    open_tasks: int
    #: Results that a caller had been told of, and that the record has not.
    lost_results: int


async def measure(plan: Plan) -> list[Figure]:
    """From the start of the process until health says SERVING and a caller has a lease."""
    comebacks = [await _round(plan) for _ in range(plan.rounds)]
    return [
        median(NAME, "open tasks", [it.open_tasks for it in comebacks], "tasks"),
        median(
            NAME,
            "results told of and lost",
            [max(it.lost_results for it in comebacks)],
            "tasks",
            at_most(0),
        ),
        median(NAME, "until serving", [it.serving_seconds for it in comebacks], "s"),
        median(
            NAME,
            "until the first lease",
            [it.lease_seconds for it in comebacks],
            "s",
            plan.target(at_most(3)),
        ),
        median(NAME, "until the agent's first result", [it.agent_seconds for it in comebacks], "s"),
    ]


async def _round(plan: Plan) -> Comeback:
    definition = workload.fan_out(plan.count(TASKS))
    async with installed(plan.new_store) as house:
        await house.start_agent()
        async with house.load() as load:
            workflow = await load.register(definition)
            run_ids = await load.start_batch(workflow, RUNS)
            # Half of the first run: some tasks are done, some leased, most wait.
            told = 0
            while told < len(definition.tasks) // 2:
                await asyncio.sleep(_LOOK_SECONDS)
                told = (await load.run(run_ids[0])).tasks.succeeded
        house.coordinator.kill()
        begin_unix, begin = time.time(), time.perf_counter()
        house.spawn_coordinator()
        serving, leased = await _back(house, begin)
        async with house.load() as load:
            await load.all_ended(run_ids)
            done_before = []
            first_results = []
            async for record in load.verify_all(definition, run_ids, interrupted=True):
                times = record.success_times(agent=AGENT)
                later = [moment for moment in times if moment > begin_unix]
                done_before.append(len(times) - len(later))
                first_results.extend(later[:1])
        await house.stop()
    return Comeback(
        serving_seconds=serving,
        lease_seconds=leased,
        agent_seconds=min(first_results) - begin_unix,
        open_tasks=RUNS * len(definition.tasks) - sum(done_before),
        lost_results=max(0, told - done_before[0]),
    )


async def _back(house: Installation, begin: float) -> tuple[float, float]:
    """When it serves, and when somebody holds a lease, after a moment."""
    await house.coordinator_ready()
    async with house.load("agent") as caller:
        await caller.healthy()
        serving = time.perf_counter() - begin
        async with asyncio.timeout(_LEASE_SECONDS_MAX):
            leases = await _first_lease(caller)
        leased = time.perf_counter() - begin
        await caller.settle(leases)
    return serving, leased


async def _first_lease(caller: Load) -> Sequence[agents_pb2.Lease]:
    """Takes a lease as soon as the coordinator has the tenant's seat.

    On PostgreSQL that may have to run out first, because the killed one still holds it.
    """
    while True:
        try:
            leases = await caller.lease("probe", workload.KIND, wait_seconds=_LEASE_WAIT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            leases = []
        if leases:
            return leases
        await asyncio.sleep(_LOOK_SECONDS)
