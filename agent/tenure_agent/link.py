"""The lines to the coordinators, one stream after the other, for as long as the agent lives.

    connect ──hello──▶ welcomed ──▶ reads and writes ──line cut──▶ connect …

A coordinator serves those of the agent's tenants whose seats it holds, and says who holds the
others. So there is one line as long as one coordinator has them all, and else one to each that is
needed: while a tenant is not served, the addresses that have no line are tried in turn, whom it was
said to be with first. A line that is cut is made again with exponential backoff and jitter; a
coordinator that refuses us is asked again more slowly, since somebody may repair what it does not
like. Only one answer ends the link: another process runs under our name.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import grpc
import grpc.aio
import structlog
import tenacity

from tenure.v1 import agents_pb2, agents_pb2_grpc
from tenure_agent.config import AgentConfig
from tenure_agent.lines import Line
from tenure_agent.mandates import CoordinatorUntrusted, Guard, KeyMissing
from tenure_agent.workbench import Workbench
from tenure_client import channel, errors

#: How long a coordinator may take to welcome us.
WELCOME_SECONDS = 10.0
#: A stream that lasted this long counts as a success: the backoff begins anew after it.
STEADY_SECONDS = 5.0
#: How long one coordinator may keep us from trying another one.
TURN_SECONDS = 1.0
#: The longest wait for a coordinator that holds no seat of ours: they move within seconds.
ELSEWHERE_SECONDS = 1.0
#: A hint who holds a seat calls nobody who was tried less than this ago: hints can be old.
CALL_SECONDS = 0.5

_RETRY_WAIT = tenacity.wait_random_exponential(multiplier=0.1, max=10)
_REFUSED_WAIT = tenacity.wait_random_exponential(multiplier=2, min=1, max=60)

_REFUSALS = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("link")

Stream = grpc.aio.StreamStreamCall[agents_pb2.WorkRequest, agents_pb2.WorkResponse]


class Replaced(Exception):  # noqa: N818 - an answer of the coordinator
    """Another process took over under the agent's name; this one must not come back."""


class LineCut(Exception):  # noqa: N818 - the way of all lines
    """The stream ended or could not be made; worth another try."""


class Elsewhere(LineCut):
    """The coordinator holds no seat of our tenants; worth another try, if nobody else has them."""


class Refused(Exception):  # noqa: N818 - an answer of the coordinator
    """The coordinator does not take us as we are; worth another try, later."""


class Untrusted(Refused):
    """We do not take the coordinator as it is; worth another try, later."""


class Welcomed(Protocol):
    """Called whenever a coordinator has welcomed the agent."""

    def __call__(self, agent_id: str, address: str) -> None: ...


class Link:
    """Keeps the workbench on the lines that it needs."""

    def __init__(
        self,
        config: AgentConfig,
        workbench: Workbench,
        kinds: Mapping[str, object],
        *,
        on_welcome: Welcomed,
        guard: Guard | None = None,
    ) -> None:
        """`guard` is the workbench's own; without one any coordinator is trusted."""
        self.config = config
        self.workbench = workbench
        self.kinds = sorted(kinds)
        self.guard = guard
        self.instance = uuid.uuid4().hex
        self._on_welcome = on_welcome
        self._ways = [_Way(self, address) for address in config.coordinator.addresses]
        self._lines: dict[Line, str] = {}
        #: Our tenants that somebody serves or is to serve, as far as is known.
        self._tenants: set[str] = set()
        self._strangers: set[str] = set()
        self._needed = asyncio.Event()
        self._needed.set()
        self._turn = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether there is a line at all."""
        return bool(self._lines)

    async def run(self) -> None:
        """Connects, and again, until cancelled. Raises Replaced."""
        ways = [asyncio.create_task(way.run(), name="link") for way in self._ways]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                if way.done():
                    way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def dialing(self, *, again: bool) -> AsyncIterator[None]:
        """Waits until one more line is needed. One at a time: it may be all that is needed. But
        who had a line until now has it `again` at once.
        """
        while True:
            await self._needed.wait()
            mine = not again and await self._take_turn()
            try:
                if self._needed.is_set():
                    yield
                    return
            finally:
                if mine:
                    self._turn.release()

    async def _take_turn(self) -> bool:
        """Waits until nobody else tries, but not long: some hosts do not answer at all."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                return await self._turn.acquire()
        except TimeoutError:
            return False

    def up(self, welcome: agents_pb2.Welcome, address: str) -> Line:
        """A line stands. Raises Untrusted, and then it does not."""
        if self.guard is not None:
            try:
                self.guard.welcome(welcome)
            except CoordinatorUntrusted as error:
                raise Untrusted(f"{address}: {error}") from error
        line = self.workbench.line_up(welcome)
        self._lines[line] = address
        self._tenants |= {*welcome.tenant_ids, *(seat.tenant_id for seat in welcome.elsewhere)}
        self._tenants -= {seat.tenant_id for seat in welcome.elsewhere if seat.stopped}
        log.info(
            "agent is on the line",
            address=address,
            agent_id=welcome.agent_id,
            tenants=list(welcome.tenant_ids),
            slots=self.config.slots,
        )
        self._look()
        for seat in welcome.elsewhere:
            if seat.tenant_id not in self.workbench.served:
                self.follow(seat.address)
                self._tell_of(seat)
        self._on_welcome(welcome.agent_id, address)
        return line

    def down(self, line: Line) -> None:
        """A line is cut."""
        del self._lines[line]
        self.workbench.line_cut(line)
        self._look()

    def follow(self, holder: str | None) -> None:
        """Tries the holder of a seat next, if it is one of our coordinators: others get no key."""
        for way in self._ways:
            if way.address == holder:
                way.call()

    def _look(self) -> None:
        """Looks whether one more line is needed."""
        if self._lines and self.workbench.served >= self._tenants:
            self._needed.clear()
        elif not self._needed.is_set():
            self._needed.set()
            for way in self._ways:
                way.call()

    def _tell_of(self, seat: agents_pb2.SeatElsewhere) -> None:
        """Tells the operator, once, of a coordinator that he did not name."""
        address = seat.address
        if address and address not in self._strangers | {way.address for way in self._ways}:
            self._strangers.add(address)
            reason = "its holder's address is not among the coordinator's addresses of the file"
            log.warning(
                "a tenant may not be served",
                tenant=seat.tenant_id,
                holder=address,
                reason=reason,
            )


class _Way:
    """The way to one coordinator, with a line on it or without."""

    def __init__(self, link: Link, address: str) -> None:
        self.address = address
        self._link = link
        self._workbench = link.workbench
        self._called = asyncio.Event()
        self._tried_at = float("-inf")
        #: When the present line was made, or the one before. Infinite: the last try failed.
        self._up_at = float("inf")

    async def run(self) -> None:
        """Connects whenever it is needed, until cancelled. Raises Replaced."""
        while True:
            retrying = tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type((LineCut, Refused)),
                wait=_wait,
                before_sleep=_log_cut,
                sleep=self._rest,
            )
            async for attempt in retrying:
                with attempt:
                    await self._live()

    def call(self) -> None:
        """Ends a wait: it may be worth a try just now."""
        if asyncio.get_running_loop().time() - self._tried_at >= CALL_SECONDS:
            self._called.set()

    async def _rest(self, seconds: float) -> None:
        self._called.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._called.wait()

    async def _live(self) -> None:
        """Lives on one stream. Returns when it was cut after a good while.

        Raises LineCut, Refused, Replaced.
        """
        address = self.address
        try:
            await self._stream()
        except grpc.aio.AioRpcError as error:
            refusal = _refusal(error, address)
            self._link.follow(errors.from_rpc(error).holder)
            steady = asyncio.get_running_loop().time() - self._up_at >= STEADY_SECONDS
            if not isinstance(refusal, LineCut) or not steady:
                raise refusal from error
            log.warning("line is cut, connecting again", address=address, reason=str(refusal))
        except channel.ChannelError as error:
            raise Refused(f"{address}: {error}") from error

    async def _stream(self) -> None:
        """Makes a stream and lives on it until it ends. Raises AioRpcError, LineCut."""
        coordinator = self._link.config.coordinator
        endpoint = channel.Endpoint(self.address, coordinator.tls)
        async with contextlib.AsyncExitStack() as stack:
            was_up, self._up_at = self._up_at < float("inf"), float("inf")
            async with self._link.dialing(again=was_up):
                self._tried_at = asyncio.get_running_loop().time()
                opened = await stack.enter_async_context(channel.open_channel(endpoint))
                stub = agents_pb2_grpc.AgentsStub(opened)
                call: Stream = stub.Work(metadata=channel.metadata(coordinator.key))
                stack.callback(call.cancel)
                first = await self._greet(call)
                line = self._link.up(first.welcome, self.address)
                stack.callback(self._link.down, line)
                self._up_at = asyncio.get_running_loop().time()
            await self._converse(call, line, first)
        raise LineCut(f"{self.address}: the coordinator closed the stream")

    async def _greet(self, call: Stream) -> agents_pb2.WorkResponse:
        """Says hello and waits for the welcome."""
        config = self._link.config
        hello = agents_pb2.Hello(
            agent=config.name,
            instance=self._link.instance,
            kinds=self._link.kinds,
            slots=config.slots,
            labels=config.labels,
            tenant_ids=config.tenants,
            held=self._workbench.held(),
            several=True,
            without_mandates=self._link.guard is None,
        )
        address = self.address
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                with contextlib.suppress(asyncio.InvalidStateError):  # ended: read says why
                    await call.write(agents_pb2.WorkRequest(hello=hello))
                first = await call.read()
        except TimeoutError as error:
            raise LineCut(f"{address}: no welcome within {WELCOME_SECONDS:g} s") from error
        if not isinstance(first, agents_pb2.WorkResponse) or not first.HasField("welcome"):
            raise LineCut(f"{address}: the coordinator did not begin with a welcome")
        return first

    async def _converse(self, call: Stream, line: Line, first: agents_pb2.WorkResponse) -> None:
        """Reads and writes until the stream ends. Raises AioRpcError as it ended."""
        self._take(line, first)
        reader = asyncio.create_task(self._read(call, line), name="link-read")
        writer = asyncio.create_task(self._write(call, line), name="link-write")
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                # A write fails only on a stream that has ended, and reading tells how.
                writer.result()
                await reader
            reader.result()
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, call: Stream, line: Line) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, agents_pb2.WorkResponse):
                return
            self._take(line, message)

    def _take(self, line: Line, message: agents_pb2.WorkResponse) -> None:
        try:
            self._workbench.receive(line, message)
        except KeyMissing as error:
            raise LineCut(f"asking for the coordinator's newer keys: {error}") from error

    async def _write(self, call: Stream, line: Line) -> None:
        """Sends what piled up while the last message was under way."""
        workbench = self._workbench
        while True:
            await line.wake.wait()
            line.wake.clear()
            while (message := workbench.next_message(line)) is not None:
                try:
                    await call.write(message)
                except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    return


def _refusal(error: grpc.aio.AioRpcError, address: str) -> LineCut | Refused | Replaced:
    """Says what the end of a stream means for us."""
    code = error.code()
    words = f"{address}: {code.name}: {error.details()}"
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        if errors.from_rpc(error).reason == "AGENT_REPLACED":
            return Replaced(words)
        return Refused(words)
    if code is grpc.StatusCode.UNAVAILABLE and errors.from_rpc(error).reason == "SEAT_ELSEWHERE":
        return Elsewhere(words)
    return Refused(words) if code in _REFUSALS else LineCut(words)


def _wait(state: tenacity.RetryCallState) -> float:
    """How long to wait before the next try."""
    failed = state.outcome.exception() if state.outcome is not None else None
    if isinstance(failed, Elsewhere):
        return min(_RETRY_WAIT(state), ELSEWHERE_SECONDS)
    return (_REFUSED_WAIT if isinstance(failed, Refused) else _RETRY_WAIT)(state)


def _log_cut(state: tenacity.RetryCallState) -> None:
    failed = state.outcome.exception() if state.outcome is not None else None
    seconds = round(state.upcoming_sleep, 2)
    if isinstance(failed, Untrusted):
        log.error("agent refuses the coordinator", reason=str(failed), retry_seconds=seconds)
    elif isinstance(failed, Refused):
        log.error("coordinator refuses the agent", reason=str(failed), retry_seconds=seconds)
    elif isinstance(failed, Elsewhere):
        log.info("coordinator holds no seat of ours", reason=str(failed), retry_seconds=seconds)
    else:
        log.warning("no line to a coordinator", reason=str(failed), retry_seconds=seconds)
