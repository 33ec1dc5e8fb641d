"""Runs are found by anything a filter can say: as a list that fits together, and counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from tests.server.store import world
from tests.server.store.world import NOW, OTHER, TENANT

from tenure_evidence.packing import packed
from tenure_server.core import ids
from tenure_server.core.ledger import terms
from tenure_server.core.ledger.journal import Row
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState
from tenure_server.core.ledger.records import Run
from tenure_server.core.seeing.filters import RunFilter, Span, ids_beginning_with
from tenure_server.store import evidence_tables, run_search, seats
from tenure_server.store.database import Store
from tenure_server.store.run_search import RunSearch

COUNT = 120
WORKFLOWS = ("count", "nightly-etl", "sum_of_all")
STATES = sorted(RunState)


def term_rows(row: Row) -> list[Row]:
    """The terms of a run's row, as the engine would write them."""
    tenant_id, run_id, labels, reason = row[0], row[1], orjson.loads(row[7]), row[12]
    found = [*terms.label_terms(labels), *terms.reason_terms(reason)]
    return [(tenant_id, run_id, term, row[18]) for term in dict.fromkeys(found)]


def made(number: int, tenant_id: str = TENANT, **changes: Any) -> Row:
    """A run whose id and time belong together, as those of the engine do."""
    # Two of a time, and four of a millisecond, each in an order that is not that of the numbers.
    at_us = NOW + number // 2 * 500
    run_id = ids.new_id(tenant_id, at_us, (number * 7919 % 65_521).to_bytes(6, "big"))
    return world.run_row(run_id, tenant_id, create_us=at_us, **changes)


def kept(store: Store, rows: list[Row], tenant_id: str = TENANT) -> None:
    """Writes runs with what they are found by."""
    found = [one for row in rows for one in term_rows(row)]
    store.writer().commit(world.changes(tenant_id=tenant_id, runs=rows, terms=found))


def random_rows(seed: int = 1) -> list[Row]:
    """Runs of three workflows in every state, with labels, reasons and ends, some of one time."""
    some = random.Random(seed)
    rows = []
    for number in range(COUNT):
        state = some.choice(STATES)
        labels = {key: some.choice(values) for key, values in LABELS if some.random() < 0.6}
        ended = NOW + number * 250 + some.randrange(50_000) if state in RUN_ENDED else None
        rows.append(
            made(
                number,
                workflow=some.choice(WORKFLOWS),
                state=state,
                labels=orjson.dumps(labels).decode(),
                end_us=ended,
                reason=some.choice(REASONS) if state in RUN_ENDED else "",
                parent_run_id=some.choice(PARENTS),
            )
        )
    return rows


LABELS = [
    ("env", ["prod", "test"]),
    ("team", ["Blue Team", "blue", "data/etl"]),
    ("k=v", ["a", ""]),
]
PARENTS = ["", "", "", world.new_id(501), world.new_id(502)]
REASONS = ["", "", "task load failed: TIMED_OUT", "cancelled by Ada: the prod data was wrong"]


@pytest.fixture
def search(store: Store) -> RunSearch:
    """A tenant with many runs; another one has the same."""
    for tenant_id in (TENANT, OTHER):
        world.settle(store, tenant_id)
        for name in WORKFLOWS[1:]:
            world.register(store, tenant_id, name)
    rows = random_rows()
    kept(store, rows)
    kept(store, [(OTHER, *row[1:]) for row in rows], OTHER)
    return RunSearch(store, TENANT)


def fits(wanted: RunFilter, run: Run) -> bool:
    """The meaning of a filter, without any index."""
    found = {*terms.words(run.workflow), *terms.words(run.reason)}
    found.update(word for value in run.labels.values() for word in terms.words(value))
    end_us = run.end_us
    return (
        wanted.workflow in ("", run.workflow)
        and wanted.parent_run_id in ("", run.parent_run_id)
        and (not wanted.states or run.state in wanted.states)
        and wanted.labels.items() <= run.labels.items()
        and wanted.label_keys <= run.labels.keys()
        and wanted.created.from_us <= run.create_us < wanted.created.until_us
        and (
            not wanted.by_end
            or (end_us is not None and wanted.ended.from_us <= end_us < wanted.ended.until_us)
        )
        and (
            not wanted.text
            or found.issuperset(terms.words(wanted.text))
            or (ids_beginning_with(wanted.text) is not None and run.run_id.startswith(wanted.text))
        )
    )


def all_pages(search: RunSearch, wanted: RunFilter, size: int, oldest: bool) -> list[Run]:
    """The whole list, page by page."""
    found: list[Run] = []
    after = None
    while True:
        page = search.page(wanted, after, size, oldest_first=oldest)
        assert len(page.runs) <= size
        found += page.runs
        if page.next_after is None:
            return found
        assert page.next_after != after
        after = page.next_after


MIDDLE = Span(NOW + 7_500, NOW + 22_000)
FILTERS = [
    RunFilter(),
    RunFilter(workflow="count"),
    RunFilter(workflow="none such"),
    RunFilter(states=frozenset({RunState.FAILED})),
    RunFilter(states=RUN_ENDED, workflow="nightly-etl", created=MIDDLE),
    RunFilter(labels={"env": "prod"}),
    RunFilter(labels={"env": "prod", "team": "blue"}, label_keys=frozenset({"k=v"})),
    RunFilter(labels={"k=v": ""}),
    RunFilter(labels={"k": "v=a"}),
    RunFilter(label_keys=frozenset({"env", "team"}), states=frozenset({RunState.RUNNING})),
    RunFilter(labels={"env": "test"}, workflow="sum_of_all", created=MIDDLE),
    RunFilter(ended=Span(NOW + 40_000)),
    RunFilter(ended=MIDDLE, labels={"env": "prod"}),
    RunFilter(ended=MIDDLE, states=frozenset({RunState.RUNNING})),
    RunFilter(created=MIDDLE),
    RunFilter(created=Span(NOW + 10_000, NOW)),
    RunFilter(text="blue"),
    RunFilter(text="BLUE team"),
    RunFilter(text="etl"),
    RunFilter(text="etl prod"),
    RunFilter(text="etl data", workflow="nightly-etl"),
    RunFilter(text="timed out", states=frozenset({RunState.FAILED, RunState.SUCCEEDED})),
    RunFilter(text="ada", labels={"env": "test"}, created=MIDDLE),
    RunFilter(text="nowhere"),
    RunFilter(parent_run_id=PARENTS[-1]),
    RunFilter(parent_run_id=PARENTS[-2], states=frozenset({RunState.RUNNING, RunState.FAILED})),
    RunFilter(parent_run_id=PARENTS[-1], workflow="count", labels={"env": "prod"}),
    RunFilter(parent_run_id=PARENTS[-1], text="blue", created=MIDDLE),
    RunFilter(parent_run_id=world.new_id(503)),
    RunFilter(text="blu"),
]


@pytest.mark.parametrize("oldest", [False, True], ids=["newest first", "oldest first"])
def test_pages_are_the_whole_list_of_what_fits(
    store: Store, search: RunSearch, oldest: bool
) -> None:
    with store.reading():
        everything = search.page(RunFilter(), None, 1000, oldest_first=oldest).runs
        places = [(run.create_us, run.run_id) for run in everything]
        assert places == sorted(places, reverse=not oldest)
        assert len(places) == COUNT
        shown = Counter[bool]()
        for wanted in FILTERS:
            expected = [run for run in everything if fits(wanted, run)]
            shown[bool(expected)] += 1
            for size in (1, 7, 1000):
                assert all_pages(search, wanted, size, oldest) == expected, (wanted, size)
    # Filters that find nothing show little.
    assert shown[True] > 15


def test_short_pages_go_on_where_they_ended(
    store: Store, search: RunSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_search, "EXAMINED_MAX", 10)
    monkeypatch.setattr(run_search, "_STEP_MIN", 3)
    with store.reading():
        everything = search.page(RunFilter(), None, 1000).runs
        for oldest in (False, True):
            for wanted in FILTERS:
                expected = [run for run in everything if fits(wanted, run)]
                found = all_pages(search, wanted, 4, oldest)
                assert found == (expected[::-1] if oldest else expected), wanted


def test_a_run_is_found_by_the_beginning_of_its_id(store: Store, search: RunSearch) -> None:
    with store.reading():
        everything = search.page(RunFilter(), None, 1000).runs
        for run in everything[::29]:
            for length in (6, 8, 9, 12, 13, 14, 20, 36):
                wanted = RunFilter(text=run.run_id[:length])
                expected = [one for one in everything if one.run_id.startswith(wanted.text)]
                for oldest in (False, True):
                    found = all_pages(search, wanted, 5, oldest)
                    assert found == (expected[::-1] if oldest else expected), wanted
            assert search.page(RunFilter(text=run.run_id[:5]), None, 10).runs == []
            upper = RunFilter(text=run.run_id.upper(), states=frozenset({run.state}))
            assert [one.run_id for one in search.page(upper, None, 10).runs] == [run.run_id]
            elsewhen = RunFilter(text=run.run_id, created=Span(0, run.create_us))
            assert search.page(elsewhen, None, 10).runs == []


def test_runs_are_found_by_the_correlation_id_of_the_call_that_started_them(
    store: Store, search: RunSearch
) -> None:
    with store.reading():
        everything = search.page(RunFilter(), None, 1000).runs
    mine = [everything[number].run_id for number in (3, 50, 51, 99, 100)]
    log(store, "tie-9", "run.read", [])
    log(store, "tie-9", "run.start", mine[:2])
    log(store, "tie-9", "run.cancel", [everything[7].run_id])
    log(store, "tie-9", "run.start", mine[2:])
    log(store, "tie-10", "run.start", [everything[8].run_id])
    with store.reading():
        for size in (2, 100):
            found = all_pages(search, RunFilter(text="tie-9"), size, False)
            assert [run.run_id for run in found] == mine
        assert RunSearch(store, OTHER).page(RunFilter(text="tie-9"), None, 10).runs == []
        state = everything[50].state
        wanted = RunFilter(text="tie-9", states=frozenset({state}))
        assert everything[50] in search.page(wanted, None, 10).runs
        assert sum(one.count for one in search.count(RunFilter(text="tie-9"))) == len(mine)


def log(store: Store, correlation_id: str, kind: str, run_ids: list[str]) -> None:
    """An entry by which runs were started, or something else."""
    [(index,)] = rows_of(store, "SELECT COUNT(*) FROM evidence_entries")
    items = [orjson.dumps({"kind": kind.replace("start", "started"), "run": it}) for it in run_ids]
    insert = evidence_tables.EvidenceEntry.insert(
        tenant_id=TENANT,
        entry_index=index,
        at_us=NOW,
        kind=kind,
        principal="k",
        correlation_id=correlation_id,
        standing=0,
        entry=b"{}",
        items=packed([(b"", items)]),
    )
    store.backend.writing.execute(insert)


def rows_of(store: Store, sql: str) -> list[tuple[Any, ...]]:
    """What a statement gives, on the writing connection."""
    return store.backend.writing.execute_sql(sql).fetchall()


def test_runs_are_counted_by_state(store: Store, search: RunSearch) -> None:
    with store.reading():
        everything = search.page(RunFilter(), None, 1000).runs
        for wanted in FILTERS:
            expected = Counter(run.state for run in everything if fits(wanted, run))
            counts = search.count(wanted)
            assert not any(one.more for one in counts)
            assert {one.state: one.count for one in counts if one.count} == expected, wanted
            states = [one.state for one in counts]
            assert states in ([], wanted.wanted_states()), wanted


def test_a_count_stops_and_says_so(
    store: Store, search: RunSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_search, "EXAMINED_MAX", 20)
    with store.reading():
        everything = search.page(RunFilter(), None, 1000).runs
        exact = Counter(run.state for run in everything)
        for one in search.count(RunFilter()):
            # Each state for itself.
            assert one.more == (exact[one.state] > 20)
            assert one.count == min(exact[one.state], 20)
        together = search.count(RunFilter(labels={"env": "prod"}))
        assert all(one.more for one in together)
        assert sum(one.count for one in together) == 21
        few = search.count(RunFilter(labels={"env": "prod"}, created=Span(NOW, NOW + 5000)))
        assert not any(one.more for one in few)


def test_a_page_is_not_moved_by_runs_that_begin_or_end(store: Store, search: RunSearch) -> None:
    wanted = RunFilter(labels={"env": "prod"})
    with store.reading():
        first = search.page(wanted, None, 10)
        rest = all_pages_behind(search, wanted, first.next_after)
    open_run = next(run for run in rest if run.state is RunState.RUNNING)
    kept(store, [made(1_000_000, labels='{"env":"prod"}')])
    store.writer().commit(world.changes(run_changes=[world.run_change(open_run.run_id)]))
    with store.reading():
        again = all_pages_behind(search, wanted, first.next_after)
    assert [run.run_id for run in again] == [run.run_id for run in rest]


def all_pages_behind(search: RunSearch, wanted: RunFilter, after: Any) -> list[Run]:
    """What follows a place."""
    return search.page(wanted, after, 1000).runs


def test_a_word_in_the_names_of_many_workflows_is_found_all_the_same(
    store: Store, search: RunSearch
) -> None:
    for number in range(run_search.NAMES_MAX + 1):
        world.register(store, name=f"load-{number}")
    kept(store, [made(2000 + number, workflow=f"load-{number % 9}") for number in range(18)])
    kept(store, [made(3000, labels='{"what":"load"}')])
    with store.reading():
        assert len(all_pages(search, RunFilter(text="load"), 4, False)) == 19 + sum(
            run.reason.startswith("task load") for run in search.page(RunFilter(), None, 1000).runs
        )
        one = RunFilter(text="load", workflow="load-3")
        assert [run.workflow for run in search.page(one, None, 10).runs] == ["load-3"] * 2


def test_runs_from_before_there_was_a_search_are_found(
    url: str, opening: Callable[..., Store]
) -> None:
    """The migration gives runs and workflows of an older version what they are found by."""
    store = opening(url)
    for tenant_id in (TENANT, OTHER):
        world.settle(store, tenant_id)
        for name in WORKFLOWS[1:]:
            world.register(store, tenant_id, name)
    rows = random_rows()
    many = [made(5000 + number, labels='{"env":"prod"}') for number in range(2100)]
    odd = made(9000, labels=orjson.dumps({"a\0b": "x\0y", "wide": "Straße " * 30}).decode())
    kept(store, [*rows, *many, odd, made(9001, state=RunState.RUNNING, reason="not yet")])
    kept(store, [(OTHER, *row[1:]) for row in rows], OTHER)
    names = ("run_terms", "workflow_words")
    queries = [f"SELECT * FROM {name} ORDER BY 1, 2, 3" for name in names]
    expected = [rows_of(store, query) for query in queries]
    run = store.backend.writing.execute_sql
    # Of a run that has not ended its reason is not looked at.
    run("DELETE FROM run_terms WHERE term IN ('w:not', 'w:yet')")
    expected[0] = rows_of(store, queries[0])
    for name in names:
        run(f"DROP TABLE {name}")
    run("DELETE FROM schema_migration WHERE name = '0005_search'")
    # As a coordinator does that stops: who migrates waits for the seats of one that vanished.
    seats.Seats(store).release()
    store.close()
    again = opening(url, "second")
    assert [rows_of(again, query) for query in queries] == expected
    assert len(expected[0]) > 2 * len(many)
