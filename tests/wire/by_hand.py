"""An agent by hand: the unary twins of the stream, one call at a time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from tests.wire.installation import TENANT, Installation

from tenure.v1 import agents_pb2, agents_pb2_grpc, payload_pb2
from tenure_client import channel

Lease = agents_pb2.Lease
STOPPED = agents_pb2.Stopped()


def payload(data: bytes) -> payload_pb2.Payload:
    """A payload of JSON bytes."""
    return payload_pb2.Payload(data=data)


def success(data: bytes) -> agents_pb2.Success:
    """An end that worked."""
    return agents_pb2.Success(output=payload(data))


def ref(lease: Lease, **other: object) -> agents_pb2.LeaseRef:
    """The name of a lease, or with some of it changed."""
    fields = {
        "run_id": lease.run_id,
        "task_key": lease.task_key,
        "term": lease.term,
        "token": lease.token,
    }
    return agents_pb2.LeaseRef(**(fields | other))  # type: ignore[arg-type]


class HandAgent:
    """Takes leases, renews and settles them, whatever a test wants it to say."""

    def __init__(self, line: grpc.aio.Channel, secret: str, name: str = "by-hand") -> None:
        self.stub = agents_pb2_grpc.AgentsStub(line)
        self.metadata = channel.metadata(secret)
        self.name = name

    async def lease(self, kind: str, *, most: int = 1, wait_seconds: int = 20) -> list[Lease]:
        """Takes leases of one kind, and waits for the first."""
        answer = await self.stub.LeaseTasks(
            agents_pb2.LeaseTasksRequest(
                agent=self.name, kinds=[kind], max_leases=most, wait=Duration(seconds=wait_seconds)
            ),
            metadata=self.metadata,
        )
        return list(answer.batch.leases)

    async def renew(
        self, lease: agents_pb2.LeaseRef, checkpoint: bytes | None = None
    ) -> agents_pb2.Standing.ValueType:
        """Renews one lease and says how it stands."""
        renewal = agents_pb2.Renewal(
            lease=lease, checkpoint=None if checkpoint is None else payload(checkpoint)
        )
        answer = await self.stub.RenewLeases(
            agents_pb2.RenewLeasesRequest(renewals=[renewal]), metadata=self.metadata
        )
        (standing,) = answer.standings
        return standing.standing

    async def settle(
        self,
        lease: agents_pb2.LeaseRef,
        end: agents_pb2.Success | agents_pb2.Stopped | str,
    ) -> str:
        """Reports the end of one attempt (a failure by its code), and gives the verdict's name."""
        result = agents_pb2.Result(lease=lease)
        match end:
            case agents_pb2.Success():
                result.success.CopyFrom(end)
            case agents_pb2.Stopped():
                result.stopped.CopyFrom(end)
            case code:
                result.failure.code = code
        (verdict,) = await self.settle_all([result])
        return verdict

    async def settle_all(self, results: Sequence[agents_pb2.Result]) -> list[str]:
        """Reports results and gives the verdicts' names."""
        answer = await self.stub.SettleTasks(
            agents_pb2.SettleTasksRequest(results=results), metadata=self.metadata
        )
        return [
            agents_pb2.Verdict.Name(outcome.verdict).removeprefix("VERDICT_")
            for outcome in answer.outcomes
        ]


@contextlib.asynccontextmanager
async def hand_agent(
    installation: Installation, *, secret: str = "", name: str = "by-hand", tenant: str = TENANT
) -> AsyncIterator[HandAgent]:
    """An agent by hand, with the tenant's agent key where no other is given."""
    secret = secret or await installation.secret("agent", tenant)
    address = installation.coordinator.address
    async with channel.open_channel(channel.Endpoint(address, installation.tls)) as line:
        yield HandAgent(line, secret, name)
