"""A page token is good for the caller and the list it was given for, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tenure.v1 import runs_pb2, workflows_pb2
from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.rpc import access, pages

RULES = access.contract_rules()
LIST_RUNS = RULES["/tenure.v1.Runs/ListRuns"]

cursors = some.lists(some.one_of(some.integers(0, 2**53), some.text(max_size=40)), max_size=3)


def _caller(
    *,
    secret_hash: bytes = b"h" * 32,
    tenant_id: str = "acme",
    rule: access.AccessRule = LIST_RUNS,
) -> access.Caller:
    key = records.ApiKey(
        api_key_id="k",
        name="test",
        secret_hash=secret_hash,
        roles=frozenset({records.Role.VIEWER}),
        tenant_ids=(tenant_id,),
        create_us=0,
    )
    return access.Caller(
        key=key, tenant_ids=(tenant_id,), tenant_id=tenant_id, correlation_id="c", rule=rule
    )


CALLER = _caller()
REQUEST = runs_pb2.ListRunsRequest(workflow="w", states=[runs_pb2.RUN_STATE_FAILED], page_size=5)


def _following(request: runs_pb2.ListRunsRequest, token: str) -> runs_pb2.ListRunsRequest:
    following = runs_pb2.ListRunsRequest()
    following.CopyFrom(request)
    following.page_token = token
    return following


@given(cursors)
def test_a_token_gives_its_cursor_back(cursor: list[int | str]) -> None:
    """The next page begins where this one ended, also with another page size."""
    token = pages.issue(CALLER, REQUEST, cursor)
    following = _following(REQUEST, token)
    following.page_size = 77
    assert pages.read(CALLER, following) == cursor


@given(cursors, some.data())
def test_any_flipped_bit_is_refused(cursor: list[int | str], data: some.DataObject) -> None:
    """Neither the cursor nor its seal can be changed, and a token has one spelling only."""
    token = pages.issue(CALLER, REQUEST, cursor).encode()
    bit = data.draw(some.integers(0, len(token) * 8 - 1))
    changed = bytearray(token)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(errors.PageTokenInvalid):
        pages.read(CALLER, _following(REQUEST, changed.decode("latin-1")))


@given(some.text(min_size=1))
def test_garbage_is_refused(token: str) -> None:
    """Whatever is no token of ours gets the same typed answer."""
    with pytest.raises(errors.PageTokenInvalid):
        pages.read(CALLER, _following(REQUEST, token))


@pytest.mark.parametrize(
    "caller",
    [
        _caller(secret_hash=b"i" * 32),
        _caller(tenant_id="other"),
        _caller(rule=RULES["/tenure.v1.Workflows/ListWorkflows"]),
    ],
    ids=["another key", "another tenant", "another list"],
)
def test_a_token_of_somebody_else_is_refused(caller: access.Caller) -> None:
    """A token carries no right from one caller, tenant or list to another."""
    token = pages.issue(CALLER, REQUEST, [1])
    with pytest.raises(errors.PageTokenInvalid):
        pages.read(caller, _following(REQUEST, token))


def test_a_token_of_another_filter_is_refused() -> None:
    """A page of failed runs does not go on as a page of all runs."""
    token = pages.issue(CALLER, REQUEST, [1])
    other = _following(REQUEST, token)
    other.ClearField("states")
    with pytest.raises(errors.PageTokenInvalid):
        pages.read(CALLER, other)


def test_the_first_page_has_no_cursor() -> None:
    """No token, no cursor."""
    assert pages.read(CALLER, REQUEST) is None


@pytest.mark.parametrize(("asked", "given_size"), [(0, 100), (7, 7), (1000, 1000), (5000, 1000)])
def test_a_page_has_bounds(asked: int, given_size: int) -> None:
    """0 is 100, and more than 1000 counts as 1000."""
    assert pages.limit(workflows_pb2.ListWorkflowsRequest(page_size=asked)) == given_size


def test_tokens_fit_the_contract_with_the_longest_cursors() -> None:
    """The contract allows 1000 characters."""
    token = pages.issue(CALLER, REQUEST, ["w" * 128, 2**62])
    assert len(token) < 1000
