"""Erases a tenant: nobody works for it any more, then all its rows go in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tenure_server.core import ids
from tenure_server.core.evidence import INSTALLATION, Act
from tenure_server.core.ledger import records
from tenure_server.engine.engine import Engine
from tenure_server.store.acts import Acts
from tenure_server.store.retention import Erased


async def erase_tenant(
    engine: Engine,
    tenant_id: str,
    *,
    request: records.Request | None,
    act: Act,
    answer: Callable[[Erased], bytes],
    end_streams: Callable[[str], None],
) -> bytes:
    """Erases a tenant, its log, and the keys that act for it alone; gives the answer.

    What is left is an entry in the installation's log with the erased log's size and root. Raises
    NotFound, RunsOpen, SeatElsewhere, RequestIdReused, StoreUnavailable.
    """
    gone: list[Erased] = []

    def work(acts: Acts) -> bytes:
        erased = acts.erase_tenant(tenant_id)
        gone.append(erased)
        act.subject = {
            "tenant": tenant_id,
            "size": str(erased.size),
            "root": erased.root.hex(),
        }
        return answer(erased)

    async def forget(outcome: bytes | None) -> None:
        if outcome is None or not gone:
            return
        engine.forget_erased(tenant_id)
        for key in gone[-1].keys:
            await engine.after_revoke(replace(key, revoke_us=engine.now_us()))
            end_streams(key.api_key_id)

    async with engine.closed_for_good(tenant_id) as seats:
        return await engine.mutate(
            seats=seats,
            logs=(INSTALLATION,),
            remember_under=ids.INSTALLATION,
            request=request,
            work=work,
            afterwards=forget,
            act=act,
        )
