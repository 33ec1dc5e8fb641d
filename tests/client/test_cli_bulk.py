"""`tenure run bulk`: what is asked for, what is confirmed, and what people see."""

from __future__ import annotations

import io

import pytest
from tests.client.conftest import OTHER_RUN_ID, RUN_ID, Script, Tenure

from tenure.v1 import runs_pb2

ENDED = runs_pb2.RunRefusal(run_id=OTHER_RUN_ID, reason="RUN_CLOSED", message="it has failed")
STEPS = [
    runs_pb2.ChangeRunsResponse(total=2),
    runs_pb2.ChangeRunsResponse(total=2, matched=1, done=1, run_ids=[RUN_ID]),
    runs_pb2.ChangeRunsResponse(total=2, matched=2, done=1, refused=1, refusals=[ENDED]),
]


def test_what_is_wanted_and_how_goes_to_the_coordinator(far_script: Script, tenure: Tenure) -> None:
    far_script.on("ChangeRuns", STEPS[:2])
    done = tenure(
        *("run", "bulk", "cancel", "--workflow", "etl", "--state", "failed", "--text", "late"),
        *("--rate", "7", "--reason", "old", "--request-id", "once", "--yes"),
    )
    assert done.code == 0
    assert [line.split() for line in done.out.splitlines()] == [["matched", "1"], ["done", "1"]]
    [request] = far_script.requests("ChangeRuns")
    assert request == runs_pb2.ChangeRunsRequest(
        filter=runs_pb2.RunFilter(workflow="etl", states=[runs_pb2.RUN_STATE_FAILED], text="late"),
        verb=runs_pb2.RUN_VERB_CANCEL,
        reason="old",
        rate=7,
        request_id="once",
    )
    assert far_script.requests("CountRuns") == []


def test_runs_that_refuse_are_told_and_make_it_fail(far_script: Script, tenure: Tenure) -> None:
    far_script.on("ChangeRuns", STEPS)
    done = tenure("run", "bulk", "pause", "--workflow", "etl", "--yes")
    assert (done.code, done.err) == (1, "RUN_CLOSED: it has failed\n")
    assert done.out.split() == ["matched", "2", "done", "1", "refused", "1"]
    found = tenure("run", "bulk", "pause", "--workflow", "etl", "--yes", "--json").json()
    assert (found["matched"], found["done"], found["refused"]) == (2, 1, 1)
    assert found["run_ids"] == [RUN_ID]
    assert found["refusals"][0]["reason"] == "RUN_CLOSED"


def test_a_dry_run_asks_nobody_and_lists_the_runs(far_script: Script, tenure: Tenure) -> None:
    far_script.on("ChangeRuns", STEPS[:2])
    assert RUN_ID in tenure("run", "bulk", "retry", "--label", "env=prod", "--dry-run").out
    [request] = far_script.requests("ChangeRuns")
    assert request.dry_run


@pytest.mark.parametrize("answer", ["y", "n"])
def test_without_yes_it_asks_and_says_how_many(
    far_script: Script, tenure: Tenure, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n"))
    far_script.on("CountRuns", runs_pb2.CountRunsResponse(total=2))
    far_script.on("ChangeRuns", STEPS[:2])
    done = tenure("run", "bulk", "cancel", "--workflow", "etl")
    assert "cancel 2 runs?" in done.out
    assert done.code == (0 if answer == "y" else 130)
    assert len(far_script.requests("ChangeRuns")) == (answer == "y")


@pytest.mark.parametrize(
    "arguments", [("--yes",), ("--workflow", "etl", "--json"), ("--rate", "0", "--text", "late")]
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(
    far_script: Script, tenure: Tenure, arguments: tuple[str, ...]
) -> None:
    assert tenure("run", "bulk", "cancel", *arguments).code == 2
    assert far_script.heard == []
