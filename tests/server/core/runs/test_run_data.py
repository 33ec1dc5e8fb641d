"""Data flows through a run: what tasks are given, what they give back, what a run comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from tests.server.core.world import SECOND, World, flow, json_payload, task

from tenure_evidence.digests import given_digest
from tenure_server.core import errors
from tenure_server.core.definitions.definition import RetryPolicy, WorkflowDefinition
from tenure_server.core.definitions.features import KindSchemas, TriggerRule
from tenure_server.core.definitions.payloads import PAYLOAD_BYTES_MAX, Payload
from tenure_server.core.desks.interventions import needed_outputs
from tenure_server.core.leasing.leases import Lease, Success
from tenure_server.core.ledger.items import items_of
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState, Verdict
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.run_data import input_problem


def own(lease: Lease) -> Any:
    assert lease.input is not None
    return orjson.loads(lease.input.data)


def done(output: Any) -> Success:
    return Success(json_payload(output))


def failure_of(world: World, run: LiveRun, key: str) -> tuple[str, str]:
    world.commit()
    failure = world.tables.task(run.run_id, run.graph.index[key]).failure
    assert failure is not None
    return failure.code, failure.message


@pytest.fixture
def world() -> World:
    return World()


# Bindings


def test_fields_are_worked_out_when_a_task_is_leased_and_laid_onto_its_input(world: World) -> None:
    world.start(
        task("fetch"),
        task(
            "count",
            "fetch",
            input=json_payload({"mode": "fast", "files": "none"}),
            bindings={
                "files": "tasks.fetch.output.files",
                "label": "run.labels.n + '/' + run.id",
                "n": "run.input.n + 1",
                "attempt": "attempt",
            },
        ),
    )
    world.settle(world.hold_one(), done({"files": ["a", "b"]}))
    lease = world.grant_one()
    assert own(lease) == {
        "mode": "fast",
        "files": ["a", "b"],
        "label": f"1/{lease.run.run_id}",
        "n": 2,
        "attempt": 1,
    }
    assert set(lease.upstream) == {"fetch"}


def items_in(world: World) -> list[dict[str, Any]]:
    """The items of what is not committed yet."""
    written = items_of(world.journal.events, world.journal.said).written
    return [orjson.loads(one) for one in written]


def test_the_digest_of_what_is_given_covers_the_fields(world: World) -> None:
    run = world.start(task("a", bindings={"x": "run.input.n"}))
    lease = world.grant_one()
    assert lease.input == Payload(b'{"x":1}')
    expected = given_digest(Payload(b'{"x":1}').digest(), run.input_digest(), [], None)
    [item] = [one for one in items_in(world) if one["kind"] == "task.leased"]
    assert item["input"] == f"sha256:{expected.hex()}"


def test_the_digest_of_what_is_given_is_that_of_the_latest_output(world: World) -> None:
    run = world.start(task("a"), task("slow"), task("b", "a"), task("c", "a", "slow"))
    a, _ = world.grant(at_most=2)
    world.settle(a, done({"take": 1}))
    world.settle(world.hold_one(), done(None))
    world.commit()
    # The first output is kept for c, which waits.
    world.execute_again(run, "a")
    world.settle(world.hold_one(), done({"take": 2}))
    lease = world.grant_one()
    latest = json_payload({"take": 2})
    assert (lease.task_key, lease.upstream) == ("b", {"a": latest})
    expected = given_digest(None, run.input_digest(), [("a", latest.digest())], None)
    item = [one for one in items_in(world) if one["kind"] == "task.leased"][-1]
    assert item["input"] == f"sha256:{expected.hex()}"


def test_who_waits_is_not_given_the_output_of_a_task_that_was_executed_again(world: World) -> None:
    run = world.start(task("a"), task("slow"), task("b", "a", "slow"))
    a, slow = world.grant(at_most=2)
    world.settle(a, done({"take": 1}))
    world.commit()
    world.execute_again(run, "a")
    world.settle(world.hold_one(), Success())
    world.settle(slow)
    assert world.grant_one().upstream == {}


def test_integers_of_64_bits_come_through_exactly(world: World) -> None:
    definition = flow(task("a", bindings={"big": "run.input.big", "more": "run.input.low"}))
    world.start_flow(definition, given={"big": (1 << 64) - 1, "low": -(1 << 63)})
    lease = world.grant_one()
    assert lease.input == Payload(b'{"big":18446744073709551615,"more":-9223372036854775808}')


def test_each_attempt_is_given_its_own(world: World) -> None:
    world.start(task("a", bindings={"n": "attempt"}, retry=RetryPolicy(max_attempts=3, jitter=0)))
    world.settle(world.hold_one(), Failure("NO"))
    world.wait(2 * SECOND)
    assert own(world.hold_one()) == {"n": 2}


def test_what_cannot_be_worked_out_fails_the_task_before_it_begins(world: World) -> None:
    run = world.start(
        task("a"),
        task(
            "b",
            "a",
            bindings={"x": "attempt", "url": "tasks.a.output.url"},
            retry=RetryPolicy(max_attempts=5),
        ),
        task("c", "b"),
    )
    world.settle(world.hold_one(), done({"uri": 1}))
    assert world.grant() == []
    assert failure_of(world, run, "b") == (
        "BINDING_FAILED",
        "url: tasks.a.output.url: tasks.a.output has no 'url'",
    )
    assert world.tables.task(run.run_id, 1).attempt == 1
    assert world.tables.task(run.run_id, 2).state is TaskState.UPSTREAM_FAILED
    assert world.tables.run(run.run_id).state is RunState.FAILED
    assert world.tables.run(run.run_id).reason == "task b failed: BINDING_FAILED"


def test_fields_that_are_too_large_together_fail_the_task(world: World) -> None:
    definition = flow(task("a", bindings={"x": "run.input", "y": "run.input"}))
    run = world.start_flow(definition, given="x" * (PAYLOAD_BYTES_MAX // 2))
    assert world.grant() == []
    code, message = failure_of(world, run, "a")
    assert code == "BINDING_FAILED"
    assert "at most 1048576 are allowed" in message


def test_outputs_that_are_not_json_cannot_be_looked_into(world: World) -> None:
    run = world.start(task("a"), task("b", "a", bindings={"x": "tasks.a.output"}))
    world.settle(world.hold_one(), Success(Payload(b"\x89PNG", "image/png")))
    assert world.grant() == []
    assert failure_of(world, run, "b")[1].endswith("tasks.a.output is not JSON but image/png")


def test_the_states_of_tasks_can_be_looked_at(world: World) -> None:
    world.start(
        task("a"),
        task("b"),
        task(
            "c",
            "a",
            "b",
            trigger=TriggerRule.ALL_DONE,
            bindings={"a": "tasks.a.state", "b": "tasks.b.state", "nothing": "tasks.b.output"},
        ),
    )
    world.settle(world.hold_one(), done(1))
    world.settle(world.hold_one(), Failure("NO"))
    assert own(world.grant_one()) == {"a": "SUCCEEDED", "b": "FAILED", "nothing": None}


CHAIN = (
    task("first"),
    task("second", "first"),
    task("third", "second", bindings={"x": "tasks.first.output.x", "y": "tasks.second.state"}),
    task("fourth", "third"),
)


@pytest.mark.parametrize("reopened", [False, True])
def test_outputs_of_tasks_before_those_before_are_kept_as_long_as_they_are_looked_at(
    world: World, reopened: bool
) -> None:
    run_id = world.start(*CHAIN).run_id
    world.settle(world.hold_one(), done({"x": 5}))
    world.settle(world.hold_one(), done("unused"))
    if reopened:
        world.reopen()
    run = world.desk.runs[run_id]
    lease = world.hold_one()
    assert own(lease) == {"x": 5, "y": "SUCCEEDED"}
    assert set(lease.upstream) == {"second"}
    world.settle(lease, done(3))
    assert set(run.outputs) == {2}


def test_a_task_that_comes_back_after_a_restart_is_given_the_same(world: World) -> None:
    world.start(*CHAIN)
    world.settle(world.hold_one(), done({"x": 5}))
    world.settle(world.hold_one(), done("unused"))
    before = world.grant_one().input
    world.reopen()
    world.wait(60 * SECOND)
    assert world.grant_one().input == before


def test_who_has_much_worked_out_leaves_others_their_turn(world: World) -> None:
    """Nothing is lost: what is ready is leased in the next turns."""
    given = [{"n": number} for number in range(9_000)]
    many = [task(f"t{n}", bindings={"x": "run.input.map(i, i.n + 1)"}) for n in range(20)]
    world.start_flow(flow(*many), given=given)
    first = world.grant()
    assert 0 < len(first) < 20
    assert world.grant() == []
    due_us = world.desk.dues.next_us()
    assert due_us is not None
    assert due_us <= world.now_us + 1_000
    turns, leases = 1, len(first)
    while leases < 20:
        world.wait(1_000)
        leases += len(world.grant())
        turns += 1
    assert turns < 20
    assert not world.desk.ready.size


# Schemas

OBJECT = json_payload(
    {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
)


def with_schemas(*tasks: Any, **kinds: KindSchemas) -> WorkflowDefinition:
    return WorkflowDefinition(name="flow", tasks=tasks, schemas=kinds)


def test_a_handler_is_not_given_what_breaks_the_schema_of_its_kind(world: World) -> None:
    definition = with_schemas(
        task("a", bindings={"n": "run.input.n"}, retry=RetryPolicy(max_attempts=9)),
        work=KindSchemas(input=OBJECT),
    )
    good = world.start_flow(definition, given={"n": 5})
    assert own(world.hold_one()) == {"n": 5}
    bad = world.start_flow(definition, given={"n": "5"})
    assert world.grant() == []
    assert failure_of(world, bad, "a") == (
        "INPUT_INVALID",
        'input /n: "5" is not of type "integer"',
    )
    assert good.run_id in world.desk.runs


def test_no_input_is_null_to_a_schema(world: World) -> None:
    run = world.start_flow(with_schemas(task("a"), work=KindSchemas(input=OBJECT)))
    assert world.grant() == []
    assert failure_of(world, run, "a")[1] == 'input null is not of type "object"'


@pytest.mark.parametrize("output", [{"n": "x"}, None])
def test_a_result_that_breaks_the_schema_of_its_kind_is_a_failure_that_may_be_retried(
    world: World, output: Mapping[str, Any] | None
) -> None:
    retry = RetryPolicy(max_attempts=2, jitter=0)
    definition = with_schemas(task("a", retry=retry), work=KindSchemas(output=OBJECT))
    run = world.start_flow(definition)
    end = Success() if output is None else done(output)
    assert world.settle(world.hold_one(), end) is Verdict.OUTPUT_REFUSED
    code, message = failure_of(world, run, "a")
    assert code == "OUTPUT_INVALID"
    assert message.startswith("output ")
    world.wait(2 * SECOND)
    assert world.settle(world.hold_one(), done({"n": 1})) is Verdict.APPLIED
    assert run.state is RunState.SUCCEEDED


def test_a_result_by_hand_must_fit_as_well(world: World) -> None:
    run = world.start_flow(with_schemas(task("a"), work=KindSchemas(output=OBJECT)))
    with pytest.raises(errors.FieldsInvalid) as refused:
        world.desk.interventions.settle(run, 0, done({"n": None}), "so it is", world.now_us)
    assert refused.value.violations == (("output", '/n: null is not of type "integer"'),)
    assert world.state(run, "a") is TaskState.READY
    world.desk.interventions.settle(run, 0, done({"n": 1}), "so it is", world.now_us)
    assert world.state(run, "a") is TaskState.SUCCEEDED


def test_the_input_of_a_run_is_judged_by_the_schema_of_its_workflow() -> None:
    definition = WorkflowDefinition(name="flow", tasks=(task("a"),), input_schema=OBJECT)
    assert input_problem(definition, json_payload({"n": 1})) is None
    assert input_problem(definition, json_payload({"n": 1.5})) == (
        '/n: 1.5 is not of type "integer"'
    )
    assert input_problem(definition, None) == 'null is not of type "object"'
    assert input_problem(flow(task("a")), None) is None


# What runs come to


def with_output(*tasks: Any, **output: str) -> WorkflowDefinition:
    return WorkflowDefinition(name="flow", tasks=tasks, output=output)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_run_comes_to_what_its_definition_says(world: World, reopened: bool) -> None:
    definition = with_output(
        *CHAIN, sum="tasks.first.output.x + run.input.n", last="tasks.fourth.output"
    )
    run_id = world.start_flow(definition, given={"n": 2}).run_id
    for output in ({"x": 5}, 2, 3):
        world.settle(world.hold_one(), done(output))
        if reopened:
            world.reopen()
    world.settle(world.hold_one(), done([4]))
    *_, succeeded, item = items_in(world)
    assert succeeded["kind"] == "task.succeeded"
    world.commit()
    row = world.tables.runs[run_id]
    assert (row["state"], row["output"]) == (RunState.SUCCEEDED, b'{"last":[4],"sum":7}')
    assert item["output"] == f"sha256:{Payload(row['output']).digest().hex()}"


def test_a_run_whose_output_cannot_be_worked_out_fails(world: World) -> None:
    run = world.start_flow(with_output(task("a"), x="tasks.a.output.x"))
    world.settle(world.hold_one(), done({"y": 1}))
    world.commit()
    row = world.tables.runs[run.run_id]
    assert row["state"] == RunState.FAILED
    assert row["reason"] == (
        "the run's output cannot be worked out: x: tasks.a.output.x: tasks.a.output has no 'x'"
    )
    assert row["output"] is None


def test_a_failed_run_comes_to_nothing(world: World) -> None:
    run = world.start_flow(with_output(task("a"), x="run.input"))
    world.settle(world.hold_one(), Failure("NO"))
    world.commit()
    assert world.tables.runs[run.run_id]["output"] is None


@pytest.mark.parametrize("reopened", [False, True])
def test_a_run_for_another_comes_to_the_outputs_of_its_last_tasks(
    world: World, reopened: bool
) -> None:
    definition = flow(task("a"), task("b", "a"), task("c"), task("d"))
    run_id = world.start_flow(definition, parent="run-0").run_id
    outputs = {"a": done("gone"), "b": done([2]), "c": done({"c": 1})}
    picture = Success(Payload(b"\xff", "image/png"))
    for _ in range(4):
        lease = world.hold_one()
        world.settle(lease, outputs.get(lease.task_key, picture))
        if reopened:
            world.reopen()
    world.commit()
    stored = orjson.loads(world.tables.runs[run_id]["output"])
    assert stored == {"b": [2], "c": {"c": 1}, "d": None}


def test_other_runs_keep_no_outputs_that_nobody_needs(world: World) -> None:
    run = world.start(task("a"), task("b"))
    world.settle(world.hold_one(), done(1))
    assert not run.outputs
    world.settle(world.hold_one(), done(1))
    world.commit()
    assert world.tables.runs[run.run_id]["output"] is None


def test_tasks_executed_again_are_given_what_they_looked_at_before(world: World) -> None:
    run = world.start_flow(with_output(*CHAIN, x="tasks.second.output"))
    assert needed_outputs(run, [2, 3]) == [0, 1]
    assert needed_outputs(run, [3]) == [1, 2]
