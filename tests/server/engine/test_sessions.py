"""Agents get what they have room for, hear what concerns them, and can come back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests import logbook
from tests.server.core.world import ACCEPT_US, LEASE_US, json_payload, task
from tests.server.engine.conftest import KINDS, TENANT, House, soon

from tenure_server.core import errors
from tenure_server.core.evidence import Act
from tenure_server.core.leasing.leases import STOPPED, Lease, Success
from tenure_server.core.ledger.lifecycle import Failure, RunState, Standing, Verdict
from tenure_server.core.ledger.records import AgentPresence
from tenure_server.engine.sessions import AgentSession, Hello, Renewal, Report

Words = tuple[str, str, int, bytes]


def words_of(lease: Lease) -> Words:
    """The words that name a lease."""
    return lease.run.run_id, lease.task.key, lease.term, lease.token


def presences(house: House) -> list[AgentPresence]:
    """Who of the tenant's agents is on the line."""
    return [agent.presence for agent in house.engine.work.agents(TENANT)]


async def leased(session: AgentSession, count: int) -> list[Lease]:
    """Waits for so many leases."""
    leases: list[Lease] = []
    while len(leases) < count:
        leases += (await soon(session)).leases
    return leases


async def many(house: House, count: int = 20) -> str:
    """Starts a run of independent tasks."""
    await house.register(*[task(f"t{number:02}") for number in range(count)])
    return await house.start()


async def test_no_lease_comes_without_a_credit(house: House) -> None:
    await many(house)
    session = house.session(slots=5)
    await house.engine._floor.flushed()
    assert not session.agent.leases
    session.add_credits(2)
    first = await leased(session, 2)
    await house.engine._floor.flushed()
    assert len(session.agent.leases) == 2
    for lease in first:
        session.settle(*words_of(lease), Success())
    await house.engine._floor.flushed()
    assert not session.agent.leases


async def test_credits_never_make_more_leases_live_than_slots(house: House) -> None:
    await many(house)
    session = house.session(slots=3)
    for _ in range(5):
        session.add_credits(100)
    leases = await leased(session, 3)
    await house.engine._floor.flushed()
    assert len(session.agent.leases) == 3
    session.add_credits(2)
    session.settle(*words_of(leases[0]), Success())
    assert len(await leased(session, 1)) == 1
    assert len(session.agent.leases) == 3


async def test_work_is_spread_over_the_agents(house: House) -> None:
    one, two = house.session("one"), house.session("two")
    for session in (one, two):
        session.add_credits(10)
    await many(house, 10)
    await leased(one, 5)
    await leased(two, 5)


async def test_a_chain_hop_is_one_commit(house: House) -> None:
    await house.register(*[task(f"t{n}", *[f"t{n - 1}"] * (n > 0)) for n in range(4)])
    await house.start()
    session = house.session()
    session.add_credits(4)
    [lease] = await leased(session, 1)
    for _ in range(3):
        before = house.engine.commit_count
        session.settle(*words_of(lease), Success())
        due = await soon(session)
        assert [one[3] for one in due.outcomes] == [Verdict.APPLIED]
        [lease] = due.leases
        assert house.engine.commit_count == before + 1


async def test_a_newer_process_replaces_the_older_one(house: House) -> None:
    await many(house)
    old = house.session(instance="instance-1", slots=2)
    old.add_credits(2)
    held = [words_of(lease) for lease in await leased(old, 2)]
    new = house.session(instance="instance-2", slots=2)
    assert await old.outbound() is None
    assert isinstance(old.ended, errors.AgentReplaced)
    # The slots belong to the name: what the old one held, the new one has no room for.
    new.add_credits(2)
    await house.engine._floor.flushed()
    assert len(new.agent.leases) == 2
    new.settle(*held[0], Success())
    assert (await soon(new)).outcomes[0][3] is Verdict.APPLIED


async def test_the_same_process_comes_back_without_a_word(house: House) -> None:
    old = house.session()
    new = house.session()
    assert await old.outbound() is None
    assert old.ended is None
    assert new.agent_id == old.agent_id
    old.close()
    assert presences(house) == [AgentPresence.CONNECTED]
    new.close()
    assert presences(house) == [AgentPresence.DISCONNECTED]


async def test_leases_are_resumed_on_a_new_stream(house: House) -> None:
    await many(house)
    old = house.session(slots=3)
    old.add_credits(3)
    leases = await leased(old, 3)
    kept, lost, forged = (words_of(lease) for lease in leases)
    for words in (kept, lost, forged):
        old.accept(*words)
    old.close()
    await house.pass_time(LEASE_US // 2)
    new = house.session(slots=3, held=[kept, (*forged[:3], b"guessed")])
    assert [one[3] for one in (await soon(new)).standings] == [Standing.HELD, Standing.LOST]
    await house.pass_time(LEASE_US // 2)
    assert [lease.task.key for lease in new.agent.leases.values()] == [kept[1]]
    told = {one[1]: one[3] for one in (await soon(new)).standings}
    assert told == {lost[1]: Standing.LOST, forged[1]: Standing.LOST}
    new.settle(*kept, Success())
    assert (await soon(new)).outcomes[0][3] is Verdict.APPLIED


async def test_another_key_can_do_nothing_with_a_lease(house: House) -> None:
    await many(house)
    session = house.session()
    session.add_credits(1)
    [lease] = await leased(session, 1)
    thief = house.session(key="two")
    thief.renew(Renewal(words_of(lease)))
    assert (await soon(thief)).standings[0][3] is Standing.LOST
    thief.settle(*words_of(lease), Success())
    assert (await soon(thief)).outcomes[0][3] is Verdict.UNKNOWN
    thief.give_back(*words_of(lease))
    assert lease.key in session.agent.leases


async def test_a_revoked_key_ends_its_streams_only(house: House) -> None:
    await many(house, 5)
    one, two = house.session(key="one"), house.session(key="two")
    one.add_credits(1)
    await leased(one, 1)
    revoked = replace(house.keys["one"], revoke_us=house.clock.now_us())
    await house.act(lambda acts: acts.revoke_api_key(revoked.api_key_id, house.clock.now_us()))
    await house.engine.after_revoke(revoked)
    assert await one.outbound() is None
    assert isinstance(one.ended, errors.CredentialInvalid)
    assert not house.engine.still_valid(revoked.api_key_id)
    assert not two.over
    found = await house.engine.principal(revoked.secret_hash)
    assert found is not None
    assert not found.valid_at(house.clock.now_us())
    # Its lease was not accepted: the task goes to somebody who may.
    two.add_credits(10)
    for lease in await leased(two, 4):
        two.accept(*words_of(lease))
    await house.pass_time(ACCEPT_US)
    [back] = await leased(two, 1)
    assert back.term == 2


async def test_a_cancel_is_heard_at_once(house: House) -> None:
    run_id = await many(house, 2)
    session = house.session()
    session.add_credits(2)
    first, second = await leased(session, 2)
    assert (
        await house.engine.operations.cancel(house.origin, run_id, "enough", None)
        is RunState.CANCELLING
    )
    due = await soon(session)
    assert sorted(due.cancellations) == [(*words_of(one)[:3], "enough") for one in (first, second)]
    session.settle(*words_of(first), STOPPED)
    session.settle(*words_of(second), Failure("BOOM"))
    assert [one[3] for one in (await soon(session)).outcomes] == [Verdict.APPLIED] * 2
    assert (await house.run(run_id)).state is RunState.CANCELLED


async def test_results_for_ended_runs_are_judged_by_the_store(house: House) -> None:
    run_id = await many(house, 1)
    session = house.session()
    session.add_credits(1)
    [lease] = await leased(session, 1)
    run, key, term, token = words_of(lease)
    session.settle(run, key, term, token, Success(json_payload(1)))
    # At once, while the commit that ends the run is still to come.
    session.settle(run, key, term, token, Success(json_payload(1)))
    session.settle(run, key, term, token, Success(json_payload(2)))
    session.settle(run, key, term, b"guessed", Success(json_payload(1)))
    session.settle(run, "no-such", term, token, Success(json_payload(1)))
    session.settle("no-such", key, term, token, Success(json_payload(1)))
    verdicts: list[Verdict] = []
    while len(verdicts) < 6:
        verdicts += [one[3] for one in (await soon(session)).outcomes]
    assert sorted(verdicts) == sorted(
        [Verdict.APPLIED, Verdict.ALREADY_APPLIED, Verdict.RUN_CLOSED, *[Verdict.UNKNOWN] * 3]
    )
    assert (await house.run(run_id)).state is RunState.SUCCEEDED


async def test_an_agent_that_drains_gets_nothing_more(house: House) -> None:
    session = house.session()
    session.add_credits(5)
    session.drain()
    session.add_credits(5)
    await many(house)
    await house.engine._floor.flushed()
    assert not session.agent.leases
    assert presences(house) == [AgentPresence.DRAINING]


async def test_a_coordinator_that_stops_tells_its_agents(house: House) -> None:
    session = house.session()
    await house.engine.stop()
    due = await soon(session)
    assert due.draining
    assert await session.outbound() is None
    assert isinstance(session.ended, errors.Stopping)
    with pytest.raises(errors.Stopping):
        house.session()


# -- without a stream


async def take(house: House, count: int = 10, *, wait_us: int = 0) -> list[Lease]:
    """Asks for leases in a unary call."""
    return await house.engine.work.lease_tasks(
        house.keys["one"], [TENANT], agent="curl", kinds=KINDS, max_leases=count, wait_us=wait_us
    )


async def test_leases_without_a_stream_count_as_accepted(house: House) -> None:
    await many(house, 3)
    leases = await take(house, 2)
    assert len(leases) == 2
    await house.pass_time(ACCEPT_US)
    key = house.keys["one"]
    results = [Report(words_of(one), Success()) for one in leases]
    outcomes = await house.engine.work.settle_tasks(key, [TENANT], [*results, results[0]])
    assert [one[3] for one in outcomes] == [
        Verdict.APPLIED, Verdict.APPLIED, Verdict.ALREADY_APPLIED,
    ]  # fmt: skip
    assert len(await take(house)) == 1
    assert await take(house) == []


async def test_a_call_that_waits_gets_the_first_work_there_is(house: House) -> None:
    waiting = asyncio.create_task(take(house, wait_us=60_000_000))
    for _ in range(5):
        await asyncio.sleep(0)
    await many(house, 2)
    leases = await asyncio.wait_for(waiting, 40)
    assert [lease.task.key for lease in leases] == ["t00", "t01"]


async def test_a_call_whose_wait_is_over_gets_nothing_and_leaves_nothing(house: House) -> None:
    assert await take(house, wait_us=1000) == []
    await many(house, 1)
    assert len(house.engine._floor.desks[TENANT].leases) == 0
    assert len(await take(house)) == 1


async def test_what_a_call_got_that_was_given_up_comes_back(house: House) -> None:
    waiting = asyncio.create_task(take(house, wait_us=60_000_000))
    for _ in range(5):
        await asyncio.sleep(0)
    house.store.tricky.hold()
    started = asyncio.create_task(many(house, 1))
    await house.store.tricky.entered()
    waiting.cancel()
    house.store.tricky.let_go()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await started
    desk = house.engine._floor.desks[TENANT]
    if desk.leases:
        assert await take(house) == []
        await house.pass_time(ACCEPT_US)
    assert len(await take(house)) == 1


async def test_a_waiting_call_hears_that_the_store_is_away(house: House) -> None:
    waiting = asyncio.create_task(take(house, wait_us=60_000_000))
    for _ in range(5):
        await asyncio.sleep(0)
    await house.register(task("a"))
    house.store.tricky.breaks.append("before")
    with pytest.raises(errors.StoreUnavailable):
        await house.start()
    with pytest.raises(errors.StoreUnavailable):
        await waiting
    await house.serving()


async def test_leases_are_renewed_without_a_stream(house: House) -> None:
    await many(house, 1)
    [lease] = await take(house)
    key = house.keys["one"]
    forged = (*words_of(lease)[:3], b"guessed")
    for _ in range(3):
        await house.pass_time(LEASE_US - 1)
        standings = await house.engine.work.renew_leases(
            key, [TENANT], [Renewal(words_of(lease)), Renewal(forged)]
        )
        assert [one[3] for one in standings] == [Standing.HELD, Standing.LOST]
    await house.pass_time(LEASE_US)
    [standing] = await house.engine.work.renew_leases(key, [TENANT], [Renewal(words_of(lease))])
    assert standing[3] is Standing.LOST


async def test_what_a_stream_says_next_does_not_change_what_is_written_of_its_hello(
    house: House,
) -> None:
    """The doorway notes each message of a stream on one and the same act."""
    await many(house, 1)
    act = Act(kind="lease.work", principal="key-7", request="sha256:hello")
    hello = Hello(agent="host", instance="instance-1", kinds=KINDS, slots=1)
    session = house.engine.work.open_session(house.keys["one"], [TENANT], hello, act)
    act.request = "sha256:credits"
    session.add_credits(1)
    await leased(session, 1)
    said = [
        (entry["kind"], entry["request"]) for entry in logbook.read(house.store).of(TENANT)[-2:]
    ]
    assert said == [("lease.work", "sha256:hello"), ("lease.grant", "sha256:credits")]
    assert act.taken


async def test_a_frame_about_a_tenant_that_is_not_held_here_any_more_is_heard_not_at_all(
    house: House,
) -> None:
    """What it says of other tenants neither: half an act could not be written down."""
    await house.add_tenant("other")
    run_id = await many(house, 1)
    hello = Hello(agent="host", instance="instance-1", kinds=KINDS, slots=1)
    session = house.engine.work.open_session(house.keys["one"], [TENANT, "other"], hello)
    session.add_credits(1)
    [lease] = await leased(session, 1)
    house.engine._floor.lose_seat("other")
    with (
        pytest.raises(errors.SeatElsewhere),
        session.acting("lease.settle", [TENANT, "other"]),
    ):
        session.settle(*words_of(lease), Success())
    await house.engine.committed()
    assert house.engine.serving
    assert (await house.run(run_id)).state is RunState.RUNNING
    logbook.read(house.store).check()
