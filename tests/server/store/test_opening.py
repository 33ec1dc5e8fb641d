"""Opening a store: what is made, what is refused and how that is said."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from playhouse import migrations, schema_diff
from tests.databases import AsShipped
from tests.server.store import world
from tests.server.store.world import TENANT

from tenure_server.store import schema, sqlite, tables
from tenure_server.store.database import Store, open_store
from tenure_server.store.errors import StoreLocked, StoreOpenError
from tenure_server.store.reads import Reads

WRITER = Path(__file__).with_name("writing_process.py")


@pytest.fixture
def postgres_url(postgres_url_factory: Callable[..., str]) -> str:
    """The URL of a database without tables."""
    return postgres_url_factory(bare=True)


@pytest.fixture
def url(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that nobody has opened yet."""
    if driver == "postgresql":
        made: str = request.getfixturevalue("postgres_url")
        return made
    return f"sqlite://{tmp_path}/tenure.db"


def refusal(url: str) -> str:
    """What is said when this URL is opened."""
    with pytest.raises(StoreOpenError) as refused:
        open_store(url, holder="first", address="first:7233")
    return str(refused.value)


def test_opening_again_changes_nothing(url: str, opening: Callable[..., Store]) -> None:
    first = opening(url)
    world.settle(first)
    first.close()
    again = opening(url, "second")
    with again.reading():
        assert Reads(again).tenant(TENANT) == world.tenant()
    names = again.backend.writing.execute_sql("SELECT name FROM schema_migration").fetchall()
    steps = sorted(Path(tables.__file__).with_name("migrations").glob("[0-9]*.py"))
    assert [name for (name,) in names] == [step.stem for step in steps]


def test_the_migrations_make_the_tables_that_the_queries_expect(store: Store) -> None:
    differences = schema_diff.diff_models(store.backend.writing, list(schema.ALL))
    assert str(differences) == str(schema_diff.SchemaDiff([], [], [], [], []))


def test_a_store_of_a_newer_version_is_refused(url: str, opening: Callable[..., Store]) -> None:
    store = opening(url)
    store.backend.writing.execute_sql(
        "INSERT INTO schema_migration (name, applied) VALUES ('0099_later', '2030-01-01 00:00:00')"
    )
    store.close()
    assert "newer version" in refusal(url)
    assert "0099_later" in refusal(url)


def test_the_kind_is_told(store: Store, url: str) -> None:
    assert url.startswith(store.kind)


def test_readers_cannot_write(store: Store) -> None:
    world.settle(store)
    with store.reading():
        with pytest.raises(Exception, match=r"read-?only"):
            store.backend.reading.execute_sql("DELETE FROM tenants")
        assert Reads(store).tenant(TENANT)


def test_reading_can_be_nested_and_done_from_many_threads(store: Store) -> None:
    world.settle(store)
    together = threading.Barrier(8)

    def read(_: int) -> bool:
        with store.reading():
            together.wait(10)
            with store.reading():
                found = Reads(store).tenant(TENANT)
            return found == Reads(store).tenant(TENANT) == world.tenant()

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


def test_reading_without_a_lent_connection_is_a_mistake(store: Store) -> None:
    with pytest.raises(Exception, match="not opened"):
        Reads(store).tenant(TENANT)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("mysql://host/db", "begins with sqlite:/// or postgresql://"),
        ("tenure.db", "begins with sqlite:/// or postgresql://"),
        ("sqlite:tenure.db", "an absolute path is needed"),
        ("sqlite://tenure.db", "an absolute path is needed"),
        ("sqlite://:memory:", "an absolute path is needed"),
        ("sqlite:///no/such/place/tenure.db", "/no/such/place is not a directory"),
        ("sqlite:///tmp", "/tmp is a directory"),
        ("sqlite:///tmp/t.db?mode=ro", "an absolute path is needed"),
        ("postgresql://host", "names no database"),
        ("postgresql://host/db?sslmod=require", "is not one of PostgreSQL"),
    ],
)
def test_a_bad_url_is_refused_with_a_reason(bad: str, words: str) -> None:
    assert words in refusal(bad)


def test_a_file_that_is_no_database_is_refused_and_left_alone(
    sqlite_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "tenure.db"
    file.write_bytes(b"not a database" * 1000)
    assert "not a database" in refusal(sqlite_url)
    assert file.read_bytes() == b"not a database" * 1000


def test_another_programs_database_is_refused_and_left_alone(
    sqlite_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "tenure.db"
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    assert "the database of another program" in refusal(sqlite_url)
    other = sqlite3.connect(file)
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]
    other.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    file = tmp_path / "tenure.db"
    file.touch(mode=0o400)
    assert "may not be read and written" in refusal(sqlite_url)


def test_a_second_coordinator_on_the_same_file_is_refused_with_the_firsts_name(
    sqlite_url: str, tmp_path: Path, opening: Callable[..., Store]
) -> None:
    first = opening(sqlite_url)
    with pytest.raises(StoreLocked) as refused:
        open_store(sqlite_url, holder="second", address="second:7233")
    assert str(refused.value) == (
        f"{tmp_path}/tenure.db is in use by another coordinator:"
        f" process {os.getpid()}, address first:7233"
    )
    # The first one is none the worse for it, and afterwards the file is free.
    world.settle(first)
    first.close()
    opening(sqlite_url, "second")


def test_a_killed_coordinator_leaves_the_file_free(
    sqlite_url: str, opening: Callable[..., Store]
) -> None:
    command = [sys.executable, str(WRITER), sqlite_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(StoreLocked, match=f"process {child.pid}, address writing:1"):
            open_store(sqlite_url, holder="second", address="second:7233")
        child.kill()
    opening(sqlite_url)


def test_a_file_whose_name_needs_quoting_is_found(
    tmp_path: Path, opening: Callable[..., Store]
) -> None:
    opening(f"sqlite://{tmp_path}/a%20b.db")
    assert (tmp_path / "a b.db").exists()


def test_sqlite_is_set_for_durability_and_keeps_its_log(
    sqlite_url: str,
    tmp_path: Path,
    opening: Callable[..., Store],
    as_shipped: AsShipped,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite, "WAL_BYTES", as_shipped.wal_bytes)
    monkeypatch.setitem(sqlite._WRITING, "synchronous", as_shipped.synchronous)
    store = opening(sqlite_url)
    world.settle(store)

    def pragma(database: object, name: str) -> object:
        return database.execute_sql(f"PRAGMA {name}").fetchone()[0]  # type: ignore[attr-defined]

    writing = store.backend.writing
    assert pragma(writing, "journal_mode") == "wal"
    assert pragma(writing, "synchronous") == 2
    assert pragma(writing, "foreign_keys") == 1
    assert pragma(writing, "wal_autocheckpoint") == 4000
    with store.reading():
        assert pragma(store.backend.reading, "query_only") == 1
        assert pragma(store.backend.reading, "wal_autocheckpoint") == 0
    log = tmp_path / "tenure.db-wal"
    grown = log.stat().st_size
    assert grown >= sqlite.WAL_BYTES
    rows = [world.event_row(world.new_id(1), sequence) for sequence in range(10_000)]
    store.writer().commit(world.changes(events=rows))
    assert log.stat().st_size == grown
    # The growth left nothing behind.
    assert (tmp_path / "tenure.db").stat().st_size < sqlite.WAL_BYTES


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    said = refusal("postgresql://someone:geheim@127.0.0.1:1/tenure")
    assert "database tenure on 127.0.0.1" in said
    assert "geheim" not in said
    assert "geheim" not in refusal("postgresql://someone:geheim@127.0.0.1/tenure?no=1")


def test_a_database_that_is_not_there_is_told(postgres_url: str) -> None:
    url = re.sub(r"/test_\d+\?", "/nowhere?", postgres_url)
    assert 'database "nowhere" does not exist' in refusal(url)


def test_coordinators_that_start_together_migrate_once(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    together = threading.Barrier(4)

    def start(number: int) -> Store:
        together.wait(10)
        return opening(postgres_url, f"holder-{number}")

    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(start, range(4)))
    for number, store in enumerate(stores):
        world.settle(store, f"tenant-{number}")


def test_on_postgresql_what_is_acknowledged_is_on_disk_whatever_the_default(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for setting in ("synchronous_commit = off", "default_transaction_isolation = serializable"):
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {setting}".encode())
    store = opening(postgres_url)
    run = store.backend.writing.execute_sql
    assert run("SHOW synchronous_commit").fetchone() == ("on",)
    assert run("SHOW transaction_isolation").fetchone() == ("read committed",)


def test_every_migration_has_a_number_of_its_own() -> None:
    steps = migrations.Migration.load_directory(str(Path(tables.__file__).with_name("migrations")))
    numbers = [step.idx for step in steps]
    assert numbers == sorted(set(numbers))
