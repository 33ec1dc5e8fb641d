"""The items of an entry as they are stored: short ones as they are, long ones packed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence

import orjson
import pytest

from tenure_evidence.packing import Part, packed, unpacked

FEW = [(b'{"seq":', [b"1}", b"2}"])]
HEAD = b'{"kind":"task.leased","run":"'
MANY = [
    (HEAD, [b'r","seq":%d}' % number for number in range(128)]),
    (b"", [b'{"kind":"task.failed","run":"r","seq":128,"text":"sha256:\xc3\xa9"}']),
    (HEAD, [b'r","seq":%d}' % number for number in range(129, 256)]),
]


def items_in(parts: Sequence[Part]) -> list[bytes]:
    return [head + rest for head, rests in parts for rest in rests]


def test_a_few_items_are_stored_as_the_array_they_are() -> None:
    assert packed(FEW) == b'[{"seq":1},{"seq":2}]'


def test_many_items_take_a_small_part_of_their_room() -> None:
    assert len(packed(MANY)) * 5 < len(b",".join(items_in(MANY)))


@pytest.mark.parametrize("parts", [FEW, MANY, [(b"", [os.urandom(4000).hex().encode()])]])
def test_what_was_packed_is_given_back_to_the_byte(parts: Sequence[Part]) -> None:
    assert unpacked(packed(parts)) == b"[" + b",".join(items_in(parts)) + b"]"


@pytest.mark.parametrize("damage", ["cut", "longer", "changed", "empty"])
def test_damaged_items_are_told_from_good_ones(damage: str) -> None:
    good = packed(MANY)
    at = len(good) // 2
    changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    bad = {"cut": good[:-5], "longer": good + b"x", "changed": changed, "empty": b""}[damage]
    with pytest.raises(ValueError, match="damaged"):
        unpacked(bad)


@pytest.mark.parametrize("stored", [bytes, zlib.compress])
def test_arrays_that_were_stored_in_older_ways_are_read(stored: Callable[[bytes], bytes]) -> None:
    """As they are, and compressed as they are."""
    array = b"[" + b",".join(items_in(MANY)) + b"]"
    assert orjson.loads(unpacked(stored(array)))[255]["seq"] == 255
