"""Stores under test: on SQLite with both drivers, and on PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenure_server.store import sqlite
from tenure_server.store.database import Store, open_store


@pytest.fixture(params=["sqlite", "sqlite-stdlib", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a store that does not exist yet."""
    if request.param == "postgresql":
        made: str = request.getfixturevalue("postgres_url")
        return made
    if request.param == "sqlite-stdlib":
        monkeypatch.setenv(sqlite.DRIVER_VARIABLE, "stdlib")
    # A working size of the log that takes no time to reach.
    monkeypatch.setattr(sqlite, "WAL_BYTES", 0)
    return f"sqlite://{tmp_path}/tenure.db"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite store that does not exist yet."""
    return f"sqlite://{tmp_path}/tenure.db"


@pytest.fixture
def opening() -> Iterator[Callable[..., Store]]:
    """Opens stores, as many coordinators as asked for; closes them after the test."""
    with contextlib.ExitStack() as stack:

        def opened(url: str, holder: str = "first") -> Store:
            store = open_store(url, holder=holder, address=f"{holder}:7233")
            stack.callback(store.close)
            return store

        yield opened


@pytest.fixture
def store(url: str, opening: Callable[..., Store]) -> Store:
    """An empty store, open."""
    return opening(url)
