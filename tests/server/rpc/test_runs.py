"""The service Runs: start, show, list, watch, cancel; what is derived where no row is."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused, read_refusal

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, workflows_pb2
from tenure_server.core import ids

CHAIN: list[dict[str, Any]] = [
    {"key": "a", "kind": "k"},
    {"key": "b", "kind": "k", "depends_on": ["a"]},
    {"key": "c", "kind": "k", "depends_on": ["b"]},
]


async def _register(
    live: LiveCoordinator, tasks: list[dict[str, Any]] = CHAIN, name: str = "chain"
) -> None:
    definition = ParseDict({"name": name, "tasks": tasks}, workflows_pb2.WorkflowDefinition())
    await live.calls("submitter").workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )


async def _start(live: LiveCoordinator, **fields: Any) -> runs_pb2.StartRunResponse:
    request = runs_pb2.StartRunRequest(workflow="chain", **fields)
    started: runs_pb2.StartRunResponse = await live.calls("submitter").runs.StartRun(request)
    return started


async def _lease(live: LiveCoordinator, most: int = 1) -> list[agents_pb2.Lease]:
    found = await live.calls("agent").agents.LeaseTasks(
        agents_pb2.LeaseTasksRequest(agent="host", kinds=["k"], max_leases=most)
    )
    return list(found.batch.leases)


async def _settle(live: LiveCoordinator, *results: agents_pb2.Result) -> list[int]:
    settled = await live.calls("agent").agents.SettleTasks(
        agents_pb2.SettleTasksRequest(results=results)
    )
    return [outcome.verdict for outcome in settled.outcomes]


def _ref(lease: agents_pb2.Lease) -> agents_pb2.LeaseRef:
    return agents_pb2.LeaseRef(
        run_id=lease.run_id, task_key=lease.task_key, term=lease.term, token=lease.token
    )


def _success(lease: agents_pb2.Lease, output: bytes | None = None) -> agents_pb2.Result:
    result = agents_pb2.Result(lease=_ref(lease), success=agents_pb2.Success())
    if output is not None:
        result.success.output.data = output
    return result


async def test_a_run_shows_what_it_was_started_with(coordinator: LiveCoordinator) -> None:
    """Input, labels, priority, who and under which id; states of tasks without rows are derived."""
    await _register(coordinator)
    calls = coordinator.calls("submitter", x_correlation_id="tie-9")
    started = await calls.runs.StartRun(
        runs_pb2.StartRunRequest(
            workflow="chain",
            input=payload_pb2.Payload(value=ParseDict({"n": [1, 2.5]}, Value())),
            labels={"why": "test"},
            priority=7,
        )
    )
    shown = (
        await coordinator.calls("viewer").runs.GetRun(runs_pb2.GetRunRequest(run_id=started.run_id))
    ).run
    assert shown.input.data == b'{"n":[1,2.5]}'
    assert shown.labels == {"why": "test"}
    assert (shown.priority, shown.correlation_id) == (7, "tie-9")
    assert shown.state == runs_pb2.RUN_STATE_RUNNING
    assert (shown.workflow_version, shown.workflow_digest) == (
        started.workflow_version,
        started.workflow_digest,
    )
    assert ids.belongs(shown.started_by, "alpha")
    assert shown.tasks == runs_pb2.TaskCounts(total=3, ready=1, waiting=2)
    assert not shown.HasField("start_time")


async def test_the_same_request_id_is_the_same_run(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Alone or in a batch; other content under it is refused and starts nothing."""
    await _register(coordinator)
    first = await _start(coordinator, request_id="r1")
    assert await _start(coordinator, request_id="r1") == first
    runs = coordinator.calls("submitter").runs
    same = runs_pb2.StartRunRequest(workflow="chain", request_id="r1")
    fresh = runs_pb2.StartRunRequest(workflow="chain", request_id="r2")
    batch = await runs.BatchStartRuns(runs_pb2.BatchStartRunsRequest(requests=[same, fresh]))
    assert batch.responses[0] == first
    assert batch.responses[1].run_id != first.run_id
    other = runs_pb2.StartRunRequest(workflow="chain", priority=1, request_id="r1")
    assert (await refused(runs.StartRun(other))).reason == "REQUEST_ID_REUSED"
    page = await runs.ListRuns(runs_pb2.ListRunsRequest())
    assert len(page.runs) == 2


async def test_a_batch_is_started_whole_or_not_at_all(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """One bad request in it, and no run exists; the error says which."""
    await _register(coordinator)
    runs = coordinator.calls("submitter").runs
    good = runs_pb2.StartRunRequest(workflow="chain")
    broken = runs_pb2.StartRunRequest(workflow="chain", input=payload_pb2.Payload(data=b"{"))
    refusal = await refused(
        runs.BatchStartRuns(runs_pb2.BatchStartRunsRequest(requests=[good, broken, good]))
    )
    assert list(refusal.fields) == ["requests[1].input"]
    unknown = runs_pb2.StartRunRequest(workflow="nothing")
    refusal = await refused(
        runs.BatchStartRuns(runs_pb2.BatchStartRunsRequest(requests=[good, unknown]))
    )
    assert refusal.reason == "NOT_FOUND"
    assert not (await runs.ListRuns(runs_pb2.ListRunsRequest())).runs


@pytest.mark.parametrize(
    ("fields", "reason", "path"),
    [
        ({"workflow": ""}, "FIELD_INVALID", "workflow"),
        ({"workflow": "nothing"}, "NOT_FOUND", None),
        ({"workflow_version": 2}, "NOT_FOUND", None),
        ({"workflow_version": -1}, "FIELD_INVALID", "workflow_version"),
        ({"priority": 1001}, "FIELD_INVALID", "priority"),
        ({"input": payload_pb2.Payload(data=b"nope")}, "FIELD_INVALID", "input"),
        (
            {"input": payload_pb2.Payload(data=b'"' + b"x" * 10_000_000 + b'"')},
            "FIELD_INVALID",
            "input",
        ),
        ({"labels": {"x" * 64: ""}}, "FIELD_INVALID", "labels['" + "x" * 64 + "']"),
        ({"request_id": "x" * 101}, "FIELD_INVALID", "request_id"),
    ],
)
async def test_bad_input_starts_nothing(
    coordinator: LiveCoordinator,
    refused: Refused,
    fields: dict[str, Any],
    reason: str,
    path: str | None,
) -> None:
    """Typed, by field, and no run exists afterwards."""
    await _register(coordinator)
    runs = coordinator.calls("submitter").runs
    refusal = await refused(
        runs.StartRun(runs_pb2.StartRunRequest(**{"workflow": "chain", **fields}))
    )
    assert refusal.reason == reason
    assert list(refusal.fields) == ([path] if path else [])
    assert not (await runs.ListRuns(runs_pb2.ListRunsRequest())).runs


async def test_a_message_over_the_limit_is_refused_by_the_transport(
    coordinator: LiveCoordinator,
) -> None:
    """More than 64 MiB is not even read."""
    runs = coordinator.calls("submitter").runs
    huge = runs_pb2.StartRunRequest(
        workflow="chain", input=payload_pb2.Payload(data=bytes((64 << 20) + 1))
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await runs.StartRun(huge)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_tasks_show_where_they_stand(coordinator: LiveCoordinator, refused: Refused) -> None:
    """With rows and without; filtered and page by page; outputs only one at a time."""
    await _register(coordinator)
    run = await _start(coordinator)
    [lease] = await _lease(coordinator)
    await _settle(coordinator, _success(lease, b'{"n":1}'))
    runs = coordinator.calls("viewer").runs
    listed = await runs.ListTasks(runs_pb2.ListTasksRequest(run_id=run.run_id))
    states = {task.key: runs_pb2.TaskState.Name(task.state) for task in listed.tasks}
    assert states == {
        "a": "TASK_STATE_SUCCEEDED",
        "b": "TASK_STATE_READY",
        "c": "TASK_STATE_WAITING",
    }
    done = listed.tasks[0]
    assert (done.attempt, done.term, done.agent) == (1, 1, "host")
    assert done.HasField("lease_time")
    assert done.HasField("end_time")
    assert not done.HasField("failure")
    assert not done.HasField("output")
    shown = await runs.GetTask(runs_pb2.GetTaskRequest(run_id=run.run_id, task_key="a"))
    assert shown.task.output.data == b'{"n":1}'
    for key, state in (("b", runs_pb2.TASK_STATE_READY), ("c", runs_pb2.TASK_STATE_WAITING)):
        shown = await runs.GetTask(runs_pb2.GetTaskRequest(run_id=run.run_id, task_key=key))
        assert shown.task.state == state
    open_ones = [runs_pb2.TASK_STATE_READY, runs_pb2.TASK_STATE_WAITING]
    request = runs_pb2.ListTasksRequest(run_id=run.run_id, states=open_ones, page_size=1)
    first = await runs.ListTasks(request)
    request.page_token = first.next_page_token
    second = await runs.ListTasks(request)
    assert [task.key for task in (*first.tasks, *second.tasks)] == ["b", "c"]
    assert second.next_page_token == ""
    request.ClearField("states")
    assert (await refused(runs.ListTasks(request))).reason == "PAGE_TOKEN_INVALID"
    missing = runs_pb2.GetTaskRequest(run_id=run.run_id, task_key="z")
    assert (await refused(runs.GetTask(missing))).message == "no such task: z"


async def test_runs_are_listed_newest_first(coordinator: LiveCoordinator) -> None:
    """By workflow, by state, page by page, with counts and without inputs."""
    await _register(coordinator)
    await _register(coordinator, CHAIN[:1], "other")
    started = [await _start(coordinator) for _ in range(5)]
    runs = coordinator.calls("submitter").runs
    await runs.StartRun(runs_pb2.StartRunRequest(workflow="other"))
    await runs.CancelRun(runs_pb2.CancelRunRequest(run_id=started[1].run_id, reason="enough"))
    seen, token = [], ""
    while True:
        request = runs_pb2.ListRunsRequest(workflow="chain", page_size=2, page_token=token)
        page = await runs.ListRuns(request)
        seen += page.runs
        token = page.next_page_token
        if not token:
            break
    assert [run.run_id for run in seen] == [run.run_id for run in reversed(started)]
    assert all(run.tasks.total == 3 and not run.HasField("input") for run in seen)
    cancelled = await runs.ListRuns(runs_pb2.ListRunsRequest(states=[runs_pb2.RUN_STATE_CANCELLED]))
    [run] = cancelled.runs
    assert (run.run_id, run.reason) == (started[1].run_id, "enough")
    assert run.tasks == runs_pb2.TaskCounts(total=3, cancelled=3)


async def test_what_happened_is_listed_in_order(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Numbers without gaps, from any of them on."""
    await _register(coordinator)
    run = await _start(coordinator)
    for _ in range(3):
        [lease] = await _lease(coordinator)
        await _settle(coordinator, _success(lease))
    runs = coordinator.calls("viewer").runs
    kinds, after = [], 0
    while True:
        page = await runs.ListRunEvents(
            runs_pb2.ListRunEventsRequest(run_id=run.run_id, after_sequence=after, page_size=3)
        )
        kinds += [(event.sequence, event.task_key) for event in page.events]
        after = page.next_after_sequence
        if not after:
            break
    assert kinds == list(enumerate(["", "a", "a", "b", "b", "c", "c", ""], start=1))
    missing = runs_pb2.ListRunEventsRequest(run_id=ids.new_id("alpha", 1, b"nobody"))
    assert (await refused(runs.ListRunEvents(missing))).reason == "NOT_FOUND"


async def test_a_watch_follows_to_the_end_and_resumes(coordinator: LiveCoordinator) -> None:
    """From the start, from the middle, and for the run as a whole."""
    await _register(coordinator, CHAIN[:1])
    run = await _start(coordinator)
    runs = coordinator.calls("viewer").runs

    async def watch(**fields: Any) -> list[int]:
        request = runs_pb2.WatchRunRequest(run_id=run.run_id, **fields)
        return [event.sequence async for part in runs.WatchRun(request) for event in part.events]

    watching = asyncio.create_task(watch())
    [lease] = await _lease(coordinator)
    await _settle(coordinator, _success(lease))
    assert await watching == [1, 2, 3, 4]
    assert await watch(after_sequence=2) == [3, 4]
    assert await watch(run_events_only=True) == [1, 4]


@pytest.mark.parametrize("rpc", ["GetRun", "ListTasks", "WatchRun", "CancelRun"])
async def test_a_run_that_is_not_there(coordinator: LiveCoordinator, rpc: str) -> None:
    """Missing and foreign runs get the same words; what is no id is bad input."""
    runs = coordinator.calls("submitter").runs
    kind = getattr(runs_pb2, f"{rpc}Request")

    async def refuse(run_id: str) -> Any:
        call = getattr(runs, rpc)(kind(run_id=run_id))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await (anext(aiter(call)) if rpc == "WatchRun" else call)
        return read_refusal(raised.value)

    for run_id in (ids.new_id("alpha", 1, b"nobody"), ids.new_id("beta", 1, b"nobody")):
        refusal = await refuse(run_id)
        assert (refusal.reason, refusal.message) == ("NOT_FOUND", f"no such run: {run_id}")
    assert (await refuse("17")).fields == {"run_id": "must be a valid UUID"}
    assert (await refuse(str(uuid.uuid4()))).reason == "NOT_FOUND"


async def test_cancelling_tells_where_the_run_stands(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """CANCELLING while a lease is live, CANCELLED when none is; an ended run cannot be."""
    await _register(coordinator, CHAIN[:1])
    runs = coordinator.calls("submitter").runs
    held = await _start(coordinator)
    [lease] = await _lease(coordinator)
    request = runs_pb2.CancelRunRequest(run_id=held.run_id, request_id="c1")
    assert (await runs.CancelRun(request)).state == runs_pb2.RUN_STATE_CANCELLING
    result = agents_pb2.Result(lease=_ref(lease), stopped=agents_pb2.Stopped())
    assert await _settle(coordinator, result) == [agents_pb2.VERDICT_APPLIED]
    # The same request id keeps the answer it got; a new one hears how things stand now.
    assert (await runs.CancelRun(request)).state == runs_pb2.RUN_STATE_CANCELLING
    request.ClearField("request_id")
    assert (await runs.CancelRun(request)).state == runs_pb2.RUN_STATE_CANCELLED
    done = await _start(coordinator)
    [lease] = await _lease(coordinator)
    await _settle(coordinator, _success(lease))
    refusal = await refused(runs.CancelRun(runs_pb2.CancelRunRequest(run_id=done.run_id)))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (refusal.reason, refusal.facts["state"]) == ("RUN_CLOSED", "SUCCEEDED")
