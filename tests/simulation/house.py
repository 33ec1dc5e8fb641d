"""The real engine on a real SQLite file, in simulated time: it crashes, and its commits fail.

A crash loses all memory. What was being written then is kept or not, and nobody is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.chaos import flows
from tests.server.core.world import ACCEPT_US, LEASE_US, START_US, flow, task
from tests.simulation.loop import Disk, NoThread, SimulatedLoop, Work
from tests.simulation.mirror import Mirror
from tests.simulation.twin import Twin

from tenure_server.core import ids
from tenure_server.core.definitions.definition import RetryPolicy, WorkflowDefinition
from tenure_server.core.desks.desk import Desk
from tenure_server.core.errors import StoreUnavailable
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Changes
from tenure_server.core.scheduling.fire_times import FireTimes, Interval
from tenure_server.core.scheduling.schedules import Author, Overlap, Schedule, Standing
from tenure_server.engine import commits
from tenure_server.engine.chance import draw
from tenure_server.engine.engine import Engine
from tenure_server.engine.settings import Settings
from tenure_server.rpc.definitions import definition
from tenure_server.store import sqlite
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store, open_store
from tenure_server.store.errors import StoreFailed
from tenure_server.store.writer import Writer

TENANTS = {"alpha": 3, "beta": 4}
KEYS = ("one", "two")
WORK = frozenset({"work"})
#: The unit of spans in the workflows of rich stories, and how often their schedules fire.
UNIT_SECONDS = 4.0
EVERY_US = 45_000_000
#: The schedules of each tenant.
OVERLAPS = {
    "alpha": (Overlap.SKIP, Overlap.BUFFER_ALL, Overlap.CANCEL_RUNNING),
    "beta": (Overlap.BUFFER_ONE, Overlap.ALLOW_ALL),
}
_AGAIN = RetryPolicy(max_attempts=3, initial_delay_us=1_000_000, multiplier=1, jitter=0)


def workflows(*, rich: bool) -> list[WorkflowDefinition]:
    """A diamond, a narrow fan and a chain; or everything that can be declared."""
    if rich:
        return [definition(message) for message in flows.flows(UNIT_SECONDS, "work")]
    words: dict[str, Any] = {"retry": _AGAIN}
    return [
        flow(
            task("first", **words),
            task("left", "first", **words),
            task("right", "first", attempt_timeout_us=2 * LEASE_US, **words),
            task("last", "left", "right", **words),
            name="diamond",
        ),
        flow(*(task(f"fan-{number}", **words) for number in range(4)), name="fan", max_leases=2),
        flow(task("a", **words), task("b", "a", **words), task("c", "b"), name="chain"),
    ]


class _BrokenWriter(Writer):
    """The real writer, whose commits fail now and then, kept or not."""

    def __init__(self, store: Store, fate: Callable[[], str]) -> None:
        super().__init__(store.backend, store.holder, store.address)
        self._fate = fate

    def commit(self, changes: Changes) -> None:
        """Commits, or what the fate has in store."""
        fate = self._fate()
        if fate == "before":
            raise StoreFailed("nothing was written, says the simulation")
        super().commit(changes)
        if fate == "after":
            raise StoreFailed("nobody knows, says the simulation")


class _BrokenStore(Store):
    def __init__(self, store: Store, fate: Callable[[], str]) -> None:
        super().__init__(store.backend, store.holder, store.address)
        self._broken = _BrokenWriter(self, fate)

    def writer(self) -> Writer:
        """The one that fails now and then."""
        return self._broken


@dataclass
class House:
    """One engine after the other on one file."""

    folder: Path
    loop: SimulatedLoop
    chance: random.Random
    #: Called after each commit and read of the writer.
    stepped: Work
    #: Whether workflows declare more than graphs.
    rich: bool = False
    mirror: Mirror | Twin = field(init=False)
    #: How likely a commit fails. 0 in peace.
    fault_rate: float = 0.0
    engine: Engine | None = None
    keys: dict[str, records.ApiKey] = field(default_factory=dict)
    lives: int = 0
    _made: Engine | None = None
    _store: _BrokenStore | None = None
    _disk: Disk | None = None

    def __post_init__(self) -> None:
        self.mirror = Twin(self.now_us) if self.rich else Mirror(self.now_us)

    @property
    def url(self) -> str:
        """The store's."""
        return f"sqlite://{self.folder}/tenure.db"

    def now_us(self) -> int:
        """The time, for engines."""
        return START_US + int(self.loop.time() * 1e6)

    async def open(self) -> None:
        """Starts an engine on the file; again when it gives up, as whoever watches over it does."""
        while True:
            self.lives += 1
            opened = open_store(self.url, holder=f"life-{self.lives}", address="here:1")
            self._store = _BrokenStore(opened, self._fate)
            settings = Settings(lease_us=LEASE_US, accept_us=ACCEPT_US)
            self._made = Engine(self._store, settings, self)
            try:
                await self._made.start()
            except StoreUnavailable:
                self.crash()
                await asyncio.sleep(1.0)
            else:
                self.engine = self._made
                return

    async def furnish(self) -> None:
        """Makes tenants, keys and workflows."""
        assert self.engine is not None
        for tenant_id, limit in TENANTS.items():
            tenant = records.Tenant(
                tenant_id=tenant_id,
                display_name="",
                max_leases=limit,
                weight=1,
                create_us=START_US,
            )
            await self._act(lambda acts, tenant=tenant: acts.create_tenant(tenant))  # type: ignore[misc]
            await self.engine.after_tenant_change(tenant_id)
            for each in workflows(rich=self.rich):
                await self.engine.workflows.register(origin(tenant_id), each, None)
            for overlap in OVERLAPS[tenant_id] if self.rich else ():
                await self._schedule(tenant_id, overlap)
        for name in KEYS:
            key = records.ApiKey(
                api_key_id=ids.new_id("alpha", START_US, name.encode() * 3),
                name=name,
                secret_hash=name.encode() * 8,
                roles=frozenset({records.Role.AGENT}),
                tenant_ids=tuple(TENANTS),
                create_us=START_US,
            )
            self.keys[name] = key
            await self._act(lambda acts, key=key: acts.create_api_key(key=key))  # type: ignore[misc]

    async def _schedule(self, tenant_id: str, overlap: Overlap) -> None:
        assert self.engine is not None
        schedule = Schedule(
            name=overlap.name.lower(),
            workflow=flows.TICK,
            times=FireTimes(intervals=(Interval(EVERY_US + overlap * 7_000_000),)),
            overlap=overlap,
            catchup_us=120_000_000,
            author=Author("key-0", ()),
            create_us=self.now_us(),
            created_by="key-0",
            update_us=self.now_us(),
        )
        standing = Standing(cursor_us=self.now_us())
        await self.engine.schedules.create(
            origin(tenant_id), schedule, standing, None, lambda _: b""
        )

    async def _act(self, work: Callable[[Acts], object]) -> None:
        def done(acts: Acts) -> bytes:
            work(acts)
            return b""

        assert self.engine is not None
        await self.engine.mutate(tenants=[], remember_under="", request=None, work=done)

    def crash(self) -> None:
        """Throws the engine away as kill -9 does. What is being written is kept or not."""
        engine, disk, store = self._made, self._disk, self._store
        assert engine is not None
        assert disk is not None
        assert store is not None
        self.engine = None
        self.mirror.crashed()
        waiting = disk.crash()
        # Nobody is told what became of it.
        dumb: Any = SimpleNamespace(
            call_soon_threadsafe=lambda *_: None, call_soon=lambda *_: None, time=self.loop.time
        )
        engine._floor.commits._loop = dumb
        if waiting and self.chance.random() < 0.5:
            with contextlib.suppress(Exception):  # what it was is gone, and so is who would care
                waiting[0]()
        engine._floor._alarm.clear()
        for each in sorted(asyncio.all_tasks(self.loop), key=lambda task: task.get_name()):
            if not each.get_name().startswith("sim-"):
                each.cancel()
        store.close()

    async def close(self) -> None:
        """Stops the engine in order."""
        assert self.engine is not None
        assert self._store is not None
        await self.engine.stop()
        self._store.close()

    def _fate(self) -> str:
        drawn = self.chance.random()
        if drawn < self.fault_rate:
            return "before"
        return "after" if drawn < 2 * self.fault_rate else ""

    def make_disk(self) -> Disk:
        """The queue of the next engine's writer."""
        self._disk = Disk(self.loop, self.chance, self.stepped)
        return self._disk


def origin(tenant_id: str) -> records.Origin:
    """A caller of a tenant."""
    return records.Origin(tenant_id=tenant_id, api_key_id="key-0", correlation_id="simulated")


@contextlib.contextmanager
def simulated(house: House) -> Iterator[None]:
    """Puts the simulated disk and seeded randomness in place while it lasts."""
    queues: Any = SimpleNamespace(SimpleQueue=house.make_disk)
    threads: Any = SimpleNamespace(Thread=NoThread)
    # Sets of desks are walked in the order of what they hash to, which must not be chance.
    by_tenant: Any = lambda desk: hash(desk.tenant.tenant_id)  # noqa: E731
    replaced: list[tuple[Any, str, Any]] = [
        (commits, "queue", queues),
        (commits, "threading", threads),
        (os, "urandom", house.chance.randbytes),
        (sqlite, "WAL_BYTES", 0),
        (Desk, "__hash__", by_tenant),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    # What was drawn before is chance.
    draw.forget()
    try:
        for owner, name, other in replaced:
            setattr(owner, name, other)
        yield
    finally:
        for owner, name, real in before:
            setattr(owner, name, real)
        draw.forget()
