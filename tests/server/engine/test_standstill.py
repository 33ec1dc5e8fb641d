"""Time that stands still: it is quiet when nothing more happens and all that happened is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.server.core.world import SECOND, task
from tests.server.engine.conftest import PATIENCE_SECONDS, TENANT, House, soon
from tests.server.engine.scheduling import OWNER
from tests.server.engine.test_sessions import words_of

from tenure_server.core import errors
from tenure_server.core.definitions.features import SubWorkflow, Timer
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import EventKind, RunState
from tenure_server.core.scheduling.fire_times import FireTimes
from tenure_server.core.scheduling.schedules import Schedule, Standing
from tenure_server.engine.standstill import StandingClock, Standstill

HOUR_US = 3_600_000_000


@pytest.fixture
def clock() -> StandingClock:
    """The time of the house."""
    return StandingClock()


@pytest.fixture
async def house(tmp_path: Path, clock: StandingClock) -> AsyncIterator[House]:
    """A house whose time stands still."""
    house = House(tmp_path, clock=cast("Any", clock))
    await house.open()
    await house.furnish()
    yield house
    await house.close()


@pytest.fixture
def time(house: House, clock: StandingClock) -> Standstill:
    """What lets it pass."""
    return house.engine.standstill(clock)


async def test_what_happens_during_a_commit_is_waited_for_too(
    house: House, time: Standstill
) -> None:
    await house.register(task("a"))
    house.store.tricky.hold()
    first = asyncio.create_task(house.start())
    settling = asyncio.create_task(time.settle(TENANT))
    await house.store.tricky.entered()
    second = asyncio.create_task(house.start())
    await asyncio.sleep(0)
    # The commit of the first ends; that of the second begins, and does not.
    house.store.tricky.let_go()
    house.store.tricky.hold()
    await first
    await house.store.tricky.entered()
    assert not settling.done()
    house.store.tricky.let_go()
    await settling
    assert await house.kinds(await second) == [EventKind.RUN_STARTED]


async def test_it_jumps_to_what_is_due_next_and_no_further_than_it_may(
    house: House, time: Standstill, clock: StandingClock
) -> None:
    await house.register(task("sleep", kind="", wait=Timer(delay_us=HOUR_US)))
    run_id = await house.start()
    began_us = clock.now_us()
    quiet = await time.settle(TENANT)
    assert (quiet.now_us, quiet.due_us) == (began_us, began_us + HOUR_US)
    quiet = await time.jump(TENANT, began_us + HOUR_US // 2)
    assert (quiet.now_us, quiet.due_us) == (began_us + HOUR_US // 2, began_us + HOUR_US)
    quiet = await time.jump(TENANT, began_us + 100 * HOUR_US)
    assert (quiet.now_us, quiet.due_us) == (began_us + HOUR_US, None)
    assert (await house.run(run_id)).state is RunState.SUCCEEDED


async def test_an_agent_that_could_work_or_works_lets_no_time_pass(
    house: House, time: Standstill
) -> None:
    await house.register(task("a"))
    session = house.session()
    session.add_credits(10)
    await house.start()
    settling = asyncio.create_task(time.settle(TENANT))
    [lease] = (await soon(session)).leases
    assert not settling.done()
    session.settle(*words_of(lease), Success())
    await settling


def test_the_clock_shows_whole_seconds_and_never_goes_back() -> None:
    clock = StandingClock()
    began_us = clock.now_us()
    assert began_us % SECOND == 0
    clock.set(began_us + 5)
    clock.set(began_us + 3)
    assert clock.now_us() == began_us + 5


async def test_without_anything_due_it_jumps_as_far_as_it_is_told(
    house: House, time: Standstill, clock: StandingClock
) -> None:
    began_us = clock.now_us()
    quiet = await time.jump(TENANT, began_us + 7 * HOUR_US)
    assert (quiet.now_us, quiet.due_us) == (began_us + 7 * HOUR_US, None)
    quiet = await time.jump(TENANT, began_us)
    assert quiet.now_us == began_us + 7 * HOUR_US


async def test_what_no_agent_takes_holds_no_time_up(
    house: House, time: Standstill, clock: StandingClock
) -> None:
    await house.register(task("a", kind="nobody-has-it"))
    await house.start()
    house.session()
    quiet = await asyncio.wait_for(time.settle(TENANT), PATIENCE_SECONDS)
    assert quiet.due_us is None


async def test_a_run_that_is_wanted_begins_before_time_passes(
    house: House, time: Standstill, clock: StandingClock
) -> None:
    began_us = clock.now_us()
    await house.register(task("t", kind="", wait=Timer(delay_us=HOUR_US)), name="child")
    call = task("call", kind="", wait=SubWorkflow(name="child"))
    await house.register(task("t", kind="", wait=Timer(delay_us=HOUR_US)), call, name="parent")
    run_id = await house.start("parent")
    quiet = await time.settle(TENANT)
    assert (quiet.now_us, quiet.due_us) == (began_us, began_us + HOUR_US)
    await time.jump(TENANT, began_us + HOUR_US)
    run = await house.run(run_id)
    assert (run.state, run.end_us) == (RunState.SUCCEEDED, began_us + HOUR_US), "both in one hour"


async def test_a_schedule_is_due_as_well(
    house: House, time: Standstill, clock: StandingClock
) -> None:
    began_us = clock.now_us()
    await house.register(task("a"))
    once = Schedule(
        name="once",
        workflow="flow",
        times=FireTimes(times_us=(began_us + HOUR_US,)),
        author=OWNER,
        create_us=began_us,
        created_by=OWNER.api_key_id,
        update_us=began_us,
    )
    standing = Standing(cursor_us=began_us)
    await house.engine.schedules.create(house.origin, once, standing, None, lambda _: b"")
    assert (await time.settle(TENANT)).due_us == began_us + HOUR_US
    assert (await time.jump(TENANT, began_us + 2 * HOUR_US)).now_us == began_us + HOUR_US
    assert len(house.engine._floor.desks[TENANT].runs) == 1


async def test_nobody_lets_time_pass_for_a_tenant_that_is_not_there(
    house: House, time: Standstill, clock: StandingClock
) -> None:
    began_us = clock.now_us()
    with pytest.raises(errors.SeatElsewhere):
        await time.jump("beta", began_us + HOUR_US)
    assert clock.now_us() == began_us
