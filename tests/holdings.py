"""Everything that a store holds of one tenant: what no call of anybody else may change.

held = holdings.of(store, "beta")          in the process that has the store open
held = holdings.of_url(url, "beta")        any other's, alive or dead
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any, cast

import psycopg

from tenure_server.store import evidence_tables, schema, tables
from tenure_server.store.database import Store

#: Seats are renewed and checkpoints signed by themselves, whatever is called.
_BY_THEMSELVES = frozenset({tables.Seat, evidence_tables.EvidenceCheckpoint})
#: A table that joins the store and has tenants in it joins by itself.
TABLES: dict[str, type[tables.Table]] = {
    model._meta.table_name: model
    for model in schema.ALL
    if "tenant_id" in model._meta.fields and model not in _BY_THEMSELVES
}

Rows = Callable[[str], Iterable[Sequence[Any]]]
#: The rows of each table, in an order that is always the same.
Held = dict[str, list[tuple[Any, ...]]]


def of(store: Store, tenant_id: str) -> Held:
    """What a store that is open in this process holds of a tenant."""
    database = cast("Any", store.backend.reading)
    with store.reading():
        return _held(lambda sql: database.execute_sql(sql).fetchall(), tenant_id)


def of_url(url: str, tenant_id: str) -> Held:
    """What a store that other processes have open, or nobody, holds of a tenant."""
    if url.startswith("sqlite:"):
        path = "/" + url.removeprefix("sqlite:").lstrip("/")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reading:
            # One state of the database for all the statements.
            reading.execute("BEGIN")
            return _held(lambda sql: reading.execute(sql).fetchall(), tenant_id)
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return _held(lambda sql: connection.execute(sql.encode()).fetchall(), tenant_id)


def _held(rows: Rows, tenant_id: str) -> Held:
    return {
        name: sorted(map(_plain, rows(f"SELECT * FROM {name} WHERE tenant_id = '{tenant_id}'")))
        for name in TABLES
    }


def _plain(row: Sequence[Any]) -> tuple[str, ...]:
    return tuple(repr(bytes(value) if isinstance(value, memoryview) else value) for value in row)
