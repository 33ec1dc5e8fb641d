"""SQLite: one file, one coordinator, one writing connection.

An operating system's lock beside the file keeps a second coordinator out. It is let go by the
kernel when the process ends, however it ends.

APSW is preferred, because it brings a newer SQLite than most systems have and takes less time for
each row; the standard library's driver is the fallback.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from peewee import SqliteDatabase
from playhouse.pool import PooledDatabase as Pooled
from playhouse.pool import PooledSqliteDatabase

from tenure_server.store.backend import Database, PooledDatabase
from tenure_server.store.errors import StoreLocked, StoreOpenError
from tenure_server.store.sqlite_journal import SqliteJournal

#: Forces the standard library's driver when it says ``stdlib``.
DRIVER_VARIABLE = "TENURE_SQLITE_DRIVER"
#: How long a connection waits for another one.
BUSY_SECONDS = 10
#: Marks a file as ours ("TNUR"), so that nobody else's database is taken for a store by mistake.
APPLICATION_ID = 0x544E5552
#: The log is grown to this size once, because a recycled log commits in two thirds of the time.
WAL_BYTES = 16 << 20
_WAL_STEP_BYTES = 1 << 20

_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": 1,
    "cache_size": -65_536,  # KiB
    "temp_store": "memory",
}
_WRITING = {**_PRAGMAS, "wal_autocheckpoint": 4000}
# Only the writer moves pages from the log into the file: SQLite before 3.51.3 can damage a file
# when two do.
_READING = {**_PRAGMAS, "wal_autocheckpoint": 0, "query_only": 1}


class SqliteBackend:
    """A store in one SQLite file; see `backend.Backend`."""

    kind: Literal["sqlite", "postgresql"] = "sqlite"
    begin = "BEGIN IMMEDIATE"
    shared = False

    def __init__(self, url: str, address: str) -> None:
        self.path = path_of(url)
        self.name = str(self.path)
        self._lock = FileLock(self.path, address)
        try:
            self.writing, self.reading = _databases(self.path)
            self.journal = SqliteJournal(self.writing)
        except BaseException:
            self._lock.release()
            raise

    def prepare(self) -> None:
        """Opens the file for writing. Raises StoreOpenError for another program's file."""
        self.writing.connect()
        found = self.writing.execute_sql("PRAGMA application_id").fetchone()[0]
        if found == APPLICATION_ID:
            return
        if found or self.writing.execute_sql("SELECT 1 FROM sqlite_master").fetchone():
            raise StoreOpenError(f"{self.path} is the database of another program")
        self.writing.execute_sql(f"PRAGMA application_id = {APPLICATION_ID}")

    def migrating(self) -> contextlib.AbstractContextManager[None]:
        """Keeps others from migrating at the same time: the file's lock does it already."""
        return contextlib.nullcontext()

    def await_idle(self) -> None:
        """Does nothing: whoever has the file's lock is alone."""

    def warm(self) -> None:
        """Grows the log to its working size."""
        log = Path(f"{self.path}-wal")
        if log.exists() and log.stat().st_size >= WAL_BYTES:
            return
        run = self.writing.execute_sql
        # What is written here is rubbish, so it need not survive; before the checkpoint everything
        # counts again.
        run("PRAGMA synchronous = off")
        # Or the log might begin anew just before it has its size, and grow no more.
        run("PRAGMA wal_autocheckpoint = 0")
        run("CREATE TABLE IF NOT EXISTS wal_growth (filler BLOB)")
        for _ in range(WAL_BYTES // _WAL_STEP_BYTES):
            run(f"INSERT INTO wal_growth VALUES (zeroblob({_WAL_STEP_BYTES}))")
            run("DELETE FROM wal_growth")
        run("DROP TABLE wal_growth")
        run("PRAGMA synchronous = full")
        run(f"PRAGMA wal_autocheckpoint = {_WRITING['wal_autocheckpoint']}")
        run("PRAGMA wal_checkpoint(restart)").fetchall()

    def clock_us(self, now_us: int) -> int:
        """The caller's own time: nobody else looks at the seats of this file."""
        return now_us

    def damage(self) -> str:
        """The first thing that is found, such as an index that misses rows of its table."""
        ((said,),) = self.reading.execute_sql("PRAGMA integrity_check(1)").fetchall()
        # What is wrong with a page stands behind a line that names the database.
        return "" if said == "ok" else str(said).splitlines()[-1]

    def close(self) -> None:
        """Closes all connections and lets go of the file."""
        self.reading.close_all()
        self.writing.close()
        self._lock.release()


class FileLock:
    """The exclusive lock on a store's file, held through ``<file>.lock``, which tells by whom."""

    def __init__(self, path: Path, address: str) -> None:
        name = f"{path}.lock"
        try:
            self._descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreOpenError(f"cannot open {name}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 1000, 0).decode(errors="replace").split()
            os.close(self._descriptor)
            pid, at = holder if len(holder) == 2 else ("unknown", "unknown")
            raise StoreLocked(
                f"{path} is in use by another coordinator: process {pid}, address {at}"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()} {address}\n".encode(), 0)

    def release(self) -> None:
        """Lets go. The file stays: without it, two processes could lock two files of one name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def path_of(url: str) -> Path:
    """The file that a URL such as ``sqlite:///var/lib/tenure.db`` names. Raises StoreOpenError."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or not path.startswith("/"):
        raise StoreOpenError(
            f"{url} is not a store: an absolute path is needed, as in sqlite:///var/lib/tenure.db"
        )
    # As many people write it: sqlite:////var/lib, with the path's own slash.
    file = Path("/" + path.lstrip("/"))
    if not file.parent.is_dir():
        raise StoreOpenError(f"{file.parent} is not a directory")
    if file.is_dir():
        raise StoreOpenError(f"{file} is a directory")
    if not os.access(file if file.exists() else file.parent, os.R_OK | os.W_OK):
        raise StoreOpenError(f"{file} may not be read and written by this user")
    return file


def _databases(path: Path) -> tuple[Database, PooledDatabase]:
    options: dict[str, Any] = {"timeout": BUSY_SECONDS, "autoconnect": False}
    # The writing connection is used by one thread at a time, not always by the same.
    writing: dict[str, Any] = {"pragmas": _WRITING, "thread_safe": False, **options}
    reading: dict[str, Any] = {"pragmas": _READING, "max_connections": 0, **options}
    name = str(path)
    if (driver := _apsw_database()) is not None:
        pooled = type("PooledAPSWDatabase", (Pooled, driver), {})
        return driver(name, **writing), pooled(name, **reading)
    connecting: dict[str, Any] = {"check_same_thread": False, "cached_statements": 256}
    return (
        SqliteDatabase(name, **writing, **connecting),
        PooledSqliteDatabase(name, **reading, **connecting),
    )


def _apsw_database() -> Any:
    if os.environ.get(DRIVER_VARIABLE) == "stdlib":
        return None
    try:
        from playhouse.apsw_ext import APSWDatabase
    except ImportError:
        return None
    return APSWDatabase
