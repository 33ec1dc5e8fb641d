"""An agent on another host, and the network between them is cut: nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.wire.cable import Cable, NoNetwork
from tests.wire.conftest import Install
from tests.wire.installation import TENANT, Agent, Installation, until
from tests.wire.test_agent_lost import (
    LEASED,
    LOST,
    SUCCEEDED,
    began,
    begin_holding,
    kinds,
    works_again,
)

from tenure.v1 import runs_pb2

RETURNED = runs_pb2.RUN_EVENT_KIND_TASK_LEASE_RETURNED


@pytest.fixture
def cable() -> Iterator[Cable]:
    """A cable to another host."""
    try:
        cable = Cable()
    except NoNetwork as reason:
        pytest.skip(str(reason))
    yield cable
    cable.close()


async def _add_agent_beyond(installation: Installation, cable: Cable) -> Agent:
    agent = Agent("beyond", installation.folder / "beyond")
    agent.command = (*cable.beyond, *agent.command)
    secret = await installation.secret("agent", TENANT)
    agent.configure([installation.coordinator.address], secret, {})
    installation.agents.append(agent)
    await asyncio.to_thread(agent.start)
    return agent


async def test_an_agent_that_is_cut_off_stops_by_itself_and_comes_back(
    install: Install, cable: Cable, tmp_path: Path
) -> None:
    """Neither side hears that the line is gone; the lease's time tells both of them."""
    flags = ("--lease-seconds", "2", "--accept-seconds", "1", "--listen", f"{cable.here}:0")
    installation = install(*flags)
    beyond = await _add_agent_beyond(installation, cable)
    async with installation.client() as admin:
        run_id = await begin_holding(admin, tmp_path)
        await until(began(tmp_path).exists, "the task begins beyond the cable")
        began(tmp_path).unlink()
        cable.cut()
        other = await installation.add_agent()
        await until(tmp_path.joinpath("held.stopped").exists, "the agent stops by itself")
        await until(began(tmp_path).exists, "another agent begins")
        cable.mend()
        tmp_path.joinpath("go").touch()
        assert (await admin.wait_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        task = await admin.get_task(run_id, "held")
        assert (task.agent, task.attempt) == (other.name, 1)
        # In between it may have been leased into the cut cable, and was given back from there.
        *lost, last, end = await kinds(admin, run_id)
        assert (last, end) == (LEASED, SUCCEEDED)
        assert set(lost[::2]) == {LEASED}
        assert set(lost[1::2]) <= {LOST, RETURNED}
        await works_again(admin, beyond, other, tmp_path)
