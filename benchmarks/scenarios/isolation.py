"""Another tenant's thing and one that is not there: can a clock tell them apart?"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from benchmarks import workload
from benchmarks.installation import installed
from benchmarks.plan import Plan
from benchmarks.results import Figure, median, percentile
from benchmarks.verification import WrongHistoryError
from tenure_server.core import ids

NAME = "isolation-timing"
THEIRS = "theirs"
CALLS = 2_000
WARM_UP_CALLS = 100


async def measure(plan: Plan) -> list[Figure]:
    """Asks for a run and a workflow of somebody else's, and for what nobody has, in mixed order.

    The figures are ratios of medians: 1 says that it takes the same time. Both are verified to be
    refused with NOT_FOUND.
    """
    calls = plan.count(CALLS)
    definition = workload.chain(1)
    runs, workflows, took_ms = [], [], []
    async with installed(plan.new_store) as house:
        key = (await house.add_tenants([THEIRS]))["admin"]
        async with house.load_of(key, THEIRS) as theirs, house.load() as ours:
            run_id = await theirs.start(await theirs.register(definition))
            nobody = ids.new_id(THEIRS, 5, b"nobody")
            for _ in range(plan.rounds):
                ratio, least = await _compare(ours.run, run_id, nobody, calls)
                runs.append(ratio)
                took_ms.append(least)
                # Of one length, so that not even that differs.
                unknown = "x" * len(definition.name)
                ratio, _ = await _compare(ours.start, definition.name, unknown, calls)
                workflows.append(ratio)
        await house.stop()
    return [
        median(NAME, "another tenant's run over none, p50", runs, ""),
        median(NAME, "another tenant's workflow over none, p50", workflows, ""),
        median(NAME, "a refusal, p50", took_ms, "ms"),
    ]


async def _compare(
    ask: Callable[[str], Awaitable[object]], theirs: str, nobodys: str, calls: int
) -> tuple[float, float]:
    """How long the one takes over the other, and the median of the other in milliseconds."""
    names = [theirs, nobodys] * (calls // 2)
    random.Random(calls).shuffle(names)
    took: dict[str, list[float]] = {theirs: [], nobodys: []}
    for number, name in enumerate([*names[:WARM_UP_CALLS], *names]):
        begin = time.perf_counter()
        await _refused(ask(name))
        if number >= WARM_UP_CALLS:
            took[name].append((time.perf_counter() - begin) * 1e3)
    ratio = percentile(took[theirs], 0.5) / percentile(took[nobodys], 0.5)
    return ratio, percentile(took[nobodys], 0.5)


async def _refused(call: Awaitable[object]) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return
        raise
    raise WrongHistoryError("something of another tenant, or of nobody, was there")
