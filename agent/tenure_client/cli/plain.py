"""Messages of the contract as plain values, for JSON and for tables.

Unlike protobuf's own JSON: names as in the contract, 64-bit integers as numbers, enumerations
without their prefix, durations in seconds, payloads as the JSON they carry.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tenure.v1 import payload_pb2
from tenure_client import duration, payload


def of(message: Message) -> Any:
    """Gives the plain value of a message; what is unset and has presence is None."""
    match message:
        case Timestamp():
            return time_text(message)
        case Duration():
            return duration.seconds_of(message)
        case payload_pb2.Payload():
            return _payload(message)
        case _:
            return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def word(descriptor: Any, number: int) -> str:
    """Gives a word of an enumeration without the prefix that all of them share."""
    value = descriptor.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(value.name).removeprefix(prefix)


def words(descriptor: Any) -> list[str]:
    """Gives all words of an enumeration without their prefix, but for the unspecified one."""
    return [word(descriptor, value.number) for value in descriptor.values if value.number]


def time_text(stamp: Timestamp) -> str:
    """Writes a time as RFC 3339 in UTC, to the microsecond."""
    moment = stamp.ToDatetime(tzinfo=UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def local_time(stamp: Timestamp, *, milliseconds: bool = False) -> str:
    """Writes a time for people, in their own time zone."""
    moment: datetime = stamp.ToDatetime(tzinfo=UTC).astimezone()
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{moment.microsecond // 1000:03d}" if milliseconds else text


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: of(item) if isinstance(item, Message) else item for key, item in value.items()}
    if field.is_repeated:
        return [_scalar(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _scalar(value, field)


def _scalar(value: Any, field: Any) -> Any:
    if isinstance(value, Message):
        return of(value)
    if field.enum_type is not None:
        return word(field.enum_type, value)
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value


def _payload(message: payload_pb2.Payload) -> Any:
    try:
        content = payload.decode(message)
    except payload.PayloadError:
        content = message.data
    if content is payload.ABSENT:
        return None
    if isinstance(content, bytes):
        return {"content_type": message.content_type, "base64": b64encode(content).decode()}
    return content
