"""What the store needs of a database: the seam between SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from tenure_server.core.ledger import journal

#: The longest that a seat is held without renewal; see `config.SEAT_SECONDS_MAX`.
SEAT_US_MAX = 60_000_000


class Cursor(Protocol):
    """What a driver gives back."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""


class Database(Protocol):
    """What the store uses of a Peewee database, with the types that Peewee leaves out."""

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Connects, and tells whether it was not connected before."""

    def close(self) -> bool:
        """Closes the connection, or gives it back to its pool."""

    def connection(self) -> Any:
        """The driver's connection."""

    def execute_sql(self, sql: str, params: Sequence[Any] | None = None) -> Cursor:
        """Runs a statement that is text already."""

    def execute(self, query: Any) -> Cursor:
        """Builds a query and runs it."""

    def rows_affected(self, cursor: Cursor) -> int:
        """How many rows a statement touched."""

    def get_sql_context(self) -> Any:
        """What builds text from queries."""


class PooledDatabase(Database, Protocol):
    """A database that lends connections."""

    def manual_close(self) -> Any:
        """Closes the calling thread's connection for good."""

    def close_all(self) -> None:
        """Closes all connections, lent ones too."""


class Pages(Protocol):
    """What is added to the logs of evidence; see `ledger.Pages`."""

    @property
    def entries(self) -> Sequence[journal.Row]:
        """Rows of `hot_queries.ENTRY_COLUMNS`."""

    @property
    def nodes(self) -> Sequence[journal.Row]:
        """Rows of `hot_queries.NODE_COLUMNS`."""

    @property
    def heads(self) -> Sequence[journal.Row]:
        """Rows of `hot_queries.HEAD_COLUMNS`."""

    @property
    def events(self) -> Sequence[journal.Row]:
        """Whole rows of `journal.EVENT_COLUMNS`."""


class Journal(Protocol):
    """Writes the hot path's rows inside the transaction that is open."""

    def check_seats(self, seats: Mapping[str, int], holder: str) -> None:
        """Raises SeatLost unless `holder` has every one of these seats under its term.

        The seats cannot move until the transaction ends.
        """

    def write(self, changes: journal.Changes, pages: Pages, holder: str) -> None:
        """Checks the seats and writes the rows. Raises SeatLost or StoreConflict."""

    def write_pages(self, pages: Pages) -> None:
        """Writes evidence. Raises StoreConflict when a log does not end where it was thought to."""


class Backend(Protocol):
    """One database."""

    kind: Literal["sqlite", "postgresql"]
    #: Where the data is, for messages: never holds a password.
    name: str
    #: Begins a transaction that is going to write.
    begin: str
    #: Whether others may decide for tenants beside this process.
    shared: bool

    @property
    def writing(self) -> Database:
        """The one writing connection, shared by whoever is the writer."""

    @property
    def reading(self) -> PooledDatabase:
        """Read-only connections; each thread borrows one at a time."""

    @property
    def journal(self) -> Journal:
        """What writes the hot path's rows."""

    def prepare(self) -> None:
        """Connects for writing. Raises StoreOpenError for data of something else."""

    def migrating(self) -> AbstractContextManager[None]:
        """Keeps other processes from migrating at the same time."""

    def await_idle(self) -> None:
        """Waits until nobody decides for tenants, as long as seats hold whose holder has died.

        Raises StoreOpenError when somebody goes on: an older version, which would write by its
        tables into those of today.
        """

    def warm(self) -> None:
        """Does what makes the first commits as fast as the later ones."""

    def clock_us(self, now_us: int) -> int:
        """The time that seats are measured by, given the caller's own."""

    def damage(self) -> str:
        """What is wrong with the tables and indexes themselves; reads all of them. Empty: nothing
        that this database can tell. Inside `Store.reading`.
        """

    def close(self) -> None:
        """Closes all connections and gives up what kept others out."""
