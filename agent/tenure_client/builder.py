"""Workflows written in Python.

The third way to a definition, beside YAML and JSON files; all three give the same bytes, because
the files are read into this builder::

    with Workflow("word-count", max_leases=4) as workflow:
        split = workflow.task("split", kind="split-text", input={"path": "corpus.txt"})
        workflow.task("count", kind="count-words", after=[split], retry=Retry(max_attempts=3))
    definition = workflow.definition()
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from google.protobuf import duration_pb2

from tenure.v1 import workflows_pb2
from tenure_client import duration, payload
from tenure_client.graph import DefinitionError, Path, did_you_mean, upstream_of
from tenure_client.payload import ABSENT
from tenure_constitution.dimensions import NAMES as DIMENSIONS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME_RULE = (
    "must be letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128"
)
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What becomes of a failed attempt; what is not given is the coordinator's default.

    Delays are spans of time: seconds as a number, or text such as `500ms`, `2m`.
    """

    max_attempts: int = 0
    initial_delay: duration.Span | None = None
    max_delay: duration.Span | None = None
    multiplier: float = 0.0
    jitter: float | None = None
    non_retryable_codes: Iterable[str] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A task that was declared; hand it to `after` of those that follow."""

    key: str


class Workflow:
    """A workflow under construction.

    Every method raises DefinitionError for what breaks a rule; its path is that of the same thing
    in a workflow file.
    """

    def __init__(
        self,
        name: str,
        *,
        description: str = "",
        max_leases: int = 0,
        labels: Mapping[str, str] | None = None,
        dimensions: Mapping[str, str] | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise DefinitionError(("name",), f"{_NAME_RULE}, is {name!r}")
        if len(description) > 4000:
            raise DefinitionError(("description",), "must have at most 4,000 characters")
        _check_range(("max_leases",), max_leases, 0, _INT32_MAX)
        self._definition = workflows_pb2.WorkflowDefinition(
            name=name, description=description, max_leases=max_leases
        )
        for word, text in _checked_labels(labels or {}):
            self._definition.labels[word] = text
        for word, text in _checked_dimensions(dimensions or {}):
            self._definition.dimensions[word] = text

    def task(
        self,
        key: str,
        *,
        kind: str,
        after: Iterable[Task | str] = (),
        input: Any = ABSENT,  # noqa: A002  the contract's word
        retry: Retry | None = None,
        timeout: duration.Span | None = None,
        priority: int = 0,
    ) -> Task:
        """Declares a task and gives the handle for those that follow.

        `input` is any JSON value; left out, there is none, which differs from None. `timeout`
        bounds one attempt. Tasks named in `after` by key may be declared later.
        """
        path: Path = ("tasks", len(self._definition.tasks))
        if not 1 <= len(key) <= 200 or not key.isprintable() or any(map(str.isspace, key)):
            reason = f"must be 1 to 200 printable characters without white space, is {key!r}"
            raise DefinitionError((*path, "key"), reason)
        if not _NAME.fullmatch(kind):
            raise DefinitionError((*path, "kind"), f"{_NAME_RULE}, is {kind!r}")
        _check_range((*path, "priority"), priority, -1000, 1000)
        try:
            content = payload.encode(input)
        except payload.PayloadError as error:
            raise DefinitionError((*path, "input"), str(error)) from error
        self._definition.tasks.append(
            workflows_pb2.WorkflowTask(
                key=key,
                kind=kind,
                depends_on=[step.key if isinstance(step, Task) else step for step in after],
                input=content,
                retry=None if retry is None else _policy((*path, "retry"), retry),
                attempt_timeout=_span((*path, "attempt_timeout"), timeout),
                priority=priority,
            )
        )
        return Task(key)

    def definition(self) -> workflows_pb2.WorkflowDefinition:
        """Checks the graph and gives a copy of the definition."""
        if not self._definition.tasks:
            raise DefinitionError(("tasks",), "must have at least one task")
        upstream_of([(task.key, task.depends_on) for task in self._definition.tasks])
        definition = workflows_pb2.WorkflowDefinition()
        definition.CopyFrom(self._definition)
        return definition

    def __enter__(self) -> Workflow:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.definition()


def _policy(path: Path, retry: Retry) -> workflows_pb2.RetryPolicy:
    _check_range((*path, "max_attempts"), retry.max_attempts, 0, 100)
    if retry.multiplier != 0:
        _check_range((*path, "multiplier"), retry.multiplier, 1, 10)
    if retry.jitter is not None:
        _check_range((*path, "jitter"), retry.jitter, 0, 1)
    codes = list(retry.non_retryable_codes)
    if len(codes) > 64:
        raise DefinitionError((*path, "non_retryable_codes"), "must have at most 64 codes")
    return workflows_pb2.RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_delay=_span((*path, "initial_delay"), retry.initial_delay),
        max_delay=_span((*path, "max_delay"), retry.max_delay),
        multiplier=retry.multiplier,
        jitter=retry.jitter,
        non_retryable_codes=codes,
    )


def _span(path: Path, span: duration.Span | None) -> duration_pb2.Duration | None:
    if span is None:
        return None
    try:
        return duration.parse(span)
    except duration.DurationError as error:
        raise DefinitionError(path, str(error)) from error


def _check_range(path: Path, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise DefinitionError(path, f"must lie between {low} and {high}, is {value}")


def _checked_labels(labels: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    if len(labels) > 64:
        raise DefinitionError(("labels",), f"must be at most 64, are {len(labels)}")
    for word, text in labels.items():
        if not 1 <= len(word) <= 63:
            raise DefinitionError(("labels",), f"the word {word!r} must have 1 to 63 characters")
        if len(text) > 255:
            raise DefinitionError(("labels", word), "must have at most 255 characters")
        yield word, text


def _checked_dimensions(statements: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for word, text in statements.items():
        path: Path = ("dimensions", word)
        if word not in DIMENSIONS:
            hint = did_you_mean(word, DIMENSIONS)
            raise DefinitionError(path, f"is none of the thirteen dimensions{hint}")
        if not text.strip():
            raise DefinitionError(path, "is empty; leave it out instead")
        if len(text) > 1000:
            raise DefinitionError(path, "must have at most 1,000 characters")
        yield word, text
