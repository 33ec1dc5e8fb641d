"""Runs are moved with real processes: around leases, lost agents, and a coordinator that dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests import logbook
from tests.wire.conftest import Install
from tests.wire.installation import until
from tests.wire.test_failure import prove, tasks_of

from tenure.v1 import runs_pb2
from tenure_client import payload
from tenure_client.builder import Workflow
from tenure_client.client import Client
from tenure_client.errors import TenureError

PAUSED, SUCCEEDED = runs_pb2.RUN_STATE_PAUSED, runs_pb2.RUN_STATE_SUCCEEDED
LEASED, READY = runs_pb2.TASK_STATE_LEASED, runs_pb2.TASK_STATE_READY


def first(folder: str) -> Workflow:
    """Two tasks after another, of which the first waits until it may go."""
    with Workflow("etl") as workflow:
        workflow.task("load", kind="hold", input=folder)
        workflow.task("check", kind="exit", input=3, after=["load"])
    return workflow


def second(folder: str) -> Workflow:
    """With another one between them, and other work where the first version fails."""
    with Workflow("etl") as workflow:
        workflow.task("clean", kind="tenure.echo", input="clean", after=["load"])
        workflow.task("check", kind="measure", after=["clean", "load"])
        workflow.task("load", kind="hold", input=folder)
    return workflow


async def refusal(client: Client, run_id: str) -> str:
    """Which task stands against moving a run, in words."""
    with pytest.raises(TenureError) as caught:
        await client.operations.move(run_id)
    assert caught.value.reason == "VERSIONS_DIFFER"
    [violation] = caught.value.objections
    return f"{violation.type}: {violation.subject} {violation.description}"


@pytest.mark.timeout(120)
async def test_a_run_is_moved_when_its_lease_has_ended_and_goes_on_after_a_kill(
    install: Install, any_store: str, tmp_path: Path
) -> None:
    """Refused while the task is leased, and done once its agent has said what came of it."""
    installation = install("--lease-seconds", "30", "--seat-seconds", "1.5", store=any_store)
    folder = str(tmp_path)
    await installation.add_agent()
    async with installation.client() as client:
        await client.register_workflow(first(folder).definition())
        run_id = (await client.start_run("etl")).run_id
        await until((tmp_path / "load.1.began").exists, "it is executed")
        await client.operations.pause(run_id)
        await client.register_workflow(second(folder).definition())
        assert (await refusal(client, run_id)).startswith(
            "TASK_LEASED: task load is leased to agent"
        )
        (tmp_path / "go").touch()
        while (await tasks_of(client, run_id))["load"].state == LEASED:
            await client.get_run(run_id)
        moved = await client.operations.move(run_id, reason="clean first")
        assert (moved.workflow_version, moved.task_count) == (2, 0)
        installation.coordinator.kill()
        installation.coordinator.start()
        run = await client.get_run(run_id)
        assert (run.state, run.workflow_version) == (PAUSED, 2)
        assert list(await tasks_of(client, run_id)) == ["clean", "check", "load"]
        await client.operations.resume(run_id)
        run = await client.wait_run(run_id)
        assert (run.state, run.tasks.succeeded) == (SUCCEEDED, 3)
        told = await client.get_task(run_id, "check")
        assert payload.decode(told.output) == {"clean": len("clean"), "load": len("attempt 1")}
        await prove(client, run_id, tmp_path)
    installation.close()
    logbook.read_url(installation.store).check()


@pytest.mark.timeout(120)
async def test_a_run_of_a_lost_agent_is_moved_when_its_lease_is_over(
    install: Install, tmp_path: Path
) -> None:
    """And what the agent does after that changes nothing: the task is executed again."""
    installation = install("--lease-seconds", "5")
    folder = str(tmp_path)
    agent = await installation.add_agent()
    async with installation.client() as client:
        await client.register_workflow(first(folder).definition())
        run_id = (await client.start_run("etl")).run_id
        await until((tmp_path / "load.1.began").exists, "it is executed")
        await client.operations.pause(run_id)
        await client.register_workflow(second(folder).definition())
        agent.kill()
        assert "is leased" in await refusal(client, run_id)
        while (await tasks_of(client, run_id))["load"].state != READY:
            await client.get_run(run_id)
        await client.operations.move(run_id, resume=True)
        (tmp_path / "load.1.began").unlink()
        agent.launch()
        await until((tmp_path / "load.1.began").exists, "it is executed again")
        (tmp_path / "go").touch()
        assert (await client.wait_run(run_id)).state == SUCCEEDED
        await prove(client, run_id, tmp_path)


@pytest.mark.timeout(60)
async def test_a_run_that_failed_by_the_old_version_ends_well_by_the_new_one(
    install: Install, tmp_path: Path
) -> None:
    """With other runs of both versions beside it."""
    installation = install()
    (tmp_path / "go").touch()
    folder = str(tmp_path)
    await installation.add_agent()
    async with installation.client() as client:
        await client.register_workflow(first(folder).definition())
        runs = [(await client.start_run("etl")).run_id for _ in range(3)]
        for run_id in runs:
            assert (await client.wait_run(run_id)).reason == "task check failed: SystemExit"
        await client.register_workflow(second(folder).definition())
        newer = (await client.start_run("etl")).run_id
        moved = [client.operations.move(run_id, resume=True) for run_id in runs[:2]]
        assert [one.task_count for one in await asyncio.gather(*moved)] == [1, 1]
        for run_id in (*runs[:2], newer):
            run = await client.wait_run(run_id)
            assert (run.state, run.workflow_version) == (SUCCEEDED, 2)
            await prove(client, run_id, tmp_path)
        assert (await client.get_run(runs[2])).workflow_version == 1
