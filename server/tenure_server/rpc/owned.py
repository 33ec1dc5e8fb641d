"""Finds what a message names of a tenant's own: the fields that the contract marks as owned.

A plan is compiled once for each message type from its descriptor: which fields to look at, and
which parts to enter, through nested and repeated messages and maps. Messages that name nothing cost
nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tenure.v1 import access_pb2


class Owned(enum.IntEnum):
    """What a marked field names. Numbers as in the contract."""

    TENANT = 1
    RUN = 2
    API_KEY = 3
    AGENT = 4
    WORKFLOW = 5


#: One marked field of a message: its path without indexes, what it names, and the value.
Mention = tuple[str, Owned, str]


class _Shape(enum.Enum):
    SINGLE = enum.auto()
    REPEATED = enum.auto()
    MAP = enum.auto()


@dataclass(slots=True)
class _Plan:
    """What to look at in one message type."""

    single: list[tuple[str, str, Owned]] = field(default_factory=list)
    repeated: list[tuple[str, str, Owned]] = field(default_factory=list)
    parts: list[tuple[str, _Shape, _Plan]] = field(default_factory=list)


def marked(field: FieldDescriptor) -> Owned | None:
    """What a field names, if the contract marks it."""
    options = field.GetOptions()
    if not options.HasExtension(access_pb2.owned):
        return None
    return Owned(options.Extensions[access_pb2.owned])


class Walker:
    """Finds the mentions in messages of one type."""

    def __init__(self, message: Descriptor) -> None:
        self._plan = _compile(message, "", ())

    @property
    def names_nothing(self) -> bool:
        """Whether messages of this type have no marked field at all."""
        return not (self._plan.single or self._plan.repeated or self._plan.parts)

    def mentions(self, message: Message) -> Iterator[Mention]:
        """Gives each marked field that is set, in no particular order."""
        return _walk(self._plan, message)


def _compile(message: Descriptor, prefix: str, above: tuple[str, ...]) -> _Plan:
    # A type inside itself would need a plan that knows itself. The contract has none but
    # google.protobuf.Value, which names nothing: _names_something keeps it out.
    if message.full_name in above:
        raise ValueError(f"{message.full_name} contains itself and marked fields: {prefix}")
    plan = _Plan()
    for item in message.fields:
        path = f"{prefix}{item.name}"
        owned = marked(item)
        if owned is not None:
            (plan.repeated if item.is_repeated else plan.single).append((item.name, path, owned))
            continue
        part = item.message_type
        if part is None or not _names_something(part, frozenset()):
            continue
        inner = (*above, message.full_name)
        if part.GetOptions().map_entry:
            value = part.fields_by_name["value"].message_type
            assert value is not None  # else the entry would name nothing
            plan.parts.append((item.name, _Shape.MAP, _compile(value, f"{path}.", inner)))
            continue
        shape = _Shape.REPEATED if item.is_repeated else _Shape.SINGLE
        plan.parts.append((item.name, shape, _compile(part, f"{path}.", inner)))
    return plan


def _names_something(message: Descriptor, above: frozenset[str]) -> bool:
    if message.full_name in above:
        return False
    inner = above | {message.full_name}
    return any(
        marked(item) is not None
        or (item.message_type is not None and _names_something(item.message_type, inner))
        for item in message.fields
    )


def _walk(plan: _Plan, message: Any) -> Iterator[Mention]:
    for name, path, owned in plan.single:
        value = getattr(message, name)
        if value:
            yield path, owned, value
    for name, path, owned in plan.repeated:
        for value in getattr(message, name):
            yield path, owned, value
    for name, shape, inner in plan.parts:
        match shape:
            case _Shape.REPEATED:
                for part in getattr(message, name):
                    yield from _walk(inner, part)
            case _Shape.SINGLE:
                if message.HasField(name):
                    yield from _walk(inner, getattr(message, name))
            case _Shape.MAP:
                for part in getattr(message, name).values():
                    yield from _walk(inner, part)
