"""A figure is worth nothing unless its runs went right: wrong histories are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from benchmarks.verification import WrongHistoryError

from benchmarks import verification, workload
from tenure.v1 import runs_pb2

Event = runs_pb2.RunEvent
DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}

STARTED = runs_pb2.RUN_EVENT_KIND_RUN_STARTED
ENDED = runs_pb2.RUN_EVENT_KIND_RUN_SUCCEEDED
LEASED = runs_pb2.RUN_EVENT_KIND_TASK_LEASED
DONE = runs_pb2.RUN_EVENT_KIND_TASK_SUCCEEDED
LOST = runs_pb2.RUN_EVENT_KIND_TASK_LEASE_LOST
RETRYING = runs_pb2.RUN_EVENT_KIND_TASK_RETRYING

Step = tuple[runs_pb2.RunEventKind.ValueType, str, int]

GOOD: tuple[Step, ...] = (
    (STARTED, "", 0),
    (LEASED, "a", 1),
    (DONE, "a", 1),
    (LEASED, "b", 2),
    (LEASED, "c", 3),
    (DONE, "c", 3),
    (DONE, "b", 2),
    (LEASED, "d", 4),
    (DONE, "d", 4),
    (ENDED, "", 0),
)


def events(*steps: Step) -> list[Event]:
    """A record with these events, numbered."""
    return [
        Event(sequence=number, kind=kind, task_key=key, term=term)
        for number, (kind, key, term) in enumerate(steps, 1)
    ]


def ended(**counts: int) -> runs_pb2.Run:
    """A run of the diamond that says of itself that all went well."""
    tasks = runs_pb2.TaskCounts(**({"total": 4, "succeeded": 4} | counts))
    return runs_pb2.Run(run_id="r", state=runs_pb2.RUN_STATE_SUCCEEDED, tasks=tasks)


def test_a_run_that_went_right_is_accepted() -> None:
    verification.check_run(DIAMOND, ended(), [], events(*GOOD))


def without(step: Step) -> list[Event]:
    return events(*(other for other in GOOD if other != step))


def with_after(step: Step, *more: Step) -> list[Event]:
    place = GOOD.index(step) + 1
    return events(*GOOD[:place], *more, *GOOD[place:])


def swapped(one: Step, other: Step) -> list[Event]:
    steps = list(GOOD)
    here, there = steps.index(one), steps.index(other)
    steps[here], steps[there] = other, one
    return events(*steps)


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (lambda: without((DONE, "d", 4)), "no success of 1 tasks, such as d"),
        (lambda: without((LEASED, "b", 2)), "success of b under a lease that did not hold"),
        (lambda: with_after((DONE, "b", 2), (DONE, "b", 2)), "TASK_SUCCEEDED of b after"),
        (lambda: with_after((DONE, "b", 2), (LEASED, "b", 9)), "TASK_LEASED of b after"),
        (lambda: with_after((LEASED, "b", 2), (LEASED, "b", 9)), "leased b twice"),
        (lambda: with_after((LEASED, "a", 1), (RETRYING, "a", 1)), "has TASK_RETRYING of a"),
        (lambda: with_after((LEASED, "a", 1), (LOST, "a", 1)), "has TASK_LEASE_LOST of a"),
        (lambda: with_after((DONE, "a", 1), (LEASED, "z", 5)), "'z', which is none of its tasks"),
        (lambda: swapped((DONE, "b", 2), (LEASED, "d", 4)), "leased d before b had succeeded"),
        (lambda: without((STARTED, "", 0)), "begins with TASK_LEASED"),
        (lambda: without((ENDED, "", 0)), "ends with TASK_SUCCEEDED"),
        (lambda: [e for e in events(*GOOD) if e.sequence != 4], "has event 5 in place 4"),
        (list, "has 0 events"),
    ],
)
def test_a_wrong_history_is_refused(history: Callable[[], list[Event]], reason: str) -> None:
    with pytest.raises(WrongHistoryError, match=reason):
        verification.check_run(DIAMOND, ended(), [], history())


def test_a_run_that_failed_is_refused() -> None:
    run = ended()
    run.state = runs_pb2.RUN_STATE_FAILED
    with pytest.raises(WrongHistoryError, match="RUN_STATE_FAILED"):
        verification.check_run(DIAMOND, run, [], events(*GOOD))


def test_a_run_whose_counts_are_wrong_is_refused() -> None:
    with pytest.raises(WrongHistoryError, match="counts 3 of 4"):
        verification.check_run(DIAMOND, ended(succeeded=3), [], events(*GOOD))


def test_a_run_that_still_lists_open_tasks_is_refused() -> None:
    left = runs_pb2.Task(key="d", state=runs_pb2.TASK_STATE_LEASED)
    with pytest.raises(WrongHistoryError, match="lists d as not succeeded"):
        verification.check_run(DIAMOND, ended(), [left], events(*GOOD))


def test_leases_may_be_lost_only_where_a_coordinator_was_killed() -> None:
    again = with_after((LEASED, "a", 1), (LOST, "a", 1), (LEASED, "a", 5))
    for event in again:
        if event.kind == DONE and event.task_key == "a":
            event.term = 5
    verification.check_run(DIAMOND, ended(), [], again, interrupted=True)
    with pytest.raises(WrongHistoryError, match="TASK_LEASE_LOST of a"):
        verification.check_run(DIAMOND, ended(), [], again)


def test_a_success_under_an_older_lease_is_refused_even_then() -> None:
    late = with_after((LEASED, "a", 1), (LOST, "a", 1), (LEASED, "a", 5))
    with pytest.raises(WrongHistoryError, match="under a lease that did not hold"):
        verification.check_run(DIAMOND, ended(), [], late, interrupted=True)


def test_terms_must_grow_even_then() -> None:
    same = with_after((LEASED, "a", 1), (LOST, "a", 1), (LEASED, "a", 1))
    with pytest.raises(WrongHistoryError, match="leased a twice"):
        verification.check_run(DIAMOND, ended(), [], same, interrupted=True)


def test_order_violations_are_counted_by_task() -> None:
    assert verification.order_violations(DIAMOND, events(*GOOD)) == 0
    early = swapped((DONE, "b", 2), (LEASED, "d", 4))
    assert verification.order_violations(DIAMOND, early) == 1


def test_the_workflows_have_the_graphs_that_their_names_say() -> None:
    assert verification.upstream_of(workload.chain(3)) == {
        "task-0": (),
        "task-1": ("task-0",),
        "task-2": ("task-1",),
    }
    wide = verification.upstream_of(workload.fan_out(5))
    assert len(wide) == 5
    assert not any(wide.values())


def listed(*steps: Step) -> None:
    """Checks a run of one list with two items."""
    run = ended(total=3, succeeded=3)
    made = [(STARTED, "", 0), *steps, (ENDED, "", 0)]
    upstream = verification.upstream_of(workload.for_each())
    verification.check_run(upstream, run, [], events(*made), lists={workload.LIST: 2})


ACTIVE = runs_pb2.RUN_EVENT_KIND_TASK_ACTIVATED
OF_LIST: tuple[Step, ...] = (
    (ACTIVE, "each", 0),
    (LEASED, "each[0]", 1),
    (LEASED, "each[1]", 1),
    (DONE, "each[1]", 1),
    (DONE, "each[0]", 1),
    (DONE, "each", 0),
)


def test_a_list_is_good_when_each_item_succeeded_while_it_was_under_way() -> None:
    listed(*OF_LIST)


@pytest.mark.parametrize(
    "wrong",
    [
        OF_LIST[1:],
        (*OF_LIST[:4], OF_LIST[5], OF_LIST[4]),
        (OF_LIST[0], *OF_LIST),
        (*OF_LIST[:3], *OF_LIST[4:]),
    ],
)
def test_a_list_that_ends_early_twice_or_without_an_item_is_refused(
    wrong: tuple[Step, ...],
) -> None:
    with pytest.raises(WrongHistoryError):
        listed(*wrong)
