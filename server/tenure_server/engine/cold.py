"""Acts with a transaction of their own, beside those in which the turns of the floor commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tenure_server.core import errors
from tenure_server.core.desks.law import Law
from tenure_server.core.evidence import INSTALLATION, Act, Draft
from tenure_server.engine.commits import Commits
from tenure_server.engine.watch import Watchers
from tenure_server.store.acts import Acts
from tenure_server.store.errors import SeatLost, StoreConflict, StoreFailed

T = TypeVar("T")


class ColdPath:
    """Writes what changes seldom. Desks hear of it afterwards."""

    def __init__(
        self,
        commits: Commits,
        watchers: Watchers,
        *,
        now_us: Callable[[], int],
        law_of: Callable[[str], Law],
        keeps_evidence: bool,
    ) -> None:
        self._commits = commits
        self._watchers = watchers
        self._now_us = now_us
        self._law_of = law_of
        self._keeps_evidence = keeps_evidence

    async def act(
        self,
        seats: Mapping[str, int],
        work: Callable[[Acts], T],
        act: Act | None = None,
        logs: Sequence[str] = (),
    ) -> T:
        """Runs a mutation in a transaction of its own, which is the act's own too: it stands in
        these logs; when none is named in those of the seats' tenants, or in the installation's
        where there are none.

        Raises StoreUnavailable, and whatever refusal `work` raises.
        """
        drafts: list[Draft] = []
        if act is not None and self._keeps_evidence:
            now_us = self._now_us()
            drafts = [
                Draft(act, tenant_id, now_us, self._law_of(tenant_id).digest)
                for tenant_id in logs or seats or (INSTALLATION,)
            ]
        try:
            result = await self._commits.act(seats, work, drafts)
            self._watchers.logs.publish(draft.tenant_id for draft in drafts)
            if act is not None:
                act.taken = True
            return result
        except (StoreFailed, StoreConflict, SeatLost) as error:
            raise unavailable(error) from error


def unavailable(error: BaseException) -> errors.StoreUnavailable:
    """What a caller is told whose commit failed."""
    if isinstance(error, errors.StoreUnavailable):
        return error
    return errors.StoreUnavailable("the store could not commit; nothing was acknowledged")
