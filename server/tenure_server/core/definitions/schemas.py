"""JSON Schemas (draft 2020-12) of inputs and outputs: compiled once, bounded, never fetched.

Only this module knows the library that checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import jsonschema_rs
import orjson

from tenure_server.core.definitions import schema_costs
from tenure_server.core.definitions.payloads import REFERENCE_TYPE, Payload
from tenure_server.core.definitions.schema_costs import Cost
from tenure_server.core.definitions.schema_costs import SchemaInvalid as SchemaInvalid

#: All schemas of a definition together.
BYTES_MAX = 256 << 10
#: What one check may cost, in units of half a microsecond: some 50 ms.
UNITS_MAX = 100_000.0
#: What may be spent on saying where the data are wrong, when alternatives are to be listed.
_ALTERNATIVES_UNITS_MAX = 10_000.0
_STEPS_MAX = 50_000_000
_PATTERN_BYTES_MAX = 1 << 20
_REASON_CHARACTERS_MAX = 300
_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Violation:
    """Where data do not fit their schema, and why."""

    #: A JSON pointer into the data; empty for the whole.
    pointer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pointer}: {self.reason}" if self.pointer else self.reason


class Schema(Protocol):
    """A compiled schema."""

    def violation(self, payload: Payload) -> Violation | None:
        """Says where a payload does not fit, or None."""


class _CompiledSchema:
    __slots__ = ("_cost", "_validator")

    def __init__(self, data: bytes) -> None:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise SchemaInvalid(f"is not JSON: {error}") from error
        try:
            # Its form first, so that the costs are told of something that is a schema.
            jsonschema_rs.meta.validate(value)
        except jsonschema_rs.ValidationError as error:
            where = _pointer(error.instance_path)
            raise SchemaInvalid(str(Violation(where, _shortened(error.message)))) from error
        except (ValueError, RecursionError) as error:
            raise SchemaInvalid(_shortened(str(error))) from error
        self._cost: Cost = schema_costs.cost_of(value)
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                value,
                validate_formats=True,
                ignore_unknown_formats=False,
                pattern_options=jsonschema_rs.RegexOptions(
                    size_limit=_PATTERN_BYTES_MAX, dfa_size_limit=_PATTERN_BYTES_MAX
                ),
                offline=True,
            )
        except jsonschema_rs.ValidationError as error:
            where = _pointer(error.instance_path)
            reason = error.message.partition(". Adjust")[0]
            raise SchemaInvalid(str(Violation(where, _shortened(reason)))) from error
        except ValueError as error:
            raise SchemaInvalid(_shortened(str(error))) from error

    def violation(self, payload: Payload) -> Violation | None:
        """Says where a payload does not fit, or None.

        When it would cost too much to tell, that is a violation too.
        """
        if payload.content_type == REFERENCE_TYPE:
            reason = "lies in a store of the agents, so it cannot be held against its schema"
            return Violation("", reason)
        if not payload.is_json:
            return Violation("", f"must be JSON, not {payload.content_type}")
        try:
            value = orjson.loads(payload.data)
        except orjson.JSONDecodeError as error:
            return Violation("", f"is not JSON: {error}")
        units = self._cost.level * _values_max(payload.data)
        if units > UNITS_MAX or self._cost.pattern_steps * len(payload.data) > _STEPS_MAX:
            return Violation("", "is too large to be checked against its schema")
        if self._cost.recursive and _too_deep(value):
            return Violation("", "is nested too deeply to be checked against its schema")
        if self._validator.is_valid(value):
            return None
        if self._cost.alternatives and units > _ALTERNATIVES_UNITS_MAX:
            return Violation("", "does not fit its schema, and is too large to say where")
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return Violation(_pointer(error.instance_path), _shortened(error.message))
        return None


@lru_cache(maxsize=_KEPT)
def compiled(data: bytes) -> Schema:
    """Compiles a schema, once for all who have the same one. Raises SchemaInvalid."""
    return _CompiledSchema(data)


def check_schemas(places: Iterable[tuple[str, Payload]]) -> Iterator[tuple[str, str]]:
    """Gives pairs of field path and reason for every schema that cannot be used."""
    size = 0
    for path, payload in places:
        size += len(payload.data)
        if size > BYTES_MAX:
            yield path, f"is one too many: all schemas together may have {BYTES_MAX} bytes"
            return
        try:
            compiled(payload.data)
        except SchemaInvalid as error:
            yield path, str(error)


def _values_max(data: bytes) -> int:
    """At most so many values JSON can have: each comes after one of these, but the first."""
    return 1 + data.count(b",") + data.count(b"[") + data.count(b"{")


def _too_deep(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except (TypeError, RecursionError):
        return True
    return False


def _pointer(path: Iterable[str | int]) -> str:
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def _shortened(message: str) -> str:
    """One line, as long as people read."""
    line = " ".join(message.split())
    most = _REASON_CHARACTERS_MAX
    return line if len(line) <= most else f"{line[: most - 1]}…"
