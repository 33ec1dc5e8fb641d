"""Leases held: trusted for less than they were given, renewed in time."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenure_agent.holding import TRUSTED_PART, Holding, Key
from tenure_agent.slots import Slots

KEY: Key = ("run", "a", 1)


@pytest.fixture
def holding() -> Holding:
    held = Holding()
    held.line_up(100.0, lease_seconds=30.0, accept_within_seconds=5.0)
    return held


def test_a_lease_that_still_runs_is_accepted_a_little_later(holding: Holding) -> None:
    holding.take(KEY, b"t", 100.0)
    assert not holding.due(100.05).accepts
    assert [held.key for held in holding.due(100.1).accepts] == [KEY]
    assert not holding.due(100.2).accepts


def test_a_lease_that_has_ended_wants_nothing(holding: Holding) -> None:
    holding.take(KEY, b"t", 100.0)
    holding.drop(KEY)
    due = holding.due(1000.0)
    assert [due.accepts, due.renewals, due.lapsed] == [[], [], []]
    assert holding.next_due() is None


def test_a_lease_is_renewed_at_a_third_of_its_time(holding: Holding) -> None:
    holding.take(KEY, b"t", 100.0)
    holding.due(100.1)
    assert holding.next_due() == pytest.approx(110.0, abs=1.0)
    assert [held.key for held in holding.due(110.0).renewals] == [KEY]


def test_trust_is_counted_from_the_moment_of_asking(holding: Holding) -> None:
    """A slow answer cannot stretch it."""
    holding.take(KEY, b"t", 100.0)
    holding.due(110.0)
    holding.renewed(KEY, 125.0)
    assert not holding.due(110.0 + 30 * TRUSTED_PART - 0.1).lapsed
    holding.line_cut()
    assert [held.key for held in holding.due(110.0 + 30 * TRUSTED_PART).lapsed] == [KEY]


def test_a_lease_without_an_answer_lapses_before_its_time(holding: Holding) -> None:
    holding.take(KEY, b"t", 100.0)
    holding.due(110.0)
    assert [held.key for held in holding.due(127.0).lapsed] == [KEY]
    assert KEY not in holding.leases


def test_an_answer_nobody_waits_for_extends_nothing(holding: Holding) -> None:
    holding.take(KEY, b"t", 100.0)
    holding.renewed(KEY, 120.0)
    assert holding.leases[KEY].trusted_until == 127.0


def test_leases_taken_close_together_are_renewed_together(holding: Holding) -> None:
    for number in range(100):
        holding.take(("run", str(number), 1), b"t", 100.001 + number / 200)
    holding.due(100.7)
    when = holding.next_due()
    assert when is not None
    assert len(holding.due(when).renewals) == 100


def test_news_brings_the_renewal_forward_but_not_twice_in_half_a_second(holding: Holding) -> None:
    holding.take(KEY, b"t", 100.0)
    holding.speak(KEY, 101.0, urgent=False)
    assert [held.key for held in holding.due(101.0).renewals] == [KEY]
    holding.speak(KEY, 101.1, urgent=True)
    assert not holding.due(101.1).renewals, "one renewal is under way"
    holding.renewed(KEY, 101.2)
    assert not holding.due(101.3).renewals
    assert [held.key for held in holding.due(101.5).renewals] == [KEY]
    holding.renewed(KEY, 101.6)
    holding.speak(KEY, 101.7, urgent=True)
    assert [held.key for held in holding.due(101.7).renewals] == [KEY]


def test_after_a_cut_everything_is_renewed_on_the_new_line(holding: Holding) -> None:
    holding.take(KEY, b"t", 100.0)
    holding.due(110.0)
    holding.line_cut()
    assert not holding.due(115.0).renewals
    holding.line_up(116.0, lease_seconds=30.0, accept_within_seconds=5.0)
    assert [held.key for held in holding.due(116.0).renewals] == [KEY]


class Lives(RuleBasedStateMachine):
    """A holder against a model of the coordinator's side: until when each lease really holds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.lease_seconds = 30.0
        self.holding = Holding()
        self.holding.line_up(self.now, lease_seconds=30.0, accept_within_seconds=5.0)
        self.online = True
        self.number = 0
        #: The earliest time at which the coordinator may give a lease to somebody else.
        self.until: dict[Key, float] = {}
        self.unanswered: dict[Key, float] = {}

    @rule(delay=st.floats(0, 3))
    @precondition(lambda self: self.online)
    def lease_comes(self, delay: float) -> None:
        """Granted a moment ago; it was on its way for less than the part that is not trusted."""
        self.number += 1
        key = ("run", str(self.number), 1)
        self.until[key] = self.now - min(delay, 0.99 * 3) + self.lease_seconds
        self.holding.take(key, b"t", self.now)

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        """As the loop does it: everything is looked at when it is due."""
        end = self.now + seconds
        while (when := self.holding.next_due()) is not None and when <= end:
            self.now = max(self.now, when)
            due = self.holding.due(self.now)
            assert self.online or not (due.accepts or due.renewals)
            for held in due.renewals:
                assert held.key not in self.unanswered
                self.unanswered[held.key] = self.now
            for held in due.lapsed:
                self.unanswered.pop(held.key, None)
        self.now = end

    @rule(data=st.data())
    @precondition(lambda self: self.unanswered and self.online)
    def answer_comes(self, data: st.DataObject) -> None:
        """The coordinator got the renewal at some time after it was sent."""
        key = data.draw(st.sampled_from(sorted(self.unanswered)))
        sent = self.unanswered.pop(key)
        received = data.draw(st.floats(sent, self.now))
        if self.until[key] > received:
            self.until[key] = received + self.lease_seconds
            self.holding.renewed(key, self.now)
        else:
            self.holding.drop(key)

    @rule(data=st.data(), urgent=st.booleans())
    @precondition(lambda self: self.holding.leases)
    def handler_speaks(self, data: st.DataObject, urgent: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.holding.leases)))
        self.holding.speak(key, self.now, urgent=urgent)

    @rule(data=st.data())
    @precondition(lambda self: self.holding.leases)
    def handler_ends(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.holding.leases)))
        self.holding.drop(key)
        self.unanswered.pop(key, None)

    @rule()
    def line_changes(self) -> None:
        self.online = not self.online
        self.unanswered.clear()
        if self.online:
            self.holding.line_up(
                self.now, lease_seconds=self.lease_seconds, accept_within_seconds=5.0
            )
        else:
            self.holding.line_cut()

    @invariant()
    def never_trusts_beyond_the_coordinators_time(self) -> None:
        for key, held in self.holding.leases.items():
            assert held.trusted_until <= self.until[key]
            assert held.trusted_until > self.now or self.holding.next_due() == self.now

    @invariant()
    def something_is_planned_for_each_lease(self) -> None:
        """On a line each lease waits for an answer or for its next renewal, in time."""
        for held in self.holding.leases.values():
            assert held.due_at <= held.trusted_until
            if self.online and held.asked_at is None:
                assert held.due_at <= held.renew_at < held.trusted_until


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Room(RuleBasedStateMachine):
    """Slots and credits in any order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(5)
        self.share = self.slots.open({"acme"})
        self.granted = 0

    @rule()
    def credits_are_sent(self) -> None:
        count = self.slots.credits_due(self.share)
        self.slots.promise(self.share, count)
        self.granted += count

    @rule()
    @precondition(lambda self: self.granted)
    def lease_comes(self) -> None:
        self.granted -= 1
        assert self.slots.take(self.share)

    @rule()
    @precondition(lambda self: self.slots.busy)
    def handler_ends(self) -> None:
        self.slots.free()

    @rule()
    def line_is_cut(self) -> None:
        self.slots.cut(self.share, 0.0, 0.0)
        self.share = self.slots.open({"acme"})
        self.granted = 0

    @invariant()
    def no_credit_goes_beyond_the_slots(self) -> None:
        assert self.slots.busy + self.granted <= self.slots.total


TestRoom = Room.TestCase
TestRoom.settings = settings(max_examples=50, deadline=None)


def test_a_lease_beyond_the_slots_gets_no_room() -> None:
    slots = Slots(1)
    share = slots.open({"acme"})
    slots.promise(share, 1)
    assert slots.take(share)
    assert not slots.take(share)
    slots.free()
    slots.close()
    assert slots.credits_due(share) == 0
