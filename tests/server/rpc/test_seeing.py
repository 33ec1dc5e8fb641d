"""Runs are found, counted and compared over the wire, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused
from tests.server.rpc.test_runs import _lease, _ref, _settle, _success
from tests.server.test_retention import prune

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_server.core import ids

CHAIN = [{"key": "a", "kind": "k"}, {"key": "b", "kind": "k", "depends_on": ["a"]}]
C = {"key": "c", "kind": "k"}
State = runs_pb2.RunState
Difference = runs_pb2.TaskDifference


async def registered(live: LiveCoordinator, name: str, tasks: Any = CHAIN) -> None:
    """Registers a workflow."""
    definition = ParseDict({"name": name, "tasks": tasks}, workflows_pb2.WorkflowDefinition())
    await live.calls("submitter").workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )


async def started(
    live: LiveCoordinator, workflow: str, labels: dict[str, str] | None = None, **more: Any
) -> str:
    """Starts a run and gives its id."""
    tie = {"x_correlation_id": more.pop("tie")} if "tie" in more else {}
    request = runs_pb2.StartRunRequest(workflow=workflow, labels=labels or {}, **more)
    run: runs_pb2.StartRunResponse = await live.calls("submitter", **tie).runs.StartRun(request)
    return run.run_id


async def listed(live: LiveCoordinator, size: int = 0, **asked: Any) -> list[str]:
    """The ids of all runs that a filter wants, page by page."""
    order = asked.pop("order", 0)
    found: list[str] = []
    token = ""
    while True:
        request = runs_pb2.ListRunsRequest(
            filter=runs_pb2.RunFilter(**asked), order=order, page_size=size, page_token=token
        )
        page = await live.calls("viewer").runs.ListRuns(request)
        found += [run.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            return found


async def counted(live: LiveCoordinator, **asked: Any) -> dict[str, int]:
    """Runs by state, as they are counted."""
    request = runs_pb2.CountRunsRequest(filter=runs_pb2.RunFilter(**asked))
    found = await live.calls("viewer").runs.CountRuns(request)
    assert not found.more
    assert found.total == sum(one.count for one in found.counts)
    return {State.Name(one.state)[10:]: one.count for one in found.counts if one.count}


async def test_runs_are_found_by_labels_words_and_ids(on_either: LiveCoordinator) -> None:
    """Of the caller's tenant, in pages of any size, in both orders."""
    await registered(on_either, "nightly-etl")
    await registered(on_either, "release")
    runs = [
        await started(on_either, "nightly-etl", {"env": "prod", "team": "Data Platform"}),
        await started(on_either, "release", {"env": "prod"}, tie="tie-7"),
        await started(on_either, "release", {"env": "test", "ref": "platform/main"}),
        await started(on_either, "release"),
    ]
    assert await listed(on_either, 1) == runs[::-1]
    assert await listed(on_either, 3, order=runs_pb2.RUN_ORDER_OLDEST_FIRST) == runs
    assert await listed(on_either, 1, labels={"env": "prod"}) == [runs[1], runs[0]]
    assert await listed(on_either, label_keys=["env"], workflow="release") == [runs[2], runs[1]]
    assert await listed(on_either, text="PLATFORM", size=1) == [runs[2], runs[0]]
    assert await listed(on_either, text="etl") == [runs[0]]
    assert await listed(on_either, text="tie-7") == [runs[1]]
    assert await listed(on_either, text=runs[3]) == [runs[3]]
    assert await listed(on_either, text=runs[3][:13]) != []
    assert await listed(on_either, text="plat") == []
    assert await counted(on_either, labels={"env": "prod"}) == {"RUNNING": 2}
    stranger = on_either.calls("beta/viewer").runs
    for text in ("platform", "etl", "tie-7", runs[0]):
        request = runs_pb2.ListRunsRequest(filter=runs_pb2.RunFilter(text=text))
        assert not (await stranger.ListRuns(request)).runs


async def test_runs_are_found_by_how_and_when_they_ended(on_either: LiveCoordinator) -> None:
    """By the words of the reason, by state, and by time, exactly to the end of the range."""
    await registered(on_either, "release")
    open_run = await started(on_either, "release", {"env": "prod"})
    runs = [await started(on_either, "release", {"env": "prod"}) for _ in range(3)]
    calls = on_either.calls("submitter").runs
    for number, run_id in enumerate(runs):
        reason = f"stopped by Ada, number {number}"
        await calls.CancelRun(runs_pb2.CancelRunRequest(run_id=run_id, reason=reason))
    assert await listed(on_either, text="ada stopped") == runs[::-1]
    assert await listed(on_either, text="ada 1") == [runs[1]]
    assert await listed(on_either, states=[State.RUN_STATE_RUNNING]) == [open_run]
    assert await counted(on_either) == {"RUNNING": 1, "CANCELLED": 3}
    second = (await calls.GetRun(runs_pb2.GetRunRequest(run_id=runs[1]))).run
    later = Timestamp()
    later.FromNanoseconds(second.end_time.ToNanoseconds() + 1000)
    just_then = runs_pb2.TimeRange(from_time=second.end_time, until_time=later)
    assert await listed(on_either, ended=just_then) == [runs[1]]
    before = runs_pb2.TimeRange(until_time=second.end_time)
    assert await listed(on_either, ended=before, labels={"env": "prod"}) == [runs[0]]
    created = runs_pb2.TimeRange(from_time=second.create_time)
    assert await listed(on_either, created=created) == [runs[2], runs[1]]


async def test_what_lists_say_twice_must_hold_twice(on_either: LiveCoordinator) -> None:
    """A request's own workflow and states, and those of its filter."""
    await registered(on_either, "release")
    run_id = await started(on_either, "release")
    runs = on_either.calls("viewer").runs
    wanted = runs_pb2.RunFilter(
        workflow="release", states=[State.RUN_STATE_RUNNING, State.RUN_STATE_FAILED]
    )
    for workflow, states, found in (
        ("release", [], [run_id]),
        ("other", [], []),
        ("", [State.RUN_STATE_RUNNING], [run_id]),
        ("", [State.RUN_STATE_FAILED], []),
        ("", [State.RUN_STATE_CANCELLED], []),
    ):
        request = runs_pb2.ListRunsRequest(workflow=workflow, states=states, filter=wanted)
        page = await runs.ListRuns(request)
        assert [run.run_id for run in page.runs] == found, (workflow, states)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"text": "---"}, "filter.text"),
        ({"text": "a b c d e f g h i"}, "filter.text"),
        ({"text": "a\0b"}, "filter.text"),
        ({"text": "a" * 201}, "filter.text"),
        ({"workflow": "a\0b"}, "filter.workflow"),
        ({"labels": {"": "x"}}, "filter.labels['']"),
        ({"labels": {f"k{n}": "" for n in range(17)}}, "filter.labels"),
        ({"label_keys": ["x" * 64]}, "filter.label_keys[0]"),
        ({"states": [99]}, "filter.states[0]"),
        (
            {"created": runs_pb2.TimeRange(from_time=Timestamp(seconds=-1))},
            "filter.created.from_time",
        ),
        (
            {
                "ended": runs_pb2.TimeRange(
                    from_time=Timestamp(seconds=9), until_time=Timestamp(seconds=9)
                )
            },
            "filter.ended.until_time",
        ),
    ],
)
async def test_a_filter_that_means_nothing_is_refused(
    coordinator: LiveCoordinator, refused: Refused, asked: dict[str, Any], field: str
) -> None:
    """In lists and in counts, with the path of the field."""
    runs = coordinator.calls("viewer").runs
    wanted = runs_pb2.RunFilter(**asked)
    for call in (
        runs.ListRuns(runs_pb2.ListRunsRequest(filter=wanted)),
        runs.CountRuns(runs_pb2.CountRunsRequest(filter=wanted)),
    ):
        refusal = await refused(call)
        assert list(refusal.fields) == [field]


async def test_a_page_token_is_bound_to_filter_and_order(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """A page of one list does not go on as a page of another."""
    await registered(coordinator, "release")
    for _ in range(2):
        await started(coordinator, "release", {"env": "prod"})
    runs = coordinator.calls("viewer").runs
    request = runs_pb2.ListRunsRequest(page_size=1)
    request.filter.labels["env"] = "prod"
    request.page_token = (await runs.ListRuns(request)).next_page_token
    assert len((await runs.ListRuns(request)).runs) == 1
    request.order = runs_pb2.RUN_ORDER_OLDEST_FIRST
    assert (await refused(runs.ListRuns(request))).reason == "PAGE_TOKEN_INVALID"
    request.ClearField("order")
    request.filter.labels["env"] = "test"
    assert (await refused(runs.ListRuns(request))).reason == "PAGE_TOKEN_INVALID"


async def test_what_a_run_was_found_by_goes_with_it(on_either: LiveCoordinator) -> None:
    """By retention, and when its tenant is erased; what is kept is found as before."""
    await registered(on_either, "release")
    calls = on_either.calls("submitter").runs
    old = await started(on_either, "release", {"env": "prod"})
    kept = await started(on_either, "release", {"env": "prod"})
    await calls.CancelRun(runs_pb2.CancelRunRequest(run_id=old, reason="enough"))
    assert await terms(on_either, "alpha") == 7
    await prune(on_either, runs=True)
    assert await listed(on_either, labels={"env": "prod"}) == [kept]
    assert await listed(on_either, text="enough") == []
    assert await terms(on_either, "alpha") == 3
    await calls.CancelRun(runs_pb2.CancelRunRequest(run_id=kept))
    await on_either.calls("operator").tenants.DeleteTenant(
        tenants_pb2.DeleteTenantRequest(tenant_id="alpha", request_id="erase")
    )
    assert await terms(on_either, "alpha") == 0


async def terms(live: LiveCoordinator, tenant_id: str) -> int:
    """How many rows are kept for a tenant to find runs and workflows by, less those of names."""

    def read() -> int:
        with live.server.store.reading():
            sql = f"SELECT COUNT(*) FROM run_terms WHERE tenant_id = '{tenant_id}'"
            database = live.server.store.backend.reading
            return int(database.execute_sql(sql).fetchone()[0])

    return await live.server.engine.read(read)


async def test_a_run_without_labels_leaves_nothing_to_be_found_by(
    on_either: LiveCoordinator,
) -> None:
    """So that it costs nothing more to start and to end one."""
    await registered(on_either, "release")
    await started(on_either, "release")
    for _ in CHAIN:
        [lease] = await _lease(on_either)
        await _settle(on_either, _success(lease))
    assert await counted(on_either) == {"SUCCEEDED": 1}
    assert await terms(on_either, "alpha") == 0


async def test_two_runs_are_laid_side_by_side(on_either: LiveCoordinator) -> None:
    """Inputs, labels, states, attempts, failures and results; and where they went apart first."""
    await registered(on_either, "release")
    left = await started(on_either, "release", {"env": "prod"}, input=payload(b"1"))
    await worked(on_either, b'"same"', b'"one"')
    right = await started(on_either, "release", {"env": "test"}, input=payload(b"2"))
    await worked(on_either, b'"same"', None)
    found = await compared(on_either, left, right)
    kinds = [runs_pb2.RunDifference.Name(kind)[15:] for kind in found.differences]
    assert kinds == ["INPUT", "LABELS", "STATE"]
    assert found.left.state == State.RUN_STATE_SUCCEEDED
    assert found.right.tasks == runs_pb2.TaskCounts(total=2, succeeded=1, failed=1)
    assert found.left_input_digest != found.right_input_digest
    assert found.left_input_digest.startswith("sha256:")
    a, b = found.tasks
    assert list(a.differences) == []
    assert a.left.result_digest == a.right.result_digest != ""
    assert list(b.differences) == [
        Difference.TASK_DIFFERENCE_STATE,
        Difference.TASK_DIFFERENCE_FAILURE,
    ]
    assert (b.left.attempt, b.right.failure_code, b.right.result_digest) == (1, "BROKEN", "")
    assert (found.differing_tasks, found.first_differing_task) == (1, "b")
    only = await compared(on_either, left, right, differing_only=True)
    assert [pair.key for pair in only.tasks] == ["b"]
    itself = await compared(on_either, left, left)
    assert not itself.differences
    assert (itself.differing_tasks, itself.first_differing_task) == (0, "")


async def test_runs_can_be_compared_when_their_payloads_are_forgotten(
    on_either: LiveCoordinator,
) -> None:
    """Digests stay: of inputs in the evidence, of results beside the tasks."""
    await registered(on_either, "release")
    runs = []
    for data in (b"1", b"1", b"2"):
        runs.append(await started(on_either, "release", input=payload(data)))
        await worked(on_either, b'"same"', data)
    before = [await compared(on_either, runs[0], other) for other in runs[1:]]
    await prune(on_either, payloads=True)
    calls = on_either.calls("viewer").runs
    assert not (await calls.GetRun(runs_pb2.GetRunRequest(run_id=runs[0]))).run.input.data
    assert [await compared(on_either, runs[0], other) for other in runs[1:]] == before
    assert list(before[0].differences) == []
    assert before[0].differing_tasks == 0
    assert list(before[1].tasks[1].differences) == [Difference.TASK_DIFFERENCE_OUTPUT]


async def test_runs_of_different_definitions_are_compared_by_key(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """What only one of them has, and what was defined otherwise."""
    await registered(coordinator, "release")
    left = await started(coordinator, "release")
    await registered(coordinator, "release", [CHAIN[0], {"key": "b", "kind": "z"}, C])
    right = await started(coordinator, "release")
    found = await compared(coordinator, left, right)
    assert list(found.differences) == [runs_pb2.RUN_DIFFERENCE_DEFINITION]
    told = {pair.key: list(pair.differences) for pair in found.tasks}
    assert told == {
        "a": [],
        "b": [Difference.TASK_DIFFERENCE_DEFINITION, Difference.TASK_DIFFERENCE_STATE],
        "c": [Difference.TASK_DIFFERENCE_MISSING],
    }
    assert not found.tasks[2].HasField("left")
    nobody = ids.new_id("alpha", 1, b"nobody")
    for pair in ((left, nobody), (nobody, right)):
        request = runs_pb2.CompareRunsRequest(left_run_id=pair[0], right_run_id=pair[1])
        refusal = await refused(coordinator.calls("viewer").runs.CompareRuns(request))
        assert refusal.reason == "NOT_FOUND"


async def compared(
    live: LiveCoordinator, left: str, right: str, *, differing_only: bool = False
) -> runs_pb2.CompareRunsResponse:
    """Two runs side by side."""
    request = runs_pb2.CompareRunsRequest(
        left_run_id=left, right_run_id=right, differing_only=differing_only
    )
    found: runs_pb2.CompareRunsResponse = await live.calls("viewer").runs.CompareRuns(request)
    return found


def payload(data: bytes) -> payload_pb2.Payload:
    """An input."""
    return payload_pb2.Payload(data=data)


async def worked(live: LiveCoordinator, *outputs: bytes | None) -> None:
    """Does the tasks of the one open run; where there is no output, the task fails."""
    for output in outputs:
        [lease] = await _lease(live)
        result = _success(lease, output)
        if output is None:
            failure = runs_pb2.Failure(code="BROKEN", message="no luck")
            result = agents_pb2.Result(lease=_ref(lease), failure=failure)
        await _settle(live, result)
