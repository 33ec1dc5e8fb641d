"""What an expression came out as, turned into what JSON can hold.

Times become texts in RFC 3339 form, spans texts such as ``90.5s``, bytes base64.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
from typing import Any

#: Deeper ones could not be written.
DEPTH_MAX = 100
_INTEGERS = range(-(1 << 63), 1 << 64)


class ResultInvalid(ValueError):  # noqa: N818 - named for what happened
    """A result is nothing that JSON can hold; the message goes on after "something that"."""


def as_json(value: Any, depth: int = 0) -> Any:
    """Gives a plain value as JSON can hold it. Raises ResultInvalid."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if value not in _INTEGERS:
            raise ResultInvalid("has an integer of more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ResultInvalid("is no number, or an infinite one")
        return value
    if depth > DEPTH_MAX:
        raise ResultInvalid(f"is nested more than {DEPTH_MAX} levels deep")
    if isinstance(value, list):
        return [as_json(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_key(key): as_json(item, depth + 1) for key, item in value.items()}
    return _text(value)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ResultInvalid(f"has a key that is no text: {key!r}")
    return key


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dt.timedelta):
        return _seconds(value)
    raise ResultInvalid(f"cannot be written as JSON: {value!r}"[:200])


def _seconds(span: dt.timedelta) -> str:
    micros = span // dt.timedelta(microseconds=1)
    whole, part = divmod(abs(micros), 1_000_000)
    fraction = f".{part:06}".rstrip("0") if part else ""
    return f"{'-' if micros < 0 else ''}{whole}{fraction}s"
