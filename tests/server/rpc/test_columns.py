"""What is called surely valid is valid, and what agents send every day is called so."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as some
from protovalidate import Validator

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2
from tenure_server.rpc import access
from tenure_server.rpc.columns import Columns

VALIDATOR = Validator()
FRAME = Columns(agents_pb2.WorkRequest.DESCRIPTOR)
RUN = "0199aaaa-1111-8222-8333-444455556666"

# Good values mostly, and each kind of bad one.
runs = some.sampled_from([RUN, RUN, RUN.upper(), "", RUN[1:], RUN.replace("-", ""), f"{RUN}\n"])
keys = some.sampled_from(["a", "é" * 200, "x" * 200, "", "x" * 201])
terms = some.sampled_from([1, 7, 2**62, 0, -1])
tokens = some.sampled_from([b"t", b"t" * 64, b"", b"t" * 65])
refs = some.builds(agents_pb2.LeaseRef, run_id=runs, task_key=keys, term=terms, token=tokens)
good_refs = some.builds(
    agents_pb2.LeaseRef,
    run_id=some.just(RUN),
    task_key=some.sampled_from(["a", "b"]),
    term=some.integers(1, 9),
    token=some.just(b"token"),
)
leases = good_refs | good_refs | refs
maybe_leases = some.none() | leases
failures = some.builds(
    runs_pb2.Failure,
    code=some.sampled_from(["E", "", "x" * 128, "x" * 129]),
    message=some.sampled_from(["m", "x" * 4000, "é" * 4000, "x" * 4001]),
)
ends: some.SearchStrategy[dict[str, Any]] = some.one_of(
    some.just({}),
    some.just({"success": agents_pb2.Success(output=payload_pb2.Payload(data=b"1"))}),
    some.just({"stopped": agents_pb2.Stopped()}),
    failures.map(lambda failure: {"failure": failure}),
)
results = some.builds(lambda lease, end: agents_pb2.Result(lease=lease, **end), maybe_leases, ends)
good_results = some.builds(
    lambda lease: agents_pb2.Result(lease=lease, success=agents_pb2.Success()), good_refs
)
renewals = some.builds(
    agents_pb2.Renewal,
    lease=maybe_leases,
    progress=some.sampled_from([None, 0.0, 0.5, 1.0, 1.5, -0.1, float("nan"), float("inf")]),
    message=some.sampled_from(["", "é" * 500, "x" * 501]),
)
hellos = some.builds(
    agents_pb2.Hello,
    agent=some.sampled_from(["host", "", "a b"]),
    instance=some.just("instance"),
    kinds=some.sampled_from([["k"], []]),
    slots=some.sampled_from([1, 0]),
    held=some.lists(refs, max_size=2),
)
frames = some.builds(
    agents_pb2.WorkRequest,
    hello=some.none() | some.none() | hellos,
    credits=some.sampled_from([0, 5, 100_000, 100_001, -1]),
    accepts=some.lists(leases, max_size=3),
    renewals=some.lists(renewals, max_size=3),
    results=some.lists(good_results | results, max_size=4),
    returns=some.lists(leases, max_size=2),
    draining=some.booleans(),
)


@given(frames)
def test_what_is_surely_valid_breaks_no_rule(frame: agents_pb2.WorkRequest) -> None:
    """Never the other way: what is not certain is asked of protovalidate."""
    violations = VALIDATOR.collect_violations(frame)
    if FRAME.surely_valid(frame):
        assert not violations
    elif not frame.HasField("hello"):
        assert violations


@pytest.mark.parametrize(
    "frame",
    [
        agents_pb2.WorkRequest(),
        agents_pb2.WorkRequest(credits=5, draining=True),
        agents_pb2.WorkRequest(
            credits=2,
            accepts=[agents_pb2.LeaseRef(run_id=RUN, task_key="a", term=1, token=b"t")],
            renewals=[
                agents_pb2.Renewal(
                    lease=agents_pb2.LeaseRef(run_id=RUN, task_key="a", term=1, token=b"t"),
                    progress=0.5,
                    checkpoint=payload_pb2.Payload(data=b"1"),
                )
            ],
            results=[
                agents_pb2.Result(
                    lease=agents_pb2.LeaseRef(run_id=RUN, task_key="a", term=1, token=b"t"),
                    failure=runs_pb2.Failure(code="E"),
                )
            ],
        ),
    ],
)
def test_everyday_frames_are_certain(frame: agents_pb2.WorkRequest) -> None:
    """They need no second look."""
    assert FRAME.surely_valid(frame)


@pytest.mark.parametrize("request_type", list(access.request_types()), ids=lambda it: it.name)
def test_rules_that_are_not_understood_are_never_certain(request_type: Any) -> None:
    """For every request of the contract, empty as it comes."""
    empty = GetMessageClass(request_type)()
    if Columns(request_type).surely_valid(empty):
        assert not VALIDATOR.collect_violations(empty)
