"""Errors of calls: what is read from the trailing metadata, and what happens when it is garbage."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from tests.client.conftest import Refusal, details_of

from tenure_client import errors


def failed(
    code: grpc.StatusCode, message: str, *pairs: tuple[str, bytes | str]
) -> errors.TenureError:
    trailing = grpc.aio.Metadata(*pairs)
    return errors.from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message))


def test_reason_fields_metadata_delay_and_quota_are_read() -> None:
    refusal = Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "too many open runs",
        "QUOTA_EXCEEDED",
        {"limit": "10"},
        (("input", "is too large"),),
        0.25,
        ("tenant:dev", "10 open runs"),
    )
    error = failed(refusal.code, refusal.message, ("grpc-status-details-bin", details_of(refusal)))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.reason == "QUOTA_EXCEEDED"
    assert error.message == "too many open runs"
    assert error.metadata == {"limit": "10"}
    assert error.fields == (("input", "is too large"),)
    assert error.retry_after == pytest.approx(0.25)
    assert error.quotas == (("tenant:dev", "10 open runs"),)
    assert str(error) == "too many open runs; input: is too large"


def test_a_field_that_the_message_names_is_not_said_twice() -> None:
    refusal = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "page_size: must not be negative",
        "FIELD_INVALID",
        fields=(("page_size", "must not be negative"),),
    )
    error = failed(refusal.code, refusal.message, ("grpc-status-details-bin", details_of(refusal)))
    assert str(error) == "page_size: must not be negative"


@pytest.mark.parametrize("garbage", [b"", b"\xff\xff\xff", b"\x1a\x02\x0a\xff"])
def test_details_that_cannot_be_read_leave_code_and_message(garbage: bytes) -> None:
    error = failed(grpc.StatusCode.INTERNAL, "oh", ("grpc-status-details-bin", garbage))
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.INTERNAL, "", "oh")


def test_an_error_without_details_or_message_still_says_something() -> None:
    error = failed(grpc.StatusCode.UNAVAILABLE, "")
    assert (error.reason, error.fields, error.retry_after) == ("", (), None)
    assert str(error) == "unavailable"


def test_the_correlation_id_is_kept() -> None:
    assert failed(grpc.StatusCode.INTERNAL, "x", ("x-correlation-id", "c1")).correlation_id == "c1"


def test_only_a_seat_elsewhere_has_a_holder() -> None:
    code = grpc.StatusCode.UNAVAILABLE
    moved = errors.TenureError(code, "SEAT_ELSEWHERE", "", metadata={"holder": "h:1"})
    assert moved.holder == "h:1"
    stopping = errors.TenureError(code, "STOPPING", "", metadata={"holder": "h:1"})
    assert stopping.holder is None
