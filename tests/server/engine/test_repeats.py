"""Asking again is always safe, and what was granted arrives or comes back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.core.world import task
from tests.server.engine.conftest import TENANT, House, soon, start_of

from tenure_server.core import errors
from tenure_server.core.ledger.lifecycle import Standing
from tenure_server.engine.engine import Engine
from tenure_server.engine.settings import Settings, SystemClock


async def test_a_start_is_repeated_while_the_first_one_is_under_way(house: House) -> None:
    await house.register(task("a"))
    house.store.tricky.hold()
    first = asyncio.create_task(house.start(request_id="r"))
    await house.store.tricky.entered()
    others = [asyncio.create_task(house.start(request_id="r")) for _ in range(5)]
    house.store.tricky.let_go()
    assert len({await first, *[await one for one in others]}) == 1


async def test_a_start_is_repeated_after_its_caller_gave_up_before_the_commit(
    house: House,
) -> None:
    await house.register(task("a"))
    await house.start()
    house.store.tricky.hold()
    first = asyncio.create_task(house.start(request_id="r"))
    await house.store.tricky.entered()
    first.cancel()
    await asyncio.wait([first])
    again = asyncio.create_task(house.start(request_id="r"))
    for _ in range(20):
        await asyncio.sleep(0)
    house.store.tricky.let_go()
    run_id = await asyncio.wait_for(again, 60)
    assert await house.start(request_id="r") == run_id
    assert len(house.engine._floor.desks[TENANT].runs) == 2


async def test_a_start_can_be_repeated_when_the_tenant_may_start_no_more(house: House) -> None:
    await house.register(task("a"))
    house.engine.settings = replace(house.engine.settings, open_runs_max=1)
    run_id = await house.start(request_id="r")
    with pytest.raises(errors.QuotaExceeded):
        await house.start(request_id="other")
    assert await house.start(request_id="r") == run_id


async def test_a_batch_starts_all_or_none(house: House) -> None:
    await house.register(task("a"))
    starts = [start_of(request_id="1"), start_of(request_id="2"), start_of("no-such")]
    with pytest.raises(errors.NotFound):
        await house.engine.start_runs(house.origin, starts)
    assert not house.engine._floor.desks[TENANT].runs
    started = await house.engine.start_runs(house.origin, [*starts[:2], starts[0]])
    assert started[0] == started[2] != started[1]
    clash = start_of(request_id="3", content=b"x")
    with pytest.raises(errors.RequestIdReused):
        await house.engine.start_runs(house.origin, [start_of(request_id="3"), clash])
    assert len(house.engine._floor.desks[TENANT].runs) == 2


async def test_a_lease_that_nobody_accepts_comes_back_though_nothing_else_happens(
    house: House, tmp_path: Path
) -> None:
    # With real time: here the alarm clock itself is tried.
    await house.register(task("a"))
    await house.start()
    other = house.copy_to(tmp_path / "second")
    other.settings = Settings(lease_us=600_000, accept_us=300_000)
    await other.open()
    try:
        other.engine._floor._clock = SystemClock()
        await other.engine._floor.flushed()
        deaf = other.session("deaf")
        deaf.add_credits(1)
        first = await soon(deaf)
        assert len(first.leases) == 1
        # On a slow host both come at once.
        standings = first.standings or (await soon(deaf)).standings
        assert [one[3] for one in standings] == [Standing.LOST]
    finally:
        await other.close()


async def test_an_unary_call_gives_all_that_was_granted_to_it(house: House) -> None:
    await house.register(task("a"))
    engine: Engine = house.engine
    waiting = asyncio.create_task(
        engine.work.lease_tasks(
            house.keys["one"],
            [TENANT],
            agent="curl",
            kinds=frozenset({"work"}),
            max_leases=10,
            wait_us=60_000_000,
        )
    )
    for _ in range(5):
        await asyncio.sleep(0)
    house.store.tricky.hold()
    first = asyncio.create_task(house.start())
    await house.store.tricky.entered()
    second = asyncio.create_task(house.start())
    for _ in range(20):
        await asyncio.sleep(0)
    house.store.tricky.let_go()
    leases = await asyncio.wait_for(waiting, 40)
    await first
    await second
    granted = engine._floor.desks[TENANT].leases
    assert {lease.key for lease in leases} == set(granted)
