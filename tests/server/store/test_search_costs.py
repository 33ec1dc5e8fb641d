"""Looking for runs costs what is shown, not what is kept: plans use the indexes, pages are bounded.

A few thousand runs are enough to see it: nothing is timed, what the database looks at is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson
import pytest
from tests.server.store import world
from tests.server.store.test_run_search import kept, made
from tests.server.store.world import NOW, TENANT

from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.core.seeing.filters import RunFilter, Span
from tenure_server.store import run_search
from tenure_server.store.database import Store
from tenure_server.store.run_search import RunSearch

COUNT = 3_000
RARE = 50
#: Each needs another index, or two.
FILTERS = {
    "all": RunFilter(),
    "state": RunFilter(states=frozenset({RunState.FAILED})),
    "workflow": RunFilter(workflow="count"),
    "label": RunFilter(labels={"env": "prod"}),
    "rare label": RunFilter(labels={"env": "prod", "rare": "yes"}),
    "label present": RunFilter(label_keys=frozenset({"env"})),
    "label and state": RunFilter(labels={"env": "prod"}, states=frozenset({RunState.FAILED})),
    "label and workflow": RunFilter(labels={"rare": "yes"}, workflow="sum"),
    "word": RunFilter(text="blue"),
    "two words": RunFilter(text="blue team"),
    "word of a workflow": RunFilter(text="sum"),
    "created": RunFilter(created=Span(NOW + 100_000, NOW + 120_000)),
    "ended": RunFilter(ended=Span(NOW, NOW + 10)),
    "parent": RunFilter(parent_run_id=world.new_id(901)),
    "parent and label": RunFilter(parent_run_id=world.new_id(901), labels={"env": "prod"}),
    "nothing": RunFilter(labels={"env": "nowhere"}),
}

#: A step of SQLite's plan that takes a stretch of an index by both its ends, or a whole key.
RANGED = re.compile(r"COVERING INDEX \S+_create_us_run_id \(.* AND \S+[<>]\S+ AND \S+[<>]\S+\)")
WHOLE = re.compile(r"\(tenant_id=\? AND (run_id=\?|word=\?|correlation_id=\?)")


@pytest.fixture
def search(store: Store) -> RunSearch:
    """A tenant with thousands of runs."""
    world.settle(store)
    world.register(store, name="sum")
    rows = []
    for number in range(COUNT):
        labels = {"env": "prod" if number % 3 else "test", "team": "Blue Team"}
        if number % (COUNT // RARE) == 7:
            labels["rare"] = "yes"
        ended = number % 10 != 0
        rows.append(
            made(
                number,
                workflow=("count", "sum")[number % 2],
                state=RunState.FAILED if number % 10 == 1 else RunState.SUCCEEDED,
                labels=orjson.dumps(labels).decode(),
                end_us=NOW + 10_000_000 if ended else None,
                parent_run_id=world.new_id(900 + number % 9) if number % 4 == 0 else "",
            )
        )
    for start in range(0, COUNT, 500):
        kept(store, rows[start : start + 500])
    if store.kind == "postgresql":
        # As its own housekeeping does sooner or later.
        store.backend.writing.execute_sql("ANALYZE")
    return RunSearch(store, TENANT)


@pytest.fixture
def asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The statements that were run."""
    found: list[Any] = []
    monkeypatch.setattr(store.backend.reading, "query_hooks", [found.append])
    return found


def explained(store: Store, asked: list[Any], words: str) -> list[list[Any]]:
    """What the database says of each statement."""
    reading: Any = store.backend.reading
    statements = list(asked)
    asked.clear()
    connection = reading.connection()
    return [
        [row[-1] for row in connection.execute(f"{words} {one.sql}", one.params)]
        for one in statements
    ]


Question = Callable[[], object]


def questions(search: RunSearch) -> Iterator[tuple[str, Question]]:
    """Every filter as a first page, a later page, in both orders, and as a count."""
    later = (NOW + COUNT // 4 * 500, "")
    for name, wanted in FILTERS.items():
        for oldest in (False, True):
            for after in (None, later):
                page: Question = partial(search.page, wanted, after, 20, oldest_first=oldest)
                yield name, page
        count: Question = partial(search.count, wanted)
        yield f"count of {name}", count


def test_every_question_is_answered_from_an_index_in_its_order(
    store: Store, search: RunSearch, asked: list[Any]
) -> None:
    if store.kind == "postgresql":
        pytest.skip("of PostgreSQL rows are counted, below")
    with store.reading():
        for name, question in questions(search):
            question()
            for plan in explained(store, asked, "EXPLAIN QUERY PLAN"):
                steps = [step for step in plan if re.search(r"(SCAN|SEARCH) t\d", step)]
                assert steps, name
                for step in steps:
                    assert RANGED.search(step) or WHOLE.search(step), (name, step)


def test_no_question_looks_at_more_than_it_may(
    store: Store, search: RunSearch, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by PostgreSQL itself; SQLite's plans above say as much."""
    if store.kind == "sqlite":
        pytest.skip("SQLite does not tell how many rows it went through")
    monkeypatch.setattr(run_search, "EXAMINED_MAX", 300)
    monkeypatch.setattr(run_search, "PROBED_MAX", 100)
    with store.reading():
        for name, question in questions(search):
            question()
            most: dict[str, int] = {}
            for [(plan,)] in explained(store, asked, "EXPLAIN (ANALYZE, FORMAT JSON)"):
                for table, through in scanned(plan["Plan"]):
                    most[table] = max(most.get(table, 0), through)
            # Of a state or a workflow as many as of all: pieces are merged.
            assert max(most.values()) <= 301 * len(RunState), (name, most)
            assert max(most.values()) < COUNT, (name, most)


def scanned(node: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The scans of a plan: the table, and how many rows they went through."""
    if "Relation Name" in node:
        through = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        yield node["Relation Name"], round(through * node["Actual Loops"])
    for inner in node.get("Plans", []):
        yield from scanned(inner)


def test_a_rare_match_is_found_by_what_is_rare(
    store: Store, search: RunSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index with the fewest candidates is taken, whatever else is asked."""
    monkeypatch.setattr(run_search, "EXAMINED_MAX", RARE)
    with store.reading():
        for wanted in (
            RunFilter(labels={"env": "prod", "rare": "yes"}),
            RunFilter(labels={"rare": "yes"}, states=frozenset({RunState.SUCCEEDED})),
            RunFilter(labels={"rare": "yes"}, text="blue team", workflow="sum"),
        ):
            assert len(search.page(wanted, None, 1000).runs) == RARE, wanted
        wanted = RunFilter(labels={"team": "Blue Team"}, created=Span(NOW, NOW + 5_000))
        assert len(search.page(wanted, None, 1000).runs) == 20


def test_an_empty_page_may_have_one_behind_it(
    store: Store, search: RunSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_search, "EXAMINED_MAX", 100)
    wanted = RunFilter(labels={"env": "prod"}, ended=Span(NOW, NOW + 10))
    with store.reading():
        page = search.page(wanted, None, 10)
        assert page.runs == []
        assert page.next_after is not None
        pages = 1
        while page.next_after is not None:
            page = search.page(wanted, page.next_after, 10)
            pages += 1
    assert pages == COUNT * 2 // 3 // 100 + 1
