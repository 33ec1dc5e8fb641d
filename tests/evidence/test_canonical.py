"""One spelling of each statement."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_evidence import digests
from tenure_evidence.canonical import (
    NUMBER_MAX,
    NotCanonical,
    canonical,
    checked,
    digest_text,
    framed_hash,
    read,
)

NAMES = st.text(st.characters(max_codepoint=127), max_size=6)
VALUES = st.recursive(
    st.text(max_size=8) | st.integers(-NUMBER_MAX, NUMBER_MAX) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
STATEMENTS = st.dictionaries(NAMES, VALUES, max_size=5)


@given(STATEMENTS)
def test_what_was_written_reads_back_and_is_what_the_standard_library_writes(value: Any) -> None:
    data = checked(value)
    assert read(data) == value
    spelled = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # RFC 8785 writes the other control characters as they are; so do both.
    assert data == spelled.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"7",
        b'{"a":1 }',
        b' {"a":1}',
        b'{"a":1}\n',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a":1.0}',
        b'{"a":1.5}',
        b'{"a":1e3}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":null}',
        b'{"a":[1,{"b":null}]}',
        b'{"a":[0.5]}',
        b'{"a":9007199254740992}',
        b'{"a":-9007199254740992}',
        b'{"a":18446744073709551616}',
        b'{"a":NaN}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"\xc3\xa9":1}',
        b'{"a":' * 400 + b"1" + b"}" * 400,
        b"[" * 5000,
    ],
)
def test_bytes_that_are_not_their_own_canonical_form_are_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        read(data)


@pytest.mark.parametrize("value", [{"a": 1.5}, {"a": None}, {"a": [None]}, {"a": b"x"}])
def test_checked_refuses_types_that_have_no_form(value: Any) -> None:
    with pytest.raises(TypeError):
        checked(value)


@pytest.mark.parametrize("value", [{"a": 2**53}, {"a": -(2**53)}, {"é": 1}])
def test_checked_refuses_long_numbers_and_foreign_names(value: Any) -> None:
    with pytest.raises(ValueError, match=r"bits|ASCII"):
        checked(value)


def test_canonical_itself_refuses_long_numbers() -> None:
    with pytest.raises(TypeError):
        canonical({"a": 2**53})


@given(st.binary(max_size=40))
def test_reading_never_raises_anything_else(data: bytes) -> None:
    try:
        value = read(data)
    except NotCanonical:
        return
    assert canonical(value) == data


def test_digests_are_written_with_their_algorithm() -> None:
    assert digest_text(b"") == "sha256:" + hashlib.sha256(b"").hexdigest()


def test_framing_is_length_before_part() -> None:
    assert framed_hash() == hashlib.sha256(b"").digest()
    framed = b"\x00\x00\x00\x02ab" + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x01c"
    assert framed_hash(b"ab", b"", b"c") == hashlib.sha256(framed).digest()


@given(st.lists(st.binary(max_size=3), max_size=4), st.lists(st.binary(max_size=3), max_size=4))
def test_two_lists_of_parts_never_look_alike(one: list[bytes], other: list[bytes]) -> None:
    assert (framed_hash(*one) == framed_hash(*other)) == (one == other)


def test_what_an_agent_is_given_is_framed_in_the_documented_order() -> None:
    first, second, third = (bytes([n]) * 32 for n in (1, 2, 3))
    assert digests.given_digest(None, None, [], None) == framed_hash()
    assert digests.given_digest(first, second, [("b", third), ("a", first)], third) == framed_hash(
        b"input", first, b"run", second,
        b"upstream", b"a", first, b"upstream", b"b", third,
        b"checkpoint", third,
    )  # fmt: skip
    assert digests.given_digest(first, None, [], None) != digests.given_digest(
        None, first, [], None
    )


def test_results_are_framed_as_documented() -> None:
    output = digests.payload_digest(b"{}", "")
    assert output == framed_hash(b"{}", b"")
    assert digests.success_digest(None) == framed_hash(b"success")
    assert digests.success_digest(output) == framed_hash(b"success", output)
    assert digests.failure_digest("E", "no") == framed_hash(b"failure", b"E", b"no")
    assert digests.stopped_digest() == framed_hash(b"stopped")
    assert digests.constitution_digest(b"{}", b"") == framed_hash(b"{}", b"")
