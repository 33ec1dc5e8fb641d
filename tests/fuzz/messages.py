"""What could come over the wire, made from the descriptors: for every RPC, new ones too.

calls(pool)      a method with what is said to it, as bytes: made up, valid and changed, or junk

Numbers stand at their boundaries, enums have values that nobody declared, texts are huge, empty or
no text at all, parts are missing, repeated, nested, unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as some
from tests.server.rpc.test_matrix import METHODS, Names, _request

from tenure_server.rpc.owned import Owned, marked

DEPTH_MAX = 5
#: More than any list of the contract may have.
MANY = 1001
#: Characters of the largest text, and bytes of the largest data.
HUGE = 1 << 20

_I32, _I64 = 1 << 31, 1 << 63
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-_I32, _I32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-_I64, _I64 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2 * _I32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2 * _I64 - 1),
}
_SECONDS_OF_9999 = 253402300799
_NUMBERS = (
    0,
    1,
    -1,
    1000,
    _SECONDS_OF_9999,
    _SECONDS_OF_9999 + 1,
    _I32 - 1,
    -_I32,
    _I64 - 1,
    -_I64,
)
_TEXTS = some.one_of(
    some.sampled_from(
        [
            *("", "a", "k", "b", "\0", "a\0b", " ", "é" * 50, "𝔘" * 300, "x" * 129, "x" * HUGE),
            *("../../etc", "{{}}", "' OR 1=1 --", "%s%n", "\u202e", "\ud7ff\ue000"),
            *('{"articles": []}', '{"articles": [{}]}', "[" * 2000, "1 +" * 500),
        ]
    ),
    some.text(max_size=20),
)
_DATA = some.one_of(
    some.sampled_from(
        [
            *(b"", b"1", b"null", b"{", b"[1]", b"NaN", b"\xff\xfe", b'"\\ud800"', b"1e999"),
            *(b"[" * 5000, b"1" * 5000, bytes(HUGE + 1)),
        ]
    ),
    some.binary(max_size=20),
)
#: Bytes that are no message, and bytes that change what a message was when they follow it.
_JUNK = some.one_of(
    some.binary(max_size=60),
    some.sampled_from(
        [
            b"\xf8\x31\x01",  # field 799, a number
            b"\xfa\x31\x03abc",  # field 799, three bytes
            b"\xfb\x31\xfc\x31",  # field 799, a group
            b"\x0a\x02\xff\xfe",  # field 1, no text
            b"\x0a\x04\xed\xa0\x80a",  # field 1, half of a surrogate pair
            b"\x0a\x7f",  # field 1, shorter than it says
            b"\x0a\xff\xff\xff\xff\x0f",  # field 1, of four gigabytes
            b"\x08" + b"\xff" * 11,  # a number without an end
            b"\x00",  # field 0
            b"\x0b" * 200,  # groups in groups
            b"\x0a\x80\x01" * 40,
        ]
    ),
)


@dataclass(frozen=True, slots=True)
class Pool:
    """What can be named: one's own and others', there or not; and who may call what."""

    #: By mark.
    names: dict[Owned, tuple[str, ...]]
    own: Names
    #: The callers of a method, by name.
    callers: Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as it goes over the wire."""

    method: str
    caller: str
    said: tuple[bytes, ...]

    def __repr__(self) -> str:
        said = ", ".join(repr(raw[:400]) + ("…" if len(raw) > 400 else "") for raw in self.said)
        return f"Call({self.method!r}, {self.caller!r}, ({said},))"


@some.composite
def calls(draw: some.DrawFn, pool: Pool, methods: Sequence[str] = tuple(METHODS)) -> Call:
    """A call of any RPC by somebody whom its rule names, mostly."""
    method = draw(some.sampled_from(methods))
    caller = draw(some.sampled_from(pool.callers(method)))
    count = draw(some.integers(0, 4)) if METHODS[method].client_streaming else 1
    return Call(method, caller, tuple(draw(_said(pool, method)) for _ in range(count)))


@some.composite
def _said(draw: some.DrawFn, pool: Pool, method: str) -> bytes:
    way = draw(some.integers(0, 9))
    if way == 0:
        return draw(_JUNK)
    if way <= 3:
        return _raw(draw(messages(METHODS[method].input_type, pool))) + draw(_tail())
    valid = _request(method, pool.own)
    if way <= 7:
        _change(draw, valid, pool)
        return _raw(valid) + draw(_tail())
    return _bent(draw, _raw(valid))


def _tail() -> some.SearchStrategy[bytes]:
    return some.one_of(some.just(b""), some.just(b""), some.just(b""), _JUNK)


def _change(draw: some.DrawFn, message: Message, pool: Pool) -> None:
    """Gives one field of a message, however deep, another value."""
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    item = cast("FieldDescriptor", draw(some.sampled_from(list(fields))))
    part = item.message_type
    value: Any = getattr(message, item.name)
    if part is not None and not item.is_repeated and draw(some.booleans()):
        _change(draw, value, pool)
    elif part is not None and item.is_repeated and not _is_map(item) and len(value):
        _change(draw, value[0], pool)
    else:
        message.ClearField(item.name)
        _fill(draw, message, item, pool, 1)


def _bent(draw: some.DrawFn, raw: bytes) -> bytes:
    """A message with some of its bytes changed, lost, doubled or put in."""
    content = bytearray(raw)
    for _ in range(draw(some.integers(1, 4))):
        place = draw(some.integers(0, len(content)))
        length = draw(some.integers(1, 8))
        match draw(some.sampled_from(["change", "lose", "double", "put in"])):
            case "change" if place < len(content):
                content[place] ^= 1 << draw(some.integers(0, 7))
            case "lose":
                del content[place : place + length]
            case "double":
                content[place:place] = content[place : place + length]
            case _:
                content[place:place] = draw(some.binary(max_size=8))
    return bytes(content)


@some.composite
def messages(draw: some.DrawFn, kind: Descriptor, pool: Pool, depth: int = 0) -> Message:
    """A message of a type with any of its fields."""
    message = GetMessageClass(kind)()
    for item in kind.fields:
        if draw(some.booleans()):
            _fill(draw, message, item, pool, depth)
    return message


def _fill(
    draw: some.DrawFn, message: Message, item: FieldDescriptor, pool: Pool, depth: int
) -> None:
    part = item.message_type
    target: Any = getattr(message, item.name)
    if part is not None and depth >= DEPTH_MAX:
        return
    if _is_map(item):
        assert part is not None
        key, value = part.fields_by_name["key"], part.fields_by_name["value"]
        for _ in range(draw(_lengths())):
            if value.message_type is not None:
                target[draw(_scalars(key, pool))].SetInParent()
            else:
                target[draw(_scalars(key, pool))] = draw(_scalars(value, pool))
    elif part is not None:
        one = draw(messages(part, pool, depth + 1))
        if item.is_repeated:
            target.extend([one] * draw(_lengths()))
        else:
            target.CopyFrom(one)
    elif item.is_repeated:
        one = draw(_scalars(item, pool))
        target.extend([one] * draw(_lengths()))
    else:
        setattr(message, item.name, draw(_scalars(item, pool)))


def _lengths() -> some.SearchStrategy[int]:
    return some.sampled_from([1, 1, 1, 2, 3, MANY])


def _scalars(item: FieldDescriptor, pool: Pool) -> some.SearchStrategy[Any]:
    mark = marked(item)
    if mark is not None:
        return some.one_of(some.sampled_from(pool.names[mark]), _TEXTS)
    if item.cpp_type in _INTEGERS:
        least, most = _INTEGERS[item.cpp_type]
        numbers = [number for number in (*_NUMBERS, least, most) if least <= number <= most]
        return some.one_of(some.sampled_from(numbers), some.integers(least, most))
    match item.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return some.booleans()
        case FieldDescriptor.CPPTYPE_FLOAT:
            return some.floats(width=32)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return some.floats()
        case FieldDescriptor.CPPTYPE_ENUM:
            assert item.enum_type is not None
            known = [value.number for value in item.enum_type.values]
            return some.sampled_from([*known, -1, max(known) + 1, 99, _I32 - 1, -_I32])
    return _DATA if item.type == FieldDescriptor.TYPE_BYTES else _TEXTS


def _is_map(item: FieldDescriptor) -> bool:
    return item.message_type is not None and item.message_type.GetOptions().map_entry


def _raw(message: Message) -> bytes:
    return message.SerializeToString()
