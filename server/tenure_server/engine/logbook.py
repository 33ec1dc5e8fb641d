"""The logbook: what can be asked of the logs that this coordinator writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from tenure_server.core import errors
from tenure_server.core.evidence import INSTALLATION, Act
from tenure_server.core.ledger import records
from tenure_server.engine import log_watch, notary
from tenure_server.engine.floor import Floor
from tenure_server.engine.inspection import LogBroken
from tenure_server.engine.notary import Notary
from tenure_server.engine.strangers import Strangers
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.evidence_reads import EvidenceReads


class Logbook:
    """Writes down acts by which nothing changed, and has the logs signed and followed."""

    def __init__(
        self,
        floor: Floor,
        store: Store,
        read: Callable[..., Awaitable[Any]],
        signer: Notary | None,
    ) -> None:
        #: Runs work on a read-only connection in a reader thread.
        self.read = read
        self._floor = floor
        self._store = store
        self._notary = signer
        self._strangers = Strangers(lambda act: floor.note(act, (INSTALLATION,)))

    def start(self) -> None:
        """Has the logs signed now and then."""
        if self._notary is not None:
            self._floor.spawn(notary.keep_signed(self._notary, self, lambda: self._floor.desks))

    def stop(self) -> None:
        """Writes down what was only counted."""
        self._strangers.close()

    @property
    def notary(self) -> Notary:
        """Who signs. Raises LookupError in an engine without keys."""
        if self._notary is None:
            raise LookupError("this engine has no signing keys")
        return self._notary

    def now_us(self) -> int:
        """The time."""
        return self._floor.now_us()

    def keep(self, work: Callable[[Acts], None]) -> Awaitable[None]:
        """Runs work in a transaction of its own, under no seat. Raises StoreUnavailable."""
        return self._floor.cold.act({}, work)

    async def record(self, act: Act, tenant_ids: Sequence[str]) -> str:
        """Writes down an act by which nothing changed: a read, a repetition, a refusal.

        It stands in the log of each tenant, or in the installation's when there is none. Gives the
        decision's id, empty when no evidence is kept. Raises SeatElsewhere, Quarantined,
        StoreUnavailable.
        """
        if not act.principal and not self._strangers.admits():
            return ""
        if len(tenant_ids) > 1:
            # A call for several tenants goes on for those whose logs are sound.
            sound = [name for name in tenant_ids if not self._floor.quarantine_of(name)]
            tenant_ids = sound or tenant_ids
        drafts = self._floor.note(act, tenant_ids or (INSTALLATION,))
        if not drafts:
            return ""
        await self._floor.flushed()
        return drafts[0].decision_id

    def log_of(self, tenant_ids: Sequence[str]) -> Sequence[str]:
        """Where a call stands that chose no tenant: with its caller's only one, if that is decided
        for here, else with the installation.
        """
        mine = len(tenant_ids) == 1 and tenant_ids[0] in self._floor.desks
        return tenant_ids if mine else (INSTALLATION,)

    async def checkpoint(self, tenant_id: str) -> records.Checkpoint:
        """Signs a log as it stands. Raises Quarantined, StoreUnavailable."""
        try:
            return await self.notary.checkpoint(self, tenant_id)
        except LogBroken as error:
            raise errors.Quarantined(tenant_id, str(error)) from None

    def follow(
        self, tenant_id: str, index: int, *, with_items: bool
    ) -> AsyncIterator[Sequence[records.LogEntry]]:
        """Yields the entries of a log from a number on; see `log_watch.follow_log`."""
        return log_watch.follow_log(
            self._floor.watchers.logs,
            EvidenceReads(self._store, tenant_id),
            self.read,
            index=index,
            with_items=with_items,
            shared=tenant_id == INSTALLATION and self._floor.seating.shared,
        )
