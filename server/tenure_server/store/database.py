"""Opens the store: SQLite or PostgreSQL by URL, migrated, with one writer and many readers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import peewee
from playhouse import migrations

from tenure_server.store import statements
from tenure_server.store.backend import Backend
from tenure_server.store.errors import StoreFailed, StoreOpenError
from tenure_server.store.ledger import Sign, unsigned
from tenure_server.store.postgresql import PostgresqlBackend
from tenure_server.store.sqlite import SqliteBackend
from tenure_server.store.writer import Writer

_MIGRATIONS = Path(__file__).with_name("migrations")


class Store:
    """An open store. Make it with `open_store`."""

    def __init__(self, backend: Backend, holder: str, address: str, sign: Sign = unsigned) -> None:
        self.backend = backend
        self.holder = holder
        self.address = address
        self._writer = Writer(backend, holder, address, sign)
        self._statements = statements.Statements(backend.reading)

    @property
    def kind(self) -> Literal["sqlite", "postgresql"]:
        """Which database it is."""
        return self.backend.kind

    def writer(self) -> Writer:
        """The one writer; to be used from one thread at a time."""
        return self._writer

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Lends the calling thread a read-only connection, which `reads` uses. May be nested.

        Each statement sees one state of the database; two statements may see two. Raises
        StoreFailed when the database cannot be read.
        """
        reader = self.backend.reading
        lent = False
        try:
            lent = reader.connect(reuse_if_open=True)
            yield
        except (peewee.ProgrammingError, peewee.DataError):
            raise  # a mistake of ours
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            # The connection may be what is broken, or the file.
            reader.manual_close()
            raise StoreFailed(f"the database cannot be read: {error}") from error
        finally:
            if lent:
                reader.close()

    def rows(
        self, query: peewee.Node, values: Mapping[str, Any], needs: str = ""
    ) -> list[tuple[Any, ...]]:
        """Runs a reading query on the connection that `reading` lent to this thread.

        Raises LookupError for a query without the slot that it `needs`.
        """
        if needs and needs not in self._statements.of(query).names:
            raise LookupError(f"the query does not ask for {needs}")
        return self._statements.rows(query, values)

    def close(self) -> None:
        """Closes every connection. Writer and readers must have stopped."""
        self.backend.close()


def open_store(url: str, *, holder: str, address: str, sign: Sign = unsigned) -> Store:
    """Opens the store at ``sqlite:///absolute/path`` or ``postgresql://…`` and brings its tables up
    to date.

    `holder` names this process in the seats, unlike any other there ever was; `address` is where it
    is reached; `sign` signs the grants of leases. Raises StoreLocked when another coordinator has
    the SQLite file, and StoreOpenError for anything else that keeps the store shut; both with a
    sentence for the operator.
    """
    backend = _backend(url, address)
    try:
        backend.prepare()
        with backend.migrating():
            _migrate(backend)
        backend.warm()
        return Store(backend, holder, address, sign)
    except peewee.PeeweeException as error:
        backend.close()
        raise StoreOpenError(f"cannot open {backend.name}: {error}") from error
    except BaseException:
        backend.close()
        raise


def _backend(url: str, address: str) -> Backend:
    scheme = url.partition(":")[0]
    match scheme:
        case "sqlite":
            return SqliteBackend(url, address)
        case "postgresql" | "postgres":
            return PostgresqlBackend(url)
        case _:
            raise StoreOpenError(
                f"a store's URL begins with sqlite:/// or postgresql://, not with {scheme!r}"
            )


def _migrate(backend: Backend) -> None:
    runner = migrations.Runner(backend.writing, str(_MIGRATIONS))
    # The history keeps a time, which APSW, unlike other drivers, does not bind by itself.
    runner.History.applied.db_value = str
    steps = runner.status()
    unknown = [step.name for step in steps if step.path is None]
    if unknown:
        raise StoreOpenError(
            f"the store was written by a newer version: this one has no migration {unknown[0]}"
        )
    applied = [step for step in steps if step.applied]
    if applied and len(applied) < len(steps):
        backend.await_idle()
    runner.up()
