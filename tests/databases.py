"""Databases for tests. Most begin with a copy of one that is empty and migrated already.

What a migration makes is tested where stores are opened (tests/server/store/test_opening.py);
everywhere else it would only be done again, hundreds of times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tenure_server.store import sqlite
from tenure_server.store.database import open_store


@dataclass(frozen=True, slots=True)
class AsShipped:
    """How the product opens SQLite, where tests of this process do not."""

    wal_bytes: int
    synchronous: object


@contextmanager
def hasty_sqlite() -> Iterator[AsShipped]:
    """Lets the stores of this process reach their working size at once, and wait for no disk.

    A test kills processes, never the machine, and so loses nothing by this.
    """
    shipped = AsShipped(sqlite.WAL_BYTES, sqlite._WRITING["synchronous"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "WAL_BYTES", 0)
        patch.setitem(sqlite._WRITING, "synchronous", "off")
        yield shipped


def migrated(url: str) -> str:
    """The URL of a store in whose place an empty one is laid, if it is SQLite's and missing."""
    if url.startswith("sqlite:"):
        path = sqlite.path_of(url)
        if not path.exists():
            path.write_bytes(_migrated_file())
    return url


@cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory(prefix="tnr-") as folder:
        _migrate(f"sqlite://{folder}/tenure.db")
        return Path(folder, "tenure.db").read_bytes()


#: What tells that a test changed more of a database than its rows: counts and last changes of what
#: it is made of. Whoever empties a table changes nothing of these.
_SHAPE = b"""
    SELECT (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_attribute),
           (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_index),
           (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_constraint),
           (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_trigger),
           (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_proc),
           (SELECT string_agg(concat(relname, reloptions), ',' ORDER BY oid) FROM pg_class
             WHERE relnamespace = 'public'::regnamespace),
           (SELECT count(*) FROM pg_db_role_setting JOIN pg_database AS d ON setdatabase = d.oid
             WHERE d.datname = current_database())
"""
_TABLES_WITH_ROWS = b"""
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0
"""
_CUT_OFF_OTHERS = b"""
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class PostgresServer:
    """A server on which databases are made and dropped, as its superuser.

    To make one costs a tenth of a second, to empty one a hundredth. So what was lent is lent again.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # As above: nothing is lost. And no test lasts until a vacuum is wanted.
        self._run(
            *("ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET autovacuum = off"),
            "SELECT pg_reload_conf()",
        )
        self._numbers = count()
        #: Databases that nobody uses, each empty and migrated.
        self._idle: list[str] = []
        template = self._url_of(self._make("migrated", template="template0"))
        _migrate(template)
        with psycopg.connect(template) as connection:
            self._shape = connection.execute(_SHAPE).fetchone()
            #: What a migrated database has in its tables, by their names.
            self._rows = {
                table: b"".join(_copied(connection, table))
                for (table,) in connection.execute(_TABLES_WITH_ROWS).fetchall()
            }

    @contextmanager
    def lending(self) -> Iterator[str]:
        """The URL of an empty, migrated database. Whoever is connected to it at the end is cut off.

        It is dropped only if it is not as it was in more than its rows.
        """
        name = self._idle.pop() if self._idle else self._make(f"lent_{next(self._numbers)}")
        yield self._url_of(name)
        if self._emptied(name):
            self._idle.append(name)
        else:
            self._drop(name)

    @contextmanager
    def making_bare(self) -> Iterator[str]:
        """The URL of a database without tables, called ``test_…``. It is dropped at the end."""
        name = self._make(f"test_{next(self._numbers)}", template="template0")
        yield self._url_of(name)
        self._drop(name)

    def _make(self, name: str, template: str = "migrated") -> str:
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _drop(self, name: str) -> None:
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _url_of(self, name: str) -> str:
        return self.url.replace("/postgres?", f"/{name}?")

    def _emptied(self, name: str) -> bool:
        """Makes a database what it was at first. False if that takes more than to change rows."""
        try:
            with psycopg.connect(self._url_of(name)) as connection:
                connection.execute(_CUT_OFF_OTHERS)
                if connection.execute(_SHAPE).fetchone() != self._shape:
                    return False
                self._empty(connection)
        except psycopg.Error:
            return False
        return True

    def _empty(self, connection: psycopg.Connection) -> None:
        found = {table for (table,) in connection.execute(_TABLES_WITH_ROWS).fetchall()}
        tables = ", ".join(sorted(found | self._rows.keys()))
        connection.execute(f"TRUNCATE {tables} CASCADE".encode())
        for table, rows in self._rows.items():
            with connection.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
                copy.write(rows)

    def _run(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def _copied(connection: psycopg.Connection, table: str) -> Iterator[bytes]:
    with connection.cursor().copy(f"COPY {table} TO STDOUT".encode()) as copy:
        yield from map(bytes, copy)


def _migrate(url: str) -> None:
    open_store(url, holder="template", address="nowhere:1").close()
