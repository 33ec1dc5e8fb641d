"""Pages of lists fit together: nothing twice, nothing left out, in one order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from tests.server.store import world
from tests.server.store.world import NOW, OTHER, TENANT

from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.core.ledger.records import Run
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.reads import Reads, TenantReads

COUNT = 40


@pytest.fixture
def reads(store: Store) -> TenantReads:
    """A tenant with runs of two workflows in all states, many of them of the same microsecond."""
    reads = world.settle(store)
    world.register(store, name="sum")
    rows = [
        world.run_row(
            world.new_id(number * 7 % COUNT),
            workflow=("count", "sum")[number % 2],
            state=sorted(RunState)[number % 5],
            create_us=NOW + number // 10,
        )
        for number in range(COUNT)
    ]
    store.writer().commit(world.changes(runs=rows))
    return reads


def pages(
    store: Store, reads: TenantReads, workflow: str | None, states: Sequence[RunState], size: int
) -> list[Run]:
    """All pages of a list of runs, one behind the other."""
    found: list[Run] = []
    before = None
    with store.reading():
        while page := reads.runs(workflow, states, before, size):
            assert len(page) <= size
            found += page
            before = (page[-1].create_us, page[-1].run_id)
    return found


def test_pages_of_runs_are_the_whole_list(store: Store, reads: TenantReads) -> None:
    with store.reading():
        everything = reads.runs(None, [], None, 1000)
    places = [(run.create_us, run.run_id) for run in everything]
    assert places == sorted(places, reverse=True)
    assert len(places) == COUNT
    some_states: list[list[RunState]] = [
        [],
        [RunState.FAILED],
        [RunState.RUNNING, RunState.CANCELLED, RunState.SUCCEEDED],
    ]
    for workflow, states, size in product([None, "count", "sum"], some_states, [1, 7, 100]):
        wanted = [
            run
            for run in everything
            if workflow in (None, run.workflow) and (not states or run.state in states)
        ]
        assert pages(store, reads, workflow, states, size) == wanted, (workflow, states, size)


def test_a_page_of_runs_is_not_moved_by_new_runs(store: Store, reads: TenantReads) -> None:
    with store.reading():
        first = reads.runs(None, [], None, 10)
        before = (first[-1].create_us, first[-1].run_id)
        second = reads.runs(None, [], before, 10)
    store.writer().commit(world.changes(runs=[world.run_row(world.new_id(99), create_us=NOW + 99)]))
    with store.reading():
        assert reads.runs(None, [], before, 10) == second
        assert reads.runs(None, [], None, 1)[0].run_id == world.new_id(99)


def test_runs_in_lists_come_without_their_input(store: Store, reads: TenantReads) -> None:
    row = world.run_row(world.new_id(99), input=b"{}", input_type="", create_us=NOW + 99)
    store.writer().commit(world.changes(runs=[row]))
    with store.reading():
        assert reads.runs(None, [], None, 1)[0].input is None


def test_workflows_are_listed_by_name_in_their_newest_version(store: Store) -> None:
    reads = world.settle(store, name="Zebra")
    for name in ("a", "b", "c-1", "c_1", "c.1"):
        for version in range(3):
            world.register(store, name=name, digest=f"sha256:{version}")
    with store.reading():
        everything = reads.workflows("", 100)
        names = [workflow.name for workflow in everything]
        # By bytes, as every database here compares.
        assert names == sorted(["Zebra", "a", "b", "c-1", "c_1", "c.1"])
        assert [w.version for w in everything if w.name != "Zebra"] == [3] * 5
        assert all(workflow.canonical == b"" for workflow in everything)
        assert reads.workflows("b", 2) == everything[3:5]
        assert reads.workflows(names[-1], 100) == []
        versions = reads.versions("a", None, 100)
        assert [workflow.version for workflow in versions] == [3, 2, 1]
        assert reads.versions("a", 3, 1) == versions[1:2]
        assert reads.versions("a", 1, 100) == []


def test_tasks_are_listed_in_order(store: Store, reads: TenantReads) -> None:
    run_id = world.new_id(0)
    carried: dict[str, Any] = {
        "output": b"{}",
        "output_type": "",
        "checkpoint": b"1",
        "checkpoint_type": "",
    }
    rows = [world.task_row(run_id, index, **carried) for index in (5, 0, 3)]
    store.writer().commit(world.changes(tasks=rows))
    with store.reading():
        assert [task.task_index for task in reads.tasks(run_id, -1, 100)] == [0, 3, 5]
        assert [task.task_index for task in reads.tasks(run_id, 0, 1)] == [3]
        assert reads.tasks(run_id, 5, 100) == []
        [task] = reads.tasks(run_id, 3, 100)
        assert (task.output, task.checkpoint) == (None, None)
        [task] = reads.tasks(run_id, 3, 100, with_output=True)
        assert task == reads.task(run_id, 5)


def test_tenants_are_listed_by_id_all_or_some(store: Store) -> None:
    names = [f"t-{number:03}" for number in range(300)]

    def make(acts: Acts) -> None:
        for name in names:
            acts.create_tenant(world.tenant(name))

    store.writer().act({}, make)

    def listed(after: str, limit: int, only: list[str] | None = None) -> list[str]:
        with store.reading():
            return [tenant.tenant_id for tenant in Reads(store).tenants(after, limit, only)]

    assert listed("", 1000) == names
    assert listed("t-100", 2) == ["t-101", "t-102"]
    assert listed("", 1000, names[::-1]) == names
    assert listed("t-280", 10, [*names, "nobody"]) == names[281:291]
    assert listed("", 10, ["t-007", "t-003", "nobody", "t-007"]) == ["t-003", "t-007"]
    assert listed("", 10, []) == []


def test_keys_are_listed_by_age_for_a_tenant_or_for_operators(store: Store) -> None:
    world.settle(store)
    world.settle(store, OTHER)
    both = [world.api_key(number, TENANT, OTHER, create_us=NOW) for number in (5, 3, 4)]
    mine = [world.api_key(number, TENANT) for number in (1, 2)]
    operators = [world.api_key(number) for number in (6, 7)]

    def make(acts: Acts) -> None:
        for key in (*both, *mine, *operators):
            acts.create_api_key(key)

    store.writer().act({}, make)
    store.writer().act({}, lambda acts: acts.revoke_api_key(world.new_id(7), NOW + 99))
    with store.reading():
        reads = Reads(store)
        everything = reads.api_keys(TENANT, None, 100)
        assert everything == [both[1], both[2], both[0], *mine]
        assert reads.api_keys(TENANT, None, 2) == everything[:2]
        after = (everything[1].create_us, everything[1].api_key_id)
        assert reads.api_keys(TENANT, after, 2) == everything[2:4]
        assert reads.api_keys(OTHER, None, 100) == everything[:3]
        revoked = world.api_key(7, revoke_us=NOW + 99)
        assert reads.api_keys("", None, 100) == [operators[0], revoked]
        assert reads.api_keys("nobody", None, 100) == []
