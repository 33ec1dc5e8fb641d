"""How the tests of the services read a refusal, and a coordinator on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from tests.conftest import LiveCoordinator, serving


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal as a client reads it."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    #: Type, subject and description of each precondition that failed.
    preconditions: list[tuple[str, str, str]] = field(default_factory=list)


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads the details of a status."""
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    unmet = error_details_pb2.PreconditionFailure()
    for detail in status_pb2.Status.FromString(raw).details:
        detail.Unpack(info)
        detail.Unpack(bad)
        detail.Unpack(unmet)
    fields = {it.field: it.description for it in bad.field_violations}
    return Refusal(
        error.code(),
        info.reason,
        error.details() or "",
        fields,
        dict(info.metadata),
        [(it.type, it.subject, it.description) for it in unmet.violations],
    )


Refused = Callable[[Awaitable[Any]], Awaitable[Refusal]]


@pytest.fixture
def refused() -> Refused:
    """Awaits a call that has to be refused: ``refusal = await refused(calls.runs.GetRun(…))``."""

    async def refused(call: Awaitable[Any]) -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        return read_refusal(raised.value)

    return refused


@pytest.fixture
async def on_either(either_url: str, tmp_path: Path) -> AsyncIterator[LiveCoordinator]:
    """A coordinator on each of the databases."""
    async with serving(either_url, tmp_path) as live:
        yield live
