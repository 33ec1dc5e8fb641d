"""Turns refusals into gRPC statuses: one table, and nobody else decides a code.

On the wire a refusal is a `google.rpc.Status` in the trailing metadata: ErrorInfo for programs,
BadRequest with the fields, RetryInfo where another try makes sense, QuotaFailure with the limit
that was reached, PreconditionFailure with the articles that deny, or with the tasks that stand
against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from tenure.v1 import errors_pb2
from tenure_server.core import errors
from tenure_server.core.evidence import Objection

DOMAIN = "tenure"
DETAILS_KEY = "grpc-status-details-bin"
RETRY_SECONDS = 1
#: Who holds a seat is being read from the store when it is not known.
HOLDER_NANOS = 100_000_000

# Clients refuse metadata of more than 8 KiB, and the status message travels beside the details.
_MESSAGE_BYTES_MAX = 1000
_VIOLATIONS_BYTES_MAX = 3000
_FACT_CHARACTERS_MAX = 200


class MethodUnknown(errors.Refusal):
    """No such method."""


class Internal(errors.Refusal):
    """A fault of the coordinator. What it was stands in the log, never in the answer."""

    def __init__(self, correlation_id: str) -> None:
        super().__init__(
            f"a fault of the coordinator; its log has it under {correlation_id}",
            correlation_id=correlation_id,
        )


class Row(NamedTuple):
    """What one kind of refusal is on the wire."""

    code: grpc.StatusCode
    reason: errors_pb2.Reason.ValueType
    #: Whether the very same call can succeed a little later.
    retry: bool = False


_C = grpc.StatusCode
_R = errors_pb2

TABLE: Mapping[type[errors.Refusal], Row] = {
    errors.CredentialMissing: Row(_C.UNAUTHENTICATED, _R.REASON_CREDENTIAL_MISSING),
    errors.CredentialInvalid: Row(_C.UNAUTHENTICATED, _R.REASON_CREDENTIAL_INVALID),
    errors.RoleMissing: Row(_C.PERMISSION_DENIED, _R.REASON_ROLE_MISSING),
    errors.TenantNotChosen: Row(_C.INVALID_ARGUMENT, _R.REASON_TENANT_NOT_CHOSEN),
    errors.FieldsInvalid: Row(_C.INVALID_ARGUMENT, _R.REASON_FIELD_INVALID),
    errors.GraphInvalid: Row(_C.INVALID_ARGUMENT, _R.REASON_GRAPH_INVALID),
    errors.MetadataInvalid: Row(_C.INVALID_ARGUMENT, _R.REASON_METADATA_INVALID),
    errors.PageTokenInvalid: Row(_C.INVALID_ARGUMENT, _R.REASON_PAGE_TOKEN_INVALID),
    errors.NotFound: Row(_C.NOT_FOUND, _R.REASON_NOT_FOUND),
    errors.AlreadyExists: Row(_C.ALREADY_EXISTS, _R.REASON_ALREADY_EXISTS),
    errors.RequestIdReused: Row(_C.ALREADY_EXISTS, _R.REASON_REQUEST_ID_REUSED),
    errors.RunClosed: Row(_C.FAILED_PRECONDITION, _R.REASON_RUN_CLOSED),
    errors.RunStands: Row(_C.FAILED_PRECONDITION, _R.REASON_RUN_STANDS),
    errors.VersionsDiffer: Row(_C.FAILED_PRECONDITION, _R.REASON_VERSIONS_DIFFER),
    errors.NotApprover: Row(_C.PERMISSION_DENIED, _R.REASON_NOT_APPROVER),
    errors.AgentReplaced: Row(_C.FAILED_PRECONDITION, _R.REASON_AGENT_REPLACED),
    errors.CallDenied: Row(_C.PERMISSION_DENIED, _R.REASON_CALL_DENIED),
    errors.ActDenied: Row(_C.FAILED_PRECONDITION, _R.REASON_ACT_DENIED),
    errors.DefinitionChanged: Row(_C.FAILED_PRECONDITION, _R.REASON_DEFINITION_CHANGED),
    errors.RunsOpen: Row(_C.FAILED_PRECONDITION, _R.REASON_RUNS_OPEN),
    errors.Quarantined: Row(_C.FAILED_PRECONDITION, _R.REASON_QUARANTINED),
    errors.QuotaExceeded: Row(_C.RESOURCE_EXHAUSTED, _R.REASON_QUOTA_EXCEEDED, retry=True),
    errors.SeatElsewhere: Row(_C.UNAVAILABLE, _R.REASON_SEAT_ELSEWHERE, retry=True),
    errors.StoreUnavailable: Row(_C.UNAVAILABLE, _R.REASON_STORE_UNAVAILABLE, retry=True),
    errors.RunChanged: Row(_C.UNAVAILABLE, _R.REASON_RUN_CHANGED, retry=True),
    errors.Overloaded: Row(_C.UNAVAILABLE, _R.REASON_OVERLOADED, retry=True),
    errors.Stopping: Row(_C.UNAVAILABLE, _R.REASON_STOPPING, retry=True),
    Internal: Row(_C.INTERNAL, _R.REASON_INTERNAL),
    MethodUnknown: Row(_C.UNIMPLEMENTED, _R.REASON_METHOD_UNKNOWN),
}


class Answer(NamedTuple):
    """What `context.abort` takes."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def answer(refusal: errors.Refusal) -> Answer:
    """The status of a refusal. A kind that the table lacks is a KeyError, so a fault."""
    row = TABLE[type(refusal)]
    message = _cut(refusal.message, _MESSAGE_BYTES_MAX)
    status = status_pb2.Status(code=row.code.value[0], message=message)
    for detail in _details(refusal, row):
        status.details.add().Pack(detail)
    return Answer(row.code, message, ((DETAILS_KEY, status.SerializeToString()),))


def reason_name(refusal: errors.Refusal) -> str:
    """The reason as programs read it, such as ``NOT_FOUND``."""
    return errors_pb2.Reason.Name(TABLE[type(refusal)].reason).removeprefix("REASON_")


def is_decision(refusal: errors.Refusal) -> bool:
    """Whether a refusal was decided: UNAVAILABLE only says that nobody could."""
    return TABLE[type(refusal)].code is not grpc.StatusCode.UNAVAILABLE


def _details(refusal: errors.Refusal, row: Row) -> list[Message]:
    facts = {
        name: _cut(value, _FACT_CHARACTERS_MAX) for name, value in refusal.facts.items() if value
    }
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=reason_name(refusal), domain=DOMAIN, metadata=facts)
    ]
    if isinstance(refusal, errors.FieldsInvalid):
        details.append(_bad_request(refusal))
    if isinstance(refusal, errors.Denied):
        articles = [_article(one) for one in refusal.objections]
        details.append(_precondition(articles))
    if isinstance(refusal, errors.VersionsDiffer):
        details.append(_precondition(refusal.obstacles))
    if row.retry:
        retry = error_details_pb2.RetryInfo()
        if isinstance(refusal, errors.SeatElsewhere) and not refusal.facts.get("holder"):
            retry.retry_delay.nanos = HOLDER_NANOS
        else:
            retry.retry_delay.seconds = RETRY_SECONDS
        details.append(retry)
    if isinstance(refusal, errors.QuotaExceeded):
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(
            subject=refusal.subject, description=_cut(refusal.message, _MESSAGE_BYTES_MAX)
        )
        details.append(quota)
    return details


def _article(one: Objection) -> tuple[str, str, str]:
    words = one.members()
    return words["law"], f"article {words['id']} ({words['perspective']})", one.sentence


def _precondition(
    violations: Sequence[tuple[str, str, str]],
) -> error_details_pb2.PreconditionFailure:
    detail = error_details_pb2.PreconditionFailure()
    for kind, subject, sentence in violations:
        detail.violations.add(
            type=kind,
            subject=_cut(subject, 500),
            description=_cut(sentence, _MESSAGE_BYTES_MAX),
        )
        if detail.ByteSize() > _VIOLATIONS_BYTES_MAX:
            break
    return detail


def _bad_request(refusal: errors.FieldsInvalid) -> error_details_pb2.BadRequest:
    detail = error_details_pb2.BadRequest()
    for field, reason in refusal.violations:
        detail.field_violations.add(field=_cut(field, 500), description=_cut(reason, 1000))
        if detail.ByteSize() > _VIOLATIONS_BYTES_MAX:
            break
    return detail


def _cut(text: str, bytes_max: int) -> str:
    # gRPC sends the message percent-encoded, so every byte that is not plain ASCII takes three.
    raw = text.encode("utf-8", "replace")
    if len(raw) <= bytes_max and text.isascii():
        return text
    limit = bytes_max if text.isascii() else bytes_max // 2
    if len(raw) <= limit:
        return text
    return raw[:limit].decode("utf-8", "ignore") + "…"
