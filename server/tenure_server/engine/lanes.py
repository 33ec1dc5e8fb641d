"""One at a time of each tenant: who follows something reads, and gets ready what he read, alone.

However many watch, a tenant's watchers then take one of the threads that read, and one step of the
loop between those of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator


class Lanes:
    """The lanes of all tenants."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def lane(self, tenant_id: str) -> AsyncIterator[None]:
        """Waits until nobody else of the tenant is inside."""
        lock = self._locks.setdefault(tenant_id, asyncio.Lock())
        self._users[tenant_id] += 1
        try:
            async with lock:
                yield
                # What follows outside is done before the next one goes on.
                await asyncio.sleep(0)
        finally:
            self._users[tenant_id] -= 1
            if not self._users[tenant_id]:
                del self._users[tenant_id], self._locks[tenant_id]
