"""The seats of this coordinator: taken, kept, and given back.

A seat is a lease on a tenant. Whoever holds it is the only one that decides for the tenant, and
writes only in transactions that assert its term, so a coordinator that lost it without knowing can
harm nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import structlog

from tenure_evidence.keys import Chain
from tenure_server.core.desks.desk import Desk
from tenure_server.core.desks.law import Law
from tenure_server.core.leasing.leases import AgentSlots
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Journal
from tenure_server.engine import restore
from tenure_server.engine.commits import Commits
from tenure_server.engine.inspection import LogBroken, inspect
from tenure_server.engine.settings import Settings
from tenure_server.store.database import Store
from tenure_server.store.errors import StoreFailed
from tenure_server.store.evidence_reads import EvidenceReads
from tenure_server.store.reads import Reads, TenantReads
from tenure_server.store.seats import Seats

#: The least time between two readings of who holds the seats because somebody asked.
ASK_SECONDS = 0.1

log = structlog.get_logger()


class Seating:
    """Takes seats on the writer's thread, reads their work in others, and opens their desks."""

    def __init__(
        self,
        store: Store,
        commits: Commits,
        settings: Settings,
        *,
        now_us: Callable[[], int],
        journal: Callable[[], Journal],
        law_of: Callable[[str], Law],
        slots_of: Callable[[str, str], AgentSlots],
        learn: Callable[[str], None] = lambda _: None,
        chain: Chain | None = None,
    ) -> None:
        """`learn` reads what else has to be known of a tenant before its desk is opened."""
        #: Whether other coordinators may share the store.
        self.shared = store.kind == "postgresql"
        self._store = store
        self._seats = Seats(store)
        self._commits = commits
        self._now_us = now_us
        self._settings = settings
        self._seat_us = settings.seat_us
        self._journal = journal
        self._law_of = law_of
        self._slots_of = slots_of
        self._learn = learn
        self._chain = chain
        self._elsewhere: dict[str, str] = {}
        self._asking: asyncio.Task[None] | None = None
        self._trusted_until_us = 0
        #: Tenants whose log is broken or whose open work cannot be read back: the term under which
        #: that was found, and what it is.
        self._quarantine: dict[str, tuple[int, str]] = {}

    def holder_of(self, tenant_id: str) -> str:
        """Where the holder of a tenant's seat is reached, as far as is known. Empty: unknown, and
        whoever asks again will be told.
        """
        holder = self._elsewhere.get(tenant_id, "")
        if not holder and self.shared and self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        return holder

    def quarantine_of(self, tenant_id: str) -> str:
        """Why a tenant is stopped, although its seat is held here. Empty: it is not."""
        return self._quarantine.get(tenant_id, (0, ""))[1]

    def term_of_quarantined(self, tenant_id: str) -> int | None:
        """The term of the seat of a tenant that is stopped; None when it is not."""
        found = self._quarantine.get(tenant_id)
        return None if found is None else found[0]

    @property
    def trusted(self) -> bool:
        """Whether nobody else can have taken a seat that is held here.

        A coordinator that is cut off from the store must cease by itself to believe in its seats.
        """
        return not self.shared or self._now_us() < self._trusted_until_us

    async def take(self, *, reclaim: bool) -> list[records.Seat]:
        """Takes every free seat, renews the others, and gives all whose desks can be opened.

        With `reclaim`, nothing that was written before and is not known to have been counts later.
        """
        now_us = self._now_us()

        def take() -> list[records.Seat]:
            if reclaim:
                self._seats.reclaim()
            self._seats.take(now_us, self._seat_us)
            return self._seats.renew(now_us, self._seat_us)

        seats = await self._commits.on_writer(take)
        self._trust_from(now_us)
        if self.shared:
            await self._learn_others()
        terms = {seat.tenant_id: seat.term for seat in seats}
        self._quarantine = {
            tenant_id: found
            for tenant_id, found in self._quarantine.items()
            if terms.get(tenant_id) == found[0]
        }
        return [seat for seat in seats if seat.tenant_id not in self._quarantine]

    async def renew(self, desks: Mapping[str, Desk]) -> list[str]:
        """Renews the seats, and gives the tenants of those that were lost."""
        now_us = self._now_us()
        seats = await self._commits.on_writer(lambda: self._seats.renew(now_us, self._seat_us))
        self._trust_from(now_us)
        terms = {seat.tenant_id: seat.term for seat in seats}
        lost = [name for name, desk in desks.items() if terms.get(name) != desk.term]
        if lost:
            await self._learn_others()
        return lost

    async def release(self) -> None:
        """Gives the seats back, so that another coordinator can take them at once."""
        if self._asking is not None:
            self._asking.cancel()
        await self._commits.on_writer(self._seats.release)

    async def read(self, seat: records.Seat) -> restore.StoredTenant | None:
        """Looks at a tenant's log and reads its open work. None: something is broken, and the
        tenant stopped; or the seat was lost meanwhile.
        """
        # However long it takes, the writer's thread is free to renew the seats.
        try:
            stored = await asyncio.to_thread(self._read, seat)
        except StoreFailed:
            raise
        except LogBroken as error:
            self._quarantine[seat.tenant_id] = (seat.term, str(error))
            log.error("a tenant is stopped", tenant=seat.tenant_id, reason=str(error))
            return None
        except Exception as error:  # noqa: BLE001 - the other tenants' work goes on
            self._give_up(seat, error)
            return None
        held = await self._commits.on_writer(self._seats.held)
        if (seat.tenant_id, seat.term) not in {(one.tenant_id, one.term) for one in held}:
            return None
        return stored

    def open(self, seat: records.Seat, stored: restore.StoredTenant) -> Desk | None:
        """Opens a desk with the work that was read. None: the work is broken."""
        desk = self._new_desk(stored.tenant, seat.term)
        desk.pauses = stored.pauses
        try:
            restore.restore(desk, stored.runs, self._slots_of, self._now_us())
        except Exception as error:  # noqa: BLE001 - the other tenants' work goes on
            for lease in desk.leases.values():
                lease.agent.leases.pop(lease.key, None)
            self._give_up(seat, error)
            return None
        if desk.runs:
            log.info("open work read back", tenant=seat.tenant_id, runs=len(desk.runs))
        return desk

    def _new_desk(self, tenant: records.Tenant, term: int) -> Desk:
        return Desk(
            tenant,
            term=term,
            journal=self._journal(),
            draw=os.urandom,
            lease_us=self._settings.lease_us,
            accept_us=self._settings.accept_us,
            law=self._law_of(tenant.tenant_id),
        )

    def _trust_from(self, asked_us: int) -> None:
        # The seats hold at least so long from when it was asked, whatever the server's clock says.
        self._trusted_until_us = max(self._trusted_until_us, asked_us + self._seat_us)

    def _give_up(self, seat: records.Seat, error: Exception) -> None:
        reason = f"its open work cannot be read back: {error}"
        self._quarantine[seat.tenant_id] = (seat.term, reason)
        log.error("open work cannot be read back", tenant=seat.tenant_id, exc_info=error)

    def _read(self, seat: records.Seat) -> restore.StoredTenant:
        with self._store.reading():
            tenant = Reads(self._store).tenant(seat.tenant_id)
            if tenant is None:
                raise LookupError(f"tenant {seat.tenant_id} has a seat but no row")
            self._learn(seat.tenant_id)
            inspect(EvidenceReads(self._store, seat.tenant_id), self._chain)
            reads = TenantReads(self._store, seat.tenant_id)
            return restore.StoredTenant(tenant, restore.read_open_runs(reads), reads.pauses())

    async def _ask(self) -> None:
        try:
            await self._learn_others()
        except StoreFailed as error:
            log.warning("the holders of the seats could not be read", error=str(error))
        # However many ask for a tenant that nobody holds.
        await asyncio.sleep(ASK_SECONDS)

    def _asked(self, _: asyncio.Task[None]) -> None:
        self._asking = None

    async def _learn_others(self) -> None:
        def read() -> dict[str, str]:
            with self._store.reading():
                return {seat.tenant_id: seat.address for seat in Reads(self._store).seats()}

        self._elsewhere = await self._commits.on_writer(read)
