"""What goes into the store comes out of it, unchanged, on every database."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from tests.server.store import world
from tests.server.store.world import NOW, OTHER, TENANT

from tenure_server.core import errors
from tenure_server.core.definitions.definition import Payload
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState
from tenure_server.core.ledger.records import Answer, Role
from tenure_server.store.database import Store
from tenure_server.store.reads import Reads

ODD_TEXT = 'quotes " \\ {braces, commas}, NULL, tab\t, newline\n, Grüße 火 🙂'
ODD_BYTES = bytes(range(256))


def test_a_tenant_comes_back_and_can_be_changed(store: Store) -> None:
    tenant = world.tenant(display_name=ODD_TEXT)
    writer = store.writer()
    writer.act({}, lambda acts: acts.create_tenant(tenant))
    with store.reading():
        assert Reads(store).tenant(TENANT) == tenant
    changed = world.tenant(display_name="", max_leases=7, weight=9)
    writer.act({TENANT: 1}, lambda acts: acts.update_tenant(changed))
    with store.reading():
        assert Reads(store).tenant(TENANT) == changed
        assert Reads(store).tenant(OTHER) is None


def test_a_tenants_id_can_be_taken_once(store: Store) -> None:
    writer = store.writer()
    writer.act({}, lambda acts: acts.create_tenant(world.tenant(weight=3)))
    with pytest.raises(errors.AlreadyExists):
        writer.act({}, lambda acts: acts.create_tenant(world.tenant(weight=4)))
    with store.reading():
        assert Reads(store).tenant(TENANT) == world.tenant(weight=3)


def test_changing_a_tenant_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(errors.NotFound):
        store.writer().act({}, lambda acts: acts.update_tenant(world.tenant()))


def test_a_key_comes_back_by_its_id_and_by_its_secret(store: Store) -> None:
    writer = store.writer()
    for tenant_id in (OTHER, TENANT):
        world.settle(store, tenant_id)
    key = world.api_key(1, TENANT, OTHER, roles=frozenset(Role), expire_us=NOW + 5)
    operator = world.api_key(2, roles=frozenset({Role.OPERATOR}))
    with store.reading():
        assert not Reads(store).has_api_keys()
    writer.act({}, lambda acts: acts.create_api_key(key))
    writer.act({}, lambda acts: acts.create_api_key(operator))
    with store.reading():
        reads = Reads(store)
        assert reads.has_api_keys()
        assert reads.api_key(key.api_key_id) == key
        assert reads.api_key_by_hash(key.secret_hash) == key
        assert reads.api_key(operator.api_key_id) == operator
        assert reads.api_key(world.new_id(9)) is None
        assert reads.api_key_by_hash(b"\x00" * 32) is None


def test_a_key_for_an_unknown_tenant_is_refused_and_leaves_nothing(store: Store) -> None:
    writer = store.writer()
    writer.act({}, lambda acts: acts.create_tenant(world.tenant()))
    with pytest.raises(errors.NotFound):
        writer.act({}, lambda acts: acts.create_api_key(world.api_key(1, TENANT, OTHER)))
    with store.reading():
        assert not Reads(store).has_api_keys()


def test_revoking_a_key_twice_is_the_same_as_once(store: Store) -> None:
    writer = store.writer()
    key = world.api_key(1)
    writer.act({}, lambda acts: acts.create_api_key(key))
    first = writer.act({}, lambda acts: acts.revoke_api_key(key.api_key_id, NOW + 10))
    second = writer.act({}, lambda acts: acts.revoke_api_key(key.api_key_id, NOW + 20))
    assert first == second == world.api_key(1, revoke_us=NOW + 10)
    with store.reading():
        assert Reads(store).api_key(key.api_key_id) == first
    with pytest.raises(errors.NotFound):
        writer.act({}, lambda acts: acts.revoke_api_key(world.new_id(9), NOW))


def test_the_same_workflow_twice_is_one_version(store: Store) -> None:
    reads = world.settle(store)
    again = world.register(store)
    changed = world.register(store, digest="sha256:" + "1" * 64)
    back = world.register(store)
    elsewhere = world.register(store, name="sum")
    assert (again, changed, back, elsewhere) == (1, 2, 1, 1)
    with store.reading():
        newest = reads.workflow("count")
        first = reads.workflow("count", 1)
        assert newest is not None
        assert first is not None
        assert (newest.version, first.version) == (2, 1)
        assert first.canonical == world.DIGEST.encode()
        assert (first.task_count, first.dependency_count) == (10, 9)
        assert (first.tenant_id, first.created_by, first.create_us) == (TENANT, "k-1", NOW)
        assert reads.workflow_by_digest("sha256:" + "1" * 64) == newest
        assert reads.workflow("count", 3) is None
        assert reads.workflow("product") is None
        assert reads.workflow_by_digest("sha256:none") is None


def test_a_run_comes_back_with_its_input_and_changes(store: Store) -> None:
    reads = world.settle(store)
    run_id = world.new_id(1)
    labels = {"team": ODD_TEXT}
    row = world.run_row(
        run_id,
        labels=orjson.dumps(labels).decode(),
        input=ODD_BYTES,
        input_type="application/octet-stream",
        priority=-5,
    )
    store.writer().commit(world.changes(runs=[row]))
    with store.reading():
        run = reads.run(run_id)
        assert run is not None
        assert run.input == Payload(ODD_BYTES, "application/octet-stream")
        assert (run.labels, run.priority, run.state) == (labels, -5, RunState.RUNNING)
        assert (run.create_us, run.start_us, run.end_us) == (NOW, None, None)
        assert reads.open_runs() == [run]
        assert reads.run(world.new_id(2)) is None
    change = world.run_change(
        run_id, state=RunState.FAILED, reason=ODD_TEXT, succeeded=1, failed=2, upstream_failed=3
    )
    store.writer().commit(world.changes(run_changes=[change]))
    with store.reading():
        run = reads.run(run_id)
        assert run is not None
        assert (run.state, run.reason) == (RunState.FAILED, ODD_TEXT)
        assert (run.succeeded, run.failed, run.upstream_failed, run.cancelled) == (1, 2, 3, 0)
        assert (run.start_us, run.end_us) == (NOW + 1, NOW + 2)
        assert reads.open_runs() == []


def test_a_task_comes_back_with_everything_it_carries(store: Store) -> None:
    reads = world.settle(store)
    run_id = world.new_id(1)
    leased = world.task_row(run_id, 3, task_key=ODD_TEXT, checkpoint=b"", checkpoint_type="")
    store.writer().commit(world.changes(runs=[world.run_row(run_id)], tasks=[leased]))
    with store.reading():
        task = reads.task(run_id, 3)
        assert task is not None
        assert (task.task_key, task.state) == (ODD_TEXT, TaskState.LEASED)
        assert (task.checkpoint, task.output, task.failure) == (Payload(b"", ""), None, None)
        assert reads.task(run_id, 4) is None
    failed = world.task_row(
        run_id,
        3,
        state=TaskState.FAILED,
        attempt=2,
        term=4,
        lost=1,
        end_us=NOW + 9,
        result_hash=ODD_BYTES[:32],
        failure_code="EXIT_1",
        failure_message=ODD_TEXT,
        output=ODD_BYTES,
        output_type="image/png",
    )
    store.writer().commit(world.changes(tasks=[failed]))
    with store.reading():
        task = reads.task(run_id, 3)
        assert task is not None
        assert (task.attempt, task.term, task.lost, task.end_us) == (2, 4, 1, NOW + 9)
        assert task.result_hash == ODD_BYTES[:32]
        assert task.failure == Failure("EXIT_1", ODD_TEXT)
        assert task.output == Payload(ODD_BYTES, "image/png")
        assert task.checkpoint is None
        assert reads.outputs(run_id, [1, 2, 3]) == {3: Payload(ODD_BYTES, "image/png")}
        assert reads.outputs(run_id, []) == {}


def test_events_come_back_in_order(store: Store) -> None:
    reads = world.settle(store)
    run_id = world.new_id(1)
    rows = [
        world.event_row(run_id, 2, code="EXIT_1", message=ODD_TEXT, kind=EventKind.TASK_FAILED),
        world.event_row(run_id, 1, kind=EventKind.RUN_STARTED, task_key=""),
        world.event_row(run_id, 3, kind=EventKind.RUN_FAILED, task_key=""),
    ]
    with store.reading():
        assert reads.last_sequence(run_id) == 0
    store.writer().commit(world.changes(runs=[world.run_row(run_id)], events=rows))
    with store.reading():
        events = reads.events(run_id, 0, 100)
        assert [event.sequence for event in events] == [1, 2, 3]
        assert (events[1].code, events[1].message) == ("EXIT_1", ODD_TEXT)
        assert events[1].kind is EventKind.TASK_FAILED
        assert [e.sequence for e in reads.events(run_id, 1, 1)] == [2]
        assert [e.sequence for e in reads.events(run_id, 0, 9, run_events_only=True)] == [1, 3]
        assert reads.last_sequence(run_id) == 3
        assert reads.last_sequences() == {run_id: 3}


def test_answers_are_found_by_tenant_and_request_in_one_go(store: Store) -> None:
    world.settle(store)
    store.writer().commit(
        world.changes(
            requests=[world.request_row(f"r-{n}", response=b"%d" % n) for n in range(300)]
        )
    )
    answer = Answer(method="CreateTenant", digest=b"d" * 32, response=b"made")
    store.writer().act({}, lambda acts: acts.remember("", "r-1", answer, NOW))
    pairs = [(TENANT, f"r-{n}") for n in range(300)]
    with store.reading():
        reads = Reads(store)
        found = reads.answers([*pairs, ("", "r-1"), (OTHER, "r-1"), (TENANT, "r-300")])
        assert found.keys() == {*pairs, ("", "r-1")}
        assert found["", "r-1"] == answer
        assert found[TENANT, "r-7"] == Answer(method="StartRun", digest=b"\x01" * 32, response=b"7")
        assert reads.answers([]) == {}


def test_what_is_restored_leaves_out_what_ended_tasks_carry(store: Store) -> None:
    reads = world.settle(store)
    open_id, ended_id = world.new_id(1), world.new_id(2)
    carried: dict[str, Any] = {
        "checkpoint": b"half",
        "checkpoint_type": "",
        "output": b"{}",
        "output_type": "",
    }
    store.writer().commit(
        world.changes(
            runs=[world.run_row(open_id), world.run_row(ended_id, state=RunState.CANCELLED)],
            tasks=[
                world.task_row(open_id, 0, state=TaskState.SUCCEEDED, **carried),
                world.task_row(open_id, 1, **carried),
                world.task_row(ended_id, 0),
            ],
        )
    )
    with store.reading():
        tasks = {task.task_index: task for task in reads.open_tasks()}
        assert reads.run_ids_open() == [open_id]
    assert tasks.keys() == {0, 1}
    assert (tasks[0].output, tasks[0].checkpoint) == (None, None)
    assert (tasks[1].output, tasks[1].checkpoint) == (None, Payload(b"half"))


def test_thousands_of_open_runs_are_restored_with_all_their_tasks(store: Store) -> None:
    reads = world.settle(store)
    run_ids = [world.new_id(number) for number in range(1000)]
    store.writer().commit(
        world.changes(
            runs=[world.run_row(run_id, task_count=200) for run_id in run_ids],
            tasks=[world.task_row(run_id, index) for run_id in run_ids for index in range(3)],
            events=[world.event_row(run_id, 5) for run_id in run_ids],
        )
    )
    with store.reading():
        assert len(reads.open_runs()) == 1000
        found = [(task.run_id, task.task_index) for task in reads.open_tasks()]
        assert reads.last_sequences() == dict.fromkeys(run_ids, 5)
    assert sorted(found) == [(run_id, index) for run_id in run_ids for index in range(3)]


def test_old_answers_are_forgotten_where_the_seat_is_held(store: Store) -> None:
    world.settle(store, TENANT)
    answer = Answer(method="m", digest=b"d", response=b"r")
    writer = store.writer()
    rows = [world.request_row(f"r-{number}", at_us=NOW + number) for number in range(4)]
    writer.commit(world.changes(requests=rows))
    writer.act({}, lambda acts: acts.remember("elsewhere", "r-0", answer, NOW))
    assert writer.act({}, lambda acts: acts.forget_answers(NOW + 3, 2)) == 2
    assert writer.act({}, lambda acts: acts.forget_answers(NOW + 3, 2)) == 1
    assert writer.act({}, lambda acts: acts.forget_answers(NOW + 3, 2)) == 0
    with store.reading():
        kept = Reads(store).answers([(TENANT, "r-2"), (TENANT, "r-3"), ("elsewhere", "r-0")])
    assert set(kept) == {(TENANT, "r-3"), ("elsewhere", "r-0")}
