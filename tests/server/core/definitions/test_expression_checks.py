"""Expressions are judged when a definition is registered: names, order of the graph, results."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import flow, task

from tenure_server.core import errors
from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.expression_checks import COMPILED_MAX
from tenure_server.core.definitions.features import (
    Concurrency,
    EventTrigger,
    EventWait,
    ForEach,
    Handler,
    Rate,
    SubWorkflow,
    Timer,
)


def violations(definition: WorkflowDefinition) -> list[tuple[str, str]]:
    try:
        definition.check()
    except errors.FieldsInvalid as refused:
        return list(refused.violations)
    return []


def with_task(**options: Any) -> WorkflowDefinition:
    """`last` after `middle` after `first`; `beside` before nothing."""
    return flow(
        task("first"),
        task("beside"),
        task("middle", "first"),
        task("last", "middle", **options),
    )


def waiting(wait: Any) -> WorkflowDefinition:
    return with_task(kind="", wait=wait)


HANDLER = "definition.tasks[3]"
GOOD = [
    with_task(bindings={"x": "tasks.middle.output.y", "n": "attempt", "id": "run.id"}),
    with_task(bindings={"x": "tasks.first.state + run.labels.team"}),
    with_task(bindings={"x": "item.y", "n": "index"}, for_each=ForEach(items="run.input.list")),
    with_task(when="has(tasks.first.output.x) && run.input.y"),
    with_task(for_each=ForEach(items="tasks.middle.output.files.filter(f, f.size > 1)")),
    waiting(Timer(until="tasks.middle.output.at")),
    waiting(Timer(until="timestamp(run.input.at) + duration('1h')")),
    waiting(Timer(until="1777636800 + 5")),
    waiting(EventWait(name="paid", key="'order-' + run.id")),
    waiting(SubWorkflow(name="sub", until="output.done || iteration > 3", repetitions_max=9)),
    with_task(concurrency=Concurrency(limit=1, key="run.labels.team")),
    with_task(rate=Rate(count=1, per_us=1_000_000, key="string(run.input.n)")),
    with_task(compensation=Handler(kind="undo", bindings={"x": "output.id", "n": "attempt"})),
]


@pytest.mark.parametrize("definition", GOOD, ids=range(len(GOOD)))
def test_what_looks_at_what_there_is_may_be_registered(definition: WorkflowDefinition) -> None:
    assert violations(definition) == []


def test_what_belongs_to_the_whole_workflow_may_look_at_all_tasks() -> None:
    definition = WorkflowDefinition(
        name="flow",
        tasks=(task("a"), task("b")),
        output={"a": "tasks.a.output", "b": "tasks.b.state", "c": "run.input"},
        on_failure=Handler(
            kind="tell",
            bindings={"x": "tasks.b.state", "f": "failed.map(f, f.code)", "why": "run.reason"},
        ),
        concurrency=Concurrency(limit=1, key="run.input.customer"),
        events=(
            EventTrigger(name="paid", when="event.payload.sum > 3", bindings={"k": "event.key"}),
        ),
    )
    assert violations(definition) == []


BAD = [
    (with_task(bindings={"x": "1 +"}), "bindings['x']", "Syntax error"),
    (with_task(bindings={"x": "runn.input"}), "bindings['x']", "'runn' is not known here"),
    (with_task(bindings={"x": "tasks.gone.output"}), "bindings['x']", "there is no task 'gone'"),
    (
        with_task(bindings={"x": "tasks.beside.output.y"}),
        "bindings['x']",
        "task 'last' does not depend on 'beside'",
    ),
    (with_task(bindings={"x": "tasks.last.output"}), "bindings['x']", "does not depend on 'last'"),
    (with_task(bindings={"x": "item"}), "bindings['x']", "only to tasks with for_each"),
    (with_task(bindings={"x": "output"}), "bindings['x']", "output is not known here; known are"),
    (with_task(bindings={"x": "failed[0].code"}), "bindings['x']", "failed is not known here"),
    (with_task(bindings={"x": "run.reason"}), "bindings['x']", "run.reason is not known here"),
    (with_task(when="attempt > 1"), "when", "attempt is not known here"),
    (with_task(when="run.id"), "when", "must come out as true or false, not as text"),
    (with_task(when="1 + 1"), "when", "must come out as true or false, not as an integer"),
    (with_task(for_each=ForEach(items="run.id")), "for_each.items", "must come out as a list"),
    (with_task(for_each=ForEach(items="item")), "for_each.items", "item is not known here"),
    (waiting(Timer(until="true")), "timer.until", "must come out as a time"),
    (waiting(Timer(until="[1]")), "timer.until", "must come out as a time"),
    (waiting(EventWait(name="paid", key="1")), "event.key", "must come out as text"),
    (
        waiting(SubWorkflow(name="s", until="run.input.x", repetitions_max=2)),
        "workflow.until",
        "run.input is not known here; known are iteration, output",
    ),
    (
        with_task(concurrency=Concurrency(limit=1, key="tasks.first.output")),
        "concurrency.key",
        "tasks.first.output is not known here",
    ),
    (
        with_task(rate=Rate(count=1, per_us=1_000_000, key="1.5")),
        "rate.key",
        "must come out as text, not as a number",
    ),
    (
        with_task(compensation=Handler(kind="undo", bindings={"x": "tasks.beside.output"})),
        "compensation.bindings['x']",
        "does not depend on 'beside'",
    ),
]


@pytest.mark.parametrize(("definition", "field", "reason"), BAD, ids=range(len(BAD)))
def test_what_does_not_is_refused_by_field(
    definition: WorkflowDefinition, field: str, reason: str
) -> None:
    found = violations(definition)
    assert [path for path, _ in found] == [f"{HANDLER}.{field}"]
    assert reason in found[0][1]


def test_events_see_only_themselves() -> None:
    definition = WorkflowDefinition(
        name="flow",
        tasks=(task("a"),),
        events=(EventTrigger(name="paid", when="run.id == ''", bindings={"x": "tasks.a.output"}),),
    )
    assert [path for path, _ in violations(definition)] == [
        "definition.events[0].when",
        "definition.events[0].bindings['x']",
    ]


def test_order_is_told_over_long_chains_too() -> None:
    tasks = [task("t0", bindings={"x": "tasks.t1.output"})]
    tasks += [task(f"t{n}", f"t{n - 1}") for n in range(1, 3000)]
    tasks.append(task("end", "t2999", bindings={"x": "tasks.t0.output", "y": "tasks.t1500.output"}))
    found = violations(flow(*tasks))
    assert found == [
        (
            "definition.tasks[0].bindings['x']",
            "task 't0' does not depend on 't1', so it has nothing of it to look at",
        )
    ]


def test_there_is_an_end_to_different_expressions_but_not_to_paths_and_repetitions() -> None:
    same = [
        task(f"t{n}", bindings={"x": "attempt + 1", "y": f"run.input.a{n}"})
        for n in range(COMPILED_MAX + 10)
    ]
    assert violations(flow(*same)) == []
    fields = {f"f{n}": "run.input.x" for n in range(51)}
    found = violations(flow(*(task(f"t{n}", bindings=fields) for n in range(2000))))
    assert found == [
        (
            "definition.tasks[1960].bindings['f40']",
            "is one too many: at most 100000 are allowed",
        )
    ]
    many = [task(f"t{n}", bindings={"x": f"attempt + {n}"}) for n in range(COMPILED_MAX + 10)]
    found = violations(flow(*many))
    assert found == [
        (
            f"definition.tasks[{COMPILED_MAX}].bindings['x']",
            "is one too many: at most 1000 different ones are allowed",
        )
    ]
