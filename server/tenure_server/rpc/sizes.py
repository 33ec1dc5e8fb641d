"""Large messages: a first look that refuses what is far too large, and a place to work on others.

The gates and the conversion read every part of a message, which takes seconds for one of tens of
megabytes. What no limit allows is refused before that, and the rest is read beside the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2
from tenure.v1 import payload_pb2, workflows_pb2
from tenure_server.core import errors
from tenure_server.core.definitions.definition import PAYLOAD_BYTES_MAX, TASKS_MAX

#: From so many bytes on a message is worked on beside the loop.
LARGE_BYTES = 256 << 10
#: A number of one digit takes 11 bytes in a list of Values and two in JSON; nothing swells more.
VALUE_BYTES_MAX = 6 * PAYLOAD_BYTES_MAX
_VIOLATIONS_MAX = 20

T = TypeVar("T")


async def beside_the_loop(large: bool, work: Callable[[], T]) -> T:
    """Does work in a thread when it is large, and at once otherwise."""
    return await asyncio.to_thread(work) if large else work()


def is_large(message: Message) -> bool:
    """Whether the work on a message would hold others up."""
    return message.ByteSize() > LARGE_BYTES


def check(message: Message) -> None:
    """Raises FieldsInvalid for parts that are too many or too large, without reading them."""
    found = []
    for violation in _violations(message, ""):
        found.append(violation)
        if len(found) == _VIOLATIONS_MAX:
            break
    if found:
        raise errors.FieldsInvalid(found)


def _violations(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(message, payload_pb2.Payload):
        if message.HasField("value") and (size := message.value.ByteSize()) > VALUE_BYTES_MAX:
            reason = f"has a value of {size} bytes, at most {PAYLOAD_BYTES_MAX} of JSON are allowed"
            yield prefix, reason
        return
    for field, value in message.ListFields():
        if not _has_parts(field):
            continue
        path = f"{prefix}.{field.name}" if prefix else field.name
        if _is_map(field):
            for key, part in value.items():
                yield from _violations(part, f"{path}[{key!r}]")
        elif not field.is_repeated:
            yield from _violations(value, path)
        elif (most := _items_max(field)) and len(value) > most:
            yield path, f"has {len(value)} {field.name}, at most {most}"
        else:
            for index, part in enumerate(value):
                yield from _violations(part, f"{path}[{index}]")


@lru_cache(maxsize=1000)
def _is_map(field: FieldDescriptor) -> bool:
    part = field.message_type
    return part is not None and part.GetOptions().map_entry


@lru_cache(maxsize=1000)
def _has_parts(field: FieldDescriptor) -> bool:
    part = field.message_type
    if part is None:
        return False
    if part.GetOptions().map_entry:
        part = part.fields_by_name["value"].message_type
        return part is not None and not part.full_name.startswith("google.protobuf.")
    return not part.full_name.startswith("google.protobuf.")


@lru_cache(maxsize=1000)
def _items_max(field: FieldDescriptor) -> int:
    """How many items a list may have, 0 for as many as there are."""
    if field.message_type is workflows_pb2.WorkflowTask.DESCRIPTOR:
        return TASKS_MAX
    options = field.GetOptions()
    if not options.HasExtension(validate_pb2.field):
        return 0
    return int(options.Extensions[validate_pb2.field].repeated.max_items)
