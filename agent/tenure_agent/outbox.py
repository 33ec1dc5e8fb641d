"""Results on their way: to the spool, to the coordinator, and gone when an outcome names them.

Results that end in the same turn of the loop go to the disk in one write. A result is never sent
before it was written. It waits under its tenant, so that it goes to whichever coordinator holds the
tenant's seat by then; of a result that an earlier process left nobody knows whose it is. When the
disk refuses, results are kept in memory and sent all the same: a full disk must not stop the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

import structlog

from tenure.v1 import agents_pb2
from tenure_agent.holding import Key
from tenure_agent.spool import Spool

#: Between the last acknowledgement and the tidying of the spool.
TIDY_SECONDS = 1.0
#: Stands for the tenant of a result that an earlier process left.
UNKNOWN = ""

log: structlog.stdlib.BoundLogger = structlog.get_logger("outbox")


class Outbox:
    """The results that are not acknowledged."""

    def __init__(
        self,
        spool: Spool,
        *,
        loop: asyncio.AbstractEventLoop,
        sync: bool,
        ready: Callable[[], None],
    ) -> None:
        """`ready` is called when there is something to `take`."""
        self._spool = spool
        self._loop = loop
        self._sync = sync
        self._syncing: asyncio.Future[None] | None = None
        self._sync_again = False
        self._ready = ready
        self._fresh: list[tuple[agents_pb2.Result, str]] = []
        #: By tenant, oldest first.
        self._unsent: dict[str, list[agents_pb2.Result]] = {}
        self._waiting: dict[Key, tuple[agents_pb2.Result, str]] = {
            key_of(result): (result, UNKNOWN) for result in spool.left
        }
        self._tidy: asyncio.TimerHandle | None = None
        self._disk_failed = False

    def __len__(self) -> int:
        """How many results are not acknowledged."""
        return len(self._waiting) + len(self._fresh)

    def __contains__(self, key: Key) -> bool:
        """Whether a lease has a result that is not acknowledged."""
        return key in self._waiting

    def leases(self, besides: Collection[str] = ()) -> list[agents_pb2.LeaseRef]:
        """The leases that have results here, but for those of some tenants."""
        self.flush()
        return [result.lease for result, tenant in self._waiting.values() if tenant not in besides]

    def add(self, result: agents_pb2.Result, tenant: str) -> None:
        """Takes a result. It is on disk before the loop's next turn ends."""
        if not self._fresh:
            self._loop.call_soon(self.flush)
        self._fresh.append((result, tenant))

    def flush(self) -> None:
        """Writes what came since the last time."""
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, []
        try:
            self._spool.append([result for result, _ in fresh])
            self._disk_failed = False
        except OSError as error:
            if not self._disk_failed:
                reason = error.strerror
                log.error("spool cannot be written, results are in memory only", reason=reason)
            self._disk_failed = True
        waiting, unsent = self._waiting, self._unsent
        for item in fresh:
            result, tenant = item
            lease = result.lease
            waiting[(lease.run_id, lease.task_key, lease.term)] = item
            queue = unsent.get(tenant)
            if queue is None:
                unsent[tenant] = [result]
            else:
                queue.append(result)
        if self._sync:
            self._start_sync()
        self._ready()

    def take(self, tenants: Collection[str], bytes_max: int) -> list[agents_pb2.Result]:
        """Takes results of these tenants to send, of each the oldest first, at least one if there
        is any.
        """
        self.flush()
        taken: list[agents_pb2.Result] = []
        size = 0
        for tenant in [name for name in self._unsent if name in tenants]:
            unsent = self._unsent.pop(tenant)
            for count, result in enumerate(unsent):
                size += result.ByteSize() + 8
                if size > bytes_max and (count or taken):
                    self._unsent[tenant] = unsent[count:]
                    return taken + unsent[:count]
            taken = taken + unsent if taken else unsent
        return taken

    def strays(self) -> list[agents_pb2.Result]:
        """The results of an earlier process, to be shown to each coordinator."""
        return [result for result, tenant in self._waiting.values() if tenant == UNKNOWN]

    def acknowledge(self, keys: Iterable[Key]) -> None:
        """Forgets results that were given a verdict, whichever."""
        known = [key for key in keys if self._waiting.pop(key, None) is not None]
        self._spool.acknowledge(known)
        if not self._waiting and self._tidy is None:
            self._tidy = self._loop.call_later(TIDY_SECONDS, self._tidy_up)

    def line_up(self, tenants: Collection[str]) -> None:
        """Everything of these tenants that has no verdict is to be sent again."""
        self.flush()
        for tenant in tenants:
            self._unsent.pop(tenant, None)
        for result, tenant in self._waiting.values():
            if tenant in tenants:
                self._unsent.setdefault(tenant, []).append(result)

    async def close(self) -> None:
        """Writes what is left and closes the spool."""
        self.flush()
        if self._tidy is not None:
            self._tidy.cancel()
        if self._syncing is not None:
            await self._syncing
        self._spool.close()

    def _tidy_up(self) -> None:
        self._tidy = None
        try:
            self._spool.compact()
        except OSError as error:
            log.error("spool cannot be tidied", reason=error.strerror)

    def _start_sync(self) -> None:
        """Syncs in a thread. What is appended meanwhile goes with the next sync."""
        if self._syncing is not None:
            self._sync_again = True
            return
        self._sync_again = False
        self._syncing = self._loop.run_in_executor(None, self._spool.sync)
        self._syncing.add_done_callback(self._synced)

    def _synced(self, done: asyncio.Future[None]) -> None:
        self._syncing = None
        error = done.exception()
        if error is not None:
            log.error("spool cannot be synced", reason=str(error))
        if self._sync_again:
            self._start_sync()


def key_of(result: agents_pb2.Result) -> Key:
    """Names the lease of a result."""
    lease = result.lease
    return (lease.run_id, lease.task_key, lease.term)
