"""Whatever happens to a schedule, what becomes of each of its times is decided once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice, takewhile

from hypothesis import given
from hypothesis import strategies as st
from tests.server.core.scheduling.test_schedules import MINUTE, NONE, YOU, schedule

from tenure_server.core.scheduling import schedules
from tenure_server.core.scheduling.fire_times import SECOND_US, FireTimes, Interval
from tenure_server.core.scheduling.schedules import (
    Backfill,
    Cause,
    Decision,
    Finish,
    Fire,
    Idle,
    Miss,
    Overlap,
    Schedule,
    Skip,
    Source,
    Start,
    Wait,
    decide,
    next_step,
)

Known = tuple[int, Cause]


class Story:
    """A schedule, its runs, and a ledger of what was wanted and what came of it."""

    def __init__(self, tried: Schedule, remaining: int | None) -> None:
        self.tried = tried
        self.standing = replace(NONE, remaining=remaining)
        self.now_us = 0
        self.running = 0
        self.most = 0
        self.wanted: Counter[Known] = Counter()
        self.decided: Counter[Known] = Counter()
        self.started_by_time = 0

    def settle(self) -> None:
        """Does all that is to be done now."""
        while True:
            step = next_step(self.tried, self.standing, self.running, self.now_us)
            if isinstance(step, Idle):
                return
            self.take(step)

    def take(self, step: Decision | Miss | Finish) -> None:
        """Does a step."""
        before = self.standing
        self.standing = schedules.after(before, step)
        match step:
            case Start(fire, _):
                self.running += 1
                self.most = max(self.most, self.running)
                self.started_by_time += fire.cause is Cause.TIME
                self._decide(fire)
            case Skip(fire, _, _):
                self._decide(fire)
            case Wait():
                for fire in step.instead_of:
                    self._decide(fire)
                if step.cancels:
                    self.running = 0
            case Miss():
                for nominal_us in islice(self.tried.times.from_on(before.cursor_us), step.count):
                    due_us = self.tried.times.due_us("minutely", nominal_us)
                    assert due_us + self.tried.catchup_us < self.now_us
                    self.decided[nominal_us, Cause.TIME] += 1
        assert len(self.standing.waiting) <= schedules.WAITING_MAX
        assert self.standing.cursor_us >= before.cursor_us

    def trigger(self) -> None:
        """Somebody asks for a run."""
        fire = Fire(self.now_us, Cause.TRIGGER, YOU)
        self.wanted[self.now_us, Cause.TRIGGER] += 1
        waiting = self.standing.waiting
        self.take(decide(self.tried.overlap, self.running, waiting, fire, Source.CALL))

    def backfill(self, minutes: int) -> None:
        """Somebody asks for the last minutes again."""
        if self.standing.backfills or self.now_us < minutes * MINUTE:
            return
        start_us = self.now_us - minutes * MINUTE
        backfill = Backfill(start_us - 1, self.now_us, self.tried.overlap, YOU)
        self.standing = replace(self.standing, backfills=(backfill,))
        times = self.tried.times.from_on(start_us - 1)
        for nominal_us in takewhile(lambda one: one < self.now_us, times):
            self.wanted[nominal_us, Cause.BACKFILL] += 1

    def finish(self) -> None:
        """Lets every run end, until nothing waits any more."""
        while self.standing.waiting or self.standing.backfills:
            self.running = 0
            self.settle()

    def _decide(self, fire: Fire) -> None:
        self.decided[fire.nominal_us, fire.cause] += 1


events = st.lists(
    st.one_of(
        st.tuples(st.just("time"), st.integers(1, 7 * 60)),
        st.tuples(st.just("time"), st.integers(60, 40 * 60)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("trigger"), st.just(0)),
        st.tuples(st.just("backfill"), st.integers(1, 6)),
    ),
    max_size=40,
)


@given(
    st.sampled_from(Overlap),
    st.integers(0, 5 * 60),
    st.none() | st.integers(1, 6),
    st.integers(0, 50),
    events,
)
def test_every_time_is_decided_once_whatever_happens(
    overlap: Overlap,
    catchup_seconds: int,
    remaining: int | None,
    jitter_seconds: int,
    happens: list[tuple[str, int]],
) -> None:
    """Started, skipped or missed; and two runs are open together only where that is allowed."""
    times = FireTimes(intervals=(Interval(MINUTE),), jitter_us=jitter_seconds * SECOND_US)
    tried = schedule(times=times, overlap=overlap, catchup_us=catchup_seconds * SECOND_US)
    story = Story(tried, remaining)
    for what, number in happens:
        match what:
            case "time":
                story.now_us += number * SECOND_US
            case "end":
                story.running = max(0, story.running - number)
            case "trigger":
                story.trigger()
            case "backfill":
                story.backfill(number)
        story.settle()
    story.finish()
    for nominal_us in takewhile(lambda one: one <= story.now_us, times.from_on(0)):
        if times.due_us("minutely", nominal_us) <= story.now_us:
            story.wanted[nominal_us, Cause.TIME] += 1
    if remaining is None:
        assert story.decided == story.wanted
    else:
        assert story.decided <= story.wanted
        assert story.started_by_time <= remaining
    if overlap is not Overlap.ALLOW_ALL:
        assert story.most <= 1
