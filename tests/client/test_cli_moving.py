"""`tenure run move`, and what lists and details show of versions and parents."""

from __future__ import annotations

import json

import grpc
from tests.client.conftest import AT, OTHER_RUN_ID, RUN_ID, Refusal, Script, Tenure, run_in

from tenure.v1 import run_changes_pb2, runs_pb2, verdict_pb2

MOVED = run_changes_pb2.MoveRunResponse(
    workflow_version=4,
    workflow_digest="sha256:ab",
    task_count=2,
    warnings=[
        verdict_pb2.Objection(
            article="a",
            law=verdict_pb2.LAW_PRECEDENCE,
            perspective=verdict_pb2.PERSPECTIVE_SECURITY_BOUNDARY,
            effect=verdict_pb2.EFFECT_WARN,
            message="look at it",
        )
    ],
)


def test_a_run_is_moved_and_warnings_are_shown(far_script: Script, tenure: Tenure) -> None:
    far_script.on("MoveRun", MOVED)
    far_script.on("GetRun", runs_pb2.GetRunResponse(run=run_in("PAUSED")))
    done = tenure("run", "move", RUN_ID, "--to", "4", "--reason", "a new column")
    assert done.code == 0
    assert dict(line.split(maxsplit=1) for line in done.out.splitlines()) == {
        "run": RUN_ID,
        "version": "4",
        "digest": "sha256:ab",
        "tasks": "2",
        "state": "PAUSED",
    }
    assert "look at it" in done.err
    [request] = far_script.requests("MoveRun")
    assert (request.run_id, request.workflow_version, request.resume) == (RUN_ID, 4, False)
    assert request.reason == "a new column"
    assert request.request_id


def test_the_newest_version_is_the_default_and_a_run_may_go_on_at_once(
    far_script: Script, tenure: Tenure
) -> None:
    """It may have ended by then; its state is what it is, not what was asked for."""
    quiet = run_changes_pb2.MoveRunResponse(workflow_version=4)
    far_script.on("MoveRun", quiet)
    far_script.on("GetRun", runs_pb2.GetRunResponse(run=run_in("SUCCEEDED")))
    found = tenure("run", "move", RUN_ID, "--resume", "--json").json()
    assert (found["version"], found["state"]) == (4, "SUCCEEDED")
    [request] = far_script.requests("MoveRun")
    assert (request.workflow_version, request.resume) == (0, True)


def test_what_was_done_is_told_though_the_run_cannot_be_read_then(
    far_script: Script, tenure: Tenure
) -> None:
    far_script.on("MoveRun", run_changes_pb2.MoveRunResponse(workflow_version=4))
    far_script.on("GetRun", Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "not now"))
    done = tenure("run", "move", RUN_ID, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["version"] == 4
    assert "state" not in found
    assert "could not be read: not now" in done.err


def test_each_task_that_stands_against_it_is_a_line(far_script: Script, tenure: Tenure) -> None:
    refusal = Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "run x cannot be moved: task a: has succeeded and is not in version 4; and 1 more",
        "VERSIONS_DIFFER",
        objections=(
            ("task a", "has succeeded and is not in version 4"),
            ("task b", "is leased to agent host"),
        ),
    )
    far_script.on("MoveRun", refusal)
    done = tenure("run", "move", RUN_ID)
    assert done.code == 1
    first, second = done.err.splitlines()
    assert first.startswith("error: run x cannot be moved: task a: has succeeded")
    assert second == "  task b: is leased to agent host"


def test_a_version_is_a_number(far_script: Script, tenure: Tenure) -> None:
    for word in ("0", "new"):
        assert tenure("run", "move", RUN_ID, "--to", word).code == 2
    assert far_script.heard == []


def test_many_runs_are_moved(far_script: Script, tenure: Tenure) -> None:
    far_script.on("ChangeRuns", [runs_pb2.ChangeRunsResponse(total=0)])
    done = tenure("run", "bulk", "move", "--workflow", "etl", "--to", "4", "--resume", "--yes")
    assert done.code == 0
    [request] = far_script.requests("ChangeRuns")
    assert request.verb == runs_pb2.RUN_VERB_MOVE
    assert (request.workflow_version, request.resume) == (4, True)


def test_runs_of_a_run_are_listed_by_the_beginning_of_its_id(
    far_script: Script, tenure: Tenure
) -> None:
    far_script.on("ListRuns", runs_pb2.ListRunsResponse(runs=[run_in("RUNNING")]))
    assert RUN_ID in tenure("run", "list", "--parent", RUN_ID[:8]).out
    assert far_script.requests("ListRuns")[-1].filter.parent_run_id == RUN_ID
    far_script.on("CountRuns", runs_pb2.CountRunsResponse())
    tenure("run", "count", "--parent", OTHER_RUN_ID)
    [request] = far_script.requests("CountRuns")
    assert request.filter == runs_pb2.RunFilter(parent_run_id=OTHER_RUN_ID)


def test_a_run_shows_what_it_was_under_and_what_it_is_for(
    far_script: Script, tenure: Tenure
) -> None:
    earlier = runs_pb2.EarlierVersion(workflow_version=2, until_time=AT, until_sequence=7)
    run = run_in(
        "PAUSED",
        create_time=AT,
        workflow_version=3,
        parent_run_id=OTHER_RUN_ID,
        parent_task_key="call",
        earlier_versions=[earlier],
    )
    far_script.on("GetRun", runs_pb2.GetRunResponse(run=run))
    shown = tenure("run", "show", RUN_ID).out
    assert "word-count version 3" in shown
    assert "version 2 until 2026-" in shown
    assert f"task call of run {OTHER_RUN_ID}" in shown
