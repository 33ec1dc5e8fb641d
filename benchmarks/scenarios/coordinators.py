"""Two coordinators on one PostgreSQL against one: throughput, wake-ups, the database meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks import database, workload
from benchmarks.database import Doings
from benchmarks.load import Load
from benchmarks.pair import TENANTS, Pair, opened
from benchmarks.plan import Plan
from benchmarks.results import Figure, median, percentile
from tenure.v1 import access_pb2, workflows_pb2
from tenure_client.client import Client

NAME = "coordinators"
TASKS = 2_500
WARM_UP_TASKS = 250
CHAIN_RUNS, CHAIN_TASKS = 150, 4
WAKE_UPS = 100
NEW_TENANTS = 5


@dataclass(slots=True)
class Rounds:
    """What the rounds with one number of coordinators gave."""

    fan_out: list[float] = field(default_factory=list)
    chains: list[float] = field(default_factory=list)
    doings: list[Doings] = field(default_factory=list)
    coordinators_us: list[float] = field(default_factory=list)
    agent_us: list[float] = field(default_factory=list)


@dataclass(slots=True)
class WakeUps:
    """How long a run of one task took that found everybody idle, in milliseconds."""

    same: list[float] = field(default_factory=list)
    sent_on: list[float] = field(default_factory=list)
    credit_elsewhere: list[float] = field(default_factory=list)
    new_tenant: list[float] = field(default_factory=list)


async def measure(plan: Plan) -> list[Figure]:
    """The same work of four tenants, by one agent process, with one coordinator and with two that
    have the seats of two tenants each, by turns. Wants PostgreSQL.
    """
    found = {1: Rounds(), 2: Rounds()}
    for number in range(plan.rounds):
        for coordinators in (1, 2) if number % 2 == 0 else (2, 1):
            async with opened(plan.new_store, coordinators) as pair:
                await _throughput(pair, plan, found[coordinators])
                await pair.stop()
    wake_ups = WakeUps()
    for _ in range(plan.rounds):
        async with opened(plan.new_store, 2) as pair:
            await _wake_ups(pair, plan, wake_ups)
            await pair.stop()
    return [*_throughput_figures(found), *_wake_up_figures(wake_ups)]


# -- throughput


async def _throughput(pair: Pair, plan: Plan, rounds: Rounds) -> None:
    await pair.start_agent(key=pair.keys["agent"])
    tasks = plan.count(TASKS)
    chain_runs = plan.count(CHAIN_RUNS)
    fan_out, chain = workload.fan_out(tasks), workload.chain(CHAIN_TASKS)
    single, warm_up = workload.fan_out(1), workload.fan_out(WARM_UP_TASKS)
    async with _loads(pair) as loads:
        for load in loads:
            for definition in (single, warm_up, fan_out, chain):
                await load.register(definition)
        await _at_once(loads, lambda load: _runs(load, warm_up, 1))
        async with database.watched(
            pair.store, lambda: _at_once(loads, lambda load: _runs(load, single, 1))
        ) as doings:
            used = pair.agent.cpu_seconds(), _cpu_seconds(pair)
            begin = time.perf_counter()
            run_ids = await _at_once(loads, lambda load: _runs(load, fan_out, 1))
            rounds.fan_out.append(tasks * len(loads) / (time.perf_counter() - begin))
            everything = tasks * len(loads)
            rounds.agent_us.append((pair.agent.cpu_seconds() - used[0]) / everything * 1e6)
            rounds.coordinators_us.append((_cpu_seconds(pair) - used[1]) / everything * 1e6)
        rounds.doings.append(doings)
        begin = time.perf_counter()
        chain_ids = await _at_once(loads, lambda load: _runs(load, chain, chain_runs))
        done = chain_runs * CHAIN_TASKS * len(loads)
        rounds.chains.append(done / (time.perf_counter() - begin))
        for load, fans, chains in zip(loads, run_ids, chain_ids, strict=True):
            await _verified(load, fan_out, fans)
            await _verified(load, chain, chains)


@contextlib.asynccontextmanager
async def _loads(pair: Pair) -> AsyncIterator[list[Load]]:
    async with contextlib.AsyncExitStack() as lines:
        yield [await lines.enter_async_context(pair.load_at_holder(name)) for name in TENANTS]


async def _at_once(
    loads: Sequence[Load], work: Callable[[Load], Awaitable[list[str]]]
) -> list[list[str]]:
    return list(await asyncio.gather(*(work(load) for load in loads)))


async def _runs(load: Load, definition: workflows_pb2.WorkflowDefinition, count: int) -> list[str]:
    """Starts runs with one call, and waits for their ends."""
    run_ids = await load.start_batch(definition.name, count)
    await load.all_ended(run_ids)
    return run_ids


async def _verified(
    load: Load, definition: workflows_pb2.WorkflowDefinition, run_ids: Sequence[str]
) -> None:
    async for _ in load.verify_all(definition, run_ids):
        pass


def _cpu_seconds(pair: Pair) -> float:
    return sum(child.cpu_seconds() for child in pair.children())


def _throughput_figures(found: dict[int, Rounds]) -> list[Figure]:
    one, two = found[1], found[2]
    figures = []
    for what, part in (("independent tasks", "fan_out"), ("chains of 4", "chains")):
        rates_one, rates_two = getattr(one, part), getattr(two, part)
        ratios = [there / here for here, there in zip(rates_one, rates_two, strict=True)]
        figures += [
            median(NAME, f"{what}, one coordinator", rates_one, "tasks/s"),
            median(NAME, f"{what}, two", rates_two, "tasks/s"),
            median(NAME, f"{what}, two over one", ratios, ""),
        ]
    for who, rounds in (("one", one), ("two", two)):
        doings = rounds.doings
        figures += [
            median(NAME, f"{who}: coordinators' CPU", rounds.coordinators_us, "us/task"),
            median(NAME, f"{who}: agent's CPU", rounds.agent_us, "us/task"),
            median(NAME, f"{who}: processors busy", [it.busy * 100 for it in doings], "%"),
            median(NAME, f"{who}: commits", [it.rate("commits") for it in doings], "/s"),
            median(
                NAME,
                f"{who}: rows written",
                [it.rate("rows inserted") + it.rate("rows updated") for it in doings],
                "/s",
            ),
            median(NAME, f"{who}: WAL", [it.rate("WAL bytes") / 1e6 for it in doings], "MB/s"),
            median(NAME, f"{who}: backends in locks", [it.waiting("Lock") for it in doings], ""),
            median(
                NAME, f"{who}: backends in light locks", [it.waiting("LWLock") for it in doings], ""
            ),
            median(NAME, f"{who}: backends in disk", [it.waiting("IO") for it in doings], ""),
        ]
    return figures


# -- wake-ups


async def _wake_ups(pair: Pair, plan: Plan, found: WakeUps) -> None:
    """Each run ends before the next one starts; with one slot its credit lies where it was used
    last.
    """
    await pair.start_agent(slots=1, key=pair.keys["agent"])
    definition = workload.fan_out(1)
    times = plan.count(WAKE_UPS)
    north, south = TENANTS[0], TENANTS[1]
    started: dict[str, list[str]] = {north: [], south: []}
    async with pair.load_at_holder(north) as at_north, pair.load_at_holder(south) as at_south:
        loads = {north: at_north, south: at_south}
        for load in loads.values():
            await load.register(definition)
        for tenant in (north, south):
            await _timed(loads[tenant], definition.name, started[tenant])
        for _ in range(times):
            found.credit_elsewhere.append(
                await _timed(loads[north], definition.name, started[north])
            )
            found.same.append(await _timed(loads[north], definition.name, started[north]))
            await _timed(loads[south], definition.name, started[south])
        for _ in range(times):
            # It is at the wrong one, with a line of its own, and is sent on.
            wrong = pair.other_than(pair.holder_of(north))
            async with Client(wrong, pair.keys["admin"], tenant=north) as client:
                await client.get_caller()
                begin = time.perf_counter()
                run_id = (await client.start_run(definition.name)).run_id
                await loads[north].ended(run_id)
                found.sent_on.append((time.perf_counter() - begin) * 1e3)
                started[north].append(run_id)
        for tenant, load in loads.items():
            await _verified(load, definition, started[tenant])
    for number in range(plan.count(NEW_TENANTS * 10) // 10 or 1):
        found.new_tenant.append(await _new_tenant(pair, f"south-new-{number}"))


async def _timed(load: Load, workflow: str, started: list[str]) -> float:
    begin = time.perf_counter()
    run_id = await load.start(workflow)
    await load.ended(run_id)
    started.append(run_id)
    return (time.perf_counter() - begin) * 1e3


async def _new_tenant(pair: Pair, tenant_id: str) -> float:
    """From the moment that one coordinator has made a tenant until a first call through the other
    one is answered.
    """
    await pair.add_tenant(tenant_id)
    begin = time.perf_counter()
    async with Client(pair.address, pair.key("operator")) as operator:
        made = await operator.create_key(
            "new", roles=[access_pb2.ROLE_TENANT_ADMIN], tenant_ids=[tenant_id]
        )
    async with Client(pair.address, made.secret) as client:
        await client.register_workflow(workload.fan_out(1))
    return (time.perf_counter() - begin) * 1e3


def _wake_up_figures(found: WakeUps) -> list[Figure]:
    figures = []
    for what, times in (
        ("run of one task at its holder", found.same),
        ("the same, the only credit elsewhere", found.credit_elsewhere),
        ("the same, asked at the other coordinator", found.sent_on),
    ):
        figures += [
            median(NAME, f"{what}, p50", [percentile(times, 0.5)], "ms"),
            median(NAME, f"{what}, p99", [percentile(times, 0.99)], "ms"),
        ]
    figures.append(
        median(NAME, "first call for a new tenant at the other, p50", found.new_tenant, "ms")
    )
    return figures
