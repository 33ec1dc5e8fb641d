"""What people do to runs that are there, each under one request id, and what they heard of it."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from tests.chaos import flows
from tests.chaos.history import DONE, Asked, Cancelled, Explained, Hindrance, History
from tests.chaos.stored import content_digest

from tenure.v1 import payload_pb2, runs_pb2, waits_pb2
from tenure_client.client import Client
from tenure_client.errors import TenureError

_OPEN = [
    runs_pb2.RUN_STATE_RUNNING,
    runs_pb2.RUN_STATE_PAUSED,
    runs_pb2.RUN_STATE_CANCELLING,
    runs_pb2.RUN_STATE_COMPENSATING,
]
_IDLE = [
    runs_pb2.TASK_STATE_WAITING,
    runs_pb2.TASK_STATE_READY,
    runs_pb2.TASK_STATE_RETRYING,
    runs_pb2.TASK_STATE_ACTIVE,
]

_AGAIN_SECONDS = 0.1
#: Of the runs that wait without end in the end, so many are let go.
_RELEASED = 0.8


@dataclass(eq=False)
class Deeds:
    """One person of one tenant. `clients` are those of the people whose consent is asked for."""

    actor: str
    tenant: str
    client: Client
    clients: Mapping[str, Client]
    history: History
    chance: random.Random
    counts: Counter[str]
    #: The runs that were started in the tenant, the newest last.
    runs: list[str]

    async def do_something(self) -> None:
        """Does one thing by chance."""
        deeds: Sequence[Callable[[], Awaitable[None]]] = (
            *(self._signal, self._signal, self._publish, self._decide, self._decide),
            *(self._pause, self._resume, self._skip, self._settle, self._reopen, self._reopen),
            *(self._close, self._pause_workflow, self._trigger, self._move),
        )
        await self.chance.choice(deeds)()

    # -- asking

    async def ask(self, verb: str, call: Callable[[], Awaitable[Any]], **about: Any) -> bool:
        """Asks for something, and notes what was answered. Says whether it was done."""
        began, outcome = time.monotonic(), DONE
        try:
            answer = await call()
        except TenureError as error:
            outcome = error.reason or error.code.name
        else:
            if isinstance(answer, waits_pb2.PublishEventResponse):
                about |= {"served": answer.task_count, "started": tuple(answer.run_ids)}
        self.counts[verb if outcome == DONE else "refused"] += 1
        self.history.add(
            Asked(
                actor=self.actor,
                tenant=self.tenant,
                verb=verb,
                began=began,
                ended=time.monotonic(),
                outcome=outcome,
                **about,
            )
        )
        return outcome == DONE

    def open_runs(self) -> AsyncGenerator[runs_pb2.Run, None]:
        """The open runs of the tenant. Raises TenureError."""
        return self.client.list_runs(states=_OPEN)

    async def _some_run(self) -> str:
        """An open run, or an empty text."""
        try:
            found = [run.run_id async for run in self.open_runs()]
        except TenureError:
            return ""
        return self.chance.choice(found) if found else ""

    async def _some_task(self, *states: runs_pb2.TaskState.ValueType) -> tuple[str, str] | None:
        run_id = await self._some_run()
        if not run_id:
            return None
        try:
            found = [task.key async for task in self.client.list_tasks(run_id, states=states)]
        except TenureError:
            return None
        return (run_id, self.chance.choice(found)) if found else None

    def _content(self, **more: Any) -> tuple[payload_pb2.Payload, dict[str, str]]:
        """Something that nobody else sends, and how it is told of."""
        token = uuid.uuid4().hex
        data = orjson.dumps({"id": token, **more})
        return payload_pb2.Payload(data=data), {"content": content_digest(data), "token": token}

    # -- the world

    async def _signal(self) -> None:
        if run_id := await self._some_run():
            await self.signal(run_id, flows.SIGNAL)

    async def signal(self, run_id: str, name: str) -> None:
        """Gives a signal to a run."""
        payload, told = self._content()
        operations = self.client.operations
        await self.ask(
            "run.signal",
            lambda: operations.signal(run_id, name, payload),
            run_id=run_id,
            name=name,
            **told,
        )

    async def _publish(self) -> None:
        payload, told = self._content(start=self.chance.random() < 0.2)
        key, operations = self.chance.choice(flows.KEYS), self.client.operations
        await self.ask(
            "event.publish",
            lambda: operations.publish(flows.EVENT, key, payload),
            name=flows.EVENT,
            **told,
        )

    async def _decide(self) -> None:
        found = await self._some_task(runs_pb2.TASK_STATE_ACTIVE)
        if found is None or found[1] != "asked":
            return
        run_id, key = found
        client = self.clients[self.chance.choice(flows.APPROVERS)]
        consent = self.chance.random() < 0.8
        await self.ask(
            "task.decide",
            lambda: client.operations.decide(run_id, key, consent=consent),
            run_id=run_id,
            task=key,
        )

    # -- runs

    async def cancel(self, run_id: str) -> None:
        """Cancels a run."""
        began, outcome = time.monotonic(), DONE
        try:
            await self.client.cancel_run(run_id, reason="chance")
        except TenureError as error:
            outcome = error.reason or error.code.name
        self.counts["cancelled" if outcome == DONE else "refused"] += 1
        self.history.add(
            Cancelled(
                actor=self.actor,
                tenant=self.tenant,
                run_id=run_id,
                began=began,
                ended=time.monotonic(),
                outcome=outcome,
            )
        )

    async def _pause(self) -> None:
        if run_id := await self._some_run():
            operations = self.client.operations
            await self.ask("run.pause", lambda: operations.pause(run_id), run_id=run_id)

    async def _resume(self) -> None:
        paused = [runs_pb2.RUN_STATE_PAUSED]
        try:
            found = [run.run_id async for run in self.client.list_runs(states=paused)]
        except TenureError:
            return
        if found:
            await self.resume(self.chance.choice(found))

    async def resume(self, run_id: str) -> None:
        """Lets a run go on."""
        operations = self.client.operations
        await self.ask("run.resume", lambda: operations.resume(run_id), run_id=run_id)

    async def _close(self) -> None:
        run_id = await self._some_run() if self.chance.random() < 0.3 else ""
        if run_id:
            operations = self.client.operations
            await self.ask(
                "run.close", lambda: operations.close(run_id, reason="chance"), run_id=run_id
            )

    async def _skip(self) -> None:
        found = await self._some_task(*_IDLE)
        if found is not None:
            run_id, key = found
            skip = self.client.operations.skip
            call = lambda: skip(run_id, key, reason="chance")  # noqa: E731
            await self.ask("task.skip", call, run_id=run_id, task=key)

    async def _settle(self) -> None:
        found = await self._some_task(*_IDLE[1:], runs_pb2.TASK_STATE_LEASED)
        if found is not None:
            run_id, key = found
            settle, failed = self.client.operations.settle, self.chance.random() < 0.3
            given = {} if failed else {"output": "by hand"}
            call = lambda: settle(run_id, key, reason="chance", failed=failed, **given)  # noqa: E731
            await self.ask("task.settle", call, run_id=run_id, task=key)

    async def _reopen(self) -> None:
        """Executes again what failed of a run, or all from a task on."""
        if not self.runs:
            return
        run_id, keys = self.chance.choice(self.runs[-10:]), list[str]()
        if self.chance.random() < 0.5:
            try:
                known = [task.key async for task in self.client.list_tasks(run_id)]
            except TenureError:
                return
            keys = [self.chance.choice(known)]
        reopen, paused = self.client.operations.reopen, self.chance.random() < 0.2
        call = lambda: reopen(run_id, task_keys=keys, paused=paused)  # noqa: E731
        await self.ask("run.reopen", call, run_id=run_id)

    async def _move(self) -> None:
        """Writes the workflow of a run anew, and puts the run under it, paused if it is open."""
        if not self.runs:
            return
        client, run_id = self.client, self.chance.choice(self.runs[-10:])
        try:
            workflow = (await client.get_run(run_id)).workflow
            newer = (await client.get_workflow(workflow)).definition
            newer.description = f"as {self.actor} wants it, {uuid.uuid4().hex}"
            await client.register_workflow(newer)
        except TenureError:
            return
        pause, move, resume = client.operations.pause, client.operations.move, self.chance.random()
        await self.ask("run.pause", lambda: pause(run_id), run_id=run_id)
        await self.ask("run.move", lambda: move(run_id, resume=resume < 0.7), run_id=run_id)

    # -- workflows and schedules

    async def _pause_workflow(self) -> None:
        workflow = self.chance.choice([*flows.STARTED, ""])
        if self.chance.random() < 0.3:
            await self.pause_workflow(workflow)
            await asyncio.sleep(self.chance.uniform(0, 1))
            await self.resume_workflow(workflow)

    async def pause_workflow(self, workflow: str) -> None:
        """Leases nothing more of a workflow; with an empty name, of the tenant."""
        client, tenant = self.client, self.tenant
        call = lambda: (  # noqa: E731
            client.pause_workflow(workflow) if workflow else client.pause_tenant(tenant)
        )
        await self.ask(f"{'workflow' if workflow else 'tenant'}.pause", call, name=workflow)

    async def resume_workflow(self, workflow: str) -> None:
        """Lets it go on; asks until somebody answers."""
        client, tenant = self.client, self.tenant
        call = lambda: (  # noqa: E731
            client.resume_workflow(workflow) if workflow else client.resume_tenant(tenant)
        )
        verb = f"{'workflow' if workflow else 'tenant'}.resume"
        await self._insist(verb, call, workflow)

    async def _trigger(self) -> None:
        schedules = self.client.schedules
        try:
            names = [one.name async for one in schedules.list()]
        except TenureError:
            return
        if names:
            name = self.chance.choice(names)
            await self.ask("schedule.trigger", lambda: schedules.trigger(name), name=name)

    async def pause_schedules(self) -> None:
        """Lets no schedule fire by itself any more."""
        schedules = self.client.schedules
        names: list[str] | None = None
        while names is None:
            try:
                names = [one.name async for one in schedules.list()]
            except TenureError:
                await asyncio.sleep(_AGAIN_SECONDS)
        for name in names:
            await self._insist("schedule.pause", lambda name=name: schedules.pause(name), name)  # type: ignore[misc]

    async def _insist(self, verb: str, call: Callable[[], Awaitable[Any]], name: str) -> None:
        """Asks again until it is done."""
        while not await self.ask(verb, call, name=name):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_AGAIN_SECONDS)

    # -- in the end

    async def tidy_up(self) -> None:
        """Lets nothing begin by itself, and lets go on what is paused."""
        await self.pause_schedules()
        for workflow in sorted({*flows.STARTED, ""}):
            await self.resume_workflow(workflow)

    async def release(self, explained: Iterable[Explained], kept: set[str]) -> None:
        """Resumes and signals most of the runs that wait for it; those kept stay as they are."""
        for one in explained:
            kinds = {why.kind for each in one.tasks.values() for why in each}
            names = {why.name for each in one.tasks.values() for why in each}
            paused = "RUN_PAUSED" in kinds or not one.tasks
            if one.run_id in kept or not (paused or flows.STAY in names):
                continue
            if self.chance.random() > _RELEASED:
                kept.add(one.run_id)
            elif paused:
                await self.resume(one.run_id)
            else:
                await self.signal(one.run_id, flows.STAY)

    async def explain(self, run_id: str) -> Explained:
        """Why a run does not go on. Raises TenureError."""
        tasks = {
            task.task_key: tuple(map(_hindrance, task.hindrances))
            async for task in self.client.explain_run(run_id)
        }
        return Explained(
            actor=self.actor, tenant=self.tenant, run_id=run_id, at=time.monotonic(), tasks=tasks
        )


def _hindrance(said: runs_pb2.Hindrance) -> Hindrance:
    return Hindrance(
        kind=runs_pb2.HindranceKind.Name(said.kind).removeprefix("HINDRANCE_KIND_"),
        tasks=tuple(said.task_keys),
        name=said.name,
        key=said.key,
        child=said.child_run_id,
        count=said.count if said.HasField("count") else -1,
        limit=said.limit if said.HasField("limit") else -1,
    )
