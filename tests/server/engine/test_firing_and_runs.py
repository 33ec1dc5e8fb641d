"""A schedule and its runs: whatever happens to these, its fires come out as declared.

Retries, cancels, pauses, restarts and lost agents, with every overlap policy; on both databases.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.core.world import SECOND, task
from tests.server.engine.conftest import TENANT, House, soon
from tests.server.engine.scheduling import MINUTE, NAME, ZERO_US, Scheduled, minutely
from tests.server.engine.test_offspring import change_rest

from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.ledger.lifecycle import EventKind, RunState
from tenure_server.core.scheduling.schedules import Overlap
from tenure_server.engine.settings import Settings

TWICE = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
STARTED, WAITS, SKIPPED = "started", "waits", "skipped"

#: What becomes of a fire at minute 2 while the run of minute 1 is open, by the policy. The whole
#: table is the core's to test.
MEETS = {Overlap.SKIP: [(2, SKIPPED)], Overlap.BUFFER_ONE: [(2, WAITS)]}
overlaps = pytest.mark.parametrize("overlap", list(MEETS), ids=lambda overlap: overlap.name.lower())


@pytest.fixture
async def scheduled(either_url: str, tmp_path: Path) -> AsyncIterator[Scheduled]:
    """A house on each database, with a workflow whose task has two attempts."""
    # The clock jumps by minutes, and nobody shall think that the seat was lost meanwhile.
    settings = Settings(lease_us=10 * MINUTE, seat_us=86_400_000_000)
    made = Scheduled(House(tmp_path, settings, url=either_url))
    await made.furnish()
    await made.house.register(task("a", retry=TWICE))
    yield made
    await made.house.close()


async def meets(scheduled: Scheduled, overlap: Overlap) -> None:
    """The fire of minute 2 finds the run of minute 1 open, before and after a restart."""
    await scheduled.at(2)
    await scheduled.reopen()
    assert await scheduled.story() == [(1, STARTED), *MEETS[overlap]]
    await scheduled.check()
    # Whatever becomes of a run, it counts once: when it is started.
    standing = (await scheduled.seen()).standing
    assert standing.remaining == 9 - len(await scheduled.runs())
    assert standing.pause is None, "none has failed"


@overlaps
async def test_a_run_whose_attempt_is_tried_again_is_open(
    scheduled: Scheduled, overlap: Overlap
) -> None:
    await scheduled.create(minutely(overlap=overlap, pause_on_failure=True), remaining=9)
    agent = scheduled.agent()
    await scheduled.at(1)
    await scheduled.end(agent, await scheduled.take(agent), "BROKEN")
    await meets(scheduled, overlap)


@overlaps
async def test_a_run_that_is_paused_is_open(scheduled: Scheduled, overlap: Overlap) -> None:
    await scheduled.create(minutely(overlap=overlap, pause_on_failure=True), remaining=9)
    await scheduled.at(1)
    [run] = await scheduled.runs()
    house = scheduled.house
    await house.engine.operations.pause(house.origin, run.run_id, "a walk", None)
    await meets(scheduled, overlap)


@overlaps
async def test_a_run_whose_agent_is_lost_is_open(scheduled: Scheduled, overlap: Overlap) -> None:
    await scheduled.create(minutely(overlap=overlap, pause_on_failure=True), remaining=9)
    agent = scheduled.agent()
    await scheduled.at(1)
    await scheduled.take(agent)
    agent.close()
    await meets(scheduled, overlap)
    scheduled.house.clock.at_us = ZERO_US + 11 * MINUTE + MINUTE // 2
    [run, *_] = await scheduled.runs()
    await scheduled.house.pass_time(MINUTE)
    assert EventKind.TASK_LEASE_LOST in await scheduled.house.kinds(run.run_id)
    assert (await scheduled.seen()).running[0] == run.run_id


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_run_that_is_cancelled_or_closed_is_no_failure(
    scheduled: Scheduled, how: str
) -> None:
    await scheduled.create(minutely(overlap=Overlap.BUFFER_ONE, pause_on_failure=True), remaining=9)
    await scheduled.at(1)
    await scheduled.at(2)
    [run] = await scheduled.runs()
    house = scheduled.house
    change = house.engine.operations.cancel if how == "cancel" else house.engine.operations.close
    await change(house.origin, run.run_id, "enough", None)
    await scheduled.settled()
    seen = await scheduled.seen()
    assert (seen.standing.pause, seen.standing.tally.failed_runs) == (None, 0)
    assert seen.standing.remaining == 9 - 2
    assert await scheduled.story() == [(1, STARTED), (2, WAITS), (2, STARTED)]


@pytest.mark.parametrize("what", ["workflow", "tenant"])
async def test_while_they_rest_fires_start_runs_that_wait(scheduled: Scheduled, what: str) -> None:
    house = scheduled.house
    await house.register(task("a"), name="parent")
    await scheduled.create(minutely(workflow="parent", overlap=Overlap.ALLOW_ALL))
    await change_rest(house, "", what, pause=True)
    agent = scheduled.agent()
    await scheduled.at(1)
    await scheduled.reopen()
    await scheduled.at(2)
    assert await scheduled.story() == [(1, STARTED), (2, STARTED)]
    runs = await scheduled.runs()
    assert [await house.kinds(run.run_id) for run in runs] == [[EventKind.RUN_STARTED]] * 2
    agent = scheduled.agent()
    await change_rest(house, "", what, pause=False)
    leases = (await soon(agent)).leases
    assert sorted(lease.run.run_id for lease in leases) == sorted(run.run_id for run in runs)
    assert all(run.state is RunState.RUNNING for run in runs)
    assert house.engine._floor.desks[TENANT].leases
    assert (await scheduled.seen(NAME)).standing.pause is None
