"""Says of hot messages, fast, that they surely keep the field rules of the contract.

Protovalidate looks at one field after the other and takes some microseconds for each result of a
frame. Here the same rules, read off the same descriptors, are held against columns: all keys of a
frame's results at once. The answer is "surely" or "perhaps not"; only protovalidate says what is
wrong. Rules that are not understood here make it "perhaps not", so nothing can get through by this
way that would not get through by the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2

#: Tells whether all messages of a batch surely keep a rule.
Check = Callable[[Sequence[Any]], bool]

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBERS = frozenset({"int32", "int64", "double"})


class Columns:
    """The rules of one message type, by column."""

    def __init__(self, message: Descriptor) -> None:
        self._checks = _checks_of(message, frozenset())

    def surely_valid(self, message: Message) -> bool:
        """Whether the message keeps every rule; False where that is not certain."""
        batch = (message,)
        return all(check(batch) for check in self._checks)


def _checks_of(message: Descriptor, above: frozenset[str]) -> list[Check]:
    """The checks on messages of one type, those on their parts included."""
    rules_of_messages: Any = validate_pb2.message
    if message.full_name in above or message.GetOptions().HasExtension(rules_of_messages):
        return [_never]
    checks: list[Check] = []
    for group in message.oneofs:
        options = group.GetOptions()
        if options.HasExtension(validate_pb2.oneof):
            checks.append(_one_is_set(group.name))
    inner = above | {message.full_name}
    for field in message.fields:
        checks += _checks_on(field, inner)
    return checks


def _checks_on(field: FieldDescriptor, above: frozenset[str]) -> list[Check]:
    options = field.GetOptions()
    rules = None
    if options.HasExtension(validate_pb2.field):
        rules = options.Extensions[validate_pb2.field]
    part = field.message_type
    if part is not None:
        return _checks_on_parts(field, part, rules, above)
    if rules is None:
        return []
    check = None if field.is_repeated else _check_on_values(rules)
    if check is None:
        return [_unset(field)]
    return [_on_column(field, check)]


def _checks_on_parts(
    field: FieldDescriptor, part: Descriptor, rules: Any, above: frozenset[str]
) -> list[Check]:
    checks: list[Check] = []
    if rules is not None:
        understood = {item.name for item, _ in rules.ListFields()} == {"required"}
        if field.is_repeated or not understood:
            return [_unset(field)]
        checks.append(_is_set(field.name))
    # Google's own types are judged by rules on the field; beneath it they have none.
    if part.full_name.startswith("google.protobuf.") or not (inner := _checks_of(part, above)):
        return checks
    if part.GetOptions().map_entry:
        return [*checks, _never]
    gather = _gathered(field)

    def check(messages: Sequence[Any]) -> bool:
        parts = gather(messages)
        return not parts or all(held(parts) for held in inner)

    return [*checks, check]


def _check_on_values(rules: Any) -> Callable[[Sequence[Any]], bool] | None:
    """A check on values of a plain field, None for rules that are not understood."""
    kind = rules.WhichOneof("type")
    if kind is None or {item.name for item, _ in rules.ListFields()} != {kind}:
        return None
    asked = {item.name: value for item, value in getattr(rules, kind).ListFields()}
    if kind in _NUMBERS and asked.keys() <= {"gte", "lte"}:
        return _within(asked.get("gte"), asked.get("lte"))
    if kind == "bytes" and asked.keys() <= {"min_len", "max_len"}:
        return _long(asked.get("min_len", 0), asked.get("max_len"))
    if kind == "string" and asked.keys() <= {"min_len", "max_len"}:
        return _long(asked.get("min_len", 0), asked.get("max_len"))
    if kind == "string" and asked == {"uuid": True}:
        return _uuids
    return None


# -- checks on the values of a column


def _within(low: float | None, high: float | None) -> Callable[[Sequence[Any]], bool]:
    def check(values: Sequence[Any]) -> bool:
        # Written so that what cannot be compared, a NaN, is never certain.
        return all(
            (low is None or value >= low) and (high is None or value <= high)
            for value in set(values)
        )

    return check


def _long(low: int, high: int | None) -> Callable[[Sequence[Any]], bool]:
    def check(values: Sequence[Any]) -> bool:
        lengths = set(map(len, values))
        return min(lengths) >= low and (high is None or max(lengths) <= high)

    return check


def _uuids(values: Sequence[Any]) -> bool:
    return all(_UUID.fullmatch(value) for value in set(values))


# -- checks on a batch of messages


def _never(messages: Sequence[Any]) -> bool:
    return False


def _unset(field: FieldDescriptor) -> Check:
    """Certain only where there is nothing to judge. Rules on lists judge empty ones as well."""
    if not field.has_presence:
        return _never
    name = field.name
    return lambda messages: not any(message.HasField(name) for message in messages)


def _is_set(name: str) -> Check:
    return lambda messages: all(message.HasField(name) for message in messages)


def _one_is_set(name: str) -> Check:
    return lambda messages: all(message.WhichOneof(name) is not None for message in messages)


def _on_column(field: FieldDescriptor, check: Callable[[Sequence[Any]], bool]) -> Check:
    get, name = attrgetter(field.name), field.name
    if not field.has_presence:
        return lambda messages: check(list(map(get, messages)))

    def check_set(messages: Sequence[Any]) -> bool:
        values = [get(message) for message in messages if message.HasField(name)]
        return not values or check(values)

    return check_set


def _gathered(field: FieldDescriptor) -> Callable[[Iterable[Any]], list[Any]]:
    """The parts that a field holds, over a batch of messages."""
    get, name = attrgetter(field.name), field.name
    if field.is_repeated:
        return lambda messages: list(chain.from_iterable(map(get, messages)))
    return lambda messages: [get(message) for message in messages if message.HasField(name)]
