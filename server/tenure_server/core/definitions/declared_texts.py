"""Every expression and every schema of a definition, with its place and what it is for.

One walk for all who look at them: the rules at registration, and those who compile them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tenure_server.core.definitions.declared import Declared, WorkflowTask
from tenure_server.core.definitions.features import EventWait, Handler, SubWorkflow, Timer
from tenure_server.core.definitions.payloads import Payload


class Use(enum.Enum):
    """What an expression is for, which says the names it may use and what it must give."""

    #: A field of a task's input, when it is leased.
    BINDING = enum.auto()
    #: A field of the input of what undoes a task.
    UNDO_BINDING = enum.auto()
    #: A field of the input of `on_failure`.
    FAILURE_BINDING = enum.auto()
    #: Whether a task is executed: a truth value.
    WHEN = enum.auto()
    #: What `for_each` goes over: a list.
    ITEMS = enum.auto()
    #: When a timer ends: a timestamp, text or number.
    TIME = enum.auto()
    #: The key of an event that is waited for: a text.
    EVENT_KEY = enum.auto()
    #: Whether a sub-workflow has been repeated enough: a truth value.
    UNTIL = enum.auto()
    #: A key of tasks, for concurrency and rate: a text.
    TASK_KEY = enum.auto()
    #: A key of runs, for concurrency: a text.
    RUN_KEY = enum.auto()
    #: A field of the run's output.
    OUTPUT = enum.auto()
    #: Whether an event starts a run: a truth value.
    EVENT_WHEN = enum.auto()
    #: A field of the input of a run that an event starts.
    EVENT_BINDING = enum.auto()


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression of a definition."""

    #: Where it stands, such as ``definition.tasks[3].bindings['url']``.
    path: str
    text: str
    use: Use
    #: The number of the task it belongs to; None for one of the whole workflow.
    task: int | None = None


def expressions(declared: Declared) -> Iterator[Expression]:
    """Every expression that is declared, in the order of the definition, also an empty one."""
    for number, task in enumerate(declared.tasks):
        for name, text, use in _of_task(task):
            yield Expression(f"definition.tasks[{number}].{name}", text, use, number)
    top = "definition"
    for name, text, use in _of_fields("output", declared.output, Use.OUTPUT):
        yield Expression(f"{top}.{name}", text, use)
    if declared.on_failure is not None:
        for name, text, use in _of_handler("on_failure", declared.on_failure, Use.FAILURE_BINDING):
            yield Expression(f"{top}.{name}", text, use)
    if declared.concurrency is not None and declared.concurrency.key:
        yield Expression(f"{top}.concurrency.key", declared.concurrency.key, Use.RUN_KEY)
    for number, event in enumerate(declared.events):
        path = f"{top}.events[{number}]"
        if event.when:
            yield Expression(f"{path}.when", event.when, Use.EVENT_WHEN)
        for name, text, use in _of_fields("bindings", event.bindings, Use.EVENT_BINDING):
            yield Expression(f"{path}.{name}", text, use)


def schemas(declared: Declared) -> Iterator[tuple[str, Payload]]:
    """Every JSON Schema that is declared, with its path."""
    if declared.input_schema is not None:
        yield "definition.input_schema", declared.input_schema
    for kind, pair in declared.schemas.items():
        for name, payload in (("input", pair.input), ("output", pair.output)):
            if payload is not None:
                yield f"definition.schemas[{kind!r}].{name}", payload


_Found = Iterator[tuple[str, str, Use]]


def _of_task(task: WorkflowTask) -> _Found:
    if task.bindings:
        yield from _of_fields("bindings", task.bindings, Use.BINDING)
    if task.when:
        yield "when", task.when, Use.WHEN
    if task.for_each is not None:
        yield "for_each.items", task.for_each.items, Use.ITEMS
    if task.wait is not None:
        match task.wait:
            case Timer(until=text) if text:
                yield "timer.until", text, Use.TIME
            case EventWait(key=text) if text:
                yield "event.key", text, Use.EVENT_KEY
            case SubWorkflow(until=text) if text:
                yield "workflow.until", text, Use.UNTIL
    if task.compensation is not None:
        yield from _of_handler("compensation", task.compensation, Use.UNDO_BINDING)
    if task.concurrency is not None and task.concurrency.key:
        yield "concurrency.key", task.concurrency.key, Use.TASK_KEY
    if task.rate is not None and task.rate.key:
        yield "rate.key", task.rate.key, Use.TASK_KEY


def _of_handler(path: str, handler: Handler, use: Use) -> _Found:
    return _of_fields(f"{path}.bindings", handler.bindings, use)


def _of_fields(path: str, fields: Mapping[str, str], use: Use) -> _Found:
    for word, text in fields.items():
        yield f"{path}[{word!r}]", text, use
