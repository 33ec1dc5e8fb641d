"""Payloads and spans of time: exact both ways, and strict."""

from __future__ import annotations

from datetime import timedelta

import pytest
from google.protobuf import struct_pb2

from tenure.v1 import payload_pb2
from tenure_client import duration, payload
from tenure_client.cli import plain


def test_the_canonical_form_has_sorted_keys_and_no_space() -> None:
    assert (
        payload.canonical({"b": [1, 2.0, None], "a": "ü"}) == '{"a":"ü","b":[1,2.0,null]}'.encode()
    )


def test_absent_and_null_are_different() -> None:
    assert payload.encode() is None
    assert payload.encode(None) == payload_pb2.Payload(data=b"null")
    assert payload.decode(payload_pb2.Payload()) is payload.ABSENT
    assert payload.decode(payload_pb2.Payload(data=b"null")) is None
    assert not payload.ABSENT


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1])
def test_integers_stay_exact(number: int) -> None:
    sent = payload.encode([number])
    assert sent is not None
    assert payload.decode(sent) == [number]
    assert payload.encode_json(f"[{number}]") == sent


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "nan cannot be written as JSON"),
        ({"a": [0, float("inf")]}, "a[1]: inf cannot be written as JSON"),
        ({"a": None, "b": -float("inf")}, "b: -inf cannot be written as JSON"),
        ([2**64], "[0]: the integer needs more than 64 bits; write it as text"),
        ({"a": {1: 2}}, "a: the key 1 must be text, is int"),
        ({"a": {"b": object()}}, "a.b: type is not json serializable: object"),
    ],
)
def test_what_json_cannot_carry_is_named_with_its_place(value: object, message: str) -> None:
    with pytest.raises(payload.PayloadError) as caught:
        payload.encode(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON: expecting property name enclosed in double quotes in line 1"),
        (b"\xff\xfe\xfd", "is not UTF-8 text"),
        ("[" * 100_000, "is nested too deeply"),
        ("1" * 5000, "an integer has thousands of digits"),
        ("[1e999]", "[0]: inf cannot be written as JSON"),
    ],
)
def test_text_that_is_no_json_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(payload.PayloadError) as caught:
        payload.encode_json(text)
    assert str(caught.value).startswith(message)


def test_other_content_is_bytes_and_values_are_for_people() -> None:
    blob = payload_pb2.Payload(data=b"\x00\xff", content_type="application/octet-stream")
    assert payload.decode(blob) == b"\x00\xff"
    assert plain.of(blob) == {"content_type": "application/octet-stream", "base64": "AP8="}
    value = struct_pb2.Value(string_value="x")
    assert payload.decode(payload_pb2.Payload(value=value)) == "x"
    with pytest.raises(payload.PayloadError, match="is not JSON"):
        payload.decode(payload_pb2.Payload(data=b"{"))


@pytest.mark.parametrize(
    ("span", "microseconds"),
    [
        ("500ms", 500_000),
        ("30s", 30_000_000),
        ("2m", 120_000_000),
        ("1h30m", 5_400_000_000),
        ("1h 30m", 5_400_000_000),
        ("1.5s", 1_500_000),
        ("30d", 2_592_000_000_000),
        ("12", 12_000_000),
        ("0.25", 250_000),
        (7, 7_000_000),
        (0.1, 100_000),
        (0, 0),
        (timedelta(minutes=1), 60_000_000),
    ],
)
def test_spans_are_read_to_the_microsecond(span: duration.Span, microseconds: int) -> None:
    assert duration.parse(span).ToMicroseconds() == microseconds


@pytest.mark.parametrize(
    "span", ["", "s", "5x", "1:30", "-1s", -1, "1m1", "nan", float("nan"), "1e400", True, 10**18]
)
def test_what_is_no_span_is_refused(span: duration.Span) -> None:
    with pytest.raises(duration.DurationError):
        duration.parse(span)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0084, "8 ms"), (4.21, "4.2 s"), (187, "3 m 07 s"), (7500, "2 h 05 m")],
)
def test_lengths_are_short_for_people(seconds: float, text: str) -> None:
    assert duration.short(seconds) == text
