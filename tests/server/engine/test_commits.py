"""Nothing is told before its commit, and nothing that failed to commit is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.server.core.world import ACCEPT_US, LEASE_US, json_payload, task
from tests.server.engine.conftest import PATIENCE_SECONDS, TENANT, House, soon, start_of

from tenure_server.core import errors
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, RunState, Standing, Verdict
from tenure_server.engine import commits
from tenure_server.engine.engine import Engine


def open_runs(engine: Engine) -> set[str]:
    """The runs in memory."""
    return set(engine._floor.desks[TENANT].runs)


async def test_runs_that_start_together_share_commits(house: House) -> None:
    await house.register(task("a"))
    await house.start()
    before = house.engine.commit_count
    run_ids = await asyncio.gather(*(house.start() for _ in range(200)))
    assert len(set(run_ids)) == 200
    assert house.engine.commit_count - before <= 3
    for run_id in run_ids[:3]:
        assert await house.kinds(run_id) == [EventKind.RUN_STARTED]


async def test_what_comes_a_turn_later_goes_along(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes a few turns of the loop on its way; a commit does not begin in between."""
    monkeypatch.setattr(commits, "HEARING_SECONDS", PATIENCE_SECONDS)
    await house.register(task("a"))
    before = house.engine.commit_count

    async def later(turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await house.start()

    await asyncio.gather(*(later(2 * number) for number in range(20)))
    assert house.engine.commit_count - before == 1


async def test_who_never_falls_silent_holds_no_commit_up(house: House) -> None:
    await house.register(task("a"))
    started = asyncio.create_task(house.start())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not started.done():
            house.engine._floor.commits.ask()
            await asyncio.sleep(0)
    assert await house.kinds(await started) == [EventKind.RUN_STARTED]


async def test_an_act_that_changes_nothing_commits_nothing(house: House) -> None:
    await house.register(task("a"))
    await house.start(request_id="r")
    session = house.session()
    session.add_credits(1)
    [lease] = (await soon(session)).leases
    before = house.engine.commit_count
    await house.start(request_id="r")
    words = (lease.run.run_id, "a", lease.term, lease.token)
    session.accept(*words)
    session.settle(lease.run.run_id, "a", 99, lease.token, Success())
    assert (await soon(session)).outcomes[0][3] is Verdict.UNKNOWN
    assert house.engine.commit_count == before


async def test_nothing_is_told_before_its_commit(house: House) -> None:
    await house.register(task("a"), task("b", "a"))
    run_id = await house.start()
    session = house.session()
    watching = house.engine.watch(TENANT, run_id, 0, False)
    assert len(await anext(watching)) == 1

    async def next_events() -> Sequence[records.Event]:
        return await anext(watching)

    house.store.tricky.hold()
    session.add_credits(1)
    await house.store.tricky.entered()
    waiting = asyncio.create_task(session.outbound())
    seen = asyncio.create_task(next_events())
    started = asyncio.create_task(house.start())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert not seen.done()
    assert not started.done()
    assert await house.kinds(run_id) == [EventKind.RUN_STARTED]
    house.store.tricky.let_go()
    due = await waiting
    assert due is not None
    assert [lease.task.key for lease in due.leases] == ["a"]
    assert [event.kind for event in await seen] == [EventKind.TASK_LEASED]
    assert await started
    await watching.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_start_whose_commit_fails_can_be_repeated(house: House, moment: str) -> None:
    await house.register(task("a"))
    house.store.tricky.breaks.append(moment)
    with pytest.raises(errors.StoreUnavailable):
        await house.start(request_id="r")
    await house.serving()
    kept = open_runs(house.engine)
    assert len(kept) == (moment == "after")
    run_id = await house.start(request_id="r")
    assert await house.start(request_id="r") == run_id
    assert open_runs(house.engine) == {run_id}
    assert kept <= {run_id}
    with pytest.raises(errors.RequestIdReused):
        await house.engine.start_runs(house.origin, [start_of("flow", "r", b"other")])


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_failed_commit_ends_the_sessions_and_no_lease_is_lost_or_doubled(
    house: House, moment: str
) -> None:
    await house.register(task("a"), task("b"))
    run_id = await house.start()
    session = house.session()
    house.store.tricky.breaks.append(moment)
    session.add_credits(2)
    assert await asyncio.wait_for(session.outbound(), 60) is None
    assert isinstance(session.ended, errors.StoreUnavailable)
    await house.serving()
    desk = house.engine._floor.desks[TENANT]
    assert len(desk.leases) == (2 if moment == "after" else 0)
    again = house.session()
    again.add_credits(10)
    if moment == "after":
        # Nobody knows the tokens of these leases: their slots are taken until they expire.
        await house.pass_time(LEASE_US - 1)
        assert len(again.agent.leases) == 2
        await house.pass_time(1)
    due = await soon(again)
    while not due.leases:
        due = await soon(again)
    assert sorted(lease.task.key for lease in due.leases) == ["a", "b"]
    assert {lease.term for lease in due.leases} == {2 if moment == "after" else 1}
    for lease in due.leases:
        again.settle(run_id, lease.task.key, lease.term, lease.token, Success())
    assert [one[3] for one in (await soon(again)).outcomes] == [Verdict.APPLIED] * 2
    assert (await house.run(run_id)).state is RunState.SUCCEEDED


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_result_whose_commit_fails_is_repeated_and_counts_once(
    house: House, moment: str
) -> None:
    await house.register(task("a"), task("b", "a"))
    run_id = await house.start()
    session = house.session()
    session.add_credits(1)
    [lease] = (await soon(session)).leases
    words = (run_id, "a", lease.term, lease.token)
    session.accept(*words)
    house.store.tricky.breaks.append(moment)
    session.settle(*words, Success(json_payload(1)))
    assert await asyncio.wait_for(session.outbound(), 60) is None
    await house.serving()
    again = house.session(held=[words])
    standing = (await soon(again)).standings[0][3]
    assert standing is (Standing.LOST if moment == "after" else Standing.HELD)
    again.settle(*words, Success(json_payload(1)))
    verdict = (await soon(again)).outcomes[0][3]
    assert verdict is (Verdict.ALREADY_APPLIED if moment == "after" else Verdict.APPLIED)
    assert (await house.kinds(run_id)).count(EventKind.TASK_SUCCEEDED) == 1
    again.add_credits(1)
    [follower] = (await soon(again)).leases
    assert follower.upstream == {"a": json_payload(1)}


async def test_what_was_asked_while_a_commit_failed_does_not_hold_up_the_rest(
    house: House,
) -> None:
    await house.register(task("a"))
    tricky = house.store.tricky
    tricky.breaks.append("before")
    tricky.hold()
    first = asyncio.create_task(house.start())
    await tricky.entered()
    second = asyncio.create_task(house.start())
    for _ in range(5):
        await asyncio.sleep(0)
    tricky.let_go()
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(one, errors.StoreUnavailable) for one in results)
    await house.serving()
    assert await asyncio.wait_for(house.start(), 60) in open_runs(house.engine)


async def test_while_the_store_is_away_every_act_is_told_so(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    house.store.tricky.breaks.append("before")
    with pytest.raises(errors.StoreUnavailable):
        await house.start()
    assert not house.engine.serving
    with pytest.raises(errors.StoreUnavailable):
        house.session()
    # Refused before anything is waited for, so that the reload cannot be over meanwhile.
    with pytest.raises(errors.StoreUnavailable):
        await house.engine.operations.cancel(house.origin, run_id, "", None)
    assert house.engine.counts(TENANT, run_id) is None
    await house.serving()
    assert house.engine.counts(TENANT, run_id) is not None


async def test_a_cancel_whose_commit_fails_after_the_fact_says_the_same_again(
    house: House,
) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    request = start_of(request_id="c").request
    house.store.tricky.breaks.append("after")
    with pytest.raises(errors.StoreUnavailable):
        await house.engine.operations.cancel(house.origin, run_id, "enough", request)
    await house.serving()
    for _ in range(2):
        state = await house.engine.operations.cancel(house.origin, run_id, "enough", request)
        assert state is RunState.CANCELLED
    assert (await house.kinds(run_id)).count(EventKind.RUN_CANCELLED) == 1


async def test_a_power_cut_loses_nothing_and_frees_no_slot_early(
    house: House, tmp_path: Path
) -> None:
    await house.register(task("a"), task("b", "a"), task("c"), max_leases=2)
    run_id = await house.start(request_id="r")
    session = house.session(slots=2)
    session.add_credits(2)
    a, c = sorted((await soon(session)).leases, key=lambda lease: lease.task.key)
    session.accept(run_id, "c", c.term, c.token)
    session.settle(run_id, "a", a.term, a.token, Success(json_payload(1)))
    assert (await soon(session)).outcomes[0][3] is Verdict.APPLIED

    after = house.copy_to(tmp_path / "second")
    await after.open()
    try:
        assert await after.start(request_id="r") == run_id
        again = after.session(slots=2, held=[(run_id, "c", c.term, c.token)])
        assert (await soon(again)).standings[0][3] is Standing.HELD
        again.add_credits(2)
        [b] = (await soon(again)).leases
        assert (b.task.key, b.upstream) == ("b", {"a": json_payload(1)})
        again.settle(run_id, "a", a.term, a.token, Success(json_payload(1)))
        assert (await soon(again)).outcomes[0][3] is Verdict.ALREADY_APPLIED
        again.accept(run_id, "b", b.term, b.token)
        await after.pass_time(LEASE_US - 1)
        assert len(again.agent.leases) == 2
        again.settle(run_id, "b", b.term, b.token, Success())
        again.settle(run_id, "c", c.term, c.token, Success())
        assert [one[3] for one in (await soon(again)).outcomes] == [Verdict.APPLIED] * 2
        assert (await after.run(run_id)).state is RunState.SUCCEEDED
        events = await after.events(run_id)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    finally:
        await after.close()


async def test_slots_of_an_agent_that_never_came_back_are_free_when_its_leases_expire(
    house: House, tmp_path: Path
) -> None:
    await house.register(task("a"), task("b"), max_leases=1)
    run_id = await house.start()
    session = house.session("gone")
    session.add_credits(1)
    await soon(session)
    after = house.copy_to(tmp_path / "second")
    await after.open()
    try:
        other = after.session("other")
        other.add_credits(5)
        await after.pass_time(LEASE_US - 1)
        assert not other.agent.leases
        await after.pass_time(1)
        [lease] = (await soon(other)).leases
        assert (lease.task.key, lease.term) == ("a", 2)
        assert EventKind.TASK_LEASE_LOST in await after.kinds(run_id)
        await after.pass_time(ACCEPT_US)
    finally:
        await after.close()


async def test_what_memory_counts_is_told_after_its_commit(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    agent = house.session()
    agent.add_credits(1)
    [lease] = (await soon(agent)).leases
    house.store.tricky.hold()
    agent.settle(run_id, "a", lease.term, lease.token, Success())
    await house.store.tricky.entered()
    committed = asyncio.ensure_future(house.engine.committed())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not committed.done()
    assert house.engine.counts(TENANT, run_id) is None, "in memory the run has ended"
    house.store.tricky.let_go()
    await asyncio.wait_for(committed, 60)
    assert run_id not in open_runs(house.engine)
