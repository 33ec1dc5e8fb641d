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

from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Any

from tenure.v1 import workflows_pb2
from tenure_client import builder, duration, graph, source, wfcommons
from tenure_client.graph import DefinitionError, Path
from tenure_client.payload import ABSENT

FILE_BYTES_MAX = 64 * 1024 * 1024
ENDINGS = (".yaml", ".yml", ".json")

_WORKFLOW_KEYS = ("name", "description", "max_leases", "labels", "dimensions", "tasks")
_TASK_KEYS = ("key", "kind", "depends_on", "input", "retry", "attempt_timeout", "priority")
_RETRY_KEYS = (
    "max_attempts",
    "initial_delay",
    "max_delay",
    "multiplier",
    "jitter",
    "non_retryable_codes",
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
    name = str(path)
    if path.suffix.lower() not in ENDINGS:
        reason = f"the name of a workflow file must end in one of {', '.join(ENDINGS)}"
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
    return read_text(
        text, name=name, json=path.suffix.lower() == ".json", default_seconds=default_seconds
    )


def read_text(
    text: str, *, name: str, json: bool, default_seconds: float | None = None
) -> workflows_pb2.WorkflowDefinition:
    """Reads the text of a workflow file; `name` is the file's, for messages. See `read`."""
    tree: source.Node | None = None
    try:
        if json:
            value = source.read_json(text)
        else:
            tree = source.read_yaml(text)
            value = source.plain(tree)
        if wfcommons.is_trace(value):
            return wfcommons.definition_of(value, default_seconds=default_seconds)
        return definition_of(value)
    except source.SourceError as error:
        raise WorkflowFileError(name, error.line, (), error.reason) from error
    except DefinitionError as error:
        line = source.line_of(tree, error.path) if tree else _line_in_json(text, error.path)
        raise WorkflowFileError(name, line, error.path, error.reason) from error


def definition_of(value: Any) -> workflows_pb2.WorkflowDefinition:
    """Turns the plain value of a workflow file into a definition. Raises DefinitionError."""
    table = _table(value, (), _WORKFLOW_KEYS, required=("name", "tasks"))
    workflow = builder.Workflow(
        _text(table["name"], ("name",)),
        description=_text(table.get("description", ""), ("description",)),
        max_leases=_whole(table.get("max_leases", 0), ("max_leases",)),
        labels=_words(table.get("labels", {}), "labels"),
        dimensions=_words(table.get("dimensions", {}), "dimensions"),
    )
    for number, item in enumerate(_list(table["tasks"], ("tasks",))):
        _declare(workflow, item, ("tasks", number))
    return workflow.definition()


def _declare(workflow: builder.Workflow, item: Any, path: Path) -> None:
    table = _table(item, path, _TASK_KEYS, required=("key", "kind"))
    retry = table.get("retry", ABSENT)
    workflow.task(
        _text(table["key"], (*path, "key")),
        kind=_text(table["kind"], (*path, "kind")),
        after=_texts(table.get("depends_on", []), (*path, "depends_on")),
        input=table.get("input", ABSENT),
        retry=None if retry is ABSENT else _retry(retry, (*path, "retry")),
        timeout=_span(table, "attempt_timeout", path),
        priority=_whole(table.get("priority", 0), (*path, "priority")),
    )


def _retry(value: Any, path: Path) -> builder.Retry:
    table = _table(value, path, _RETRY_KEYS)
    jitter = table.get("jitter", ABSENT)
    codes = table.get("non_retryable_codes", [])
    return builder.Retry(
        max_attempts=_whole(table.get("max_attempts", 0), (*path, "max_attempts")),
        initial_delay=_span(table, "initial_delay", path),
        max_delay=_span(table, "max_delay", path),
        multiplier=_number(table.get("multiplier", 0), (*path, "multiplier")),
        jitter=None if jitter is ABSENT else _number(jitter, (*path, "jitter")),
        non_retryable_codes=_texts(codes, (*path, "non_retryable_codes")),
    )


def _table(
    value: Any, path: Path, keys: Iterable[str], *, required: Iterable[str] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DefinitionError(path, f"must be a table of keys and values, {_is(value)}")
    for key in value:
        if key not in keys:
            hint = graph.did_you_mean(key, keys)
            raise DefinitionError((*path, key), f"is not a key that is known here{hint}")
    for key in required:
        if key not in value:
            raise DefinitionError((*path, key), "is missing")
    return value


def _span(table: dict[str, Any], key: str, path: Path) -> duration.Span | None:
    if key not in table:
        return None
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        reason = f"must be a span of time such as 500ms, 30s, 2m or 1h30m, {_is(value)}"
        raise DefinitionError((*path, key), reason)
    return value


def _words(value: Any, key: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise DefinitionError((key,), f"must be a table of words and texts, {_is(value)}")
    return {word: _text(text, (key, word)) for word, text in value.items()}


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise DefinitionError(path, f"must be a list, {_is(value)}")
    return value


def _texts(value: Any, path: Path) -> list[str]:
    return [_text(item, (*path, number)) for number, item in enumerate(_list(value, path))]


def _text(value: Any, path: Path) -> str:
    if not isinstance(value, str):
        raise DefinitionError(path, f"must be text, {_is(value)}")
    return value


def _whole(value: Any, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DefinitionError(path, f"must be a whole number, {_is(value)}")
    return value


def _number(value: Any, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DefinitionError(path, f"must be a number, {_is(value)}")
    return value


def _is(value: Any) -> str:
    """Says what a value is instead, in the words of a file and not of Python."""
    match value:
        case None:
            return "is empty"
        case bool():
            return f"is {str(value).lower()}"
        case int() | float():
            return f"is the number {value}"
        case str():
            return f"is the text {value[:60]!r}"
        case list():
            return "is a list"
        case _:
            return "is a table"


def _line_in_json(text: str, path: Path) -> int | None:
    """Finds a line in JSON by reading it as YAML, of which it is nearly always a part."""
    try:
        return source.line_of(source.read_yaml(text), path)
    except source.SourceError:
        return None
