"""The service Agents: the stream on which agents live, and its unary twins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import structlog
from google.protobuf.duration_pb2 import Duration

from tenure.v1 import agents_pb2, agents_pb2_grpc
from tenure_server.core import errors
from tenure_server.core.leasing.leases import STOPPED, Lease
from tenure_server.engine.engine import Engine
from tenure_server.engine.sessions import AgentSession, Report
from tenure_server.rpc import access, convert, frames, pages
from tenure_server.rpc.doorway import Context

#: How long a new stream may stay silent.
HELLO_SECONDS = 10
#: How long an agent that has said its last word waits for outcomes that it is owed.
LAST_OUTCOMES_SECONDS = 10

Frames = AsyncIterator[agents_pb2.WorkRequest]

log = structlog.get_logger()


class Agents(agents_pb2_grpc.AgentsServicer):
    """Converts, asks, converts."""

    def __init__(
        self, engine: Engine, *, root_key: str = "", certificates: Sequence[str] = ()
    ) -> None:
        """`root_key` and `certificates` lead to the key that signs mandates. Empty: none does."""
        self._engine = engine
        self._root_key = root_key
        self._certificates = tuple(certificates)

    async def Work(
        self, request_iterator: Frames, context: Context
    ) -> AsyncIterator[agents_pb2.WorkResponse]:
        """The stream: what the agent says goes to its session, what is due comes out of it."""
        caller = access.caller()
        said = aiter(request_iterator)
        first = await _first(said)
        # After the gates have seen the hello: it is for these tenants only.
        admitted = access.caller()
        session = self._engine.work.open_session(
            caller.key,
            admitted.tenant_ids,
            frames.hello(first.hello),
            caller.act,
            elsewhere=[seat.tenant_id for seat in admitted.elsewhere],
        )
        structlog.contextvars.bind_contextvars(agent=first.hello.agent)
        log.info("agent came", agent_id=session.agent_id, slots=first.hello.slots)
        stream = _Stream(session)
        listening = asyncio.create_task(stream.listen(first, said))
        # However it stops to listen, by a fault even: an agent that is not heard is not served.
        listening.add_done_callback(lambda _: session.close())
        try:
            # Not before it is written down that the agent came.
            await self._engine.committed()
            yield self._welcome(session, admitted.elsewhere)
            async for outbound in stream.speak():
                yield outbound
        finally:
            session.close()
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            log.info("agent left", agent_id=session.agent_id)
        if refusal := stream.refusal or session.ended:
            raise refusal

    async def LeaseTasks(
        self, request: agents_pb2.LeaseTasksRequest, context: Context
    ) -> agents_pb2.LeaseTasksResponse:
        """Takes leases without a stream."""
        caller = access.caller()
        wait_us = convert.duration_us(request.wait, "wait") if request.HasField("wait") else 0
        leases = await self._engine.work.lease_tasks(
            caller.key,
            caller.tenant_ids,
            agent=request.agent,
            kinds=frozenset(request.kinds),
            max_leases=request.max_leases or 1,
            wait_us=wait_us,
            labels=request.labels,
            act=caller.act,
        )
        fitting = frames.fitting(leases)
        if fitting < len(leases):
            await self._return(caller, leases[fitting:])
        response = agents_pb2.LeaseTasksResponse(lease_duration=self._lease_duration())
        if leases:
            frames.fill_batch(response.batch, leases[:fitting])
        return response

    async def RenewLeases(
        self, request: agents_pb2.RenewLeasesRequest, context: Context
    ) -> agents_pb2.RenewLeasesResponse:
        """Renews leases without a stream."""
        caller = access.caller()
        standings = await self._engine.work.renew_leases(
            caller.key, caller.tenant_ids, frames.renewals(request.renewals), caller.act
        )
        response = agents_pb2.RenewLeasesResponse(lease_duration=self._lease_duration())
        frames.fill_standings(response.standings, standings)
        return response

    async def SettleTasks(
        self, request: agents_pb2.SettleTasksRequest, context: Context
    ) -> agents_pb2.SettleTasksResponse:
        """Takes results without a stream."""
        caller = access.caller()
        outcomes = await self._engine.work.settle_tasks(
            caller.key, caller.tenant_ids, frames.reports(request.results), caller.act
        )
        response = agents_pb2.SettleTasksResponse()
        frames.fill_outcomes(response.outcomes, outcomes)
        return response

    async def ListAgents(
        self, request: agents_pb2.ListAgentsRequest, context: Context
    ) -> agents_pb2.ListAgentsResponse:
        """Lists the agents that serve the tenant, by name."""
        caller = access.caller()
        limit = pages.limit(request)
        cursor = pages.read(caller, request)
        # Who is on the line is known to the holder of the tenant's seat only.
        self._engine.check_seat(caller.tenant_id)
        found = sorted(
            self._engine.work.agents(caller.tenant_id),
            key=lambda agent: (agent.name, agent.agent_id),
        )
        if cursor is not None:
            after = (cursor[0], cursor[1])
            found = [agent for agent in found if (agent.name, agent.agent_id) > after]
        response = agents_pb2.ListAgentsResponse(
            agents=[frames.agent_message(agent) for agent in found[:limit]]
        )
        if len(found) > limit:
            last = found[limit - 1]
            token = pages.issue(caller, request, [last.name, last.agent_id])
            response.next_page_token = token
        return response

    def _welcome(
        self, session: AgentSession, elsewhere: Sequence[access.SeatElsewhere]
    ) -> agents_pb2.WorkResponse:
        welcome = agents_pb2.Welcome(
            agent_id=session.agent_id,
            lease_duration=self._lease_duration(),
            accept_within=convert.duration(self._engine.settings.accept_us),
            tenant_ids=session.tenant_ids,
            root_key=self._root_key,
            certificates=self._certificates,
        )
        for seat in elsewhere:
            welcome.elsewhere.add(
                tenant_id=seat.tenant_id, address=seat.address, stopped=seat.stopped
            )
        frames.fill_standings(welcome.unnamed, session.unnamed)
        return agents_pb2.WorkResponse(welcome=welcome)

    def _lease_duration(self) -> Duration:
        return convert.duration(self._engine.settings.lease_us)

    async def _return(self, caller: access.Caller, leases: Sequence[Lease]) -> None:
        """Gives back what would make an answer too large; no attempt is consumed."""
        refs = [(lease.run.run_id, lease.task_key, lease.term, lease.token) for lease in leases]
        reports = [Report(ref, STOPPED) for ref in refs]
        await self._engine.work.settle_tasks(caller.key, caller.tenant_ids, reports)


class _Stream:
    """The two directions of one agent's stream."""

    def __init__(self, session: AgentSession) -> None:
        self._session = session
        #: Why the stream ends, when the agent's own frames are the reason.
        self.refusal: errors.Refusal | None = None
        #: Results that were heard and not yet answered.
        self._owed = 0
        self._heard_all = False

    async def listen(self, first: agents_pb2.WorkRequest, said: Frames) -> None:
        """Hears every frame, and returns when the stream is to end.

        A frame that is refused ends it at once.
        """
        try:
            self._hear(first)
            async for frame in said:
                if frame.HasField("hello"):
                    raise errors.FieldsInvalid([("hello", "must come in the first message only")])
                self._hear(frame)
                await self._session.room()
        except errors.Refusal as refusal:
            self.refusal = refusal
            return
        # The agent has said its last word. It may still wait for what became of its results.
        self._session.drain()
        self._heard_all = True
        if self._owed:
            await asyncio.sleep(LAST_OUTCOMES_SECONDS)

    async def speak(self) -> AsyncIterator[agents_pb2.WorkResponse]:
        """Gives what is due until the session is over."""
        session = self._session
        while (outbound := await session.outbound()) is not None:
            for frame in frames.frames(outbound):
                yield frame
            self._owed -= len(outbound.outcomes)
            if self._heard_all and self._owed <= 0:
                session.close()

    def _hear(self, frame: agents_pb2.WorkRequest) -> None:
        self._owed += len(frame.results)
        frames.hear(self._session, frame)


async def _first(said: Frames) -> agents_pb2.WorkRequest:
    """The first message, which must hold a hello. Raises FieldsInvalid."""
    refusal = errors.FieldsInvalid([("hello", "must come in the first message")])
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            first = await anext(said, None)
    except TimeoutError:
        raise refusal from None
    if first is None or not first.HasField("hello"):
        raise refusal
    return first
