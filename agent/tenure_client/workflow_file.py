"""Workflow files: YAML, JSON and WfCommons traces, read strictly into definitions.

    name: word-count
    tasks:
      - key: split
        kind: split-text
        input: {path: corpus.txt}
      - key: count
        kind: count-words
        depends_on: [split]
        attempt_timeout: 30s
        retry: {max_attempts: 3, initial_delay: 1s}

Whatever the form, the same content gives the same bytes, and so the same digest.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any, TypeVar

from tenure.v1 import workflows_pb2
from tenure_client import builder, declarations, file_declarations, graph, source, wfcommons
from tenure_client.graph import DefinitionError, Path
from tenure_client.tables import Table

T = TypeVar("T")

FILE_BYTES_MAX = 64 * 1024 * 1024
ENDINGS = (".yaml", ".yml", ".json")

_WORKFLOW_KEYS = (
    "name",
    "description",
    "max_leases",
    "labels",
    "dimensions",
    "tasks",
    "input_schema",
    "schemas",
    "output",
    "total_timeout",
    "on_failure",
    "concurrency",
    "events",
)
#: Keys of every task.
_TASK_KEYS = (
    "key",
    "kind",
    "depends_on",
    "input",
    "retry",
    "attempt_timeout",
    "priority",
    "bind",
    "when",
    "trigger",
    "for_each",
    *file_declarations.WAITS,
    "queue_timeout",
    "total_timeout",
    "heartbeat_timeout",
    "compensation",
    "weight",
    "concurrency",
    "rate",
    "placement",
)
#: Keys of tasks that an agent executes, and of no others.
_LEASED_KEYS = (
    "attempt_timeout",
    "queue_timeout",
    "heartbeat_timeout",
    "weight",
    "concurrency",
    "rate",
    "placement",
)


class WorkflowFileError(ValueError):
    """A workflow file cannot be used; the message names file, line, place inside and reason."""

    def __init__(self, file: str, line: int | None, path: Path, reason: str) -> None:
        where = file if line is None else f"{file}:{line}"
        inside = f"{graph.spell(path)}: " if path else ""
        super().__init__(f"{where}: {inside}{reason}")
        self.file = file
        self.line = line
        self.path = graph.spell(path)
        self.reason = reason


def read(
    path: FilePath, *, default_seconds: float | None = None
) -> workflows_pb2.WorkflowDefinition:
    """Reads a workflow file, or a WfCommons trace in its place.

    `default_seconds` is the run time of traced tasks that lack one. Raises WorkflowFileError.
    """

    def build(value: Any) -> workflows_pb2.WorkflowDefinition:
        return _built(value, default_seconds)

    return read_as(path, build, what="a workflow file")


def read_as(path: FilePath, build: Callable[[Any], T], *, what: str) -> T:
    """Reads a file of YAML or JSON, and builds what its value stands for.

    Raises WorkflowFileError with the line for a DefinitionError of `build`.
    """
    name = str(path)
    if path.suffix.lower() not in ENDINGS:
        reason = f"the name of {what} must end in one of {', '.join(ENDINGS)}"
        raise WorkflowFileError(name, None, (), reason)
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise WorkflowFileError(name, None, (), "has more than 64 MiB")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise WorkflowFileError(name, None, (), reason) from error
    except UnicodeDecodeError as error:
        raise WorkflowFileError(name, None, (), "is not UTF-8 text") from error
    return _read_as(text, build, name=name, json=path.suffix.lower() == ".json")


def read_text(
    text: str, *, name: str, json: bool, default_seconds: float | None = None
) -> workflows_pb2.WorkflowDefinition:
    """Reads the text of a workflow file; `name` is the file's, for messages. See `read`."""
    return _read_as(text, lambda value: _built(value, default_seconds), name=name, json=json)


def _built(value: Any, default_seconds: float | None) -> workflows_pb2.WorkflowDefinition:
    if wfcommons.is_trace(value):
        return wfcommons.definition_of(value, default_seconds=default_seconds)
    return definition_of(value)


def _read_as(text: str, build: Callable[[Any], T], *, name: str, json: bool) -> T:
    tree: source.Node | None = None
    try:
        if json:
            value = source.read_json(text)
        else:
            tree = source.read_yaml(text)
            value = source.plain(tree)
        return build(value)
    except source.SourceError as error:
        raise WorkflowFileError(name, error.line, (), error.reason) from error
    except DefinitionError as error:
        line = source.line_of(tree, error.path) if tree else _line_in_json(text, error.path)
        raise WorkflowFileError(name, line, error.path, error.reason) from error


def definition_of(value: Any) -> workflows_pb2.WorkflowDefinition:
    """Turns the plain value of a workflow file into a definition. Raises DefinitionError."""
    table = Table(value, (), _WORKFLOW_KEYS, required=("name", "tasks"))
    workflow = builder.Workflow(
        table.text("name"),
        description=table.text("description"),
        max_leases=table.whole("max_leases"),
        labels=table.words("labels"),
        dimensions=table.words("dimensions"),
        input_schema=table.value("input_schema"),
        schemas=file_declarations.schemas(table),
        output=table.words("output"),
        total_timeout=table.span("total_timeout"),
        on_failure=file_declarations.handler(table, "on_failure"),
        concurrency=file_declarations.concurrency(table),
        events=file_declarations.events(table),
    )
    for item, path in table.items("tasks"):
        _declare(workflow, Table(item, path, _TASK_KEYS, required=("key",)))
    return workflow.definition()


def _declare(workflow: builder.Workflow, table: Table) -> None:
    wait = file_declarations.wait(table)
    if wait is not None:
        _declare_wait(workflow, table, wait)
        return
    if "kind" not in table:
        words = ", ".join(file_declarations.WAITS)
        raise DefinitionError((*table.path, "kind"), f"is missing; or one of {words}")
    workflow.task(
        table.text("key"),
        kind=table.text("kind"),
        after=table.texts("depends_on"),
        input=table.value("input"),
        retry=file_declarations.retry(table),
        timeout=table.span("attempt_timeout"),
        priority=table.whole("priority"),
        bind=table.words("bind"),
        when=table.expression("when"),
        trigger=table.text("trigger"),
        for_each=file_declarations.for_each(table),
        queue_timeout=table.span("queue_timeout"),
        total_timeout=table.span("total_timeout"),
        heartbeat_timeout=table.span("heartbeat_timeout"),
        compensation=file_declarations.handler(table, "compensation"),
        weight=table.whole("weight"),
        concurrency=file_declarations.concurrency(table),
        rate=file_declarations.rate(table),
        placement=file_declarations.placement(table),
    )


def _declare_wait(workflow: builder.Workflow, table: Table, wait: declarations.Wait) -> None:
    for key in _LEASED_KEYS:
        if key in table:
            word = next(word for word in file_declarations.WAITS if word in table)
            reason = f"is for tasks that an agent executes, not beside {word}"
            raise DefinitionError((*table.path, key), reason)
    workflow.wait(
        table.text("key"),
        wait,
        after=table.texts("depends_on"),
        input=table.value("input"),
        bind=table.words("bind"),
        when=table.expression("when"),
        trigger=table.text("trigger"),
        for_each=file_declarations.for_each(table),
        retry=file_declarations.retry(table),
        total_timeout=table.span("total_timeout"),
        compensation=file_declarations.handler(table, "compensation"),
        priority=table.whole("priority"),
    )


def _line_in_json(text: str, path: Path) -> int | None:
    """Finds a line in JSON by reading it as YAML, of which it is nearly always a part."""
    try:
        return source.line_of(source.read_yaml(text), path)
    except source.SourceError:
        return None
