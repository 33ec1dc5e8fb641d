"""However large the tables grow, nobody's question goes through a whole one of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.server.store import world
from tests.server.store.test_isolation import CALLS
from tests.server.store.world import OTHER, TENANT

from tenure_server.store import tables
from tenure_server.store.database import Store
from tenure_server.store.reads import Reads

INSTALLATION: dict[str, Callable[[Reads], Any]] = {
    "tenant": lambda r: r.tenant(TENANT),
    "tenants": lambda r: r.tenants("", 10),
    "tenants by name": lambda r: r.tenants("", 10, [TENANT, OTHER]),
    "seat": lambda r: r.seat(TENANT),
    "api_key": lambda r: r.api_key(world.new_id(1)),
    "api_key_by_hash": lambda r: r.api_key_by_hash(b"\x00" * 32),
    "api_keys": lambda r: r.api_keys(TENANT, None, 10),
    "answers": lambda r: r.answers([(TENANT, "r-1"), (OTHER, "r-1")]),
}


@pytest.fixture
def plans(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], str]:
    """Runs a question and tells how the database goes about its statements."""
    reading: Any = store.backend.reading
    asked: list[Any] = []
    monkeypatch.setattr(reading, "query_hooks", [asked.append])
    word = "EXPLAIN QUERY PLAN " if store.kind == "sqlite" else "EXPLAIN "

    def plan(question: Callable[[], Any]) -> str:
        asked.clear()
        with store.reading():
            question()
            connection = reading.connection()
            if store.kind == "postgresql":
                # Tables as small as these would be read whole even where there is an index.
                connection.execute("SET enable_seqscan = off")
            rows = [
                row for event in asked for row in connection.execute(word + event.sql, event.params)
            ]
        assert rows
        return "\n".join(str(row[-1]) for row in rows)

    return plan


def whole_tables(plan: str) -> list[str]:
    """The steps of a plan that read every row of a table."""
    if "Scan" in plan:
        return re.findall(r"Seq Scan on (\w+)", plan)
    # Peewee calls tables t1, t2, …; what else is scanned are results of subqueries.
    return re.findall(r"SCAN (?:t\d+|other)\b.*", plan)


def test_no_question_about_a_tenant_reads_a_whole_table(
    store: Store, plans: Callable[[Callable[[], Any]], str]
) -> None:
    reads = world.settle(store)
    store.writer().commit(world.changes(runs=[world.run_row(world.new_id(1))]))
    for name, calls in CALLS.items():
        for call in calls:
            assert whole_tables(plans(partial(call, reads))) == [], name


def test_no_question_about_the_installation_reads_a_whole_table(
    store: Store, plans: Callable[[Callable[[], Any]], str]
) -> None:
    for name, call in INSTALLATION.items():
        assert whole_tables(plans(partial(call, Reads(store)))) == [], name


def test_reading_a_whole_table_would_be_seen(
    store: Store, plans: Callable[[Callable[[], Any]], str]
) -> None:
    run = tables.WorkflowRun
    query = run.select(run.run_id).where(run.reason == "none such")
    assert len(whole_tables(plans(lambda: store.rows(query, {})))) == 1
