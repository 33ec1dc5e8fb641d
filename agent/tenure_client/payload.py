"""Payloads: Python values to the wire and back, with integers exact.

No content and JSON `null` are different things on the wire, so they are here: `ABSENT` and None.
"""

import enum
import json
import math
from collections.abc import Iterator
from typing import Any, Final

import orjson
from google.protobuf import json_format

from tenure.v1 import payload_pb2

JSON_TYPES: Final = frozenset(
    # The last says where a payload lies that was too large to travel.
    {"", "application/json", "application/vnd.tenure.reference+json"}
)


class Absent(enum.Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = Absent.ABSENT


class PayloadError(ValueError):
    """A value that JSON cannot carry, or bytes that are not the JSON they claim to be.

    `path` leads to the culprit inside the value, as in `[3].name`; it may be empty.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


def canonical(value: Any) -> bytes:
    """Gives the one JSON form of a value: sorted keys, no white space, UTF-8.

    Raises PayloadError for what JSON cannot carry: NaN and infinities, integers beyond 64 bits,
    keys that are not text, objects of unknown types.
    """
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        path, reason = next(_faults(value, ""), ("", str(error).lower()))
        raise PayloadError(path, reason) from error
    # NaN and infinities are written as null: only then is the walk worth its time.
    if b"null" in data and (fault := next(_faults(value, ""), None)):
        raise PayloadError(*fault)
    return data


def encode(value: Any = ABSENT) -> payload_pb2.Payload | None:
    """Wraps a value as JSON; nothing for `ABSENT`. Raises PayloadError as `canonical` does."""
    if value is ABSENT:
        return None
    return payload_pb2.Payload(data=canonical(value))


def encode_json(text: str | bytes) -> payload_pb2.Payload:
    """Wraps JSON text. Raises PayloadError naming the place where it stops to be JSON."""
    try:
        # Not orjson: it turns integers beyond 64 bits into floats without a word.
        value = json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error.msg.lower()} in line {error.lineno}, column {error.colno}"
        raise PayloadError("", reason) from error
    except UnicodeDecodeError as error:
        raise PayloadError("", "is not UTF-8 text") from error
    except RecursionError as error:
        raise PayloadError("", "is nested too deeply") from error
    except ValueError as error:
        raise PayloadError("", "an integer has thousands of digits; write it as text") from error
    return payload_pb2.Payload(data=canonical(value))


def decode(payload: payload_pb2.Payload) -> Any:
    """Gives the content: a JSON value, `bytes` for any other content type, `ABSENT` for none.

    Raises PayloadError for bytes that are not the JSON they claim to be.
    """
    match payload.WhichOneof("body"):
        case "data" if payload.content_type in JSON_TYPES:
            try:
                return orjson.loads(payload.data)
            except orjson.JSONDecodeError as error:
                raise PayloadError("", f"is not JSON: {error.msg}") from error
        case "data":
            return payload.data
        case "value":
            return json_format.MessageToDict(payload.value)
        case _:
            return ABSENT


def _faults(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Finds what keeps a value from being JSON."""
    match value:
        case float() if not math.isfinite(value):
            yield path, f"{value} cannot be written as JSON"
        case bool() | None | str() | float():
            return
        case int() if not -(2**63) <= value < 2**64:
            yield path, "the integer needs more than 64 bits; write it as text"
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    yield path, f"the key {key!r} must be text, is {type(key).__name__}"
                else:
                    yield from _faults(item, f"{path}.{key}" if path else key)
        case list() | tuple():
            for position, item in enumerate(value):
                yield from _faults(item, f"{path}[{position}]")
        case _:
            try:
                orjson.dumps(value)
            except TypeError as error:
                yield path, str(error).lower()
