"""An agent of ours on the stream: it does what agents do and what they should not, and tells all.

It finishes most attempts, and now and then reports twice, late or never, gives a lease back, or
dies with everything that it knew.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
import orjson
from tests.chaos import clocks, flows
from tests.chaos.history import Granted, History, LeaseName, Renewed, Settled, Shown
from tests.chaos.names import names_in

from tenure.v1 import agents_pb2, agents_pb2_grpc, payload_pb2
from tenure_client import channel, errors

_WELCOME_SECONDS = 3.0
_PAUSE_SECONDS = 0.1
#: Whoever has more slots is where tasks are preferred to be executed.
_FEW_SLOTS = 2
_Stream = grpc.aio.StreamStreamCall[agents_pb2.WorkRequest, agents_pb2.WorkResponse]


@dataclass(slots=True, eq=False)
class _Held:
    """A lease in hand. `result` is what will be reported, once it is due."""

    ref: agents_pb2.LeaseRef
    name: LeaseName
    #: Whether it is to fail for good.
    doomed: bool
    result: agents_pb2.Result | None = None


@dataclass(slots=True, eq=False)
class _Life:
    """What one process would know: gone when it is killed."""

    instance: str = field(default_factory=lambda: uuid.uuid4().hex)
    held: dict[LeaseName, _Held] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Line:
    """What is under way on one stream."""

    out: asyncio.Queue[agents_pb2.WorkRequest] = field(default_factory=asyncio.Queue)
    reports: dict[LeaseName, list[tuple[float, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    renewals: dict[LeaseName, list[float]] = field(default_factory=lambda: defaultdict(list))


class ScriptedAgent:
    """One agent under one name, through all its lives. Run `run` in a task."""

    def __init__(
        self,
        name: str,
        kind: str,
        slots: int,
        key: str,
        addresses: Sequence[str],
        tenants: Sequence[str],
        history: History,
        chance: random.Random,
    ) -> None:
        self.name = name
        self.slots = slots
        #: While false it does everything at once and by the book.
        self.wild = True
        self._kind = kind
        self._key = key
        self._addresses = list(addresses)
        self._tenants = tuple(tenants)
        self._history = history
        self._chance = chance
        self._life = _Life()
        self._line = _Line()
        self._lease_seconds = self._accept_seconds = 1.0
        self._streaming: asyncio.Task[None] | None = None
        self._turn = 0
        #: Added to the coordinators' clock it gives ours.
        self._shift = time.monotonic() - time.time()

    async def run(self) -> None:
        """Lives, on one line after the other, until cancelled."""
        try:
            while True:
                self._streaming = asyncio.create_task(self._stream())
                # Its end by `kill` is not ours.
                await asyncio.wait([self._streaming])
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            if self._streaming is not None:
                self._streaming.cancel()
            self._forget()

    def kill(self) -> None:
        """Dies, and comes back as another process that knows nothing."""
        self._forget()
        self._life = _Life()
        if self._streaming is not None:
            self._streaming.cancel()

    def _forget(self) -> None:
        for task in self._life.tasks:
            task.cancel()

    # -- the line

    async def _stream(self) -> None:
        address = self._addresses[self._turn % len(self._addresses)]
        self._turn += 1
        self._line = _Line()
        try:
            async with channel.open_channel(channel.Endpoint(address)) as line:
                call: _Stream = agents_pb2_grpc.AgentsStub(line).Work(
                    metadata=channel.metadata(self._key)
                )
                try:
                    async with asyncio.timeout(_WELCOME_SECONDS):
                        await call.write(agents_pb2.WorkRequest(hello=self._hello()))
                        first = await call.read()
                    if isinstance(first, agents_pb2.WorkResponse) and first.HasField("welcome"):
                        await self._converse(call, first)
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as error:
            holder = errors.from_rpc(error).holder
            if holder in self._addresses:
                self._turn = self._addresses.index(holder)
        except (TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass  # the line is cut: the next one is tried
        finally:
            self._give_up_on_answers()

    def _hello(self) -> agents_pb2.Hello:
        return agents_pb2.Hello(
            agent=self.name,
            instance=self._life.instance,
            kinds=[self._kind],
            slots=self.slots,
            labels={"zone": "a"} if self.slots > _FEW_SLOTS else {},
            held=[held.ref for held in self._life.held.values()],
        )

    async def _converse(self, call: _Stream, first: agents_pb2.WorkResponse) -> None:
        self._lease_seconds = first.welcome.lease_duration.ToNanoseconds() / 1e9
        self._accept_seconds = first.welcome.accept_within.ToNanoseconds() / 1e9
        self._say(agents_pb2.WorkRequest(credits=self.slots))
        for held in self._life.held.values():
            if held.result is not None:
                self._report(held.result)
        self._receive(first)
        writer = asyncio.create_task(self._write(call))
        renewer = asyncio.create_task(self._renew())
        try:
            while isinstance(message := await call.read(), agents_pb2.WorkResponse):
                self._receive(message)
        finally:
            for task in (writer, renewer):
                task.cancel()
            await asyncio.gather(writer, renewer, return_exceptions=True)

    async def _write(self, call: _Stream) -> None:
        while True:
            await call.write(await self._line.out.get())

    def _say(self, message: agents_pb2.WorkRequest) -> None:
        self._line.out.put_nowait(message)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            now = time.monotonic()
            working = [held for held in self._life.held.values() if held.result is None]
            for held in working:
                self._line.renewals[held.name].append(now)
            if working:
                renewals = [agents_pb2.Renewal(lease=held.ref) for held in working]
                self._say(agents_pb2.WorkRequest(renewals=renewals))

    # -- what it hears

    def _receive(self, message: agents_pb2.WorkResponse) -> None:
        now = time.monotonic()
        names = names_in(message)
        if names:
            self._history.add(
                Shown(actor=self.name, tenants=self._tenants, at=now, names=tuple(names))
            )
        runs = {run.run_id: run for run in message.batch.runs}
        for lease in message.batch.leases:
            self._take(lease, runs[lease.run_id], now)
        for standing in message.standings:
            self._stands(standing, now)
        for cancellation in message.cancellations:
            name = (cancellation.run_id, cancellation.task_key, cancellation.term)
            held = self._life.held.get(name)
            if held is not None and held.result is None:
                self._finish(held, "stopped")
        for outcome in message.outcomes:
            self._hears(outcome, now)

    def _take(self, lease: agents_pb2.Lease, run: agents_pb2.RunContext, now: float) -> None:
        name = (lease.run_id, lease.task_key, lease.term)
        granted = lease.grant_us / 1e6 + self._shift if lease.grant_us else now
        granted = clocks.nearest(granted, now)
        self._history.add(
            Granted(
                agent=self.name,
                tenant=run.tenant_id,
                workflow=run.workflow,
                lease=name,
                granted=granted,
                received=now,
                accept_seconds=self._accept_seconds if lease.grant_us else 0.0,
            )
        )
        ref = agents_pb2.LeaseRef(
            run_id=lease.run_id, task_key=lease.task_key, term=lease.term, token=lease.token
        )
        held = self._life.held[name] = _Held(ref, name, _is_doomed(lease))
        task = asyncio.create_task(self._work(held))
        self._life.tasks.add(task)
        task.add_done_callback(self._life.tasks.discard)

    def _stands(self, standing: agents_pb2.LeaseStanding, now: float) -> None:
        name = (standing.run_id, standing.task_key, standing.term)
        asked = self._line.renewals.get(name)
        words = agents_pb2.Standing.Name(standing.standing).removeprefix("STANDING_")
        if asked:
            self._history.add(
                Renewed(
                    agent=self.name,
                    lease=name,
                    asked=asked.pop(0),
                    answered=now,
                    standing=words,
                    lease_seconds=self._lease_seconds,
                )
            )

    def _hears(self, outcome: agents_pb2.Outcome, now: float) -> None:
        name = (outcome.run_id, outcome.task_key, outcome.term)
        waiting = self._line.reports.get(name)
        if waiting:
            sent, end = waiting.pop(0)
            verdict = agents_pb2.Verdict.Name(outcome.verdict).removeprefix("VERDICT_")
            self._tell(name, sent, now, end, verdict)
        if self._life.held.pop(name, None) is not None:
            self._say(agents_pb2.WorkRequest(credits=1))

    def _give_up_on_answers(self) -> None:
        for name, waiting in self._line.reports.items():
            for sent, end in waiting:
                self._tell(name, sent, time.monotonic(), end, "")

    def _tell(self, name: LeaseName, sent: float, answered: float, end: str, verdict: str) -> None:
        self._history.add(
            Settled(
                agent=self.name, lease=name, sent=sent, answered=answered, end=end, verdict=verdict
            )
        )

    # -- what it does

    async def _work(self, held: _Held) -> None:
        wild = self.wild and self._chance.random() < 0.15
        self._say(agents_pb2.WorkRequest(accepts=[held.ref]))
        await asyncio.sleep(self._chance.uniform(0, 0.05))
        if not wild:
            failed = held.doomed or self._chance.random() < 0.05
            self._finish(held, "failure" if failed else "success")
            return
        deeds: list[Callable[[_Held], Awaitable[None]]] = [
            self._finish_twice,
            self._finish_late,
            self._give_back,
            self._say_nothing,
            self._stay_long,
        ]
        await self._chance.choice(deeds)(held)

    async def _finish_twice(self, held: _Held) -> None:
        self._finish(held, "success")
        if held.result is not None:
            self._report(held.result)

    async def _finish_late(self, held: _Held) -> None:
        """Keeps quiet past the lease, and then speaks up."""
        self._life.held.pop(held.name, None)
        await asyncio.sleep(self._lease_seconds + self._chance.uniform(0, 1))
        self._say(agents_pb2.WorkRequest(credits=1))
        self._life.held[held.name] = held
        self._finish(held, "success")

    async def _give_back(self, held: _Held) -> None:
        self._life.held.pop(held.name, None)
        now = time.monotonic()
        self._tell(held.name, now, now, "return", "")
        self._say(agents_pb2.WorkRequest(returns=[held.ref], credits=1))

    async def _say_nothing(self, held: _Held) -> None:
        self._life.held.pop(held.name, None)
        self._say(agents_pb2.WorkRequest(credits=1))

    async def _stay_long(self, held: _Held) -> None:
        """Works beyond the lease and renews it."""
        await asyncio.sleep(self._lease_seconds * 1.5)
        self._finish(held, "success")

    def _finish(self, held: _Held, end: str) -> None:
        if held.result is not None:
            return
        held.result = agents_pb2.Result(lease=held.ref)
        match end:
            case "success":
                said = orjson.dumps({"by": held.ref.task_key, "term": held.ref.term})
                held.result.success.output.CopyFrom(payload_pb2.Payload(data=said))
            case "failure":
                held.result.failure.code = flows.DOOM if held.doomed else "CHANCE"
            case _:
                held.result.stopped.SetInParent()
        self._report(held.result)

    def _report(self, result: agents_pb2.Result) -> None:
        ref = result.lease
        name = (ref.run_id, ref.task_key, ref.term)
        end = result.WhichOneof("end") or ""
        self._line.reports[name].append((time.monotonic(), end))
        self._say(agents_pb2.WorkRequest(results=[result]))


def _is_doomed(lease: agents_pb2.Lease) -> bool:
    given = orjson.loads(lease.input.data) if lease.input.data else None
    return isinstance(given, dict) and bool(given.get("doom"))
