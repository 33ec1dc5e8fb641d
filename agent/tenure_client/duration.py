"""Spans of time as people write them: `500ms`, `30s`, `2m`, `1h30m`, or a number of seconds."""

import math
import re
from datetime import timedelta
from decimal import Decimal, InvalidOperation

from google.protobuf import duration_pb2

Span = int | float | str | timedelta

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|[smhd])")
_UNIT_MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_SECONDS_MAX = 315_576_000_000


class DurationError(ValueError):
    """Not a span of time."""


def parse(span: Span) -> duration_pb2.Duration:
    """Reads a span, to the microsecond. Raises DurationError for anything else."""
    microseconds = _microseconds(span)
    if microseconds < 0:
        raise DurationError(f"must not be negative, is {span}")
    seconds, rest = divmod(microseconds, 1_000_000)
    if seconds > _SECONDS_MAX:
        raise DurationError("is longer than 10,000 years")
    return duration_pb2.Duration(seconds=seconds, nanos=rest * 1_000)


def seconds_of(duration: duration_pb2.Duration) -> float:
    """Gives the length in seconds."""
    return duration.seconds + duration.nanos / 1e9


def short(seconds: float) -> str:
    """Writes a length for people: `8 ms`, `4.2 s`, `3 m 07 s`, `2 h 05 m`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m"


def _microseconds(span: Span) -> int:
    match span:
        case bool():
            raise DurationError("must be a span of time such as 30s, is true or false")
        case timedelta():
            return span // timedelta(microseconds=1)
        case int():
            return span * 1_000_000
        case float() if math.isfinite(span):
            return round(Decimal(repr(span)) * 1_000_000)
        case str():
            return _microseconds_of_text(span)
        case _:
            raise DurationError(f"must be a span of time such as 30s, is {span!r}")


def _microseconds_of_text(text: str) -> int:
    compact = text.replace(" ", "")
    parts = _PART.findall(compact)
    if parts and "".join(number + unit for number, unit in parts) == compact:
        return round(sum(Decimal(number) * _UNIT_MICROSECONDS[unit] for number, unit in parts))
    try:
        number = Decimal(compact)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or number > _SECONDS_MAX:
        raise DurationError(f"must be a span of time such as 500ms, 30s, 2m or 1h30m, is {text!r}")
    return round(number * 1_000_000)
