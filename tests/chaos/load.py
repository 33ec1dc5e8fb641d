"""Clients of several tenants that start, watch and read runs and do things to them, and remember
every answer.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from google.protobuf.message import Message
from tests.chaos import flows
from tests.chaos.deeds import Deeds
from tests.chaos.history import (
    DONE,
    Explained,
    History,
    Read,
    Shown,
    Started,
    StoredRun,
    Watched,
)
from tests.chaos.names import names_in
from tests.chaos.rules.healing import those_that_wait
from tests.chaos.site import TENANTS
from tests.chaos.stored import REQUEST_LABEL, kind_name

from tenure.v1 import runs_pb2
from tenure_client.client import Client
from tenure_client.errors import TenureError

#: Each as often as all others that are declared by graphs alone, or by more.
_PLAIN = ("diamond", "diamond", "narrow", "wide")
#: How long a client tries one act before it asks for the next.
RETRY_SECONDS = 4.0
_PAUSE_SECONDS = 0.05
#: How long somebody who does things to runs waits between two of them at most.
_DEED_SECONDS = 0.3
#: Stands for what could not be read.
_NOBODY = StoredRun(tenant="", workflow="", state="")
#: A client follows a run so long, and then leaves it to itself.
_PATIENCE_SECONDS = (0.2, 6.0)


class Load:
    """The clients. `stop` ends it gently: whatever was asked for is asked until it is answered.

    `client` gives one of a tenant: its admin's, or that of the person named.
    """

    def __init__(
        self, client: Callable[[str, str], Client], history: History, chance: random.Random
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._client = client
        self._history = history
        self._chance = chance
        self._stopping = False
        self._runs: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}

    async def run(self, clients: int, operators: int) -> None:
        """Runs so many clients, and people who do things to runs, of each tenant until `stop`."""
        await asyncio.gather(
            *(
                self._live(f"client-{tenant}-{number}", tenant)
                for tenant in TENANTS
                for number in range(clients)
            ),
            *(
                self._operate(f"operator-{tenant}-{number}", tenant)
                for tenant in TENANTS
                for number in range(operators)
            ),
        )

    def stop(self) -> None:
        """Starts nothing more."""
        self._stopping = True

    async def _live(self, actor: str, tenant: str) -> None:
        async with AsyncExitStack() as stack:
            deeds = await self._deeds(actor, tenant, stack)
            client = deeds.client
            while not self._stopping:
                run_id = await self._start(client, actor, tenant)
                self._runs[tenant].append(run_id)
                if self._chance.random() < 0.12:
                    await asyncio.sleep(self._chance.uniform(0, 0.3))
                    await deeds.cancel(run_id)
                if self._chance.random() < 0.3:
                    await self._read(client, actor, tenant, run_id)
                await self._watch(client, actor, tenant, run_id)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _operate(self, actor: str, tenant: str) -> None:
        async with AsyncExitStack() as stack:
            deeds = await self._deeds(actor, tenant, stack)
            while not self._stopping:
                await deeds.do_something()
                await asyncio.sleep(self._chance.uniform(0, _DEED_SECONDS))

    async def _deeds(self, actor: str, tenant: str, stack: AsyncExitStack) -> Deeds:
        people = {
            name: await stack.enter_async_context(self._client(tenant, name))
            for name in ("", *flows.APPROVERS)
        }
        return Deeds(
            actor,
            tenant,
            people[""],
            people,
            self._history,
            self._chance,
            self.counts,
            self._runs[tenant],
        )

    # -- in the end

    async def come_to_rest(self, leased: Callable[[], int]) -> list[Explained]:
        """Lets go what waits, until only those are open that wait for somebody; says for whom.

        `leased` counts the live leases. Cancel it when it takes too long.
        """
        async with AsyncExitStack() as stack:
            everybody = [await self._deeds(f"last-{name}", name, stack) for name in TENANTS]
            for deeds in everybody:
                await deeds.tidy_up()
            kept: set[str] = set()
            while True:
                try:
                    explained, runs = await self._explained(everybody)
                except TenureError:
                    explained, runs = [], {"": _NOBODY}
                waiting = those_that_wait({one.run_id: one for one in explained}, runs)
                if waiting == runs.keys() and not leased():
                    return explained
                for deeds in everybody:
                    mine = [one for one in explained if one.tenant == deeds.tenant]
                    await deeds.release(mine, kept)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _explained(
        self, everybody: list[Deeds]
    ) -> tuple[list[Explained], dict[str, StoredRun]]:
        explained: list[Explained] = []
        runs: dict[str, StoredRun] = {}
        for deeds in everybody:
            found = {one.run_id: one async for one in deeds.open_runs()}
            explained += [await deeds.explain(run_id) for run_id in found]
            runs |= {
                run_id: StoredRun(
                    tenant=deeds.tenant,
                    workflow=one.workflow,
                    state=runs_pb2.RunState.Name(one.state).removeprefix("RUN_STATE_"),
                )
                for run_id, one in found.items()
            }
        return explained, runs

    # -- what clients do

    async def _start(self, client: Client, actor: str, tenant: str) -> str:
        """Starts a run; asks for it under one request id until it is answered."""
        request_id = uuid.uuid4().hex
        workflow = self._chance.choice(self._chance.choice([_PLAIN, flows.STARTED]))
        words: dict[str, Any] = {"request_id": request_id, "labels": {REQUEST_LABEL: request_id}}
        if workflow not in _PLAIN:
            words["input"] = flows.input_of(workflow, self._chance.randrange)
        while True:
            began, run_id = time.monotonic(), ""
            try:
                answer = await client.start_run(workflow, **words)
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
