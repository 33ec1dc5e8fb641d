"""Rows to core values and back.

Rows come as the driver has them, in the order of the column lists here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from tenure_server.core.definitions.definition import Payload
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState
from tenure_server.core.ledger.records import (
    Answer,
    ApiKey,
    Checkpoint,
    ConstitutionVersion,
    Event,
    Pause,
    Role,
    Run,
    Seat,
    Task,
    Tenant,
    Workflow,
)
from tenure_server.store import evidence_tables, tables

Row = Sequence[Any]

# Looking a number up takes a fifth of the time of calling the enumeration.
_TASK_STATES = {int(state): state for state in TaskState}
_RUN_STATES = {int(state): state for state in RunState}
_EVENT_KINDS = {int(kind): kind for kind in EventKind}


def _columns(table: type[tables.Table], *names: str) -> tuple[Any, ...]:
    return tuple(getattr(table, name) for name in names)


TENANT = _columns(tables.Tenant, "tenant_id", "display_name", "max_leases", "weight", "create_us")


def tenant(row: Row) -> Tenant:
    """A tenant from the columns `TENANT`."""
    return Tenant(
        tenant_id=row[0], display_name=row[1], max_leases=row[2], weight=row[3], create_us=row[4]
    )


def tenant_row(value: Tenant) -> dict[str, Any]:
    """A tenant as a row."""
    return {
        "tenant_id": value.tenant_id,
        "display_name": value.display_name,
        "max_leases": value.max_leases,
        "weight": value.weight,
        "create_us": value.create_us,
    }


PAUSE = _columns(tables.Pause, "workflow", "reason", "pause_us", "paused_by")


def pause(row: Row) -> Pause:
    """A pause from the columns `PAUSE`."""
    return Pause(workflow=row[0], reason=row[1], pause_us=row[2], paused_by=row[3])


SEAT = _columns(tables.Seat, "tenant_id", "holder", "address", "term", "until_us")


def seat(row: Row) -> Seat:
    """A seat from the columns `SEAT`."""
    return Seat(tenant_id=row[0], holder=row[1], address=row[2], term=row[3], until_us=row[4])


def seat_row(value: Seat) -> dict[str, Any]:
    """A seat as a row."""
    return {
        "tenant_id": value.tenant_id,
        "holder": value.holder,
        "address": value.address,
        "term": value.term,
        "until_us": value.until_us,
    }


API_KEY = _columns(
    tables.ApiKey,
    "api_key_id",
    "name",
    "secret_hash",
    "roles",
    "create_us",
    "expire_us",
    "revoke_us",
)


def api_key(row: Row, tenant_ids: Iterable[str]) -> ApiKey:
    """A key from the columns `API_KEY` and its tenants."""
    return ApiKey(
        api_key_id=row[0],
        name=row[1],
        secret_hash=bytes(row[2]),
        roles=frozenset(role for role in Role if row[3] >> role & 1),
        tenant_ids=tuple(sorted(tenant_ids)),
        create_us=row[4],
        expire_us=row[5],
        revoke_us=row[6],
    )


def api_key_row(value: ApiKey) -> dict[str, Any]:
    """A key as a row; its tenants are rows of their own."""
    return {
        "api_key_id": value.api_key_id,
        "name": value.name,
        "secret_hash": value.secret_hash,
        "roles": sum(1 << role for role in value.roles),
        "create_us": value.create_us,
        "expire_us": value.expire_us,
        "revoke_us": value.revoke_us,
    }


#: A workflow without its canonical bytes.
WORKFLOW = _columns(
    tables.WorkflowDefinition,
    "tenant_id",
    "name",
    "version",
    "digest",
    "task_count",
    "dependency_count",
    "create_us",
    "created_by",
)
WORKFLOW_CANONICAL = (*WORKFLOW, tables.WorkflowDefinition.canonical)


def workflow(row: Row) -> Workflow:
    """A workflow from the columns `WORKFLOW` or `WORKFLOW_CANONICAL`."""
    return Workflow(
        tenant_id=row[0],
        name=row[1],
        version=row[2],
        digest=row[3],
        task_count=row[4],
        dependency_count=row[5],
        create_us=row[6],
        created_by=row[7],
        canonical=row[8] if len(row) > 8 else b"",
    )


def workflow_row(value: Workflow) -> dict[str, Any]:
    """A workflow as a row."""
    return {
        "tenant_id": value.tenant_id,
        "name": value.name,
        "version": value.version,
        "digest": value.digest,
        "task_count": value.task_count,
        "dependency_count": value.dependency_count,
        "create_us": value.create_us,
        "created_by": value.created_by,
        "canonical": value.canonical,
    }


CONSTITUTION = _columns(
    tables.Constitution,
    "tenant_id",
    "version",
    "digest",
    "canonical",
    "create_us",
    "created_by",
)


def constitution(row: Row) -> ConstitutionVersion:
    """A version from the columns `CONSTITUTION`."""
    return ConstitutionVersion(
        tenant_id=row[0],
        version=row[1],
        digest=row[2],
        canonical=bytes(row[3]),
        create_us=row[4],
        created_by=row[5],
    )


def constitution_row(value: ConstitutionVersion) -> dict[str, Any]:
    """A version as a row."""
    return {
        "tenant_id": value.tenant_id,
        "version": value.version,
        "digest": value.digest,
        "canonical": value.canonical,
        "create_us": value.create_us,
        "created_by": value.created_by,
    }


#: A run without its input.
RUN = _columns(
    tables.WorkflowRun,
    "tenant_id",
    "run_id",
    "workflow",
    "workflow_version",
    "workflow_digest",
    "state",
    "priority",
    "labels",
    "correlation_id",
    "started_by",
    "reason",
    "task_count",
    "succeeded",
    "failed",
    "upstream_failed",
    "cancelled",
    "create_us",
    "start_us",
    "end_us",
    "constitution_digest",
    "skipped",
    "parent_run_id",
    "parent_task",
    "deadline_us",
    "detail",
)
RUN_INPUT = (
    *RUN,
    *_columns(tables.WorkflowRun, "input", "input_type", "output", "output_type"),
)


def run_state(number: int) -> RunState:
    """A state by its number."""
    return _RUN_STATES[number]


def run(row: Row) -> Run:
    """A run from the columns `RUN` or `RUN_INPUT`."""
    return Run(
        tenant_id=row[0],
        run_id=row[1],
        workflow=row[2],
        workflow_version=row[3],
        workflow_digest=row[4],
        state=_RUN_STATES[row[5]],
        priority=row[6],
        labels=orjson.loads(row[7]),
        correlation_id=row[8],
        started_by=row[9],
        reason=row[10],
        task_count=row[11],
        succeeded=row[12],
        failed=row[13],
        upstream_failed=row[14],
        cancelled=row[15],
        create_us=row[16],
        start_us=row[17],
        end_us=row[18],
        constitution_digest=row[19],
        skipped=row[20],
        parent_run_id=row[21],
        parent_task=row[22],
        deadline_us=row[23],
        detail=row[24],
        input=payload(row[25], row[26]) if len(row) > 25 else None,
        output=payload(row[27], row[28]) if len(row) > 27 else None,
    )


#: A task without what it carries.
TASK = _columns(
    tables.WorkflowTask,
    "run_id",
    "task_index",
    "task_key",
    "state",
    "attempt",
    "term",
    "lost",
    "agent",
    "holder",
    "token_hash",
    "lease_us",
    "end_us",
    "retry_us",
    "result_hash",
    "failure_code",
    "failure_message",
    "detail",
)
TASK_CHECKPOINT = _columns(tables.WorkflowTask, "checkpoint", "checkpoint_type")
TASK_PAYLOADS = (
    *TASK,
    *TASK_CHECKPOINT,
    *_columns(tables.WorkflowTask, "output", "output_type"),
)


def task(row: Row) -> Task:
    """A task from the columns `TASK`, of `TASK_CHECKPOINT` too, or `TASK_PAYLOADS`."""
    return Task(
        run_id=row[0],
        task_index=row[1],
        task_key=row[2],
        state=_TASK_STATES[row[3]],
        attempt=row[4],
        term=row[5],
        lost=row[6],
        agent=row[7],
        holder=row[8],
        token_hash=row[9],
        lease_us=row[10],
        end_us=row[11],
        retry_us=row[12],
        result_hash=row[13],
        failure=None if row[14] is None else Failure(row[14], row[15] or ""),
        detail=row[16],
        checkpoint=payload(row[17], row[18]) if len(row) > 17 else None,
        output=payload(row[19], row[20]) if len(row) > 19 else None,
    )


EVENT = _columns(
    tables.WorkflowExecutionLog,
    "run_id",
    "sequence",
    "at_us",
    "kind",
    "task_key",
    "attempt",
    "term",
    "agent",
    "code",
    "message",
)


def event(row: Row) -> Event:
    """An event from the columns `EVENT`."""
    return Event(
        run_id=row[0],
        sequence=row[1],
        at_us=row[2],
        kind=_EVENT_KINDS[row[3]],
        task_key=row[4],
        attempt=row[5],
        term=row[6],
        agent=row[7],
        code=row[8],
        message=row[9],
    )


ANSWER = _columns(tables.Request, "tenant_id", "request_id", "method", "digest", "response")


def answer(row: Row) -> Answer:
    """An answer from the columns `ANSWER`."""
    return Answer(method=row[2], digest=row[3], response=row[4])


def payload(data: bytes | None, content_type: str | None) -> Payload | None:
    """A payload from its two columns, or None where there is none."""
    return None if data is None else Payload(data, content_type or "")


CHECKPOINT = _columns(evidence_tables.EvidenceCheckpoint, "tenant_id", "size", "note", "create_us")


def checkpoint(row: Row) -> Checkpoint:
    """A checkpoint from the columns `CHECKPOINT`."""
    return Checkpoint(tenant_id=row[0], size=row[1], note=row[2], create_us=row[3])


def checkpoint_row(value: Checkpoint) -> dict[str, Any]:
    """A checkpoint as a row."""
    return {
        "tenant_id": value.tenant_id,
        "size": value.size,
        "note": value.note,
        "create_us": value.create_us,
    }
