"""What a schedule does next: overlap, missed fires, limits, backfills; as values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tenure_server.core.scheduling import schedules
from tenure_server.core.scheduling.fire_times import SECOND_US, FireTimes, Interval
from tenure_server.core.scheduling.schedules import (
    Author,
    Backfill,
    Cause,
    Finish,
    Fire,
    Idle,
    Miss,
    Overlap,
    Pause,
    Schedule,
    Skip,
    Source,
    Standing,
    Start,
    Wait,
    decide,
    next_step,
)

ME, YOU = Author("me", ("submitter",)), Author("you")
MINUTE = 60 * SECOND_US


def schedule(**changes: object) -> Schedule:
    """A schedule that fires every minute."""
    plain = Schedule(
        name="minutely",
        workflow="flow",
        times=FireTimes(intervals=(Interval(MINUTE),)),
        author=ME,
        create_us=0,
        created_by="me",
        update_us=0,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def timed(minute: int, author: Author = ME) -> Fire:
    """The fire of a minute."""
    return Fire(minute * MINUTE, Cause.TIME, author)


def triggered(minute: int) -> Fire:
    """A fire that a person asked for."""
    return Fire(minute * MINUTE, Cause.TRIGGER, YOU)


NONE = Standing(cursor_us=0)
WAITING = replace(NONE, waiting=(triggered(0),))


@pytest.mark.parametrize(
    ("overlap", "running", "waiting", "expected"),
    [
        (Overlap.SKIP, 0, 0, "start"),
        (Overlap.SKIP, 1, 0, "skip: a run of the schedule is open"),
        (Overlap.SKIP, 0, 1, "skip: a run of the schedule is open"),
        (Overlap.BUFFER_ONE, 0, 0, "start"),
        (Overlap.BUFFER_ONE, 2, 0, "wait"),
        (Overlap.BUFFER_ONE, 1, 1, "skip: one fire waits already"),
        (Overlap.BUFFER_ALL, 0, 0, "start"),
        (Overlap.BUFFER_ALL, 1, 0, "wait"),
        (Overlap.BUFFER_ALL, 1, schedules.WAITING_MAX - 1, "wait"),
        (Overlap.BUFFER_ALL, 1, schedules.WAITING_MAX, "skip: 100 fires wait already"),
        (Overlap.CANCEL_RUNNING, 0, 0, "start"),
        (Overlap.CANCEL_RUNNING, 1, 0, "cancel"),
        (Overlap.CANCEL_RUNNING, 1, 1, "cancel instead of 1"),
        (Overlap.ALLOW_ALL, 0, 0, "start"),
        (Overlap.ALLOW_ALL, 9, 9, "start"),
    ],
)
def test_what_becomes_of_a_fire_that_meets_others(
    overlap: Overlap, running: int, waiting: int, expected: str
) -> None:
    """The whole table."""
    fire = timed(5)
    match decide(overlap, running, [triggered(one) for one in range(waiting)], fire, Source.TIMES):
        case Start():
            found = "start"
        case Skip(reason=reason):
            found = f"skip: {reason}"
        case Wait(cancels=False, instead_of=()):
            found = "wait"
        case Wait(instead_of=()):
            found = "cancel"
        case Wait(instead_of=others):
            found = f"cancel instead of {len(others)}"
    assert found == expected


def test_nothing_is_done_before_a_time_has_come() -> None:
    assert next_step(schedule(), NONE, 0, MINUTE - 1) == Idle(MINUTE)


def test_a_time_that_has_come_starts_a_run_and_is_done_with() -> None:
    step = next_step(schedule(), NONE, 0, MINUTE)
    assert step == Start(timed(1), Source.TIMES)
    standing = schedules.after(NONE, step)
    assert (standing.cursor_us, standing.number, standing.tally.started) == (MINUTE, 1, 1)
    assert next_step(schedule(), standing, 1, MINUTE) == Idle(2 * MINUTE)


def test_a_fire_is_due_later_by_the_jitter_and_keeps_its_time() -> None:
    jittery = schedule(times=FireTimes(intervals=(Interval(MINUTE),), jitter_us=30 * SECOND_US))
    due_us = jittery.times.due_us("minutely", MINUTE)
    assert MINUTE < due_us < MINUTE + 30 * SECOND_US
    assert next_step(jittery, NONE, 0, due_us - 1) == Idle(due_us)
    assert next_step(jittery, NONE, 0, due_us) == Start(timed(1), Source.TIMES)


def test_late_fires_inside_the_window_are_done_one_by_one() -> None:
    late = schedule(catchup_us=3 * MINUTE, overlap=Overlap.ALLOW_ALL)
    standing, done = NONE, []
    while isinstance(step := next_step(late, standing, 0, 3 * MINUTE + 1), Start):
        done.append(step.fire.nominal_us // MINUTE)
        standing = schedules.after(standing, step)
    assert done == [1, 2, 3]


def test_late_fires_outside_the_window_are_counted() -> None:
    step = next_step(schedule(catchup_us=2 * MINUTE), NONE, 0, 10 * MINUTE + 1)
    assert step == Miss(MINUTE, 8 * MINUTE, 8, 8 * MINUTE)
    standing = schedules.after(NONE, step)
    assert (standing.cursor_us, standing.tally.missed, standing.number) == (8 * MINUTE, 8, 1)
    assert step.reason == "8 fire times outside of the catch-up window"
    following = next_step(schedule(catchup_us=2 * MINUTE), standing, 0, 10 * MINUTE + 1)
    assert following == Start(timed(9), Source.TIMES)


def test_more_missed_fires_than_are_counted_are_passed_over_at_once() -> None:
    year_us = 366 * 24 * 60 * MINUTE
    step = next_step(schedule(catchup_us=MINUTE), NONE, 0, year_us)
    assert isinstance(step, Miss)
    assert step.count == schedules.MISSED_COUNT_MAX
    assert "1000 or more" in step.reason
    standing = schedules.after(NONE, step)
    following = next_step(schedule(catchup_us=MINUTE), standing, 0, year_us)
    assert isinstance(following, Start)
    assert following.fire.nominal_us >= year_us - MINUTE


def test_while_it_is_paused_nothing_happens_and_nothing_is_made_up_for() -> None:
    paused = replace(WAITING, pause=Pause(0, "me", "why not"))
    assert next_step(schedule(), paused, 0, 10 * MINUTE) == Idle(None)
    standing = schedules.resumed(paused, 10 * MINUTE)
    assert next_step(schedule(), standing, 0, 10 * MINUTE) == Start(triggered(0), Source.WAITING)
    assert next_step(schedule(), standing, 1, 10 * MINUTE) == Idle(11 * MINUTE)


def test_what_waits_is_started_when_no_run_is_open_before_what_is_due() -> None:
    assert next_step(schedule(), WAITING, 1, 0) == Idle(MINUTE)
    step = next_step(schedule(), WAITING, 0, MINUTE)
    assert step == Start(triggered(0), Source.WAITING)
    assert schedules.after(WAITING, step).waiting == ()


def test_of_fires_that_cancel_the_newest_is_left_and_the_others_are_skipped() -> None:
    cancelling = schedule(overlap=Overlap.CANCEL_RUNNING)
    first = next_step(cancelling, NONE, 1, MINUTE)
    standing = schedules.after(NONE, first)  # type: ignore[arg-type]
    second = next_step(cancelling, standing, 1, 2 * MINUTE)
    assert second == Wait(timed(2), Source.TIMES, cancels=True, instead_of=(timed(1),))
    standing = schedules.after(standing, second)
    assert (standing.waiting, standing.number, standing.tally.skipped) == ((timed(2),), 3, 1)


def test_remaining_runs_count_down_to_the_end() -> None:
    standing = replace(NONE, remaining=2)
    for minute in (1, 2):
        step = next_step(schedule(), standing, 0, minute * MINUTE)
        assert isinstance(step, Start)
        standing = schedules.after(standing, step)
    assert standing.remaining == 0
    assert next_step(schedule(), standing, 0, 9 * MINUTE) == Idle(None)
    # What was triggered does not count, and what waits by time has come too late.
    standing = replace(standing, waiting=(triggered(3), timed(4)))
    step = next_step(schedule(), standing, 0, 9 * MINUTE)
    assert step == Start(triggered(3), Source.WAITING)
    standing = schedules.after(standing, step)
    assert next_step(schedule(), standing, 0, 9 * MINUTE) == Skip(
        timed(4), Source.WAITING, "no runs remain"
    )


def test_a_fire_that_is_refused_is_done_with_and_costs_no_run() -> None:
    standing = replace(NONE, remaining=1)
    step = next_step(schedule(), standing, 0, MINUTE)
    assert isinstance(step, Start)
    standing = schedules.refused(standing, step)
    assert (standing.cursor_us, standing.remaining, standing.number) == (MINUTE, 1, 1)
    assert standing.tally.refused == 1


BACKFILL = Backfill(MINUTE - 1, 4 * MINUTE, Overlap.BUFFER_ALL, YOU)
#: Whose times have all been done.
UP_TO_DATE = replace(NONE, cursor_us=100 * MINUTE, backfills=(BACKFILL,))


def test_a_backfill_fires_its_period_one_run_after_the_other() -> None:
    standing, done = UP_TO_DATE, []
    for _ in range(3):
        step = next_step(schedule(), standing, 0, 100 * MINUTE)
        assert isinstance(step, Start)
        assert (step.fire.cause, step.fire.author) == (Cause.BACKFILL, YOU)
        done.append(step.fire.nominal_us // MINUTE)
        standing = schedules.after(standing, step)
        if len(done) < 3:
            assert next_step(schedule(), standing, 1, 100 * MINUTE) == Idle(101 * MINUTE)
    assert done == [1, 2, 3]
    assert next_step(schedule(), standing, 1, 100 * MINUTE) == Finish()
    assert schedules.after(standing, Finish()).backfills == ()


def test_a_backfill_applies_the_policy_that_it_was_given() -> None:
    at_once = replace(UP_TO_DATE, backfills=(replace(BACKFILL, overlap=Overlap.ALLOW_ALL),))
    assert isinstance(next_step(schedule(), at_once, 5, 100 * MINUTE), Start)
    skipping = replace(UP_TO_DATE, backfills=(replace(BACKFILL, overlap=Overlap.SKIP),))
    assert isinstance(next_step(schedule(), skipping, 1, 100 * MINUTE), Skip)


def test_a_time_that_has_come_goes_before_a_backfill() -> None:
    step = next_step(schedule(), replace(UP_TO_DATE, cursor_us=99 * MINUTE), 0, 100 * MINUTE)
    assert step == Start(timed(100), Source.TIMES)
