"""What reads one log never shows another's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from tests.server.store import world
from tests.server.store.world import OTHER, TENANT

from tenure_server.core.evidence import Act, Draft
from tenure_server.store import evidence_queries
from tenure_server.store.database import Store
from tenure_server.store.evidence_reads import WHOLE, EvidenceReads

RUN = world.new_id(1)
ALL = 1 << 53

Call = Callable[[EvidenceReads], Any]
CALLS: dict[str, list[Call]] = {
    "size": [lambda r: r.size()],
    "entry": [lambda r: r.entry(0), lambda r: r.entry(2)],
    "last_entries": [lambda r: r.last_entries(ALL, 100)],
    "entries": [lambda r: r.entries(0, 100), lambda r: r.entries(0, 100, WHOLE)],
    "all_entries": [lambda r: list(r.all_entries())],
    "entries_of_run": [lambda r: list(r.entries_of_run(RUN, ALL))],
    "input_digest": [lambda r: r.input_digest(RUN)],
    "events_of_run": [lambda r: r.events_of_run(RUN, 0, 100)],
    "nodes": [lambda r: r.nodes([(0, 0), (0, 2), (1, 0)])],
    "leaves": [lambda r: r.leaves(0, 100)],
    "root": [lambda r: r.root(1)],
    "wrong_nodes": [lambda r: list(r.wrong_nodes(3, set()))],
    "checkpoints": [lambda r: r.checkpoints(ALL, 100)],
    "newest_checkpoint": [lambda r: r.newest_checkpoint()],
    "definitions": [lambda r: r.definitions()],
    "definitions_started": [lambda r: r.definitions_started(0, 1 << 60)],
    "definitions_in_use": [lambda r: r.definitions_in_use()],
    "registration": [lambda r: r.registration(OTHER)],
    "constitution": [lambda r: r.constitution(OTHER)],
}


@pytest.fixture
def logs(store: Store) -> Store:
    """Two tenants with logs; the other's is longer, and names itself everywhere."""
    for tenant_id, length in ((TENANT, 1), (OTHER, 3)):
        world.settle(store, tenant_id)
        drafts = [
            Draft(Act(kind="test", principal=tenant_id), tenant_id, number)
            for number in range(length)
        ]
        store.writer().act({tenant_id: 1}, lambda acts: None, drafts)
    return store


def test_every_method_is_tried() -> None:
    methods = {
        name
        for name, _ in inspect.getmembers(EvidenceReads, inspect.isfunction)
        if not name.startswith("_")
    }
    assert methods == CALLS.keys()


def test_no_method_shows_another_tenants_log(logs: Store) -> None:
    for name, calls in CALLS.items():
        for call in calls:
            with logs.reading():
                assert OTHER not in repr(call(EvidenceReads(logs, TENANT))), name


def test_logs_have_ends_of_their_own(logs: Store) -> None:
    with logs.reading():
        assert [EvidenceReads(logs, name).size() for name in (TENANT, OTHER)] == [1, 3]
        assert EvidenceReads(logs, TENANT).entry(2) is None
        assert EvidenceReads(logs, TENANT).nodes([(0, 2)]) == {}


def test_the_tenant_cannot_be_swapped_by_an_argument(logs: Store) -> None:
    with logs.reading():
        found = EvidenceReads(logs, TENANT)._rows(evidence_queries.HEAD, tenant_id=OTHER)
    assert found == [(1,)]
