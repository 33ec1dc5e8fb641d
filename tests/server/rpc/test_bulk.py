"""The same to many runs, over the wire, on both databases."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests import logbook
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused
from tests.server.rpc.test_seeing import counted, registered, started

from tenure.v1 import runs_pb2
from tenure_server.engine import bulk

VERB = runs_pb2.RunVerb
FLOW = runs_pb2.RunFilter(workflow="flow")


async def changed(
    live: LiveCoordinator, verb: runs_pb2.RunVerb.ValueType, caller: str = "admin", **more: Any
) -> list[runs_pb2.ChangeRunsResponse]:
    """Does it to all runs of a workflow, and gives all that was told."""
    more.setdefault("filter", FLOW)
    more.setdefault("rate", 1000)
    request = runs_pb2.ChangeRunsRequest(verb=verb, **more)
    return [message async for message in live.calls(caller).runs.ChangeRuns(request)]


async def runs_of(live: LiveCoordinator, number: int) -> list[str]:
    """Some runs of `flow`, and one of another workflow."""
    await registered(live, "flow")
    await registered(live, "other")
    runs = [await started(live, "flow") for _ in range(number)]
    await started(live, "other")
    return runs


def logged(live: LiveCoordinator) -> list[dict[str, Any]]:
    """What was done in the tenant."""
    return logbook.read(live.server.store).of("alpha")


def kinds(live: LiveCoordinator) -> list[str]:
    """What kinds of acts these were."""
    return [entry["kind"] for entry in logged(live)]


async def test_each_wanted_run_is_changed_as_an_act_of_its_own(on_either: LiveCoordinator) -> None:
    """Oldest first; the others stay as they are."""
    runs = await runs_of(on_either, 3)
    first, *_, last = await changed(on_either, VERB.RUN_VERB_CANCEL, "submitter", reason="old")
    assert (first.total, first.more, first.matched) == (3, False, 0)
    assert (last.total, last.matched, last.done, last.refused) == (3, 3, 3, 0)
    assert list(last.run_ids) == runs
    assert await counted(on_either) == {"CANCELLED": 3, "RUNNING": 1}
    acts = kinds(on_either)
    assert (acts.count("run.change"), acts.count("run.cancel")) == (1, 3)
    entries = [one for one in logged(on_either) if one["kind"] == "run.cancel"]
    assert [one["subject"] for one in entries] == [{"run": run_id} for run_id in runs]
    assert {tuple(one["roles"]) for one in entries} == {("submitter",)}
    logbook.read(on_either.server.store).check()


async def test_every_verb_does_what_it_says(on_either: LiveCoordinator) -> None:
    """One after the other to the same runs."""
    await runs_of(on_either, 2)
    for verb, state in (
        (VERB.RUN_VERB_PAUSE, "PAUSED"),
        (VERB.RUN_VERB_RESUME, "RUNNING"),
        (VERB.RUN_VERB_CANCEL, "CANCELLED"),
        (VERB.RUN_VERB_RETRY, "RUNNING"),
        (VERB.RUN_VERB_CLOSE, "CLOSED"),
    ):
        [*_, last] = await changed(on_either, verb, reason="so")
        assert (last.done, last.refused) == (2, 0), verb
        assert await counted(on_either, workflow="flow") == {state: 2}


async def test_a_run_that_does_not_allow_it_is_told_and_passed_over(
    on_either: LiveCoordinator,
) -> None:
    """With its reason, for programs and for people."""
    runs = await runs_of(on_either, 3)
    calls = on_either.calls("submitter").runs
    await calls.CancelRun(runs_pb2.CancelRunRequest(run_id=runs[1]))
    [*_, last] = await changed(on_either, VERB.RUN_VERB_PAUSE)
    assert (last.matched, last.done, last.refused) == (3, 2, 1)
    [refusal] = last.refusals
    assert (refusal.run_id, refusal.reason) == (runs[1], "RUN_CLOSED")
    assert refusal.message
    assert list(last.run_ids) == [runs[0], runs[2]]


async def test_a_dry_run_tells_the_runs_and_does_nothing(on_either: LiveCoordinator) -> None:
    """However slow the rate is."""
    runs = await runs_of(on_either, 3)
    [*_, last] = await changed(on_either, VERB.RUN_VERB_CANCEL, dry_run=True, rate=1)
    assert (last.matched, last.done, list(last.run_ids)) == (3, 0, runs)
    assert await counted(on_either, workflow="flow") == {"RUNNING": 3}
    assert "run.cancel" not in kinds(on_either)


async def test_a_repeat_does_it_to_no_run_twice(on_either: LiveCoordinator) -> None:
    """Each run remembers the id; so what was resumed since is not paused again."""
    await runs_of(on_either, 2)
    await changed(on_either, VERB.RUN_VERB_PAUSE, request_id="once")
    await changed(on_either, VERB.RUN_VERB_RESUME)
    [*_, last] = await changed(on_either, VERB.RUN_VERB_PAUSE, request_id="once")
    assert last.done == 2
    assert await counted(on_either, workflow="flow") == {"RUNNING": 2}


async def test_it_is_not_faster_than_its_rate(coordinator: LiveCoordinator) -> None:
    """So many a second, the first one at once."""
    await runs_of(coordinator, 4)
    begun = time.monotonic()
    await changed(coordinator, VERB.RUN_VERB_PAUSE, rate=20)
    assert time.monotonic() - begun >= 3 / 20


async def test_it_stops_when_its_caller_leaves(
    coordinator: LiveCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two runs."""
    monkeypatch.setattr(bulk, "TOLD_RUNS", 1)
    runs = await runs_of(coordinator, 5)
    request = runs_pb2.ChangeRunsRequest(filter=FLOW, verb=VERB.RUN_VERB_PAUSE, rate=20)
    call = coordinator.calls("admin").runs.ChangeRuns(request)
    await call.read()
    assert list((await call.read()).run_ids) == runs[:1]
    call.cancel()
    # This takes longer than the rest of them would.
    await changed(coordinator, VERB.RUN_VERB_RESUME, rate=5)
    assert kinds(coordinator).count("run.resume") == 5
    assert kinds(coordinator).count("run.pause") < 5


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"filter": runs_pb2.RunFilter()}, "filter"),
        ({"verb": VERB.RUN_VERB_UNSPECIFIED}, "verb"),
        ({"verb": VERB.RUN_VERB_CLOSE}, "reason"),
        ({"rate": 1001}, "rate"),
        ({"request_id": "x" * 61}, "request_id"),
        ({"filter": runs_pb2.RunFilter(text="---")}, "filter.text"),
    ],
)
async def test_what_means_nothing_is_refused(
    coordinator: LiveCoordinator, refused: Refused, asked: dict[str, Any], field: str
) -> None:
    """Before anything is done, with the path of the field."""
    asked = {"filter": FLOW, "verb": VERB.RUN_VERB_CANCEL, **asked}
    call = coordinator.calls("admin").runs.ChangeRuns(runs_pb2.ChangeRunsRequest(**asked))
    assert list((await refused(call.read())).fields) == [field]


async def test_only_an_admin_closes(coordinator: LiveCoordinator, refused: Refused) -> None:
    """As with one run."""
    request = runs_pb2.ChangeRunsRequest(filter=FLOW, verb=VERB.RUN_VERB_CLOSE, reason="so")
    call = coordinator.calls("submitter").runs.ChangeRuns(request)
    assert (await refused(call.read())).reason == "ROLE_MISSING"
