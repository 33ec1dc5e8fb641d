"""What the machine is worth right now: its disk, its loopback, its processor.

Machines differ, and one machine differs from hour to hour. `python -m benchmarks.calibration` is
the other end of the ping-pong: it answers until its standard input ends.
"""

from __future__ import annotations

import os

# Before the first import of grpc, which reads it when it is loaded: we spawn children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from benchmarks.results import Figure, percentile

_METHOD = "/calibration.Echo/Echo"
_MESSAGE = bytes(193)
_BLOCK = bytes(4096)
_TIMES = 500
_SPINS = 1_000_000
_SPIN_TIMES = 5
_SECONDS_MAX = 60.0


async def measure(when: str) -> list[Figure]:
    """Measures all three. Raises TimeoutError when something hangs."""
    async with asyncio.timeout(_SECONDS_MAX):
        fsync = await asyncio.to_thread(_fsync_seconds)
        ping = await _ping_pong_seconds()
        spin = min(_spin_seconds() for _ in range(_SPIN_TIMES))
    seconds = {
        "fsync of a 4 KiB append, p50": percentile(fsync, 0.5),
        "fsync of a 4 KiB append, p99": percentile(fsync, 0.99),
        "stream ping-pong, p50": percentile(ping, 0.5),
        f"spin loop of {_SPINS:,} turns, best": spin,
    }
    return [
        Figure(scenario=f"calibration {when}", metric=metric, value=value * 1e3, unit="ms")
        for metric, value in seconds.items()
    ]


def _fsync_seconds() -> list[float]:
    """Times of appends, where the installations keep their stores too."""
    took = []
    with tempfile.NamedTemporaryFile(prefix="tenure-bench-", buffering=0) as file:
        for _ in range(_TIMES):
            begin = time.perf_counter()
            file.write(_BLOCK)
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begin)
    return took


async def _ping_pong_seconds() -> list[float]:
    """Times of small messages to another process and back, on an open stream."""
    child = subprocess.Popen(  # noqa: ASYNC220 - it takes a moment in which nothing else runs
        [sys.executable, "-m", "benchmarks.calibration"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert child.stdout is not None
        port = int(await asyncio.to_thread(child.stdout.readline))
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]
        ) as channel:
            stream: Any = channel.stream_stream(_METHOD)()
            took = []
            for _ in range(_TIMES):
                begin = time.perf_counter()
                await stream.write(_MESSAGE)
                await stream.read()
                took.append(time.perf_counter() - begin)
            await stream.done_writing()
        return took
    finally:
        child.kill()
        child.communicate()


def _spin_seconds() -> float:
    begin = time.perf_counter()
    total = 0
    for number in range(_SPINS):
        total += number
    return time.perf_counter() - begin


async def _echo(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    async for message in requests:
        yield message


async def _answer() -> None:
    """Answers every message with itself until standard input ends."""
    server = grpc.aio.server()
    handlers: Any = {"Echo": grpc.stream_stream_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("calibration.Echo", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops here: uvloop, where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_answer())
