"""Mutations of the cold path: one transaction and one act each, and what follows from them here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import structlog

from tenure_server.core import errors
from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records
from tenure_server.engine.answers import Answers, answer_to
from tenure_server.engine.floor import Floor
from tenure_server.store.acts import Acts

T = TypeVar("T")
#: What follows a mutation: it gets the answer, or None when its outcome is not known.
Afterwards = Callable[[bytes | None], Awaitable[None]]

log = structlog.get_logger()


class Mutations:
    """Those that are under way, and what follows those that were done."""

    def __init__(self, floor: Floor, answers: Answers) -> None:
        self._floor = floor
        self._answers = answers
        self._following: set[asyncio.Task[bytes]] = set()

    async def mutate(
        self,
        *,
        tenants: Sequence[str] = (),
        seats: Mapping[str, int] | None = None,
        logs: Sequence[str] = (),
        remember_under: str,
        request: records.Request | None,
        work: Callable[[Acts], bytes],
        afterwards: Afterwards | None = None,
        act: Act | None = None,
        before: Callable[[], None] | None = None,
    ) -> bytes:
        """Does a cold-path mutation once: the same request id gets the same bytes.

        `before` may still refuse it; a repetition is not asked. What is in force changes with
        `afterwards` only.
        What lets it take effect here is done `afterwards`, even when the caller has gone: it gets
        the bytes, or None when nobody knows whether the mutation was committed.

        `seats` are those of tenants without a desk. `logs` are where it is written down, if not
        with the tenants.

        Raises SeatElsewhere, RequestIdReused, StoreUnavailable, and whatever refusal `work` raises.
        """
        if seats is None:
            seats = {tenant_id: self._floor.desk(tenant_id).term for tenant_id in tenants}
        do = partial(self._floor.cold.act, seats, act=act, logs=logs)
        async with self._answers.claim(remember_under, [request]) as found:
            if request is not None and request.request_id in found:
                known = _resolved(found[request.request_id])
                return await self._followed(known, _response, afterwards)
            if before is not None:
                before()
            if request is None or not request.request_id:
                return await self._followed(do(work), bytes, afterwards)
            asked, now_us = request, self._floor.now_us()

            def work_and_remember(acts: Acts) -> records.Answer:
                answer = answer_to(asked, work(acts))
                acts.remember(remember_under, asked.request_id, answer, now_us)
                return answer

            doing = asyncio.ensure_future(do(work_and_remember))
            self._answers.keep(remember_under, doing, {asked.request_id: None})
            return await self._followed(doing, _response, afterwards)

    async def _followed(
        self, doing: Awaitable[T], response: Callable[[T], bytes], afterwards: Afterwards | None
    ) -> bytes:
        """Waits for an act and does what follows it, in a task that its caller cannot cancel."""

        async def follow() -> bytes:
            try:
                answer = response(await doing)
            except errors.StoreUnavailable:
                if afterwards is not None:
                    await afterwards(None)
                raise
            if afterwards is not None:
                await afterwards(answer)
            return answer

        task = asyncio.create_task(follow())
        self._following.add(task)
        task.add_done_callback(self._followed_through)
        return await asyncio.shield(task)

    def _followed_through(self, task: asyncio.Task[bytes]) -> None:
        self._following.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, errors.Refusal):
            # The caller may have gone, and would not hear of it.
            log.warning("a change could not take effect", error=str(error))

    async def settled(self) -> None:
        """Waits until everything has followed that is going to."""
        if self._following:
            await asyncio.wait(self._following)


def _response(answer: records.Answer) -> bytes:
    return answer.response


async def _resolved(answer: records.Answer) -> records.Answer:
    return answer
