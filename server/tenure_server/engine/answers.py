"""Mutations that may be repeated: the same request id gets the same answer, whoever asks first.

Lookups group by themselves: while one read is under way, those that arrive wait together for the
next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import structlog

from tenure_server.core import errors
from tenure_server.core.desks.desk import Desk
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Row
from tenure_server.core.seen import Seen
from tenure_server.engine.floor import Floor
from tenure_server.engine.registry import Recent
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import TenantReads

ANSWERS_MAX = 50_000
#: How many request ids are read at once when a desk is opened.
REQUEST_IDS_PAGE = 5000

#: Tenant id and request id.
Key = tuple[str, str]
Read = Callable[[Sequence[Key]], Awaitable[dict[Key, records.Answer]]]

log = structlog.get_logger()


class Answers:
    """Answers given lately, and claims on request ids that are being worked on."""

    def __init__(self, read: Read, now_us: Callable[[], int], memory_us: int) -> None:
        self._read = read
        self._now_us = now_us
        #: How long the store keeps answers.
        self._memory_us = memory_us
        self._known: Recent[Key, records.Answer] = Recent(ANSWERS_MAX)
        self._claims: dict[Key, asyncio.Future[None]] = {}
        self._committing: dict[Key, asyncio.Future[Any]] = {}
        self._wanted: dict[Key, asyncio.Future[records.Answer | None]] = {}
        self._reading: asyncio.Task[None] | None = None
        #: The ids of each tenant whose seat is held here, and whether those in the store are in.
        self._seen: dict[str, Seen] = {}
        self._covered: set[str] = set()

    def open(self, tenant_id: str) -> Seen:
        """Begins to note the ids of a tenant, when its seat is taken."""
        self._covered.discard(tenant_id)
        seen = self._seen[tenant_id] = Seen()
        return seen

    def cover(self, tenant_id: str, seen: Seen) -> None:
        """Says that `seen`, which `open` gave, now has every id that is in the store."""
        if self._seen.get(tenant_id) is seen:
            self._covered.add(tenant_id)

    def close(self, tenant_id: str) -> None:
        """Forgets the ids of a tenant, when its seat is lost or memory is thrown away."""
        self._covered.discard(tenant_id)
        self._seen.pop(tenant_id, None)

    def erase(self, tenant_id: str) -> None:
        """Forgets everything of a tenant that is gone."""
        self.close(tenant_id)
        self._known.forget(lambda key: key[0] == tenant_id)

    def keep(
        self,
        tenant_id: str,
        commit: asyncio.Future[Any],
        answers: Mapping[str, records.Answer | None],
    ) -> None:
        """Keeps answers by request id once their commit is through; None: the commit gives it.

        Until then the ids stay claimed, even when the caller has given up waiting.
        """
        keys = {(tenant_id, request_id): answer for request_id, answer in answers.items()}
        self._committing.update(dict.fromkeys(keys, commit))

        def done(commit: asyncio.Future[Any]) -> None:
            kept = not commit.cancelled() and commit.exception() is None
            for key, answer in keys.items():
                self._committing.pop(key, None)
                if kept:
                    self._known.put(key, answer or commit.result())
            if kept:
                self._note(keys)

        commit.add_done_callback(done)

    def claim(
        self, tenant_id: str, requests: Iterable[records.Request | None]
    ) -> AbstractAsyncContextManager[dict[str, records.Answer]]:
        """Holds request ids for one caller, and gives the answers that exist already.

        Raises RequestIdReused when one was used for another content.
        """
        wanted = {one.request_id: one for one in requests if one is not None and one.request_id}
        return self._claimed(tenant_id, wanted) if wanted else nullcontext({})

    @asynccontextmanager
    async def _claimed(
        self, tenant_id: str, wanted: Mapping[str, records.Request]
    ) -> AsyncIterator[dict[str, records.Answer]]:
        keys = [(tenant_id, request_id) for request_id in wanted]
        while busy := self._busy(keys):
            await asyncio.wait(busy)
        claim: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._claims.update(dict.fromkeys(keys, claim))
        try:
            found = await self._find(keys)
            self._note(keys)
            for request_id, answer in found.items():
                _check(wanted[request_id], answer)
            yield found
        finally:
            for key in keys:
                del self._claims[key]
            claim.set_result(None)

    async def once(
        self,
        tenant_id: str,
        request: records.Request | None,
        decide: Callable[[], Awaitable[bytes]],
    ) -> bytes:
        """Has something decided and gives its answer, or the one that the same request got before.

        What is decided has to be committed with its answer, see `commit_answer`. Raises
        RequestIdReused, and whatever `decide` raises.
        """
        async with self.claim(tenant_id, [request]) as found:
            if request is not None and request.request_id in found:
                return found[request.request_id].response
            return await decide()

    def _busy(self, keys: Iterable[Key]) -> set[asyncio.Future[Any]]:
        found = (self._claims.get(key) or self._committing.get(key) for key in keys)
        return {future for future in found if future is not None}

    async def _find(self, keys: Sequence[Key]) -> dict[str, records.Answer]:
        found = {}
        waiting = {}
        for key in keys:
            answer = self._known.get(key)
            if answer is not None:
                found[key[1]] = answer
            elif key[0] not in self._covered or self._seen[key[0]].may_hold(key[1]):
                waiting[key[1]] = self._want(key)
        for request_id, future in waiting.items():
            answer = await future
            if answer is not None:
                found[request_id] = answer
        return found

    def _note(self, keys: Iterable[Key]) -> None:
        # Before the act: a commit that fails may have happened all the same.
        now_us = self._now_us()
        for tenant_id, request_id in keys:
            if (seen := self._seen.get(tenant_id)) is not None:
                seen.forget(now_us - self._memory_us)
                seen.add(request_id, now_us)

    def _want(self, key: Key) -> asyncio.Future[records.Answer | None]:
        future: asyncio.Future[records.Answer | None]
        future = asyncio.get_running_loop().create_future()
        self._wanted[key] = future
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_wanted())
        return future

    async def _read_wanted(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                try:
                    answers = await self._read(list(wanted))
                except Exception as error:  # noqa: BLE001 - handed to everyone who waits
                    for future in wanted.values():
                        if not future.cancelled():
                            future.set_exception(error)
                    continue
                for key, future in wanted.items():
                    if not future.cancelled():
                        future.set_result(answers.get(key))
        finally:
            self._reading = None


def answer_to(request: records.Request, response: bytes) -> records.Answer:
    """What is kept of a mutation's answer."""
    return records.Answer(method=request.method, digest=request.digest, response=response)


def answer_row(tenant_id: str, request_id: str, answer: records.Answer, at_us: int) -> Row:
    """The journal's row of an answer, see `journal.REQUEST_COLUMNS`."""
    return tenant_id, request_id, answer.method, answer.digest, answer.response, at_us


async def commit_answer(
    floor: Floor,
    answers: Answers,
    desk: Desk,
    request: records.Request | None,
    response: bytes,
) -> bytes:
    """Commits what was decided on a desk, and with it what a repetition of the request is told.

    Gives the answer once that is done. Raises StoreUnavailable.
    """
    floor.stir(desk)
    commit = floor.flush()
    if request is not None and request.request_id:
        tenant_id = desk.tenant.tenant_id
        answer = answer_to(request, response)
        floor.journal.request(answer_row(tenant_id, request.request_id, answer, floor.now_us()))
        answers.keep(tenant_id, commit, {request.request_id: answer})
    await asyncio.shield(commit)
    return response


def _check(request: records.Request, answer: records.Answer) -> None:
    if (answer.method, answer.digest) != (request.method, request.digest):
        raise errors.RequestIdReused(
            f"request_id {request.request_id!r} was used for another request",
            request_id=request.request_id,
        )


async def read_back(
    answers: Answers,
    tenant_id: str,
    seen: Seen,
    reads: TenantReads,
    read: Callable[..., Awaitable[Any]],
) -> None:
    """Reads all ids of a tenant whose desk was opened. Until then each is looked up."""
    stored = Seen()

    def fill(after: str) -> str:
        page = reads.request_ids(after, REQUEST_IDS_PAGE)
        for request_id, at_us in page:
            stored.add(request_id, at_us)
        return page[-1][0] if page else ""

    try:
        after = await read(fill, "")
        while after:
            after = await read(fill, after)
    except StoreFailed as error:
        log.warning("request ids could not be read", error=str(error), tenant=tenant_id)
        return
    seen.put_before(stored)
    answers.cover(tenant_id, seen)
