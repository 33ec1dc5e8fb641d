"""PostgreSQL: any number of coordinators on one database, each with one writing connection.

What keeps them apart are the seats alone: every transaction locks those it was decided under, so
that nobody can take one between the check and the commit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal

import psycopg
from peewee import PostgresqlDatabase
from playhouse.pool import PooledPostgresqlDatabase
from psycopg import conninfo

from tenure_server.store.backend import SEAT_US_MAX, Database, PooledDatabase
from tenure_server.store.errors import StoreOpenError
from tenure_server.store.postgresql_journal import PostgresqlJournal

#: Whoever holds this advisory lock migrates ("tenure", read as a number).
_MIGRATION_LOCK = int.from_bytes(b"tenure", "big")
_CONNECTING = {"connect_timeout": "5", "keepalives_idle": "5", "keepalives_interval": "2"}
_CONNECTING |= {"keepalives_count": "3", "application_name": "tenure"}
# Keepalives are not sent while what was sent is not acknowledged.
_CONNECTING |= {"tcp_user_timeout": "10000"}
_SESSION = {
    # What is acknowledged is on disk, whatever the server's default is.
    "synchronous_commit": "on",
    # The check of the seats waits for who changes them and then sees what they wrote.
    "default_transaction_isolation": "read\\ committed",
    "client_encoding": "utf8",
}
#: How often it is looked whether others still hold seats.
_LOOK_SECONDS = 0.1
# A coordinator that is stopped in the middle of a transaction must not keep others from its seats.
_WRITING = {**_SESSION, "idle_in_transaction_session_timeout": "5s", "lock_timeout": "10s"}
_WRITING |= {"statement_timeout": "10s"}
_READING = {**_SESSION, "default_transaction_read_only": "on", "statement_timeout": "30s"}


class PostgresqlBackend:
    """A store in a PostgreSQL database; see `backend.Backend`."""

    kind: Literal["sqlite", "postgresql"] = "postgresql"
    begin = "BEGIN"
    shared = True

    def __init__(self, url: str) -> None:
        parameters = _parameters(url)
        database = parameters.pop("dbname")
        self.name = f"database {database} on {parameters.get('host', 'this host')}"
        options = parameters.pop("options", "")

        def connecting(session: dict[str, str]) -> dict[str, Any]:
            own = " ".join(f"-c {name}={value}" for name, value in session.items())
            extra = {"options": f"{options} {own}", "prefer_psycopg3": True, "autoconnect": False}
            return {**parameters, **extra}

        # The writing connection is used by one thread at a time, not always by the same.
        self.writing: Database = PostgresqlDatabase(
            database, thread_safe=False, **connecting(_WRITING)
        )
        self.reading: PooledDatabase = PooledPostgresqlDatabase(
            database, max_connections=0, stale_timeout=300, **connecting(_READING)
        )
        self.journal = PostgresqlJournal(self.writing)

    def prepare(self) -> None:
        """Connects for writing."""
        self.writing.connect()

    @contextlib.contextmanager
    def migrating(self) -> Iterator[None]:
        """Keeps other coordinators from migrating at the same time."""
        self.writing.execute_sql("SET lock_timeout = '120s'")
        self.writing.execute_sql("SET statement_timeout = 0")
        self.writing.execute_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        try:
            yield
        finally:
            self.writing.execute_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
            self.writing.execute_sql("SET lock_timeout = DEFAULT")
            self.writing.execute_sql("SET statement_timeout = DEFAULT")

    def await_idle(self) -> None:
        """Waits for the end of the seats that are held now, unless somebody renews one."""
        held = self._held()
        end_us = max((until_us for _, until_us in held), default=0)
        while held:
            alive = sorted({address for address, until_us in held if until_us > end_us})
            if alive:
                raise StoreOpenError(
                    f"{self.name} has to be migrated, and a coordinator of an older version is at"
                    f" work on it: stop {', '.join(alive)}, then start this one again"
                )
            time.sleep(_LOOK_SECONDS)
            held = self._held()

    def warm(self) -> None:
        """Does nothing: the server has been warm before."""

    def clock_us(self, now_us: int) -> int:
        """The server's time: the one clock that all coordinators share."""
        sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        return int(self.writing.execute_sql(sql).fetchone()[0])

    def damage(self) -> str:
        """Empty: servers have tools of their own for that, such as amcheck."""
        return ""

    def _held(self) -> list[tuple[str, int]]:
        """Where the holders of seats are reached, and until when they hold them."""
        sql = "SELECT address, until_us FROM seats WHERE until_us > %s AND until_us <= %s"
        now_us = self.clock_us(0)
        return self.writing.execute_sql(sql, (now_us, now_us + SEAT_US_MAX)).fetchall()

    def close(self) -> None:
        """Closes all connections."""
        self.reading.close_all()
        self.writing.close()


def _parameters(url: str) -> dict[str, str]:
    try:
        found = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError as error:
        # The message may quote the URL, and with it a password.
        raise StoreOpenError("the store's URL is not one of PostgreSQL") from error
    if not found.get("dbname"):
        raise StoreOpenError("the store's URL names no database: postgresql://host/database")
    return {**_CONNECTING, **found}
