"""The items of an entry as they are stored: short ones as they are, long ones packed."""

from __future__ import annotations

import os

import orjson
import pytest

from tenure_evidence.packing import packed, unpacked

FEW = [b'{"seq":1}', b'{"seq":2}']
MANY = [b'{"kind":"task.leased","run":"r","seq":%d}' % number for number in range(256)]


def test_a_few_items_are_stored_as_the_array_they_are() -> None:
    assert packed(FEW) == b'[{"seq":1},{"seq":2}]'


def test_many_items_take_a_small_part_of_their_room() -> None:
    assert len(packed(MANY)) * 5 < len(b",".join(MANY))


@pytest.mark.parametrize("items", [FEW[:1], FEW, MANY, [os.urandom(4000).hex().encode()]])
def test_what_was_packed_is_given_back_to_the_byte(items: list[bytes]) -> None:
    assert unpacked(packed(items)) == b"[" + b",".join(items) + b"]"


@pytest.mark.parametrize("damage", ["cut", "longer", "changed", "empty"])
def test_damaged_items_are_told_from_good_ones(damage: str) -> None:
    good = packed(MANY)
    at = len(good) // 2
    changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    bad = {"cut": good[:-5], "longer": good + b"x", "changed": changed, "empty": b""}[damage]
    with pytest.raises(ValueError, match="damaged"):
        unpacked(bad)


def test_an_array_that_was_stored_before_items_were_packed_is_read() -> None:
    array = b"[" + b",".join(MANY) + b"]"
    assert orjson.loads(unpacked(array))[255]["seq"] == 255
