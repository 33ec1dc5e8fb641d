"""What may be wrong with what tasks and workflows declare: every rule, and its bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.server.core.world import flow, task

from tenure_server.core import errors
from tenure_server.core.definitions.definition import (
    ATTEMPT_TIMEOUT_MAX_US,
    Payload,
    RetryPolicy,
    WorkflowDefinition,
    WorkflowTask,
    parse,
)
from tenure_server.core.definitions.features import (
    Approval,
    Concurrency,
    EventTrigger,
    EventWait,
    ForEach,
    Handler,
    KindSchemas,
    Placement,
    Rate,
    SignalWait,
    SubWorkflow,
    Timer,
    TriggerRule,
)

SECOND = 1_000_000
SCHEMA = Payload(b'{"type": "object"}')
SPAN_MAX = ATTEMPT_TIMEOUT_MAX_US


def declaring(**fields: Any) -> WorkflowDefinition:
    """A workflow that declares something."""
    return WorkflowDefinition(name="flow", tasks=(task("a"),), **fields)


def waiting(wait: Any, **options: Any) -> WorkflowDefinition:
    """A workflow whose second task waits."""
    return flow(task("a"), WorkflowTask(key="b", kind="", depends_on=("a",), wait=wait, **options))


def bad(name: str, **options: Any) -> Any:
    """A second task that breaks one rule, and the field that has to be named."""
    second: dict[str, Any] = {"key": "b", "kind": "work", **options}
    one = flow(task("a"), WorkflowTask(**second))
    return pytest.param(one, f"definition.tasks[1].{name}", id=_id(name, options))


def bad_wait(name: str, wait: Any, **options: Any) -> Any:
    """The same for a task that waits."""
    return pytest.param(waiting(wait, **options), f"definition.tasks[1].{name}", id=_id(name, wait))


def bad_top(name: str, **fields: Any) -> Any:
    """The same for what holds for the whole workflow."""
    return pytest.param(declaring(**fields), f"definition.{name}", id=_id(name, fields))


def _id(name: str, what: Any) -> str:
    return f"{name} {what}"[:70].replace("\0", "")


TIMER = Timer(delay_us=SECOND)
MANY = {str(number): "run.id" for number in range(65)}
LONG = "1 + " * 500 + "1"
NO_OBJECT = Payload(b"[1]")
CALL = SubWorkflow(name="other")

BAD = [
    bad("kind", kind="k", wait=TIMER),
    # data flow
    bad("bindings", bindings=MANY),
    bad("bindings", bindings={"": "run.id"}),
    bad("bindings", bindings={"x" * 201: "run.id"}),
    bad("bindings['x']", bindings={"x": ""}),
    bad("bindings['x']", bindings={"x": " \n"}),
    bad("bindings['x']", bindings={"x": LONG}),
    bad("input", bindings={"x": "run.id"}, input=NO_OBJECT),
    bad("input", bindings={"x": "run.id"}, input=Payload(b"{}", "text/plain")),
    bad("when", when=" "),
    bad("when", when="true " + "|| true" * 400),
    bad("trigger", trigger=TriggerRule.ALL_DONE),
    # once for each item
    bad("for_each.items", for_each=ForEach(items="")),
    bad("for_each.parallelism", for_each=ForEach(items="run.input", parallelism=-1)),
    bad("for_each.failures_max", for_each=ForEach(items="run.input", failures_max=-2)),
    bad("for_each.items_max", for_each=ForEach(items="run.input", items_max=0)),
    bad("for_each.items_max", for_each=ForEach(items="run.input", items_max=10_001)),
    # spans
    bad("queue_timeout", queue_timeout_us=0),
    bad("total_timeout", total_timeout_us=SPAN_MAX + 1),
    bad("heartbeat_timeout", heartbeat_timeout_us=0),
    bad("retry.total_timeout", retry=RetryPolicy(total_timeout_us=0)),
    # what undoes
    bad("compensation.kind", compensation=Handler(kind="")),
    bad("compensation.input", compensation=Handler(kind="u", input=Payload(b"x"))),
    bad(
        "compensation.input",
        compensation=Handler(kind="u", input=NO_OBJECT, bindings={"x": "output"}),
    ),
    bad("compensation.bindings['x']", compensation=Handler(kind="u", bindings={"x": ""})),
    bad("compensation.attempt_timeout", compensation=Handler(kind="u", attempt_timeout_us=999)),
    bad(
        "compensation.retry.max_attempts",
        compensation=Handler(kind="u", retry=RetryPolicy(max_attempts=101)),
    ),
    # limits and agents
    bad("weight", weight=0),
    bad("weight", weight=1001),
    bad("concurrency.limit", concurrency=Concurrency(limit=0)),
    bad("concurrency.key", concurrency=Concurrency(limit=1, key=" ")),
    bad("rate.count", rate=Rate(count=0, per_us=1)),
    bad("rate.per", rate=Rate(count=1, per_us=0)),
    bad("rate.per", rate=Rate(count=1, per_us=SPAN_MAX + 1)),
    bad("placement", placement=Placement()),
    bad("placement.required", placement=Placement(required=dict.fromkeys(map(str, range(17)), ""))),
    bad("placement.preferred", placement=Placement(preferred={"": "x"})),
    bad("placement.required['x']", placement=Placement(required={"x": "y" * 256})),
    # keys
    bad("key", key="b[", for_each=ForEach(items="run.input")),
    bad("key", key="b]", for_each=ForEach(items="run.input")),
    bad("key", key="b~", compensation=Handler(kind="u")),
    bad("key", key="k" * 195, for_each=ForEach(items="run.input")),
    bad("key", key="k" * 196, compensation=Handler(kind="u")),
    bad(
        "key",
        key="k" * 190,
        for_each=ForEach(items="run.input"),
        compensation=Handler(kind="u"),
    ),
]
BAD_WAITS = [
    bad_wait("timer", Timer()),
    bad_wait("timer", Timer(delay_us=1, until="run.input")),
    bad_wait("timer.delay", Timer(delay_us=0)),
    bad_wait("timer.until", Timer(until=" ")),
    bad_wait("signal.name", SignalWait(name="")),
    bad_wait("signal.name", SignalWait(name="a b")),
    bad_wait("signal.timeout", SignalWait(name="s", timeout_us=0)),
    bad_wait("event.name", EventWait(name="-")),
    bad_wait("event.key", EventWait(name="e", key=" ")),
    bad_wait("event.timeout", EventWait(name="e", timeout_us=SPAN_MAX + 1)),
    bad_wait("approval.question", Approval(question="x" * 1001)),
    bad_wait("approval.quorum", Approval(quorum=0)),
    bad_wait("approval.quorum", Approval(quorum=101)),
    bad_wait("approval.quorum", Approval(quorum=2, approvers=("ann",))),
    bad_wait("approval.approvers[0]", Approval(approvers=("",))),
    bad_wait("approval.approvers", Approval(approvers=("ann", "ann"))),
    bad_wait("approval.approvers", Approval(approvers=tuple(map(str, range(101))))),
    bad_wait("approval.escalate_to", Approval(escalate_to=("ann",))),
    bad_wait("approval.escalate_after", Approval(escalate_after_us=1)),
    bad_wait(
        "approval.escalate_after",
        Approval(escalate_after_us=5, escalate_to=("ann",), timeout_us=5),
    ),
    bad_wait("workflow.name", SubWorkflow(name="")),
    bad_wait("workflow.version", SubWorkflow(name="w", version=-1)),
    bad_wait("workflow.repetitions_max", SubWorkflow(name="w", repetitions_max=2)),
    bad_wait("workflow.repetitions_max", SubWorkflow(name="w", until="true", repetitions_max=0)),
    bad_wait(
        "workflow.repetitions_max", SubWorkflow(name="w", until="true", repetitions_max=10_001)
    ),
    bad_wait("input", SubWorkflow(name="w", until="true"), input=NO_OBJECT),
]
#: What makes sense for a task that is leased only.
LEASED: dict[str, dict[str, Any]] = {
    "attempt_timeout": {"attempt_timeout_us": SECOND},
    "queue_timeout": {"queue_timeout_us": SECOND},
    "heartbeat_timeout": {"heartbeat_timeout_us": SECOND},
    "weight": {"weight": 2},
    "concurrency": {"concurrency": Concurrency(limit=1)},
    "rate": {"rate": Rate(count=1, per_us=1)},
    "placement": {"placement": Placement(sticky=True)},
}
#: What makes sense where something is given an input, and can fail.
GIVEN: dict[str, dict[str, Any]] = {
    "input": {"input": Payload(b"{}")},
    "bindings": {"bindings": {"x": "run.id"}},
    "for_each": {"for_each": ForEach(items="run.input")},
    "retry": {"retry": RetryPolicy(max_attempts=2)},
}
BAD_TOPS = [
    bad_top("total_timeout", total_timeout_us=0),
    bad_top("on_failure.kind", on_failure=Handler(kind="")),
    bad_top("on_failure.input", on_failure=Handler(kind="u", input=NO_OBJECT)),
    bad_top("concurrency.limit", concurrency=Concurrency(limit=0)),
    bad_top("output", output=MANY),
    bad_top("output['x']", output={"x": ""}),
    bad_top("events", events=(EventTrigger(name="e"),) * 17),
    bad_top("events[0].name", events=(EventTrigger(name=""),)),
    bad_top("events[0].when", events=(EventTrigger(name="e", when=" "),)),
    bad_top("events[0].bindings['x']", events=(EventTrigger(name="e", bindings={"x": ""}),)),
    bad_top("input_schema", input_schema=Payload(b"true")),
    bad_top("input_schema", input_schema=Payload(b"{}", "text/plain")),
    bad_top("input_schema", input_schema=Payload(b"{")),
    bad_top("input_schema", input_schema=Payload(b'{"title": "' + b"x" * (64 << 10) + b'"}')),
    bad_top("schemas['other']", schemas={"other": KindSchemas(input=SCHEMA)}),
    bad_top("schemas['work']", schemas={"work": KindSchemas()}),
    bad_top("schemas['work'].output", schemas={"work": KindSchemas(output=NO_OBJECT)}),
    bad_top("schemas", schemas={f"k{n}": KindSchemas(input=SCHEMA) for n in range(257)}),
]


@pytest.mark.parametrize(("one", "field"), [*BAD, *BAD_WAITS, *BAD_TOPS])
def test_a_violation_is_named_with_its_field(one: WorkflowDefinition, field: str) -> None:
    with pytest.raises(errors.FieldsInvalid) as refused:
        one.check()
    assert [name for name, _ in refused.value.violations] == [field]


@pytest.mark.parametrize("wait", [TIMER, SignalWait(name="s"), Approval(), CALL], ids=repr)
@pytest.mark.parametrize("field", LEASED)
def test_a_task_that_waits_has_nothing_of_a_lease(wait: Any, field: str) -> None:
    with pytest.raises(errors.FieldsInvalid, match="for tasks that an agent executes") as refused:
        waiting(wait, **LEASED[field]).check()
    assert [name for name, _ in refused.value.violations] == [f"definition.tasks[1].{field}"]


@pytest.mark.parametrize("field", GIVEN)
def test_only_handlers_and_workflows_are_given_something_and_attempted_again(field: str) -> None:
    waiting(CALL, **GIVEN[field]).check()
    for wait in (TIMER, SignalWait(name="s"), EventWait(name="e"), Approval()):
        with pytest.raises(errors.FieldsInvalid) as refused:
            waiting(wait, **GIVEN[field]).check()
        assert [name for name, _ in refused.value.violations] == [f"definition.tasks[1].{field}"]


TAKEN: dict[str, dict[str, Any]] = {
    "a[0]": {"for_each": ForEach(items="run.input")},
    "a[12345]": {"for_each": ForEach(items="run.input")},
    "a~undo": {"compensation": Handler(kind="u")},
}


@pytest.mark.parametrize("key", TAKEN)
def test_no_key_is_one_that_the_coordinator_gives(key: str) -> None:
    flow(task("a"), task(key)).check()
    flow(task("a", **TAKEN[key]), task("other" + key[1:])).check()
    with pytest.raises(errors.FieldsInvalid, match="is the key of") as refused:
        flow(task("a", **TAKEN[key]), task(key)).check()
    assert [name for name, _ in refused.value.violations] == ["definition.tasks[1].key"]


def test_what_follows_a_failure_has_a_key_of_its_own() -> None:
    one = flow(task("~on_failure"))
    one.check()
    with pytest.raises(errors.FieldsInvalid, match="executed after a failure"):
        replace(one, on_failure=Handler(kind="u")).check()


def test_bounds_themselves_are_allowed() -> None:
    one = WorkflowDefinition(
        name="flow",
        tasks=(
            task(
                "k" * 194,
                for_each=ForEach(items="run.input", items_max=10_000, failures_max=-1),
                bindings={"x" * 200: f"'{'x' * 1998}'", **{str(n): "1" for n in range(63)}},
                weight=1000,
                queue_timeout_us=1,
                total_timeout_us=SPAN_MAX,
                placement=Placement(required={str(n): "x" * 255 for n in range(16)}),
                rate=Rate(count=1, per_us=1),
            ),
            WorkflowTask(
                key="asked",
                kind="",
                wait=Approval(
                    question="x" * 1000,
                    quorum=100,
                    approvers=tuple(str(n) for n in range(100)),
                    escalate_after_us=1,
                    escalate_to=("p" * 128,),
                    timeout_us=2,
                ),
            ),
            WorkflowTask(
                key="called",
                kind="",
                wait=SubWorkflow(name="w", until="true", repetitions_max=10_000),
            ),
        ),
        schemas={"work": KindSchemas(input=Payload(b'{"title": "' + b"x" * 65_523 + b'"}'))},
        events=tuple(EventTrigger(name=f"e{number}") for number in range(16)),
        output={str(number): "1" for number in range(64)},
        total_timeout_us=SPAN_MAX,
    )
    one.check()
    assert parse(one.canonical()).digest() == one.digest()


def test_inputs_schemas_and_expressions_together_have_a_limit() -> None:
    full = Payload(b"x" * (1 << 20), "text/plain")
    tasks = [task(f"t{number}", input=full) for number in range(15)]
    undone = Handler(kind="u", input=full)
    flow(*tasks, task("last", compensation=undone)).check()
    with pytest.raises(errors.FieldsInvalid, match="inputs, schemas and expressions") as refused:
        flow(*tasks, task("last", compensation=undone, when="true")).check()
    assert [name for name, _ in refused.value.violations] == ["definition.tasks"]
