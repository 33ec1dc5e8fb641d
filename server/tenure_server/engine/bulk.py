"""The same to many runs: one act for each, at a bounded rate, told as it goes on."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.core.seeing.filters import Place, RunFilter, RunPage, Span
from tenure_server.engine.moves import Moves
from tenure_server.engine.operations import Operations, Read
from tenure_server.store.database import Store
from tenure_server.store.run_search import RunSearch

#: After so many runs, or so many seconds, it is told how far it is.
TOLD_RUNS = 100
TOLD_SECONDS = 1.0
#: So often it is tried with a run that changes while it is read.
_TRIES = 3
_AGAIN_SECONDS = 0.05
#: What a run may say to it; everything else ends all of it.
_REFUSALS = (
    errors.RunClosed,
    errors.RunStands,
    errors.RunChanged,
    errors.NotFound,
    errors.QuotaExceeded,
    errors.VersionsDiffer,
    errors.ActDenied,
)


class Verb(enum.IntEnum):
    """What can be done to many runs. Numbers as in the contract."""

    CANCEL = 1
    PAUSE = 2
    RESUME = 3
    CLOSE = 4
    RETRY = 5
    MOVE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be done to which runs. `rate` is in runs a second."""

    wanted: RunFilter
    verb: Verb
    reason: str
    rate: int
    dry_run: bool
    #: To move: to which version, the newest for 0, and whether runs go on at once.
    version: int = 0
    resume: bool = False
    request: records.Request | None


@dataclass(slots=True)
class Progress:
    """How far it is; the two lists hold what came since it was last told."""

    total: int
    more: bool
    matched: int = 0
    done: int = 0
    refused: int = 0
    run_ids: list[str] = field(default_factory=list)
    refusals: list[tuple[str, errors.Refusal]] = field(default_factory=list)

    def take(self) -> Progress:
        """What is to be told now; from here on the lists are empty again."""
        told = replace(self)
        self.run_ids, self.refusals = [], []
        return told


class Bulk:
    """Goes from run to run, oldest first. Raises what `Operations` raises but for single runs."""

    def __init__(
        self,
        operations: Operations,
        moves: Moves,
        store: Store,
        *,
        read: Read,
        now_us: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._operations = operations
        self._moves = moves
        self._store = store
        self._read = read
        self._now_us = now_us
        self._sleep = sleep

    async def change(self, origin: records.Origin, wish: Wish) -> AsyncIterator[Progress]:
        """Does it, and yields how far it is, at least at the beginning and at the end."""
        created = wish.wanted.created
        until_us = min(created.until_us, self._now_us() + 1)
        if until_us <= created.from_us:
            yield Progress(0, False)
            return
        # Whatever is created from now on is left out: it would never end otherwise.
        wanted = replace(wish.wanted, created=Span(created.from_us, until_us))
        search = RunSearch(self._store, origin.tenant_id)
        counts, first = await self._read(lambda: (search.count(wanted), _page(search, wanted)))
        progress = Progress(sum(one.count for one in counts), any(one.more for one in counts))
        yield progress.take()
        clock = asyncio.get_running_loop().time
        told_at = next_at = clock()
        async for run_id in self._runs(search, wanted, first):
            if not wish.dry_run:
                await self._sleep(max(0.0, next_at - clock()))
                next_at = max(next_at, clock()) + 1 / wish.rate
            await self._change_one(origin.for_one(run_id), wish, run_id, progress)
            news = len(progress.run_ids) + len(progress.refusals)
            if news >= TOLD_RUNS or clock() - told_at >= TOLD_SECONDS:
                told_at = clock()
                yield progress.take()
        yield progress.take()

    async def _runs(
        self, search: RunSearch, wanted: RunFilter, page: RunPage
    ) -> AsyncIterator[str]:
        while True:
            for run in page.runs:
                yield run.run_id
            if page.next_after is None:
                return
            page = await self._read(partial(_page, search, wanted, page.next_after))

    async def _change_one(
        self, origin: records.Origin, wish: Wish, run_id: str, progress: Progress
    ) -> None:
        progress.matched += 1
        if wish.dry_run:
            progress.run_ids.append(run_id)
            return
        request = wish.request
        if request is not None:
            request = replace(request, request_id=f"{request.request_id}/{run_id}")
        # As a caller does who is told to come again.
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(errors.RunChanged),
            stop=stop_after_attempt(_TRIES),
            wait=wait_fixed(_AGAIN_SECONDS),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            await retrying(self._do, origin, wish, run_id, request)
        except _REFUSALS as refusal:
            progress.refused += 1
            progress.refusals.append((run_id, refusal))
        else:
            progress.done += 1
            progress.run_ids.append(run_id)

    async def _do(
        self,
        origin: records.Origin,
        wish: Wish,
        run_id: str,
        request: records.Request | None,
    ) -> None:
        operations, reason = self._operations, wish.reason
        match wish.verb:
            case Verb.CANCEL:
                await operations.cancel(origin, run_id, reason, request)
            case Verb.PAUSE:
                await operations.pause(origin, run_id, reason, request)
            case Verb.RESUME:
                await operations.resume(origin, run_id, reason, request)
            case Verb.CLOSE:
                await operations.close(origin, run_id, reason, request)
            case Verb.RETRY:
                await operations.reopen(
                    origin, run_id, (), paused=False, reason=reason, request=request
                )
            case Verb.MOVE:
                await self._moves.move(
                    origin,
                    run_id,
                    wish.version,
                    resume=wish.resume,
                    reason=reason,
                    request=request,
                )


def _page(search: RunSearch, wanted: RunFilter, after: Place | None = None) -> RunPage:
    return search.page(wanted, after, TOLD_RUNS, oldest_first=True)
