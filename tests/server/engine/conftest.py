"""An engine on a real store whose commits the test can hold, fail, and fail after the fact."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.databases import migrated
from tests.server.core.world import LEASE_US, START_US, flow

from tenure_constitution.article import Constitution
from tenure_server.core import ids
from tenure_server.core.definitions.definition import WorkflowTask
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Changes
from tenure_server.core.ledger.lifecycle import EventKind
from tenure_server.engine.engine import Engine
from tenure_server.engine.sessions import AgentSession, Hello, Outbound
from tenure_server.engine.settings import Settings
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store, open_store
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import TenantReads
from tenure_server.store.writer import Writer

TENANT = "acme"
#: How long to wait for what has to come. Nothing that goes well takes nearly as long.
PATIENCE_SECONDS = 60
KINDS = frozenset({"work"})
#: The clock jumps, and nobody shall think that the seat was lost meanwhile.
PATIENT = Settings(lease_us=LEASE_US, seat_us=1 << 50)


class TestClock:
    """Time that passes when the test says so."""

    __test__ = False

    def __init__(self) -> None:
        self.at_us = START_US

    def now_us(self) -> int:
        """The time."""
        return self.at_us


class TrickyWriter(Writer):
    """The real writer, whose commits can be held back and broken."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.backend, store.holder, store.address)
        #: Break the next commits so: "before" nothing is written, "after" everything is.
        self.breaks: list[str] = []
        self._open = threading.Event()
        self._open.set()
        self._entered = threading.Semaphore(0)

    def commit(self, changes: Changes) -> None:
        """Commits, or what the test wants instead."""
        self._entered.release()
        self._open.wait(PATIENCE_SECONDS)
        trick = self.breaks.pop(0) if self.breaks else ""
        if trick == "before":
            raise StoreFailed("the disk is full, says the test")
        super().commit(changes)
        if trick == "after":
            raise StoreFailed("nobody knows, says the test")

    def hold(self) -> None:
        """Lets commits begin and not end."""
        self._open.clear()
        while self._entered.acquire(blocking=False):
            pass

    def let_go(self) -> None:
        """Lets them end."""
        self._open.set()

    async def entered(self) -> None:
        """Waits until a commit has begun since `hold`."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=PATIENCE_SECONDS)


class TrickyStore(Store):
    """The real store with the tricky writer."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.backend, store.holder, store.address)
        self.tricky = TrickyWriter(store)

    def writer(self) -> Writer:
        """The tricky one."""
        return self.tricky


@dataclass
class House:
    """An engine, with what a test needs around it."""

    folder: Path
    #: On SQLite in the folder if empty.
    url: str = field(default="", kw_only=True)
    settings: Settings = field(default_factory=Settings)
    clock: TestClock = field(default_factory=TestClock)
    store: TrickyStore = field(init=False)
    engine: Engine = field(init=False)
    keys: dict[str, records.ApiKey] = field(default_factory=dict)
    platform: Constitution | None = None
    origin: records.Origin = field(init=False)

    async def open(self) -> None:
        """Opens the store and starts the engine."""
        url = self.url or migrated(f"sqlite:///{self.folder}/tenure.db")
        self.store = TrickyStore(open_store(url, holder=str(self.folder), address="here:1"))
        self.engine = Engine(self.store, self.settings, self.clock, platform=self.platform)
        await self.engine.start()
        self.origin = records.Origin(
            tenant_id=TENANT, api_key_id="key-0", correlation_id="correlation-1"
        )

    async def furnish(self) -> None:
        """Makes a tenant and two keys of agents."""
        await self.add_tenant(TENANT)
        for name in ("one", "two"):
            key = records.ApiKey(
                api_key_id=ids.new_id(TENANT, START_US, name.encode() * 3),
                name=name,
                secret_hash=name.encode() * 8,
                roles=frozenset({records.Role.AGENT}),
                tenant_ids=(TENANT,),
                create_us=START_US,
            )
            self.keys[name] = key
            await self.act(partial(Acts.create_api_key, key=key))

    async def add_tenant(self, tenant_id: str, max_leases: int = 1000) -> None:
        """Makes a tenant."""
        tenant = records.Tenant(
            tenant_id=tenant_id,
            display_name="",
            max_leases=max_leases,
            weight=1,
            create_us=START_US,
        )
        await self.act(lambda acts: acts.create_tenant(tenant))
        await self.engine.after_tenant_change(tenant_id)

    async def act(self, work: Callable[[Acts], object]) -> None:
        """Does something off the hot path."""

        def work_without_answer(acts: Acts) -> bytes:
            work(acts)
            return b""

        await self.engine.mutate(
            tenants=[], remember_under="", request=None, work=work_without_answer
        )

    async def register(self, *tasks: WorkflowTask, name: str = "flow", **options: Any) -> None:
        """Registers a workflow."""
        await self.engine.workflows.register(self.origin, flow(*tasks, name=name, **options), None)

    async def start(self, name: str = "flow", request_id: str = "") -> str:
        """Starts a run and gives its id."""
        [started] = await self.engine.start_runs(self.origin, [start_of(name, request_id)])
        return started.run_id

    def session(
        self, name: str = "host", *, key: str = "one", slots: int = 10, **hello: Any
    ) -> AgentSession:
        """Puts an agent on the line."""
        words = {"instance": "instance-1", "kinds": KINDS, **hello}
        return self.engine.work.open_session(
            self.keys[key], [TENANT], Hello(agent=name, slots=slots, **words)
        )

    async def pass_time(self, us: int) -> None:
        """Lets time pass, and what follows be committed."""
        self.clock.at_us += us
        self.engine._floor.pass_time()
        await self.engine._floor.flushed()

    async def serving(self, wanted: bool = True) -> None:
        """Waits until the engine serves, or does not."""
        reached = asyncio.Event()
        self.engine.on_serving(lambda now: reached.set() if now is wanted else None)
        await asyncio.wait_for(reached.wait(), PATIENCE_SECONDS)

    async def events(self, run_id: str) -> list[records.Event]:
        """The stored log of a run."""
        reads = TenantReads(self.store, TENANT)
        return await self.engine.read(reads.events, run_id, 0, 100_000)

    async def kinds(self, run_id: str) -> list[EventKind]:
        """What happened in a run."""
        return [event.kind for event in await self.events(run_id)]

    async def run(self, run_id: str) -> records.Run:
        """A stored run."""
        found = await self.engine.read(TenantReads(self.store, TENANT).run, run_id)
        assert found is not None
        return found

    def copy_to(self, folder: Path) -> House:
        """The house after a power cut: its files as they are now, and nothing else."""
        folder.mkdir()
        for name in ("tenure.db", "tenure.db-wal"):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, folder / name)
        return House(folder, self.settings, self.clock, keys=self.keys)

    async def close(self) -> None:
        """Stops the engine, unless the test did."""
        self.store.tricky.let_go()
        if not self.engine._floor.stopping:
            await self.engine.stop()
        self.store.close()


def start_of(name: str = "flow", request_id: str = "", content: bytes = b"") -> records.StartRun:
    """The wish to start a run."""
    request = records.Request(request_id=request_id, method="StartRun", digest=content)
    return records.StartRun(workflow=name, labels={}, request=request if request_id else None)


async def soon(outbound: AgentSession) -> Outbound:
    """What is due to an agent, which must come."""
    due = await asyncio.wait_for(outbound.outbound(), PATIENCE_SECONDS)
    assert due is not None
    return due


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A house with a tenant and two agents' keys."""
    (tmp_path / "first").mkdir()
    house = House(tmp_path / "first", Settings(lease_us=LEASE_US))
    await house.open()
    await house.furnish()
    yield house
    await house.close()


@pytest.fixture
async def either(either_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """The same on either database."""
    house = House(tmp_path, PATIENT, url=either_url)
    await house.open()
    await house.furnish()
    yield house
    await house.close()
