"""The hot path on PostgreSQL: one array for each column, and all statements in one pipeline.

However many rows there are, a transaction is nine statements at most, which travel together: the
price of a row is then the database's own, and the line is waited for three times a commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peewee import CTE, SQL, Cast, Field, Select, Tuple, Value, fn
from peewee import __exception_wrapper__ as peewee_errors  # type: ignore[attr-defined]

from tenure_server.core import journal
from tenure_server.store import hot_queries, tables
from tenure_server.store import postgresql_arrays as arrays
from tenure_server.store.backend import Database, Pages
from tenure_server.store.errors import SeatLost, StoreConflict


class _Bulk:
    """One query for any number of rows."""

    def __init__(self, database: Database, query: Any, encoders: Sequence[Any]) -> None:
        self._sql, values = database.get_sql_context().sql(query).query()
        self._encoders = encoders
        self._tail = values[len(encoders) :]

    def send(self, connection: Any, rows: Sequence[journal.Row]) -> Any:
        """Sends the statement; its cursor tells the outcome when the pipeline has been read."""
        columns = zip(*rows, strict=True)
        values = [encode(column) for encode, column in zip(self._encoders, columns, strict=True)]
        return connection.execute(self._sql, values + self._tail)


class PostgresqlJournal:
    """Writes the hot path's rows inside the transaction that is open; see `backend.Journal`."""

    def __init__(self, database: Database) -> None:
        self._database = database

        def bulk(query: Any, table: type[tables.Table], columns: Sequence[str]) -> _Bulk:
            fields = arrays.fields(table, columns)
            return _Bulk(database, query, [arrays.encoder(field) for field in fields])

        def bulk_insert(table: type[tables.Table], columns: Sequence[str]) -> _Bulk:
            rows = _unnest(arrays.fields(table, columns))
            return bulk(hot_queries.insert(table, columns, rows), table, columns)

        run, task = tables.WorkflowRun, tables.WorkflowTask
        self._runs = bulk_insert(run, journal.RUN_COLUMNS)
        self._events = bulk_insert(tables.WorkflowExecutionLog, journal.EVENT_COLUMNS)
        self._requests = bulk_insert(tables.Request, journal.REQUEST_COLUMNS)
        tasks = hot_queries.upsert_tasks(_unnest(arrays.fields(task, journal.TASK_COLUMNS)))
        self._tasks = bulk(tasks, task, journal.TASK_COLUMNS)
        self._entries = bulk_insert(tables.EvidenceEntry, hot_queries.ENTRY_COLUMNS)
        self._nodes = bulk_insert(tables.EvidenceNode, hot_queries.NODE_COLUMNS)
        head, ends = tables.EvidenceHead, hot_queries.HEAD_COLUMNS
        heads = hot_queries.move_heads(_unnest(arrays.fields(head, ends)))
        self._heads = bulk(heads, head, ends)
        columns = journal.RUN_CHANGE_COLUMNS
        change = CTE("change", _unnest(arrays.fields(run, columns)), columns=columns)
        run_changes = hot_queries.change_runs(change, columns).with_cte(change)
        self._run_changes = bulk(run_changes, run, columns)
        self._seats = bulk(_held_seats(), tables.Seat, ("tenant_id", "term"))

    def check_seats(self, seats: Mapping[str, int], holder: str) -> None:
        """Raises SeatLost unless `holder` has every one of these seats under its term.

        A coordinator that wants to take one of them waits until the transaction ends.
        """
        if seats:
            with peewee_errors:
                self._check(self._ask(seats), seats, holder)

    def write(self, changes: journal.Changes, pages: Pages, holder: str) -> None:
        """Checks the seats and writes the rows. Raises SeatLost or StoreConflict."""
        connection = self._database.connection()
        asked = runs = tasks = None
        with peewee_errors, connection.pipeline():
            if changes.seats:
                asked = self._ask(changes.seats)
            if changes.runs:
                self._runs.send(connection, changes.runs)
            if changes.run_changes:
                runs = self._run_changes.send(connection, changes.run_changes)
            if changes.tasks:
                tasks = self._tasks.send(connection, changes.tasks)
            if pages.events:
                self._events.send(connection, pages.events)
            if changes.requests:
                self._requests.send(connection, changes.requests)
            heads = self._send_pages(connection, pages)
        if asked is not None:
            self._check(asked, changes.seats, holder)
        if runs is not None and runs.rowcount != len(changes.run_changes):
            raise StoreConflict("a run that should change has ended, or is not there")
        if tasks is not None and tasks.rowcount != len(changes.tasks):
            raise StoreConflict("a task that should change has ended, or has a later term")
        _check_heads(heads, pages)

    def write_pages(self, pages: Pages) -> None:
        """Writes evidence. Raises StoreConflict when a log does not end where it was thought to."""
        connection = self._database.connection()
        with peewee_errors, connection.pipeline():
            heads = self._send_pages(connection, pages)
        _check_heads(heads, pages)

    def _send_pages(self, connection: Any, pages: Pages) -> Any:
        if not pages.entries:
            return None
        self._entries.send(connection, pages.entries)
        self._nodes.send(connection, pages.nodes)
        return self._heads.send(connection, pages.heads)

    def _ask(self, seats: Mapping[str, int]) -> Any:
        return self._seats.send(self._database.connection(), list(seats.items()))

    def _check(self, asked: Any, seats: Mapping[str, int], holder: str) -> None:
        held = {(tenant_id, term) for tenant_id, term, of in asked.fetchall() if of == holder}
        if lost := seats.items() - held:
            raise SeatLost(tenant_id for tenant_id, _ in lost)


def _check_heads(heads: Any, pages: Pages) -> None:
    if heads is not None and heads.rowcount != len(pages.heads):
        raise StoreConflict("a log of evidence does not end where it was thought to")


def _unnest(fields: Sequence[Field[Any]]) -> Select:
    columns = [Cast(Value(None, False), arrays.array_type(field)) for field in fields]
    return Select((fn.unnest(*columns),), (SQL("*"),))


def _held_seats() -> Any:
    seat = tables.Seat
    asked = _unnest(arrays.fields(seat, ("tenant_id", "term")))
    query: Any = seat.select(seat.tenant_id, seat.term, seat.holder).where(
        Tuple(seat.tenant_id, seat.term).in_(asked)
    )
    return query.for_update("FOR SHARE")
