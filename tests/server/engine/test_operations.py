"""What operators do to runs is in the rows, as the log has it, and kept over restarts; on both
databases.
"""

from __future__ import annotations

import pytest
from tests.server.core.world import json_payload, task
from tests.server.engine.conftest import TENANT, House
from tests.server.engine.test_lists import again, check_record, ended, states, taken

from tenure_server.core import errors
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState


@pytest.fixture
async def house(either: House) -> House:
    """A house on either database, with a workflow of four tasks of which one has no agent."""
    await either.register(
        task("a"), task("stuck", "a", kind="nobody"), task("b", "stuck"), task("c")
    )
    return either


def once(name: str) -> records.Request:
    """A request that may be repeated."""
    return records.Request(request_id=name, method=name, digest=b"")


async def work(house: House, count: int) -> None:
    """An agent executes so many tasks."""
    session = house.session()
    for lease in await taken(session, count):
        session.settle(lease.run.run_id, lease.task_key, lease.term, lease.token, Success())
    await house.engine._floor.flushed()


async def test_a_task_that_is_skipped_or_settled_by_hand_is_so_after_a_restart(
    house: House,
) -> None:
    skipped, settled = await house.start(), await house.start()
    await work(house, 4)
    for _ in range(2):
        operations, origin = house.engine.operations, house.origin
        await operations.skip(origin, skipped, "stuck", "not today", once("skip"))
        end = Success(json_payload({"by": "hand"}))
        await operations.settle(origin, settled, "stuck", end, "by phone", once("settle"))
        await again(house)
    assert (await house.run(skipped)).state is RunState.SUCCEEDED
    assert (await states(house, skipped))["b"] is TaskState.SKIPPED
    session = house.session()
    [lease] = await taken(session, 1)
    assert lease.upstream["stuck"] == json_payload({"by": "hand"})
    session.settle(lease.run.run_id, lease.task_key, lease.term, lease.token, Success())
    await ended(house, settled)
    for run_id, kind in (
        (skipped, EventKind.TASK_SKIPPED),
        (settled, EventKind.TASK_SUCCEEDED),
    ):
        [message] = [
            event.message
            for event in await house.events(run_id)
            if (event.task_key, event.kind) == ("stuck", kind)
        ]
        assert message in ("not today", "by phone")
        await check_record(house, run_id)


async def test_a_run_that_is_closed_stays_so_and_late_results_change_nothing(house: House) -> None:
    run_id = await house.start()
    session = house.session()
    [lease, _] = await taken(session, 2)
    for _ in range(2):
        await house.engine.operations.close(house.origin, run_id, "stuck", once("close"))
        await again(house)
    session = house.session()
    session.settle(lease.run.run_id, lease.task_key, lease.term, lease.token, Success())
    await house.engine._floor.flushed()
    run = await house.run(run_id)
    assert (run.state, run.reason) == (RunState.CLOSED, "stuck")
    assert set((await states(house, run_id)).values()) == {TaskState.CANCELLED}
    await check_record(house, run_id)


async def test_a_run_is_retried_and_rerun_through_restarts(house: House) -> None:
    run_id = await house.start()
    await work(house, 2)
    origin = house.origin
    failed = Failure("NO")
    await house.engine.operations.settle(origin, run_id, "stuck", failed, "hopeless", None)
    assert (await house.run(run_id)).state is RunState.FAILED
    for number, keys in enumerate(([], ["a"])):
        for _ in range(2):
            count = await house.engine.operations.reopen(
                origin, run_id, keys, paused=True, reason="", request=once(f"reopen {number}")
            )
            assert count == 2 + number
            await again(house)
        assert list(house.engine._floor.desks[TENANT].runs) == [run_id]
        await house.engine.operations.resume(origin, run_id, "", None)
        if keys:
            await work(house, 1)
        await house.engine.operations.settle(origin, run_id, "stuck", Success(), "", None)
        await work(house, 1)
        await ended(house, run_id)
        assert (await house.run(run_id)).state is RunState.SUCCEEDED
        await check_record(house, run_id)
    assert (await house.kinds(run_id)).count(EventKind.RUN_REOPENED) == 2


async def test_what_cannot_be_done_leaves_no_trace(house: House) -> None:
    run_id = await house.start()
    operations, origin = house.engine.operations, house.origin
    kinds = await house.kinds(run_id)
    with pytest.raises(errors.RunStands):
        await operations.settle(origin, run_id, "b", Success(), "", None)
    with pytest.raises(errors.NotFound):
        await operations.skip(origin, run_id, "no-such-task", "", None)
    with pytest.raises(errors.RunStands):
        await operations.reopen(origin, run_id, [], paused=False, reason="", request=None)
    assert await house.kinds(run_id) == kinds
