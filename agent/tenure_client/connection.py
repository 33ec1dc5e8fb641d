"""Calls to coordinators: with the key, with a deadline, and again when that is safe and useful.

Only UNAVAILABLE is tried again: it says that nothing was done, or that nobody knows, and every
mutation carries a `request_id`, so that a repeat does no second thing. A coordinator that does not
hold the tenant's seat names the one that does; the call goes there.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
import tenacity
from google.protobuf.message import Message

from tenure.v1 import (
    agents_pb2_grpc,
    constitution_pb2_grpc,
    evidence_pb2_grpc,
    runs_pb2_grpc,
    schedules_pb2_grpc,
    tenants_pb2_grpc,
    workflows_pb2_grpc,
)
from tenure_client import channel, errors

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

#: How many holders of a seat are asked without a wait, in one act.
FOLLOWED_MAX = 3
_BACKOFF = tenacity.wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.1)


@dataclass(frozen=True, slots=True)
class Stubs:
    """The services of one coordinator."""

    tenants: tenants_pb2_grpc.TenantsStub
    workflows: workflows_pb2_grpc.WorkflowsStub
    runs: runs_pb2_grpc.RunsStub
    agents: agents_pb2_grpc.AgentsStub
    constitution: constitution_pb2_grpc.ConstitutionStub
    evidence: evidence_pb2_grpc.EvidenceStub
    schedules: schedules_pb2_grpc.SchedulesStub


class Connection:
    """Lines to coordinators under one key; which of them is asked is its own affair."""

    def __init__(
        self,
        addresses: Sequence[str],
        key: str,
        *,
        tenant: str | None,
        tls: channel.Tls | None,
        correlation_id: str | None,
        retry_seconds: float,
        call_seconds: float,
    ) -> None:
        if not addresses:
            raise channel.ChannelError("address: at least one is needed")
        for address in addresses:
            channel.check_address(address)
        self._addresses = tuple(addresses)
        self._address = addresses[0]
        self._key = key
        self._tenant = tenant
        self._tls = tls
        self._correlation_id = correlation_id
        self._retry_seconds = retry_seconds
        self._call_seconds = call_seconds
        self._lines: dict[str, tuple[grpc.aio.Channel, Stubs]] = {}
        self.metadata()

    @property
    def address(self) -> str:
        """The coordinator that the next call goes to."""
        return self._address

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Gives the metadata for one call, repeats of it included."""
        correlation_id = self._correlation_id or uuid.uuid4().hex
        return channel.metadata(self._key, tenant=self._tenant, correlation_id=correlation_id)

    def stubs(self) -> Stubs:
        """Gives the services of the coordinator to ask now."""
        if self._address not in self._lines:
            line = channel.open_channel(channel.Endpoint(self._address, self._tls))
            self._lines[self._address] = (
                line,
                Stubs(
                    tenants_pb2_grpc.TenantsStub(line),
                    workflows_pb2_grpc.WorkflowsStub(line),
                    runs_pb2_grpc.RunsStub(line),
                    agents_pb2_grpc.AgentsStub(line),
                    constitution_pb2_grpc.ConstitutionStub(line),
                    evidence_pb2_grpc.EvidenceStub(line),
                    schedules_pb2_grpc.SchedulesStub(line),
                ),
            )
        return self._lines[self._address][1]

    async def call(
        self, method: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[Q, A]], request: Q
    ) -> A:
        """Makes a call and gives its answer. Raises TenureError."""
        metadata = self.metadata()
        async for attempt in self.retrying():
            with attempt:
                try:
                    return await method(self.stubs())(
                        request, metadata=metadata, timeout=self._call_seconds
                    )
                except grpc.aio.AioRpcError as error:
                    raise self.failed(error) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def pages(
        self, method: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[Q, A]], request: Q
    ) -> AsyncGenerator[A, None]:
        """Gives one page of a list after the other; asks with the request, whose token it moves on.

        Raises TenureError.
        """
        asking: Any = request
        while True:
            page: Any = await self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            asking.page_token = page.next_page_token

    def retrying(self) -> tenacity.AsyncRetrying:
        """Gives the attempts of one act: one, and more of them after UNAVAILABLE."""
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_unavailable),
            stop=tenacity.stop_before_delay(self._retry_seconds),
            wait=_Waits(),
            reraise=True,
        )

    def failed(self, error: grpc.aio.AioRpcError) -> errors.TenureError:
        """Takes note of a failed call, and gives what to raise for it.

        The next call goes to the seat's holder when the answer named it, and to the next
        configured address when there was no answer.
        """
        failure = errors.from_rpc(error)
        if failure.code is not grpc.StatusCode.UNAVAILABLE:
            return failure
        if failure.holder and _is_address(failure.holder):
            self._address = failure.holder
        elif self._address in self._addresses:
            turn = self._addresses.index(self._address) + 1
            self._address = self._addresses[turn % len(self._addresses)]
        else:
            # Whom we were sent to is gone, and those who were configured know the next holder.
            self._address = self._addresses[0]
        return failure

    async def close(self) -> None:
        """Closes every line; calls under way end as cancelled."""
        lines, self._lines = self._lines, {}
        for line, _ in lines.values():
            await line.close()


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, errors.TenureError) and error.code is grpc.StatusCode.UNAVAILABLE


class _Waits:
    """The waits of one act: what the coordinator asks for, else ever longer."""

    def __init__(self) -> None:
        self._sent_to: set[str] = set()

    def __call__(self, state: tenacity.RetryCallState) -> float:
        """The seconds before another try."""
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, errors.TenureError):
            return _BACKOFF(state)
        if error.holder and error.holder not in self._sent_to and len(self._sent_to) < FOLLOWED_MAX:
            # Whom we are sent to can answer at once; sent there again, the seat is moving just now.
            self._sent_to.add(error.holder)
            return 0.0
        if error.retry_after is not None:
            return error.retry_after
        return _BACKOFF(state)


def _is_address(text: Any) -> bool:
    try:
        channel.check_address(text)
    except channel.ChannelError:
        return False
    return True
