"""The desks of the seats held here: opened, closed, and all opened anew after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from tenure_server.core import errors
from tenure_server.core.desks.desk import Desk
from tenure_server.core.ledger import records
from tenure_server.engine.dispatch import Dispatch
from tenure_server.engine.seating import Seating
from tenure_server.engine.watch import Watchers

log = structlog.get_logger()


class Opening:
    """Opens and closes the desks of a floor. With a desk goes what goes on for its tenant."""

    def __init__(
        self,
        desks: dict[str, Desk],
        seating: Seating,
        dispatch: Dispatch,
        watchers: Watchers,
        *,
        opened: Callable[[Desk], None],
        closed: Callable[[str], None],
    ) -> None:
        """`desks` are those that are open, by tenant; they are changed here only."""
        self._desks = desks
        self._seating = seating
        self._dispatch = dispatch
        self._watchers = watchers
        self._opened = opened
        self._closed = closed
        self._taking = asyncio.Lock()
        #: Tenants whose desks stay closed although their seats are held.
        self.erasing: set[str] = set()
        #: How often memory was thrown away.
        self._failures = 0

    async def take_seats(self, *, reclaim: bool = False) -> None:
        """Takes every free seat and opens its desk. Raises StoreFailed, StoreUnavailable."""
        # Two at once would open the same desk twice, and the later one would forget the earlier.
        async with self._taking:
            came: list[str] = []
            try:
                failures = self._failures
                seats = await self._seating.take(reclaim=reclaim)
                await self._open(seats, came, failures)
            finally:
                # Once for all of them: each time the agents have to come again.
                if came:
                    self._dispatch.end_without(came)

    async def _open(self, seats: Iterable[records.Seat], came: list[str], failures: int) -> None:
        """Opens the desks of seats that were taken, and notes which. `failures` were there before
        they were.
        """
        for seat in seats:
            if seat.tenant_id in self._desks or seat.tenant_id in self.erasing:
                continue
            stored = await self._seating.read(seat)
            if failures != self._failures:
                raise errors.StoreUnavailable("a commit failed while the work was read back")
            if stored is None or seat.tenant_id in self.erasing:
                continue
            desk = self._seating.open(seat, stored)
            if desk is not None:
                self._desks[desk.tenant.tenant_id] = desk
                self._opened(desk)
                came.append(desk.tenant.tenant_id)

    def close(self, tenant_id: str) -> None:
        """Closes a desk, and ends what goes on for its tenant."""
        desk = self._desks.pop(tenant_id, None)
        if desk is None:
            return  # memory was thrown away meanwhile, or there was none
        for lease in desk.leases.values():
            lease.agent.leases.pop(lease.key, None)
        self._closed(tenant_id)
        refusal = errors.SeatElsewhere(tenant_id, self._seating.holder_of(tenant_id))
        for session in self._dispatch.sessions():
            if tenant_id in session.tenant_ids:
                session.end(refusal)
        self._watchers.end_all(tenant_id)

    def close_all(self, refusal: errors.Refusal) -> None:
        """Closes every desk: their memory may not be what the store has. Agents are refused."""
        self._failures += 1
        for tenant_id in self._desks:
            self._closed(tenant_id)
        self._desks.clear()
        for session in self._dispatch.sessions():
            session.end(refusal)
        # After the sessions have left, so that none keeps slots that nobody else knows.
        self._dispatch.forget_leases()
        self._watchers.end_all()

    async def open_anew(self) -> None:
        """Opens every desk again, as soon as the store can be written to and read."""
        retrying = AsyncRetrying(
            wait=wait_exponential(0.1, max=5), retry=retry_if_exception_type(Exception)
        )
        async for attempt in retrying:
            with attempt:
                # What failed may still be under way: only what is read after it is the truth.
                await self.take_seats(reclaim=not self._desks)
