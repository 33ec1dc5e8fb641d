"""Agents that die, sleep or come back: the work goes on, and late words change nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.wire.conftest import Install
from tests.wire.installation import Agent, Installation, until

from tenure.v1 import runs_pb2
from tenure_client import payload
from tenure_client.builder import Workflow
from tenure_client.client import Client

#: What an empty file of the spool begins with.
SPOOL_HEADER_BYTES = 8

LOST = runs_pb2.RUN_EVENT_KIND_TASK_LEASE_LOST
LEASED = runs_pb2.RUN_EVENT_KIND_TASK_LEASED
SUCCEEDED = runs_pb2.RUN_EVENT_KIND_TASK_SUCCEEDED


async def begin_holding(client: Client, place: Path, kind: str = "hold") -> str:
    """Starts a run of one task that waits until `place/go` exists."""
    with Workflow("holding") as workflow:
        workflow.task("held", kind=kind, input=str(place))
    await client.register_workflow(workflow.definition())
    return (await client.start_run("holding")).run_id


def began(place: Path, attempt: int = 1) -> Path:
    """The file that an attempt leaves when it begins."""
    return place / f"held.{attempt}.began"


async def kinds(client: Client, run_id: str) -> list[int]:
    """The kinds of the task's events."""
    events = [event async for event in client.list_run_events(run_id)]
    return [event.kind for event in events if event.task_key]


async def who_began(installation: Installation, client: Client, run_id: str) -> Agent:
    """The agent that holds the task's lease."""
    name = (await client.get_task(run_id, "held")).agent
    return next(agent for agent in installation.agents if agent.name == name)


async def test_the_task_of_a_killed_agent_is_done_by_another_and_costs_no_attempt(
    install: Install, tmp_path: Path
) -> None:
    """Within the lease time, without anybody's doing."""
    installation = install("--lease-seconds", "4")
    for _ in range(2):
        await installation.add_agent()
    async with installation.client() as admin:
        run_id = await begin_holding(admin, tmp_path)
        await until(began(tmp_path).exists, "the task begins")
        killed = await who_began(installation, admin, run_id)
        began(tmp_path).unlink()
        killed.kill()
        await until(began(tmp_path).exists, "another agent begins")
        tmp_path.joinpath("go").touch()
        assert (await admin.wait_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        task = await admin.get_task(run_id, "held")
        assert task.agent != killed.name
        assert task.attempt == 1
        assert await kinds(admin, run_id) == [LEASED, LOST, LEASED, SUCCEEDED]


async def test_what_an_agent_says_after_it_slept_past_its_lease_changes_nothing(
    install: Install, tmp_path: Path
) -> None:
    """The other agent's result stands; the sleeper's work has stopped by itself."""
    installation = install("--lease-seconds", "4")
    for _ in range(2):
        await installation.add_agent()
    async with installation.client() as admin:
        run_id = await begin_holding(admin, tmp_path)
        await until(began(tmp_path).exists, "the task begins")
        sleeper = await who_began(installation, admin, run_id)
        began(tmp_path).unlink()
        sleeper.pause()
        await until(began(tmp_path).exists, "another agent begins")
        other = await who_began(installation, admin, run_id)
        sleeper.go_on()
        await until(tmp_path.joinpath("held.stopped").exists, "the sleeper stops its work")
        tmp_path.joinpath("go").touch()
        assert (await admin.wait_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        task = await admin.get_task(run_id, "held")
        assert (task.agent, task.term, task.attempt) == (other.name, 2, 1)
        assert await kinds(admin, run_id) == [LEASED, LOST, LEASED, SUCCEEDED]
        await works_again(admin, sleeper, other, tmp_path)


async def test_a_result_that_was_spooled_too_long_is_superseded(
    install: Install, tmp_path: Path
) -> None:
    """It was finished during an outage, but when it arrives another agent has the task."""
    installation = install("--lease-seconds", "4")
    sleeper = await installation.add_agent()
    async with installation.client() as admin:
        run_id = await begin_holding(admin, tmp_path)
        await until(began(tmp_path).exists, "the task begins")
        installation.coordinator.kill()
        tmp_path.joinpath("go").touch()
        await until(lambda: _spooled(sleeper), "the result lies in the spool")
        sleeper.pause()
        began(tmp_path).unlink()
        tmp_path.joinpath("go").unlink()
        await asyncio.to_thread(installation.coordinator.start)
        other = await installation.add_agent()
        await until(began(tmp_path).exists, "another agent begins")
        sleeper.go_on()
        late = "result does not count"
        await until(lambda: sleeper.logged(late), "the sleeper hears the verdict")
        assert sleeper.logged(late, verdict="VERDICT_SUPERSEDED", run_id=run_id)
        assert (await admin.get_run(run_id)).state == runs_pb2.RUN_STATE_RUNNING
        tmp_path.joinpath("go").touch()
        assert (await admin.wait_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        assert (await admin.get_task(run_id, "held")).agent == other.name
        assert await kinds(admin, run_id) == [LEASED, LOST, LEASED, SUCCEEDED]


async def works_again(client: Client, sleeper: Agent, other: Agent, place: Path) -> None:
    """The sleeper takes and finishes work like before."""
    other.kill()
    run_id = await begin_holding(client, place)
    assert (await client.wait_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
    assert (await client.get_task(run_id, "held")).agent == sleeper.name


async def test_results_that_were_finished_during_an_outage_are_delivered_after_it(
    install: Install, tmp_path: Path
) -> None:
    """The agent spools them, and nobody does the work again."""
    installation = install("--lease-seconds", "15")
    agent = await installation.add_agent()
    async with installation.client() as admin:
        run_id = await begin_holding(admin, tmp_path)
        await until(began(tmp_path).exists, "the task begins")
        installation.coordinator.kill()
        tmp_path.joinpath("go").touch()
        await until(lambda: _spooled(agent), "the result lies in the spool")
        await asyncio.to_thread(installation.coordinator.start)
        assert (await admin.wait_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        assert await kinds(admin, run_id) == [LEASED, SUCCEEDED]
        agent.terminate()
        assert await agent.ended() == 0
        assert agent.logged("agent has drained", unacknowledged=0)


async def test_an_agent_killed_during_an_outage_delivers_its_results_when_it_is_back(
    install: Install, tmp_path: Path
) -> None:
    """The spool outlives both the coordinator and the agent."""
    installation = install("--lease-seconds", "60")
    agent = await installation.add_agent()
    async with installation.client() as admin:
        run_id = await begin_holding(admin, tmp_path)
        await until(began(tmp_path).exists, "the task begins")
        installation.coordinator.kill()
        tmp_path.joinpath("go").touch()
        await until(lambda: _spooled(agent), "the result lies in the spool")
        agent.kill()
        await asyncio.to_thread(installation.coordinator.start)
        await asyncio.to_thread(agent.start)
        run = await admin.wait_run(run_id)
        assert run.state == runs_pb2.RUN_STATE_SUCCEEDED
        assert payload.decode((await admin.get_task(run_id, "held")).output) == "attempt 1"
        assert await kinds(admin, run_id) == [LEASED, SUCCEEDED]
        agent.terminate()
        assert await agent.ended() == 0
        assert agent.logged("agent has drained", unacknowledged=0)


async def test_an_agent_that_drains_finishes_what_it_holds_and_takes_nothing_more(
    install: Install, tmp_path: Path
) -> None:
    """SIGTERM: the result arrives, the exit code is 0, the rest is for others."""
    installation = install()
    agent = await installation.add_agent(slots=1)
    async with installation.client() as admin:
        run_id = await begin_holding(admin, tmp_path)
        await until(began(tmp_path).exists, "the task begins")
        waiting = await begin_holding(admin, tmp_path)
        agent.terminate()
        await until(lambda: agent.logged("agent drains"), "it drains")
        tmp_path.joinpath("go").touch()
        assert await agent.ended() == 0
        assert (await admin.get_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        assert (await admin.get_task(waiting, "held")).state == runs_pb2.TASK_STATE_READY


async def test_a_second_process_under_an_agents_name_takes_over(install: Install) -> None:
    """The first one is told and leaves for good; the slots are never counted twice."""
    installation = install()
    first = await installation.add_agent("twin")
    second = await _twin(installation)
    assert await first.ended() == 1
    assert first.logged("another process runs under this agent's name, leaving")
    assert second.child.poll() is None
    async with installation.client() as admin:
        agents = [(agent.name, agent.state) async for agent in admin.list_agents()]
    assert agents == [("twin", 1)]


async def _twin(installation: Installation) -> Agent:
    agent = Agent("twin", installation.folder / "twin-2")
    secret = await installation.secret("agent")
    agent.configure([installation.coordinator.address], secret, {})
    installation.agents.append(agent)
    await asyncio.to_thread(agent.start)
    return agent


def _spooled(agent: Agent) -> list[Path]:
    """The results in the agent's spool."""
    found = agent.folder.joinpath("spool").rglob("*.spool")
    return [path for path in found if path.stat().st_size > SPOOL_HEADER_BYTES]
