"""The canonical form of a definition: what its digest is made over, made here without a server.

JSON with sorted keys, no white space, UTF-8, defaults written out, durations in whole
microseconds. The coordinator has its own code for it; a test holds both to the same bytes.
"""

from __future__ import annotations

import hashlib
import math
from base64 import b64encode
from typing import Any

import orjson
from google.protobuf import duration_pb2, struct_pb2

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
    # Only where there are any: the digests of older definitions stay what they are.
    if definition.dimensions:
        value["dimensions"] = dict(definition.dimensions)
    return value


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
    value |= _input((*path, "input"), task.input)
    if task.HasField("retry") and (retry := _retry(task.retry)) != _NO_RETRY:
        value["retry"] = retry
    return value


def _input(path: Path, content: payload_pb2.Payload) -> dict[str, Any]:
    match content.WhichOneof("body"):
        case "data" if content.content_type in payload.JSON_TYPES:
            try:
                return {"input": orjson.loads(content.data)}
            except orjson.JSONDecodeError as error:
                raise DefinitionError(path, f"is not JSON: {error.msg}") from error
        case "data":
            data = b64encode(content.data).decode()
            return {"input_base64": data, "input_type": content.content_type}
        case "value":
            return {"input": _plain(path, content.value)}
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


def _retry(retry: workflows_pb2.RetryPolicy) -> dict[str, Any]:
    value = dict(_NO_RETRY)
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
