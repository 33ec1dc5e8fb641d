"""What expressions are asked for while runs go on: whether, which, when, and with what.

Every function raises EvaluationFailed when the expression comes to no value, or to one of another
kind than is asked for; `fields` says which field it was (FieldFailed).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from tenure_server.core.definitions.payloads import (
    PAYLOAD_BYTES_MAX,
    REFERENCE_TYPE,
    Payload,
    json_of,
)
from tenure_server.core.expressions.evaluation import Budget, EvaluationFailed, Unreadable, compiled

BINDING_FAILED = "BINDING_FAILED"
#: Of a condition, `when` or `until`, of which it cannot be told whether it holds.
CONDITION_FAILED = "CONDITION_FAILED"
#: Of a key that limits are kept by, in characters.
KEY_CHARACTERS_MAX = 200
_LARGE_BYTES = 4096
_SHOWN_CHARACTERS = 200
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799


class FieldFailed(EvaluationFailed):
    """A field could not be worked out."""

    def __init__(self, field: str, source: str, reason: str) -> None:
        super().__init__(f"{field}: {shown(source)}: {reason}")
        self.field = field
        self.source = source
        self.reason = reason


def shown(source: str) -> str:
    """An expression for a message: its beginning, where it is long."""
    return source if len(source) <= _SHOWN_CHARACTERS else f"{source[:_SHOWN_CHARACTERS]}…"


def given(payload: Payload | None) -> Any:
    """A payload as expressions see it: its JSON, null for none, and what is unreadable as such."""
    if payload is None:
        return None
    if payload.content_type == REFERENCE_TYPE:
        return Unreadable("is too large to travel and lies in a store of the agents")
    if not payload.is_json:
        return Unreadable(f"is not JSON but {payload.content_type}")
    try:
        return json_of(payload) if len(payload.data) < _LARGE_BYTES else _large(payload)
    except ValueError as error:
        return Unreadable(str(error))


@lru_cache(maxsize=8)
def _large(payload: Payload) -> Any:
    """The tasks of a run look at the same input one after the other."""
    return json_of(payload)


def value(source: str, names: Mapping[str, Any], budget: Budget | None = None) -> Any:
    """What an expression comes out as, whatever it is."""
    return compiled(source).value(names, budget or Budget())


def holds(source: str, names: Mapping[str, Any], budget: Budget | None = None) -> bool:
    """Whether it holds: for `when` and `until`."""
    found = value(source, names, budget)
    if not isinstance(found, bool):
        raise EvaluationFailed(f"must come out true or false, not as {_shown(found)}")
    return found


def items(source: str, names: Mapping[str, Any], budget: Budget | None = None) -> list[Any]:
    """The list of `for_each`. How long it may be is for the caller to say."""
    found = value(source, names, budget)
    if not isinstance(found, list):
        raise EvaluationFailed(f"must come out as a list, not as {_shown(found)}")
    return found


def text(source: str, names: Mapping[str, Any], budget: Budget | None = None) -> str:
    """A text: for the keys of limits and events, which have at most 200 characters."""
    found = value(source, names, budget)
    if not isinstance(found, str):
        raise EvaluationFailed(f"must come out as text, not as {_shown(found)}")
    if len(found) > KEY_CHARACTERS_MAX:
        raise EvaluationFailed(
            f"comes out with {len(found)} characters, at most {KEY_CHARACTERS_MAX} are allowed"
        )
    return found


def moment_us(source: str, names: Mapping[str, Any], budget: Budget | None = None) -> int:
    """A time, in microseconds since the epoch: of a timestamp, RFC 3339 text, or seconds."""
    found = value(source, names, budget)
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        if not _FIRST_SECOND <= found <= _LAST_SECOND:
            raise EvaluationFailed("must come out as a time of the years 1 to 9999")
        return round(found * 1_000_000)
    if not isinstance(found, str):
        raise EvaluationFailed(f"must come out as a time, not as {_shown(found)}")
    try:
        moment = dt.datetime.fromisoformat(found)
        if moment.tzinfo is None:
            raise EvaluationFailed(f"comes out as {_shown(found)}, which says no time zone")
        epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        return (moment - epoch) // dt.timedelta(microseconds=1)
    except (OverflowError, TypeError) as error:
        raise EvaluationFailed(f"comes out as {_shown(found)}: {error}") from error
    except EvaluationFailed:
        raise
    except ValueError:
        raise EvaluationFailed(
            f"comes out as {_shown(found)}, which is no time such as 2026-05-01T12:00:00Z"
        ) from None


def fields(
    bindings: Mapping[str, str],
    names: Mapping[str, Any],
    onto: Payload | None = None,
    budget: Budget | None = None,
) -> Payload:
    """The object that all bindings give, laid onto the fields of another one.

    Raises FieldFailed; with an empty field when the whole has more than 1 MiB, or `onto` is not
    a JSON object.
    """
    shared = budget or Budget()
    try:
        merged = dict(json_of(onto)) if onto is not None else {}
    except (ValueError, TypeError) as error:
        raise FieldFailed("", "input", f"is no JSON object: {error}") from error
    for field, source in bindings.items():
        try:
            merged[field] = value(source, names, shared)
        except EvaluationFailed as error:
            raise FieldFailed(field, source, str(error)) from error
    try:
        data = orjson.dumps(merged, option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError) as error:
        raise FieldFailed("", "input", f"cannot be written as JSON: {error}") from error
    if len(data) > PAYLOAD_BYTES_MAX:
        reason = f"has {len(data)} bytes with all fields, at most {PAYLOAD_BYTES_MAX} are allowed"
        raise FieldFailed("", "input", reason)
    return Payload(data)


def _shown(found: Any) -> str:
    try:
        written = orjson.dumps(found).decode()
    except TypeError:
        return "something that cannot be shown"
    return written if len(written) <= 60 else f"{written[:60]}…"
