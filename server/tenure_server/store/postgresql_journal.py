"""The hot path on PostgreSQL: one array for each column, and all statements in one pipeline.

However many rows there are, a transaction is ten statements at most, which travel together: the
price of a row is then the database's own, and the line is waited for three times a commit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import peewee
from peewee import CTE, SQL, Cast, Field, Select, Tuple, Value, fn
from peewee import __exception_wrapper__ as peewee_errors  # type: ignore[attr-defined]

from tenure_server.core.ledger import journal
from tenure_server.store import evidence_tables, hot_queries, statements, tables
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
        term = tables.RunTerm
        terms = hot_queries.add_terms(_unnest(arrays.fields(term, journal.TERM_COLUMNS)))
        self._terms = bulk(terms, term, journal.TERM_COLUMNS)
        self._entries = bulk_insert(evidence_tables.EvidenceEntry, hot_queries.ENTRY_COLUMNS)
        self._nodes = bulk_insert(evidence_tables.EvidenceNode, hot_queries.NODE_COLUMNS)
        head, ends = evidence_tables.EvidenceHead, hot_queries.HEAD_COLUMNS
        heads = hot_queries.move_heads(_unnest(arrays.fields(head, ends)))
        self._heads = bulk(heads, head, ends)

        def bulk_update(
            query_of: Any, table: type[tables.Table], names: Sequence[str], columns: Sequence[str]
        ) -> _Bulk:
            change = CTE("change", _unnest(arrays.fields(table, columns)), columns=names)
            return bulk(query_of(change, names).with_cte(change), table, columns)

        changing, moving = journal.RUN_CHANGE_COLUMNS, journal.RUN_MOVED_COLUMNS
        self._run_changes = bulk_update(hot_queries.change_runs, run, changing, changing)
        self._runs_moved = bulk_update(hot_queries.move_runs, run, moving, moving)
        renumbering = journal.TASK_MOVED_COLUMNS
        columns = ["task_index" if name == "moved_index" else name for name in renumbering]
        self._tasks_moved = bulk_update(hot_queries.lower_tasks, task, renumbering, columns)
        self._statements = statements.Statements(database)
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
        runs = tasks = None
        with self._asserting(connection, changes.seats, holder):
            if changes.runs:
                self._runs.send(connection, changes.runs)
            if changes.runs_reopened:
                self._run_changes.send(connection, changes.runs_reopened)
            moved = self._send_moves(connection, changes)
            if changes.run_changes:
                runs = self._run_changes.send(connection, changes.run_changes)
            if changes.tasks:
                tasks = self._tasks.send(connection, changes.tasks)
            if changes.terms:
                self._terms.send(connection, changes.terms)
            if pages.events:
                self._events.send(connection, pages.events)
            if changes.requests:
                self._requests.send(connection, changes.requests)
            heads = self._send_pages(connection, pages)
        if any(cursor.rowcount != count for cursor, count in moved):
            raise StoreConflict("a run that should be moved has ended, or misses a task")
        if runs is not None and runs.rowcount != len(changes.run_changes):
            raise StoreConflict("a run that should change has ended, or is not there")
        if tasks is not None and tasks.rowcount != len(changes.tasks):
            raise StoreConflict("a task that should change has ended, or has a later term")
        _check_heads(heads, pages)

    def _send_moves(self, connection: Any, changes: journal.Changes) -> list[tuple[Any, int]]:
        """Moves runs; gives for each statement how many rows it must touch."""
        if not changes.runs_moved:
            return []
        sent = [(self._runs_moved.send(connection, changes.runs_moved), len(changes.runs_moved))]
        if lowered := hot_queries.lowered(changes.tasks_moved):
            sent.append((self._tasks_moved.send(connection, lowered), len(lowered)))
        for tenant_id, run_id, *_ in changes.runs_moved:
            values = {"tenant_id": tenant_id, "run_id": run_id}
            for query in (hot_queries.FORGET_TASKS, hot_queries.RAISE_TASKS):
                statement = self._statements.of(query)
                connection.execute(statement.sql, statement.parameters(values))
        return sent

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

    @contextlib.contextmanager
    def _asserting(self, connection: Any, seats: Mapping[str, int], holder: str) -> Iterator[None]:
        """A pipeline that begins with the question whether the seats are held. Raises SeatLost.

        That counts also when a row breaks a rule: whoever holds a seat by now has written it first.
        """
        asked = None
        try:
            with peewee_errors, connection.pipeline():
                if seats:
                    asked = self._ask(seats)
                yield
        except peewee.IntegrityError:
            if asked is not None:
                self._check(asked, seats, holder)
            raise
        if asked is not None:
            self._check(asked, seats, holder)

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
