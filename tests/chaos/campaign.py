"""A campaign: an installation under load, hurt by seed for a while, healed, and judged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.chaos import checker, copies
from tests.chaos.database import Database
from tests.chaos.disk import Disk
from tests.chaos.faults import Fault, Scene, faults_for
from tests.chaos.history import History, Observation, Struck
from tests.chaos.load import RETRY_SECONDS, Load
from tests.chaos.scripted import ScriptedAgent
from tests.chaos.site import KIND, REAL_SLOTS, Site
from tests.chaos.stored import querying, record_of

from tenure_server.core.ledger.lifecycle import TaskState

#: How long everything may take to come to its end once nothing is hurt any more.
HEAL_SECONDS = 45.0
_PAUSE_SECONDS = (0.1, 0.8)
_PROGRESS_SECONDS = 5.0
#: What a store says that is hurt, or whose seat another one took.
_EXPECTED = {"StoreFailed", "SeatLost"}
#: Of each tenant.
_CLIENTS = 3
_OPERATORS = 2
_COPIES_MAX = 4
#: The agents of ours and their slots.
_SCRIPTED = {"seen-1": 3, "seen-2": 2}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done. With `kills` nothing else is done than to kill, at most so often."""

    store: Literal["sqlite", "postgres"]
    seed: int
    seconds: float
    kills: int = 0

    @property
    def command(self) -> str:
        """What repeats it."""
        kills = f" KILLS={self.kills}" if self.kills else ""
        return f"make chaos SECONDS={self.seconds:g} SEED={self.seed} STORE={self.store}{kills}"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    violations: Sequence[checker.Violation]
    struck: Counter[str]
    counts: Counter[str]
    skipped: Sequence[str]
    history: Path

    @property
    def kills(self) -> int:
        """How often something was killed."""
        return sum(times for name, times in self.struck.items() if name.startswith("kill"))


async def run(plan: Plan, folder: Path, say: Say) -> Outcome:
    """Runs one campaign in an empty folder. Raises database.Missing."""
    with contextlib.ExitStack() as undo:
        database = disk = None
        if plan.store == "postgres":
            database = await asyncio.to_thread(Database)
            undo.callback(database.close)
            store = database.url
        else:
            disk = Disk(folder)
            undo.callback(disk.close)
            store = f"sqlite://{disk.folder}/tenure.db"
        campaign = _Campaign(plan, folder, store, database, disk, say)
        try:
            return await campaign.run()
        finally:
            await campaign.close()


@dataclass(slots=True)
class _Campaign:
    plan: Plan
    folder: Path
    store: str
    database: Database | None
    disk: Disk | None
    say: Say
    history: History = field(init=False)
    site: Site = field(init=False)
    load: Load = field(init=False)
    agents: list[ScriptedAgent] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    taken: list[copies.Copy] = field(default_factory=list)
    began: float = 0.0

    def __post_init__(self) -> None:
        self.history = History(self.folder / "history.jsonl")
        self.site = Site(self.folder, self.store, self._chance("site"))
        if self.disk is not None:
            self.site.environment = self.disk.environment

    def _chance(self, what: str) -> random.Random:
        # One each: who else draws how often must not change what one of them does.
        return random.Random(f"{self.plan.seed} {what}")

    async def run(self) -> Outcome:
        await self.site.open(coordinators=1 if self.database is None else 2, agents=2)
        self.began = time.monotonic()
        await self._begin()
        scene = Scene(self.site, self.agents, self._chance("faults"), self.database, self.disk)
        await self._hurt(scene)
        await self._heal()
        slots = {**_SCRIPTED, **{agent.name: REAL_SLOTS for agent in self.site.agents}}
        self.say("reads the store and judges")
        record = await asyncio.to_thread(record_of, self.store, slots)
        seen = self.history.observations
        violations = await asyncio.to_thread(checker.check, seen, record)
        for copy in self.taken:
            violations += await asyncio.to_thread(_judged, copy, seen, slots)
        violations += [checker.Violation("no_fault_is_its_own", one) for one in self._own_faults()]
        self._keep_or_clear(bool(violations))
        self.load.counts["lines of agents of divided tenants"] = self.site.divided_lines()
        self.load.counts["leases seen"] = len({*_leases(self.history)})
        self.load.counts["events"] = sum(map(len, record.events.values()))
        self.load.counts["entries"] = sum(map(len, record.logs.values()))
        return Outcome(
            violations=violations,
            struck=self.struck,
            counts=self.load.counts,
            skipped=[] if self.disk is None else self.disk.skipped,
            history=self.folder / "history.jsonl",
        )

    def _own_faults(self) -> Iterator[str]:
        """What coordinators logged that no fault from outside explains."""
        for coordinator in self.site.coordinators:
            for line in coordinator.log_lines():
                broken = "kind" in line and line["kind"] not in _EXPECTED
                if "exception" in line or (line["level"] == "error" and broken):
                    told = line.get("exception") or line.get("error")
                    yield f"{coordinator.name}: {line['event']}: {told}"

    def _keep_or_clear(self, wanted: bool) -> None:
        """Keeps what whoever looks into a broken promise wants to see, or removes what is large."""
        if wanted and self.disk is not None:
            shutil.copytree(self.disk.folder, self.folder / "store")
        for copy in () if wanted else self.taken:
            shutil.rmtree(copy.folder)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.site.close()
        self.history.close()

    async def _begin(self) -> None:
        for number, (name, slots) in enumerate(_SCRIPTED.items()):
            tenants = self.site.tenants_of(number)
            key = await self.site.installation.secret("agent", *tenants)
            agent = ScriptedAgent(
                name,
                KIND,
                slots,
                key,
                self.site.addresses,
                tenants,
                self.history,
                self._chance(name),
            )
            self.agents.append(agent)
            self.tasks.append(asyncio.create_task(agent.run()))
        self.load = Load(
            lambda tenant, name: self.site.client(tenant, name, retry_seconds=RETRY_SECONDS),
            self.history,
            self._chance("load"),
        )
        self.tasks.append(asyncio.create_task(self.load.run(_CLIENTS, _OPERATORS)))
        self.tasks.append(asyncio.create_task(self._tell_progress()))

    # -- what goes wrong

    async def _hurt(self, scene: Scene) -> None:
        chance = scene.chance
        known = list(faults_for(scene, kills_only=bool(self.plan.kills)))
        while not self._is_over():
            await asyncio.sleep(chance.uniform(*_PAUSE_SECONDS))
            chosen = [chance.choice(known)]
            if not self.plan.kills and chance.random() < 0.25:
                # Lines are spoilt whatever else happens.
                lines = [fault for fault in known if fault.__name__.endswith("line")]
                chosen.append(chance.choice(lines))
            await asyncio.gather(*(self._strike(fault, scene) for fault in chosen))
            if self.disk is not None and len(self.taken) < _COPIES_MAX and chance.random() < 0.3:
                await self._copy(self.disk, chance)
            self._look_after_tasks()

    def _is_over(self) -> bool:
        enough = self.plan.kills and _kills(self.struck) >= self.plan.kills
        return bool(enough) or time.monotonic() - self.began >= self.plan.seconds

    async def _strike(self, fault: Fault, scene: Scene) -> None:
        self.struck[fault.__name__] += 1
        self.history.add(Struck(what=f"{fault.__name__} strikes", at=time.monotonic()))
        try:
            await fault(scene)
        finally:
            self.history.add(Struck(what=f"{fault.__name__} is over", at=time.monotonic()))

    async def _copy(self, disk: Disk, chance: random.Random) -> None:
        (coordinator,) = self.site.coordinators
        folder = self.folder / f"copy-{len(self.taken) + 1}"
        copy = await asyncio.to_thread(copies.take, coordinator, disk.folder, folder, chance)
        self.taken.append(copy)
        self.struck[f"copy that is {copy.how}"] += 1

    def _look_after_tasks(self) -> None:
        for task in self.tasks:
            if task.done():
                task.result()
                raise AssertionError("a part of the campaign ended by itself")

    # -- what must be well again

    async def _heal(self) -> None:
        """Lets everything come to its end, and everybody leave in order."""
        self.say("nothing is hurt any more; waits until every run has ended or waits for somebody")
        self.load.stop()
        for agent in self.agents:
            agent.wild = False
        loading = self.tasks[len(self.agents)]
        with contextlib.suppress(TimeoutError):
            # Whoever is not answered in time leaves an open run behind, which the checker finds.
            async with asyncio.timeout(HEAL_SECONDS):
                await loading
                for explained in await self.load.come_to_rest(self._leased):
                    self.history.add(explained)
                    self.load.counts["waiting in the end"] += 1
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        for process in (*self.site.agents, *self.site.coordinators):
            process.terminate()
            code = await process.ended()
            assert code == 0, f"{process.name} was asked to end and did with {code}"

    def _leased(self) -> int:
        """How many tasks are leased."""
        with querying(self.store) as query:
            ((count,),) = query(
                f"SELECT count(*) FROM workflow_tasks WHERE state = {TaskState.LEASED.value}"
            )
        return int(count)

    async def _tell_progress(self) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(_PROGRESS_SECONDS)
            counts = ", ".join(f"{times} {what}" for what, times in self.load.counts.items())
            self.say(f"{number * _PROGRESS_SECONDS:3g} s: runs {counts}; {_told(self.struck)}")


def _judged(
    copy: copies.Copy, seen: list[Observation], slots: dict[str, int]
) -> list[checker.Violation]:
    return list(copies.judge(copy, seen, slots))


def _kills(struck: Counter[str]) -> int:
    return sum(times for name, times in struck.items() if name.startswith("kill"))


def _told(struck: Counter[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {times}×" for name, times in struck.items())


def _leases(history: History) -> set[tuple[str, str, int]]:
    return {lease for one in history.observations if (lease := getattr(one, "lease", None))}


def summary(plan: Plan, outcome: Outcome) -> str:
    """What there is to say at the end."""
    lines = [
        f"{sum(outcome.struck.values())} faults: {_told(outcome.struck)}",
        ", ".join(f"{times} {what}" for what, times in outcome.counts.items()),
        *(f"skipped: {why}" for why in outcome.skipped),
        f"history: {outcome.history}",
    ]
    if outcome.violations:
        lines.append(f"{len(outcome.violations)} PROMISES BROKEN")
        lines += [f"  {one.rule}: {one.what}" for one in outcome.violations[:20]]
        lines.append(f"repeat it with: {plan.command}")
    else:
        lines.append("every promise was kept")
    return "\n".join(lines)
