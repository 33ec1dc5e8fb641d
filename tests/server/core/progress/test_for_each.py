"""Lists: one task for each item, and what they come to together."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import orjson
import pytest
from tests.server.core.world import LEASE_US, SECOND, World, flow, json_payload, portrait, task

from tenure_server.core import errors
from tenure_server.core.definitions.declared import WorkflowTask
from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.definitions.features import ForEach, Handler, TriggerRule
from tenure_server.core.definitions.payloads import REFERENCE_TYPE, Payload
from tenure_server.core.leasing.leases import STOPPED, Lease, Success
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState, Verdict
from tenure_server.core.runs import view
from tenure_server.core.runs.extensions import shape_of
from tenure_server.core.runs.live import LiveRun

BROKEN = Failure("BROKEN", "no good", True)


def done(output: Any) -> Success:
    return Success(json_payload(output))


def each(key: str, *depends_on: str, items: str = "run.input.list", **options: Any) -> WorkflowTask:
    """A task for each item, which is given its item and place."""
    names = ("parallelism", "failures_max", "items_max")
    declared = {name: options.pop(name) for name in names if name in options}
    return task(
        key,
        *depends_on,
        for_each=ForEach(items=items, **declared),
        bindings={"item": "item", "index": "index"},
        **options,
    )


def start(world: World, *tasks: WorkflowTask, given: Any) -> LiveRun:
    return world.start_flow(flow(*tasks), given={"list": given})


def own(lease: Lease) -> Any:
    assert lease.input is not None
    return orjson.loads(lease.input.data)


def output(world: World, run: LiveRun, key: str) -> Any:
    world.commit()
    found = world.tables.task(run.run_id, run.graph.index[key]).output
    return None if found is None else orjson.loads(found.data)


def failure(world: World, run: LiveRun, key: str) -> tuple[str, str]:
    world.commit()
    found = world.tables.task(run.run_id, run.graph.index[key]).failure
    assert found is not None
    return found.code, found.message


def keys(leases: list[Lease]) -> list[str]:
    return [lease.task_key for lease in leases]


@pytest.fixture
def world() -> World:
    return World()


# A list, and what becomes of it


def test_each_item_is_a_task_and_their_outputs_are_a_list_in_order(world: World) -> None:
    run = start(world, each("e"), task("sum", "e"), given=[10, 20, 30])
    assert run.counts().total == 5
    leases = world.grant()
    assert keys(leases) == ["e[0]", "e[1]", "e[2]"]
    assert [own(lease) for lease in leases] == [
        {"item": 10, "index": 0},
        {"item": 20, "index": 1},
        {"item": 30, "index": 2},
    ]
    for lease in reversed(leases):
        world.settle(lease, done(own(lease)["item"] + 1))
    assert output(world, run, "e") == [11, 21, 31]
    last = world.hold_one()
    assert last.task_key == "sum"
    assert orjson.loads(last.upstream["e"].data) == [11, 21, 31]
    world.settle(last)
    assert run.state is RunState.SUCCEEDED
    world.commit()
    assert world.tables.run(run.run_id).task_count == 5
    assert world.tables.run(run.run_id).succeeded == 5


def test_items_come_from_what_ran_before_and_are_given_its_output(world: World) -> None:
    start(world, task("find"), each("e", "find", items="tasks.find.output.files"), given=[])
    world.settle(world.hold_one(), done({"files": ["a", "b"]}))
    leases = world.grant()
    assert [own(lease)["item"] for lease in leases] == ["a", "b"]
    assert orjson.loads(leases[1].upstream["find"].data) == {"files": ["a", "b"]}


def test_an_empty_list_succeeds_at_once(world: World) -> None:
    run = start(world, each("e"), task("b", "e"), given=[])
    assert world.states(run) == {"e": "SUCCEEDED", "b": "READY"}
    assert output(world, run, "e") == []


@pytest.mark.parametrize(
    ("declared", "given", "code", "text"),
    [
        ({"items": "run.input.nothing"}, [], "EXPANSION_FAILED", "has no 'nothing'"),
        ({"items": "run.input.list"}, {"a": 1}, "EXPANSION_FAILED", "must come out as a list"),
        ({"items_max": 2}, [1, 2, 3], "ITEMS_TOO_MANY", "has 3 items, at most 2"),
        ({}, ["x" * 600_000, "y" * 600_000], "ITEMS_TOO_LARGE", "at most 1048576 are allowed"),
    ],
)
def test_what_is_no_fit_list_fails_its_task(
    world: World, declared: dict[str, Any], given: Any, code: str, text: str
) -> None:
    policy = RetryPolicy(max_attempts=3)
    run = start(
        world,
        each("e", retry=policy, **declared),
        task("after", "e", trigger=TriggerRule.ALL_DONE),
        given=given,
    )
    assert world.states(run) == {"e": "FAILED", "after": "READY"}
    said, message = failure(world, run, "e")
    assert said == code
    assert text in message


def test_a_run_has_a_bound_for_all_its_tasks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenure_server.core.progress.expansion.RUN_TASKS_MAX", 5)
    run = start(world, each("a"), each("b"), given=[1, 2, 3])
    assert world.states(run)["b"] == "FAILED"
    assert failure(world, run, "b")[0] == "ITEMS_TOO_MANY"


def test_parallelism_bounds_what_is_under_way_and_a_freed_place_is_taken_at_once(
    world: World,
) -> None:
    run = start(world, each("e", parallelism=2, retry=RetryPolicy(max_attempts=2)), given=[1] * 4)
    first, second = world.grant()
    assert world.grant() == []
    world.settle(first, done(1))
    [third] = world.grant()
    assert third.task_key == "e[2]"
    # What waits for its next attempt keeps its place.
    world.settle(second, Failure("BUSY"))
    assert world.grant() == []
    assert world.state(run, "e[3]") is TaskState.WAITING
    world.wait(2 * SECOND)
    [again] = world.grant()
    assert again.task_key == "e[1]"
    world.settle(again, done(2))
    world.settle(third, done(3))
    [fourth] = world.grant()
    world.settle(fourth, done(4))
    assert output(world, run, "e") == [1, 2, 3, 4]
    assert run.state is RunState.SUCCEEDED


# Failures


def test_the_first_failure_stops_the_others(world: World) -> None:
    run = start(world, each("e", parallelism=3), task("after", "e"), given=[0] * 6)
    first, second, third = world.grant()
    world.settle(third, done("kept"))
    world.settle(first, BROKEN)
    assert [one.task_key for one in world.desk.cancelling] == ["e[1]"]
    assert second.cancelling == "item e[0] failed; at most 0 may"
    states = world.states(run)
    assert states["e"] == "ACTIVE"
    assert states["e[1]"] == "LEASED"
    assert [states[f"e[{n}]"] for n in (0, 2, 3, 4, 5)] == [
        "FAILED",
        "SUCCEEDED",
        *["CANCELLED"] * 3,
    ]
    assert world.settle(second, STOPPED) is Verdict.APPLIED
    assert world.states(run)["e[1]"] == "CANCELLED"
    assert failure(world, run, "e") == ("ITEMS_FAILED", "1 of 6 items failed: e[0]; at most 0 may")
    assert run.state is RunState.FAILED
    assert run.reason == "task e failed: ITEMS_FAILED"
    assert world.states(run)["after"] == "UPSTREAM_FAILED"


@pytest.mark.parametrize("end", [Failure("BUSY"), STOPPED, None])
def test_what_was_leased_when_a_list_failed_is_not_tried_again(
    world: World, end: Failure | None
) -> None:
    run = start(world, each("e", retry=RetryPolicy(max_attempts=5)), given=[1, 2])
    first, second = world.grant()
    world.desk.accept(second)
    world.settle(first, BROKEN)
    if end is None:
        world.wait(LEASE_US)
    else:
        world.settle(second, end)
    assert world.states(run) == {"e": "FAILED", "e[0]": "FAILED", "e[1]": "CANCELLED"}


def test_a_success_that_comes_while_a_list_is_stopped_counts(world: World) -> None:
    run = start(world, each("e"), given=[1, 2])
    first, second = world.grant()
    world.settle(first, BROKEN)
    world.settle(second, done(2))
    assert world.states(run) == {"e": "FAILED", "e[0]": "FAILED", "e[1]": "SUCCEEDED"}


@pytest.mark.parametrize(("most", "state"), [(1, "FAILED"), (2, "SUCCEEDED"), (-1, "SUCCEEDED")])
def test_so_many_items_may_fail(world: World, most: int, state: str) -> None:
    run = start(world, each("e", failures_max=most), given=[1, 2, 3])
    for lease in world.grant():
        world.settle(lease, done("good") if own(lease)["index"] == 2 else BROKEN)
    assert world.states(run)["e"] == state
    assert run.state is RunState[state]
    if state == "SUCCEEDED":
        assert output(world, run, "e") == [None, None, "good"]
        assert run.reason == ""
        [event] = [one for one in world.tables.events[run.run_id] if one["task_key"] == "e"][-1:]
        assert event["message"] == "2 of 3 items failed: e[0], e[1]"


def test_an_output_that_is_not_json_fails_its_item(world: World) -> None:
    run = start(world, each("e", failures_max=1), given=[1, 2])
    first, second = world.grant()
    assert world.settle(first, Success(Payload(b"\xff", "image/png"))) is Verdict.OUTPUT_REFUSED
    assert failure(world, run, "e[0]") == (
        "OUTPUT_NOT_JSON",
        "the output of an item must be JSON, not image/png",
    )
    world.settle(second, done({"a": 1}))
    assert output(world, run, "e") == [None, {"a": 1}]


def test_a_reference_stands_in_the_list_as_it_is(world: World) -> None:
    run = start(world, each("e"), given=[1])
    said = {"uri": "file:///x", "sha256": "0" * 64, "bytes": 9}
    world.settle(world.hold_one(), Success(Payload(orjson.dumps(said), REFERENCE_TYPE)))
    assert output(world, run, "e") == [said]


def test_outputs_that_are_too_much_together_fail_the_task(world: World) -> None:
    run = start(world, each("e", parallelism=2), given=[1] * 5)
    large = done("x" * 600_000)
    for lease in world.grant():
        world.settle(lease, large)
    code, message = failure(world, run, "e")
    assert code == "OUTPUT_TOO_LARGE"
    assert "such as a reference" in message
    assert world.states(run)["e[4]"] == "CANCELLED"
    assert not run.outputs


def test_the_list_of_outputs_may_have_a_whole_mebibyte(world: World) -> None:
    run = start(world, each("e"), given=[1, 2])
    one, other = world.grant()
    world.settle(one, done("x" * 600_000))
    room = (1 << 20) - 600_002 - 2 - 2
    world.settle(other, done("y" * (room - 1)))
    assert world.states(run)["e"] == "SUCCEEDED"
    world.commit()
    found = world.tables.task(run.run_id, 0).output
    assert found is not None
    assert len(found.data) == 1 << 20


# What operators do


def test_cancelling_a_run_cancels_its_items(world: World) -> None:
    run = start(world, each("e", parallelism=2), given=[1, 2, 3])
    leased = world.grant(at_most=1)
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.states(run) == {
        "e": "CANCELLED",
        "e[0]": "LEASED",
        "e[1]": "CANCELLED",
        "e[2]": "CANCELLED",
    }
    world.settle(leased[0], STOPPED)
    assert run.state is RunState.CANCELLED
    world.commit()
    assert world.desk.open_tasks == 0


def test_closing_a_run_ends_its_items_at_once(world: World) -> None:
    run = start(world, each("e", parallelism=2), given=[1, 2, 3])
    world.grant(at_most=1)
    world.desk.interventions.close(run, "wrong", world.now_us)
    assert run.state is RunState.CLOSED
    assert set(world.states(run).values()) == {"CANCELLED"}
    assert not world.desk.leases
    world.commit()


def test_a_paused_run_begins_no_item(world: World) -> None:
    run = start(world, each("e", parallelism=2), given=[1, 2, 3])
    first, second = world.grant()
    world.desk.interventions.pause(run, "", world.now_us)
    world.settle(first, done(1))
    assert world.grant() == []
    assert world.states(run)["e[2]"] == "READY"
    world.reopen()
    run = world.desk.runs[run.run_id]
    assert world.grant() == []
    world.desk.interventions.resume(run, "", world.now_us)
    [third] = world.grant()
    world.settle(third, done(3))
    world.settle(second, done(2), holder="key-1")
    assert output(world, run, "e") == [1, 2, 3]


def test_an_item_is_skipped_or_settled_by_hand(world: World) -> None:
    run = start(world, each("e", parallelism=1), given=[1, 2, 3, 4])
    hand, index = world.desk.interventions, run.graph.index
    hand.skip(run, index["e[3]"], "not needed", world.now_us)
    assert world.states(run)["e[0]"] == "READY"
    hand.skip(run, index["e[0]"], "bad data", world.now_us)
    assert world.states(run)["e[1]"] == "READY"
    with pytest.raises(errors.FieldsInvalid, match="must be JSON"):
        hand.settle(run, index["e[1]"], Success(Payload(b"x", "text/x")), "done", world.now_us)
    hand.settle(run, index["e[1]"], done("by hand"), "done", world.now_us)
    assert world.states(run)["e[2]"] == "READY"
    assert len(world.grant()) == 1
    hand.settle(run, index["e[2]"], done("too"), "done", world.now_us)
    assert not world.desk.leases
    assert output(world, run, "e") == [None, "by hand", "too", None]


@pytest.mark.parametrize("how", ["skip", "succeed", "fail"])
def test_a_list_is_skipped_or_settled_by_hand_with_all_its_items(world: World, how: str) -> None:
    run = start(world, each("e", parallelism=2), task("b", "e"), given=[1, 2, 3])
    lease = world.hold_one()
    hand = world.desk.interventions
    if how == "skip":
        hand.skip(run, 0, "", world.now_us)
    else:
        end = done(["mine"]) if how == "succeed" else Failure("NO")
        hand.settle(run, 0, end, "", world.now_us)
    assert not world.desk.leases
    assert [one.task_key for one, _ in world.desk.ended] == ["e[0]"]
    states = world.states(run)
    assert [states[f"e[{n}]"] for n in range(3)] == ["CANCELLED"] * 3
    assert states["b"] == {"skip": "SKIPPED", "succeed": "READY", "fail": "UPSTREAM_FAILED"}[how]
    assert world.verdict(lease, done(1)) in (Verdict.SUPERSEDED, Verdict.RUN_CLOSED)
    if how == "succeed":
        assert output(world, run, "e") == ["mine"]


# Once more


def failed(world: World, **options: Any) -> LiveRun:
    """A run whose list has failed: item 0 is done, 1 has failed, 2 was cancelled."""
    run = start(world, each("e", parallelism=2, **options), task("b", "e"), given=[1, 2, 3])
    first, second = world.grant()
    world.settle(first, done("first"))
    world.settle(second, BROKEN)
    return run


def test_a_retry_executes_only_what_did_not_succeed(world: World) -> None:
    run = world.execute_again(failed(world))
    assert world.states(run) == {
        "e": "ACTIVE",
        "b": "WAITING",
        "e[0]": "SUCCEEDED",
        "e[1]": "READY",
        "e[2]": "READY",
    }
    for lease in world.grant():
        world.settle(lease, done(lease.task_key))
    assert output(world, run, "e") == ["first", "e[1]", "e[2]"]
    world.settle(world.hold_one())
    assert run.state is RunState.SUCCEEDED
    world.commit()
    assert world.tables.run(run.run_id).task_count == 5


def test_a_retry_goes_through_restarts(world: World) -> None:
    run = world.execute_again(failed(world))
    world.reopen()
    [one, other] = world.grant()
    world.settle(one, done("one"))
    world.reopen()
    run = world.desk.runs[run.run_id]
    world.desk.leases[other.key].token = other.token
    world.settle(other, done("other"))
    assert output(world, run, "e") == ["first", "one", "other"]


def test_a_rerun_executes_all_items_again(world: World) -> None:
    run = start(world, each("e"), given=[1, 2])
    for lease in world.grant():
        world.settle(lease, done("before"))
    run = world.execute_again(run, "e")
    assert run.counts().total == 3
    for lease in world.grant():
        world.settle(lease, done("after"))
    assert output(world, run, "e") == ["after", "after"]


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (2, 0), (0, 2), (2, 2)])
def test_a_list_may_be_another_one_when_what_it_came_from_is_executed_again(
    world: World, before: int, after: int
) -> None:
    run = start(
        world,
        task("find"),
        each("e", "find", items="tasks.find.output"),
        each("other", "find", items="tasks.find.output"),
        given=[],
    )
    for count in (before, after):
        world.settle(world.hold_one(), done([f"{count}.{n}" for n in range(count)]))
        world.reopen()
        for lease in world.grant():
            world.settle(lease, done(own(lease)["item"]))
        expected = [f"{count}.{n}" for n in range(count)]
        assert output(world, run, "e") == output(world, run, "other") == expected
        if count == before:
            run = world.execute_again(run, "find")
    final = world.tables.run(run.run_id)
    assert final.state is RunState.SUCCEEDED
    world.commit()
    definition = world.tables.definitions[final.workflow_digest]
    found = shape_of(definition, definition.graph(), final.detail).graph.keys
    assert len(set(found)) == len(found) == 3 + 2 * max(before, after)


def test_a_list_that_is_ruled_out_when_its_run_is_opened_again_leaves_no_item_open(
    world: World,
) -> None:
    run = start(
        world,
        task("find"),
        each("e", "find", items="tasks.find.output", when="size(tasks.find.output) < 3"),
        given=[],
    )
    world.settle(world.hold_one(), done([1, 2]))
    for lease in world.grant():
        world.settle(lease, done(0))
    run = world.execute_again(run, "find")
    world.settle(world.hold_one(), done([1, 2, 3]))
    assert run.state is RunState.SUCCEEDED
    assert world.states(run) == {
        "find": "SUCCEEDED",
        "e": "SKIPPED",
        "e[0]": "CANCELLED",
        "e[1]": "CANCELLED",
    }
    world.commit()


def test_one_item_can_be_executed_again(world: World) -> None:
    run = start(world, each("e"), task("b", "e"), given=[1, 2])
    for lease in world.grant():
        world.settle(lease, done("before"))
    world.settle(world.hold_one())
    run = world.execute_again(run, "e[1]")
    assert world.states(run) == {
        "e": "ACTIVE",
        "b": "WAITING",
        "e[0]": "SUCCEEDED",
        "e[1]": "READY",
    }
    world.settle(world.hold_one(), done("after"))
    assert output(world, run, "e") == ["before", "after"]


# Restarts


@pytest.mark.parametrize("parallelism", [0, 1, 2])
@pytest.mark.parametrize("most", [0, 1, -1])
def test_a_restart_after_every_step_changes_nothing(
    world: World, parallelism: int, most: int
) -> None:
    policy = RetryPolicy(max_attempts=2, initial_delay_us=SECOND)
    start(
        world,
        each("e", parallelism=parallelism, failures_max=most, retry=policy),
        task("after", "e", trigger=TriggerRule.ALL_DONE),
        given=list(range(5)),
    )

    def restart() -> None:
        world.commit()
        before = portrait(world.desk)
        told = [lease.key for lease in world.desk.cancelling]
        tokens = {lease.key: lease.token for lease in world.desk.leases.values()}
        world.reopen()
        assert portrait(world.desk) == before
        for key, token in tokens.items():
            world.desk.leases[key].token = token
        assert told == [] or {lease.key for lease in world.desk.cancelling} >= set(told)

    restart()
    steps = 0
    while world.desk.runs and steps < 100:
        steps += 1
        for lease in world.grant(at_most=1):
            world.desk.accept(lease)
        restart()
        live = list(world.desk.leases.values())
        if not live:
            world.wait(2 * SECOND)
            continue
        if len(live) < 2 and world.desk.ready.size:
            continue
        lease = live[0]
        place = lease.task_key
        end: Any = done(place)
        if lease.cancelling:
            end = STOPPED
        elif place in ("e[1]", "e[3]") and most == -1:
            end = BROKEN
        elif place == "e[1]":
            end = Failure("BUSY") if lease.attempt == 1 else BROKEN
        world.settle(lease, end)
        restart()
    assert not world.desk.runs
    [row] = world.tables.runs.values()
    assert RunState(row["state"]) is (RunState.FAILED if most == 0 else RunState.SUCCEEDED)
    if most == 1:
        assert orjson.loads(world.tables.task(row["run_id"], 0).output.data) == [  # type: ignore[union-attr]
            "e[0]",
            None,
            "e[2]",
            "e[3]",
            "e[4]",
        ]


def test_the_rows_tell_where_each_item_stands(world: World) -> None:
    run = start(world, each("e", parallelism=2), given=list(range(4)))
    first, _ = world.grant()
    world.settle(first, done(1))
    world.commit()
    record = world.tables.run(run.run_id)
    shape = shape_of(run.definition, run.definition.graph(), record.detail)
    rows = {index: row.state for index, row in world.tables.tasks_of(run.run_id).items()}
    assert [state.name for state in view.task_states(shape, rows)] == [
        "ACTIVE",
        "SUCCEEDED",
        "LEASED",
        "READY",
        "WAITING",
    ]


def test_a_lost_agent_makes_its_items_ready_for_another(world: World) -> None:
    run = start(world, each("e", parallelism=1), given=[1, 2])
    world.hold_one()
    world.wait(LEASE_US)
    assert world.states(run)["e[0]"] == "READY"
    lease = world.hold_one(world.agent("other"))
    assert lease.task_key == "e[0]"
    assert lease.attempt == 1


def test_ten_thousand_items_begin_in_a_moment_and_leave_no_rows(world: World) -> None:
    definition = task("find"), each("e", "find", items="tasks.find.output", parallelism=100)
    run = start(world, *definition, given=[])
    lease = world.hold_one()
    world.commit()
    begin = time.process_time()
    world.settle(lease, done(list(range(10_000))))
    spent = time.process_time() - begin
    changes = world.commit()
    assert len(changes.tasks) == 2
    assert run.counts().ready == 100
    assert run.tasks[2] is run.tasks[10_001]
    # Ten times what it takes, for slow machines.
    assert spent < 0.5


def test_the_event_of_the_task_says_how_many_items_it_has(world: World) -> None:
    run = start(world, each("e"), given=[1, 2])
    world.commit()
    said = [event["message"] for event in world.tables.events[run.run_id]]
    assert world.tables.kinds(run.run_id) == [EventKind.RUN_STARTED, EventKind.TASK_ACTIVATED]
    assert said[-1] == "2 items"


# Undoing


def test_each_item_that_succeeded_is_undone_with_its_item_and_output(world: World) -> None:
    undo = Handler(kind="work", bindings={"item": "item", "index": "index", "made": "output.made"})
    run = start(
        world,
        each("e", compensation=undo, parallelism=2),
        task("last", "e"),
        given=["a", "b"],
    )
    for lease in world.grant():
        world.settle(lease, done({"made": own(lease)["item"] * 2}))
    assert output(world, run, "e") == [{"made": "aa"}, {"made": "bb"}]
    world.reopen()
    world.settle(world.hold_one(), BROKEN)
    world.reopen()
    undone = []
    while leases := world.grant():
        [lease] = leases
        undone.append((lease.task_key, own(lease)))
        world.settle(lease)
        world.reopen()
    assert undone == [
        ("e[1]~undo", {"item": "b", "index": 1, "made": "bb"}),
        ("e[0]~undo", {"item": "a", "index": 0, "made": "aa"}),
    ]
    assert world.tables.run(run.run_id).state is RunState.FAILED


def test_items_may_come_to_be_after_on_failure_was_executed(world: World) -> None:
    definition = replace(
        flow(task("find"), each("e", "find", items="tasks.find.output")),
        on_failure=Handler(kind="work"),
    )
    run = world.start_flow(definition)
    world.settle(world.hold_one(), BROKEN)
    world.settle(world.hold_one())
    assert run.state is RunState.FAILED
    run = world.execute_again(run)
    world.settle(world.hold_one(), done([1, 2]))
    world.reopen()
    leases = world.grant()
    assert keys(leases) == ["e[0]", "e[1]"]
    assert [set(lease.upstream) for lease in leases] == [{"find"}, {"find"}]
    for lease in leases:
        world.settle(lease, done(own(lease)["item"]))
    assert output(world, run, "e") == [1, 2]
    assert world.tables.run(run.run_id).state is RunState.SUCCEEDED
