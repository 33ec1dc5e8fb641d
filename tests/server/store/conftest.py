"""Stores under test: on SQLite with both drivers, and on PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.databases import migrated

from tenure_server.store import sqlite
from tenure_server.store.database import Store, open_store


@pytest.fixture(params=["sqlite", "sqlite-stdlib", "postgresql"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the store is opened with."""
    if request.param == "sqlite-stdlib":
        monkeypatch.setenv(sqlite.DRIVER_VARIABLE, "stdlib")
    name: str = request.param
    return name


@pytest.fixture
def url(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that is empty and migrated."""
    if driver == "postgresql":
        made: str = request.getfixturevalue("postgres_url")
        return made
    return migrated(f"sqlite://{tmp_path}/tenure.db")


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
