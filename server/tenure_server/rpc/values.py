"""Times and payloads: what every message is made of, contract to core and back.

Times are whole microseconds below this floor.
"""

from __future__ import annotations

from typing import Any

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from tenure.v1 import payload_pb2
from tenure_server.core import errors
from tenure_server.core.definitions.payloads import Payload, payload_problem

SECOND_US = 1_000_000
#: Bounds of the well-known types, in seconds.
_DURATION_SECONDS_MAX = 315_576_000_000
_TIMESTAMP_SECONDS_MAX = 253_402_300_799
#: Up to here a float holds every whole number.
_WHOLE_MAX = 2**53


# -- times


def timestamp(at_us: int) -> Timestamp:
    """A time of the core."""
    seconds, rest = divmod(at_us, SECOND_US)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def duration(span_us: int) -> Duration:
    """A span of the core."""
    seconds, rest = divmod(span_us, SECOND_US)
    return Duration(seconds=seconds, nanos=rest * 1000)


def timestamp_us(message: Timestamp, path: str) -> int:
    """A time of a request, cut to whole microseconds. Raises FieldsInvalid before 1970."""
    if not (0 <= message.seconds <= _TIMESTAMP_SECONDS_MAX and 0 <= message.nanos < 10**9):
        raise errors.FieldsInvalid([(path, "must be a time from 1970 to 9999")])
    return message.seconds * SECOND_US + message.nanos // 1000


def duration_us(message: Duration, path: str) -> int:
    """A span of a request, cut to whole microseconds. Raises FieldsInvalid for a negative one."""
    if not (0 <= message.seconds <= _DURATION_SECONDS_MAX and 0 <= message.nanos < 10**9):
        raise errors.FieldsInvalid([(path, "must be a duration that is not negative")])
    return message.seconds * SECOND_US + message.nanos // 1000


# -- payloads


def payload(message: payload_pb2.Payload, path: str) -> Payload | None:
    """A payload of a request, its size and syntax not yet judged; None where it has no content.

    Raises FieldsInvalid for a value that is no JSON, and a content type that is not printable.
    """
    match message.WhichOneof("body"):
        case "data":
            if message.content_type:
                _check_content_type(message.content_type, path)
            return Payload(message.data, message.content_type)
        case "value":
            if message.content_type not in ("", "application/json"):
                reason = "must be empty or application/json beside a value"
                raise errors.FieldsInvalid([(f"{path}.content_type", reason)])
            value = _plain(message.value, f"{path}.value")
            return Payload(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        case _:
            return None


def checked_payload(message: payload_pb2.Payload, path: str) -> Payload | None:
    """As `payload`, and raises FieldsInvalid when it is too large or does not parse."""
    found = payload(message, path)
    if found is not None and (problem := payload_problem(found)):
        raise errors.FieldsInvalid([(path, problem)])
    return found


def fill_payload(message: payload_pb2.Payload, value: Payload) -> None:
    """Writes a payload of the core into a message."""
    message.data = value.data
    if value.content_type:
        message.content_type = value.content_type


def _check_content_type(text: str, path: str) -> None:
    if not (text.isascii() and text.isprintable()):
        raise errors.FieldsInvalid([(f"{path}.content_type", "must be printable ASCII")])


def _plain(value: Value, path: str) -> Any:
    """The JSON of a Value. Whole numbers become integers, which is what people mean by them."""
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            if number.is_integer() and abs(number) <= _WHOLE_MAX:
                return int(number)
            if number - number != 0:  # only NaN and the infinities are not zero here
                raise errors.FieldsInvalid([(path, "is not a number that JSON has")])
            return number
        case "list_value":
            return [
                _plain(item, f"{path}[{index}]")
                for index, item in enumerate(value.list_value.values)
            ]
        case "struct_value":
            fields = value.struct_value.fields
            return {name: _plain(fields[name], f"{path}.{name}") for name in fields}
        case _:
            raise errors.FieldsInvalid([(path, "has no kind")])
