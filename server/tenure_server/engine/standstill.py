"""Time that stands still until it is told to jump: for tests of workflows, never for work.

Whoever tests says how far the clock may jump; it jumps to the next moment at which something of
the tenant falls due, and no further. Before and after, everything that can happen without time
happens: leases are granted and settled, children begin, schedules fire. So a run of thirty days
takes as long as its handlers do, and tells the same times whenever it is repeated.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from tenure_server.core import errors
from tenure_server.core.desks.desk import Desk
from tenure_server.engine.firing import Firing
from tenure_server.engine.floor import Floor

#: How often it is looked whether something still happens.
_LOOK_SECONDS = 0.001


class StandingClock:
    """A clock that shows the machine's time at its making, and moves when it is set only."""

    def __init__(self) -> None:
        # Whole seconds: times that are worked out by adding spans are easy to read then.
        self._now_us = time.time_ns() // 1_000_000_000 * 1_000_000

    def now_us(self) -> int:
        """Microseconds since the Unix epoch."""
        return self._now_us

    def set(self, now_us: int) -> None:
        """Sets it forward; it never goes back."""
        self._now_us = max(self._now_us, now_us)


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing more happens for a tenant at this time."""

    now_us: int
    #: When something falls due next, or None.
    due_us: int | None


class Standstill:
    """Lets time pass in jumps. Made once the engine has started."""

    def __init__(self, clock: StandingClock, floor: Floor, firing: Firing) -> None:
        self._clock = clock
        self._floor = floor
        self._firing = firing
        #: What goes on beside the turns for as long as the floor does.
        self._lasting = floor.beside()

    async def settle(self, tenant_id: str) -> Quiet:
        """Waits until nothing happens any more without time passing. Raises as `Floor.desk`."""
        while True:
            await self._floor.flushed()
            desk = self._floor.desk(tenant_id)
            due_us = self._next_due_us(desk)
            now_us = self._clock.now_us()
            if due_us is not None and due_us <= now_us:
                self._pass_time()
            elif self._floor.commits.at_rest and not self._busy(desk):
                # At rest: whoever looks now sees what happened during that commit as well.
                return Quiet(now_us, due_us)
            await asyncio.sleep(_LOOK_SECONDS)

    async def jump(self, tenant_id: str, until_us: int) -> Quiet:
        """Settles, jumps to what is due next or to `until_us` if that is sooner, and settles."""
        quiet = await self.settle(tenant_id)
        to_us = until_us if quiet.due_us is None else min(until_us, quiet.due_us)
        if to_us > quiet.now_us:
            self._clock.set(to_us)
            self._pass_time()
        return await self.settle(tenant_id)

    def _pass_time(self) -> None:
        self._floor.pass_time()
        self._firing.pass_time()

    def _busy(self, desk: Desk) -> bool:
        """Whether an agent works for the tenant or could, or something is being started."""
        if desk.leases or desk.consequences.children.wanted:
            return True
        if self._floor.beside() - self._lasting:
            return True
        return desk.ready.size > 0 and any(
            desk.ready.best(session.agent.kinds) is not None
            for session in self._floor.dispatch.sessions()
            if desk.tenant.tenant_id in session.tenant_ids and not session.draining
        )

    def _next_due_us(self, desk: Desk) -> int | None:
        desk.dues.forget_idle()
        tenant_id = desk.tenant.tenant_id
        try:
            fires_us = self._firing.timetable(tenant_id).next_us()
        except errors.Refusal:
            fires_us = None
        dues = (desk.dues.next_us(), fires_us)
        return min((due for due in dues if due is not None), default=None)
