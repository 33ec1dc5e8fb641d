"""The machine's clock jumps by hours between two lives of a coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests import logbook
from tests.server.core.world import LEASE_US, task
from tests.server.engine.conftest import House, TestClock, soon
from tests.server.engine.scheduling import MINUTE, SECOND, Scheduled, minutely
from tests.server.engine.test_lists import ended, settle, taken

from tenure_server.core.definitions.features import RetryPolicy, Timer
from tenure_server.core.leasing.leases import Lease, Success
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, Verdict
from tenure_server.core.scheduling.schedules import Overlap
from tenure_server.engine.sessions import AgentSession
from tenure_server.engine.settings import Settings

HOUR = 60 * MINUTE
#: How far the clock is set, in one direction and in the other.
JUMPS = (3 * HOUR, -3 * HOUR)


async def opened(folder: Path, clock: TestClock) -> Scheduled:
    """A house in which schedules fire, and a workflow of a task to hold, a retry and a timer."""
    made = Scheduled(House(folder, Settings(lease_us=LEASE_US), clock=clock))
    await made.furnish()
    await made.house.register(
        task("held"),
        task("retried", retry=RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)),
        task("timer", kind="", wait=Timer(delay_us=5 * MINUTE)),
        name="mixed",
    )
    return made


@pytest.fixture
async def scheduled(tmp_path: Path) -> AsyncIterator[Scheduled]:
    """The house, with a clock that the test sets."""
    made = await opened(tmp_path, TestClock())
    yield made
    await made.house.close()


async def begin(scheduled: Scheduled) -> tuple[AgentSession, str, Lease]:
    """A run of which one task is leased, one waits for its retry, and one for its time."""
    run_id = await scheduled.house.start("mixed")
    session = scheduled.house.session()
    held, retried = await taken(session, 2)
    settle(session, retried, Failure("Unlucky"))
    await scheduled.settled()
    return session, run_id, held


async def finish(scheduled: Scheduled, run_id: str, held: Lease) -> None:
    """The lease still holds, the retry and the timer come as soon as they may, and all is told."""
    house, session = scheduled.house, scheduled.house.session()
    await house.pass_time(LEASE_US - 1)
    settle(session, held, Success())
    assert (await soon(session)).outcomes[0][3] is Verdict.APPLIED
    # No retry waits longer than this, and no timer longer than it was made for.
    await house.pass_time(RetryPolicy().max_delay_us)
    (again,) = await taken(session, 1)
    assert (again.task_key, again.attempt) == ("retried", 2)
    settle(session, again, Success())
    await house.pass_time(5 * MINUTE)
    await ended(house, run_id)
    assert (await house.run(run_id)).state is RunState.SUCCEEDED
    assert EventKind.TASK_LEASE_LOST not in await house.kinds(run_id)
    logbook.read(house.store).check()


@pytest.mark.parametrize("jump_us", JUMPS)
async def test_a_start_under_a_clock_that_was_set_harms_no_work(
    scheduled: Scheduled, jump_us: int
) -> None:
    """What is stored of times may be hours away, behind or ahead."""
    _, run_id, held = await begin(scheduled)
    scheduled.house.clock.at_us += jump_us
    await scheduled.reopen()
    await finish(scheduled, run_id, held)


@pytest.mark.parametrize("jump_us", JUMPS)
async def test_no_time_of_a_schedule_comes_twice_however_the_clock_is_set(
    scheduled: Scheduled, jump_us: int
) -> None:
    """Set back, it waits for what comes behind the last one; set forward, it counts the missed."""
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL, catchup_us=MINUTE))
    await scheduled.at(1)
    await scheduled.at(2)
    scheduled.house.clock.at_us += jump_us
    await scheduled.reopen()
    await scheduled.at(2.9 + max(0, jump_us) / MINUTE)
    came = await scheduled.story()
    assert came[:2] == [(1, "started"), (2, "started")]
    if jump_us < 0:
        assert len(came) == 2
        await scheduled.at(3)
        assert (await scheduled.story())[2:] == [(3, "started")]
    else:
        assert came[2:] == [(3, "missed"), (181, "started"), (182, "started")]
    await scheduled.check()
