"""The items of an entry as they are stored: one JSON array, packed when it is worth it.

The items of a batch differ in little: the same run, digests and agent again and again. Packed
they take a fiftieth of the room, so a commit of leases and results writes half as much; and
packing goes on beside the loop, without the interpreter's lock.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

#: Shorter arrays stay as they are: they fit into the row.
_PACKED_FROM_BYTES = 1024
#: The quickest; the others gain next to nothing on rows that are so alike.
_LEVEL = 1
#: How every JSON array begins, and nothing that was packed does.
_ARRAY = b"["


def packed(items: Sequence[bytes]) -> bytes:
    """What is stored of the items, given the canonical bytes of each."""
    array = b"[" + b",".join(items) + b"]"
    return array if len(array) < _PACKED_FROM_BYTES else zlib.compress(array, _LEVEL)


def unpacked(stored: bytes) -> bytes:
    """The JSON array out of what is stored. Raises ValueError when it was damaged."""
    if stored.startswith(_ARRAY):
        return stored
    unpacking = zlib.decompressobj()
    try:
        array = unpacking.decompress(stored)
    except zlib.error as error:
        raise ValueError(f"packed items are damaged: {error}") from None
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("packed items are damaged: they do not end where they should")
    return array
