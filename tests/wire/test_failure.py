"""Runs that fail, with real agents: silent handlers, time that is up, and what is undone then."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests import logbook
from tests.wire.conftest import Install
from tests.wire.installation import Installation, until

from tenure.v1 import runs_pb2
from tenure_client import payload
from tenure_client.builder import Retry, Workflow
from tenure_client.client import Client
from tenure_client.declarations import ForEach, Handler
from tenure_evidence.verify import verify

FAILED = runs_pb2.RUN_STATE_FAILED
COMPENSATING = runs_pb2.RUN_STATE_COMPENSATING


async def tasks_of(client: Client, run_id: str) -> dict[str, runs_pb2.Task]:
    """The tasks of a run, by key."""
    return {task.key: task async for task in client.list_tasks(run_id)}


async def prove(client: Client, run_id: str, folder: Path) -> None:
    """Wants a bundle of the run that verifies."""
    path = folder / f"{run_id}.json"
    await client.evidence.export_run(run_id, path)
    report = verify(path.read_bytes())
    assert report.ok, report.findings


@pytest.mark.timeout(120)
async def test_what_is_undone_goes_on_through_kills_of_coordinator_and_agent(
    install: Install, any_store: str, tmp_path: Path
) -> None:
    """Each step that undoes is done, in order, and the run ends FAILED with all of it proven."""
    installation = install("--lease-seconds", "2", "--seat-seconds", "1.5", store=any_store)
    folder = str(tmp_path)
    with Workflow("saga", on_failure=Handler(kind="tenure.echo")) as workflow:
        a = workflow.task(
            "a", kind="tenure.echo", input=1, compensation=Handler(kind="hold", input=folder)
        )
        b = workflow.task(
            "b",
            kind="tenure.echo",
            input=2,
            after=[a],
            compensation=Handler(kind="hold", input=folder),
        )
        workflow.task("c", kind="exit", input=3, after=[b])
    agent = await installation.add_agent()
    async with installation.client() as client:
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("saga")).run_id
        await until((tmp_path / "b~undo.1.began").exists, "the last success is undone")
        assert (await client.get_run(run_id)).state == COMPENSATING
        agent.kill()
        (tmp_path / "b~undo.1.began").unlink()
        agent.launch()
        # The lease of the killed agent is lost, and another one begins.
        await until((tmp_path / "b~undo.1.began").exists, "it is undone again")
        installation.coordinator.kill()
        (tmp_path / "b~undo.go").touch()
        installation.coordinator.start()
        await until((tmp_path / "a~undo.1.began").exists, "the first is undone")
        shown = await tasks_of(client, run_id)
        assert list(shown) == ["a", "b", "c", "b~undo", "a~undo", "~on_failure"]
        assert shown["~on_failure"].state == runs_pb2.TASK_STATE_WAITING
        (tmp_path / "go").touch()
        run = await client.wait_run(run_id)
        assert (run.state, run.reason) == (FAILED, "task c failed: SystemExit")
        assert (run.tasks.total, run.tasks.succeeded, run.tasks.failed) == (6, 5, 1)
        undone = await client.get_task(run_id, "b~undo")
        assert (undone.kind, undone.state) == ("hold", runs_pb2.TASK_STATE_SUCCEEDED)
        told = await client.get_task(run_id, "~on_failure")
        assert payload.decode(told.output) == {
            "failed": [{"task": "c", "code": "SystemExit", "message": "3"}]
        }
        await prove(client, run_id, tmp_path)
    installation.close()
    logbook.read_url(installation.store).check()


@pytest.mark.timeout(60)
async def test_items_of_a_list_are_undone_each_with_its_own(
    install: Install, tmp_path: Path
) -> None:
    """Fields of what undoes an item see that item, its place, and what it gave."""
    installation = install()
    with Workflow("items") as workflow:
        given = {"item": "item.name", "place": "index", "gave": "output.done"}
        each = workflow.task(
            "each",
            kind="tenure.echo",
            for_each=ForEach(items="run.input", parallelism=1),
            bind={"done": "item.name + '!'"},
            compensation=Handler(kind="tenure.echo", bind=given),
        )
        workflow.task("c", kind="exit", input=3, after=[each])
    await installation.add_agent()
    async with installation.client() as client:
        await client.register_workflow(workflow.definition())
        names = ["ada", "bob", "cleo"]
        started = await client.start_run("items", input=[{"name": name} for name in names])
        run = await client.wait_run(started.run_id)
        assert (run.state, run.reason) == (FAILED, "task c failed: SystemExit")
        for place, name in enumerate(names):
            undone = await client.get_task(started.run_id, f"each[{place}]~undo")
            wanted = {"item": name, "place": place, "gave": f"{name}!"}
            assert payload.decode(undone.output) == wanted
        events = [event async for event in client.watch_run(started.run_id)]
        leased = [one.task_key for one in events if one.kind == runs_pb2.RUN_EVENT_KIND_TASK_LEASED]
        assert leased[-3:] == [f"each[{place}]~undo" for place in (2, 1, 0)]
        await prove(client, started.run_id, tmp_path)
    installation.close()
    logbook.read_url(installation.store).check()


@pytest.mark.timeout(60)
async def test_a_silent_handler_is_stopped_and_tried_again(
    house: Installation, tmp_path: Path
) -> None:
    """One that tells of its progress goes on for as long as it takes."""
    with Workflow("heartbeats") as workflow:
        workflow.task(
            "silent",
            kind="hold",
            input=str(tmp_path),
            heartbeat_timeout="500ms",
            retry=Retry(max_attempts=2, strategy="fixed", initial_delay="10ms"),
        )
        workflow.task("speaking", kind="speak", input=3.0, heartbeat_timeout="1s")
    await house.agent_of_house()
    async with house.client() as client:
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("heartbeats")).run_id
        run = await client.wait_run(run_id)
        assert run.reason == "task silent failed: HEARTBEAT_TIMED_OUT"
        shown = await tasks_of(client, run_id)
        assert shown["silent"].attempt == 2
        assert shown["speaking"].state == runs_pb2.TASK_STATE_SUCCEEDED
        assert (tmp_path / "silent.stopped").exists()
        await prove(client, run_id, tmp_path)


@pytest.mark.timeout(60)
async def test_times_that_are_up_end_tasks_and_runs(house: Installation, tmp_path: Path) -> None:
    """What nobody leases, what takes too long in all, and a run that takes too long."""
    with Workflow("late") as late:
        late.task("queue", kind="nobody", queue_timeout="200ms")
        late.task("total", kind="hold", input=str(tmp_path), total_timeout="300ms")
    with Workflow("overdue", total_timeout="500ms") as overdue:
        overdue.task("held", kind="hold", input=str(tmp_path))
        overdue.task("after", kind="tenure.noop", after=["held"])
    await house.agent_of_house()
    async with house.client() as client:
        for workflow in (late, overdue):
            await client.register_workflow(workflow.definition())
        first, second = await asyncio.gather(client.start_run("late"), client.start_run("overdue"))
        shown = await client.get_run(second.run_id)
        span = shown.deadline_time.ToMicroseconds() - shown.create_time.ToMicroseconds()
        assert span == 500_000
        assert (await client.wait_run(first.run_id)).state == FAILED
        codes = {
            key: task.failure.code for key, task in (await tasks_of(client, first.run_id)).items()
        }
        assert codes == {"queue": "QUEUE_TIMED_OUT", "total": "TOTAL_TIMED_OUT"}
        run = await client.wait_run(second.run_id)
        assert (run.state, run.reason) == (FAILED, "it took longer than it may")
        assert (tmp_path / "held.stopped").exists()
        for started in (first, second):
            await prove(client, started.run_id, tmp_path)
