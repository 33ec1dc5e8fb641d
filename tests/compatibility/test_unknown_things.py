"""Programs meet what they do not know: old ones what is newer, and newer ones our limits."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from tests.compatibility.contract import Contract
from tests.compatibility.programs import OnLine, Program, on_line, success
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import read_refusal

from tenure.v1 import run_changes_pb2, runs_pb2, workflows_pb2

FIRST = Contract("first")
#: A contract that has gone on from ours: what is said with it, we do not know.
NEWER = Contract("first", newer=frozenset({"StartRunRequest", "Hello", "WorkRequest", "Result"}))
#: Of what the first contract did not have, everything that a run needs nobody else for.
NOVEL = {
    "name": "novel",
    "tasks": [
        {"key": "one", "kind": "count", "bindings": {"next": "run.input.n + 1"}},
        {"key": "never", "kind": "count", "when": "run.input.n > 5"},
        {"key": "rest", "timer": {"delay": "0.001s"}, "dependsOn": ["one"]},
        {"key": "each", "kind": "count", "forEach": {"items": "[1, 2]"}, "dependsOn": ["rest"]},
        {
            "key": "last",
            "kind": "count",
            "dependsOn": ["each", "never"],
            "trigger": "TRIGGER_RULE_ALL_DONE",
        },
    ],
}
PLAIN = {"name": "plain", "tasks": [{"key": "a", "kind": "count"}, {"key": "b", "kind": "count"}]}


async def _register(live: LiveCoordinator, content: dict[str, Any]) -> None:
    definition = ParseDict(content, workflows_pb2.WorkflowDefinition())
    request = workflows_pb2.RegisterWorkflowRequest(definition=definition)
    await live.calls("submitter").workflows.RegisterWorkflow(request)


async def _do(line: OnLine, tasks: int) -> dict[str, bytes]:
    """Does so many tasks, one after the other, and gives what each was told to do."""
    inputs = {}
    for _ in range(tasks):
        await line.say(credits=1)
        (lease,) = await line.hear("leases")
        inputs[lease.task_key] = lease.input.data
        await line.say(results=[success(lease, b"{}")])
        (outcome,) = await line.hear("outcomes")
        assert outcome.verdict == FIRST.VERDICT_APPLIED
    return inputs


async def test_old_programs_do_and_see_a_run_of_a_newer_workflow(
    coordinator: LiveCoordinator,
) -> None:
    """Conditions, timers, lists, bindings and pauses: who does not know them works all the same."""
    client = Program(FIRST, coordinator, "submitter", set())
    agent = Program(FIRST, coordinator, "agent", set())
    await _register(coordinator, NOVEL)
    start = FIRST.StartRunRequest(workflow="novel", input={"data": b'{"n": 1}'})
    run_id = (await client.Runs.StartRun(start)).run_id
    asked = FIRST.GetRunRequest(run_id=run_id)

    await coordinator.calls("submitter").runs.PauseRun(
        run_changes_pb2.PauseRunRequest(run_id=run_id)
    )
    paused = (await client.Runs.GetRun(asked)).run
    assert paused.state == runs_pb2.RUN_STATE_PAUSED not in FIRST.values("RunState")
    await coordinator.calls("submitter").runs.ResumeRun(
        run_changes_pb2.ResumeRunRequest(run_id=run_id)
    )

    watch = client.Runs.WatchRun(FIRST.WatchRunRequest(run_id=run_id))
    async with on_line(FIRST, agent, ["count"]) as line:
        inputs = await _do(line, tasks=4)
    assert inputs["one"] == b'{"next":2}'
    assert set(inputs) == {"one", "each[0]", "each[1]", "last"}
    events = [event async for page in watch for event in page.events]
    assert {event.kind for event in events} - FIRST.values("RunEventKind")
    assert events[-1].kind == FIRST.RUN_EVENT_KIND_RUN_SUCCEEDED
    run = (await client.Runs.GetRun(asked)).run
    assert (run.state, run.tasks.succeeded) == (FIRST.RUN_STATE_SUCCEEDED, 6)
    page = await client.Runs.ListTasks(FIRST.ListTasksRequest(run_id=run_id))
    states = {task.key: task.state for task in page.tasks}
    assert states.pop("never") == runs_pb2.TASK_STATE_SKIPPED not in FIRST.values("TaskState")
    assert set(states.values()) == {FIRST.TASK_STATE_SUCCEEDED}


async def test_what_a_newer_client_says_beyond_our_contract_is_refused_and_named(
    coordinator: LiveCoordinator,
) -> None:
    """It may change what the call means, so nothing is done without it."""
    client = Program(NEWER, coordinator, "submitter", set())
    await _register(coordinator, PLAIN)
    newer = NEWER.StartRunRequest(workflow="plain", news="in a mood")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.Runs.StartRun(newer)
    refusal = read_refusal(raised.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert refusal.fields == {"request": "has a field that is not known here: 900"}
    assert not (await client.Runs.ListRuns(NEWER.ListRunsRequest())).runs
    # The same client without what is new is as good as any.
    newer.ClearField("news")
    assert (await client.Runs.StartRun(newer)).run_id


async def test_a_newer_agent_says_hello_and_works(coordinator: LiveCoordinator) -> None:
    """What it says beyond our contract is passed over, in every frame: its results count."""
    client = Program(NEWER, coordinator, "submitter", set())
    agent = Program(NEWER, coordinator, "agent", set())
    await _register(coordinator, PLAIN)
    await client.Runs.StartRun(NEWER.StartRunRequest(workflow="plain"))
    async with on_line(NEWER, agent, ["count"], news="I can do more") as line:
        await line.say(credits=2, news="and say more")
        leases = await line.hear("leases", 2)
        results = [{**success(lease, b"1"), "news": "and do more"} for lease in leases]
        await line.say(results=results, news="always")
        outcomes = await line.hear("outcomes", 2)
        assert {outcome.verdict for outcome in outcomes} == {NEWER.VERDICT_APPLIED}
