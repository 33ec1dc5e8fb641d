"""Broken HTTP/2 on the port: it ends its own connection at most, and costs nobody anything."""

from __future__ import annotations

import asyncio

import grpc
import psutil  # type: ignore[import-untyped]
from tests import logbook
from tests.wire import http2, raw
from tests.wire.installation import Installation
from tests.wire.raw import Line, bearer

CASES = list(http2.broken())
#: How long a line that was not hung up is looked at.
LOOK_SECONDS = 1.0
GROWTH_MIB = 200


async def test_broken_frames_end_their_own_connection_at_most(
    seeded: Installation, line: Line
) -> None:
    """All at once; calls are served meanwhile and afterwards, and memory and tables stay."""
    coordinator, database = seeded.coordinator, seeded.folder / "tenure.db"
    process = psutil.Process(coordinator.child.pid)
    before, grown_from = raw.dump(database), process.memory_info().rss
    faults = len(_faults(seeded))
    key = [bearer(await seeded.secret("admin"))]
    host, _, port = coordinator.address.rpartition(":")
    breaking = [asyncio.create_task(_say(host, int(port), said)) for _, said in CASES]
    served = 0
    while served < 5 or not all(task.done() for task in breaking):
        answer = await line.unary("Runs/ListRuns", b"", key)
        assert answer.code is grpc.StatusCode.OK, answer
        served += 1
    await asyncio.gather(*breaking)
    async with Line(coordinator.address) as another:
        assert (await another.unary("Runs/ListRuns", b"", key)).code is grpc.StatusCode.OK
    assert coordinator.child.poll() is None
    assert len(_faults(seeded)) == faults
    assert raw.dump(database) == before
    assert (process.memory_info().rss - grown_from) >> 20 < GROWTH_MIB
    logbook.read_url(f"sqlite://{database}").check()


def _faults(house: Installation) -> list[object]:
    return [line for line in house.coordinator.log_lines() if line["level"] == "error"]


async def _say(host: str, port: int, said: bytes) -> None:
    """Says something on a line of its own, and hears what comes until it is hung up, or quiet."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            writer.write(http2.PREFACE + http2.frame(http2.SETTINGS) + said)
            await writer.drain()
            while await reader.read(1 << 16):
                pass
    except (ConnectionError, TimeoutError):
        pass  # hung up while we still spoke, or waiting for more
    finally:
        writer.close()
