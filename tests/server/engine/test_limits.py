"""Limits in the whole engine: who is told what, and when."""

from __future__ import annotations

import asyncio

from tests.server.core.world import SECOND, task
from tests.server.engine.conftest import KINDS, TENANT, House, soon

from tenure_server.core.definitions.features import (
    Concurrency,
    Placement,
    Rate,
    Strategy,
    Timer,
    TriggerRule,
)
from tenure_server.core.ledger.lifecycle import EventKind, RunState
from tenure_server.engine.sessions import Hello


async def test_an_agent_without_a_free_slot_is_told_to_stop_for_a_newer_task(house: House) -> None:
    strategy = Strategy.CANCEL_RUNNING
    await house.register(task("a", concurrency=Concurrency(limit=1, strategy=strategy)))
    session = house.session(slots=1)
    session.add_credits(1)
    old = await house.start()
    [lease] = (await soon(session)).leases
    await house.start()
    due = await soon(session)
    assert [one[:2] for one in due.cancellations] == [(old, "a")]
    await house.close()
    await house.open()
    [again] = house.engine._floor.desks[TENANT].leases.values()
    assert again.cancelling, "kept over a restart"
    assert again.key == lease.key


async def test_a_task_is_leased_when_its_rate_allows(house: House) -> None:
    await house.register(task("a", rate=Rate(count=1, per_us=5 * SECOND)))
    session = house.session()
    session.add_credits(5)
    first, second = await house.start(), await house.start()
    [lease] = (await soon(session)).leases
    assert lease.run.run_id == first
    house.engine._floor.desks[TENANT].accept(lease)
    assert house.engine._floor._alarm.at_us == lease.grant_us + 5 * SECOND
    await house.pass_time(5 * SECOND)
    due = await soon(session)
    assert second in {lease.run.run_id for lease in due.leases}


async def test_the_preferred_agent_is_served_first_and_the_other_gets_the_rest(
    house: House,
) -> None:
    preferred = Placement(preferred={"zone": "a"})
    await house.register(*[task(f"t{n}", placement=preferred) for n in range(3)])
    far = house.session("far", labels={})
    near = house.session("near", slots=2, labels={"zone": "a"})
    far.add_credits(10)
    near.add_credits(2)
    await house.start()
    assert len((await soon(near)).leases) == 2
    assert len((await soon(far)).leases) == 1


async def test_held_runs_come_in_one_by_one_and_each_act_leaves_its_evidence(house: House) -> None:
    await house.register(
        task("a"), concurrency=Concurrency(limit=1, strategy=Strategy.CANCEL_NEWEST)
    )
    session = house.session()
    session.add_credits(5)
    runs = await asyncio.gather(house.start(), house.start())
    [lease] = (await soon(session)).leases
    [other] = [run_id for run_id in runs if run_id != lease.run.run_id]
    assert await house.kinds(other) == [
        EventKind.RUN_STARTED,
        EventKind.TASK_CANCELLED,
        EventKind.RUN_CANCELLED,
    ]


async def test_the_newest_is_cancelled_whoever_asks_for_it(house: House) -> None:
    """Also where nobody does who has credits left: those are with another coordinator."""
    newest = Concurrency(limit=1, strategy=Strategy.CANCEL_NEWEST)
    await house.register(task("a", concurrency=newest))
    old, new = await house.start(), await house.start()
    divided = house.engine.work.open_session(
        house.keys["one"],
        [TENANT],
        Hello(agent="host", instance="instance-1", kinds=KINDS, slots=2, several=True),
        elsewhere=["beta"],
    )
    divided.add_credits(1)
    [lease] = (await soon(divided)).leases
    assert lease.run.run_id == old
    await house.engine._floor.flushed()
    assert (await house.run(new)).state is RunState.FAILED
    assert EventKind.TASK_CANCELLED in await house.kinds(new)


async def test_what_follows_a_grant_that_failed_is_not_left_lying(house: House) -> None:
    """Nothing else happens than that an agent asks for work: yet the timer is set."""
    await house.register(
        task("a", bindings={"x": "run.input.not_there"}),
        task("b", "a", kind="", wait=Timer(delay_us=5 * SECOND), trigger=TriggerRule.ANY_FAILED),
    )
    run_id = await house.start()
    session = house.session()
    session.add_credits(1)
    await house.engine._floor.flushed()
    await house.engine._floor.flushed()
    assert EventKind.TASK_ACTIVATED in await house.kinds(run_id)
    assert house.engine._floor._alarm.at_us is not None
    await house.pass_time(5 * SECOND)
    assert (await house.run(run_id)).state is RunState.FAILED
