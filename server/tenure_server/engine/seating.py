"""The seats of this coordinator: taken, kept, and given back.

A seat is a lease on a tenant. Whoever holds it is the only one that decides for the tenant, and
writes only in transactions that assert its term, so a coordinator that lost it without knowing can
harm nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

import structlog

from tenure_server.core import records
from tenure_server.core.desk import Desk
from tenure_server.core.leases import AgentSlots
from tenure_server.engine.commits import Commits
from tenure_server.engine.restore import StoredRun, read_open_runs, restore
from tenure_server.store.database import Store
from tenure_server.store.reads import Reads, TenantReads
from tenure_server.store.seats import Seats

log = structlog.get_logger()


class Seating:
    """Takes seats on the writer's thread and opens their desks."""

    def __init__(
        self,
        store: Store,
        commits: Commits,
        *,
        now_us: Callable[[], int],
        seat_us: int,
        new_desk: Callable[[records.Tenant, int], Desk],
        slots_of: Callable[[str, str], AgentSlots],
    ) -> None:
        #: Whether other coordinators may share the store.
        self.shared = store.kind == "postgresql"
        self._store = store
        self._seats = Seats(store)
        self._commits = commits
        self._now_us = now_us
        self._seat_us = seat_us
        self._new_desk = new_desk
        self._slots_of = slots_of
        self._elsewhere: dict[str, str] = {}

    def holder_of(self, tenant_id: str) -> str:
        """Where the holder of a tenant's seat is reached, as far as is known. Empty: unknown."""
        return self._elsewhere.get(tenant_id, "")

    async def take(self, opened: Container[str]) -> list[Desk]:
        """Takes every free seat, and opens the desks of all held here that are not open yet."""
        now_us = self._now_us()

        def take() -> list[records.Seat]:
            self._seats.take(now_us, self._seat_us)
            return self._seats.held()

        held = await self._commits.on_writer(take)
        desks = [await self._open(seat) for seat in held if seat.tenant_id not in opened]
        if self.shared:
            await self._learn_others()
        return desks

    async def renew(self, desks: Iterable[str]) -> list[str]:
        """Renews the seats, and gives the tenants of those that were lost."""
        now_us = self._now_us()
        seats = await self._commits.on_writer(lambda: self._seats.renew(now_us, self._seat_us))
        kept = {seat.tenant_id for seat in seats}
        lost = [tenant_id for tenant_id in desks if tenant_id not in kept]
        if lost:
            await self._learn_others()
        return lost

    async def release(self) -> None:
        """Gives the seats back, so that another coordinator can take them at once."""
        await self._commits.on_writer(self._seats.release)

    async def _open(self, seat: records.Seat) -> Desk:
        """Reads a tenant's open work back. Nothing else happens to it until its desk is open."""

        def read() -> tuple[records.Tenant | None, list[StoredRun]]:
            with self._store.reading():
                tenant = Reads(self._store).tenant(seat.tenant_id)
                return tenant, read_open_runs(TenantReads(self._store, seat.tenant_id))

        tenant, stored = await self._commits.on_writer(read)
        if tenant is None:
            raise LookupError(f"tenant {seat.tenant_id} has a seat but no row")
        desk = self._new_desk(tenant, seat.term)
        restore(desk, stored, self._slots_of, self._now_us())
        if desk.runs:
            log.info("open work read back", tenant=seat.tenant_id, runs=len(desk.runs))
        return desk

    async def _learn_others(self) -> None:
        def read() -> dict[str, str]:
            with self._store.reading():
                return {seat.tenant_id: seat.address for seat in Reads(self._store).seats()}

        self._elsewhere = await self._commits.on_writer(read)
