"""Refusals and failures of calls, as the client's users see them.

A coordinator says no with a google.rpc.Status in the trailing metadata; here it becomes one
exception with everything a program switches on, and a message for people.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

M = TypeVar("M", bound=Message)

_DETAILS_KEY = "grpc-status-details-bin"


class Violation(NamedTuple):
    """What stands against something that was asked for."""

    #: The law that an article serves, or why a task does not fit, such as `TASK_MISSING`.
    type: str
    #: The article, or the task.
    subject: str
    #: A sentence for people.
    description: str


class TenureError(Exception):
    """A call that did not succeed.

    `reason` is the name of a `tenure.v1.Reason` without its prefix; empty when the answer did not
    come from a coordinator, as when none was reached.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        fields: tuple[tuple[str, str], ...] = (),
        metadata: dict[str, str] | None = None,
        retry_after: float | None = None,
        quotas: tuple[tuple[str, str], ...] = (),
        objections: tuple[Violation, ...] = (),
        correlation_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        #: Pairs of field and what is wrong with it.
        self.fields = fields
        #: What varies in the message, for programs.
        self.metadata = metadata or {}
        #: Seconds after which another try makes sense. None: not told.
        self.retry_after = retry_after
        #: Pairs of subject and limit, for RESOURCE_EXHAUSTED.
        self.quotas = quotas
        #: Of articles, where the constitution denies; of tasks, where a run does not fit into
        #: another version.
        self.objections = objections
        #: Leads to the call in the coordinator's log.
        self.correlation_id = correlation_id

    @property
    def holder(self) -> str | None:
        """The address of the coordinator to ask instead, when this one sent us away."""
        return self.metadata.get("holder") or None if self.reason == "SEAT_ELSEWHERE" else None

    @property
    def decision(self) -> str:
        """The log and the number of the refusal's evidence, such as `dev/42`; empty: not told."""
        return self.metadata.get("decision", "")

    def __str__(self) -> str:
        """One line: message, then each field that the message does not name already."""
        extra = [f"{name}: {text}" for name, text in self.fields if name not in self.message]
        return "; ".join([self.message or self.code.name.lower(), *extra])


def from_rpc(error: grpc.aio.AioRpcError) -> TenureError:
    """Reads the details of a failed call. Details that cannot be read are left out, never fatal."""
    status = _status(error)
    message = error.details() or ""
    facts: dict[str, str] = {}
    fields: list[tuple[str, str]] = []
    quotas: list[tuple[str, str]] = []
    objections: list[Violation] = []
    reason, retry_after = "", None
    for detail in status.details:
        if info := _unpacked(detail, error_details_pb2.ErrorInfo()):
            reason, facts = info.reason, dict(info.metadata)
        elif bad := _unpacked(detail, error_details_pb2.BadRequest()):
            fields += [(fault.field, fault.description) for fault in bad.field_violations]
        elif retry := _unpacked(detail, error_details_pb2.RetryInfo()):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif quota := _unpacked(detail, error_details_pb2.QuotaFailure()):
            quotas += [(fault.subject, fault.description) for fault in quota.violations]
        elif denial := _unpacked(detail, error_details_pb2.PreconditionFailure()):
            objections += [
                Violation(fault.type, fault.subject, fault.description)
                for fault in denial.violations
            ]
    return TenureError(
        error.code(),
        reason,
        message,
        fields=tuple(fields),
        metadata=facts,
        retry_after=retry_after,
        quotas=tuple(quotas),
        objections=tuple(objections),
        correlation_id=_correlation_id(error),
    )


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _unpacked(detail: any_pb2.Any, into: M) -> M | None:
    try:
        return into if detail.Unpack(into) else None
    except DecodeError:
        return None


def _correlation_id(error: grpc.aio.AioRpcError) -> str:
    for key, value in (*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())):
        if key == "x-correlation-id" and isinstance(value, str):
            return value
    return ""
