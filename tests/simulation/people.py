"""Clients and agents on a simulated network: what they say comes late, twice, or not at all."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from tests.chaos import flows
from tests.chaos.history import DONE, Cancelled, Granted, History, Renewed, Settled, Started
from tests.chaos.stored import REQUEST_LABEL
from tests.server.core.world import ACCEPT_US, LEASE_US, START_US, json_payload
from tests.simulation.house import KEYS, TENANTS, WORK, House, origin, workflows

from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.errors import Refusal
from tenure_server.core.leasing.leases import STOPPED, Lease, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Failure, Standing
from tenure_server.engine.engine import Engine
from tenure_server.engine.sessions import AgentSession, Hello, Outbound, Ref, Renewal, Report

T = TypeVar("T")
LEASE_SECONDS, ACCEPT_SECONDS = LEASE_US / 1e6, ACCEPT_US / 1e6
_ANSWER_SECONDS = 8.0
_OPEN_RUNS_MAX = 6
_PLAIN = [definition.name for definition in workflows(rich=False)]


@dataclass(eq=False)
class Network:
    """Delays, losses and repeats, by chance."""

    house: House
    history: History
    chance: random.Random
    #: Called whenever a message has arrived somewhere.
    stepped: Callable[[], None]
    #: In peace nothing is lost and nothing comes twice.
    wild: bool = True
    stopping: bool = False
    #: Begins to follow a run.
    watch: Callable[[str, str], None] = lambda tenant, run_id: None
    #: The runs that were started, by tenant, for whoever wants to do something to them.
    runs: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _names: Iterator[int] = field(default_factory=itertools.count)

    def name(self, what: str) -> str:
        """A name for a task that dies with the coordinator, unlike any other."""
        return f"{what}-{next(self._names)}"

    def now(self) -> float:
        """Seconds since the beginning."""
        return self.house.loop.time()

    async def travel(self) -> None:
        """The time that a message takes; now and then it takes long."""
        late = self.wild and self.chance.random() < 0.05
        await asyncio.sleep(self.chance.uniform(0.0, 5.0) if late else self.chance.random() * 0.02)

    def happens(self, odds: float) -> bool:
        """Whether something bad happens."""
        return self.wild and self.chance.random() < odds

    def crowded(self, tenant: str) -> bool:
        """Whether the tenant has enough to do."""
        engine = self.house.engine
        desk = None if engine is None else engine._floor.desks.get(tenant)
        most = _OPEN_RUNS_MAX * (2 if self.house.rich else 1)
        return desk is None or len(desk.runs) >= most

    async def ask(self, call: Callable[[Engine], Awaitable[T]]) -> T | None:
        """A unary call. None: no answer, whatever became of it. Raises Refusal."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self.travel()
                if self.happens(0.03):
                    await asyncio.sleep(_ANSWER_SECONDS)
                if self.happens(0.05):
                    self._later(call)
                answer = await self._served(call)
                await self.travel()
                if self.happens(0.03):
                    await asyncio.sleep(_ANSWER_SECONDS)
                self.stepped()
                return answer
        except TimeoutError:
            return None

    async def _served(self, call: Callable[[Engine], Awaitable[T]]) -> T:
        engine = self.house.engine
        while engine is None:
            await asyncio.sleep(0.1)
            engine = self.house.engine
        serving = asyncio.ensure_future(call(engine))
        try:
            # The line is cut when the coordinator dies: its tasks are cancelled, not ours.
            await asyncio.wait([serving])
        finally:
            # Who gives up waiting cancels the call, as gRPC does.
            serving.cancel()
        if serving.cancelled():
            await asyncio.sleep(_ANSWER_SECONDS)
        return serving.result()

    def _later(self, call: Callable[[Engine], Awaitable[Any]]) -> None:
        """The same message once more, some time later, to whoever is there then."""

        async def again() -> None:
            await asyncio.sleep(self.chance.uniform(0, 1.5 * LEASE_SECONDS))
            engine = self.house.engine
            if engine is not None and not self.stopping:
                try:
                    await call(engine)
                except Refusal:
                    return
                self.stepped()

        # Not ours: it dies with the coordinator.
        self.house.loop.create_task(again(), name=self.name("repeat"))


async def client(network: Network, tenant: str, number: int) -> None:
    """Starts runs one after the other, and cancels some."""
    name, count = f"{tenant}-{number}", 0
    while not network.stopping:
        if network.crowded(tenant):
            await asyncio.sleep(1.0)
            continue
        count += 1
        run_id = await _start(network, tenant, name, f"{name}-{count}")
        network.runs[tenant].append(run_id)
        if run_id and network.chance.random() < 0.3:
            network.watch(tenant, run_id)
        await asyncio.sleep(network.chance.uniform(0, 10))
        if run_id and network.chance.random() < 0.2:
            await _cancel(network, tenant, name, run_id)


async def _start(network: Network, tenant: str, actor: str, request_id: str) -> str:
    rich, chance = network.house.rich, network.chance
    workflow = chance.choice(flows.STARTED if rich else _PLAIN)
    given = json_payload(flows.input_of(workflow, chance.randrange)) if rich else None
    start = records.StartRun(
        workflow=workflow,
        labels={REQUEST_LABEL: request_id},
        input=given,
        request=records.Request(request_id=request_id, method="StartRun", digest=b"same"),
    )
    while True:
        began, run_id, outcome = network.now(), "", ""
        try:
            answer = await network.ask(lambda engine: engine.start_runs(origin(tenant), [start]))
            if answer:
                run_id, outcome = answer[0].run_id, DONE
        except Refusal as refusal:
            outcome = type(refusal).__name__
        network.history.add(
            Started(
                actor=actor,
                tenant=tenant,
                workflow=workflow,
                request_id=request_id,
                began=began,
                ended=network.now(),
                outcome=outcome,
                run_id=run_id,
            )
        )
        if run_id:
            return run_id
        await asyncio.sleep(0.5)


async def _cancel(network: Network, tenant: str, actor: str, run_id: str) -> None:
    began, outcome = network.now(), ""
    request = records.Request(
        request_id=f"cancel-{run_id}", method="CancelRun", digest=run_id.encode()
    )
    try:
        answer = await network.ask(
            lambda engine: engine.operations.cancel(origin(tenant), run_id, "enough", request)
        )
        outcome = DONE if answer is not None else ""
    except Refusal as refusal:
        outcome = type(refusal).__name__
    network.history.add(
        Cancelled(
            actor=actor,
            tenant=tenant,
            run_id=run_id,
            began=began,
            ended=network.now(),
            outcome=outcome,
        )
    )


@dataclass(eq=False)
class Agent:
    """An agent: a stream that is cut now and then, and reports that come when they come."""

    network: Network
    name: str
    key: str
    slots: int
    labels: dict[str, str] = field(default_factory=dict)
    held: dict[Ref, Report | None] = field(default_factory=dict)
    session: AgentSession | None = None
    _inputs: dict[Ref, Payload | None] = field(default_factory=dict)
    _asked: dict[Ref, list[float]] = field(default_factory=dict)
    _sent: dict[Ref, list[tuple[float, str]]] = field(default_factory=dict)
    _up: asyncio.Queue[Callable[[AgentSession], None]] = field(default_factory=asyncio.Queue)

    async def live(self) -> None:
        """Lives on one stream after the other."""
        while True:
            engine = self.network.house.engine
            if engine is not None:
                try:
                    await self._stream(engine)
                except Refusal:
                    self.session = None
            await asyncio.sleep(self.network.chance.uniform(0.05, 1.0))

    async def _stream(self, engine: Engine) -> None:
        network = self.network
        if network.happens(0.15):
            self.held.clear()  # it died, and another process takes its name
        self._asked.clear()
        self._unanswered()
        hello = Hello(
            agent=self.name,
            instance="instance-1",
            kinds=WORK,
            slots=self.slots,
            labels=self.labels,
            held=tuple(self.held),
        )
        await network.travel()
        if network.house.engine is not engine:
            return
        house = network.house
        session = engine.work.open_session(house.keys[self.key], tuple(TENANTS), hello)
        self.session, self._up = session, asyncio.Queue()
        network.stepped()
        reading = house.loop.create_task(self._read(session), name="sim-read")
        writing = house.loop.create_task(self._write(session, engine), name="sim-write")
        self._say(lambda to: to.add_credits(self.slots))
        for report in self.held.values():
            if report is not None:
                self._report(report)
        parts = [reading, writing]
        if network.wild:
            life = network.chance.uniform(1, 120)
            parts.append(house.loop.create_task(asyncio.sleep(life), name="sim-life"))
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            self.session = None
            if house.engine is engine and not session.over:
                # The coordinator hears later that the line is cut, or when another one comes.
                after = network.chance.uniform(0, 10)
                house.loop.call_later(after, self._cut, engine, session)
        for part in (reading, writing):
            if part.done() and not part.cancelled() and (fault := part.exception()):
                raise fault

    def _cut(self, engine: Engine, session: AgentSession) -> None:
        if self.network.house.engine is engine:
            session.close()

    async def _read(self, session: AgentSession) -> None:
        while True:
            reading = self.network.house.loop.create_task(
                session.outbound(), name=self.network.name("outbound")
            )
            try:
                await asyncio.wait([reading])
            finally:
                reading.cancel()
            if reading.cancelled() or (due := reading.result()) is None:
                return
            await self.network.travel()
            self._hear(due)
            self.network.stepped()

    async def _write(self, session: AgentSession, engine: Engine) -> None:
        while True:
            word = await self._up.get()
            await self.network.travel()
            if session.over or self.network.house.engine is not engine:
                return
            word(session)
            self.network.stepped()

    def _say(self, word: Callable[[AgentSession], None]) -> None:
        self._up.put_nowait(word)

    def _hear(self, due: Outbound) -> None:
        now = self.network.now()
        for lease in due.leases:
            self._take(lease, now)
        for run_id, key, term, standing, _ in due.standings:
            for ref in [ref for ref in self.held if ref[:3] == (run_id, key, term)]:
                if asked := self._asked.get(ref):
                    self._note_renewal(ref, asked.pop(0), now, standing)
        for run_id, key, term, _ in due.cancellations:
            for ref, report in list(self.held.items()):
                if ref[:3] == (run_id, key, term) and report is None:
                    self._end(ref, STOPPED, "stopped")
        for run_id, key, term, verdict in due.outcomes:
            for ref in [ref for ref in self._sent if ref[:3] == (run_id, key, term)]:
                if waiting := self._sent[ref]:
                    sent, end = waiting.pop(0)
                    self._note(ref, sent, now, end, verdict.name)
                if self.held.pop(ref, None) is not None:
                    self._say(lambda to: to.add_credits(1))

    def _take(self, lease: Lease, now: float) -> None:
        ref = (lease.run.run_id, lease.task_key, lease.term, lease.token)
        self.held[ref] = None
        self._inputs[ref] = lease.input
        self.network.history.add(
            Granted(
                agent=self.name,
                tenant=lease.run.tenant_id,
                workflow=lease.run.workflow,
                lease=ref[:3],
                granted=(lease.grant_us - START_US) / 1e6,
                received=now,
                accept_seconds=ACCEPT_SECONDS,
            )
        )
        self.network.house.loop.create_task(self._work(ref), name="sim-work")

    async def _work(self, ref: Ref) -> None:
        chance = self.network.chance
        if not self.network.happens(0.05):
            self._say(lambda to: to.accept(*ref))
        long = [0.5 * LEASE_SECONDS, 1.5 * LEASE_SECONDS] if self.network.wild else []
        left = chance.choice([0.0, 0.1, 1.0, 2.0, *long])
        while left > 0:
            step = min(left, LEASE_SECONDS / 3)
            await asyncio.sleep(step)
            left -= step
            if ref not in self.held:
                return
            if not self.network.happens(0.1):
                self._renew(ref)
        if ref not in self.held or self.held[ref] is not None or self.network.happens(0.03):
            return
        if self.network.happens(0.05):
            self.held.pop(ref)
            self._note(ref, self.network.now(), self.network.now(), "return", "")
            self._say(lambda to: to.give_back(*ref))
            self._say(lambda to: to.add_credits(1))
            return
        end: Success | Failure = Success(json_payload({"by": ref[1], "term": ref[2]}))
        if self._is_doomed(ref):
            end = Failure(flows.DOOM)
        elif chance.random() < 0.15:
            end = Failure("BOOM")
        self._end(ref, end, "success" if isinstance(end, Success) else "failure")

    def _is_doomed(self, ref: Ref) -> bool:
        own = self._inputs.pop(ref, None)
        return own is not None and bool(orjson.loads(own.data).get("doom"))

    def _renew(self, ref: Ref) -> None:
        kept = json_payload("half") if self.network.chance.random() < 0.3 else None
        self._asked.setdefault(ref, []).append(self.network.now())
        self._say(lambda to: to.renew(Renewal(ref, checkpoint=kept)))

    def _end(self, ref: Ref, end: Any, _: str) -> None:
        report = self.held[ref] = Report(ref, end)
        self._report(report)
        if self.network.happens(0.1):
            self._report(report)
        if self.network.happens(0.1):
            self.network.house.loop.create_task(self._report_late(report), name="sim-late")

    def _report(self, report: Report) -> None:
        sent = (self.network.now(), _word(report.end))
        self._sent.setdefault(report.ref, []).append(sent)
        self._say(lambda to: to.settle(*report.ref, report.end))

    async def _report_late(self, report: Report) -> None:
        """The same by a unary call, some time later."""
        network = self.network
        sent = network.now()
        # Others must not count on a lease whose end may be on its way.
        await asyncio.sleep(network.chance.uniform(0, 2 * LEASE_SECONDS))
        key = network.house.keys[self.key]
        verdict = ""
        try:
            answer = await network.ask(
                lambda engine: engine.work.settle_tasks(key, tuple(TENANTS), [report])
            )
            verdict = answer[0][3].name if answer else ""
        except Refusal:
            verdict = ""
        self._note(report.ref, sent, network.now(), _word(report.end), verdict)

    def _unanswered(self) -> None:
        for ref, waiting in self._sent.items():
            for sent, end in waiting:
                self._note(ref, sent, self.network.now(), end, "")
        self._sent.clear()

    def _note(self, ref: Ref, sent: float, answered: float, end: str, verdict: str) -> None:
        self.network.history.add(
            Settled(
                agent=self.name,
                lease=ref[:3],
                sent=sent,
                answered=answered,
                end=end,
                verdict=verdict,
            )
        )

    def _note_renewal(self, ref: Ref, asked: float, now: float, standing: Standing) -> None:
        self.network.history.add(
            Renewed(
                agent=self.name,
                lease=ref[:3],
                asked=asked,
                answered=now,
                standing=standing.name,
                lease_seconds=LEASE_SECONDS,
            )
        )
        if standing is Standing.LOST:
            self.held.pop(ref, None)


def _word(end: Any) -> str:
    if isinstance(end, Success):
        return "success"
    return "failure" if isinstance(end, Failure) else "stopped"


def agents(network: Network) -> list[Agent]:
    """The agents of both keys."""
    return [
        Agent(network, "north", KEYS[0], 2, {"zone": "a"}),
        Agent(network, "south", KEYS[0], 3),
        Agent(network, "west", KEYS[1], 2),
    ]
