"""Installations for the tests on the wire: one of their own, or one that many share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.databases import PostgresServer
from tests.wire import nest
from tests.wire.installation import ROLES, TENANT, Installation
from tests.wire.raw import Line

from tenure_client.builder import Workflow
from tenure_client.cli import app

Install = Callable[..., Installation]
#: Executes `tenure evidence … --json`: exit code and document, or the message on stderr.
Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Makes installations with one coordinator that serves: `install(*flags, store=…)`."""
    made: list[Installation] = []

    def make(*flags: str, store: str = "") -> Installation:
        folder = tmp_path / f"installation-{len(made) + 1}"
        folder.mkdir()
        new = Installation(folder, store or f"sqlite://{folder}/tenure.db", flags)
        made.append(new)
        new.add_coordinator().start()
        return new

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh store of each kind; empty for SQLite in the installation's folder."""
    if request.param == "sqlite":
        return ""
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation on SQLite that tests share: nobody may kill, pause or stop it."""
    folder = tmp_path_factory.mktemp("house")
    yield from _serving(Installation(folder, f"sqlite://{folder}/tenure.db"))


@pytest.fixture(scope="session")
def house_on_postgres(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """The same on PostgreSQL."""
    with postgres_server.lending() as url:
        yield from _serving(Installation(tmp_path_factory.mktemp("house"), url))


@pytest.fixture(params=["sqlite", "postgresql"])
def either_house(request: pytest.FixtureRequest) -> Installation:
    """An installation on each kind of store that tests share."""
    name = "house" if request.param == "sqlite" else "house_on_postgres"
    house: Installation = request.getfixturevalue(name)
    return house


def _serving(installation: Installation) -> Iterator[Installation]:
    try:
        installation.add_coordinator().start()
        yield installation
    finally:
        installation.close()


@pytest.fixture
async def seeded(house: Installation) -> Installation:
    """The shared installation with two tenants, and in each a workflow, an open and an ended run.

    Nobody has a handler for the kind of their tasks. `seeds` has the ids: `alpha/open`, …
    """
    if house.seeds:
        return house
    await house.add_tenant("beta")
    with Workflow("known") as workflow:
        workflow.task("a", kind="nobody")
    for tenant in (TENANT, "beta"):
        async with house.client("admin", tenant) as admin:
            await admin.register_workflow(workflow.definition())
            for name in ("open", "ended"):
                started = await admin.start_run("known", request_id=f"seed-{name}")
                house.seeds[f"{tenant}/{name}"] = started.run_id
            await admin.cancel_run(house.seeds[f"{tenant}/ended"])
        for role in ROLES:
            await house.secret(role, tenant)
    return house


@pytest.fixture
async def line(house: Installation) -> AsyncIterator[Line]:
    """A line to the shared installation on which any bytes can be sent."""
    async with Line(house.coordinator.address) as line:
        yield line


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> nest.Kept:
    """A run that has ended, with its bundle and its database."""
    return nest.run_in(tmp_path_factory.mktemp("nest"))


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Executes `tenure evidence … --json`, and gives the exit code and the document."""
    for word in ("ADDRESS", "KEY", "KEY_FILE", "CREDENTIALS", "TENANT"):
        monkeypatch.delenv(f"TENURE_{word}", raising=False)

    def execute(*arguments: str) -> tuple[int, Any]:
        code = app.invoke(["evidence", *arguments, "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else err

    return execute
