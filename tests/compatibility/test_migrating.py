"""Migrations of a database that an older version filled: together, under load, after a death."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peewee
import psycopg
import pytest
from tests.chaos.stored import querying
from tests.compatibility.frozen import Frozen

from tenure_server.store import schema
from tenure_server.store.database import Store, open_store
from tenure_server.store.errors import StoreOpenError
from tenure_server.store.postgresql import PostgresqlBackend

DYING = Path(__file__).with_name("dying_migration.py")
#: How long seats are held here: no stall of the machine lets them end.
HELD_SECONDS = 50
#: More statements than the longest migration has.
STATEMENTS_MAX = 200
Restored = Callable[[Frozen], str]


class Died(BaseException):
    """What ends a migration here. No code may catch it."""


def _open(url: str) -> Store:
    return open_store(url, holder="new", address="new:7233")


def _content(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, in an order of its own."""
    with querying(url) as query:
        return {
            name: sorted(query(f"SELECT * FROM {name}"), key=repr)
            for name in (table._meta.table_name for table in schema.ALL)
        }


def _migrated(oldest: Frozen, restored: Restored) -> dict[str, list[tuple[Any, ...]]]:
    url = restored(oldest)
    _open(url).close()
    return _content(url)


def test_a_migration_that_dies_at_any_statement_is_done_again(
    oldest: Frozen, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often and wherever it ends, the next start goes on, and nothing is there twice."""
    wanted, url = _migrated(oldest, restored), restored(oldest)
    database_type: Any = peewee.Database
    execute, deaths = database_type.execute_sql, 0

    def dies_after(statements: int) -> Callable[..., Any]:
        left = statements

        def counted(database: Any, *arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Died
            return execute(database, *arguments)

        return counted

    # PostgreSQL takes its time to connect, and the statements are the same.
    for statements in range(0, STATEMENTS_MAX, 1 if oldest.kind == "sqlite" else 7):
        monkeypatch.setattr(peewee.Database, "execute_sql", dies_after(statements))
        try:
            _open(url).close()
        except Died:
            deaths += 1
        else:
            break
    monkeypatch.undo()
    assert STATEMENTS_MAX > deaths > 5
    assert _content(url) == wanted


def test_a_migration_that_is_killed_is_done_again(oldest: Frozen, restored: Restored) -> None:
    """`kill -9` in the middle of a step: its process is gone, and the database lets go of it."""
    wanted, url = _migrated(oldest, restored), restored(oldest)
    killed = subprocess.run([sys.executable, DYING, url, "30"], check=False)
    assert killed.returncode == -signal.SIGKILL
    _open(url).close()
    assert _content(url) == wanted


@pytest.fixture
def old_url(restored: Restored) -> str:
    """What a coordinator of the first version left on PostgreSQL, with the seats that it holds."""
    url = restored(Frozen("foundation", "postgresql"))
    _hold(url, HELD_SECONDS)
    return url


def _hold(url: str, seconds: float) -> None:
    """Holds the seats for so long from now on, as a coordinator of the older version does."""
    with psycopg.connect(url, autocommit=True) as database:
        database.execute(
            "UPDATE seats SET holder = 'old', address = 'old:7233', until_us ="
            " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + %s",
            (int(seconds * 1e6),),
        )


def test_the_seats_of_a_dead_coordinator_of_an_older_version_are_waited_for(
    old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seats hold for a while after it was killed; then nobody writes by the older tables."""
    before, held = _steps(old_url), PostgresqlBackend._held
    seen: list[list[str]] = []

    def looked(backend: PostgresqlBackend) -> list[tuple[str, int]]:
        seen.append(_steps(old_url))
        if len(seen) == 3:
            # As if their time were up.
            _hold(old_url, 0)
        return held(backend)

    monkeypatch.setattr(PostgresqlBackend, "_held", looked)
    _open(old_url).close()
    assert seen == [before] * 3
    assert _steps(old_url) != before


def test_beside_a_coordinator_of_an_older_version_nothing_is_migrated(old_url: str) -> None:
    """It would go on to write by the older tables, without evidence for one."""
    before, renewed, over = _steps(old_url), threading.Event(), threading.Event()

    def renew() -> None:
        while not over.is_set():
            _hold(old_url, HELD_SECONDS)
            renewed.set()
            over.wait(0.05)

    with ThreadPoolExecutor(1) as threads:
        renewing = threads.submit(renew)
        try:
            assert renewed.wait(60)
            with pytest.raises(StoreOpenError) as refused:
                _open(old_url).close()
        finally:
            over.set()
        renewing.result()
    assert str(refused.value).endswith(
        "has to be migrated, and a coordinator of an older version is at work on it:"
        " stop old:7233, then start this one again"
    )
    assert _steps(old_url) == before


def _steps(url: str) -> list[str]:
    with querying(url) as query:
        return sorted(name for (name,) in query("SELECT name FROM schema_migration"))
