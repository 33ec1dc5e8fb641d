"""Anything that a definition can declare, as messages of the contract, sensible or not."""

from __future__ import annotations

from typing import Any

from google.protobuf import duration_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from tests.server.core.definitions.test_definition import JSON, TEXT

from tenure.v1 import payload_pb2, workflows_pb2
from tenure_client import payload
from tenure_constitution.dimensions import NAMES

SPANS = st.builds(
    duration_pb2.Duration, seconds=st.integers(0, 100_000), nanos=st.integers(0, 999_999_999)
)
DATA = st.builds(payload.encode, JSON) | st.builds(
    payload_pb2.Payload,
    data=st.binary(max_size=9),
    content_type=st.sampled_from(["text/plain", "application/octet-stream"]),
)
_NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "max_attempts": st.integers(0, 100),
    "priority": st.integers(-1000, 1000),
}
_SMALL = st.integers(0, 3) | st.just(100) | st.just(10_000)


def messages(descriptor: Descriptor, *, tasks: int = 3) -> st.SearchStrategy[Any]:
    """Messages of a type, in which any field may be set, to any value of its type."""

    @st.composite
    def draw_one(draw: st.DrawFn) -> Message:
        made = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            always = field.name in ("tasks", "name", "key")
            if not always and draw(st.integers(0, 3)) > 0:
                continue
            if field.containing_oneof is not None and made.WhichOneof(field.containing_oneof.name):
                continue
            _fill(draw, made, field, tasks)
        return made

    return draw_one()


def _fill(draw: st.DrawFn, made: Any, field: FieldDescriptor, tasks: int) -> None:
    part = field.message_type
    if field.name == "dimensions":
        made.dimensions.update(draw(st.dictionaries(st.sampled_from(NAMES), TEXT, max_size=3)))
    elif part is not None and part.GetOptions().map_entry:
        inner = part.fields_by_name["value"].message_type
        for key in draw(st.lists(TEXT, max_size=3)):
            if inner is None:
                getattr(made, field.name)[key] = draw(TEXT)
            else:
                getattr(made, field.name)[key].CopyFrom(draw(messages(inner)))
    elif field.is_repeated:
        most = tasks if field.name == "tasks" else 2
        getattr(made, field.name).extend(draw(st.lists(_one(field), max_size=most)))
    elif part is not None:
        getattr(made, field.name).CopyFrom(draw(_one(field)))
    else:
        setattr(made, field.name, draw(_one(field)))


def _one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    part = field.message_type
    if part is duration_pb2.Duration.DESCRIPTOR:
        return SPANS
    if part is payload_pb2.Payload.DESCRIPTOR:
        return DATA | st.just(payload_pb2.Payload())
    if part is not None:
        return messages(part)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXT
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.floats(0, 1) if field.name == "jitter" else st.just(0.0) | st.floats(1, 10)
    return _NUMBERS.get(field.name, _SMALL)


DEFINITIONS = messages(workflows_pb2.WorkflowDefinition.DESCRIPTOR)
