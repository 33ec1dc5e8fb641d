"""The rules of a definition that can be told without a coordinator, one value at a time.

Each gives what goes into the contract's message, or raises DefinitionError with the path of the
culprit in a workflow file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import duration_pb2

from tenure.v1 import payload_pb2
from tenure_client import duration, payload
from tenure_client.graph import DefinitionError, Path, did_you_mean
from tenure_client.payload import ABSENT
from tenure_constitution.dimensions import NAMES as DIMENSIONS

INT32_MAX = 2**31 - 1
EXPRESSION_CHARACTERS_MAX = 2000
BINDINGS_MAX = 64
SCHEMA_BYTES_MAX = 64 << 10
SPAN_SECONDS_MAX = 366 * 86_400

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME_RULE = (
    "must be letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128"
)


def name(path: Path, text: str) -> str:
    """The name of a workflow, handler, signal or event."""
    if not _NAME.fullmatch(text):
        raise DefinitionError(path, f"{_NAME_RULE}, is {text!r}")
    return text


def key(path: Path, text: str) -> str:
    """The key of a task."""
    if not 1 <= len(text) <= 200 or not text.isprintable() or any(map(str.isspace, text)):
        reason = f"must be 1 to 200 printable characters without white space, is {text!r}"
        raise DefinitionError(path, reason)
    return text


def text(path: Path, value: str, most: int) -> str:
    """A text of a limited length."""
    if len(value) > most:
        raise DefinitionError(path, f"must have at most {most:,} characters")
    return value


def number(path: Path, value: float, low: float, high: float) -> None:
    """A number between two others."""
    if not low <= value <= high:
        raise DefinitionError(path, f"must lie between {low} and {high}, is {value}")


def span(path: Path, value: duration.Span | None) -> duration_pb2.Duration | None:
    """A span of time, if one is given."""
    if value is None:
        return None
    try:
        return duration.parse(value)
    except duration.DurationError as error:
        raise DefinitionError(path, str(error)) from error


def lasting(path: Path, value: duration.Span | None) -> duration_pb2.Duration | None:
    """A span of time, if one is given, that is longer than nothing."""
    found = span(path, value)
    if found is not None and not 0 < duration.seconds_of(found) <= SPAN_SECONDS_MAX:
        raise DefinitionError(path, f"must be longer than zero and at most 366 days, is {value}")
    return found


def word(path: Path, value: str, words: Any, prefix: str) -> Any:
    """The number in the contract's enum `words`, of a word such as `all_done`; 0 for no word."""
    if not value:
        return 0
    known = [found.removeprefix(prefix).lower() for found in words.keys()[1:]]
    if value not in known:
        hint = did_you_mean(value, known)
        raise DefinitionError(path, f"must be one of {', '.join(known)}, is {value!r}{hint}")
    return words.Value(prefix + value.upper())


# -- expressions


def expression(path: Path, value: str) -> str:
    """An expression; that it is one is found out where it is registered."""
    if not value.strip():
        raise DefinitionError(path, "is empty")
    return text(path, value, EXPRESSION_CHARACTERS_MAX)


def optional(path: Path, value: str) -> str:
    """An expression, or none."""
    return expression(path, value) if value else ""


def bindings(path: Path, fields: Mapping[str, str]) -> dict[str, str]:
    """Fields that are worked out, by name."""
    if len(fields) > BINDINGS_MAX:
        raise DefinitionError(path, f"must be at most {BINDINGS_MAX}, are {len(fields)}")
    for field in fields:
        if not 1 <= len(field) <= 200:
            raise DefinitionError(path, f"the name {field[:20]!r} must have 1 to 200 characters")
    return {field: expression((*path, field), value) for field, value in fields.items()}


# -- payloads


def content(path: Path, value: Any, *, object_because: str = "") -> payload_pb2.Payload | None:
    """What a handler is given; it must be an object, if anything, where there is a reason."""
    try:
        made = payload.encode(value)
    except payload.PayloadError as error:
        raise DefinitionError(path, str(error)) from error
    if object_because and made is not None and not made.data.startswith(b"{"):
        raise DefinitionError(path, f"must be a table of keys and values, {object_because}")
    return made


def schema(path: Path, value: Any) -> payload_pb2.Payload | None:
    """A JSON Schema, if one is given."""
    if value is ABSENT:
        return None
    made = content(path, value, object_because="as every JSON Schema here")
    assert made is not None
    if len(made.data) > SCHEMA_BYTES_MAX:
        reason = f"has {len(made.data)} bytes, at most {SCHEMA_BYTES_MAX} are allowed"
        raise DefinitionError(path, reason)
    return made


# -- words about a workflow


def labels(path: Path, given: Mapping[str, str], most: int) -> dict[str, str]:
    """Labels, at most so many."""
    if len(given) > most:
        raise DefinitionError(path, f"must be at most {most}, are {len(given)}")
    for label, value in given.items():
        if not 1 <= len(label) <= 63:
            raise DefinitionError(path, f"the word {label!r} must have 1 to 63 characters")
        text((*path, label), value, 255)
    return dict(given)


def statements(given: Mapping[str, str]) -> dict[str, str]:
    """What a workflow says of itself, by dimension."""
    for dimension, statement in given.items():
        path: Path = ("dimensions", dimension)
        if dimension not in DIMENSIONS:
            hint = did_you_mean(dimension, DIMENSIONS)
            raise DefinitionError(path, f"is none of the thirteen dimensions{hint}")
        if not statement.strip():
            raise DefinitionError(path, "is empty; leave it out instead")
        text(path, statement, 1000)
    return dict(given)


def people(path: Path, given: Iterable[str]) -> list[str]:
    """Names or ids of keys of people."""
    found = list(given)
    if len(found) > 100:
        raise DefinitionError(path, f"must be at most 100, are {len(found)}")
    for position, person in enumerate(found):
        if not 1 <= len(person) <= 128:
            raise DefinitionError((*path, position), "must have 1 to 128 characters")
        if person in found[:position]:
            raise DefinitionError((*path, position), f"{person!r} is named twice")
    return found
