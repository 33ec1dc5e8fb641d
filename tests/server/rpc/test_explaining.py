"""Why tasks do not run, over the wire, on both databases."""

from __future__ import annotations

from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused
from tests.server.rpc.test_runs import _lease
from tests.server.rpc.test_seeing import registered, started

from tenure.v1 import run_changes_pb2, runs_pb2

TASKS = [
    {"key": "a", "kind": "k"},
    {"key": "b", "kind": "rare"},
    {"key": "go", "signal": {"name": "go"}},
    {"key": "end", "kind": "k", "depends_on": ["a", "b", "go"]},
]
Kind = runs_pb2.HindranceKind


async def explained(live: LiveCoordinator, run_id: str, *keys: str) -> dict[str, list[str]]:
    """The kinds of what stands in the way, by task."""
    request = runs_pb2.ExplainRunRequest(run_id=run_id, task_keys=keys)
    answer = await live.calls("viewer").runs.ExplainRun(request)
    return {
        task.task_key: [
            Kind.Name(it.kind).removeprefix("HINDRANCE_KIND_") for it in task.hindrances
        ]
        for task in answer.tasks
    }


async def test_each_task_that_does_not_run_says_why(on_either: LiveCoordinator) -> None:
    """In the order of the definition; the one that an agent has is not among them."""
    await registered(on_either, "flow", TASKS)
    run_id = await started(on_either, "flow")
    await _lease(on_either)
    assert await explained(on_either, run_id) == {
        "b": ["NO_AGENT"],
        "go": ["SIGNAL"],
        "end": ["TASKS"],
    }
    await on_either.calls("submitter").runs.PauseRun(run_changes_pb2.PauseRunRequest(run_id=run_id))
    assert await explained(on_either, run_id, "b", "a") == {
        "a": [],
        "b": ["RUN_PAUSED"],
    }


async def test_pages_hold_each_task_once(coordinator: LiveCoordinator) -> None:
    """And say how many there are in all."""
    await registered(coordinator, "flow", TASKS)
    run_id = await started(coordinator, "flow")
    request = runs_pb2.ExplainRunRequest(run_id=run_id, page_size=3)
    runs = coordinator.calls("viewer").runs
    first = await runs.ExplainRun(request)
    request.page_token = first.next_page_token
    second = await runs.ExplainRun(request)
    tasks = [*first.tasks, *second.tasks]
    assert [task.task_key for task in tasks] == ["a", "b", "go", "end"]
    assert (first.idle_tasks, second.next_page_token) == (4, "")
    end = second.tasks[0]
    assert (end.kind, end.state) == ("k", runs_pb2.TASK_STATE_WAITING)
    assert list(end.hindrances[0].task_keys) == ["a", "b", "go"]


async def test_of_a_run_that_has_ended_there_is_nothing_to_say(
    on_either: LiveCoordinator, refused: Refused
) -> None:
    """But where its tasks stand, for those that are named."""
    await registered(on_either, "flow", TASKS)
    run_id = await started(on_either, "flow")
    runs = on_either.calls("submitter").runs
    await runs.CancelRun(runs_pb2.CancelRunRequest(run_id=run_id))
    assert await explained(on_either, run_id) == {}
    request = runs_pb2.ExplainRunRequest(run_id=run_id, task_keys=["b"])
    [task] = (await runs.ExplainRun(request)).tasks
    assert (task.state, list(task.hindrances)) == (runs_pb2.TASK_STATE_CANCELLED, [])
    request.task_keys[:] = ["missing"]
    assert (await refused(runs.ExplainRun(request))).reason == "NOT_FOUND"
