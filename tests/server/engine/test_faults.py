"""A fault in the middle of a turn, or a store that is gone, hangs nobody."""

from __future__ import annotations

import asyncio

import pytest
from tests.server.core.world import task
from tests.server.engine.conftest import TENANT, House

from tenure_server.core import errors
from tenure_server.core.ledger.journal import Journal
from tenure_server.engine import chronicle, keeping
from tenure_server.store.errors import StoreFailed


async def stopped(house: House) -> None:
    """Stops the engine, which must end."""
    async with asyncio.timeout(60):
        await house.engine.stop()


def broken(*_: object) -> None:
    """What a fault of ours would raise."""
    raise ZeroDivisionError("says the test")


async def test_stopping_ends_while_the_store_is_being_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seats cannot be had back, recovery tries again and again, and stopping ends it."""
    await house.register(task("a"))

    def gone(*_: object) -> None:
        raise StoreFailed("the database is gone, says the test")

    seats = house.engine._floor.seating._seats
    for method in ("take", "release"):
        monkeypatch.setattr(seats, method, gone)
    house.store.tricky.breaks.append("before")
    with pytest.raises(errors.StoreUnavailable):
        await house.start()
    await stopped(house)
    assert not house.engine._floor._tasks
    assert not house.engine._floor.commits._thread.is_alive()


async def test_stopping_leaves_a_commit_behind_that_does_not_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "STOP_SECONDS", 0.05)
    await house.register(task("a"))
    house.store.tricky.hold()
    starting = asyncio.create_task(house.start())
    await house.store.tricky.entered()
    session = house.session()
    await stopped(house)
    assert isinstance(session.ended, errors.Stopping)
    house.store.tricky.let_go()
    assert await starting
    # What was left behind to do ends too, before the store is closed.
    await asyncio.to_thread(house.engine._floor.commits._thread.join)


async def test_a_fault_in_an_effect_ends_in_a_reload_and_commits_go_on(house: House) -> None:
    await house.register(task("a"))
    house.engine._floor._effects.append(broken)
    with pytest.raises(errors.StoreUnavailable):
        await house.start(request_id="r")
    await house.serving()
    run_id = await house.start(request_id="r")
    assert set(house.engine._floor.desks[TENANT].runs) == {run_id}


@pytest.mark.parametrize(("owner", "name"), [(Journal, "seal"), (chronicle, "lines")])
async def test_a_fault_in_sealing_leaves_nobody_waiting(
    house: House, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    await house.register(task("a"))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        with pytest.raises(errors.StoreUnavailable):
            await asyncio.wait_for(house.start(request_id="r"), 60)
    await house.serving()
    assert await house.start(request_id="r")


async def test_a_fault_when_time_passes_ends_in_a_reload(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.register(task("a"))
    desk = house.engine._floor.desks[TENANT]
    monkeypatch.setattr(type(desk.dues), "pass_time", broken)
    house.engine._floor.pass_time()
    await house.serving()
    assert house.engine._floor.desks[TENANT] is not desk


async def test_an_agent_whose_session_a_failure_ended_keeps_no_slots_of_before(
    house: House,
) -> None:
    await house.register(task("a"))
    await house.start()
    session = house.session()
    session.add_credits(1)
    await house.engine.committed()
    before = session.agent
    house.engine._floor.fail(StoreFailed("says the test"))
    assert session.agent is not before
    assert session.agent is house.engine._floor.dispatch.slots_of(before.holder, before.name)
