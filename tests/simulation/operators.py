"""People who do things to runs that are there: signal, consent, pause, skip, settle, reopen, close.

Each asks under one request id until it is answered or has lost patience, and tells what it heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos import flows
from tests.chaos.history import DONE, Asked, Explained, Hindrance
from tests.chaos.stored import content_digest
from tests.server.core.world import json_payload
from tests.simulation.house import OVERLAPS, origin
from tests.simulation.people import Network

from tenure_server.core.definitions.features import Approval, SignalWait
from tenure_server.core.errors import Refusal
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState
from tenure_server.core.progress.approvals import Decider
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.seeing.hindrances import Explained as ExplainedTask
from tenure_server.engine.engine import Engine

#: How often somebody asks for the same under the same id.
_TRIES = 4
#: Of those who wait without end at the end, so many are let go.
_RELEASED = 0.8
Call = Callable[[Engine, records.Request], Awaitable[Any]]


@dataclass(eq=False)
class Operator:
    """Somebody of a tenant. Run `live` in a task until the network stops."""

    network: Network
    tenant: str
    name: str
    #: Whether nothing begins by itself any more.
    tidied: bool = False
    _count: int = 0

    async def live(self) -> None:
        """Does one thing after the other."""
        deeds: list[Callable[[], Awaitable[None]]] = [
            *(self._signal, self._signal, self._signal, self._publish, self._decide, self._decide),
            *(self._pause, self._resume, self._skip, self._settle, self._reopen, self._reopen),
            *(self._close, self._pause_workflow, self._trigger, self._pause_schedule),
        ]
        while not self.network.stopping:
            await asyncio.sleep(self.network.chance.uniform(0.0, 4.0))
            await self.network.chance.choice(deeds)()

    # -- what is there

    def _open(self) -> list[LiveRun]:
        engine = self.network.house.engine
        desk = None if engine is None else engine._floor.desks.get(self.tenant)
        return [] if desk is None else list(desk.runs.values())

    def _any_open(self) -> LiveRun | None:
        runs = self._open()
        return self.network.chance.choice(runs) if runs else None

    def _any_task(self, *states: TaskState) -> tuple[str, str] | None:
        """Run and key of a task that is in one of these states."""
        found = [
            (run.run_id, run.graph.keys[index])
            for run in self._open()
            for index, state in enumerate(run.states)
            if state in states
        ]
        return self.network.chance.choice(found) if found else None

    # -- asking

    async def ask(self, verb: str, call: Call, **about: Any) -> Any:
        """Asks until somebody answers, and notes it. Gives the answer, None where there is none."""
        network = self.network
        self._count += 1
        name = f"{self.name}-{self._count}"
        request = records.Request(request_id=name, method=verb, digest=name.encode())
        began, outcome, answer = network.now(), "", None
        for _ in range(_TRIES):
            try:
                answer = await network.ask(lambda engine: _answered(call(engine, request)))
            except Refusal as refusal:
                # What was refused now may have been done before: an answer was lost.
                outcome = type(refusal).__name__
            else:
                outcome = DONE if answer is not None else ""
            if outcome not in ("", "StoreUnavailable", "SeatElsewhere"):
                break
            await asyncio.sleep(network.chance.uniform(0.1, 1.0))
        served, started = 0, ()
        if verb == "event.publish" and answer is not None:
            served, started = answer[0][0], tuple(answer[0][1])
        network.history.add(
            Asked(
                actor=self.name,
                tenant=self.tenant,
                verb=verb,
                began=began,
                ended=network.now(),
                outcome=outcome,
                served=served,
                started=started,
                **about,
            )
        )
        return None if answer is None else answer[0]

    # -- the world

    async def _signal(self) -> None:
        run = self._any_open()
        if run is None:
            return
        names = [task.wait.name for task in run.tasks if isinstance(task.wait, SignalWait)]
        chance = self.network.chance
        if names:
            await self.signal(run.run_id, chance.choice(names))
        elif chance.random() < 0.1:
            await self.signal(run.run_id, flows.STAY)

    async def signal(self, run_id: str, signal: str) -> None:
        """Gives a signal to a run."""
        token = f"{self.name}-{self._count}"
        payload = json_payload({"id": token})
        await self.ask(
            "run.signal",
            lambda engine, request: engine.operations.signal(
                origin(self.tenant), run_id, signal, payload, request
            ),
            run_id=run_id,
            name=signal,
            content=content_digest(payload.data),
            token=token,
        )

    async def _publish(self) -> None:
        chance = self.network.chance
        token = f"{self.name}-{self._count}"
        payload = json_payload({"id": token, "start": chance.random() < 0.2})
        key = chance.choice(flows.KEYS)
        await self.ask(
            "event.publish",
            lambda engine, request: engine.publishing.publish(
                origin(self.tenant), flows.EVENT, key, payload, request
            ),
            name=flows.EVENT,
            content=content_digest(payload.data),
            token=token,
        )

    async def _decide(self) -> None:
        chance = self.network.chance
        found = [
            (run.run_id, run.graph.keys[index])
            for run in self._open()
            for index, state in enumerate(run.states)
            if state == TaskState.ACTIVE and isinstance(run.tasks[index].wait, Approval)
        ]
        if not found:
            return
        run_id, key = chance.choice(found)
        who = chance.choice([*flows.APPROVERS, "cleo"])
        decider, consents = Decider(f"key-{who}", who), chance.random() < 0.8
        await self.ask(
            "task.decide",
            lambda engine, request: engine.operations.decide(
                origin(self.tenant), run_id, key, decider, consents, "", request
            ),
            run_id=run_id,
            task=key,
        )

    # -- runs

    async def _pause(self) -> None:
        run = self._any_open()
        if run is not None:
            await self.pause(run.run_id)

    async def pause(self, run_id: str) -> None:
        """Pauses a run."""
        await self.ask(
            "run.pause",
            lambda engine, request: engine.operations.pause(
                origin(self.tenant), run_id, "", request
            ),
            run_id=run_id,
        )

    async def _resume(self) -> None:
        paused = [run.run_id for run in self._open() if run.state is RunState.PAUSED]
        if paused:
            await self.resume(self.network.chance.choice(paused))

    async def resume(self, run_id: str) -> None:
        """Lets a run go on."""
        await self.ask(
            "run.resume",
            lambda engine, request: engine.operations.resume(
                origin(self.tenant), run_id, "", request
            ),
            run_id=run_id,
        )

    async def _close(self) -> None:
        run = self._any_open()
        if run is not None and self.network.chance.random() < 0.3:
            run_id = run.run_id
            await self.ask(
                "run.close",
                lambda engine, request: engine.operations.close(
                    origin(self.tenant), run_id, "enough", request
                ),
                run_id=run_id,
            )

    async def _skip(self) -> None:
        waiting = (TaskState.WAITING, TaskState.READY, TaskState.RETRYING, TaskState.ACTIVE)
        found = self._any_task(*waiting)
        if found is not None:
            run_id, key = found
            await self.ask(
                "task.skip",
                lambda engine, request: engine.operations.skip(
                    origin(self.tenant), run_id, key, "by hand", request
                ),
                run_id=run_id,
                task=key,
            )

    async def _settle(self) -> None:
        begun = (TaskState.READY, TaskState.RETRYING, TaskState.ACTIVE, TaskState.LEASED)
        found = self._any_task(*begun)
        if found is None:
            return
        run_id, key = found
        end = Success(json_payload("by hand"))
        failed = Failure("SETTLED_BY_HAND", "by hand", non_retryable=True)
        chosen = end if self.network.chance.random() < 0.7 else failed
        await self.ask(
            "task.settle",
            lambda engine, request: engine.operations.settle(
                origin(self.tenant), run_id, key, chosen, "by hand", request
            ),
            run_id=run_id,
            task=key,
        )

    async def _reopen(self) -> None:
        """Executes again what failed of a run, or all from a task on."""
        network = self.network
        known = network.runs[self.tenant][-20:]
        if not known:
            return
        run_id, keys = network.chance.choice(known), list[str]()
        if network.chance.random() < 0.5:
            engine = network.house.engine
            if engine is None:
                return
            try:
                shown = await engine.explain(self.tenant, run_id, (), -1, 1000)
            except (Refusal, asyncio.CancelledError, RuntimeError):
                return
            keys = [network.chance.choice(shown.run.graph.keys)]
        paused = network.chance.random() < 0.2
        await self.ask(
            "run.reopen",
            lambda engine, request: engine.operations.reopen(
                origin(self.tenant), run_id, keys, paused=paused, reason="", request=request
            ),
            run_id=run_id,
        )

    # -- workflows and schedules

    async def _pause_workflow(self) -> None:
        chance = self.network.chance
        if chance.random() < 0.5:
            workflow = chance.choice([*flows.STARTED, ""])
            await self._change_pause(workflow, goes_on=False)
            await asyncio.sleep(chance.uniform(0, 20))
            await self._change_pause(workflow, goes_on=True)

    async def _change_pause(self, workflow: str, *, goes_on: bool) -> None:
        verb = f"{'workflow' if workflow else 'tenant'}.{'resume' if goes_on else 'pause'}"

        def call(engine: Engine, request: records.Request) -> Awaitable[None]:
            said: dict[str, Any] = {"request": request, "remember_under": self.tenant}
            act = origin(self.tenant).acting(verb)
            if goes_on:
                return engine.pausing.resume(self.tenant, workflow, "", act=act, **said)
            return engine.pausing.pause(self.tenant, workflow, "", by="key-0", act=act, **said)

        await self.ask(verb, call, name=workflow)

    async def _trigger(self) -> None:
        overlap = self.network.chance.choice(OVERLAPS[self.tenant])
        await self.ask(
            "schedule.trigger",
            lambda engine, request: engine.schedules.trigger(
                origin(self.tenant), overlap.name.lower(), None, "", request, lambda _: b""
            ),
            name=overlap.name.lower(),
        )

    async def _pause_schedule(self) -> None:
        chance = self.network.chance
        name = chance.choice(OVERLAPS[self.tenant]).name.lower()
        await self.pause_schedule(name)
        await asyncio.sleep(chance.uniform(0, 60))
        await self.ask(
            "schedule.resume",
            lambda engine, request: engine.schedules.resume(
                origin(self.tenant), name, "", request, lambda _: b""
            ),
            name=name,
        )

    async def pause_schedule(self, name: str) -> None:
        """Lets a schedule fire no more."""
        await self.ask(
            "schedule.pause",
            lambda engine, request: engine.schedules.pause(
                origin(self.tenant), name, "", request, lambda _: b""
            ),
            name=name,
        )

    # -- in the end

    async def tidy_up(self) -> None:
        """Pauses the schedules, lets go on what is paused, and ends most waits without end."""
        for overlap in OVERLAPS[self.tenant]:
            await self.pause_schedule(overlap.name.lower())
        for workflow in sorted({*flows.STARTED, ""}):
            await self._change_pause(workflow, goes_on=True)
        self.tidied = True
        kept: set[str] = set()
        while True:
            for run in self._open():
                if run.run_id in kept:
                    continue
                stays = any(
                    isinstance(run.tasks[index].wait, SignalWait) and state == TaskState.ACTIVE
                    for index, state in enumerate(run.states)
                )
                if run.state is not RunState.PAUSED and not stays:
                    continue
                if self.network.chance.random() > _RELEASED:
                    kept.add(run.run_id)
                elif run.state is RunState.PAUSED:
                    await self.resume(run.run_id)
                else:
                    await self.signal(run.run_id, flows.STAY)
            await asyncio.sleep(2.0)

    async def explained(self) -> list[Explained]:
        """Why the open runs do not go on."""
        engine = self.network.house.engine
        found = []
        for run in self._open() if engine is not None else ():
            assert engine is not None
            shown = await engine.explain(self.tenant, run.run_id, (), -1, 1000)
            if shown.run.ended:
                continue
            keys = shown.run.graph.keys
            found.append(
                Explained(
                    actor=self.name,
                    tenant=self.tenant,
                    run_id=run.run_id,
                    at=self.network.now(),
                    tasks={keys[one.index]: _hindrances(one) for one in shown.tasks},
                )
            )
        return found


async def _answered(call: Awaitable[Any]) -> tuple[Any]:
    """Tells an answer that is nothing from none."""
    return (await call,)


def _hindrances(one: ExplainedTask) -> tuple[Hindrance, ...]:
    return tuple(
        Hindrance(
            kind=each.kind.name,
            tasks=each.task_keys,
            name=each.name,
            key=each.key,
            child=each.child_run_id,
            count=each.count,
            limit=each.limit,
        )
        for each in one.hindrances
    )
