"""The hot path on SQLite: few statements with many rows each.

Two things shape it. A statement with many rows lets go of the interpreter's lock once,
`executemany` once for each row, and then waits for it: twenty times slower beside a busy loop. And
a prepared statement is worth keeping, so rows go out in chunks of 256, 128, 64 … 1: nine texts for
any number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from peewee import Node, Value, ValuesList

from tenure_server.core import journal
from tenure_server.store import hot_queries, statements, tables
from tenure_server.store.backend import Database, Pages
from tenure_server.store.errors import SeatLost, StoreConflict

#: The most rows in one statement. APSW keeps a statement prepared only below 16 KiB of text.
ROWS_MAX = 256
_TEXT_BYTES_MAX = 16_000

_HELD = [
    tables.Seat.select(tables.Seat.tenant_id, tables.Seat.term).where(
        tables.Seat.holder == statements.slot("holder"),
        tables.Seat.tenant_id.in_(statements.slots("tenant_ids", 1 << power)),
    )
    for power in range(statements.LIST_MAX.bit_length())
]


class _Bulk:
    """One query for any number of rows."""

    def __init__(self, database: Database, query: Node, width: int) -> None:
        self._database = database
        sql, values = database.get_sql_context().sql(query).query()
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

    def run(self, rows: Sequence[journal.Row]) -> int:
        """Writes the rows and tells how many the database touched."""
        touched = 0
        start = 0
        left = len(rows)
        database = self._database
        while left:
            size = self._largest if left >= self._largest else 1 << (left.bit_length() - 1)
            values = [*chain.from_iterable(rows[start : start + size]), *self._tail]
            cursor = database.execute_sql(self._texts[size], values)
            touched += database.rows_affected(cursor)
            start += size
            left -= size
        return touched


class SqliteJournal:
    """Writes the hot path's rows inside the transaction that is open; see `backend.Journal`."""

    def __init__(self, database: Database) -> None:
        self._statements = statements.Statements(database)

        def bulk_insert(table: type[tables.Table], columns: Sequence[str]) -> _Bulk:
            query = hot_queries.insert(table, columns, _one_row(columns))
            return _Bulk(database, query, len(columns))

        self._runs = bulk_insert(tables.WorkflowRun, journal.RUN_COLUMNS)
        self._events = bulk_insert(tables.WorkflowExecutionLog, journal.EVENT_COLUMNS)
        self._requests = bulk_insert(tables.Request, journal.REQUEST_COLUMNS)
        self._entries = bulk_insert(tables.EvidenceEntry, hot_queries.ENTRY_COLUMNS)
        self._nodes = bulk_insert(tables.EvidenceNode, hot_queries.NODE_COLUMNS)
        heads = hot_queries.move_heads(_one_row(hot_queries.HEAD_COLUMNS))
        self._heads = _Bulk(database, heads, len(hot_queries.HEAD_COLUMNS))
        tasks = hot_queries.upsert_tasks(_one_row(journal.TASK_COLUMNS))
        self._tasks = _Bulk(database, tasks, len(journal.TASK_COLUMNS))
        width = len(journal.RUN_CHANGE_COLUMNS)
        change = ValuesList(_one_row(journal.RUN_CHANGE_COLUMNS), alias="change")
        # So SQLite calls the columns of VALUES.
        columns = [f"column{number}" for number in range(1, width + 1)]
        self._run_changes = _Bulk(database, hot_queries.change_runs(change, columns), width)

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
        self._runs.run(changes.runs)
        if self._run_changes.run(changes.run_changes) != len(changes.run_changes):
            raise StoreConflict("a run that should change has ended, or is not there")
        if self._tasks.run(changes.tasks) != len(changes.tasks):
            raise StoreConflict("a task that should change has ended, or has a later term")
        self._events.run(pages.events)
        self._requests.run(changes.requests)
        self.write_pages(pages)

    def write_pages(self, pages: Pages) -> None:
        """Writes evidence. Raises StoreConflict when a log does not end where it was thought to."""
        self._entries.run(pages.entries)
        self._nodes.run(pages.nodes)
        if self._heads.run(pages.heads) != len(pages.heads):
            raise StoreConflict("a log of evidence does not end where it was thought to")


def _one_row(columns: Sequence[str]) -> list[list[Value]]:
    return [statements.slots("row", len(columns))]
