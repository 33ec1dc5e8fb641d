"""A whole agent in sixty lines: the contract's stubs and nothing else of Tenure.

    TENURE_ADDRESS=127.0.0.1:7233 TENURE_KEY=tnr_... python examples/polyglot/small_agent.py [TASKS]

Lease, work, renew meanwhile, settle: the same three calls make an agent in any language that has
gRPC. With TASKS it leaves after so many; else it goes on until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import grpc.aio

from tenure.v1 import agents_pb2, agents_pb2_grpc, payload_pb2, runs_pb2

METADATA = (("authorization", f"Bearer {os.environ['TENURE_KEY']}"),)


async def work(lease: agents_pb2.Lease) -> agents_pb2.Result:
    """Does what the kind `shout` stands for."""
    ref = _ref(lease)
    try:
        text = json.loads(lease.input.data)["text"]
        data = json.dumps({"text": text.upper()}).encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        failure = runs_pb2.Failure(code="INPUT_INVALID", message=repr(error), non_retryable=True)
        return agents_pb2.Result(lease=ref, failure=failure)
    success = agents_pb2.Success(output=payload_pb2.Payload(data=data))
    return agents_pb2.Result(lease=ref, success=success)


async def keep(stub: agents_pb2_grpc.AgentsStub, lease: agents_pb2.Lease, every: float) -> None:
    """Renews one lease for as long as its work goes on."""
    while True:
        await asyncio.sleep(every)
        renewal = agents_pb2.Renewal(lease=_ref(lease))
        request = agents_pb2.RenewLeasesRequest(renewals=[renewal])
        await stub.RenewLeases(request, metadata=METADATA)


async def main(tasks_max: int) -> None:
    """Takes one lease after the other."""
    async with grpc.aio.insecure_channel(os.environ["TENURE_ADDRESS"]) as channel:
        stub = agents_pb2_grpc.AgentsStub(channel)
        ask = agents_pb2.LeaseTasksRequest(agent="small-agent", kinds=["shout"], max_leases=1)
        ask.wait.seconds = 30
        done = 0
        while done < tasks_max:
            granted = await stub.LeaseTasks(ask, metadata=METADATA)
            for lease in granted.batch.leases:
                every = granted.lease_duration.seconds / 3
                renewing = asyncio.create_task(keep(stub, lease, every))
                result = await work(lease)
                renewing.cancel()
                report = agents_pb2.SettleTasksRequest(results=[result])
                settled = await stub.SettleTasks(report, metadata=METADATA)
                verdict = agents_pb2.Verdict.Name(settled.outcomes[0].verdict)
                print(lease.task_key, "attempt", lease.attempt, verdict, flush=True)
                done += 1


def _ref(lease: agents_pb2.Lease) -> agents_pb2.LeaseRef:
    return agents_pb2.LeaseRef(
        run_id=lease.run_id, task_key=lease.task_key, term=lease.term, token=lease.token
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2**31))
