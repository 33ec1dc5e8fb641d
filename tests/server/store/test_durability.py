"""What was acknowledged is there, whatever dies; what fails leaves nothing, and does not last."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.server.store import world
from tests.server.store.world import NOW, SECOND, TENANT

from tenure_server.store import sqlite
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import Reads, TenantReads
from tenure_server.store.seats import Seats

WRITER = Path(__file__).with_name("writing_process.py")
RUN = "run"


def acknowledged_before_death(url: str, commits: int) -> int:
    """Runs a writing coordinator, kills it after some commits; the last number that it printed."""
    with subprocess.Popen([sys.executable, str(WRITER), url], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(commits)]
        child.kill()
        # What it printed between the last line read and its death counts too.
        lines += child.stdout.readlines()
    return int([line for line in lines if line.endswith(b"\n")][-1])


def test_killing_a_coordinator_loses_nothing_that_was_acknowledged(
    url: str, opening: Callable[..., Store]
) -> None:
    for commits in (1, 17, 60):
        acknowledged = acknowledged_before_death(url, commits)
        store = opening(url, f"reader-{commits}")
        reads = TenantReads(store, TENANT)
        with store.reading():
            last = reads.last_sequence(RUN)
            numbers = [event.sequence for event in reads.events(RUN, 0, 1_000_000)]
        store.close()
        assert last >= acknowledged
        # Whole commits, in their order, and nothing but them.
        assert last % 100 == 0
        assert numbers == list(range(1, last + 1))


@contextmanager
def no_file_may_grow_over(size: int) -> Iterator[None]:
    """Lets the system refuse to write beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("driver", ["apsw", "stdlib"])
def test_a_disk_that_is_full_fails_the_commit_and_not_the_one_after_it(
    sqlite_url: str,
    tmp_path: Path,
    opening: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
) -> None:
    monkeypatch.setenv(sqlite.DRIVER_VARIABLE, driver)
    store = opening(sqlite_url)
    reads = world.settle(store)
    run_id = world.new_id(1)
    before = world.changes(runs=[world.run_row(run_id)], events=[world.event_row(run_id, 1)])
    store.writer().commit(before)
    large = world.changes(
        tasks=[
            world.task_row(run_id, index, output=bytes(1 << 20), output_type="")
            for index in range(8)
        ],
        events=[world.event_row(run_id, 2)],
    )
    with no_file_may_grow_over((tmp_path / "tenure.db-wal").stat().st_size + 4096):
        for _ in range(2):
            with pytest.raises(StoreFailed):
                store.writer().commit(large)
        with pytest.raises(StoreFailed):
            store.writer().act(
                {TENANT: 1},
                lambda acts: acts.register_workflow(
                    TENANT, "large", "sha256:large", bytes(1 << 20), 1, 0, "k-1", NOW
                ),
            )
        with store.reading():
            assert reads.last_sequence(run_id) == 1
            assert reads.tasks(run_id, -1, 10) == []
            assert reads.workflow("large") is None
    store.writer().commit(large)
    with store.reading():
        assert reads.last_sequence(run_id) == 2
        assert len(reads.tasks(run_id, -1, 10)) == 8


@pytest.mark.parametrize("driver", ["apsw", "stdlib"])
def test_a_file_that_cannot_be_written_fails_the_commit_and_not_the_one_after_it(
    sqlite_url: str,
    opening: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
) -> None:
    monkeypatch.setenv(sqlite.DRIVER_VARIABLE, driver)
    store = opening(sqlite_url)
    reads = world.settle(store)
    store.backend.writing.execute_sql("PRAGMA query_only = 1")
    events = world.changes(events=[world.event_row("run", 1)])
    with pytest.raises(StoreFailed, match="readonly"):
        store.writer().commit(events)
    with store.reading():
        assert reads.last_sequence("run") == 0
    store.writer().commit(events)
    with store.reading():
        assert reads.last_sequence("run") == 1


def test_a_file_that_somebody_else_keeps_locked_fails_the_commit(
    sqlite_url: str, opening: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    store = opening(sqlite_url)
    reads = world.settle(store)
    events = world.changes(events=[world.event_row("run", 1)])
    # A tool that looks at the file by itself, such as SQLite's shell.
    writing, _ = sqlite._databases(sqlite.path_of(sqlite_url))
    writing.connect()
    writing.execute_sql("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="locked"):
        store.writer().commit(events)
    writing.execute_sql("ROLLBACK")
    writing.close()
    store.writer().commit(events)
    with store.reading():
        assert reads.last_sequence("run") == 1


def cut_all_lines(url: str) -> None:
    """Ends every connection to a PostgreSQL database, as a restart of the server does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()


def test_a_lost_line_fails_the_commit_and_not_the_one_after_it(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    store = opening(postgres_url)
    reads = world.settle(store)
    events = world.changes(events=[world.event_row("run", 1)])
    cut_all_lines(postgres_url)
    with pytest.raises(StoreFailed):
        store.writer().commit(events)
    store.writer().commit(events)
    with store.reading():
        assert reads.last_sequence("run") == 1


def test_a_line_lost_in_the_middle_of_an_act_undoes_it(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    store = opening(postgres_url)

    def work(acts: Acts) -> None:
        acts.create_tenant(world.tenant())
        cut_all_lines(postgres_url)

    with pytest.raises(StoreFailed):
        store.writer().act({}, work)
    with store.reading():
        assert Reads(store).tenant(TENANT) is None
    store.writer().act({}, lambda acts: acts.create_tenant(world.tenant()))


def test_a_line_lost_under_a_refusal_leaves_the_refusal_in_place(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    store = opening(postgres_url)

    def work(_: Acts) -> None:
        cut_all_lines(postgres_url)
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        store.writer().act({}, work)
    store.writer().act({}, lambda acts: acts.create_tenant(world.tenant()))


def test_a_lost_line_fails_the_read_and_not_the_one_after_it(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    store = opening(postgres_url)
    reads = world.settle(store)

    def read_over_a_cut_line() -> None:
        with store.reading():
            cut_all_lines(postgres_url)
            reads.last_sequence("run")

    with pytest.raises(StoreFailed):
        read_over_a_cut_line()
    with store.reading():
        assert reads.last_sequence("run") == 0


def test_lines_lost_between_reads_are_not_noticed(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    store = opening(postgres_url)
    reads = world.settle(store)
    for _ in range(2):
        with store.reading():
            assert reads.last_sequence("run") == 0
        cut_all_lines(postgres_url)


def test_a_lost_line_fails_the_seats_and_not_the_time_after_it(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    store = opening(postgres_url)
    world.settle(store)
    for method in (Seats.take, Seats.renew):
        cut_all_lines(postgres_url)
        with pytest.raises(StoreFailed):
            method(Seats(store), NOW, SECOND)
        method(Seats(store), NOW, SECOND)
