"""Runs are moved to newer versions over the wire, on both databases, and can still be proved."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from tests import logbook
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused
from tests.server.rpc.constitutions import article, tried, work_off
from tests.server.rpc.test_bulk import changed
from tests.server.rpc.test_evidence import chain_of, exported
from tests.server.rpc.test_seeing import counted, listed, registered, started

from tenure.v1 import run_changes_pb2, runs_pb2
from tenure_evidence import verify
from tenure_evidence.report import Report

WIDER = [
    {"key": "x", "kind": "k", "depends_on": ["a"]},
    {"key": "b", "kind": "k", "depends_on": ["a", "x"]},
    {"key": "a", "kind": "k"},
]
BOOM: dict[str, Any] = {"failure": runs_pb2.Failure(code="BOOM", non_retryable=True)}
MOVE = runs_pb2.RUN_VERB_MOVE


async def paused(live: LiveCoordinator, *, done: int = 1) -> str:
    """A paused run of a chain, of which so many tasks are done."""
    await registered(live, "flow")
    run_id = await started(live, "flow")
    for _ in range(done):
        assert await work_off(live)
    request = run_changes_pb2.PauseRunRequest(run_id=run_id)
    await live.calls("submitter").runs.PauseRun(request)
    return run_id


async def moved(live: LiveCoordinator, run_id: str, **more: Any) -> Any:
    """Moves a run."""
    request = run_changes_pb2.MoveRunRequest(run_id=run_id, **more)
    return await live.calls("submitter").runs.MoveRun(request)


async def shown(live: LiveCoordinator, run_id: str) -> runs_pb2.Run:
    """A run as it is shown."""
    found = await live.calls("viewer").runs.GetRun(runs_pb2.GetRunRequest(run_id=run_id))
    run: runs_pb2.Run = found.run
    return run


async def states(live: LiveCoordinator, run_id: str) -> dict[str, str]:
    """The tasks of a run in their order, and where each stands."""
    request = runs_pb2.ListTasksRequest(run_id=run_id)
    found = await live.calls("viewer").runs.ListTasks(request)
    return {task.key: runs_pb2.TaskState.Name(task.state)[11:] for task in found.tasks}


async def proved(live: LiveCoordinator, run_id: str) -> Report:
    """The run's bundle, verified with the root key."""
    chain = await chain_of(live)
    report = verify.verify(await exported(live, "viewer", run_id), chain.keys[0].text)
    assert report.findings == ()
    return report


async def test_a_moved_run_shows_where_it_was_and_proves_its_way_through_both(
    on_either: LiveCoordinator,
) -> None:
    """From the start under the one version to the end under the other."""
    run_id = await paused(on_either)
    before = await shown(on_either, run_id)
    await proved(on_either, run_id)
    await registered(on_either, "flow", WIDER)
    answer = await moved(on_either, run_id, reason="x was forgotten")
    run = await shown(on_either, run_id)
    assert (answer.workflow_version, answer.task_count) == (2, 0)
    assert answer.workflow_digest == run.workflow_digest != before.workflow_digest
    assert (run.workflow_version, run.state) == (2, runs_pb2.RUN_STATE_PAUSED)
    [was] = run.earlier_versions
    assert (was.workflow_version, was.workflow_digest) == (1, before.workflow_digest)
    assert await states(on_either, run_id) == {"x": "READY", "b": "WAITING", "a": "SUCCEEDED"}
    task = await on_either.calls("viewer").runs.GetTask(
        runs_pb2.GetTaskRequest(run_id=run_id, task_key="a")
    )
    assert (task.task.attempt, task.task.agent) == (1, "host")
    await proved(on_either, run_id)
    await on_either.calls("submitter").runs.ResumeRun(
        run_changes_pb2.ResumeRunRequest(run_id=run_id)
    )
    while await work_off(on_either):
        pass
    report = await proved(on_either, run_id)
    assert report.end == "run.succeeded"
    events = await on_either.calls("viewer").runs.ListRunEvents(
        runs_pb2.ListRunEventsRequest(run_id=run_id)
    )
    [event] = [one for one in events.events if one.kind == runs_pb2.RUN_EVENT_KIND_RUN_MOVED]
    assert event.message == "version 1 to 2: x was forgotten"
    assert event.sequence == was.until_sequence
    logbook.read(on_either.server.store).check()


async def test_the_entry_of_the_act_names_who_moved_what_and_its_item_both_definitions(
    on_either: LiveCoordinator,
) -> None:
    """Kind, principal, method and request as with the other verbs."""
    run_id = await paused(on_either, done=0)
    digest = (await shown(on_either, run_id)).workflow_digest
    await registered(on_either, "flow", WIDER)
    answer = await moved(on_either, run_id)
    entries = logbook.read(on_either.server.store).entries["alpha"]
    [entry] = [one for one in entries if one.says["kind"] == "run.move"]
    assert entry.says["subject"] == {"run": run_id}
    assert entry.says["method"] == "/tenure.v1.Runs/MoveRun"
    assert "submitter" in entry.says["roles"]
    [item] = entry.events
    assert (item["kind"], item["previous"]) == ("run.moved", digest)
    assert item["definition"] == answer.workflow_digest
    assert item["text"].startswith("sha256:")


async def test_what_stands_against_it_is_told_task_by_task(
    on_either: LiveCoordinator, refused: Refused
) -> None:
    """As preconditions, for programs and for people; nothing is changed."""
    run_id = await paused(on_either)
    await registered(on_either, "flow", [{"key": "b", "kind": "other"}])
    refusal = await refused(moved(on_either, run_id))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "VERSIONS_DIFFER",
    )
    missing = "has succeeded and is not in version 2"
    assert refusal.preconditions == [("TASK_MISSING", "task a", missing)]
    assert refusal.message.endswith(f"from version 1 to version 2: task a: {missing}")
    run = await shown(on_either, run_id)
    assert (run.workflow_version, list(run.earlier_versions)) == (1, [])


@pytest.mark.parametrize(
    ("state", "version", "reason"),
    [
        ("running", 0, "RUN_STANDS"),
        ("succeeded", 0, "RUN_CLOSED"),
        ("paused", 3, "NOT_FOUND"),
        ("moved", 1, "RUN_STANDS"),
    ],
)
async def test_a_run_that_is_not_to_be_moved_is_refused(
    coordinator: LiveCoordinator, refused: Refused, state: str, version: int, reason: str
) -> None:
    """With the reason that the contract says."""
    run_id = await paused(coordinator)
    await registered(coordinator, "flow", WIDER)
    calls = coordinator.calls("submitter").runs
    if state in ("running", "succeeded"):
        await calls.ResumeRun(run_changes_pb2.ResumeRunRequest(run_id=run_id))
    if state == "succeeded":
        assert await work_off(coordinator)
    if state == "moved":
        await moved(coordinator, run_id)
    refusal = await refused(moved(coordinator, run_id, workflow_version=version))
    assert refusal.reason == reason


async def test_a_failed_run_goes_on_from_what_failed(on_either: LiveCoordinator) -> None:
    """At once, where that is asked."""
    await registered(on_either, "flow")
    run_id = await started(on_either, "flow")
    assert await work_off(on_either)
    assert await work_off(on_either, **BOOM)
    await registered(on_either, "flow", WIDER)
    answer = await moved(on_either, run_id, resume=True)
    assert answer.task_count == 1
    assert (await shown(on_either, run_id)).state == runs_pb2.RUN_STATE_RUNNING
    while await work_off(on_either):
        pass
    assert (await proved(on_either, run_id)).end == "run.succeeded"


async def test_many_runs_are_moved_and_those_that_cannot_be_are_told(
    on_either: LiveCoordinator,
) -> None:
    """Each as an act of its own, once for a request."""
    runs = [await paused(on_either, done=done) for done in (1, 0, 1)]
    await registered(on_either, "flow", [{"key": "b", "kind": "k"}])
    asked: dict[str, Any] = {"filter": runs_pb2.RunFilter(workflow="flow"), "request_id": "all"}
    for _ in range(2):
        [*_, last] = await changed(on_either, MOVE, resume=True, **asked)
        assert (last.matched, last.done, last.refused) == (3, 1, 2)
        assert list(last.run_ids) == [runs[1]]
        assert [one.reason for one in last.refusals] == ["VERSIONS_DIFFER"] * 2
    assert await counted(on_either) == {"PAUSED": 2, "RUNNING": 1}
    kinds = [entry["kind"] for entry in logbook.read(on_either.server.store).of("alpha")]
    assert kinds.count("run.move") == 1
    await registered(on_either, "flow", WIDER)
    states = [runs_pb2.RUN_STATE_PAUSED]
    wanted = runs_pb2.RunFilter(workflow="flow", states=states)
    [*_, last] = await changed(on_either, MOVE, filter=wanted, workflow_version=3)
    assert (last.done, last.refused) == (2, 0)


@pytest.mark.parametrize("asked", [{"workflow_version": 1}, {"resume": True}])
async def test_what_is_for_moving_is_refused_with_other_verbs(
    coordinator: LiveCoordinator, refused: Refused, asked: dict[str, Any]
) -> None:
    """Whoever says it means something else."""
    wanted = runs_pb2.RunFilter(workflow="flow")
    request = runs_pb2.ChangeRunsRequest(filter=wanted, verb=runs_pb2.RUN_VERB_PAUSE, **asked)
    call = coordinator.calls("admin").runs.ChangeRuns(request)
    assert list((await refused(call.read())).fields) == list(asked)


async def test_a_trial_judges_what_was_done_by_the_version_it_was_done_under(
    coordinator: LiveCoordinator,
) -> None:
    """Leases and results before the move, the move itself, and what came after it."""
    await registered(coordinator, "flow")
    run_id = await started(coordinator, "flow")
    assert await work_off(coordinator)
    assert await work_off(coordinator, **BOOM)
    newer = [{"key": "a", "kind": "k"}, {"key": "c", "kind": "k"}, {"key": "d", "kind": "k"}]
    await registered(coordinator, "flow", newer)
    await moved(coordinator, run_id, resume=True)
    while await work_off(coordinator):
        pass
    few = "workflow.task_count < 3"
    changes, _ = await tried(
        coordinator, article("lease", few), article("settle", few), article("start", few)
    )
    subjects = [one.subject for one in changes]
    tasks = [f"task {key} of run {run_id}" for key in ("d", "d", "c", "c")]
    assert sorted(subjects) == sorted([*tasks, "workflow flow"])


async def test_runs_of_a_run_are_found(on_either: LiveCoordinator) -> None:
    """As a list, counted, and with more that is wanted of them."""
    await registered(on_either, "child", [{"key": "a", "kind": "k"}])
    call = {"workflow": {"name": "child"}}
    await registered(on_either, "parent", [{"key": "one", **call}, {"key": "two", **call}])
    parents = [await started(on_either, "parent") for _ in range(2)]
    await started(on_either, "child")
    while len(await listed(on_either, workflow="child")) < 5:
        await counted(on_either)  # the others are being started
    for parent in parents:
        children = await listed(on_either, 1, parent_run_id=parent)
        assert len(children) == 2
        run = await shown(on_either, children[0])
        assert (run.parent_run_id, run.workflow) == (parent, "child")
        assert run.parent_task_key in ("one", "two")
        assert sum((await counted(on_either, parent_run_id=parent)).values()) == 2
        assert await listed(on_either, parent_run_id=parent, workflow="parent") == []
    assert await listed(on_either, parent_run_id=children[0]) == []
