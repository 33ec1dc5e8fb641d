"""What can go wrong with the store, apart from refusals.

    StoreOpenError            it cannot be opened; the message is for the operator
    └── StoreLocked           another coordinator works on the same SQLite file
    StoreFailed               the transaction did not happen, or it is unknown whether it did
    StoreConflict             the tables say otherwise than the engine's memory
    SeatLost                  another coordinator decides for these tenants now

After any of the last three the engine must throw away what it holds in memory for the tenants
concerned, and read it again: nothing here is ever repaired.
"""

from __future__ import annotations

from collections.abc import Iterable


class StoreOpenError(Exception):
    """The store cannot be opened. The message is a sentence that names what and why."""


class StoreLocked(StoreOpenError):  # noqa: N818
    """Another coordinator has the SQLite file open."""


class StoreFailed(Exception):  # noqa: N818
    """The database could not do it: disk full, read-only, connection gone.

    Nothing was changed, with one exception: when the connection broke while PostgreSQL was
    committing, nobody knows. The next call opens a new connection.
    """


class StoreConflict(Exception):  # noqa: N818
    """A compare-and-set found another state or term than expected; nothing was changed."""


class SeatLost(Exception):  # noqa: N818
    """The seats of these tenants have moved; nothing was changed."""

    def __init__(self, tenant_ids: Iterable[str]) -> None:
        self.tenant_ids = frozenset(tenant_ids)
        super().__init__(f"lost the seat of {', '.join(sorted(self.tenant_ids))}")
