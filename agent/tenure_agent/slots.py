"""Free room and credits, as arithmetic: how many leases each coordinator may still send.

A slot is taken from the moment a lease comes until its handler has really ended. A credit is a
free slot that was promised to a coordinator. So busy and promised together never exceed the total,
which keeps an agent from being given more than it can do.

Where several coordinators serve the agent, none of them can see what the others gave. Then a slot
is also taken for as long as its lease may live with a coordinator: only he may have it again who
gave the lease, since he hears of its end before he has the credit. Everybody else has to wait until
its end was acknowledged. So live leases and credits, over all coordinators, never exceed the total
either. What each of them is to have is fair among those that say that they want more; what nobody
wants is spread evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tenure_agent.ledger import Ledger

_ROUNDING = 1e-9


@dataclass(slots=True, eq=False)
class Share:
    """What one coordinator has of the slots."""

    tenants: set[str] = field(default_factory=set)
    #: Credits that no lease has come for.
    promised: int = 0
    #: How many credits more it could use.
    wanted: int = 0
    weight: float = 1.0
    #: Whether credits were asked back and the answer is not there yet.
    withdrawing: bool = False
    #: When it was given credits last, as a number that grows.
    turn: int = 0


class Slots:
    """The slots of one agent."""

    __slots__ = ("_turn", "busy", "closed", "divided", "ledger", "shares", "total")

    def __init__(self, total: int, *, divided: bool = False) -> None:
        """`divided`: several coordinators may serve the agent at one time."""
        self.total = total
        self.divided = divided
        self.busy = 0
        self.closed = False
        self.shares: list[Share] = []
        #: Kept only where the slots are divided.
        self.ledger = Ledger(total)
        self._turn = 0

    @property
    def promised(self) -> int:
        """How many credits are out."""
        return sum(share.promised for share in self.shares)

    def open(self, tenants: set[str]) -> Share:
        """Begins with a coordinator that has welcomed the agent for these tenants."""
        for share in self.shares:
            share.tenants -= tenants
        share = Share(tenants, weight=max(1.0, float(len(tenants))))
        self.shares.append(share)
        return share

    def cut(self, share: Share, now: float, unsure_seconds: float) -> None:
        """Takes the promises back of a stream that is gone. They may have become leases."""
        self.shares.remove(share)
        if self.divided and share.promised:
            self.ledger.doubt(share.promised, share.tenants, now + unsure_seconds)

    def credits_due(self, share: Share) -> int:
        """How many credits to give a coordinator now, so that every free slot is promised."""
        if self.closed:
            return 0
        free = self.total - self.busy - self.promised
        if free <= 0 or not self.divided:
            return max(0, free)
        own = self._own(share)
        theirs = self.ledger.others(share.tenants) + self.promised - share.promised
        room = self.total - own - theirs
        if len(self.shares) > 1:
            room = min(room, self._part(share) - own)
        return max(0, min(free, room))

    def withdrawal_due(self, share: Share) -> int:
        """How many credits to ask back from a coordinator because another one wants them."""
        if self.closed or share.withdrawing or not share.promised or len(self.shares) < 2:
            return 0
        wanted = sum(other.wanted for other in self.shares if other is not share)
        if not wanted:
            return 0
        missing = wanted - max(0, self.total - self.busy - self.promised)
        return max(0, min(share.promised, self._own(share) - self._part(share), missing))

    def promise(self, share: Share, credits_given: int) -> None:
        """Notes credits that are being sent."""
        self._turn += 1
        share.turn = self._turn
        share.promised += credits_given
        share.wanted = max(0, share.wanted - credits_given)

    def withdraw(self, share: Share) -> None:
        """Notes that credits are being asked back."""
        share.withdrawing = True

    def withdrawn(self, share: Share, credits_back: int) -> None:
        """Takes credits back that a coordinator gives up."""
        share.withdrawing = False
        share.promised = max(0, share.promised - credits_back)

    def take(self, share: Share) -> bool:
        """Takes a slot for a lease that came; False when the coordinator sent one too many."""
        share.promised = max(0, share.promised - 1)
        if self.busy >= self.total:
            return False
        self.busy += 1
        return True

    def free(self) -> None:
        """Gives a slot back whose handler has ended."""
        self.busy -= 1

    def close(self) -> None:
        """Promises nothing more; what was promised is taken back."""
        self.closed = True
        for share in self.shares:
            share.promised = 0

    def _own(self, share: Share) -> int:
        """What a coordinator has: credits, and leases whose end it was not told."""
        return self.ledger.untold(share.tenants) + share.promised

    def _part(self, share: Share) -> int:
        """How many of the slots are for a coordinator as things stand."""
        shares = sorted(self.shares, key=lambda one: one.turn)
        lives = [self.ledger.live(one.tenants) for one in shares]
        room = max(0, self.total - self.ledger.others(()) + sum(lives))
        needs = [live + one.wanted for live, one in zip(lives, shares, strict=True)]
        parts = fair_parts(room, needs, [one.weight for one in shares])
        spare, rest = divmod(room - sum(parts), len(shares))
        number = shares.index(share)
        return parts[number] + spare + (number < rest)


def fair_parts(room: int, needs: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Divides room among needs: to nobody more than he needs, otherwise by weight.

    What cannot be divided evenly goes to the first.
    """
    parts = [0] * len(needs)
    left, weight = float(room), sum(weights)
    for number in sorted(range(len(needs)), key=lambda one: needs[one] / weights[one]):
        fair = min(float(needs[number]), left * weights[number] / weight)
        parts[number] = int(fair + _ROUNDING)
        left -= fair
        weight = max(weight - weights[number], _ROUNDING)
    rest = min(room, sum(needs)) - sum(parts)
    for number, need in enumerate(needs):
        if rest and parts[number] < need:
            parts[number] += 1
            rest -= 1
    return parts
