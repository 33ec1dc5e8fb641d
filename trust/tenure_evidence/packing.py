"""The items of an entry as they are stored: a JSON array, packed when it is worth it.

The items of a batch differ in little: the same digests and agent again and again. So what some of
them begin with is written once, in a line that begins with a colon, and then a line with the rest
of each; and all of it is compressed, beside the loop, without the interpreter's lock. Arrays that
were compressed as they are, as they used to be, are read too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

#: Shorter arrays stay as they are: to pack one, a thread lets go of the interpreter's lock and then
#: waits for it, which beside a busy loop takes longer than to write two pages more.
_PACKED_FROM_BYTES = 8192
#: The quickest; the others gain next to nothing on rows that are so alike.
_LEVEL = 1
#: How every JSON array begins, and nothing that was packed does.
_ARRAY = b"["
#: How a line begins that has what the items in the lines after it begin with. No rest of an item
#: does, for it begins with an identifier or is a whole item; and JSON has no line breaks in it.
_HEAD = b":"

#: What some items one after the other begin with, and the rest of each.
Part = tuple[bytes, Sequence[bytes]]


def packed(parts: Sequence[Part]) -> bytes:
    """What is stored of the items, given their canonical bytes in parts."""
    lines: list[bytes] = []
    size = 0
    for head, rests in parts:
        lines.append(_HEAD + head)
        lines += rests
        size += len(head) * len(rests)
    text = b"\n".join(lines)
    if size + len(text) < _PACKED_FROM_BYTES:
        return _array(head + rest for head, rests in parts for rest in rests)
    return zlib.compress(text, _LEVEL)


def unpacked(stored: bytes) -> bytes:
    """The JSON array out of what is stored. Raises ValueError when it was damaged."""
    if stored.startswith(_ARRAY):
        return stored
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(stored)
    except zlib.error as error:
        raise ValueError(f"packed items are damaged: {error}") from None
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("packed items are damaged: they do not end where they should")
    return _array(_items(text)) if text.startswith(_HEAD) else text


def _items(text: bytes) -> Iterator[bytes]:
    head = b""
    for line in text.split(b"\n"):
        if line.startswith(_HEAD):
            head = line.removeprefix(_HEAD)
        else:
            yield head + line


def _array(items: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
