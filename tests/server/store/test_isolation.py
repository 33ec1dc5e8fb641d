"""What reads one tenant never shows another's rows, even where ids and names are the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from tests.server.store import world
from tests.server.store.world import OTHER, TENANT

from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.store import tenant_queries
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

#: In both tenants, with different contents.
RUN = world.new_id(1)
#: In the other tenant only.
FOREIGN = world.new_id(2)

Call = Callable[[TenantReads], Any]
#: How each method would find the other tenant's rows, were they not kept apart.
CALLS: dict[str, list[Call]] = {
    "workflow": [lambda r: r.workflow("count"), lambda r: r.workflow("count", 2)],
    "workflow_by_digest": [lambda r: r.workflow_by_digest(f"sha256:{OTHER}")],
    "workflows": [lambda r: r.workflows("", 100)],
    "versions": [lambda r: r.versions("count", None, 100)],
    "run": [lambda r: r.run(RUN), lambda r: r.run(FOREIGN)],
    "runs": [
        lambda r: r.runs(None, [], None, 100),
        lambda r: r.runs("count", [], None, 100),
        lambda r: r.runs(None, [RunState.RUNNING], None, 100),
        lambda r: r.runs("count", [RunState.RUNNING, RunState.FAILED], None, 100),
    ],
    "run_ids_open": [lambda r: r.run_ids_open()],
    "task": [lambda r: r.task(RUN, 0), lambda r: r.task(RUN, 1), lambda r: r.task(FOREIGN, 0)],
    "tasks": [
        lambda r: r.tasks(RUN, -1, 100),
        lambda r: r.tasks(RUN, -1, 100, with_output=True),
        lambda r: r.tasks(FOREIGN, -1, 100),
    ],
    "outputs": [lambda r: r.outputs(RUN, [0, 1]), lambda r: r.outputs(FOREIGN, [0, 1])],
    "event_triggers": [lambda r: r.event_triggers("paid")],
    "pauses": [lambda r: r.pauses()],
    "is_pruned": [lambda r: r.is_pruned(RUN), lambda r: r.is_pruned(FOREIGN)],
    "events": [
        lambda r: r.events(RUN, 0, 100),
        lambda r: r.events(RUN, 0, 100, run_events_only=True),
        lambda r: r.events(FOREIGN, 0, 100),
    ],
    "last_sequence": [lambda r: r.last_sequence(RUN), lambda r: r.last_sequence(FOREIGN)],
    "open_runs": [lambda r: r.open_runs()],
    "open_tasks": [lambda r: list(r.open_tasks())],
    "request_ids": [lambda r: r.request_ids("", 100)],
    "last_sequences": [lambda r: r.last_sequences()],
    "constitution": [lambda r: r.constitution(), lambda r: r.constitution(2)],
    "constitutions": [lambda r: r.constitutions(None, 100)],
}


@pytest.fixture
def answers(store: Store) -> Callable[[str, Call], Any]:
    """Two tenants with the same ids, one of them with more; asks as any tenant."""
    for tenant_id in (TENANT, OTHER):
        world.settle(store, tenant_id)
        store.writer().commit(_rows(tenant_id, RUN))
    world.register(store, OTHER, digest=f"sha256:{OTHER}")
    store.writer().commit(_rows(OTHER, FOREIGN))
    for tenant_id, digest in ((TENANT, "sha256:1"), (OTHER, "sha256:1"), (OTHER, "sha256:2")):
        world.constitute(store, tenant_id, digest)
    for tenant_id in (TENANT, OTHER):
        world.pause(store, tenant_id)
    more: dict[str, Any] = {
        "tasks": [world.task_row(RUN, 1, OTHER, output=b"bolt", output_type="")],
        "events": [world.event_row(RUN, 2, OTHER, message=OTHER)],
        "requests": [world.request_row("r-other", OTHER)],
    }
    store.writer().commit(world.changes(tenant_id=OTHER, **more))

    def ask(tenant_id: str, call: Call) -> Any:
        with store.reading():
            return call(TenantReads(store, tenant_id))

    return ask


def _rows(tenant_id: str, run_id: str) -> Any:
    marked = {"output": tenant_id.encode(), "output_type": ""}
    return world.changes(
        tenant_id=tenant_id,
        runs=[world.run_row(run_id, tenant_id, reason=tenant_id)],
        tasks=[world.task_row(run_id, 0, tenant_id, agent=tenant_id, **marked)],
        events=[world.event_row(run_id, 1, tenant_id, message=tenant_id)],
        requests=[world.request_row(f"r-{tenant_id}-{run_id}", tenant_id)],
    )


def test_every_method_is_tried() -> None:
    methods = {
        name
        for name, _ in inspect.getmembers(TenantReads, inspect.isfunction)
        if not name.startswith("_")
    }
    assert methods == CALLS.keys()


def test_no_method_shows_another_tenants_rows(answers: Callable[[str, Call], Any]) -> None:
    for name, calls in CALLS.items():
        for call in calls:
            assert OTHER not in repr(answers(TENANT, call)), name


def test_every_method_shows_the_tenants_own_rows(answers: Callable[[str, Call], Any]) -> None:
    # Otherwise the other tests could not fail.
    for name, calls in CALLS.items():
        assert any(answers(OTHER, call) for call in calls), name
        mine = [answers(TENANT, call) for call in calls]
        assert any(mine) or name == "workflow_by_digest", name


def test_a_tenant_with_nothing_sees_nothing(answers: Callable[[str, Call], Any]) -> None:
    for name, calls in CALLS.items():
        for call in calls:
            assert not answers("nobody", call), name


def test_a_query_that_does_not_ask_for_the_tenant_is_not_run(store: Store) -> None:
    query = tenant_queries.WORKFLOWS.where(True).model.select()
    with store.reading(), pytest.raises(LookupError, match="tenant_id"):
        TenantReads(store, TENANT)._rows(query)


def test_the_tenant_cannot_be_swapped_by_an_argument(
    store: Store, answers: Callable[[str, Call], Any]
) -> None:
    query = tenant_queries.RUN_IDS_OPEN
    found = answers(TENANT, lambda reads: reads._rows(query, tenant_id=OTHER))
    assert [run_id for run_id, _ in found] == [RUN]
