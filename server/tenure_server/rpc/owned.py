"""Finds what a message names of a tenant's own: the fields that the contract marks as owned.

A plan is compiled once for each message type from its descriptor: which fields to look at, and
which parts to enter, through nested and repeated messages, maps and oneofs. The walk goes by column
instead of by row: the ids of all results of a frame are gathered at once, each distinct one is
given once, and most of it happens in C. So a frame of a thousand results of one run costs little,
and messages that name nothing cost nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
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
    SCHEDULE = 6


#: What has a name that means something only inside one tenant: anybody may name it.
BY_NAME = frozenset({Owned.WORKFLOW, Owned.SCHEDULE})


#: A marked field that is set: its path without indexes, what it names, and the value.
Mention = tuple[str, Owned, str]

#: Gives something of a message: a field, or one in a part that is not repeated.
_Get = Callable[[Any], Any]


@dataclass(slots=True)
class _Plan:
    """What to look at in messages of one type."""

    single: list[tuple[str, Owned, _Get]] = field(default_factory=list)
    repeated: list[tuple[str, Owned, _Get]] = field(default_factory=list)
    #: Parts that are repeated or the values of a map, and what to look at in each.
    parts: list[tuple[_Get, _Plan]] = field(default_factory=list)


def marked(item: FieldDescriptor) -> Owned | None:
    """What a field names, if the contract marks it."""
    options = item.GetOptions()
    if not options.HasExtension(access_pb2.owned):
        return None
    return Owned(options.Extensions[access_pb2.owned])


class Walker:
    """Finds the mentions in messages of one type."""

    def __init__(self, message: Descriptor) -> None:
        self._plan = _Plan()
        _compile(self._plan, message, path="", reach="", above=())

    @property
    def names_nothing(self) -> bool:
        """Whether messages of this type have no marked field at all."""
        plan = self._plan
        return not (plan.single or plan.repeated or plan.parts)

    def mentions(self, message: Message) -> Iterator[Mention]:
        """Gives each distinct value of each marked field that is set, in no particular order."""
        return _walk(self._plan, (message,))


def _compile(
    plan: _Plan, message: Descriptor, *, path: str, reach: str, above: tuple[str, ...]
) -> None:
    """Adds what a message type marks. `reach` leads from the plan's own messages to this one."""
    # A type inside itself would need a plan that knows itself. The contract has none but
    # google.protobuf.Value, which names nothing and is kept out by _names_something.
    if message.full_name in above:
        raise ValueError(f"{message.full_name} contains itself and marked fields: {path}")
    inner = (*above, message.full_name)
    for item in message.fields:
        here, get = f"{path}{item.name}", f"{reach}{item.name}"
        owned = marked(item)
        if owned is not None:
            column = plan.repeated if item.is_repeated else plan.single
            column.append((here, owned, attrgetter(get)))
            continue
        part = item.message_type
        if part is None or not _names_something(part, frozenset()):
            continue
        if not item.is_repeated:
            # An unset part reads as an empty one, so that no question need be asked.
            _compile(plan, part, path=f"{here}.", reach=f"{get}.", above=inner)
            continue
        parts: _Get = attrgetter(get)
        if part.GetOptions().map_entry:
            part = part.fields_by_name["value"].message_type
            assert part is not None  # else the entry would name nothing
            parts = _values(parts)
        nested = _Plan()
        _compile(nested, part, path=f"{here}.", reach="", above=inner)
        plan.parts.append((parts, nested))


def _values(get: _Get) -> _Get:
    return lambda message: get(message).values()


def _names_something(message: Descriptor, above: frozenset[str]) -> bool:
    if message.full_name in above:
        return False
    inner = above | {message.full_name}
    return any(
        marked(item) is not None
        or (item.message_type is not None and _names_something(item.message_type, inner))
        for item in message.fields
    )


def _walk(plan: _Plan, messages: Sequence[Any]) -> Iterator[Mention]:
    for path, owned, get in plan.single:
        yield from _distinct(path, owned, map(get, messages))
    for path, owned, get in plan.repeated:
        yield from _distinct(path, owned, chain.from_iterable(map(get, messages)))
    for get, nested in plan.parts:
        parts = list(chain.from_iterable(map(get, messages)))
        if parts:
            yield from _walk(nested, parts)


def _distinct(path: str, owned: Owned, values: Iterable[str]) -> Iterator[Mention]:
    for value in set(values):
        if value:
            yield path, owned, value
