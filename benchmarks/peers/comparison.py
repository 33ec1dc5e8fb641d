"""Tenure and one peer side by side: the same work in turn, and the ratio of what it took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import stores, workload
from benchmarks.installation import Installation, installed
from benchmarks.load import Load
from benchmarks.peers.adapter import Peer, Running, running
from benchmarks.results import Figure, Target, at_least, median, percentile

LENGTH = 4
LATENCY_CHAINS = 40
_WARM_UP = 50
_TARGET = at_least(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How often and how much."""

    rounds: int
    #: Divides what the peer's entry asks for.
    shrink: int

    def count(self, full: int) -> int:
        """How many of something."""
        return max(1, full // self.shrink)


class Ours:
    """Tenure at the same work as a peer's client is told to do."""

    def __init__(self, house: Installation, load: Load, tasks: int) -> None:
        self._house = house
        self._load = load
        self._wide = workload.fan_out(tasks)
        self._chain = workload.chain(LENGTH)
        self._wide_runs: list[str] = []
        self._chains: list[str] = []

    async def start(self) -> None:
        """Starts the agent and works a little, so that all is warm."""
        await self._house.start_agent()
        for definition in (self._wide, self._chain):
            await self._load.register(definition)
        warm_up = await self._load.register(workload.fan_out(_WARM_UP))
        await self._load.ended(await self._load.start(warm_up))
        await self._load.all_ended(await self._load.start_batch(self._chain.name, _WARM_UP))

    async def order(self, what: str, count: int) -> Sequence[float]:
        """Does something, and gives the seconds it took."""
        begin = time.perf_counter()
        if what == "tasks":
            self._wide_runs.append(await self._load.start(self._wide.name))
            await self._load.ended(self._wide_runs[-1])
        elif what == "chains":
            run_ids = await self._load.start_batch(self._chain.name, count)
            await self._load.all_ended(run_ids)
            self._chains += run_ids
        else:
            return [await self._one_chain() for _ in range(count)]
        return [time.perf_counter() - begin]

    async def _one_chain(self) -> float:
        begin = time.perf_counter()
        self._chains.append(await self._load.start(self._chain.name))
        await self._load.ended(self._chains[-1])
        return time.perf_counter() - begin

    async def check(self) -> None:
        """Reads everything back. Raises WrongHistoryError."""
        for definition, run_ids in ((self._wide, self._wide_runs), (self._chain, self._chains)):
            async for _ in self._load.verify_all(definition, run_ids):
                pass


async def compare(peer: Peer, scale: Scale) -> list[Figure]:
    """Rounds in turn: Tenure, peer, Tenure, peer.

    Both stand all the time, so what either costs idle is borne by the other. Raises MissingError,
    WrongHistoryError, ProcessError.
    """
    tasks, chains = scale.count(peer.tasks), scale.count(peer.chains)
    latencies = scale.count(LATENCY_CHAINS)
    orders = {"tasks": tasks, "chains": chains, "latency": latencies}
    took: dict[str, tuple[list[float], list[float]]] = {what: ([], []) for what in orders}
    with stores.stores(peer.beside) as new_store:
        async with running(peer) as theirs, installed(new_store) as house, house.load() as load:
            ours = Ours(house, load, tasks)
            await ours.start()
            await _warm_up(theirs)
            sides: tuple[Ours | Running, ...] = (ours, theirs)
            for _ in range(scale.rounds):
                for what, count in orders.items():
                    for side, it in enumerate(sides):
                        seconds = await it.order(what, count)
                        took[what][side].append(statistics.median(seconds))
                        if what == "latency":
                            took.setdefault("p99", ([], []))[side].append(percentile(seconds, 0.99))
            await ours.check()
            await house.stop()
    return [
        *_rates(peer.name, f"{tasks:,} independent tasks", tasks, *took["tasks"]),
        *_rates(peer.name, f"{chains:,} chains of 4", chains * LENGTH, *took["chains"]),
        *_latencies(peer.name, "one chain of 4, p50", *took["latency"]),
        *_latencies(peer.name, "one chain of 4, p99", *took["p99"]),
    ]


async def _warm_up(theirs: Running) -> None:
    await theirs.order("tasks", _WARM_UP)
    await theirs.order("chains", _WARM_UP)


def _rates(
    name: str, what: str, tasks: int, ours: Sequence[float], theirs: Sequence[float]
) -> list[Figure]:
    scenario = f"peer: {name}"
    return [
        median(scenario, f"{what}, Tenure", [tasks / it for it in ours], "tasks/s"),
        median(scenario, f"{what}, peer", [tasks / it for it in theirs], "tasks/s"),
        _ratio(scenario, f"{what}, ratio", ours, theirs, _TARGET),
    ]


def _latencies(
    name: str, what: str, ours: Sequence[float], theirs: Sequence[float]
) -> list[Figure]:
    scenario = f"peer: {name}"
    return [
        median(scenario, f"{what}, Tenure", [it * 1e3 for it in ours], "ms"),
        median(scenario, f"{what}, peer", [it * 1e3 for it in theirs], "ms"),
        _ratio(scenario, f"{what}, ratio", ours, theirs, None),
    ]


def _ratio(
    scenario: str, metric: str, ours: Sequence[float], theirs: Sequence[float], aim: Target | None
) -> Figure:
    """How many times as long the peer took, round by round."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return median(scenario, metric, ratios, "times", aim)
