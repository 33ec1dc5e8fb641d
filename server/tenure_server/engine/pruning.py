"""Forgets what is not to be kept for ever: payloads of runs that ended long ago, then the runs.

In bounded pieces, each in a transaction under the tenant's seat and with an entry in its log. The
log itself stays, so every proof that was ever given stays good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from tenure_server.core.desks.desk import Desk
from tenure_server.core.evidence import Act
from tenure_server.engine.alone import Alone
from tenure_server.engine.cold import ColdPath
from tenure_server.engine.settings import Settings
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.retention_reads import Old, RetentionReads

#: How many pieces of one kind one tenant has in one round.
PIECES = 20
#: How long a tenant is left alone once nothing of a kind was left to forget.
REST_US = 600_000_000

log = structlog.get_logger()


class Kept(Protocol):
    """What is needed of the floor."""

    desks: dict[str, Desk]
    cold: ColdPath
    alone: Alone

    async def flushed(self) -> None:
        """Waits until all that was decided is written."""

    def now_us(self) -> int:
        """The time."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """One kind of thing, how long it is kept, and what finds and forgets it."""

    kind: str
    keep_us: int
    find: Callable[[RetentionReads, int], Old]
    forget: Callable[[Acts, str, Old], None]


class Pruning:
    """Prunes the tenants whose seats are held."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._rules = [
            _Rule(
                "retention.facts",
                settings.keep_payloads_us,
                RetentionReads.old_facts,
                lambda acts, tenant_id, old: acts.retention.prune_facts(tenant_id, old.entries),
            ),
            _Rule(
                "retention.payloads",
                settings.keep_payloads_us,
                RetentionReads.old_payloads,
                lambda acts, tenant_id, old: acts.retention.prune_payloads(tenant_id, old.runs),
            ),
            _Rule(
                "retention.runs",
                settings.keep_runs_us,
                RetentionReads.old_runs,
                lambda acts, tenant_id, old: acts.retention.prune_runs(tenant_id, old.runs),
            ),
        ]
        #: When there is something to look for again, by tenant and kind.
        self._rest_until_us: dict[tuple[str, str], int] = {}

    async def round(self, floor: Kept) -> None:
        """Forgets some of what is old. Raises StoreFailed, StoreUnavailable."""
        for tenant_id in list(floor.desks):
            for rule in self._rules:
                resting_us = self._rest_until_us.get((tenant_id, rule.kind), 0)
                if rule.keep_us and floor.now_us() >= resting_us:
                    await self._prune(floor, tenant_id, rule)

    async def _prune(self, floor: Kept, tenant_id: str, rule: _Rule) -> None:
        before_us = floor.now_us() - rule.keep_us
        reads = RetentionReads(self._store, tenant_id)
        find = partial(rule.find, reads, before_us)
        for _ in range(PIECES):
            old = await asyncio.to_thread(self._read, find)
            if not old:
                self._rest_until_us[tenant_id, rule.kind] = floor.now_us() + REST_US
                return
            with floor.alone.holding_free(old.runs) as held:
                # Before the second look: who has the seat meanwhile knows nothing of holding.
                desk = floor.desks.get(tenant_id)
                if old.runs:
                    # Some may have been opened again while they were looked for, or are about to.
                    await floor.flushed()
                    look = partial(reads.still_old, held, before_us)
                    old = await asyncio.to_thread(self._read, look)
                if desk is None or not old:
                    return
                subject = {"before": str(before_us), "count": str(len(old.runs or old.entries))}
                forget = _forgetting(rule, tenant_id, old)
                await floor.cold.act(
                    {tenant_id: desk.term}, forget, Act(kind=rule.kind, subject=subject)
                )
            log.debug("forgot what was old", tenant=tenant_id, kind=rule.kind)

    def _read(self, look: Callable[[], Old]) -> Old:
        with self._store.reading():
            return look()


def _forgetting(rule: _Rule, tenant_id: str, old: Old) -> Callable[[Acts], None]:
    return lambda acts: rule.forget(acts, tenant_id, old)
