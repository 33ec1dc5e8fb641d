"""The canonical form of a definition: what its digest is made over, made here without a server.

JSON with sorted keys, no white space, UTF-8, durations in whole microseconds. What the first
release could declare is always there, with its defaults; what came later only where it was
declared, and of its fields only those that differ from their defaults. The coordinator has its own
code for it; a test holds both to the same bytes.
"""

from __future__ import annotations

import hashlib
import math
from base64 import b64encode
from typing import Any

import orjson
from google.protobuf import duration_pb2, struct_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from tenure.v1 import payload_pb2, workflows_pb2
from tenure_client import payload
from tenure_client.graph import DefinitionError, Path

#: Up to here a float holds every whole number.
_WHOLE_MAX = 2**53
_NO_RETRY: dict[str, Any] = {
    "max_attempts": 1,
    "initial_delay_us": 1_000_000,
    "max_delay_us": 60_000_000,
    "multiplier": 2.0,
    "jitter": 0.2,
    "non_retryable_codes": [],
}
#: Fields of the first release, whose form is not that of the later ones.
_FIRST = {
    "WorkflowDefinition": {"name", "description", "max_leases", "labels", "tasks"},
    "WorkflowTask": {
        "key",
        "kind",
        "depends_on",
        "input",
        "retry",
        "attempt_timeout",
        "priority",
    },
    "RetryPolicy": set(_NO_RETRY) | {"initial_delay", "max_delay"},
}
#: Fields that are there even when they are empty, since nothing goes without them.
_ALWAYS: dict[str, dict[str, Any]] = {
    "Concurrency": {"limit": 0},
    "EventTrigger": {"name": ""},
    "EventWait": {"name": ""},
    "ForEach": {"items": ""},
    "Handler": {"kind": ""},
    "Rate": {"count": 0, "per_us": 0},
    "SignalWait": {"name": ""},
    "SubWorkflow": {"name": ""},
}
#: Defaults that are not the zero of their type.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Approval": {"quorum": 1},
    "ForEach": {"failures_max": 0, "items_max": 10_000},
    "SubWorkflow": {"repetitions_max": 1},
    "WorkflowTask": {"weight": 1},
}
#: How often a sub-workflow is repeated until something holds, where nothing is said.
_REPETITIONS = 100


def form(definition: workflows_pb2.WorkflowDefinition) -> dict[str, Any]:
    """Gives the canonical form as plain values.

    Raises DefinitionError for an input that is not the JSON it claims to be.
    """
    value: dict[str, Any] = {
        "name": definition.name,
        "description": definition.description,
        "max_leases": definition.max_leases,
        "labels": dict(definition.labels),
        "tasks": [_task(("tasks", number), task) for number, task in enumerate(definition.tasks)],
    }
    return value | _later((), definition)


def encode(definition: workflows_pb2.WorkflowDefinition) -> bytes:
    """Gives the canonical bytes. Raises DefinitionError as `form` does."""
    return orjson.dumps(form(definition), option=orjson.OPT_SORT_KEYS)


def digest(definition: workflows_pb2.WorkflowDefinition) -> str:
    """Gives the identity of a definition, such as ``sha256:9f86…``. Raises as `form` does."""
    return "sha256:" + hashlib.sha256(encode(definition)).hexdigest()


def _task(path: Path, task: workflows_pb2.WorkflowTask) -> dict[str, Any]:
    timed = task.HasField("attempt_timeout")
    value: dict[str, Any] = {
        "key": task.key,
        "kind": task.kind,
        "depends_on": list(task.depends_on),
        "priority": task.priority,
        "attempt_timeout_us": _microseconds(task.attempt_timeout) if timed else None,
    }
    value |= _payload((*path, "input"), "input", task.input)
    if task.HasField("retry") and (retry := _retry((*path, "retry"), task.retry)) != _NO_RETRY:
        value["retry"] = retry
    return value | _later(path, task)


def _later(path: Path, message: Message) -> dict[str, Any]:
    """The fields that came after the first release, and all of messages that did."""
    word = message.DESCRIPTOR.name
    first, defaults = _FIRST.get(word, set()), _DEFAULTS.get(word, {})
    value = dict(_ALWAYS.get(word, {}))
    for field, content in message.ListFields():
        if field.name not in first:
            value |= _field((*path, field.name), field, content)
    if isinstance(message, workflows_pb2.SubWorkflow) and message.until:
        value.setdefault("repetitions_max", _REPETITIONS)
    for name, default in defaults.items():
        if value.get(name) == default:
            del value[name]
    return value


def _field(path: Path, field: FieldDescriptor, content: Any) -> dict[str, Any]:
    """A field that is set, under the name that it has in the canonical form."""
    name, part = field.name, field.message_type
    match content:
        case duration_pb2.Duration():
            return {f"{name}_us": _microseconds(content)}
        case payload_pb2.Payload():
            return _payload(path, name, content)
        case workflows_pb2.RetryPolicy():
            retry = _retry(path, content)
            return {} if retry == _NO_RETRY else {name: retry}
        case Message():
            return {name: _later(path, content)}
    if field.enum_type is not None:
        # The first of each enum that means something is its default.
        return {} if content == 1 else {name: _word(path, field.enum_type, content)}
    if part is None:
        return {name: list(content) if field.is_repeated else content}
    if not part.GetOptions().map_entry:
        return {name: [_later((*path, at), item) for at, item in enumerate(content)]}
    if part.fields_by_name["value"].message_type is None:
        return {name: dict(content)}
    return {name: {key: _later((*path, key), item) for key, item in content.items()}}


def _word(path: Path, words: EnumDescriptor, number: int) -> str:
    """`TRIGGER_RULE_ALL_DONE` as `all_done`."""
    found = words.values_by_number.get(number)
    if found is None:
        raise DefinitionError(path, f"is {number}, which the contract does not have")
    prefix = words.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(found.name).removeprefix(prefix).lower()


def _payload(path: Path, name: str, content: payload_pb2.Payload) -> dict[str, Any]:
    match content.WhichOneof("body"):
        case "data" if content.content_type in payload.JSON_TYPES:
            try:
                return {name: orjson.loads(content.data)}
            except orjson.JSONDecodeError as error:
                raise DefinitionError(path, f"is not JSON: {error.msg}") from error
        case "data":
            data = b64encode(content.data).decode()
            return {f"{name}_base64": data, f"{name}_type": content.content_type}
        case "value":
            return {name: _plain(path, content.value)}
        case _:
            return {}


def _plain(path: Path, value: struct_pb2.Value) -> Any:
    """Gives the JSON of a Value. Whole numbers become integers, as the coordinator has it."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise DefinitionError(path, f"{number} is not a number that JSON knows")
            whole = number.is_integer() and abs(number) <= _WHOLE_MAX
            return int(number) if whole else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_plain(path, item) for item in value.list_value.values]
        case "struct_value":
            fields = value.struct_value.fields
            return {name: _plain(path, fields[name]) for name in fields}
        case _:
            return None


def _retry(path: Path, retry: workflows_pb2.RetryPolicy) -> dict[str, Any]:
    value = _NO_RETRY | _later(path, retry)
    if "strategy" in value:
        value["backoff"] = value.pop("strategy")
    if retry.HasField("initial_delay"):
        value["initial_delay_us"] = _microseconds(retry.initial_delay)
    if retry.HasField("max_delay"):
        value["max_delay_us"] = _microseconds(retry.max_delay)
    if retry.HasField("jitter"):
        value["jitter"] = retry.jitter
    return value | {
        "max_attempts": retry.max_attempts or value["max_attempts"],
        "multiplier": retry.multiplier or value["multiplier"],
        "non_retryable_codes": list(retry.non_retryable_codes),
    }


def _microseconds(span: duration_pb2.Duration) -> int:
    return span.seconds * 1_000_000 + span.nanos // 1000
