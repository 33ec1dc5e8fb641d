"""A commit writes all or nothing, and only what the tables' states and terms allow."""

from __future__ import annotations

from typing import Any

import peewee
import pytest
from tests.server.store import world
from tests.server.store.world import OTHER, TENANT

from tenure_server.core.ledger.journal import Changes
from tenure_server.core.ledger.lifecycle import RUN_ENDED, TASK_ENDED, RunState, TaskState
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.errors import SeatLost, StoreConflict
from tenure_server.store.reads import Reads, TenantReads

RUN = world.new_id(1)


@pytest.fixture
def reads(store: Store) -> TenantReads:
    """A tenant with a run that has one leased task under term 5."""
    reads = world.settle(store)
    store.writer().commit(
        world.changes(
            runs=[world.run_row(RUN)],
            tasks=[world.task_row(RUN, 0, term=5)],
            events=[world.event_row(RUN, 1)],
        )
    )
    return reads


def refused_without_trace(store: Store, reads: TenantReads, changes: Changes) -> None:
    """Checks that a commit conflicts and that none of its rows, nor of its companions', is
    there.
    """
    other = world.new_id(7)
    changes.runs.append(world.run_row(other))
    changes.tasks.append(world.task_row(other, 0))
    changes.events.append(world.event_row(other, 1))
    changes.requests.append(world.request_row("r-7"))
    with store.reading():
        before = (reads.run(RUN), reads.task(RUN, 0), reads.events(RUN, 0, 100))
    with pytest.raises(StoreConflict):
        store.writer().commit(changes)
    with store.reading():
        assert (reads.run(RUN), reads.task(RUN, 0), reads.events(RUN, 0, 100)) == before
        assert reads.run(other) is None
        assert reads.task(other, 0) is None
        assert reads.events(other, 0, 100) == []
        assert Reads(store).answers([(TENANT, "r-7")]) == {}
    # The next commit is none the worse for it.
    store.writer().commit(world.changes(events=[world.event_row(RUN, 2)]))


@pytest.mark.parametrize("state", sorted(TASK_ENDED))
def test_an_ended_task_never_changes(store: Store, reads: TenantReads, state: TaskState) -> None:
    store.writer().commit(world.changes(tasks=[world.task_row(RUN, 0, state=state, term=5)]))
    later = world.task_row(RUN, 0, state=TaskState.LEASED, term=5)
    refused_without_trace(store, reads, world.changes(tasks=[later]))


def test_an_ended_task_changes_only_under_a_later_term(store: Store, reads: TenantReads) -> None:
    ended = world.task_row(RUN, 0, state=TaskState.FAILED, term=6)
    store.writer().commit(world.changes(tasks=[ended]))
    again = world.task_row(RUN, 0, state=TaskState.WAITING, term=7)
    store.writer().commit(world.changes(tasks=[again]))
    with store.reading():
        task = reads.task(RUN, 0)
    assert task is not None
    assert (task.state, task.term) == (TaskState.WAITING, 7)


def test_a_result_under_an_older_term_changes_nothing(store: Store, reads: TenantReads) -> None:
    late = world.task_row(RUN, 0, state=TaskState.SUCCEEDED, term=4)
    refused_without_trace(store, reads, world.changes(tasks=[late]))


def test_one_stale_task_among_hundreds_stops_them_all(store: Store, reads: TenantReads) -> None:
    rows = [world.task_row(RUN, index, term=5) for index in range(1, 700)]
    rows.insert(500, world.task_row(RUN, 0, term=4))
    refused_without_trace(store, reads, world.changes(tasks=rows))
    with store.reading():
        assert len(reads.tasks(RUN, -1, 1000)) == 1


@pytest.mark.parametrize("state", sorted(RUN_ENDED))
def test_an_ended_run_never_changes(store: Store, reads: TenantReads, state: RunState) -> None:
    store.writer().commit(world.changes(run_changes=[world.run_change(RUN, state=state)]))
    again = world.run_change(RUN, state=RunState.CANCELLED, reason="once more")
    refused_without_trace(store, reads, world.changes(run_changes=[again]))


def test_a_run_that_was_opened_again_may_end_in_the_same_commit(
    store: Store, reads: TenantReads
) -> None:
    store.writer().commit(world.changes(run_changes=[world.run_change(RUN)]))
    opened = world.run_change(RUN, state=RunState.RUNNING, end_us=None)
    ended = world.run_change(RUN, state=RunState.FAILED)
    store.writer().commit(world.changes(runs_reopened=[opened], run_changes=[ended]))
    with store.reading():
        run = reads.run(RUN)
    assert run is not None
    assert run.state is RunState.FAILED


def test_a_run_that_is_not_there_cannot_change(store: Store, reads: TenantReads) -> None:
    changes = world.changes(run_changes=[world.run_change(world.new_id(2))])
    refused_without_trace(store, reads, changes)


@pytest.mark.parametrize(
    "row",
    [
        {"runs": [world.run_row(RUN)]},
        {"events": [world.event_row(RUN, 1)]},
        {"requests": [world.request_row("r-1"), world.request_row("r-1")]},
        {"runs": [world.run_row(world.new_id(3), workflow_version=2)]},
    ],
    ids=["a run", "an event", "a request", "a run without a workflow"],
)
def test_a_row_that_breaks_a_key_is_a_conflict(
    store: Store, reads: TenantReads, row: dict[str, Any]
) -> None:
    refused_without_trace(store, reads, world.changes(**row))


def test_a_run_may_begin_and_end_in_one_commit(store: Store, reads: TenantReads) -> None:
    run_id = world.new_id(2)
    store.writer().commit(
        world.changes(runs=[world.run_row(run_id)], run_changes=[world.run_change(run_id)])
    )
    with store.reading():
        run = reads.run(run_id)
        assert run is not None
        assert run.state is RunState.SUCCEEDED


def test_any_number_of_rows_is_written_whole(store: Store, reads: TenantReads) -> None:
    done = 10
    for count in (0, 1, 2, 3, 127, 255, 256, 257, 1000):
        numbers = range(done, done + count)
        done += count
        store.writer().commit(
            world.changes(
                runs=[world.run_row(world.new_id(number)) for number in numbers],
                tasks=[world.task_row(RUN, number) for number in numbers],
                events=[world.event_row(RUN, number) for number in numbers],
            )
        )
        store.writer().commit(
            world.changes(
                run_changes=[world.run_change(world.new_id(number)) for number in numbers],
                tasks=[
                    world.task_row(RUN, number, state=TaskState.SUCCEEDED, output=b"%d" % number)
                    for number in numbers
                ],
            )
        )
    with store.reading():
        tasks = reads.tasks(RUN, 0, 5000, with_output=True)
        assert [task.task_index for task in tasks] == list(range(10, done))
        assert all(task.output and task.output.data == b"%d" % task.task_index for task in tasks)
        events = reads.events(RUN, 1, 5000)
        assert [event.sequence for event in events] == list(range(10, done))
        ended = reads.runs(None, [RunState.SUCCEEDED], None, 5000)
        assert len(ended) == done - 10


def test_a_seat_under_another_term_stops_the_commit(store: Store, reads: TenantReads) -> None:
    with pytest.raises(SeatLost) as lost:
        store.writer().commit(world.changes(term=2, events=[world.event_row(RUN, 2)]))
    assert lost.value.tenant_ids == {TENANT}
    with store.reading():
        assert reads.last_sequence(RUN) == 1


def test_one_lost_seat_among_many_stops_the_commit_and_is_named(
    store: Store, reads: TenantReads
) -> None:
    names = [f"tenant-{number}" for number in range(300)]

    def make(acts: Acts) -> None:
        for name in names:
            acts.create_tenant(world.tenant(name))

    store.writer().act({}, make)
    seats = dict.fromkeys([*names, TENANT], 1)
    store.writer().commit(Changes(seats=seats, events=[world.event_row(RUN, 2)]))
    seats |= {"tenant-250": 2, "nobody": 1}
    with pytest.raises(SeatLost) as lost:
        store.writer().commit(Changes(seats=seats, events=[world.event_row(RUN, 3)]))
    assert lost.value.tenant_ids == {"tenant-250", "nobody"}
    with store.reading():
        assert reads.last_sequence(RUN) == 2


def test_rows_of_a_tenant_whose_seat_is_not_asserted_are_a_mistake(
    store: Store, reads: TenantReads
) -> None:
    mistakes: list[dict[str, Any]] = [
        {"events": [world.event_row(RUN, 2), world.event_row(RUN, 2, OTHER)]},
        {"runs": [world.run_row(RUN, OTHER)]},
        {"run_changes": [world.run_change(RUN, OTHER)]},
        {"tasks": [world.task_row(RUN, 0, OTHER)]},
        {"requests": [world.request_row("r-1", OTHER)]},
    ]
    for rows in mistakes:
        with pytest.raises(LookupError, match=OTHER):
            store.writer().commit(world.changes(**rows))
    with store.reading():
        assert reads.last_sequence(RUN) == 1


def test_an_act_asserts_its_seats_too(store: Store, reads: TenantReads) -> None:
    done: list[str] = []
    with pytest.raises(SeatLost):
        store.writer().act({TENANT: 1, OTHER: 1}, lambda _: done.append("done"))
    assert done == []


def test_whatever_an_act_raises_undoes_it(store: Store) -> None:
    def work(acts: Acts) -> None:
        acts.create_tenant(world.tenant())
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        store.writer().act({}, work)
    with store.reading():
        assert Reads(store).tenant(TENANT) is None
    store.writer().act({}, lambda acts: acts.create_tenant(world.tenant()))


def test_nothing_to_write_is_no_trouble(store: Store) -> None:
    store.writer().commit(Changes())


def test_a_zero_character_does_not_stop_the_commit(store: Store, reads: TenantReads) -> None:
    row = world.task_row(RUN, 0, term=5, failure_code="X", failure_message='a\0b\\"')
    store.writer().commit(world.changes(tasks=[row]))
    with store.reading():
        task = reads.task(RUN, 0)
    assert task is not None
    assert task.failure is not None
    kept = {"sqlite": 'a\0b\\"', "postgresql": 'a\N{REPLACEMENT CHARACTER}b\\"'}
    assert task.failure.message == kept[store.kind]


def test_a_commit_takes_few_statements_and_builds_none(
    store: Store, reads: TenantReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    changes = world.changes(
        runs=[world.run_row(world.new_id(number)) for number in range(10, 42)],
        tasks=[world.task_row(RUN, index, term=5) for index in range(64)],
        events=[world.event_row(RUN, sequence) for sequence in range(2, 130)],
    )
    store.writer().commit(Changes(seats={TENANT: 1}))

    def build(*_: object) -> None:
        raise AssertionError("the hot path builds a query")

    monkeypatch.setattr(peewee.Context, "sql", build)
    monkeypatch.setattr(
        store.backend.writing, "query_hooks", [lambda event: texts.append(event.sql)]
    )
    store.writer().commit(changes)
    assert len(texts) <= 10
    assert texts[-1] == "COMMIT"
