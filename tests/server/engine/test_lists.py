"""Lists on a real store: items lie in rows, and whoever takes the work over goes on with them."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from tests.server.core.world import task
from tests.server.engine.conftest import PATIENCE_SECONDS, TENANT, House, soon

from tenure_server.core.definitions.features import ForEach, Handler
from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.leasing.leases import End, Lease, Success
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState
from tenure_server.engine.comparison import compare
from tenure_server.engine.sessions import AgentSession
from tenure_server.store.evidence_reads import EvidenceReads
from tenure_server.store.reads import TenantReads

FOUR = ForEach(items="[10, 20, 30, 40]", parallelism=2)


@pytest.fixture
def house(either: House) -> House:
    """A house on either database."""
    return either


async def taken(session: AgentSession, count: int) -> list[Lease]:
    """So many leases, which are accepted."""
    found: list[Lease] = []
    session.add_credits(count)
    while len(found) < count:
        found += (await soon(session)).leases
    for lease in found:
        session.accept(lease.run.run_id, lease.task_key, lease.term, lease.token)
    return sorted(found, key=lambda lease: lease.task_key)


def settle(session: AgentSession, lease: Lease, end: End) -> None:
    """Reports the end of an attempt."""
    words = (lease.run.run_id, lease.task_key, lease.term, lease.token)
    session.settle(*words, end)


def done(lease: Lease) -> Success:
    """A success that puts out twice the item."""
    assert lease.input is not None
    return Success(Payload(orjson.dumps(2 * orjson.loads(lease.input.data)["item"])))


async def again(house: House) -> None:
    """A coordinator ends, and another one takes its work over."""
    await house.engine._floor.flushed()
    await house.close()
    await house.open()
    await house.serving()


async def ended(house: House, run_id: str) -> None:
    """Waits for a run's end."""

    async def follow() -> None:
        async for _ in house.engine.watch(TENANT, run_id, 0, True):
            pass

    await asyncio.wait_for(follow(), PATIENCE_SECONDS)


async def states(house: House, run_id: str) -> dict[str, TaskState]:
    """The states of the tasks that have rows."""
    rows = await house.engine.read(TenantReads(house.store, TENANT).tasks, run_id, -1, 100)
    return {row.task_key: row.state for row in rows}


async def check_record(house: House, run_id: str) -> None:
    """The run's rows say what its log says."""
    tables = TenantReads(house.store, TENANT)
    evidence = EvidenceReads(house.store, TENANT)
    run = await house.run(run_id)
    assert await house.engine.read(lambda: compare(tables, evidence, run)) is None


async def test_a_list_goes_on_after_a_restart_and_keeps_what_its_items_gave(house: House) -> None:
    await house.register(task("e", for_each=FOUR, bindings={"item": "item"}), task("z", "e"))
    run_id = await house.start()
    session = house.session()
    first, second = await taken(session, 2)
    settle(session, first, done(first))
    await again(house)
    session = house.session()
    settle(session, second, done(second))
    third, fourth = await taken(session, 2)
    assert (third.task_key, fourth.task_key) == ("e[2]", "e[3]")
    for lease in (third, fourth):
        settle(session, lease, done(lease))
    [last] = await taken(session, 1)
    assert orjson.loads(last.upstream["e"].data) == [20, 40, 60, 80]
    settle(session, last, Success())
    await ended(house, run_id)
    run = await house.run(run_id)
    assert (run.state, run.task_count, run.succeeded) == (RunState.SUCCEEDED, 6, 6)
    await check_record(house, run_id)


async def test_a_retry_of_a_run_executes_the_items_that_failed(house: House) -> None:
    await house.register(task("e", for_each=FOUR, bindings={"item": "item"}))
    run_id = await house.start()
    session = house.session()
    first, second = await taken(session, 2)
    settle(session, first, done(first))
    settle(session, second, Failure("BROKEN", "no", True))
    while (await house.run(run_id)).end_us is None:
        due = await soon(session)
        for lease in due.leases:
            settle(session, lease, Failure("STOPPED"))
    assert (await house.run(run_id)).reason == "task e failed: ITEMS_FAILED"
    await check_record(house, run_id)
    count = await house.engine.operations.reopen(
        house.origin, run_id, [], paused=False, reason="mended", request=None
    )
    assert count == 4
    await again(house)
    session = house.session()
    for _ in range(3):
        [lease] = await taken(session, 1)
        settle(session, lease, done(lease))
    await ended(house, run_id)
    assert set((await states(house, run_id)).values()) == {TaskState.SUCCEEDED}
    row = await house.engine.read(TenantReads(house.store, TENANT).task, run_id, 0)
    assert row is not None
    assert row.output == Payload(b"[20,40,60,80]")
    await check_record(house, run_id)


async def test_items_are_undone_with_item_and_index_through_a_restart(house: House) -> None:
    undo = Handler(kind="work", bindings={"was": "item", "place": "index", "gave": "output"})
    await house.register(
        task("e", for_each=ForEach(items="[10, 20]"), bindings={"item": "item"}, compensation=undo),
        task("z", "e", bindings={"x": "run.input.not_there"}),
    )
    run_id = await house.start()
    session = house.session()
    for lease in await taken(session, 2):
        settle(session, lease, done(lease))
    wanted = [("e[1]~undo", 20, 1), ("e[0]~undo", 10, 0)]
    for key, item, place in wanted:
        [lease] = await taken(session, 1)
        assert lease.task_key == key
        assert lease.input is not None
        assert orjson.loads(lease.input.data) == {"was": item, "place": place, "gave": 2 * item}
        # Before and behind a restart, the same result of the same lease.
        await again(house)
        session = house.session()
        settle(session, lease, Success())
    await ended(house, run_id)
    assert (await house.run(run_id)).state is RunState.FAILED
    await check_record(house, run_id)
