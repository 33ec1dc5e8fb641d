"""The machine's clock jumps by hours under a coordinator at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.engine.conftest import PATIENCE_SECONDS, TestClock, soon
from tests.server.engine.scheduling import MINUTE, Scheduled, minutely
from tests.server.engine.test_clock_jumps import HOUR, begin, finish, opened
from tests.server.engine.test_lists import settle

from tenure_server.core import errors
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import EventKind, Verdict
from tenure_server.core.scheduling.schedules import Overlap
from tenure_server.engine.timekeeping import APART_US, Timekeeper


class SetClock(TestClock):
    """The clock of an engine, on a machine whose clock somebody sets."""

    def __init__(self) -> None:
        super().__init__()
        self.apart_us = 0

    def behind_us(self) -> int:
        """How far the machine's is ahead."""
        return self.apart_us

    def catch_up(self) -> None:
        """Goes forward to it."""
        self.at_us += max(0, self.apart_us)
        self.apart_us = min(0, self.apart_us)


@pytest.fixture
async def scheduled(tmp_path: Path) -> AsyncIterator[Scheduled]:
    """A house with a run of everything that waits."""
    made = await opened(tmp_path, SetClock())
    yield made
    await made.house.close()


async def test_a_clock_that_is_set_forward_is_followed_and_ends_no_lease(
    scheduled: Scheduled,
) -> None:
    """Everybody has to come again, as after a failed commit; what fell due meanwhile is done."""
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL, catchup_us=MINUTE))
    session, run_id, held = await begin(scheduled)
    before_us = scheduled.house.clock.at_us
    _set(scheduled, 3 * HOUR)
    assert scheduled.house.clock.at_us == before_us + 3 * HOUR
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await session.outbound() is not None:
            pass
    assert isinstance(session.ended, errors.StoreUnavailable)
    assert "the clock was set" in str(session.ended)
    await scheduled.house.serving()
    await scheduled.settled()
    fired = [minute for minute, outcome in await scheduled.story() if outcome == "started"]
    assert fired == [179, 180]
    assert EventKind.TASK_LEASE_LOST not in await scheduled.house.kinds(run_id)
    await finish(scheduled, run_id, held)


@pytest.mark.parametrize("apart_us", [-3 * HOUR, APART_US, -APART_US])
async def test_a_clock_that_is_set_back_or_hardly_at_all_changes_nothing_at_work(
    scheduled: Scheduled, apart_us: int
) -> None:
    """Time goes on evenly, and nobody on the line takes notice."""
    session, run_id, held = await begin(scheduled)
    before_us = scheduled.house.clock.at_us
    _set(scheduled, apart_us)
    assert scheduled.house.clock.at_us == before_us
    settle(session, held, Success())
    assert Verdict.APPLIED in [one[3] for one in (await soon(session)).outcomes]
    assert len(scheduled.house.engine._floor.desks) == 1
    assert await scheduled.house.run(run_id)


def _set(scheduled: Scheduled, apart_us: int) -> None:
    """Sets the machine's clock, and lets the coordinator look at it."""
    engine, clock = scheduled.house.engine, scheduled.house.clock
    assert isinstance(clock, SetClock)
    clock.apart_us = apart_us
    Timekeeper(clock, engine._floor, engine._firing).look()
