"""Slots over several coordinators: together they never have more leases live than there are."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from tenure_agent.holding import Key
from tenure_agent.slots import Share, Slots, fair_parts

TENANTS = ("t1", "t2", "t3")
PLACES = ("a", "b", "c")
TOTAL = 4
LEASE_SECONDS, UNSURE_SECONDS = 30.0, 80.0


def welcome(slots: Slots, *tenants: str, unnamed: tuple[Key, ...] = (), now: float = 0.0) -> Share:
    """A coordinator welcomes the agent for some of the tenants."""
    share = slots.open(set(tenants))
    slots.ledger.welcome(
        tenants,
        [tenant for tenant in TENANTS if tenant not in tenants],
        unnamed,
        now=now,
        lease_seconds=LEASE_SECONDS,
        unsure_seconds=UNSURE_SECONDS,
    )
    return share


def promise(slots: Slots, share: Share) -> int:
    """Gives a coordinator the credits that are due."""
    due = slots.credits_due(share)
    if due:
        slots.promise(share, due)
    return due


def take(slots: Slots, share: Share, key: Key, tenant: str) -> None:
    """A lease comes, and its handler begins."""
    slots.ledger.take(key, tenant)
    assert slots.take(share)


def test_nothing_is_promised_before_every_tenants_coordinator_has_told_what_lives() -> None:
    slots = Slots(TOTAL, divided=True)
    first = welcome(slots, "t1", "t2")
    assert promise(slots, first) == 0, "at another one leases of an earlier process may live"
    second = welcome(slots, "t3", unnamed=(("r", "x", 1),))
    given = promise(slots, first) + promise(slots, second)
    assert given == TOTAL - 1, "one of them does"
    slots.ledger.end(("r", "x", 1))
    assert promise(slots, first) + promise(slots, second) == 1


def test_what_is_in_doubt_is_free_when_it_cannot_live_any_more() -> None:
    slots = Slots(TOTAL, divided=True)
    first = welcome(slots, "t1")
    slots.ledger.pass_time(UNSURE_SECONDS - 1)
    assert promise(slots, first) == 0
    assert slots.ledger.next_due() == UNSURE_SECONDS
    slots.ledger.pass_time(UNSURE_SECONDS)
    assert promise(slots, first) == TOTAL


def test_a_stopped_tenant_keeps_nobody_waiting() -> None:
    slots = Slots(TOTAL, divided=True)
    share = slots.open({"t1"})
    slots.ledger.welcome(
        ["t1"], [], [], stopped=["t2"], now=0.0, lease_seconds=1.0, unsure_seconds=2.0
    )
    assert promise(slots, share) == TOTAL


def test_a_slot_goes_to_another_coordinator_only_when_the_end_of_its_lease_was_acknowledged() -> (
    None
):
    slots = Slots(1, divided=True)
    first, second = welcome(slots, "t1"), welcome(slots, "t2", "t3")
    assert (promise(slots, first), promise(slots, second)) == (1, 0)
    key = ("r", "x", 1)
    take(slots, first, key, "t1")
    second.wanted = 1
    slots.free()
    slots.ledger.tell(key)
    assert (promise(slots, first), promise(slots, second)) == (0, 0)
    first.wanted = 1
    slots.ledger.end(key)
    assert (promise(slots, first), promise(slots, second)) == (0, 1), "the other one's turn"


def test_the_coordinator_of_a_lease_may_have_its_slot_again_with_the_result() -> None:
    slots = Slots(1, divided=True)
    first, _ = welcome(slots, "t1"), welcome(slots, "t2", "t3")
    promise(slots, first)
    take(slots, first, ("r", "x", 1), "t1")
    slots.free()
    assert promise(slots, first) == 0, "it was not told yet"
    slots.ledger.tell(("r", "x", 1))
    assert promise(slots, first) == 1


def test_credits_that_lie_idle_are_asked_back_for_whoever_wants_them() -> None:
    slots = Slots(TOTAL, divided=True)
    first, second = welcome(slots, "t1"), welcome(slots, "t2", "t3")
    assert (promise(slots, first), promise(slots, second)) == (2, 2)
    assert slots.withdrawal_due(second) == 0, "nobody wants them"
    for number in range(2):
        take(slots, first, ("r", f"x{number}", 1), "t1")
    first.wanted = 1
    assert slots.withdrawal_due(second) == 1
    slots.withdraw(second)
    assert slots.withdrawal_due(second) == 0, "once at a time"
    slots.withdrawn(second, 1)
    assert (promise(slots, first), promise(slots, second)) == (1, 0)


def test_two_that_want_all_of_one_slot_take_turns() -> None:
    slots = Slots(1, divided=True)
    shares = welcome(slots, "t1"), welcome(slots, "t2", "t3")
    served = []
    for number in range(6):
        for share in shares:
            share.wanted = 1
        for place, share in enumerate(shares):
            if promise(slots, share):
                key = ("r", f"x{number}", 1)
                take(slots, share, key, f"t{place + 1}")
                served.append(place)
                slots.free()
                slots.ledger.tell(key)
                assert sum(promise(slots, each) for each in shares) == 0
                slots.ledger.end(key)
                break
    assert served == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("room", "needs", "weights", "parts"),
    [
        (8, [8, 8], [1, 1], [4, 4]),
        (8, [2, 8], [1, 1], [2, 6]),
        (8, [2, 3], [1, 1], [2, 3]),
        (8, [8, 8], [3, 1], [6, 2]),
        (1, [1, 1], [1, 1], [1, 0]),
        (7, [9, 9, 1], [1, 1, 1], [3, 3, 1]),
        (0, [3], [1], [0]),
    ],
)
def test_room_is_divided_by_weight_and_to_nobody_more_than_he_needs(
    room: int, needs: list[int], weights: list[float], parts: list[int]
) -> None:
    assert fair_parts(room, needs, weights) == parts


@dataclass(eq=False)
class _Stream:
    """One stream: what is under way in both directions, and what its coordinator believes."""

    place: str
    tenants: frozenset[str]
    credits: int = 0
    up: deque[Callable[[_Stream], None]] = field(default_factory=deque)
    down: deque[Callable[[], None]] = field(default_factory=deque)


class Installation:
    """An agent and coordinators among which the seats of its tenants move.

    Streams break without their coordinators noticing: they go on granting on the credits that they
    have. Their memory of a tenant's leases moves with its seat.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.granted = 0
        self.slots = Slots(TOTAL, divided=True)
        self.seats = {"t1": "a", "t2": "a", "t3": "b"}
        self.live: dict[Key, str] = {}
        self.numbers = itertools.count()
        #: The streams as the agent has them, and what a coordinator has, which may be dead.
        self.lines: dict[str, tuple[_Stream, Share]] = {}
        self.sessions: dict[str, _Stream] = {}
        self.working: dict[Key, str] = {}
        self.ended: dict[Key, str] = {}

    # -- the agent

    def connects(self, place: str) -> None:
        """Says hello, and is welcomed in the same breath."""
        self.breaks(place)
        tenants = {tenant for tenant, holder in self.seats.items() if holder == place}
        if not tenants:
            return
        known = {*self.working, *self.ended}
        unnamed = [
            key for key, tenant in self.live.items() if tenant in tenants and key not in known
        ]
        lost = [key for key in known if self._tenant(key) in tenants and key not in self.live]
        stream = self.sessions[place] = _Stream(place, frozenset(tenants))
        share = welcome(self.slots, *sorted(tenants), unnamed=tuple(unnamed))
        self.lines[place] = stream, share
        for key in lost:
            self._lost(key)

    def breaks(self, place: str) -> None:
        """The agent loses a line; the coordinator keeps its session."""
        if place in self.lines:
            _, share = self.lines.pop(place)
            self.slots.cut(share, 0.0, UNSURE_SECONDS)

    def speaks(self, place: str) -> None:
        """One message: results, then credits, or credits asked back."""
        if place not in self.lines:
            return
        stream, share = self.lines[place]
        tenants = dict(self.ended)
        told = [key for key, tenant in tenants.items() if tenant in share.tenants]
        for key in told:
            self.slots.ledger.tell(key)
        given = promise(self.slots, share)
        back = 0 if given else self.slots.withdrawal_due(share)
        if back:
            self.slots.withdraw(share)

        def hear(session: _Stream) -> None:
            if any(self.seats[tenants[key]] != place for key in told):
                # What it decides for a seat that it lost cannot be committed: all streams end.
                del self.sessions[place]
                return
            for key in told:
                self.live.pop(key, None)
                session.down.append(partial(self._outcome, key))
            session.credits += given
            if back:
                taken = min(back, session.credits)
                session.credits -= taken
                session.down.append(lambda: self.slots.withdrawn(share, taken))

        stream.up.append(hear)

    def hears(self, place: str) -> None:
        if place in self.lines and self.lines[place][0].down:
            self.lines[place][0].down.popleft()()

    def handler_ends(self) -> None:
        if not self.working:
            return
        key = self.chance.choice(sorted(self.working))
        self.ended[key] = self.working.pop(key)
        self.slots.free()

    # -- coordinators

    def is_heard(self, place: str) -> None:
        session = self.sessions.get(place)
        if session and session.up:
            session.up.popleft()(session)

    def grants(self, place: str, tenant: str) -> None:
        """As the engine does it: within the credits, and within the slots as far as it knows."""
        session = self.sessions.get(place)
        if session is None or tenant not in session.tenants or self.seats[tenant] != place:
            return
        mine = sum(self._held_by(key) == place for key in self.live)
        if session.credits and mine < TOTAL:
            session.credits -= 1
            self.granted += 1
            key = ("run", str(next(self.numbers)), 1)
            self.live[key] = tenant
            session.down.append(lambda: self._comes(place, key, tenant))

    def wants(self, place: str, wanted: int) -> None:
        session = self.sessions.get(place)
        if session and not session.credits and place in self.lines:
            share = self.lines[place][1]
            session.down.append(lambda: setattr(share, "wanted", wanted))

    def expires(self) -> None:
        if not self.live:
            return
        key = self.chance.choice(sorted(self.live))
        place = self._held_by(key)
        del self.live[key]
        if place in self.sessions:
            self.sessions[place].down.append(lambda: self._lost(key))

    def seat_moves(self, tenant: str, to: str) -> None:
        """The old holder may not know, and its stream may live on; the new one ends its own."""
        if self.seats[tenant] != to:
            self.seats[tenant] = to
            self.sessions.pop(to, None)
            self.breaks(to)

    # -- what comes of it

    def _held_by(self, key: Key) -> str:
        tenant = self.live.get(key)
        return "" if tenant is None else self.seats[tenant]

    def _tenant(self, key: Key) -> str:
        return self.working.get(key) or self.ended[key]

    def _comes(self, place: str, key: Key, tenant: str) -> None:
        self.slots.ledger.take(key, tenant)
        assert self.slots.take(self.lines[place][1]), "physical room was promised"
        self.working[key] = tenant
        if key not in self.live:
            # It was lost meanwhile; who holds the seat says so when it is renewed.
            self._lost(key)

    def _outcome(self, key: Key) -> None:
        self.ended.pop(key, None)
        self.slots.ledger.end(key)

    def _lost(self, key: Key) -> None:
        self.slots.ledger.end(key)
        if self.working.pop(key, None):
            self.slots.free()
        self.ended.pop(key, None)

    def step(self) -> None:
        """Something happens; mostly they talk and work."""
        place, tenant = self.chance.choice(PLACES), self.chance.choice(TENANTS)
        match self.chance.choices(range(10), (12, 1, 20, 20, 12, 20, 25, 6, 4, 1))[0]:
            case 0:
                if place not in self.lines:
                    self.connects(place)
            case 1:
                self.breaks(place)
            case 2:
                self.speaks(place)
            case 3:
                self.hears(place)
            case 4:
                self.handler_ends()
            case 5:
                self.is_heard(place)
            case 6:
                self.grants(self.seats[tenant], tenant)
            case 7:
                self.wants(place, self.chance.randint(1, TOTAL))
            case 8:
                self.expires()
            case _:
                self.seat_moves(tenant, place)
        assert len(self.live) <= TOTAL, "no more leases live than there are slots"
        assert self.slots.busy + self.slots.promised <= TOTAL, "promises have room"


def test_however_seats_move_and_lines_break_no_more_leases_live_than_there_are_slots() -> None:
    granted = 0
    for seed in range(500):
        installation = Installation(seed)
        for _ in range(400):
            installation.step()
        granted += installation.granted
    assert granted > 2000, "and much is done"
