"""Children spawned beside gRPC: its fork handlers must not reach them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from tests.agent.fake_coordinator import FakeCoordinator

from tenure.v1 import agents_pb2, agents_pb2_grpc
from tenure_agent import commands
from tenure_client import channel

SPAWNS = 60


async def _spawn_under_traffic() -> list[int]:
    """Spawns commands while a stream is busy in this very process. Gives their exit codes."""
    fake = FakeCoordinator()
    address = await fake.start()
    busy = True

    async def traffic() -> None:
        async with channel.open_channel(channel.Endpoint(address)) as line:
            call = agents_pb2_grpc.AgentsStub(line).Work()
            await call.write(agents_pb2.WorkRequest(hello=agents_pb2.Hello(agent="a")))
            await call.read()
            while busy:
                await call.write(agents_pb2.WorkRequest(renewals=[agents_pb2.Renewal()]))
                await call.read()
            call.cancel()

    streams = [asyncio.create_task(traffic()) for _ in range(4)]
    command = commands.Command(
        argv=("sh", "-c", "echo $$"), cwd=Path("/"), env={"PATH": os.environ["PATH"]}
    )
    ended = []
    for _ in range(SPAWNS):
        output = await commands.execute(command, b"{}", {}, stop_seconds=1)
        ended.append(0 if output is not None else 1)
    busy = False
    await asyncio.gather(*streams)
    await fake.stop()
    return ended


def main(loop: str) -> None:
    """Runs the trial; grpc.aio knows one loop in a process, so it is a process of its own."""
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(_spawn_under_traffic()) == [0] * SPAWNS


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_children_spawned_under_traffic_live(loop: str) -> None:
    """Each writes its output and ends well: ChildFailed would tell of a signal."""
    script = f"from tests.agent import test_spawning; test_spawning.main({loop!r})"
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_the_agent_turns_fork_support_off_before_grpc_is_loaded() -> None:
    """Whatever of it is imported first, and whatever the environment said."""
    script = (
        "import os, sys, tenure_agent\n"
        "assert 'grpc' not in sys.modules\n"
        "assert os.environ['GRPC_ENABLE_FORK_SUPPORT'] == '0'\n"
    )
    environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
