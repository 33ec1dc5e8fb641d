"""Workflow definitions: a named graph of tasks, checked once, identified by a digest.

The digest is SHA-256 over the canonical form: JSON with sorted keys, no white space, UTF-8,
defaults written out, durations in whole microseconds, and JSON inputs re-serialised the same way.
What a user's file looked like therefore leaves no trace: YAML, JSON and the builder give the same
digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any

import orjson

from tenure_constitution import dimensions
from tenure_server.core import errors
from tenure_server.core.graph import Graph

TASKS_MAX = 20_000
DEPENDENCIES_MAX = 200_000
PAYLOAD_BYTES_MAX = 1 << 20
INPUTS_BYTES_MAX = 16 << 20
KEY_CHARACTERS_MAX = 200
STATEMENT_CHARACTERS_MAX = 1000
PRIORITY_MAX = 1000
ATTEMPTS_MAX = 100
DAY_US = 86_400_000_000
#: The longest attempt that can be asked for: 366 days.
ATTEMPT_TIMEOUT_MAX_US = 366 * DAY_US

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
JSON_TYPES = frozenset({"", "application/json"})
_KEY = re.compile(rf"\S{{1,{KEY_CHARACTERS_MAX}}}")
_LONG_NUMBER = re.compile(rb"\d{19}")


@dataclass(frozen=True, slots=True)
class Payload:
    """Data that a workflow carries: bytes and their media type, where empty means JSON."""

    data: bytes
    content_type: str = ""

    @property
    def is_json(self) -> bool:
        """Whether the bytes are JSON."""
        return self.content_type in JSON_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What becomes of a failed attempt; see the contract's message of the same name."""

    max_attempts: int = 1
    initial_delay_us: int = 1_000_000
    max_delay_us: int = 60_000_000
    multiplier: float = 2.0
    jitter: float = 0.2
    non_retryable_codes: tuple[str, ...] = ()


NO_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowTask:
    """A node of the graph."""

    key: str
    kind: str
    depends_on: tuple[str, ...] = ()
    input: Payload | None = None
    retry: RetryPolicy = NO_RETRY
    attempt_timeout_us: int | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowDefinition:
    """A graph of tasks as its author declared it. Call `check` before anything else."""

    name: str
    tasks: tuple[WorkflowTask, ...]
    description: str = ""
    #: The most live leases of all its runs together. 0: no such limit.
    max_leases: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    #: What it says of itself: statements by the names of the thirteen dimensions.
    dimensions: dict[str, str] = field(default_factory=dict)

    def check(self) -> Graph:
        """Checks everything that does not need the world around, and gives the graph.

        Raises FieldsInvalid naming every bad field (the first twenty), or GraphInvalid for
        duplicate keys, unknown dependencies and cycles.
        """
        violations = list(_violations(self))
        if violations:
            raise errors.FieldsInvalid(violations[:20])
        return Graph.build([(task.key, task.depends_on) for task in self.tasks])

    def canonical(self) -> bytes:
        """The bytes that the digest is made over and that the store keeps."""
        return orjson.dumps(_as_json(self), option=orjson.OPT_SORT_KEYS)

    def digest(self) -> str:
        """The identity of this definition, such as ``sha256:9f86…``."""
        return digest_of(self.canonical())


def digest_of(canonical: bytes) -> str:
    """The digest of canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def parse(canonical: bytes) -> WorkflowDefinition:
    """Reads a definition back from its canonical bytes."""
    value = orjson.loads(canonical)
    return WorkflowDefinition(
        name=value["name"],
        description=value["description"],
        max_leases=value["max_leases"],
        labels=value["labels"],
        dimensions=value.get("dimensions", {}),
        tasks=tuple(_parse_task(task) for task in value["tasks"]),
    )


def payload_problem(payload: Payload) -> str | None:
    """Says what is wrong with a payload, or None: too large, or JSON that does not parse."""
    if len(payload.data) > PAYLOAD_BYTES_MAX:
        return f"has {len(payload.data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed"
    if len(payload.content_type) > 127:
        return "content_type has more than 127 characters"
    if payload.is_json:
        try:
            orjson.loads(payload.data)
        except orjson.JSONDecodeError as error:
            return f"is not JSON: {error}"
    return None


def input_problem(payload: Payload) -> str | None:
    """Says what is wrong with a task's input, or None.

    It becomes part of the canonical form, so JSON must survive being read and written again.
    """
    problem = payload_problem(payload)
    if problem is not None or not payload.is_json:
        return problem
    try:
        # As deep as it will lie in the canonical form.
        orjson.dumps([[[[orjson.loads(payload.data)]]]])
        if _LONG_NUMBER.search(payload.data):
            json.loads(payload.data, parse_int=_exact)
    except (TypeError, RecursionError):
        return "is nested too deeply"
    except OverflowError as error:
        return str(error)
    return None


def _exact(digits: str) -> int:
    # Longer ones would silently become floats.
    if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 64:
        raise OverflowError("has an integer of more than 64 bits; write it as a string")
    return int(digits)


def _violations(definition: WorkflowDefinition) -> Any:
    if not NAME.fullmatch(definition.name):
        yield "definition.name", "must be letters, digits, '.', '_', '-', at most 128 of them"
    if definition.max_leases < 0:
        yield "definition.max_leases", "must not be negative"
    yield from _dimension_violations(definition.dimensions)
    if not definition.tasks:
        yield "definition.tasks", "is empty"
    if len(definition.tasks) > TASKS_MAX:
        yield "definition.tasks", f"has {len(definition.tasks)} tasks, at most {TASKS_MAX}"
        return
    dependencies = sum(len(task.depends_on) for task in definition.tasks)
    if dependencies > DEPENDENCIES_MAX:
        yield "definition.tasks", f"have {dependencies} dependencies, at most {DEPENDENCIES_MAX}"
        return
    inputs = sum(len(task.input.data) for task in definition.tasks if task.input)
    if inputs > INPUTS_BYTES_MAX:
        yield "definition.tasks", f"have {inputs} bytes of input, at most {INPUTS_BYTES_MAX}"
    for position, task in enumerate(definition.tasks):
        for name, reason in _task_violations(task):
            yield f"definition.tasks[{position}].{name}", reason


def _dimension_violations(declared: dict[str, str]) -> Any:
    for name, statement in declared.items():
        path = f"definition.dimensions[{name!r}]"
        if name not in dimensions.NAMES:
            yield path, "is none of the thirteen dimensions"
        elif not statement.strip():
            yield path, "is empty"
        elif len(statement) > STATEMENT_CHARACTERS_MAX:
            yield path, f"must have at most {STATEMENT_CHARACTERS_MAX} characters"


def _task_violations(task: WorkflowTask) -> Any:
    if not _KEY.fullmatch(task.key) or not task.key.isprintable():
        yield "key", f"must be 1 to {KEY_CHARACTERS_MAX} printable characters without white space"
    if not NAME.fullmatch(task.kind):
        yield "kind", "must be letters, digits, '.', '_', '-', at most 128 of them"
    if abs(task.priority) > PRIORITY_MAX:
        yield "priority", f"must lie between -{PRIORITY_MAX} and {PRIORITY_MAX}"
    timeout = task.attempt_timeout_us
    if timeout is not None and not 1000 <= timeout <= ATTEMPT_TIMEOUT_MAX_US:
        yield "attempt_timeout", "must lie between one millisecond and 366 days"
    if task.input is not None and (problem := input_problem(task.input)):
        yield "input", problem
    if task.retry is NO_RETRY:
        return
    retry = task.retry
    if not 1 <= retry.max_attempts <= ATTEMPTS_MAX:
        yield "retry.max_attempts", f"must lie between 1 and {ATTEMPTS_MAX}"
    if not 0 <= retry.initial_delay_us <= DAY_US:
        yield "retry.initial_delay", "must lie between zero and one day"
    if not 0 <= retry.max_delay_us <= DAY_US:
        yield "retry.max_delay", "must lie between zero and one day"
    if not 1 <= retry.multiplier <= 10:
        yield "retry.multiplier", "must lie between 1 and 10"
    if not 0 <= retry.jitter <= 1:
        yield "retry.jitter", "must lie between 0 and 1"
    if len(retry.non_retryable_codes) > 64:
        yield "retry.non_retryable_codes", "has more than 64 codes"


def _as_json(definition: WorkflowDefinition) -> dict[str, Any]:
    value = {
        "name": definition.name,
        "description": definition.description,
        "max_leases": definition.max_leases,
        "labels": definition.labels,
        "tasks": [_task_as_json(task) for task in definition.tasks],
    }
    # Only where there are any: the digests of older definitions stay what they are.
    if definition.dimensions:
        value["dimensions"] = definition.dimensions
    return value


def _task_as_json(task: WorkflowTask) -> dict[str, Any]:
    value: dict[str, Any] = {
        "key": task.key,
        "kind": task.kind,
        "depends_on": task.depends_on,
        "priority": task.priority,
        "attempt_timeout_us": task.attempt_timeout_us,
    }
    if task.input is not None:
        if task.input.is_json:
            value["input"] = orjson.loads(task.input.data)
        else:
            value["input_base64"] = b64encode(task.input.data).decode()
            value["input_type"] = task.input.content_type
    retry = task.retry
    if retry != NO_RETRY:
        value["retry"] = {
            "max_attempts": retry.max_attempts,
            "initial_delay_us": retry.initial_delay_us,
            "max_delay_us": retry.max_delay_us,
            "multiplier": float(retry.multiplier),
            "jitter": float(retry.jitter),
            "non_retryable_codes": retry.non_retryable_codes,
        }
    return value


def _parse_task(value: dict[str, Any]) -> WorkflowTask:
    task_input = None
    if "input" in value:
        task_input = Payload(orjson.dumps(value["input"], option=orjson.OPT_SORT_KEYS))
    elif "input_base64" in value:
        task_input = Payload(b64decode(value["input_base64"]), value["input_type"])
    retry = NO_RETRY
    if policy := value.get("retry"):
        codes = tuple(policy.pop("non_retryable_codes"))
        retry = RetryPolicy(non_retryable_codes=codes, **policy)
    return WorkflowTask(
        key=value["key"],
        kind=value["kind"],
        depends_on=tuple(value["depends_on"]),
        input=task_input,
        retry=retry,
        attempt_timeout_us=value["attempt_timeout_us"],
        priority=value["priority"],
    )
