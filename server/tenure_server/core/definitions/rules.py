"""What may be wrong with a definition, as far as it can be told without the world around it.

The graph itself, its keys, dependencies and cycles, is checked by `graph`. A violation is a pair of
path and reason, such as ``("definition.tasks[3].for_each.items", "is empty")``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from tenure_constitution import dimensions
from tenure_server.core.definitions import feature_rules as rules
from tenure_server.core.definitions.declared import (
    ON_FAILURE_KEY,
    WAIT_WORDS,
    Declared,
    WorkflowTask,
    item_key,
    undo_key,
)
from tenure_server.core.definitions.declared_texts import expressions, schemas
from tenure_server.core.definitions.feature_rules import NAME, NAME_RULE, Violations, under
from tenure_server.core.definitions.features import ITEMS_MAX, NO_RETRY, SubWorkflow, TriggerRule
from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.definitions.schemas import check_schemas

TASKS_MAX = 20_000
DEPENDENCIES_MAX = 200_000
#: Of all inputs, schemas and expressions together.
CONTENT_BYTES_MAX = 16 << 20
KEY_CHARACTERS_MAX = 200
STATEMENT_CHARACTERS_MAX = 1000
PRIORITY_MAX = 1000
WEIGHT_MAX = 1000
EXPRESSION_CHARACTERS_MAX = 2000
OUTPUT_FIELDS_MAX = 64
EVENTS_MAX = 16
KINDS_WITH_SCHEMAS_MAX = 256
#: The longest attempt that can be asked for: 366 days.
ATTEMPT_TIMEOUT_MAX_US = rules.SPAN_MAX_US

_KEY = re.compile(rf"\S{{1,{KEY_CHARACTERS_MAX}}}")
#: What no key may have that other keys are made from.
_MARKS = re.compile(r"[\[\]~]")
_ITEM = re.compile(r"(.*)\[[0-9]+\]")
_UNDO = undo_key("")


def first_violations(declared: Declared, most: int) -> list[tuple[str, str]]:
    """The first things that are wrong; none when everything is as it should be."""
    return list(islice(_violations(declared), most))


def _violations(declared: Declared) -> Violations:
    if not NAME.fullmatch(declared.name):
        yield "definition.name", NAME_RULE
    if declared.max_leases < 0:
        yield "definition.max_leases", "must not be negative"
    if declared.max_leases > 0:
        for number, task in enumerate(declared.tasks):
            if declared.max_leases < task.weight <= WEIGHT_MAX:
                field = f"definition.tasks[{number}].weight"
                yield field, f"is more than the workflow's max_leases, {declared.max_leases}"
    yield from _dimension_violations(declared.dimensions)
    yield from under("definition", _workflow_violations(declared))
    if not declared.tasks:
        yield "definition.tasks", "is empty"
    if len(declared.tasks) > TASKS_MAX:
        yield "definition.tasks", f"has {len(declared.tasks)} tasks, at most {TASKS_MAX}"
        return
    dependencies = sum(len(task.depends_on) for task in declared.tasks)
    if dependencies > DEPENDENCIES_MAX:
        yield "definition.tasks", f"have {dependencies} dependencies, at most {DEPENDENCIES_MAX}"
        return
    size = _content_bytes(declared)
    if size > CONTENT_BYTES_MAX:
        reason = f"have {size} bytes of inputs, schemas and expressions"
        yield "definition.tasks", f"{reason}, at most {CONTENT_BYTES_MAX}"
    for position, task in enumerate(declared.tasks):
        yield from under(f"definition.tasks[{position}]", _task_violations(task))
    yield from _key_violations(declared)
    yield from _expression_violations(declared)
    yield from _schema_violations(declared)


# -- expressions and schemas


def _expression_violations(declared: Declared) -> Violations:
    """The one place where expressions are judged."""
    for expression in expressions(declared):
        if not expression.text.strip():
            yield expression.path, "is empty"
        elif len(expression.text) > EXPRESSION_CHARACTERS_MAX:
            yield expression.path, f"must have at most {EXPRESSION_CHARACTERS_MAX} characters"


def _schema_violations(declared: Declared) -> Violations:
    """The one place where schemas are judged."""
    fit: list[tuple[str, Payload]] = []
    for path, payload in schemas(declared):
        if problem := rules.schema(payload):
            yield path, problem
        else:
            fit.append((path, payload))
    yield from check_schemas(fit)


# -- the whole workflow


def _dimension_violations(declared: dict[str, str]) -> Violations:
    for name, statement in declared.items():
        path = f"definition.dimensions[{name!r}]"
        if name not in dimensions.NAMES:
            yield path, "is none of the thirteen dimensions"
        elif not statement.strip():
            yield path, "is empty"
        elif len(statement) > STATEMENT_CHARACTERS_MAX:
            yield path, f"must have at most {STATEMENT_CHARACTERS_MAX} characters"


def _workflow_violations(declared: Declared) -> Violations:
    yield from rules.span("total_timeout", declared.total_timeout_us)
    if declared.on_failure is not None:
        because = "as `failed` is added to it"
        yield from under("on_failure", rules.handler(declared.on_failure, object_because=because))
    if declared.concurrency is not None:
        yield from under("concurrency", rules.concurrency(declared.concurrency))
    if declared.output:
        yield from rules.fields("output", declared.output)
    if len(declared.events) > EVENTS_MAX:
        yield "events", f"has {len(declared.events)} events, at most {EVENTS_MAX}"
    for number, event in enumerate(declared.events):
        yield from under(f"events[{number}]", rules.event_trigger(event))
    if declared.schemas:
        yield from _kind_violations(declared)


def _kind_violations(declared: Declared) -> Violations:
    if len(declared.schemas) > KINDS_WITH_SCHEMAS_MAX:
        yield "schemas", f"has {len(declared.schemas)} kinds, at most {KINDS_WITH_SCHEMAS_MAX}"
        return
    known = kinds(declared)
    for kind, pair in declared.schemas.items():
        if kind not in known:
            yield f"schemas[{kind!r}]", "is of a kind that nothing in the workflow has"
        elif pair.input is None and pair.output is None:
            yield f"schemas[{kind!r}]", "has neither input nor output"


def kinds(declared: Declared) -> set[str]:
    """The handlers that its runs need, those beside the graph included."""
    found = {task.kind for task in declared.tasks if task.kind}
    found |= {task.compensation.kind for task in declared.tasks if task.compensation is not None}
    if declared.on_failure is not None:
        found.add(declared.on_failure.kind)
    return found


def _content_bytes(declared: Declared) -> int:
    size = sum(len(payload.data) for payload in _payloads(declared))
    return size + sum(len(expression.text) for expression in expressions(declared))


def _payloads(declared: Declared) -> Iterator[Payload]:
    for task in declared.tasks:
        if task.input is not None:
            yield task.input
        if task.compensation is not None and task.compensation.input is not None:
            yield task.compensation.input
    if declared.on_failure is not None and declared.on_failure.input is not None:
        yield declared.on_failure.input
    for _, payload in schemas(declared):
        yield payload


# -- tasks


def _task_violations(task: WorkflowTask) -> Violations:
    if not _KEY.fullmatch(task.key) or not task.key.isprintable():
        yield "key", f"must be 1 to {KEY_CHARACTERS_MAX} printable characters without white space"
    if task.wait is not None:
        yield from _waiting_violations(task)
    elif not NAME.fullmatch(task.kind):
        yield "kind", NAME_RULE if task.kind else _NEITHER
    if abs(task.priority) > PRIORITY_MAX:
        yield "priority", f"must lie between -{PRIORITY_MAX} and {PRIORITY_MAX}"
    yield from rules.attempt_timeout(task.attempt_timeout_us)
    if task.input is not None:
        yield from rules.given(task.input, object_because=_object_because(task))
    if task.retry is not NO_RETRY:
        yield from under("retry", rules.retry(task.retry))
    if task.trigger is not TriggerRule.ALL_SUCCEEDED and not task.depends_on:
        yield "trigger", "needs depends_on, as it asks how what came before has ended"
    if not 1 <= task.weight <= WEIGHT_MAX:
        yield "weight", f"must lie between 1 and {WEIGHT_MAX}"
    yield from _part_violations(task)


_NEITHER = (
    "must be the name of a handler, of letters, digits, '.', '_', '-', at most 128; "
    f"or one of {', '.join(WAIT_WORDS.values())} must be set"
)


def _object_because(task: WorkflowTask) -> str:
    if task.bindings:
        return "as fields of it are bound"
    if isinstance(task.wait, SubWorkflow) and task.wait.until:
        return "as `previous` is added to it"
    return ""


def _part_violations(task: WorkflowTask) -> Violations:
    """What is wrong with what only some tasks have."""
    if task.bindings:
        yield from rules.fields("bindings", task.bindings)
    if task.for_each is not None:
        yield from under("for_each", rules.for_each(task.for_each))
    yield from rules.span("queue_timeout", task.queue_timeout_us)
    yield from rules.span("total_timeout", task.total_timeout_us)
    yield from rules.span("heartbeat_timeout", task.heartbeat_timeout_us)
    if task.compensation is not None:
        yield from under("compensation", rules.handler(task.compensation))
    if task.concurrency is not None:
        yield from under("concurrency", rules.concurrency(task.concurrency))
    if task.rate is not None:
        yield from under("rate", rules.rate(task.rate))
    if task.placement is not None:
        yield from under("placement", rules.placement(task.placement))


def _waiting_violations(task: WorkflowTask) -> Violations:
    """A task that waits is never leased; only a run of another workflow is attempted again."""
    wait = task.wait
    assert wait is not None
    word = WAIT_WORDS[type(wait)]
    if task.kind:
        yield "kind", f"must be empty beside {word}"
    for name, declared in (
        ("attempt_timeout", task.attempt_timeout_us is not None),
        ("queue_timeout", task.queue_timeout_us is not None),
        ("heartbeat_timeout", task.heartbeat_timeout_us is not None),
        ("weight", task.weight != 1),
        ("concurrency", task.concurrency is not None),
        ("rate", task.rate is not None),
        ("placement", task.placement is not None),
    ):
        if declared:
            yield name, f"is for tasks that an agent executes, not beside {word}"
    if not isinstance(wait, SubWorkflow):
        for name, declared in (
            ("input", task.input is not None),
            ("bindings", bool(task.bindings)),
            ("for_each", task.for_each is not None),
            ("retry", task.retry != NO_RETRY),
        ):
            if declared:
                yield name, f"is for handlers and workflows, not beside {word}"
    yield from under(word, rules.wait(wait))


# -- keys that are made from others


def _key_violations(declared: Declared) -> Violations:
    """Tasks beside the graph have keys too, such as KEY[0] and KEY~undo; none may come twice."""
    repeated = {task.key for task in declared.tasks if task.for_each is not None}
    undone = {task.key for task in declared.tasks if task.compensation is not None}
    if not repeated and not undone and declared.on_failure is None:
        return
    for number, task in enumerate(declared.tasks):
        path = f"definition.tasks[{number}].key"
        for reason in _unfit(task):
            yield path, reason
        item = _ITEM.fullmatch(task.key)
        if item is not None and item[1] in repeated:
            yield path, f"is the key of an item of task {item[1]!r}"
        elif task.key.endswith(_UNDO) and task.key.removesuffix(_UNDO) in undone:
            yield path, f"is the key of what undoes task {task.key.removesuffix(_UNDO)!r}"
        elif task.key == ON_FAILURE_KEY and declared.on_failure is not None:
            yield path, "is the key of what is executed after a failure"


def _unfit(task: WorkflowTask) -> Iterator[str]:
    added = 0
    if task.for_each is not None:
        added = len(item_key("", ITEMS_MAX - 1))
    if task.compensation is not None:
        added += len(_UNDO)
    if added and _MARKS.search(task.key):
        yield "must be without '[', ']' and '~' beside for_each or compensation"
    if added and KEY_CHARACTERS_MAX - added < len(task.key) <= KEY_CHARACTERS_MAX:
        most = KEY_CHARACTERS_MAX - added
        yield f"must have at most {most} characters beside for_each or compensation"
