"""What is wrong with the fields of a message, as pairs of path and reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

#: Messages that the store keeps as bytes of JSON, where NUL is spelled out.
_KEPT_AS_BYTES = frozenset({"tenure.v1.WorkflowDefinition", "google.protobuf.Value"})


def read(violation: Any) -> tuple[str, str]:
    """A violation of protovalidate as field path and reason."""
    found = violation.proto
    path = ""
    for element in found.field.elements if found.field else ():
        path += f".{element.field_name}" if path else element.field_name
        subscript = element.subscript
        if subscript is not None:
            value = subscript.value
            path += f"[{value!r}]" if isinstance(value, str) else f"[{value}]"
    return path or "request", found.message or found.rule_id


def unknown_fields(message: Message) -> list[tuple[str, str]]:
    """Fields of a message that this contract does not know, with their paths."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() == message.ByteSize():
        return []
    return list(_find_unknown(message, ""))


def unstorable(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    """Text with the one character that PostgreSQL cannot keep and people never mean."""
    for item, value in message.ListFields():
        path = f"{prefix}.{item.name}" if prefix else item.name
        if item.type == FieldDescriptor.TYPE_STRING:
            texts = value if item.is_repeated else (value,)
            if any("\0" in text for text in texts):
                yield path, "must not contain the character NUL"
        elif (part := item.message_type) is not None and part.full_name not in _KEPT_AS_BYTES:
            if part.GetOptions().map_entry:
                if any("\0" in text for pair in value.items() for text in pair):
                    yield path, "must not contain the character NUL"
            else:
                for inner in value if item.is_repeated else (value,):
                    yield from unstorable(inner, path)


def _find_unknown(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    fields: Any = UnknownFieldSet(message)
    for unknown in fields:
        yield prefix or "request", f"has a field that is not known here: {unknown.field_number}"
    for item, value in message.ListFields():
        if item.message_type is None:
            continue
        path = f"{prefix}.{item.name}" if prefix else item.name
        if item.message_type.GetOptions().map_entry:
            if item.message_type.fields_by_name["value"].message_type is not None:
                for key, part in value.items():
                    yield from _find_unknown(part, f"{path}[{key!r}]")
        elif item.is_repeated:
            for index, part in enumerate(value):
                yield from _find_unknown(part, f"{path}[{index}]")
        else:
            yield from _find_unknown(value, path)
