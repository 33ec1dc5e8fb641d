"""Pauses workflows and tenants, and lets them go on: kept first, then in effect.

What is leased between the two goes on like everything that was leased before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tenure_server.core.desks import pauses
from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records
from tenure_server.engine.floor import Floor
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads


class Pausing:
    """Everything raises RequestIdReused, SeatElsewhere and StoreUnavailable.

    Pausing twice is the same as once: the first reason stays. So is resuming.
    """

    def __init__(
        self,
        floor: Floor,
        store: Store,
        *,
        read: Callable[..., Awaitable[Any]],
        mutate: Callable[..., Awaitable[bytes]],
    ) -> None:
        self._floor = floor
        self._store = store
        self._read = read
        self._mutate = mutate
        self._changing = asyncio.Lock()

    def of(self, tenant_id: str, workflow: str = pauses.TENANT) -> records.Pause | None:
        """Why a workflow, or a tenant, is paused. None: it is not, or its seat is not held here."""
        desk = self._floor.desks.get(tenant_id)
        return None if desk is None else desk.pauses.get(workflow)

    async def pause(
        self,
        tenant_id: str,
        workflow: str,
        reason: str,
        *,
        by: str,
        act: Act,
        request: records.Request | None,
        remember_under: str,
    ) -> None:
        """Leases nothing more of a workflow; with an empty name, of a tenant. `by`: a key's id."""
        pause = records.Pause(
            workflow=workflow, reason=reason, pause_us=self._floor.now_us(), paused_by=by
        )
        await self._change(
            tenant_id,
            lambda acts: acts.pause(tenant_id, pause),
            _said_of(act, workflow, reason),
            request,
            remember_under,
        )

    async def resume(
        self,
        tenant_id: str,
        workflow: str,
        reason: str,
        *,
        act: Act,
        request: records.Request | None,
        remember_under: str,
    ) -> None:
        """Lets it go on."""
        await self._change(
            tenant_id,
            lambda acts: acts.resume(tenant_id, workflow),
            _said_of(act, workflow, reason),
            request,
            remember_under,
        )

    async def _change(
        self,
        tenant_id: str,
        change: Callable[[Acts], None],
        act: Act,
        request: records.Request | None,
        remember_under: str,
    ) -> None:
        def work(acts: Acts) -> bytes:
            change(acts)
            return b""

        async def take_effect(_: bytes | None) -> None:
            # One after the other, so that what was read first is not taken last.
            async with self._changing:
                desk = self._floor.desks.get(tenant_id)
                found = await self._read(TenantReads(self._store, tenant_id).pauses)
                # A desk that was opened meanwhile has read them by itself.
                if desk is not None and self._floor.desks.get(tenant_id) is desk:
                    pauses.take(desk, found, self._floor.now_us())
                    self._floor.stir(desk)

        await self._mutate(
            tenants=[tenant_id],
            remember_under=remember_under,
            request=request,
            work=work,
            act=act,
            afterwards=take_effect,
        )


def _said_of(act: Act, workflow: str, reason: str) -> Act:
    said = {"workflow": workflow, "reason": reason}
    act.subject = {name: text for name, text in said.items() if text}
    return act
