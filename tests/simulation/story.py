"""One story: a few thousand steps of an installation by one seed, and what was wrong with it."""

from __future__ import annotations

import asyncio
import logging
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from tests.chaos import checker
from tests.chaos.history import Explained, History, Started, StoredRun
from tests.chaos.rules.healing import those_that_wait
from tests.chaos.stored import record_of
from tests.simulation.house import TENANTS, House, simulated
from tests.simulation.loop import SimulatedLoop
from tests.simulation.mirror import Mirror, mirroring
from tests.simulation.movers import Mover
from tests.simulation.operators import Operator
from tests.simulation.people import Agent, Network, agents, client
from tests.simulation.twin import twinning
from tests.simulation.watching import watch

#: The longest of the simulated time in which everything must come to its end in peace.
_PEACE_SECONDS = 1800.0
_CLIENTS = 2
#: The longest of the simulated time that a step takes on the whole.
_STEP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to tell of a story."""

    seed: int
    steps: int
    seconds: float
    crashes: int
    runs: int
    wrong: tuple[str, ...]
    #: Of everything that was seen, so that two stories can be compared.
    fingerprint: int


@dataclass
class _Story:
    seed: int
    steps: int
    folder: Path
    loop: SimulatedLoop
    rich: bool
    done: int = 0
    wrong: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)
    watchers: list[asyncio.Task[None]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        chance = self._chance("house")
        self.house = House(self.folder, self.loop, chance, self._stepped, self.rich)
        self.network = Network(self.house, self.history, self._chance("net"), self._stepped)
        self.network.watch = self._watch

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self.seed} {what}")

    def _watch(self, tenant: str, run_id: str) -> None:
        self.watchers.append(
            self.loop.create_task(watch(self.network, tenant, run_id), name="sim-watch")
        )

    def _stepped(self) -> None:
        self.done += 1
        if not self.wrong:
            try:
                self.house.mirror.compare()
            except AssertionError as error:
                self.wrong.append(f"step {self.done}: {error}")
        if self.done >= self.steps or self.wrong:
            self.over.set()

    async def tell(self) -> None:
        """Tells it. What is wrong stands in `wrong`."""
        await self.house.open()
        await self.house.furnish()
        people = [client(self.network, name, n) for name in TENANTS for n in range(_CLIENTS)]
        crew: list[Agent] = agents(self.network)
        tasks = [self.loop.create_task(one, name="sim-client") for one in people]
        tasks += [self.loop.create_task(one.live(), name="sim-agent") for one in crew]
        tasks.append(self.loop.create_task(self._crashes(), name="sim-crashes"))
        operators = [Operator(self.network, name, f"operator-{name}") for name in TENANTS]
        if self.rich:
            hands = [*operators, *(Mover(self.network, name, f"mover-{name}") for name in TENANTS)]
            tasks += [self.loop.create_task(one.live(), name="sim-operator") for one in hands]
        self.house.fault_rate = 0.01
        over = self.loop.create_task(self.over.wait(), name="sim-over")
        await asyncio.wait(
            [over, *tasks],
            timeout=self.steps * _STEP_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        self._note_faults(tasks)
        if not self.over.is_set() and not self.wrong:
            self.wrong.append(f"step {self.done}: nothing happens any more")
        if not self.wrong:
            await self._come_to_an_end(tasks, operators)
        if not self.wrong:
            await asyncio.wait([over, *self.watchers])
            self._note_faults(self.watchers)
        for task in (over, *tasks, *self.watchers):
            task.cancel()
        await asyncio.gather(over, *tasks, *self.watchers, return_exceptions=True)
        if not self.wrong:
            await self.house.close()
            slots = {one.name: one.slots for one in crew}
            found = checker.check(self.history.observations, record_of(self.house.url, slots))
            self.wrong += [f"{one.rule}: {one.what}" for one in found]

    def _note_faults(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            if task.done() and not task.cancelled() and (fault := task.exception()):
                self.wrong.append(f"step {self.done}: {type(fault).__name__}: {fault}")

    async def _crashes(self) -> None:
        chance = self._chance("crashes")
        while True:
            await asyncio.sleep(chance.expovariate(1 / 40))
            if not self.network.wild:
                return
            self.house.crash()
            await asyncio.sleep(chance.choice([0.0, 1.0, 60.0]) * chance.random())
            await self.house.open()
            self._stepped()

    async def _come_to_an_end(
        self, tasks: list[asyncio.Task[None]], operators: list[Operator]
    ) -> None:
        self.network.wild = False
        self.network.stopping = True
        self.house.fault_rate = 0.0
        deadline = self.loop.time() + _PEACE_SECONDS
        clients = tasks[: len(TENANTS) * _CLIENTS]
        if self.rich:
            # Whoever asks for something is answered first.
            clients += tasks[-len(operators) :]
            tidying = [self.loop.create_task(one.tidy_up(), name="sim-tidy") for one in operators]
            tasks += tidying
        explained: list[Explained] = []
        while self.loop.time() < deadline and not self.wrong:
            await asyncio.sleep(1.0)
            self._note_faults(tasks)
            tidied = not self.rich or all(one.tidied for one in operators)
            if tidied and self.house.engine and all(task.done() for task in clients):
                explained = [why for one in operators for why in await one.explained()]
                if self._is_at_rest(explained):
                    break
        for why in explained:
            self.history.add(why)

    def _is_at_rest(self, explained: list[Explained]) -> bool:
        """Whether nothing is open but what waits for somebody."""
        assert self.house.engine is not None
        desks = self.house.engine._floor.desks
        if len(desks) < len(TENANTS) or any(desk.leases for desk in desks.values()):
            return False
        runs = {
            run.run_id: StoredRun(tenant=run.tenant_id, workflow=run.workflow, state=run.state.name)
            for desk in desks.values()
            for run in desk.runs.values()
        }
        return those_that_wait({one.run_id: one for one in explained}, runs) == runs.keys()


@contextmanager
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    level = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=level)
    try:
        yield
    finally:
        structlog.configure(**before)


def is_rich(seed: int) -> bool:
    """Whether the workflows of a story declare all that can be declared, or graphs alone.

    Of graphs alone each desk is compared with the reference model, of the others with what is read
    back after each crash.
    """
    return seed % 2 == 1


def tell(seed: int, steps: int, folder: Path) -> Told:
    """Tells the story of a seed in an empty folder, about so many steps long."""
    loop = SimulatedLoop(random.Random(f"{seed} loop"))
    try:
        asyncio.set_event_loop(loop)
        story = _Story(seed, steps, folder, loop, is_rich(seed))
        mirror = story.house.mirror
        watching = mirroring(mirror) if isinstance(mirror, Mirror) else twinning(mirror)
        with _quiet(), simulated(story.house), watching:
            try:
                loop.run_until_complete(loop.create_task(story.tell(), name="sim-story"))
            except Exception as error:  # noqa: BLE001 - the seed that brought it is what counts
                story.wrong.append(f"step {story.done}: {type(error).__name__}: {error}")
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
        seen = story.history.observations
        return Told(
            seed=seed,
            steps=story.done,
            seconds=loop.time(),
            crashes=story.house.lives - 1,
            runs=sum(isinstance(one, Started) and bool(one.run_id) for one in seen),
            wrong=tuple(story.wrong),
            fingerprint=zlib.crc32(repr(seen).encode()),
        )
    finally:
        asyncio.set_event_loop(None)
        loop.close()
