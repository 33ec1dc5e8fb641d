"""The leases that may live, as far as an agent can know, where several coordinators serve it. Pure.

A lease lives from when it comes until its coordinator has said that it is over: by an outcome, or
as lost. Two things more may live that the agent never saw: leases on their way when a stream broke,
and leases of an earlier process under its name. A coordinator that welcomes the agent names those
that it has; until every tenant's has done so, the room for them is in doubt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tenure_agent.holding import Key


@dataclass(slots=True)
class _Doubt:
    """Leases that may exist, of tenants whose coordinators have not been asked since."""

    leases: int
    tenants: set[str]
    until: float


class Ledger:
    """What may live of leases, by tenant. Time is handed in."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._tenants: dict[Key, str] = {}
        #: By tenant: those whose result the present coordinator was not told, and the others.
        self._untold: dict[str, set[Key]] = {}
        self._told: dict[str, set[Key]] = {}
        #: Leases that somebody else had under our name, and when they are over at the latest.
        self._unnamed: dict[Key, float] = {}
        self._doubts: list[_Doubt] = []
        self._known: set[str] = set()

    def __contains__(self, key: Key) -> bool:
        """Whether a lease may live."""
        return key in self._tenants

    # -- what happens to leases

    def take(self, key: Key, tenant: str) -> None:
        """Notes a lease that came. With an empty tenant it is not known whose it is."""
        if key not in self._tenants:
            self._tenants[key] = tenant
            self._untold.setdefault(tenant, set()).add(key)

    def tell(self, key: Key) -> None:
        """Notes that the result of a lease is being sent."""
        tenant = self._tenants.get(key)
        if tenant is not None:
            self._untold[tenant].discard(key)
            self._told.setdefault(tenant, set()).add(key)

    def end(self, key: Key) -> None:
        """Notes that a lease is over: its coordinator has said so."""
        self._unnamed.pop(key, None)
        tenant = self._tenants.pop(key, None)
        if tenant is not None:
            self._untold[tenant].discard(key)
            self._told.get(tenant, set()).discard(key)

    # -- what happens to coordinators

    def welcome(
        self,
        served: Collection[str],
        others: Collection[str],
        unnamed: Iterable[Key],
        *,
        stopped: Collection[str] = (),
        now: float,
        lease_seconds: float,
        unsure_seconds: float,
    ) -> None:
        """Notes that a coordinator welcomed the agent for the tenants that it serves.

        `others` are the agent's tenants that wait for another one, `stopped` those that no
        coordinator serves now; `unnamed` are its leases that the hello did not name.
        """
        new = {*served, *others} - self._known
        if new:
            # Of an earlier process there may be as many leases as there are slots.
            self.doubt(self._slots, new, now + unsure_seconds)
            self._known |= new
        for doubt in self._doubts:
            doubt.tenants.difference_update(served, stopped)
        for tenant in served:
            self._untold.setdefault(tenant, set()).update(self._told.pop(tenant, ()))
        self._unnamed |= {key: now + lease_seconds for key in unnamed if key not in self._tenants}
        self.pass_time(now)

    def doubt(self, leases: int, tenants: Iterable[str], until: float) -> None:
        """Notes that leases may exist of which nobody has told yet."""
        self._doubts.append(_Doubt(leases, set(tenants), until))

    def pass_time(self, now: float) -> None:
        """Forgets what cannot be any more."""
        self._doubts = [one for one in self._doubts if one.tenants and one.until > now]
        self._unnamed = {key: until for key, until in self._unnamed.items() if until > now}

    def next_due(self) -> float | None:
        """When `pass_time` next has something to do."""
        dues = [doubt.until for doubt in self._doubts] + list(self._unnamed.values())
        return min(dues, default=None)

    # -- sums

    def live(self, tenants: Iterable[str]) -> int:
        """How many known leases of these tenants may live."""
        return self.untold(tenants) + sum(len(self._told.get(tenant, ())) for tenant in tenants)

    def untold(self, tenants: Iterable[str]) -> int:
        """How many of them live for certain, since their ends were not sent."""
        return sum(len(self._untold.get(tenant, ())) for tenant in tenants)

    def others(self, tenants: Collection[str]) -> int:
        """How many leases may live beside the known ones of these tenants."""
        unsure = len(self._unnamed) + sum(doubt.leases for doubt in self._doubts)
        return len(self._tenants) - self.live(tenants) + min(unsure, self._slots)
