"""What constitution and evidence cost: a coordinator with them beside one without."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks import workload
from benchmarks.installation import COORDINATOR, Installation, installed
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.results import Figure, Target, at_least, median
from tenure.v1 import workflows_pb2

NAME = "evidence"
UNPROVEN = "benchmarks.unproven"
TASKS = 10_000
CHAINS = 1_000
LENGTH = 4
#: Pairs of rounds for each round of other scenarios: the ratio of two noisy figures needs more.
PAIRS = 3
_TARGET = at_least(0.85)

Work = Callable[[Load], Awaitable[list[str]]]


@dataclass(slots=True)
class Side:
    """One coordinator, and what it did in each of its rounds."""

    house: Installation
    load: Load
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)

    async def round(self, work: Work, tasks: int) -> None:
        """Works once and measures it."""
        before, begin = self.house.usage(), time.perf_counter()
        run_ids = await work(self.load)
        self.rates.append(tasks / (time.perf_counter() - begin))
        used = self.house.usage().since(before)
        self.cpu_us.append(used.coordinator_seconds / tasks * 1e6)
        self.run_ids += run_ids


async def measure(plan: Plan) -> list[Figure]:
    """Throughput with over without, by rounds that alternate; each round's runs are verified."""
    tasks, chains = plan.count(TASKS), plan.count(CHAINS)
    fan_out, chain = workload.fan_out(tasks), workload.chain(LENGTH)

    async def one_wide_run(load: Load) -> list[str]:
        run_id = await load.start(fan_out.name)
        await load.ended(run_id)
        return [run_id]

    async def many_chains(load: Load) -> list[str]:
        run_ids = await load.start_batch(chain.name, chains)
        await load.all_ended(run_ids)
        return run_ids

    pairs = plan.rounds * (1 if plan.quick else PAIRS)
    return [
        *await _compare(plan, f"fan-out of {tasks:,}", fan_out, one_wide_run, pairs, tasks),
        *await _compare(
            plan, f"{chains:,} chains of {LENGTH}", chain, many_chains, pairs, chains * LENGTH
        ),
    ]


async def _compare(
    plan: Plan,
    what: str,
    definition: workflows_pb2.WorkflowDefinition,
    work: Work,
    pairs: int,
    tasks: int,
) -> list[Figure]:
    async with _side(plan, COORDINATOR) as proven, _side(plan, UNPROVEN) as unproven:
        sides = [proven, unproven]
        for side in sides:
            await side.load.register(definition)
            await work(side.load)
        for _ in range(pairs):
            for side in sides:
                await side.round(work, tasks)
            # Who goes first changes, so that what drifts does not favour one of them.
            sides.reverse()
        for side in sides:
            async for _ in side.load.verify_all(definition, side.run_ids):
                pass
            await side.house.stop()
    target = plan.target(_TARGET)
    return [
        median(NAME, f"{what}, with", proven.rates, "tasks/s"),
        median(NAME, f"{what}, without", unproven.rates, "tasks/s"),
        _ratio(f"{what}, with over without", proven.rates, unproven.rates, target),
        median(NAME, f"{what}, coordinator CPU with", proven.cpu_us, "us/task"),
        median(NAME, f"{what}, coordinator CPU without", unproven.cpu_us, "us/task"),
        _ratio(f"{what}, CPU without over with", unproven.cpu_us, proven.cpu_us, None),
    ]


def _ratio(
    metric: str, above: Sequence[float], below: Sequence[float], target: Target | None
) -> Figure:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return median(NAME, metric, ratios, "", target)


@contextlib.asynccontextmanager
async def _side(plan: Plan, program: str) -> AsyncIterator[Side]:
    async with installed(plan.new_store, program) as house:
        await house.start_agent()
        async with house.load() as load:
            yield Side(house, load)
