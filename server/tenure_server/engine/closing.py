"""Closes a tenant's desk for as long as the tenant is being erased."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from tenure_server.core import errors
from tenure_server.engine.floor import Floor


@contextlib.asynccontextmanager
async def closed_for_good(floor: Floor, tenant_id: str) -> AsyncIterator[dict[str, int]]:
    """Closes a tenant's desk, and gives its seat with the term, if it is held here.

    When the tenant is there still afterwards, its desk is opened again. Raises RunsOpen.
    """
    desk = floor.desks.get(tenant_id)
    if desk is not None and desk.runs:
        raise errors.RunsOpen(
            f"{len(desk.runs)} runs of tenant {tenant_id} have not ended: cancel them first",
            tenant_id=tenant_id,
        )
    term = floor.seating.term_of_quarantined(tenant_id) if desk is None else desk.term
    floor.opening.erasing.add(tenant_id)
    try:
        floor.opening.close(tenant_id)
        # What was decided before is committed before.
        await floor.flushed()
        yield {} if term is None else {tenant_id: term}
    finally:
        floor.opening.erasing.discard(tenant_id)
        if floor.serving:
            await floor.take_seats()
