"""Data flows through real runs: worked out at each lease, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.wire import nest
from tests.wire.conftest import Install
from tests.wire.installation import Installation, until

from tenure.v1 import runs_pb2
from tenure_client import payload
from tenure_client.builder import Retry, Workflow
from tenure_client.cli import app
from tenure_client.client import Client
from tenure_client.declarations import Schemas
from tenure_client.errors import TenureError

SUCCEEDED = runs_pb2.RUN_STATE_SUCCEEDED
FAILED = runs_pb2.RUN_STATE_FAILED
KIB, MIB = 1 << 10, 1 << 20


def pipeline() -> Workflow:
    """Files are listed; each step looks at what came before, not only right before it."""
    schema = {
        "type": "object",
        "required": ["folder"],
        "properties": {"folder": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}},
    }
    with Workflow(
        "pipeline",
        input_schema=schema,
        output={
            "names": "tasks.list.output.files.map(f, f.name)",
            "report": "tasks.report.output",
            "wide": "run.input.limit > 3",
        },
    ) as workflow:
        listed = workflow.task(
            "list",
            kind="tenure.echo",
            bind={
                "files": "[{'name': run.input.folder + '/a', 'size': 3},"
                " {'name': run.input.folder + '/b', 'size': 9007199254740993}]"
            },
        )
        chosen = workflow.task(
            "choose",
            kind="tenure.echo",
            after=[listed],
            bind={"files": "tasks.list.output.files.filter(f, f.size > run.input.limit)"},
        )
        workflow.task(
            "report",
            kind="tenure.echo",
            after=[chosen],
            input={"title": "report"},
            bind={
                "count": "size(tasks.choose.output.files)",
                "of": "size(tasks.list.output.files)",
                "largest": "tasks.choose.output.files[0].size",
                "attempt": "attempt",
            },
        )
    return workflow


async def test_a_run_works_out_what_each_task_is_given_and_what_it_comes_to(
    either_house: Installation,
) -> None:
    """And the mandate of a lease covers it: the agent asks for signatures."""
    agent = await either_house.agent_of_house()
    async with either_house.client() as client:
        await client.register_workflow(pipeline().definition())
        started = await client.start_run("pipeline", input={"folder": "in", "limit": 5})
        run = await client.wait_run(started.run_id)
        assert run.state == SUCCEEDED, run.reason
        shown = await client.get_run(started.run_id)
    assert payload.decode(shown.output) == {
        "names": ["in/a", "in/b"],
        "report": {
            "title": "report",
            "count": 1,
            "of": 2,
            "largest": 9007199254740993,
            "attempt": 1,
        },
        "wide": True,
    }
    assert agent.logged("leases are checked against their mandates")
    assert not agent.logged("lease is refused", run_id=run.run_id)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"folder": 1}, '/folder: 1 is not of type "string"'),
        ({"folder": "x", "limit": 0}, "/limit: 0 is less than the minimum of 1"),
        ({}, '"folder" is a required property'),
    ],
)
async def test_an_input_that_breaks_the_workflows_schema_starts_nothing(
    given: Any, reason: str, house: Installation
) -> None:
    async with house.client() as client:
        await client.register_workflow(pipeline().definition())
        before = await client.count_runs()
        with pytest.raises(TenureError) as refused:
            await client.start_run("pipeline", input=given)
        assert refused.value.fields == (("input", reason),)
        assert await client.count_runs() == before


async def test_what_cannot_be_registered_is_named_by_field(house: Installation) -> None:
    with Workflow("wrong") as workflow:
        workflow.task("a", kind="tenure.echo", bind={"x": "tasks.b.output"})
        workflow.task("b", kind="tenure.echo", after=["a"], when="1 + 'x'")
    async with house.client() as client:
        with pytest.raises(TenureError) as refused:
            await client.register_workflow(workflow.definition())
    assert refused.value.fields == (
        (
            "definition.tasks[0].bindings['x']",
            "task 'a' does not depend on 'b', so it has nothing of it to look at",
        ),
        (
            "definition.tasks[1].when",
            "found no matching overload for '_+_' applied to '(int, string)'",
        ),
    )


def chain(folder: Path) -> Workflow:
    """The last task looks at the first, over one that waits; the run comes to all of it."""
    with Workflow("chain", output={"x": "tasks.last.output", "y": "tasks.first.output"}) as flow:
        first = flow.task("first", kind="tenure.echo", input={"n": 1})
        held = flow.task("held", kind="hold", after=[first], input=str(folder))
        retry = Retry(max_attempts=3, initial_delay="10ms", jitter=0)
        flow.task(
            "last",
            kind="fail-until",
            after=[held],
            retry=retry,
            input={"code": "NOT_YET"},
            bind={"attempt": "tasks.first.output.n + 1", "seen": "attempt"},
        )
    return flow


async def test_what_was_worked_out_survives_the_loss_of_coordinator_and_agent(
    install: Install, any_store: str, tmp_path: Path
) -> None:
    """The outputs that are only looked at are read back, and each attempt is given its own."""
    installation = install("--lease-seconds", "2", "--seat-seconds", "1.5", store=any_store)
    agent = await installation.add_agent()
    async with installation.client() as client:
        await client.register_workflow(chain(tmp_path).definition())
        run_id = (await client.start_run("chain")).run_id
        await until((tmp_path / "held.1.began").exists, "the task does not begin")
        installation.coordinator.kill()
        agent.kill()
        await asyncio.to_thread(installation.coordinator.start)
        (tmp_path / "go").touch()
        await asyncio.to_thread(agent.start)
        run = await client.wait_run(run_id)
        assert run.state == SUCCEEDED, run.reason
        last = await client.get_task(run_id, "last")
        shown = await client.get_run(run_id)
    assert last.attempt == 2
    assert payload.decode(shown.output) == {"x": 2, "y": {"n": 1}}


async def test_a_cancelled_run_comes_to_nothing(house: Installation, tmp_path: Path) -> None:
    async with house.client() as client:
        await client.register_workflow(chain(tmp_path).definition())
        run_id = (await client.start_run("chain")).run_id
        await client.cancel_run(run_id)
        await client.wait_run(run_id)
        assert not (await client.get_run(run_id)).HasField("output")


async def outcome(client: Client, workflow: Workflow, given: Any = None) -> Any:
    """What became of the task `it` of a run."""
    definition = workflow.definition()
    await client.register_workflow(definition)
    run_id = (await client.start_run(definition.name, input=given)).run_id
    run = await client.wait_run(run_id)
    return run, await client.get_task(run_id, "it")


async def test_what_cannot_be_given_fails_by_name_and_is_not_tried_again(
    either_house: Installation,
) -> None:
    await either_house.agent_of_house()
    retry = Retry(max_attempts=5)
    number = {"type": "object", "properties": {"n": {"type": "integer"}}}
    with Workflow("lost") as lost:
        lost.task("it", kind="tenure.echo", retry=retry, bind={"url": "run.input.link.url"})
    with Workflow("unfit", schemas={"tenure.echo": Schemas(input=number)}) as unfit:
        unfit.task("it", kind="tenure.echo", retry=retry, bind={"n": "run.input.n"})
    with Workflow("odd", schemas={"tenure.echo": Schemas(output=number)}) as odd:
        odd.task("it", kind="tenure.echo", input={"n": "1"})
    async with either_house.client() as client:
        run, task = await outcome(client, lost, {"link": {}})
        assert (run.state, run.reason) == (FAILED, "task it failed: BINDING_FAILED")
        assert task.failure.code == "BINDING_FAILED"
        assert task.failure.message == "url: run.input.link.url: run.input.link has no 'url'"
        assert (task.attempt, task.agent) == (1, "")
        run, task = await outcome(client, unfit, {"n": "five"})
        assert task.failure.code == "INPUT_INVALID"
        assert '/n: "five" is not of type "integer"' in task.failure.message
        run, task = await outcome(client, odd)
        assert task.failure.code == "OUTPUT_INVALID"
        assert '/n: "1" is not of type "integer"' in task.failure.message


async def test_a_run_whose_output_nobody_declared_shows_those_of_its_last_tasks(
    house: Installation,
) -> None:
    with Workflow("ends") as workflow:
        first = workflow.task("first", kind="tenure.echo", input=1)
        workflow.task("a", kind="tenure.echo", after=[first], input=[2])
        workflow.task("b", kind="tenure.echo", after=[first], input={"c": 3})
    await house.agent_of_house()
    async with house.client() as client:
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("ends")).run_id
        assert (await client.wait_run(run_id)).state == SUCCEEDED
        shown = await client.get_run(run_id)
        assert payload.decode(shown.output) == {"a": [2], "b": {"c": 3}}
        [listed] = [run async for run in client.list_runs() if run.run_id == run_id]
        assert not listed.HasField("output")


async def test_the_command_line_shows_what_a_run_came_to(
    house: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    await house.agent_of_house()
    async with house.client() as client:
        await client.register_workflow(pipeline().definition())
        run_id = (await client.start_run("pipeline", input={"folder": "in", "limit": 5})).run_id
        await client.wait_run(run_id)
    key = await house.secret("viewer")
    options = ["--address", house.coordinator.address, "--key", key]
    assert await asyncio.to_thread(app.invoke, ["run", "show", run_id, *options]) == 0
    shown = capsys.readouterr().out
    assert '"names"' in shown
    assert await asyncio.to_thread(app.invoke, ["run", "show", run_id, *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"]["names"] == ["in/a", "in/b"]


async def test_tasks_with_much_to_work_out_come_one_turn_after_the_other(
    house: Installation,
) -> None:
    """All of them end, and meanwhile the coordinator answers."""
    await house.agent_of_house()
    with Workflow("heavy") as workflow:
        for number in range(40):
            bind = {"x": f"run.input.map(i, i.n + {number})"}
            workflow.task(f"t{number}", kind="tenure.noop", bind=bind)
    given = [{"n": number} for number in range(9_000)]
    async with house.client() as client:
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("heavy", input=given)).run_id
        run = await client.wait_run(run_id)
        assert (run.state, run.tasks.succeeded) == (SUCCEEDED, 40)


def test_a_run_in_one_command_says_what_it_came_to(kept: nest.Kept) -> None:
    assert kept.report["output"] == {"seen": nest.OUTPUT_TEXT}


async def test_outputs_that_are_too_large_to_travel_go_by_the_store_of_the_agents(
    either_house: Installation, tmp_path: Path
) -> None:
    """Made on one host and used on another: only who shares the store, and nobody in between."""
    await either_house.add_tenant("sharing")
    sharing: dict[str, Any] = {
        "tenants": ("sharing",),
        "slots": 1,
        "payloads": {"store": f"file://{tmp_path}/payloads", "inline_max": "64KiB"},
    }
    with Workflow("large") as workflow:
        made = [
            workflow.task(name, kind="big", input=3 * MIB + number)
            for number, name in enumerate(("a", "b"))
        ]
        small = workflow.task("small", kind="big", input=KIB)
        workflow.task("measure", kind="measure", after=[*made, small])
    async with (
        either_house.passing_agent("sharing-1", **sharing),
        either_house.passing_agent("sharing-2", **sharing),
        either_house.client("admin", "sharing") as client,
    ):
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("large")).run_id
        run = await client.wait_run(run_id)
        assert run.state == SUCCEEDED, run.reason
        kept = await client.get_task(run_id, "a")
        measured = await client.get_task(run_id, "measure")
    assert kept.output.content_type == "application/vnd.tenure.reference+json"
    reference = payload.decode(kept.output)
    assert reference["bytes"] == 3 * MIB + 2
    stored = Path(reference["uri"].removeprefix("file://"))
    assert len(await asyncio.to_thread(stored.read_bytes)) == 3 * MIB + 2
    assert payload.decode(measured.output) == {"a": 3 * MIB, "b": 3 * MIB + 1, "small": KIB}
