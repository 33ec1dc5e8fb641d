"""Rows of a run that is put under another version: kept under new numbers, or gone, all or none."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.server.store import world
from tests.server.store.world import NOW, OTHER, TENANT

from tenure_server.core.ledger.journal import RUN_MOVED_COLUMNS, Changes, Row
from tenure_server.core.ledger.lifecycle import RunState, TaskState
from tenure_server.store.database import Store
from tenure_server.store.errors import StoreConflict
from tenure_server.store.reads import TenantReads

RUN = world.new_id(1)
NEWER = "sha256:" + "1" * 64
TASKS = 700


def moved_run(run_id: str = RUN, version: int = 2) -> Row:
    """A run under another version, with a time until which it may take."""
    values = (TENANT, run_id, version, NEWER, NOW + 7)
    assert len(values) == len(RUN_MOVED_COLUMNS)
    return values


def moved(numbers: dict[int, int], run_id: str = RUN) -> list[Row]:
    """Tasks that stay, each with a detail that names its new number."""
    return [(TENANT, run_id, old, new, f'{{"n":{new}}}') for old, new in numbers.items()]


def change(*, tasks: dict[int, int], **rows: Any) -> Changes:
    """The move of a run."""
    return world.changes(
        runs_moved=[moved_run()],
        tasks_moved=moved(tasks),
        run_changes=[world.run_change(RUN, state=RunState.PAUSED, end_us=None, task_count=9)],
        **rows,
    )


@pytest.fixture
def reads(store: Store) -> TenantReads:
    """A tenant with two versions of a workflow and a run of many tasks that have succeeded."""
    found = world.settle(store)
    world.settle(store, OTHER)
    assert world.register(store, digest=NEWER) == 2
    for tenant_id in (TENANT, OTHER):
        rows = [
            world.task_row(RUN, index, tenant_id, state=TaskState.SUCCEEDED, output=b"%d" % index)
            for index in range(TASKS)
        ]
        runs = [world.run_row(RUN, tenant_id, state=RunState.PAUSED)]
        store.writer().commit(world.changes(tenant_id=tenant_id, runs=runs, tasks=rows))
    return found


def keys(store: Store, reads: TenantReads, run_id: str = RUN) -> dict[int, tuple[str, bytes]]:
    """Key and output of each task, by its number."""
    with store.reading():
        found = reads.tasks(run_id, -1, 10 * TASKS, with_output=True)
    return {
        task.task_index: (task.task_key, task.output.data if task.output else b"") for task in found
    }


@pytest.mark.parametrize("seed", range(3))
def test_tasks_stay_under_new_numbers_in_any_order_and_others_are_gone(
    store: Store, reads: TenantReads, seed: int
) -> None:
    some = random.Random(seed)
    new = some.sample(range(TASKS + 50), TASKS)
    numbers = {old: new[old] for old in range(TASKS) if some.random() < 0.9}
    store.writer().commit(change(tasks=numbers))
    assert keys(store, reads) == {
        number: (f"task-{old}", b"%d" % old) for old, number in sorted(numbers.items())
    }
    with store.reading():
        run, one = reads.run(RUN), reads.task(RUN, numbers[min(numbers)])
    assert run is not None
    assert one is not None
    assert (run.workflow_version, run.workflow_digest) == (2, NEWER)
    assert (run.deadline_us, run.state, run.task_count) == (NOW + 7, RunState.PAUSED, 9)
    assert one.detail == f'{{"n":{one.task_index}}}'


def test_the_same_run_id_of_another_tenant_keeps_its_tasks(
    store: Store, reads: TenantReads
) -> None:
    store.writer().commit(change(tasks={0: 1, 1: 0}))
    assert len(keys(store, reads)) == 2
    assert len(keys(store, TenantReads(store, OTHER))) == TASKS


def test_tasks_that_have_not_ended_are_written_anew_in_the_same_commit(
    store: Store, reads: TenantReads
) -> None:
    begun = world.task_row(RUN, 0, task_key="begun", state=TaskState.RETRYING, term=1)
    changes = change(tasks={0: 3})
    changes.tasks.append(begun)
    store.writer().commit(changes)
    assert {number: key for number, (key, _) in keys(store, reads).items()} == {
        0: "begun",
        3: "task-0",
    }


def test_a_run_is_opened_again_and_moved_in_one_commit(store: Store, reads: TenantReads) -> None:
    failed = world.run_change(RUN, state=RunState.FAILED)
    store.writer().commit(world.changes(run_changes=[failed]))
    with pytest.raises(StoreConflict):
        store.writer().commit(change(tasks={0: 0}))
    opened = world.run_change(RUN, state=RunState.PAUSED, end_us=None)
    store.writer().commit(change(tasks={0: 0}, runs_reopened=[opened]))
    assert list(keys(store, reads)) == [0]


def test_a_move_of_what_is_not_there_changes_nothing(store: Store, reads: TenantReads) -> None:
    before = keys(store, reads)
    missing = world.changes(runs_moved=[moved_run(world.new_id(9))])
    unknown = world.changes(runs_moved=[moved_run(version=3)])
    for changes in (change(tasks={0: 1, TASKS: 2}), missing, unknown):
        with pytest.raises(StoreConflict):
            store.writer().commit(changes)
        assert keys(store, reads) == before
    with store.reading():
        run = reads.run(RUN)
    assert run is not None
    assert run.workflow_version == 1
