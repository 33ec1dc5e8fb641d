"""The line to a coordinator: one stream after the other, for as long as the agent lives.

    connect ──hello──▶ welcomed ──▶ reads and writes ──line cut──▶ connect …

Several addresses are tried in turn. A line that is cut is made again with exponential backoff and
jitter; a coordinator that refuses us is asked again more slowly, since somebody may repair what
it does not like. Only one answer ends the link: another process runs under our name.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Mapping
from typing import Protocol

import grpc
import grpc.aio
import structlog
import tenacity

from tenure.v1 import agents_pb2, agents_pb2_grpc
from tenure_agent.config import AgentConfig
from tenure_agent.mandates import CoordinatorUntrusted, Guard, KeyMissing
from tenure_agent.workbench import Workbench
from tenure_client import channel, errors

#: How long a coordinator may take to welcome us.
WELCOME_SECONDS = 10.0
#: A stream that lasted this long counts as a success: the backoff begins anew after it.
STEADY_SECONDS = 5.0
CLOSE_SECONDS = 1.0

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


class Refused(Exception):  # noqa: N818 - an answer of the coordinator
    """The coordinator does not take us as we are; worth another try, later."""


class Untrusted(Refused):
    """We do not take the coordinator as it is; worth another try, later."""


class Welcomed(Protocol):
    """Called whenever a coordinator has welcomed the agent."""

    def __call__(self, agent_id: str, address: str) -> None: ...


class Link:
    """Keeps the workbench on a line."""

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
        self._config = config
        self._workbench = workbench
        self._kinds = sorted(kinds)
        self._on_welcome = on_welcome
        self._guard = guard
        self._instance = uuid.uuid4().hex
        self._turn = 0
        self.connected = False

    async def run(self) -> None:
        """Connects, and again, until cancelled. Raises Replaced."""
        while True:
            retrying = tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type((LineCut, Refused)),
                wait=_wait,
                before_sleep=_log_cut,
                sleep=asyncio.sleep,
            )
            async for attempt in retrying:
                with attempt:
                    await self._live()

    async def _live(self) -> None:
        """Lives on one stream. Returns when it was cut after a good while.

        Raises LineCut, Refused, Replaced.
        """
        loop = asyncio.get_running_loop()
        addresses = self._config.coordinator.addresses
        address = addresses[self._turn % len(addresses)]
        self._turn += 1
        began = loop.time()
        try:
            await self._stream(address)
        except grpc.aio.AioRpcError as error:
            refusal = _refusal(error, address)
            self._follow(errors.from_rpc(error).holder)
            if not isinstance(refusal, LineCut) or loop.time() - began < STEADY_SECONDS:
                raise refusal from error
            log.warning("line is cut, connecting again", address=address, reason=str(refusal))
        except channel.ChannelError as error:
            raise Refused(f"{address}: {error}") from error

    async def _stream(self, address: str) -> None:
        """Makes a stream and lives on it until it ends. Raises AioRpcError, LineCut."""
        coordinator = self._config.coordinator
        endpoint = channel.Endpoint(address, coordinator.tls)
        async with channel.open_channel(endpoint) as line:
            stub = agents_pb2_grpc.AgentsStub(line)
            call: Stream = stub.Work(metadata=channel.metadata(coordinator.key))
            try:
                first = await self._greet(call, address)
                self._up(first, address)
                try:
                    await self._converse(call, first)
                finally:
                    self.connected = False
                    self._workbench.line_cut()
            finally:
                call.cancel()
        raise LineCut(f"{address}: the coordinator closed the stream")

    async def _greet(self, call: Stream, address: str) -> agents_pb2.WorkResponse:
        """Says hello and waits for the welcome."""
        config = self._config
        hello = agents_pb2.Hello(
            agent=config.name,
            instance=self._instance,
            kinds=self._kinds,
            slots=config.slots,
            labels=config.labels,
            tenant_ids=config.tenants,
            held=self._workbench.held(),
        )
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

    def _up(self, first: agents_pb2.WorkResponse, address: str) -> None:
        """The line stands. Raises Untrusted, and then it does not."""
        welcome = first.welcome
        if self._guard is not None:
            try:
                self._guard.welcome(welcome)
            except CoordinatorUntrusted as error:
                raise Untrusted(f"{address}: {error}") from error
        self._workbench.line_up(
            lease_seconds=welcome.lease_duration.ToNanoseconds() / 1e9 or 30.0,
            accept_within_seconds=welcome.accept_within.ToNanoseconds() / 1e9 or 5.0,
        )
        self.connected = True
        log.info(
            "agent is on the line",
            address=address,
            agent_id=welcome.agent_id,
            tenants=list(welcome.tenant_ids),
            slots=self._config.slots,
        )
        self._on_welcome(welcome.agent_id, address)

    async def _converse(self, call: Stream, first: agents_pb2.WorkResponse) -> None:
        """Reads and writes until the stream ends. Raises AioRpcError as it ended."""
        self._take(first)
        reader = asyncio.create_task(self._read(call), name="link-read")
        writer = asyncio.create_task(self._write(call), name="link-write")
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

    async def _read(self, call: Stream) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, agents_pb2.WorkResponse):
                return
            self._take(message)

    def _take(self, message: agents_pb2.WorkResponse) -> None:
        try:
            self._workbench.receive(message)
        except KeyMissing as error:
            raise LineCut(f"asking for the coordinator's newer keys: {error}") from error

    async def _write(self, call: Stream) -> None:
        """Sends what piled up while the last message was under way."""
        workbench = self._workbench
        while True:
            await workbench.wake.wait()
            workbench.wake.clear()
            while (message := workbench.next_message()) is not None:
                try:
                    await call.write(message)
                except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    return

    def _follow(self, holder: str | None) -> None:
        """Tries the seat's holder next, if it is one of our coordinators: others get no key."""
        addresses = self._config.coordinator.addresses
        if holder in addresses:
            self._turn = addresses.index(holder)


def _refusal(error: grpc.aio.AioRpcError, address: str) -> LineCut | Refused | Replaced:
    """Says what the end of a stream means for us."""
    code = error.code()
    words = f"{address}: {code.name}: {error.details()}"
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        if errors.from_rpc(error).reason == "AGENT_REPLACED":
            return Replaced(words)
        return Refused(words)
    return Refused(words) if code in _REFUSALS else LineCut(words)


def _wait(state: tenacity.RetryCallState) -> float:
    """How long to wait before the next try."""
    failed = state.outcome.exception() if state.outcome is not None else None
    return (_REFUSED_WAIT if isinstance(failed, Refused) else _RETRY_WAIT)(state)


def _log_cut(state: tenacity.RetryCallState) -> None:
    failed = state.outcome.exception() if state.outcome is not None else None
    seconds = round(state.upcoming_sleep, 2)
    if isinstance(failed, Untrusted):
        log.error("agent refuses the coordinator", reason=str(failed), retry_seconds=seconds)
    elif isinstance(failed, Refused):
        log.error("coordinator refuses the agent", reason=str(failed), retry_seconds=seconds)
    else:
        log.warning("no line to a coordinator", reason=str(failed), retry_seconds=seconds)
