"""Payloads and Python values: JSON both ways, integers exact, limits enforced."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from tenure.v1 import payload_pb2

#: The most bytes that an input, an output or a checkpoint may have.
PAYLOAD_BYTES_MAX = 1024 * 1024

#: orjson reads integers beyond 64 bits as floats; such payloads go to the standard library.
_LONG_DIGITS = re.compile(rb"[0-9]{19}")


class PayloadError(ValueError):
    """A value that cannot be a payload: not JSON, or too large."""


def encode(value: Any, bytes_max: int = PAYLOAD_BYTES_MAX) -> payload_pb2.Payload:
    """Turns a value into a JSON payload.

    Beside what JSON knows, dates, UUIDs, enums and dataclasses are taken. Raises PayloadError
    when something else is in it or when it has more bytes than it may.
    """
    try:
        data = orjson.dumps(value)
    except TypeError as error:
        data = _encode_slowly(value, error)
    if b"null" in data and not _finite(value):
        # orjson writes NaN and infinities as null without a word.
        raise PayloadError("not JSON: a number that is not finite")
    return payload_pb2.Payload(data=check_size(data, bytes_max))


def decode(payload: payload_pb2.Payload) -> Any:
    """Turns a payload into a value: None when it has no content, bytes when it is not JSON.

    Raises PayloadError when it claims to be JSON and does not parse.
    """
    if payload.WhichOneof("body") is None:
        return None
    if not is_json(payload):
        return payload.data
    return decode_bytes(payload.data)


def decode_bytes(data: bytes) -> Any:
    """Reads JSON. Raises PayloadError when it does not parse."""
    try:
        if _LONG_DIGITS.search(data):
            return json.loads(data)
        return orjson.loads(data)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"not JSON: {error}") from error


def is_json(payload: payload_pb2.Payload) -> bool:
    """Tells whether the content is JSON by its media type; an empty one means JSON."""
    media_type = payload.content_type.partition(";")[0].strip().lower()
    return media_type in ("", "application/json") or media_type.endswith("+json")


def check_size(data: bytes, bytes_max: int) -> bytes:
    """Gives the bytes back. Raises PayloadError when there are more than a payload may have."""
    if len(data) > bytes_max:
        raise PayloadError(f"too large: {len(data)} bytes of at most {bytes_max}")
    return data


def _finite(value: Any) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(_finite(item) for item in value.values())
        case list() | tuple():
            return all(_finite(item) for item in value)
        case _:
            return True


def _encode_slowly(value: Any, error: TypeError) -> bytes:
    """Takes the one thing orjson refuses and JSON allows: integers beyond 64 bits."""
    if "64-bit" not in str(error):
        raise PayloadError(f"not JSON: {error}") from error
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as second:
        raise PayloadError(f"not JSON: {second}") from second
