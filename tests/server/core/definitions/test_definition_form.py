"""What is declared is part of a definition's identity, and what is not leaves no trace."""

from __future__ import annotations

from typing import Any

import orjson
from tests.server.core.world import flow, task

from tenure_server.core.definitions.declared_texts import Use, expressions
from tenure_server.core.definitions.definition import (
    DAY_US,
    Payload,
    RetryPolicy,
    WorkflowDefinition,
    WorkflowTask,
    parse,
)
from tenure_server.core.definitions.features import (
    Approval,
    Backoff,
    Concurrency,
    EventTrigger,
    EventWait,
    ForEach,
    Handler,
    KindSchemas,
    Placement,
    Rate,
    SignalWait,
    Strategy,
    SubWorkflow,
    Timer,
    TriggerRule,
    Wait,
)

SCHEMA = Payload(b'{"type": "object"}')


def declaring(**fields: Any) -> WorkflowDefinition:
    """A workflow that declares something."""
    return WorkflowDefinition(name="flow", tasks=(task("a"),), **fields)


def waiting(wait: Any, **options: Any) -> WorkflowDefinition:
    """A workflow whose second task waits."""
    return flow(task("a"), WorkflowTask(key="b", kind="", depends_on=("a",), wait=wait, **options))


DIFFERENT: list[dict[str, Any]] = [
    {"bindings": {"x": "run.id"}},
    {"bindings": {"x": "run.input"}},
    {"bindings": {"y": "run.id"}},
    {"when": "true"},
    {"for_each": ForEach(items="run.input")},
    {"for_each": ForEach(items="run.input", parallelism=1)},
    {"for_each": ForEach(items="run.input", failures_max=1)},
    {"for_each": ForEach(items="run.input", items_max=1)},
    {"queue_timeout_us": 1},
    {"total_timeout_us": 1},
    {"heartbeat_timeout_us": 1},
    {"compensation": Handler(kind="u")},
    {"compensation": Handler(kind="u", input=Payload(b"null"))},
    {"compensation": Handler(kind="u", bindings={"x": "output"})},
    {"compensation": Handler(kind="u", retry=RetryPolicy(max_attempts=2))},
    {"compensation": Handler(kind="u", attempt_timeout_us=1000)},
    {"weight": 2},
    {"concurrency": Concurrency(limit=1)},
    {"concurrency": Concurrency(limit=1, key="run.input.k")},
    {"concurrency": Concurrency(limit=1, strategy=Strategy.CANCEL_NEWEST)},
    {"rate": Rate(count=1, per_us=1)},
    {"rate": Rate(count=1, per_us=1, key="run.input.k")},
    {"placement": Placement(required={"x": "y"})},
    {"placement": Placement(preferred={"x": "y"})},
    {"placement": Placement(sticky=True)},
    {"retry": RetryPolicy(max_attempts=2, backoff=Backoff.FIXED)},
    {"retry": RetryPolicy(max_attempts=2, backoff=Backoff.LINEAR)},
    {"retry": RetryPolicy(max_attempts=2, total_timeout_us=1)},
]
DIFFERENT_WAITS: list[Wait] = [
    Timer(delay_us=1),
    Timer(until="run.input"),
    SignalWait(name="s"),
    SignalWait(name="s", timeout_us=1),
    EventWait(name="s"),
    EventWait(name="s", key="run.id"),
    Approval(),
    Approval(quorum=2),
    Approval(approvers=("s",)),
    Approval(escalate_to=("s",), escalate_after_us=1),
    SubWorkflow(name="s"),
    SubWorkflow(name="s", version=1),
    SubWorkflow(name="s", until="true"),
    SubWorkflow(name="s", until="true", repetitions_max=2),
]
DIFFERENT_TOPS: list[dict[str, Any]] = [
    {"input_schema": SCHEMA},
    {"schemas": {"work": KindSchemas(input=SCHEMA)}},
    {"schemas": {"work": KindSchemas(output=SCHEMA)}},
    {"output": {"x": "run.id"}},
    {"total_timeout_us": 1},
    {"on_failure": Handler(kind="u")},
    {"concurrency": Concurrency(limit=1)},
    {"concurrency": Concurrency(limit=1, strategy=Strategy.CANCEL_RUNNING)},
    {"events": (EventTrigger(name="e"),)},
    {"events": (EventTrigger(name="e", when="true"),)},
    {"events": (EventTrigger(name="e", bindings={"x": "event.key"}),)},
]


def test_different_declarations_have_different_digests_and_are_read_back() -> None:
    ones = [
        flow(task("a")),
        *(flow(task("a", **options)) for options in DIFFERENT),
        *(waiting(wait) for wait in DIFFERENT_WAITS),
        *(flow(task("a"), task("b", "a", trigger=rule)) for rule in TriggerRule),
        *(declaring(**fields) for fields in DIFFERENT_TOPS),
    ]
    for one in ones:
        one.check()
        again = parse(one.canonical())
        assert again.canonical() == one.canonical()
        again.check()
    assert len({one.digest() for one in ones}) == len(ones)


def test_what_is_not_declared_leaves_no_trace() -> None:
    plain = {"key", "kind", "depends_on", "priority", "attempt_timeout_us"}
    [value] = orjson.loads(flow(task("a")).canonical())["tasks"]
    assert value.keys() == plain
    for options in DIFFERENT:
        [value] = orjson.loads(flow(task("a", **options)).canonical())["tasks"]
        assert value.keys() - plain == options.keys()


def test_every_expression_is_found_with_its_place_and_use() -> None:
    undo = Handler(kind="u", bindings={"f": "output"})
    one = WorkflowDefinition(
        name="flow",
        tasks=(
            task(
                "a",
                bindings={"f": "run.id"},
                when="true",
                for_each=ForEach(items="run.input"),
                compensation=undo,
                concurrency=Concurrency(limit=1, key="run.input.k"),
                rate=Rate(count=1, per_us=DAY_US, key="run.input.k"),
            ),
            WorkflowTask(key="t", kind="", wait=Timer(until="run.input.t")),
            WorkflowTask(key="e", kind="", wait=EventWait(name="e", key="run.id")),
            WorkflowTask(key="w", kind="", wait=SubWorkflow(name="w", until="output.ok")),
        ),
        output={"f": "run.id"},
        on_failure=undo,
        concurrency=Concurrency(limit=1, key="run.input.k"),
        events=(EventTrigger(name="e", when="true", bindings={"f": "event.key"}),),
    )
    found = {(at.path.removeprefix("definition."), at.use, at.task) for at in expressions(one)}
    assert found == {
        ("tasks[0].bindings['f']", Use.BINDING, 0),
        ("tasks[0].when", Use.WHEN, 0),
        ("tasks[0].for_each.items", Use.ITEMS, 0),
        ("tasks[0].compensation.bindings['f']", Use.UNDO_BINDING, 0),
        ("tasks[0].concurrency.key", Use.TASK_KEY, 0),
        ("tasks[0].rate.key", Use.TASK_KEY, 0),
        ("tasks[1].timer.until", Use.TIME, 1),
        ("tasks[2].event.key", Use.EVENT_KEY, 2),
        ("tasks[3].workflow.until", Use.UNTIL, 3),
        ("output['f']", Use.OUTPUT, None),
        ("on_failure.bindings['f']", Use.FAILURE_BINDING, None),
        ("concurrency.key", Use.RUN_KEY, None),
        ("events[0].when", Use.EVENT_WHEN, None),
        ("events[0].bindings['f']", Use.EVENT_BINDING, None),
    }
