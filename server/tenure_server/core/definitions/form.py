"""The canonical form of a definition: the JSON that its digest is made over, there and back.

Sorted keys, no white space, UTF-8, durations in whole microseconds, JSON inputs written again the
same way. What a user's file looked like therefore leaves no trace: YAML, JSON and the builder give
the same digest.

What the first release could declare is always there, with its defaults; whatever came later is
there only where it was declared, and of its fields only those that differ from their defaults. So
a definition that does not use it keeps the digest it had. `tenure_client.canonical` makes the same
bytes from the contract's messages.
"""

from __future__ import annotations

import enum
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import Any

import orjson

from tenure_server.core.definitions.declared import WAIT_WORDS, Declared, WorkflowTask
from tenure_server.core.definitions.features import (
    NO_RETRY,
    Approval,
    Backoff,
    Concurrency,
    EventTrigger,
    ForEach,
    Handler,
    KindSchemas,
    Placement,
    Rate,
    RetryPolicy,
    Strategy,
    TriggerRule,
    Wait,
)
from tenure_server.core.definitions.payloads import Payload

#: Fields of a task that are taken over as they are, where they differ from their defaults.
_TASK_FIELDS = (
    "bindings",
    "when",
    "trigger",
    "for_each",
    "queue_timeout_us",
    "total_timeout_us",
    "heartbeat_timeout_us",
    "compensation",
    "weight",
    "concurrency",
    "rate",
    "placement",
)
#: Likewise of a definition.
_DEFINITION_FIELDS = (
    "dimensions",
    "input_schema",
    "schemas",
    "output",
    "total_timeout_us",
    "on_failure",
    "concurrency",
    "events",
)


def write(declared: Declared) -> bytes:
    """Gives the canonical bytes."""
    value = {
        "name": declared.name,
        "description": declared.description,
        "max_leases": declared.max_leases,
        "labels": declared.labels,
        "tasks": [_task(task) for task in declared.tasks],
    }
    value |= _differing(declared, _DEFINITION_FIELDS)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def read(canonical: bytes) -> dict[str, Any]:
    """Reads canonical bytes back: the fields of `Declared`, by name."""
    value = orjson.loads(canonical)
    found = {
        "name": value["name"],
        "description": value["description"],
        "max_leases": value["max_leases"],
        "labels": value["labels"],
        "tasks": tuple(map(_read_task, value["tasks"])),
        "input_schema": _read_payload("input_schema", value),
    }
    for name in ("dimensions", "output", "total_timeout_us"):
        if name in value:
            found[name] = value[name]
    if schemas := value.get("schemas"):
        found["schemas"] = {kind: _read_schemas(pair) for kind, pair in schemas.items()}
    if "on_failure" in value:
        found["on_failure"] = _read_handler(value["on_failure"])
    if "concurrency" in value:
        found["concurrency"] = _read_concurrency(value["concurrency"])
    if "events" in value:
        found["events"] = tuple(EventTrigger(**event) for event in value["events"])
    return found


# -- writing


def _task(task: WorkflowTask) -> dict[str, Any]:
    value: dict[str, Any] = {
        "key": task.key,
        "kind": task.kind,
        "depends_on": task.depends_on,
        "priority": task.priority,
        "attempt_timeout_us": task.attempt_timeout_us,
    }
    if task.input is not None:
        value |= _payload("input", task.input)
    if task.retry != NO_RETRY:
        value["retry"] = _retry(task.retry)
    if task.wait is not None:
        value[WAIT_WORDS[type(task.wait)]] = _feature(task.wait)
    value |= _differing(task, _TASK_FIELDS)
    return value


def _retry(retry: RetryPolicy) -> dict[str, Any]:
    value: dict[str, Any] = {
        "max_attempts": retry.max_attempts,
        "initial_delay_us": retry.initial_delay_us,
        "max_delay_us": retry.max_delay_us,
        "multiplier": float(retry.multiplier),
        "jitter": float(retry.jitter),
        "non_retryable_codes": retry.non_retryable_codes,
    }
    return value | _differing(retry, ("backoff", "total_timeout_us"))


def _payload(name: str, payload: Payload) -> dict[str, Any]:
    if payload.is_json:
        return {name: orjson.loads(payload.data)}
    data = b64encode(payload.data).decode()
    return {f"{name}_base64": data, f"{name}_type": payload.content_type}


def _feature(value: Any) -> dict[str, Any]:
    """The fields of a value that have no default or differ from it."""
    kind: Any = type(value)
    return _differing(value, tuple(_defaults(kind)))


def _differing(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    kind: Any = type(value)
    defaults = _defaults(kind)
    found: dict[str, Any] = {}
    for name in names:
        content = getattr(value, name)
        if content == defaults[name]:
            continue
        if isinstance(content, Payload):
            found |= _payload(name, content)
        else:
            found[name] = _plain(content)
    return found


def _plain(content: Any) -> Any:
    match content:
        case enum.IntEnum():
            return content.name.lower()
        case bool() | int() | str() | None:
            return content
        case tuple():
            return [_plain(item) for item in content]
        case Mapping():
            return {name: _plain(item) for name, item in content.items()}
        case RetryPolicy():
            return _retry(content)
        case _:
            return _feature(content)


@lru_cache(maxsize=100)
def _defaults(kind: type) -> dict[str, Any]:
    """The default of each field of a dataclass; MISSING for a field without one."""
    found = {}
    for item in fields(kind):
        made = item.default
        if made is MISSING and item.default_factory is not MISSING:
            made = item.default_factory()
        found[item.name] = made
    return found


# -- reading


def _read_task(value: dict[str, Any]) -> WorkflowTask:
    found: dict[str, Any] = {
        "key": value["key"],
        "kind": value["kind"],
        "depends_on": tuple(value["depends_on"]),
        "input": _read_payload("input", value),
        "attempt_timeout_us": value["attempt_timeout_us"],
        "priority": value["priority"],
    }
    for name in _TASK_FIELDS:
        if name in value:
            reader = _READERS.get(name)
            found[name] = value[name] if reader is None else reader(value[name])
    if "retry" in value:
        found["retry"] = _read_retry(value["retry"])
    for kind, word in WAIT_WORDS.items():
        if word in value:
            found["wait"] = _read_wait(kind, value[word])
    return WorkflowTask(**found)


def _read_wait(kind: type[Wait], value: dict[str, Any]) -> Wait:
    if kind is Approval:
        for name in ("approvers", "escalate_to"):
            value[name] = tuple(value.get(name, ()))
    return kind(**value)


def _read_retry(value: dict[str, Any]) -> RetryPolicy:
    value["non_retryable_codes"] = tuple(value["non_retryable_codes"])
    if "backoff" in value:
        value["backoff"] = Backoff[value["backoff"].upper()]
    return RetryPolicy(**value)


def _read_handler(value: dict[str, Any]) -> Handler:
    names = ("kind", "bindings", "attempt_timeout_us")
    found: dict[str, Any] = {name: value[name] for name in names if name in value}
    if "retry" in value:
        found["retry"] = _read_retry(value["retry"])
    return Handler(input=_read_payload("input", value), **found)


def _read_concurrency(value: dict[str, Any]) -> Concurrency:
    if "strategy" in value:
        value["strategy"] = Strategy[value["strategy"].upper()]
    return Concurrency(**value)


def _read_schemas(value: dict[str, Any]) -> KindSchemas:
    return KindSchemas(input=_read_payload("input", value), output=_read_payload("output", value))


def _read_payload(name: str, value: dict[str, Any]) -> Payload | None:
    if name in value:
        return Payload(orjson.dumps(value[name], option=orjson.OPT_SORT_KEYS))
    if f"{name}_base64" in value:
        return Payload(b64decode(value[f"{name}_base64"]), value[f"{name}_type"])
    return None


_READERS: Mapping[str, Any] = {
    "trigger": lambda value: TriggerRule[value.upper()],
    "for_each": lambda value: ForEach(**value),
    "compensation": _read_handler,
    "concurrency": _read_concurrency,
    "rate": lambda value: Rate(**value),
    "placement": lambda value: Placement(**value),
}
