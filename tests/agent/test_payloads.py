"""Payloads: JSON both ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.v1 import payload_pb2
from tenure_agent import payloads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab\x00é"), inner),
    max_leaves=10,
)  # fmt: skip


@given(VALUES)
def test_a_value_comes_back_exactly(value: Any) -> None:
    """Integers of any size too: they never become floats."""
    back = payloads.decode(payloads.encode(value))
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {"a": {3}}, float("nan"), [float("inf"), None], "\ud800", 1j]
)
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(payloads.PayloadError, match="not JSON"):
        payloads.encode(value)


def test_more_than_a_mebibyte_is_refused() -> None:
    payloads.encode("x" * (payloads.PAYLOAD_BYTES_MAX - 2))
    with pytest.raises(payloads.PayloadError, match="too large: 1048577 bytes"):
        payloads.encode("x" * (payloads.PAYLOAD_BYTES_MAX - 1))


def test_no_content_is_none_and_other_media_types_are_bytes() -> None:
    assert payloads.decode(payload_pb2.Payload()) is None
    raw = payload_pb2.Payload(data=b"\x00\x01", content_type="image/png")
    assert payloads.decode(raw) == b"\x00\x01"
    with pytest.raises(payloads.PayloadError, match="not JSON"):
        payloads.decode(payload_pb2.Payload(data=b"{"))
