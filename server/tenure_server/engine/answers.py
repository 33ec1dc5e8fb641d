"""Mutations that may be repeated: the same request id gets the same answer, whoever asks first.

Lookups group by themselves: while one read is under way, those that arrive wait together for the
next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from tenure_server.core import errors, records
from tenure_server.engine.registry import Recent

ANSWERS_MAX = 50_000

#: Tenant id and request id.
Key = tuple[str, str]
Read = Callable[[Sequence[Key]], Awaitable[dict[Key, records.Answer]]]


class Answers:
    """Answers given lately, and claims on request ids that are being worked on."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._known: Recent[Key, records.Answer] = Recent(ANSWERS_MAX)
        self._claims: dict[Key, asyncio.Future[None]] = {}
        self._wanted: dict[Key, asyncio.Future[records.Answer | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    def learn(self, tenant_id: str, request_id: str, answer: records.Answer) -> None:
        """Keeps an answer that was committed."""
        self._known.put((tenant_id, request_id), answer)

    @asynccontextmanager
    async def claim(
        self, tenant_id: str, requests: Iterable[records.Request | None]
    ) -> AsyncIterator[dict[str, records.Answer]]:
        """Holds request ids for one caller, and gives the answers that exist already.

        Raises RequestIdReused when one was used for another content.
        """
        wanted = {one.request_id: one for one in requests if one is not None and one.request_id}
        if not wanted:
            yield {}
            return
        keys = [(tenant_id, request_id) for request_id in wanted]
        while busy := [self._claims[key] for key in keys if key in self._claims]:
            await asyncio.wait(busy)
        claim: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._claims.update(dict.fromkeys(keys, claim))
        try:
            found = await self._find(keys)
            for request_id, answer in found.items():
                _check(wanted[request_id], answer)
            yield found
        finally:
            for key in keys:
                del self._claims[key]
            claim.set_result(None)

    async def _find(self, keys: Sequence[Key]) -> dict[str, records.Answer]:
        found = {}
        waiting = {}
        for key in keys:
            answer = self._known.get(key)
            if answer is not None:
                found[key[1]] = answer
            else:
                waiting[key[1]] = self._want(key)
        for request_id, future in waiting.items():
            answer = await future
            if answer is not None:
                found[request_id] = answer
        return found

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


def _check(request: records.Request, answer: records.Answer) -> None:
    if (answer.method, answer.digest) != (request.method, request.digest):
        raise errors.RequestIdReused(
            f"request_id {request.request_id!r} was used for another request",
            request_id=request.request_id,
        )
