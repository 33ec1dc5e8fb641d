"""Schedules fire once, whatever is thrown away in between; on both databases."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.core.world import json_payload, task
from tests.server.engine.conftest import TENANT, House
from tests.server.engine.scheduling import (
    MINUTE,
    NAME,
    OWNER,
    ZERO_US,
    Scheduled,
    minutely,
)
from tests.server.engine.test_constitutions import article

from tenure_constitution.article import Constitution
from tenure_constitution.laws import Effect, Point
from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.core.scheduling.fire_times import FireTimes
from tenure_server.core.scheduling.schedules import Cause, Outcome, Overlap, Standing
from tenure_server.engine.firing import SULK_US
from tenure_server.engine.seating import Seating
from tenure_server.engine.settings import Settings
from tenure_server.store.reads import Reads
from tenure_server.store.schedule_writes import LINES_KEPT

LEASE_MINUTES = 10
STARTED, WAITS, SKIPPED, MISSED, REFUSED = (
    outcome.name.lower() for outcome in sorted(Outcome, key=int)
)


@pytest.fixture
async def scheduled(either_url: str, tmp_path: Path) -> AsyncIterator[Scheduled]:
    """A house on each database."""
    # The clock jumps by minutes, and nobody shall think that the seat was lost meanwhile.
    settings = Settings(lease_us=LEASE_MINUTES * MINUTE, seat_us=86_400_000_000)
    made = Scheduled(House(tmp_path, settings, url=either_url))
    await made.furnish()
    yield made
    await made.house.close()


async def test_a_time_that_comes_starts_a_run_that_says_where_it_comes_from(
    scheduled: Scheduled,
) -> None:
    content = json_payload({"day": 1})
    await scheduled.create(minutely(labels={"team": "red"}, priority=7, input=content))
    await scheduled.at(0.9)
    assert await scheduled.runs() == []
    await scheduled.at(1.2)
    [run] = await scheduled.runs()
    assert run.labels == {
        "team": "red",
        "tenure.schedule": NAME,
        "tenure.scheduled_at": "2023-11-14T22:14:00Z",
        "tenure.schedule_cause": "time",
    }
    assert (run.priority, run.started_by) == (7, OWNER.api_key_id)
    assert (await scheduled.house.run(run.run_id)).input == content
    [entry] = scheduled.entries()
    assert entry["principal"] == OWNER.api_key_id
    assert entry["correlation"] == run.correlation_id
    assert entry["subject"] == {
        "schedule": NAME,
        "workflow": "flow",
        "scheduled_at": "2023-11-14T22:14:00Z",
        "cause": "time",
        "outcome": "started",
        "run": run.run_id,
    }
    assert entry["items"]["count"] == 1
    await scheduled.check()


async def test_the_newest_version_at_the_time_is_started(scheduled: Scheduled) -> None:
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL))
    await scheduled.at(1)
    await scheduled.house.register(task("a"), task("b", "a"))
    await scheduled.at(2)
    assert [run.workflow_version for run in await scheduled.runs()] == [1, 2]


async def test_a_fire_whose_commit_failed_is_done_once(scheduled: Scheduled) -> None:
    """Whether nothing was written, or everything and nobody knew."""
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL))
    for minute, trick in ((1, "before"), (2, "after")):
        breaks = scheduled.house.store.tricky.breaks
        breaks.append(trick)
        # Whoever waits hears of it, if the commit has not failed before.
        with contextlib.suppress(errors.StoreUnavailable):
            await scheduled.at(minute)
        assert not breaks
        await scheduled.house.serving()
        await scheduled.settled()
    assert await scheduled.story() == [(1, STARTED), (2, STARTED)]
    await scheduled.check()


@pytest.mark.parametrize(
    ("either_url", "overlap"),
    # Overlaps differ in what is read back, not in how: one of them is read back by the other store.
    [*(("sqlite", overlap) for overlap in Overlap), ("postgresql", Overlap.BUFFER_ALL)],
    indirect=["either_url"],
)
async def test_closing_and_reopening_at_each_step_changes_nothing(
    scheduled: Scheduled, overlap: Overlap
) -> None:
    """What waits, is backfilled, paused or remains is read back with the seat."""
    engine = scheduled.house.engine
    await scheduled.create(minutely(overlap=overlap), remaining=6)
    expected = await _scenario(scheduled, reopening=True)
    assert engine is not scheduled.house.engine
    await scheduled.check()
    # The same without.
    await scheduled.house.engine.schedules.delete(scheduled.house.origin, NAME, "", None, b"")
    scheduled.house.clock.at_us = (scheduled.house.clock.at_us // MINUTE + 1) * MINUTE
    again = (scheduled.house.clock.at_us - ZERO_US) // MINUTE
    await scheduled.create(minutely(overlap=overlap), remaining=6)
    assert await _scenario(scheduled, reopening=False, start=again) == expected


async def _scenario(scheduled: Scheduled, *, reopening: bool, start: int = 0) -> list[object]:
    """Runs that end late, a trigger, a backfill and a pause; what came of it."""

    async def step() -> None:
        if reopening:
            await scheduled.reopen()

    def origin() -> records.Origin:
        return scheduled.house.origin

    for minute in (1, 2, 3):
        await scheduled.at(start + minute)
        await step()
    await _end_all(scheduled)
    await step()
    schedules = scheduled.house.engine.schedules
    await schedules.trigger(origin(), NAME, None, "", None, lambda _: b"")
    await step()
    schedules = scheduled.house.engine.schedules
    first_us = ZERO_US + (start + 1) * MINUTE
    await schedules.backfill(
        origin(), NAME, first_us, first_us + 2 * MINUTE, Overlap.BUFFER_ALL, "", None, _nothing
    )
    await scheduled.settled()
    await step()
    for _ in range(6):
        await _end_all(scheduled)
        await step()
    schedules = scheduled.house.engine.schedules
    await schedules.pause(origin(), NAME, "lunch", None, lambda _: b"")
    await step()
    await scheduled.at(start + 5)
    schedules = scheduled.house.engine.schedules
    await schedules.resume(origin(), NAME, "", None, lambda _: b"")
    await step()
    for minute in (6, 7, 8, 9):
        await scheduled.at(start + minute)
        await step()
        await _end_all(scheduled)
        await step()
    seen = await scheduled.seen()
    assert seen.standing.waiting == ()
    assert seen.standing.backfills == ()
    return [
        *((minute - start, outcome) for minute, outcome in await scheduled.story()),
        seen.standing.remaining,
        seen.standing.tally,
    ]


def _nothing(*_: object) -> bytes:
    return b""


async def _end_all(scheduled: Scheduled) -> None:
    """Lets every open run of the schedule end."""
    for run_id in (await scheduled.seen()).running:
        await scheduled.house.engine.operations.cancel(scheduled.house.origin, run_id, "", None)
    await scheduled.settled()


async def test_times_missed_while_nobody_was_there(scheduled: Scheduled) -> None:
    """Those inside the window are done when somebody is, the others counted; none twice."""
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL, catchup_us=3 * MINUTE))
    await scheduled.at(1)
    await scheduled.house.close()
    scheduled.house.clock.at_us = ZERO_US + 9 * MINUTE + 1
    await scheduled.house.open()
    await scheduled.settled()
    assert await scheduled.story() == [
        (1, STARTED),
        (2, MISSED),
        (7, STARTED),
        (8, STARTED),
        (9, STARTED),
    ]
    missed = (await scheduled.lines())[1]
    assert missed.times == 5
    assert missed.message == "5 fire times outside of the catch-up window"
    assert (await scheduled.seen()).standing.tally.missed == 5
    await scheduled.reopen()
    assert len(await scheduled.runs()) == 4
    await scheduled.check()


async def test_a_fire_that_waits_starts_when_the_run_has_ended(scheduled: Scheduled) -> None:
    await scheduled.create(minutely(overlap=Overlap.BUFFER_ONE))
    agent = scheduled.agent()
    await scheduled.at(1)
    first = await scheduled.take(agent)
    await scheduled.at(2)
    await scheduled.at(3)
    assert await scheduled.story() == [(1, STARTED), (2, WAITS), (3, SKIPPED)]
    await scheduled.end(agent, first)
    assert (await scheduled.story())[3:] == [(2, STARTED)]
    second = await scheduled.take(agent)
    assert second.run.labels["tenure.scheduled_at"] == "2023-11-14T22:15:00Z"


async def test_cancelling_waits_until_the_agents_have_let_go(scheduled: Scheduled) -> None:
    await scheduled.create(minutely(overlap=Overlap.CANCEL_RUNNING))
    agent = scheduled.agent()
    await scheduled.at(1)
    lease = await scheduled.take(agent)
    await scheduled.at(2)
    [run] = await scheduled.runs()
    assert run.state is RunState.CANCELLING
    assert run.reason == f"schedule {NAME} fires again"
    await scheduled.at(3)
    assert await scheduled.story() == [(1, STARTED), (2, WAITS), (2, SKIPPED), (3, WAITS)]
    await scheduled.end(agent, lease)
    assert (await scheduled.story())[4:] == [(3, STARTED)]
    assert [run.state for run in await scheduled.runs()] == [
        RunState.CANCELLED,
        RunState.RUNNING,
    ]


async def test_a_run_that_is_lost_with_its_agent_holds_no_fire_up_for_ever(
    scheduled: Scheduled,
) -> None:
    await scheduled.create(minutely(overlap=Overlap.CANCEL_RUNNING))
    agent = scheduled.agent()
    await scheduled.at(1)
    await scheduled.take(agent)
    agent.close()
    await scheduled.at(2)
    assert (await scheduled.story())[-1] == (2, WAITS)
    await scheduled.at(1.5 + LEASE_MINUTES)
    assert (2, STARTED) in await scheduled.story()


async def test_a_failure_pauses_in_the_transaction_of_the_failure(scheduled: Scheduled) -> None:
    await scheduled.create(minutely(pause_on_failure=True))
    agent = scheduled.agent()
    await scheduled.at(1)
    lease = await scheduled.take(agent)
    commits = scheduled.house.engine.commit_count
    await scheduled.end(agent, lease, "BROKEN")
    assert scheduled.house.engine.commit_count == commits + 1
    seen = await scheduled.seen()
    assert seen.standing.pause is not None
    assert seen.standing.pause.reason == f"run {lease.run.run_id} failed"
    assert seen.standing.tally.failed_runs == 1
    [entry] = scheduled.entries("schedule.pause")
    assert entry["principal"] == "coordinator"
    await scheduled.reopen()
    await scheduled.at(5)
    assert len(await scheduled.runs()) == 1


async def test_a_failure_that_does_not_pause_is_counted(scheduled: Scheduled) -> None:
    await scheduled.create(minutely())
    agent = scheduled.agent()
    await scheduled.at(1)
    await scheduled.end(agent, await scheduled.take(agent), "BROKEN")
    await scheduled.at(2)
    await scheduled.reopen()
    assert (await scheduled.seen()).standing.tally.failed_runs == 1
    assert await scheduled.story() == [(1, STARTED), (2, STARTED)]


async def test_a_start_that_the_constitution_denies_is_seen_on_the_schedule(
    scheduled: Scheduled,
) -> None:
    """Judged as any other start: by labels, principal and how busy the tenant is."""
    house = scheduled.house
    rule = article(Point.START, "!('tenure.schedule' in run.labels) || tenant.open_runs < 1")
    house.platform = Constitution(articles=(rule,))
    await scheduled.reopen()
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL))
    await scheduled.at(1)
    await scheduled.at(2)
    await scheduled.reopen()
    assert await scheduled.story() == [(1, STARTED), (2, REFUSED)]
    line = (await scheduled.lines())[1]
    assert line.code == "ACT_DENIED"
    assert "denies: not so" in line.message
    entry = scheduled.entries()[1]
    assert (entry["verdict"], entry["refusal"]) == ("deny", "ACT_DENIED")
    assert entry["articles"][0]["id"] == "at-start"
    assert "items" not in entry
    with pytest.raises(errors.ActDenied):
        await house.engine.schedules.trigger(house.origin, NAME, None, "", None, lambda _: b"")
    assert len(await scheduled.runs()) == 1


async def test_a_warning_goes_with_the_fire(scheduled: Scheduled) -> None:
    rule = article(Point.START, "principal.roles.exists(r, r == 'operator')", effect=Effect.WARN)
    scheduled.house.platform = Constitution(articles=(rule,))
    await scheduled.reopen()
    await scheduled.create(minutely())
    await scheduled.at(1)
    [entry] = scheduled.entries()
    assert (entry["verdict"], entry["roles"]) == ("warn", ["submitter"])
    assert await scheduled.story() == [(1, STARTED)]


@pytest.mark.parametrize("pauses", [False, True])
async def test_a_start_over_a_quota_is_seen_on_the_schedule(
    scheduled: Scheduled, pauses: bool
) -> None:
    scheduled.house.settings = replace(scheduled.house.settings, open_runs_max=1)
    await scheduled.reopen()
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL, pause_on_failure=pauses))
    for minute in (1, 2, 3):
        await scheduled.at(minute)
    again = [] if pauses else [(3, REFUSED)]
    assert await scheduled.story() == [(1, STARTED), (2, REFUSED), *again]
    assert (await scheduled.lines())[1].code == "QUOTA_EXCEEDED"
    pause = (await scheduled.seen()).standing.pause
    assert (pause is not None) is pauses
    if pause is not None:
        assert pause.reason == "the run of 2023-11-14T22:15:00Z was refused: QUOTA_EXCEEDED"
        assert scheduled.entries()[1]["subject"]["paused"] == "true"


async def test_changing_times_makes_up_for_nothing(scheduled: Scheduled) -> None:
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL))
    await scheduled.at(1)
    single = FireTimes(times_us=(ZERO_US - MINUTE, ZERO_US + 3 * MINUTE))
    schedules, origin = scheduled.house.engine.schedules, scheduled.house.origin
    scheduled.house.clock.at_us += MINUTE // 2
    await schedules.update(
        origin,
        NAME,
        lambda before: replace(before, times=single),
        lambda standing: standing,
        "",
        None,
        lambda _: b"",
    )
    for minute in (2, 3, 4):
        await scheduled.at(minute)
    assert await scheduled.story() == [(1, STARTED), (3, STARTED)]
    with pytest.raises(errors.FieldsInvalid, match="no time in the future"):
        await scheduled.create(minutely(name="late", times=single))


async def test_a_deleted_schedule_fires_no_more_and_its_runs_go_on(scheduled: Scheduled) -> None:
    await scheduled.create(minutely())
    await scheduled.at(1)
    await scheduled.house.engine.schedules.delete(scheduled.house.origin, NAME, "", None, b"")
    await scheduled.at(2)
    await scheduled.reopen()
    [run] = await scheduled.runs()
    assert run.state is RunState.RUNNING
    with pytest.raises(errors.NotFound):
        await scheduled.seen()
    # One that is made under the same name finds the run still open.
    await scheduled.create(minutely())
    await scheduled.at(3)
    assert await scheduled.story() == [(3, SKIPPED)]


async def test_history_is_bounded(scheduled: Scheduled) -> None:
    await scheduled.create(minutely(), number=LINES_KEPT)
    for minute in (1, 2, 3):
        await scheduled.at(minute)
    assert [line.number - LINES_KEPT for line in await scheduled.lines()] == [1, 2, 3]
    entry = scheduled.house.engine._firing.timetable(TENANT).entries[NAME]
    entry.standing = replace(entry.standing, number=2 * LINES_KEPT + 2)
    await scheduled.at(4)
    assert [line.number - 2 * LINES_KEPT for line in await scheduled.lines()] == [3]


async def test_a_tenant_that_is_erased_leaves_no_schedule(scheduled: Scheduled) -> None:
    await scheduled.create(minutely())
    await scheduled.at(1)
    await _end_all(scheduled)
    await scheduled.house.engine.schedules.pause(
        scheduled.house.origin, NAME, "", None, lambda _: b""
    )
    async with scheduled.house.engine.closed_for_good(TENANT) as seats:
        await scheduled.house.engine.mutate(
            seats=seats,
            remember_under="",
            request=None,
            work=lambda acts: bool(acts.erase_tenant(TENANT)).to_bytes(),
        )
    for table in ("schedules", "schedule_standings", "schedule_fires"):
        rows = scheduled.house.store.backend.writing.execute_sql(f"SELECT * FROM {table}")
        assert rows.fetchall() == []
    with scheduled.house.store.reading():
        assert Reads(scheduled.house.store).tenant(TENANT) is None


async def test_nobody_else_gives_labels_of_the_coordinator(scheduled: Scheduled) -> None:
    start = records.StartRun(workflow="flow", labels={"tenure.schedule": NAME})
    with pytest.raises(errors.FieldsInvalid, match="labels"):
        await scheduled.house.engine.start_runs(scheduled.house.origin, [start])


async def test_a_repeated_trigger_is_one_fire(scheduled: Scheduled) -> None:
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL))
    request = records.Request(request_id="r", method="Trigger", digest=b"")
    schedules, origin = scheduled.house.engine.schedules, scheduled.house.origin

    async def trigger() -> bytes:
        return await schedules.trigger(
            origin, NAME, None, "look", request, lambda line: (line.run_id or "").encode()
        )

    first = await trigger()
    assert await trigger() == first
    await scheduled.reopen()
    schedules = scheduled.house.engine.schedules
    assert await trigger() == first
    [run] = await scheduled.runs()
    assert run.run_id == first.decode()
    [line] = await scheduled.lines()
    assert (line.cause, line.outcome) == (Cause.TRIGGER, Outcome.STARTED)
    [entry] = scheduled.entries("schedule.trigger")
    assert entry["subject"]["reason"] == "look"


async def test_a_paused_schedule_can_be_triggered(scheduled: Scheduled) -> None:
    await scheduled.create(minutely())
    schedules, origin = scheduled.house.engine.schedules, scheduled.house.origin
    await schedules.pause(origin, NAME, "first", None, lambda _: b"")
    await schedules.pause(origin, NAME, "second", None, lambda _: b"")
    await scheduled.at(3)
    await schedules.trigger(origin, NAME, None, "", None, lambda _: b"")
    pause = (await scheduled.seen()).standing.pause
    assert pause is not None
    assert (pause.reason, pause.by) == ("first", "key-0")
    assert await scheduled.story() == [(3, STARTED)]


async def test_a_backfill_of_many_times_at_once_shares_commits(scheduled: Scheduled) -> None:
    await scheduled.create(minutely())
    await scheduled.at(300)
    commits = scheduled.house.engine.commit_count
    runs = len(await scheduled.runs())
    schedules, origin = scheduled.house.engine.schedules, scheduled.house.origin
    await schedules.backfill(
        origin,
        NAME,
        ZERO_US,
        ZERO_US + 200 * MINUTE,
        Overlap.ALLOW_ALL,
        "",
        None,
        lambda _, count: str(count).encode(),
    )
    await scheduled.settled()
    assert len(await scheduled.runs()) == runs + 200
    assert (await scheduled.seen()).standing.backfills == ()
    assert scheduled.house.engine.commit_count - commits < 200
    with pytest.raises(errors.FieldsInvalid, match="future"):
        await schedules.backfill(
            origin, NAME, 0, ZERO_US + 301 * MINUTE, Overlap.SKIP, "", None, _nothing
        )
    with pytest.raises(errors.FieldsInvalid, match="more than 10000"):
        await schedules.backfill(origin, NAME, 0, ZERO_US, Overlap.SKIP, "", None, _nothing)


async def test_schedules_and_their_inputs_are_bounded(scheduled: Scheduled) -> None:
    scheduled.house.settings = replace(
        scheduled.house.settings, schedules_max=2, schedule_bytes_max=100
    )
    await scheduled.reopen()
    await scheduled.create(minutely(input=json_payload("x" * 60)))
    with pytest.raises(errors.QuotaExceeded, match="100 bytes"):
        await scheduled.create(minutely(name="b", input=json_payload("x" * 60)))
    await scheduled.create(minutely(name="b"))
    with pytest.raises(errors.QuotaExceeded, match="2 schedules"):
        await scheduled.create(minutely(name="c"))
    with pytest.raises(errors.AlreadyExists):
        await scheduled.create(minutely(name="b"))
    with pytest.raises(errors.NotFound):
        await scheduled.house.engine.schedules.create(
            scheduled.house.origin,
            minutely(name="c", workflow="unknown"),
            Standing(cursor_us=0),
            None,
            lambda _: b"",
        )


async def test_another_tenants_schedules_are_not_there(scheduled: Scheduled) -> None:
    await scheduled.create(minutely())
    await scheduled.house.add_tenant("other")
    with pytest.raises(errors.NotFound):
        await scheduled.house.engine.schedule_views.get("other", NAME)
    assert await scheduled.house.engine.schedule_views.page("other", "", "", 10) == []
    await scheduled.reopen()
    assert await scheduled.house.engine.schedule_views.page("other", "", "", 10) == []


async def test_upcoming_fires_end_with_the_runs_that_remain(scheduled: Scheduled) -> None:
    await scheduled.create(minutely(), remaining=3)
    upcoming = scheduled.house.engine.schedule_views.upcoming
    found = await upcoming(TENANT, NAME, None, 2)
    assert [(one - ZERO_US) // MINUTE for one, _ in found] == [1, 2]
    found = await upcoming(TENANT, NAME, found[-1][0], 9)
    assert [(one - ZERO_US) // MINUTE for one, _ in found] == [3]


async def test_a_run_that_is_opened_again_is_open_for_its_schedule(scheduled: Scheduled) -> None:
    await scheduled.create(minutely())
    agent = scheduled.agent()
    await scheduled.at(1)
    lease = await scheduled.take(agent)
    await scheduled.end(agent, lease, "BROKEN")
    assert (await scheduled.seen()).running == ()
    await scheduled.house.engine.operations.reopen(
        scheduled.house.origin, lease.run.run_id, [], paused=False, reason="", request=None
    )
    await scheduled.settled()
    assert (await scheduled.seen()).running == (lease.run.run_id,)
    await scheduled.at(2)
    await scheduled.reopen()
    await scheduled.at(3)
    assert await scheduled.story() == [(1, STARTED), (2, SKIPPED), (3, SKIPPED)]


async def test_a_fault_of_ours_stops_nobody_for_long(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is thrown away, and the tenant's schedules are left alone for some seconds."""
    await scheduled.create(minutely(overlap=Overlap.ALLOW_ALL))
    firing = scheduled.house.engine._firing

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(firing, "_do", broken)
        with contextlib.suppress(errors.StoreUnavailable):
            await scheduled.at(1)
        await scheduled.house.serving()
    await scheduled.settled()
    assert await scheduled.story() == []
    await scheduled.at(1 + SULK_US / MINUTE)
    assert await scheduled.story() == [(1, STARTED)]


async def test_nothing_is_written_while_the_seat_may_be_anothers(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a half of it either, which would fail the commit of what others decide."""
    await scheduled.create(minutely(overlap=Overlap.SKIP))
    await scheduled.at(1)
    with monkeypatch.context() as patch:
        patch.setattr(Seating, "trusted", False)
        await scheduled.at(2)
    assert await scheduled.story() == [(1, STARTED)]
    await scheduled.at(2 + SULK_US / MINUTE)
    assert await scheduled.story() == [(1, STARTED), (2, SKIPPED)]
    assert scheduled.house.engine._floor.serving
