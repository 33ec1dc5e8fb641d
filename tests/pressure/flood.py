"""A tenant that asks for far too much, as a process of its own: `python -m tests.pressure.flood`.

Reads what to do from standard input as JSON, and writes what became of it to standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

import grpc
import grpc.aio

from tenure_client import errors

CONNECTIONS = 10


async def flood(address: str, method: str, request: bytes, secret: str, count: int) -> Counter[str]:
    """Makes calls, all at once. Gives how many got which answer: OK, a reason, or a bare code."""
    alone = [("grpc.use_local_subchannel_pool", 1)]
    channels: list[Any] = [
        grpc.aio.insecure_channel(address, options=alone) for _ in range(CONNECTIONS)
    ]
    answers: Counter[str] = Counter()

    async def one(number: int) -> None:
        call = channels[number % CONNECTIONS].unary_unary(method)
        try:
            await call(request, metadata=(("authorization", f"Bearer {secret}"),), timeout=90)
            answers["OK"] += 1
        except grpc.aio.AioRpcError as error:
            read = errors.from_rpc(error)
            retry = " with RetryInfo" if read.retry_after else ""
            answers[read.reason + retry if read.reason else f"bare {error.code().name}"] += 1

    await asyncio.gather(*(one(number) for number in range(count)))
    for channel in channels:
        await channel.close()
    return answers


def main() -> None:
    """Does what standard input says."""
    asked = json.load(sys.stdin)
    asked["request"] = bytes.fromhex(asked["request"])
    print(json.dumps(asyncio.run(flood(**asked))), flush=True)


if __name__ == "__main__":
    main()
