"""A coordinator for the agent's tests: real gRPC, no database, obedient to its test."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from tests.agent.signatory import Signatory

from tenure.v1 import agents_pb2, agents_pb2_grpc, payload_pb2

Key = tuple[str, str, int]
Context = grpc.aio.ServicerContext[agents_pb2.WorkRequest, agents_pb2.WorkResponse]

RUN_ID = "0198a1b2-0000-8000-8000-000000000001"
BATCH_LEASES = 256


def key_of(ref: Any) -> Key:
    """Names a lease in whatever message speaks of it."""
    return (ref.run_id, ref.task_key, ref.term)


def new_lease(key: str, kind: str, *, term: int = 1, **fields: Any) -> agents_pb2.Lease:
    """Makes a lease with a random token."""
    return agents_pb2.Lease(
        run_id=RUN_ID,
        task_key=key,
        term=term,
        token=uuid.uuid4().bytes,
        kind=kind,
        attempt=fields.pop("attempt", 1),
        **fields,
    )


@dataclass(slots=True)
class Line:
    """One stream of an agent."""

    hello: agents_pb2.Hello
    credits: int = 0
    draining: bool = False
    outgoing: asyncio.Queue[agents_pb2.WorkResponse | grpc.StatusCode | None] = field(
        default_factory=asyncio.Queue
    )


#: Untyped, since only one of its methods is needed here.
_Servicer: Any = agents_pb2_grpc.AgentsServicer


class FakeCoordinator(_Servicer):  # type: ignore[misc]
    """Leases what it is given, within the credits, and notes all that it hears."""

    def __init__(self) -> None:
        self.lease_seconds = 30.0
        self.accept_within_seconds = 5.0
        self.run_input = payload_pb2.Payload()
        self.ready: deque[agents_pb2.Lease] = deque()
        self.live: dict[Key, agents_pb2.Lease] = {}
        self.results: dict[Key, list[agents_pb2.Result]] = {}
        self.accepted: list[Key] = []
        #: Leases whose execution has begun: accepted, or renewed before that was due.
        self.begun: set[Key] = set()
        self.returned: list[Key] = []
        self.renewals: list[agents_pb2.Renewal] = []
        self.hellos: list[agents_pb2.Hello] = []
        self.bytes_received: list[int] = []
        self.keys_seen: list[str] = []
        self.acknowledges = True
        self.answers_renewals = True
        self.refuses_with: tuple[grpc.StatusCode, str] | None = None
        #: Signs each batch. None: nobody does.
        self.signatory: Signatory | None = None
        #: Called with each batch before it is sent, once it was signed.
        self.alters: Callable[[agents_pb2.LeaseBatch], object] = lambda batch: None
        #: The most leases that were live, or promised by credits, at one instant.
        self.peak = 0
        self.lost: set[Key] = set()
        self.line: Line | None = None
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Condition()

    # --- For tests ----------------------------------------------------------------------------

    async def start(self, address: str = "127.0.0.1:0") -> str:
        """Serves. Gives the address."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        agents_pb2_grpc.add_AgentsServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        await self._server.start()
        self.address = f"127.0.0.1:{port}"
        return self.address

    async def stop(self) -> None:
        """Stops at once, as a kill would."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def offer(self, *leases: agents_pb2.Lease) -> None:
        """Adds leases, to be sent as credits allow."""
        self.ready.extend(leases)
        self._send_leases()

    def cut(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Ends the stream."""
        assert self.line is not None
        self.line.outgoing.put_nowait(code)

    def say(self, **fields: Any) -> None:
        """Sends a message."""
        assert self.line is not None
        self.line.outgoing.put_nowait(agents_pb2.WorkResponse(**fields))

    def cancel(self, lease: agents_pb2.Lease) -> None:
        """Asks the agent to stop an attempt."""
        run_id, task_key, term = key_of(lease)
        self.say(cancellations=[{"run_id": run_id, "task_key": task_key, "term": term}])

    def lose(self, lease: agents_pb2.Lease) -> None:
        """Takes a lease away, and says so."""
        self.live.pop(key_of(lease), None)
        self.lost.add(key_of(lease))
        self.say(standings=[self._standing(key_of(lease))])

    def acknowledge(self, *results: agents_pb2.Result) -> None:
        """Gives results their verdicts."""
        self.say(outcomes=[self._outcome(result) for result in results])

    async def until(self, reached: Callable[[], bool], seconds: float = 20.0) -> None:
        """Waits until something holds; it is looked at after each message of the agent."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(reached)

    async def result(self, lease: agents_pb2.Lease) -> agents_pb2.Result:
        """Waits for the result of a lease."""
        await self.until(lambda: key_of(lease) in self.results)
        return self.results[key_of(lease)][0]

    # --- The service --------------------------------------------------------------------------

    async def Work(
        self, request_iterator: AsyncIterator[agents_pb2.WorkRequest], context: Any
    ) -> None:
        """The stream of one agent."""
        first = await context.read()
        self.keys_seen.append(dict(context.invocation_metadata()).get("authorization", ""))
        if self.refuses_with is not None:
            await self._notify()
            await _abort(context, *self.refuses_with)
        line = self.line = Line(first.hello)
        self.hellos.append(first.hello)
        welcome = agents_pb2.Welcome() if self.signatory is None else self.signatory.welcome()
        welcome.agent_id = str(uuid.uuid4())
        welcome.tenant_ids.append("acme")
        welcome.lease_duration.FromNanoseconds(int(self.lease_seconds * 1e9))
        welcome.accept_within.FromNanoseconds(int(self.accept_within_seconds * 1e9))
        standings = [self._standing(key_of(ref)) for ref in first.hello.held]
        await context.write(agents_pb2.WorkResponse(welcome=welcome, standings=standings))
        writer = asyncio.create_task(self._write(line, context))
        reader = asyncio.create_task(self._read(line, context))
        await self._notify()
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and (code := writer.result()) is not None:
                await context.abort(code, "the test cut the line")
        finally:
            reader.cancel()
            writer.cancel()
            if self.line is line:
                self.line = None
            await self._notify()

    async def _write(self, line: Line, context: Any) -> grpc.StatusCode | None:
        while True:
            message = await line.outgoing.get()
            if not isinstance(message, agents_pb2.WorkResponse):
                return message
            await context.write(message)

    async def _read(self, line: Line, context: Any) -> None:
        while True:
            message = await context.read()
            if not isinstance(message, agents_pb2.WorkRequest):
                return
            self._take(line, message)
            await self._notify()

    def _take(self, line: Line, message: agents_pb2.WorkRequest) -> None:
        self.bytes_received.append(message.ByteSize())
        answer = agents_pb2.WorkResponse()
        self.accepted += [key_of(ref) for ref in message.accepts]
        self.begun.update(key_of(ref) for ref in message.accepts)
        self.begun.update(key_of(renewal.lease) for renewal in message.renewals)
        for ref in message.returns:
            self.returned.append(key_of(ref))
            self.live.pop(key_of(ref), None)
        for renewal in message.renewals:
            self.renewals.append(renewal)
            if self.answers_renewals:
                answer.standings.append(self._standing(key_of(renewal.lease)))
        for result in message.results:
            self.results.setdefault(key_of(result.lease), []).append(result)
            self.live.pop(key_of(result.lease), None)
            if self.acknowledges:
                answer.outcomes.append(self._outcome(result))
        if message.draining:
            line.draining, line.credits = True, 0
        line.credits += message.credits
        self.peak = max(self.peak, line.credits + len(self.live))
        if answer.ByteSize():
            line.outgoing.put_nowait(answer)
        self._send_leases()

    def _send_leases(self) -> None:
        line = self.line
        while line is not None and line.credits and self.ready:
            count = min(line.credits, len(self.ready), BATCH_LEASES)
            leases = [self.ready.popleft() for _ in range(count)]
            line.credits -= count
            self.live.update((key_of(lease), lease) for lease in leases)
            batch = agents_pb2.LeaseBatch(leases=leases, runs=self._runs(leases))
            if self.signatory is not None:
                self.signatory.sign(batch)
            self.alters(batch)
            line.outgoing.put_nowait(agents_pb2.WorkResponse(batch=batch))

    def _runs(self, leases: Iterable[agents_pb2.Lease]) -> list[agents_pb2.RunContext]:
        return [
            agents_pb2.RunContext(
                run_id=run_id,
                tenant_id="acme",
                workflow="trial",
                workflow_version=1,
                workflow_digest="sha256:" + "1" * 64,
                constitution_digest="sha256:" + "2" * 64,
                input=self.run_input if self.run_input.WhichOneof("body") else None,
                correlation_id="correlation-1",
            )
            for run_id in {lease.run_id for lease in leases}
        ]

    def _standing(self, key: Key) -> agents_pb2.LeaseStanding:
        known = key in self.live and key not in self.lost
        return agents_pb2.LeaseStanding(
            run_id=key[0],
            task_key=key[1],
            term=key[2],
            standing=agents_pb2.STANDING_HELD if known else agents_pb2.STANDING_LOST,
        )

    def _outcome(self, result: agents_pb2.Result) -> agents_pb2.Outcome:
        run_id, task_key, term = key_of(result.lease)
        again = len(self.results[(run_id, task_key, term)]) > 1
        verdict = agents_pb2.VERDICT_ALREADY_APPLIED if again else agents_pb2.VERDICT_APPLIED
        return agents_pb2.Outcome(run_id=run_id, task_key=task_key, term=term, verdict=verdict)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _abort(context: Any, code: grpc.StatusCode, reason: str) -> None:
    """Refuses with a reason, as the coordinator's gates do."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="tenure"))
    status = status_pb2.Status(code=code.value[0], message=reason.lower(), details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(code, reason.lower())
