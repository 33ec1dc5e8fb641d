"""The leases an agent holds, and for how long it may trust each of them. Pure: time is handed in.

A lease is trusted for nine tenths of the time it was given, counted from the moment it was asked
for: when it came, or when the renewal that was answered had been sent. So neither a slow line nor
a clock that runs a little fast can make two agents believe that they hold the same lease. It is
renewed at a third of its time. While a renewal is under way no other one is sent for that lease,
so that each answer is known to belong to the time its renewal was sent.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

#: Run id, task key, term: what names a lease for ever.
Key = tuple[str, str, int]

TRUSTED_PART = 0.9
RENEWED_PART = 1 / 3
#: Renewal times are rounded down to steps of this part of the lease, so that they go together.
STEP_PART = 1 / 30
ACCEPT_SECONDS = 0.1
#: The least time between two renewals of a lease that only bring news of progress.
WORD_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class HeldLease:
    """One lease: what proves it, and when it wants something."""

    key: Key
    token: bytes
    trusted_until: float
    accept_at: float | None
    renew_at: float
    #: When the renewal that is under way was sent. None: none is.
    asked_at: float | None = None
    #: When the last renewal was sent, answered or not.
    spoke_at: float = 0.0
    #: A word came while a renewal was under way: renew again after its answer.
    word_waits: bool = False
    due_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What has to be said or done now."""

    accepts: list[HeldLease] = field(default_factory=list)
    renewals: list[HeldLease] = field(default_factory=list)
    #: No longer trusted and no longer held: stop their work.
    lapsed: list[HeldLease] = field(default_factory=list)


class Holding:
    """All leases whose handlers run."""

    def __init__(self) -> None:
        self.leases: dict[Key, HeldLease] = {}
        self.lease_seconds = 30.0
        self.accept_seconds = ACCEPT_SECONDS
        self._on_line = False
        self._heap: list[tuple[float, int, HeldLease]] = []
        self._order = itertools.count()

    def line_up(self, now: float, *, lease_seconds: float, accept_within_seconds: float) -> None:
        """A stream was welcomed: whatever is held from before is renewed at once."""
        self._on_line = True
        self.lease_seconds = lease_seconds
        self.accept_seconds = min(ACCEPT_SECONDS, accept_within_seconds / 3)
        for held in self.leases.values():
            held.accept_at = None
            held.renew_at = now
            self._plan(held)

    def line_cut(self) -> None:
        """The stream is gone: nothing can be renewed until the next one, trust runs on."""
        self._on_line = False
        for held in self.leases.values():
            held.asked_at = None
            held.word_waits = False
            self._plan(held)

    def take(self, key: Key, token: bytes, now: float) -> None:
        """Adds a lease that has just come and whose handler has begun."""
        held = HeldLease(
            key=key,
            token=token,
            trusted_until=now + self.lease_seconds * TRUSTED_PART,
            accept_at=now + self.accept_seconds,
            renew_at=self._renew_at(now),
        )
        self.leases[key] = held
        self._plan(held)

    def drop(self, key: Key) -> None:
        """Forgets a lease: its attempt has ended or it is lost."""
        self.leases.pop(key, None)

    def speak(self, key: Key, now: float, *, urgent: bool) -> None:
        """Brings the next renewal forward: the handler has something to tell."""
        held = self.leases.get(key)
        if held is None:
            return
        if held.asked_at is not None:
            held.word_waits = True
            return
        soon = now if urgent else max(now, held.spoke_at + WORD_SECONDS)
        if soon < held.renew_at:
            held.renew_at = soon
            self._plan(held)

    def renewed(self, key: Key, now: float) -> None:
        """A renewal was answered: the lease holds."""
        held = self.leases.get(key)
        if held is None or held.asked_at is None:
            return
        held.trusted_until = max(
            held.trusted_until, held.asked_at + self.lease_seconds * TRUSTED_PART
        )
        held.renew_at = max(now, self._renew_at(held.asked_at))
        held.asked_at = None
        if held.word_waits:
            held.word_waits = False
            held.renew_at = max(now, min(held.renew_at, held.spoke_at + WORD_SECONDS))
        self._plan(held)

    def due(self, now: float) -> Due:
        """Takes what is due. The accepts and renewals count as sent now, the lapsed as dropped."""
        due = Due()
        while self._heap and self._heap[0][0] <= now:
            when, _, held = heapq.heappop(self._heap)
            if self.leases.get(held.key) is not held or held.due_at != when:
                continue
            if held.trusted_until <= now:
                del self.leases[held.key]
                due.lapsed.append(held)
                continue
            if held.asked_at is None and held.renew_at <= now:
                held.asked_at = held.spoke_at = now
                held.accept_at = None
                due.renewals.append(held)
            elif held.accept_at is not None and held.accept_at <= now:
                held.accept_at = None
                due.accepts.append(held)
            self._plan(held)
        return due

    def next_due(self) -> float | None:
        """When `due` has something next; at worst earlier, never later. None: nothing is held."""
        return self._heap[0][0] if self._heap else None

    def _plan(self, held: HeldLease) -> None:
        """Puts a lease at its next moment. Older entries of it are passed over when they come."""
        when = held.trusted_until
        if self._on_line:
            if held.asked_at is None:
                when = min(when, held.renew_at)
            if held.accept_at is not None:
                when = min(when, held.accept_at)
        if when == held.due_at:
            return
        held.due_at = when
        heapq.heappush(self._heap, (when, next(self._order), held))

    def _renew_at(self, asked_at: float) -> float:
        step = self.lease_seconds * STEP_PART
        return (asked_at + self.lease_seconds * RENEWED_PART) // step * step


class Holdings:
    """All leases whose handlers run, by tenant: each tenant is on a line of its own or on none."""

    def __init__(self) -> None:
        self._tenants: dict[str, Holding] = {}

    def of(self, tenant: str) -> Holding:
        """The leases of a tenant that was served at some time."""
        return self._tenants[tenant]

    def items(self) -> Iterable[tuple[str, Holding]]:
        """The tenants and their leases."""
        return self._tenants.items()

    def serve(
        self, tenant: str, now: float, *, lease_seconds: float, accept_within_seconds: float
    ) -> None:
        """A tenant is served on a line from now on; whatever it was on before counts no more."""
        holding = self._tenants.get(tenant)
        if holding is None:
            holding = self._tenants[tenant] = Holding()
        holding.line_cut()
        holding.line_up(
            now, lease_seconds=lease_seconds, accept_within_seconds=accept_within_seconds
        )

    def line_cut(self, tenants: Iterable[str]) -> None:
        """The line of these tenants is gone."""
        for tenant in tenants:
            self._tenants[tenant].line_cut()

    def next_due(self) -> float | None:
        """When the next lease wants something; None: nothing is held."""
        dues = (holding.next_due() for holding in self._tenants.values())
        return min((due for due in dues if due is not None), default=None)
