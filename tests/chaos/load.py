"""Clients of several tenants that start, cancel, watch and read runs, and remember every answer."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing

from google.protobuf.message import Message
from tests.chaos.history import DONE, Cancelled, History, Read, Shown, Started, Watched
from tests.chaos.names import names_in
from tests.chaos.site import TENANTS
from tests.chaos.stored import REQUEST_LABEL, kind_name

from tenure_client.client import Client
from tenure_client.errors import TenureError

_FLOWS = ("diamond", "diamond", "narrow")
#: How long a client tries one act before it asks for the next.
RETRY_SECONDS = 4.0
_PAUSE_SECONDS = 0.05
#: A client follows a run so long, and then leaves it to itself.
_PATIENCE_SECONDS = (0.2, 6.0)


class Load:
    """The clients. `stop` ends it gently: whatever was asked for is asked until it is answered."""

    def __init__(
        self, client: Callable[[str], Client], history: History, chance: random.Random
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._client = client
        self._history = history
        self._chance = chance
        self._stopping = False

    async def run(self, clients: int) -> None:
        """Runs so many clients of each tenant until `stop`."""
        await asyncio.gather(
            *(
                self._live(f"client-{tenant}-{number}", tenant)
                for tenant in TENANTS
                for number in range(clients)
            )
        )

    def stop(self) -> None:
        """Starts nothing more."""
        self._stopping = True

    async def _live(self, actor: str, tenant: str) -> None:
        async with self._client(tenant) as client:
            while not self._stopping:
                run_id = await self._start(client, actor, tenant)
                if self._chance.random() < 0.12:
                    await asyncio.sleep(self._chance.uniform(0, 0.3))
                    await self._cancel(client, actor, tenant, run_id)
                if self._chance.random() < 0.3:
                    await self._read(client, actor, tenant, run_id)
                await self._watch(client, actor, tenant, run_id)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _start(self, client: Client, actor: str, tenant: str) -> str:
        """Starts a run; asks for it under one request id until it is answered."""
        request_id, workflow = uuid.uuid4().hex, self._chance.choice(_FLOWS)
        while True:
            began, run_id = time.monotonic(), ""
            try:
                answer = await client.start_run(
                    workflow, request_id=request_id, labels={REQUEST_LABEL: request_id}
                )
                outcome, run_id = DONE, answer.run_id
                self._show(actor, tenant, answer)
            except TenureError as error:
                outcome = error.reason or error.code.name
            self._history.add(
                Started(
                    actor=actor,
                    tenant=tenant,
                    workflow=workflow,
                    request_id=request_id,
                    began=began,
                    ended=time.monotonic(),
                    outcome=outcome,
                    run_id=run_id,
                )
            )
            self.counts["started" if run_id else "refused"] += 1
            if run_id:
                return run_id
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _cancel(self, client: Client, actor: str, tenant: str, run_id: str) -> None:
        began = time.monotonic()
        try:
            await client.cancel_run(run_id, reason="chance")
            outcome = DONE
        except TenureError as error:
            outcome = error.reason or error.code.name
        self.counts["cancelled" if outcome == DONE else "refused"] += 1
        self._history.add(
            Cancelled(
                actor=actor,
                tenant=tenant,
                run_id=run_id,
                began=began,
                ended=time.monotonic(),
                outcome=outcome,
            )
        )

    async def _read(self, client: Client, actor: str, tenant: str, run_id: str) -> None:
        try:
            self._show(actor, tenant, await client.get_run(run_id))
            outcome = DONE
            async for task in client.list_tasks(run_id):
                self._show(actor, tenant, task)
            async for run in client.list_runs():
                self._show(actor, tenant, run)
                if self._chance.random() < 0.1:
                    break
            async for agent in client.list_agents():
                self._show(actor, tenant, agent)
        except TenureError as error:
            outcome = error.reason or error.code.name
        self.counts["read" if outcome == DONE else "refused"] += 1
        self._history.add(
            Read(actor=actor, tenant=tenant, run_id=run_id, at=time.monotonic(), outcome=outcome)
        )

    async def _watch(self, client: Client, actor: str, tenant: str, run_id: str) -> None:
        began = time.monotonic()
        seen: list[tuple[int, str, str, int]] = []
        try:
            async with (
                asyncio.timeout(self._chance.uniform(*_PATIENCE_SECONDS)),
                aclosing(client.watch_run(run_id)) as events,
            ):
                async for event in events:
                    kind = kind_name(event.kind)
                    seen.append((event.sequence, kind, event.task_key, event.term))
        except TimeoutError:
            self.counts["left"] += 1
        except TenureError:
            self.counts["refused"] += 1
        else:
            self.counts["watched"] += 1
        self._history.add(
            Watched(
                actor=actor,
                tenant=tenant,
                run_id=run_id,
                began=began,
                ended=time.monotonic(),
                events=tuple(seen),
            )
        )

    def _show(self, actor: str, tenant: str, answer: Message) -> None:
        names = tuple(names_in(answer))
        if names:
            self._history.add(
                Shown(actor=actor, tenants=(tenant,), at=time.monotonic(), names=names)
            )
