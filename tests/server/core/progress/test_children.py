"""A task that is a run of another workflow ends with that run, and takes it along."""

from __future__ import annotations

import pytest
from tests.server.core.world import SECOND, World, flow, json_payload, task

from tenure_server.core.definitions.definition import RetryPolicy, WorkflowDefinition
from tenure_server.core.definitions.features import ForEach, Handler, SignalWait, SubWorkflow
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState
from tenure_server.core.progress.children import (
    CHILD_CANCELLED,
    CHILD_FAILED,
    REPETITIONS_EXHAUSTED,
    WantedChild,
    depth_of,
)
from tenure_server.core.runs.live import LiveRun

BOOM = Failure("BOOM")
CHILD = flow(task("x"), name="child")


def call(**options: object) -> SubWorkflow:
    """A task's wish for the child workflow."""
    return SubWorkflow(name="child", **options)  # type: ignore[arg-type]


def born(world: World, definition: WorkflowDefinition = CHILD) -> LiveRun:
    """Starts the one run that is wanted, as the engine does."""
    [wanted] = world.desk.consequences.children.wanted
    world.desk.consequences.children.wanted.clear()
    return birth(world, wanted, definition)


def birth(world: World, wanted: WantedChild, definition: WorkflowDefinition) -> LiveRun:
    """Starts a run that is wanted."""
    children, parent = world.desk.consequences.children, wanted.run
    assert children.still_wanted(wanted)
    record = world.record_of(
        definition,
        world.new_id(),
        input=wanted.input,
        parent_run_id=parent.run_id,
        parent_task=parent.graph.keys[wanted.index],
        detail=world.text_of(wanted.detail),
    )
    child = LiveRun(record, definition, definition.check(), order=world.desk.next_order())
    children.started(wanted, child.run_id)
    world.desk.open_run(child, world.now_us)
    return child


def family(world: World, **options: object) -> LiveRun:
    """A run whose second task is a run of another workflow."""
    return world.start(
        task("a"), task("call", "a", kind="", wait=call(**options)), task("z", "call")
    )


def test_a_child_is_wanted_when_the_turn_has_come_and_its_success_is_the_tasks() -> None:
    world = World()
    run = family(world)
    assert not world.desk.consequences.children.wanted
    world.settle(world.hold_one())
    assert world.state(run, "call") is TaskState.ACTIVE
    child = born(world)
    assert (child.parent_run_id, child.parent_task, depth_of(child)) == (run.run_id, "call", 1)
    world.settle(world.hold_one(), Success(json_payload(7)))
    assert world.run_state(child) is RunState.SUCCEEDED
    lease = world.grant_one()
    assert lease.task_key == "z"
    assert lease.upstream["call"].data == b'{"x":7}'


def test_a_childs_failure_comes_up_and_is_retried_with_a_new_child() -> None:
    world = World()
    retry = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
    run = world.start(task("call", kind="", wait=call(), retry=retry))
    first = born(world)
    world.settle(world.hold_one(), BOOM)
    assert world.state(run, "call") is TaskState.RETRYING
    world.wait(2 * SECOND)
    second = born(world)
    assert second.run_id != first.run_id
    world.settle(world.hold_one(), BOOM)
    assert world.run_state(run) is RunState.FAILED
    assert run.reason == f"task call failed: {CHILD_FAILED}"


@pytest.mark.parametrize("started", [False, True])
def test_a_cancel_goes_down(started: bool) -> None:
    world = World()
    run = world.start(task("call", kind="", wait=call()))
    child = born(world) if started else None
    lease = world.hold_one() if started else None
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.run_state(run) is RunState.CANCELLED
    if child is None or lease is None:
        [wanted] = world.desk.consequences.children.wanted
        assert not world.desk.consequences.children.still_wanted(wanted)
        return
    assert world.run_state(child) is RunState.CANCELLING
    world.settle(lease)
    assert world.run_state(child) is RunState.CANCELLED


def test_a_cancelled_child_fails_its_task_for_good() -> None:
    world = World()
    run = world.start(task("call", kind="", wait=call(), retry=RetryPolicy(max_attempts=5)))
    world.desk.cancel_run(born(world), "not this one", world.now_us)
    assert world.run_state(run) is RunState.FAILED
    assert run.reason == f"task call failed: {CHILD_CANCELLED}"


@pytest.mark.parametrize("started", [False, True])
def test_a_restart_wants_what_was_not_started_and_keeps_what_was(started: bool) -> None:
    world = World()
    family(world)
    world.settle(world.hold_one())
    child = born(world) if started else None
    world.reopen()
    if child is None:
        child = born(world)
    assert not world.desk.consequences.children.wanted
    world.settle(world.hold_one())
    assert world.grant_one().task_key == "z"


def test_it_is_repeated_until_the_condition_holds_each_with_what_came_before() -> None:
    world = World()
    run = world.start(
        task(
            "call",
            kind="",
            wait=call(until="output.x >= 2", repetitions_max=5),
            input=json_payload({"k": 1}),
        )
    )
    for number in range(3):
        if number == 1:
            world.reopen()
        child = born(world)
        given = {"k": 1} if number == 0 else {"k": 1, "previous": {"x": number - 1}}
        assert child.input == json_payload(given)
        world.settle(world.hold_one(), Success(json_payload(number)))
    world.commit()
    assert world.tables.run(run.run_id).state is RunState.SUCCEEDED
    assert world.tables.kinds(run.run_id).count(EventKind.TASK_REPEATED) == 2


def test_another_attempt_begins_with_the_first_repetition() -> None:
    world = World()
    retry = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
    wait = call(until="output.x >= 2", repetitions_max=3)
    world.start(task("call", kind="", wait=wait, retry=retry, input=json_payload({"k": 1})))
    for end in (Success(json_payload(0)), BOOM):
        born(world)
        world.settle(world.hold_one(), end)
    world.wait(2 * SECOND)
    world.reopen()
    world.wait(0)
    for number in range(3):
        child = born(world)
        given = {"k": 1} if number == 0 else {"k": 1, "previous": {"x": number - 1}}
        assert child.input == json_payload(given)
        world.settle(world.hold_one(), Success(json_payload(number)))
    assert not world.desk.runs


def test_repetitions_are_bounded() -> None:
    world = World()
    run = world.start(task("call", kind="", wait=call(until="false", repetitions_max=2)))
    for _ in range(2):
        born(world)
        world.settle(world.hold_one(), Success(json_payload(1)))
    assert world.run_state(run) is RunState.FAILED
    assert run.reason == f"task call failed: {REPETITIONS_EXHAUSTED}"


def test_a_child_that_is_refused_ends_the_attempt() -> None:
    world = World()
    run = world.start(task("call", kind="", wait=call()))
    children = world.desk.consequences.children
    children.refused(children.wanted.pop(), "no such workflow: child", world.now_us)
    assert world.run_state(run) is RunState.FAILED
    world.commit()
    failure = world.tables.task(run.run_id, 0).failure
    assert failure is not None
    assert failure.message == "no such workflow: child"


def test_runs_lie_only_so_deep() -> None:
    world = World()
    definition = flow(task("call", kind="", wait=call()), name="child")
    run = world.start_flow(definition)
    depth = 0
    while world.desk.consequences.children.wanted:
        run, depth = born(world, definition), depth + 1
    assert depth == depth_of(run) == 16
    assert run.reason.startswith("task call failed: RUNS_TOO_DEEP")


def test_the_end_of_an_earlier_child_changes_nothing() -> None:
    world = World()
    run = family(world)
    world.settle(world.hold_one())
    child = born(world)
    world.desk.interventions.skip(run, 1, "not needed", world.now_us)
    assert world.state(run, "call") is TaskState.SKIPPED
    assert world.run_state(child) is RunState.CANCELLED


def test_each_item_of_a_list_may_be_a_run_of_its_own() -> None:
    world = World()
    each = task(
        "each",
        kind="",
        wait=call(),
        for_each=ForEach(items="[5, 6, 7]", parallelism=1, failures_max=1),
        bindings={"n": "item"},
    )
    run = world.start(each)
    ends: tuple[Success | Failure, ...] = (
        Success(json_payload("a")),
        BOOM,
        Success(json_payload("c")),
    )
    for place, end in enumerate(ends):
        child = born(world)
        assert child.parent_task == f"each[{place}]"
        assert child.input == json_payload({"n": 5 + place})
        world.settle(world.hold_one(), end)
        world.reopen()
    world.commit()
    assert world.tables.run(run.run_id).state is RunState.SUCCEEDED
    assert world.tables.task(run.run_id, 0).output == json_payload([{"x": "a"}, None, {"x": "c"}])


def test_runs_of_items_are_cancelled_when_their_list_has_failed() -> None:
    world = World()
    run = world.start(task("each", kind="", wait=call(), for_each=ForEach(items="[1, 2]")))
    wanted = list(world.desk.consequences.children.wanted)
    world.desk.consequences.children.wanted.clear()
    first, second = (birth(world, one, CHILD) for one in wanted)
    leases = {lease.run.run_id: lease for lease in world.grant()}
    world.settle(leases[first.run_id], BOOM)
    assert world.states(run) == {"each": "FAILED", "each[0]": "FAILED", "each[1]": "CANCELLED"}
    assert world.run_state(second) is RunState.CANCELLING


def test_no_run_begins_for_a_paused_run_and_each_once_it_goes_on() -> None:
    world = World()
    run = world.start(
        task(
            "each",
            kind="",
            wait=call(),
            for_each=ForEach(items="[1, 2, 3]", parallelism=1),
            bindings={"n": "item"},
        )
    )
    interventions = world.desk.interventions
    first = born(world)
    interventions.pause(run, "wait", world.now_us)
    # What had begun goes on; its place is not taken by the next one yet.
    world.settle(world.hold_one())
    assert world.run_state(first) is RunState.SUCCEEDED
    assert not world.desk.consequences.children.wanted
    world.reopen()
    assert not world.desk.consequences.children.wanted
    interventions, run = world.desk.interventions, world.again(run)
    interventions.resume(run, "", world.now_us)
    interventions.pause(run, "wait", world.now_us)
    [wanted] = world.desk.consequences.children.wanted
    assert not world.desk.consequences.children.still_wanted(wanted), "paused before it was started"
    interventions.resume(run, "", world.now_us)
    assert born(world).parent_task == "each[1]"
    world.settle(world.hold_one())
    assert born(world).parent_task == "each[2]"


def test_a_run_that_ends_because_its_parents_time_is_up_is_cancelled_and_not_undone() -> None:
    world = World()
    child_flow = flow(
        task("x", compensation=Handler(kind="undo")),
        task("y", "x", kind="", wait=SignalWait(name="never")),
        name="child",
    )
    run = world.start(
        task("call", kind="", wait=call()), total_timeout_us=60 * SECOND, name="parent"
    )
    child = born(world, child_flow)
    world.settle(world.hold_one())
    world.wait(60 * SECOND)
    world.commit()
    assert world.tables.run(child.run_id).state is RunState.CANCELLED
    assert world.tables.run(run.run_id).state is RunState.FAILED
    assert world.states(child) == {"x": "SUCCEEDED", "y": "CANCELLED"}
