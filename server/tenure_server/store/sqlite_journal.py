"""The hot path on SQLite: few statements with many rows each.

Two things shape it. A statement with many rows lets go of the interpreter's lock once,
`executemany` once for each row, and then waits for it: twenty times slower beside a busy loop. And
a prepared statement is worth keeping, so rows go out in chunks of 256, 128, 64 … 1: nine texts for
any number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain

from peewee import Node, SqliteDatabase, Value, ValuesList

from tenure_server.core.ledger import journal
from tenure_server.store import evidence_tables, hot_queries, statements, tables
from tenure_server.store.backend import Database, Pages
from tenure_server.store.errors import SeatLost, StoreConflict

#: The most rows in one statement. APSW keeps a statement prepared only below 16 KiB of text.
ROWS_MAX = 256
_TEXT_BYTES_MAX = 16_000
#: What builds text from queries; the drivers do not differ in it.
_DIALECT: Database = SqliteDatabase(None)

_HELD = [
    tables.Seat.select(tables.Seat.tenant_id, tables.Seat.term).where(
        tables.Seat.holder == statements.slot("holder"),
        tables.Seat.tenant_id.in_(statements.slots("tenant_ids", 1 << power)),
    )
    for power in range(statements.LIST_MAX.bit_length())
]


class _Bulk:
    """One query for any number of rows, in whatever file."""

    def __init__(self, query: Node, width: int) -> None:
        sql, values = _DIALECT.get_sql_context().sql(query).query()
        #: What follows the rows: constants of the query.
        self._tail = values[width:]
        row = "(" + ", ".join("?" * width) + ")"
        head, tail = sql.split(row)
        compact = "(" + ",".join("?" * width) + ")"
        self._texts = {}
        size = 1
        while size <= ROWS_MAX:
            text = head + ",".join([compact] * size) + tail
            if len(text) > _TEXT_BYTES_MAX:
                break
            self._texts[size] = text
            size *= 2
        self._largest = size // 2

    def run(self, database: Database, rows: Sequence[journal.Row]) -> int:
        """Writes the rows and tells how many the database touched."""
        touched = 0
        start = 0
        left = len(rows)
        while left:
            size = self._largest if left >= self._largest else 1 << (left.bit_length() - 1)
            values = [*chain.from_iterable(rows[start : start + size]), *self._tail]
            cursor = database.execute_sql(self._texts[size], values)
            touched += database.rows_affected(cursor)
            start += size
            left -= size
        return touched


def _changes(query_of: Callable[[ValuesList, Sequence[str]], Node], names: Sequence[str]) -> _Bulk:
    change = ValuesList(_one_row(names), alias="change")
    # So SQLite calls the columns of VALUES.
    columns = [f"column{number}" for number in range(1, len(names) + 1)]
    return _Bulk(query_of(change, columns), len(names))


class _Bulks:
    """Everything that the hot path writes."""

    def __init__(self) -> None:
        self.runs = _inserts(tables.WorkflowRun, journal.RUN_COLUMNS)
        self.events = _inserts(tables.WorkflowExecutionLog, journal.EVENT_COLUMNS)
        self.requests = _inserts(tables.Request, journal.REQUEST_COLUMNS)
        terms = hot_queries.add_terms(_one_row(journal.TERM_COLUMNS))
        self.terms = _Bulk(terms, len(journal.TERM_COLUMNS))
        self.entries = _inserts(evidence_tables.EvidenceEntry, hot_queries.ENTRY_COLUMNS)
        self.nodes = _inserts(evidence_tables.EvidenceNode, hot_queries.NODE_COLUMNS)
        heads = hot_queries.move_heads(_one_row(hot_queries.HEAD_COLUMNS))
        self.heads = _Bulk(heads, len(hot_queries.HEAD_COLUMNS))
        tasks = hot_queries.upsert_tasks(_one_row(journal.TASK_COLUMNS))
        self.tasks = _Bulk(tasks, len(journal.TASK_COLUMNS))
        self.run_changes = _changes(hot_queries.change_runs, journal.RUN_CHANGE_COLUMNS)
        self.runs_moved = _changes(hot_queries.move_runs, journal.RUN_MOVED_COLUMNS)
        self.tasks_moved = _changes(hot_queries.lower_tasks, journal.TASK_MOVED_COLUMNS)


@cache
def _bulks() -> _Bulks:
    """Made once for a process: building their texts takes a good part of the opening of a store."""
    return _Bulks()


class SqliteJournal:
    """Writes the hot path's rows inside the transaction that is open; see `backend.Journal`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = statements.Statements(database)
        self._bulks = _bulks()

    def check_seats(self, seats: Mapping[str, int], holder: str) -> None:
        """Raises SeatLost unless `holder` has every one of these seats under its term."""
        held: set[tuple[str, int]] = set()
        for piece in statements.pieces(list(seats)):
            query = _HELD[len(piece).bit_length() - 1]
            found = self._statements.rows(query, {"holder": holder, "tenant_ids": piece})
            held.update((tenant_id, term) for tenant_id, term in found)
        if lost := seats.items() - held:
            raise SeatLost(tenant_id for tenant_id, _ in lost)

    def write(self, changes: journal.Changes, pages: Pages, holder: str) -> None:
        """Checks the seats and writes the rows. Raises SeatLost or StoreConflict."""
        self.check_seats(changes.seats, holder)
        bulks, database = self._bulks, self._database
        bulks.runs.run(database, changes.runs)
        bulks.run_changes.run(database, changes.runs_reopened)
        if changes.runs_moved:
            self._move(changes)
        if bulks.run_changes.run(database, changes.run_changes) != len(changes.run_changes):
            raise StoreConflict("a run that should change has ended, or is not there")
        if bulks.tasks.run(database, changes.tasks) != len(changes.tasks):
            raise StoreConflict("a task that should change has ended, or has a later term")
        bulks.terms.run(database, changes.terms)
        bulks.events.run(database, pages.events)
        bulks.requests.run(database, changes.requests)
        self.write_pages(pages)

    def _move(self, changes: journal.Changes) -> None:
        bulks, database = self._bulks, self._database
        if bulks.runs_moved.run(database, changes.runs_moved) != len(changes.runs_moved):
            raise StoreConflict("a run that should be moved has ended, or is not there")
        lowered = hot_queries.lowered(changes.tasks_moved)
        if bulks.tasks_moved.run(database, lowered) != len(lowered):
            raise StoreConflict("a task of a run that is moved is not there")
        for tenant_id, run_id, *_ in changes.runs_moved:
            values = {"tenant_id": tenant_id, "run_id": run_id}
            self._statements.run(hot_queries.FORGET_TASKS, values)
            self._statements.run(hot_queries.RAISE_TASKS, values)

    def write_pages(self, pages: Pages) -> None:
        """Writes evidence. Raises StoreConflict when a log does not end where it was thought to."""
        bulks, database = self._bulks, self._database
        bulks.entries.run(database, pages.entries)
        bulks.nodes.run(database, pages.nodes)
        if bulks.heads.run(database, pages.heads) != len(pages.heads):
            raise StoreConflict("a log of evidence does not end where it was thought to")


def _one_row(columns: Sequence[str]) -> list[list[Value]]:
    return [statements.slots("row", len(columns))]


def _inserts(table: type[tables.Table], columns: Sequence[str]) -> _Bulk:
    return _Bulk(hot_queries.insert(table, columns, _one_row(columns)), len(columns))
