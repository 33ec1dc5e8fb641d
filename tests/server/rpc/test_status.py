"""One table says what a refusal is on the wire, and it has no gap on either side."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from tenure.v1 import errors_pb2
from tenure_server.core import errors
from tenure_server.rpc import status


def _kinds(kind: type[errors.Refusal] = errors.Refusal) -> set[type[errors.Refusal]]:
    found = set(kind.__subclasses__())
    return found.union(*(_kinds(inner) for inner in found)) if found else found


def test_every_refusal_is_in_the_table() -> None:
    """A kind that is forgotten here would reach the caller as a fault."""
    # What two kinds have in common is never raised itself.
    assert set(status.TABLE) == _kinds() - {errors.Denied}


def test_every_reason_of_the_contract_has_one_refusal() -> None:
    """Reasons and refusals answer each other one to one."""
    reasons = [row.reason for row in status.TABLE.values()]
    declared = set(errors_pb2.Reason.values()) - {errors_pb2.REASON_UNSPECIFIED}
    assert sorted(reasons) == sorted(declared)


def _read(refusal: errors.Refusal) -> tuple[status_pb2.Status, dict[str, object]]:
    answer = status.answer(refusal)
    [(key, raw)] = answer.trailing_metadata
    assert key == "grpc-status-details-bin"
    found = status_pb2.Status.FromString(raw)
    assert (found.code, found.message) == (answer.code.value[0], answer.message)
    details = {}
    for packed in found.details:
        kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])
        detail = kind()
        assert packed.Unpack(detail)
        details[kind.__name__] = detail
    return found, details


def test_a_thing_that_is_not_there_names_its_kind() -> None:
    """What varies in the message stands in the metadata for programs."""
    found, details = _read(errors.NotFound("run", "r-1"))
    assert found.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert found.message == "no such run: r-1"
    info = details["ErrorInfo"]
    assert info == error_details_pb2.ErrorInfo(
        reason="NOT_FOUND", domain="tenure", metadata={"kind": "run", "name": "r-1"}
    )
    assert set(details) == {"ErrorInfo"}


def test_bad_fields_are_named_each() -> None:
    """BadRequest has every field with its reason."""
    _, details = _read(errors.FieldsInvalid([("a.b[2]", "is empty"), ("c", "is too long")]))
    assert details["BadRequest"] == error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="a.b[2]", description="is empty"),
            error_details_pb2.BadRequest.FieldViolation(field="c", description="is too long"),
        ]
    )


def test_a_reached_limit_says_which_and_when_to_come_back() -> None:
    """QuotaFailure and RetryInfo go together."""
    _, details = _read(errors.QuotaExceeded("open_runs", 10, "the tenant has 10 open runs"))
    assert details["QuotaFailure"].violations[0].subject == "open_runs"  # type: ignore[attr-defined]
    assert details["RetryInfo"].retry_delay.seconds == 1  # type: ignore[attr-defined]


def test_a_seat_elsewhere_says_where() -> None:
    """A client can go straight to the holder."""
    _, details = _read(errors.SeatElsewhere("acme", "10.0.0.7:7233"))
    assert details["ErrorInfo"].metadata["holder"] == "10.0.0.7:7233"  # type: ignore[attr-defined]
    assert details["RetryInfo"].retry_delay.seconds == 1  # type: ignore[attr-defined]


def test_who_asks_before_the_holder_is_known_may_ask_again_soon() -> None:
    """It is read from the store meanwhile."""
    _, details = _read(errors.SeatElsewhere("acme", ""))
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 100  # type: ignore[attr-defined]


def test_an_empty_fact_is_left_out() -> None:
    """The holder of a seat is not always known."""
    _, details = _read(errors.SeatElsewhere("acme", ""))
    assert "holder" not in details["ErrorInfo"].metadata  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 100_000, "→" * 100_000])
def test_an_answer_fits_into_metadata(text: str) -> None:
    """gRPC refuses metadata of 8 KiB, and then the caller would learn nothing at all."""
    worst = errors.FieldsInvalid([(text, text) for _ in range(20)])
    answer = status.answer(worst)
    escaped = sum(1 if 0x20 <= byte < 0x7F else 3 for byte in answer.message.encode())
    assert escaped + len(answer.trailing_metadata[0][1]) * 4 // 3 < 8000


def test_a_fault_tells_nothing_but_where_to_look() -> None:
    """The correlation id leads from the answer to the log."""
    found, details = _read(status.Internal("c-17"))
    assert found.code == grpc.StatusCode.INTERNAL.value[0]
    assert details["ErrorInfo"].metadata["correlation_id"] == "c-17"  # type: ignore[attr-defined]
