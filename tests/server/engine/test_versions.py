"""A run stays on the definition it was started under, whatever is registered and happens later."""

from __future__ import annotations

import pytest
from tests.server.core.world import LEASE_US, SECOND, task
from tests.server.engine.conftest import House
from tests.server.engine.test_lists import again, check_record, ended, states, taken

from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.definitions.features import Placement
from tenure_server.core.leasing.leases import Lease, Success
from tenure_server.core.ledger.lifecycle import Failure, RunState
from tenure_server.engine.sessions import AgentSession

TWICE = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)


@pytest.fixture
def house(either: House) -> House:
    """A house on either database."""
    return either


async def first_version(house: House) -> str:
    """Starts a run of a workflow of which a newer version, another graph, is registered then."""
    await house.register(task("a", retry=TWICE), task("b", "a"))
    run_id = await house.start()
    await house.register(task("x"), task("y", "x"), task("z", "y"))
    return run_id


def settle(session: AgentSession, lease: Lease, end: Success | Failure) -> None:
    """Reports the end of an attempt."""
    session.settle(lease.run.run_id, lease.task_key, lease.term, lease.token, end)


async def check(house: House, run_id: str) -> None:
    """It has ended well, with the tasks of its own version."""
    await ended(house, run_id)
    run = await house.run(run_id)
    assert (run.state, run.workflow_version) == (RunState.SUCCEEDED, 1)
    assert list(await states(house, run_id)) == ["a", "b"]
    await check_record(house, run_id)
    newer = await house.run(await house.start())
    assert newer.workflow_version == 2


async def test_it_does_through_retries_losses_restarts_and_pauses(house: House) -> None:
    run_id = await first_version(house)
    session = house.session()
    [lease] = await taken(session, 1)
    settle(session, lease, Failure("BUSY"))
    await again(house)
    operations = house.engine.operations
    await operations.pause(house.origin, run_id, "a walk", None)
    await house.pass_time(SECOND)
    await again(house)
    await house.engine.operations.resume(house.origin, run_id, "", None)
    session = house.session()
    [lost] = await taken(session, 1)
    await house.pass_time(LEASE_US)
    for key in "ab":
        [lease] = await taken(session, 1)
        assert lease.task_key == key
        settle(session, lease, Success())
    assert lost.attempt == 2
    await check(house, run_id)


async def test_it_does_when_it_is_cancelled_and_executed_again(house: House) -> None:
    run_id = await first_version(house)
    operations, origin = house.engine.operations, house.origin
    await operations.cancel(origin, run_id, "enough", None)
    await again(house)
    operations = house.engine.operations
    await operations.reopen(origin, run_id, [], paused=False, reason="", request=None)
    session = house.session()
    for key in "ab":
        [lease] = await taken(session, 1)
        assert lease.task_key == key
        settle(session, lease, Success())
    await check(house, run_id)


async def test_agents_of_a_version_are_chosen_by_label(house: House) -> None:
    """What a worker is of, its labels say; what a task needs, its placement."""
    for version in "12":
        only = Placement(required={"version": version})
        await house.register(task("a", placement=only))
        await house.start()
    old = house.session("old", instance="instance-1", labels={"version": "1"})
    new = house.session("new", instance="instance-2", labels={"version": "2"})
    for session, number in ((new, 2), (old, 1)):
        [lease] = await taken(session, 1)
        assert (await house.run(lease.run.run_id)).workflow_version == number
        settle(session, lease, Success())
        await ended(house, lease.run.run_id)
