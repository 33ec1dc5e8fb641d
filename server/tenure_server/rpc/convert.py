"""Contract to core and back: with `definitions` and `frames` the only modules that know both.

What comes in is bounded and typed already by the gates; what they cannot see is refused here, with
the path of the field. Times are whole microseconds below this floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import orjson

from tenure.v1 import access_pb2, pauses_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_server.core.definitions.definition import WorkflowDefinition, WorkflowTask
from tenure_server.core.definitions.features import (
    Approval,
    EventWait,
    SignalWait,
    SubWorkflow,
    Timer,
)
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState
from tenure_server.rpc.definitions import definition as definition
from tenure_server.rpc.definitions import definition_message as definition_message
from tenure_server.rpc.values import SECOND_US as SECOND_US
from tenure_server.rpc.values import checked_payload as checked_payload
from tenure_server.rpc.values import duration as duration
from tenure_server.rpc.values import duration_us as duration_us
from tenure_server.rpc.values import fill_payload as fill_payload
from tenure_server.rpc.values import payload as payload
from tenure_server.rpc.values import timestamp as timestamp
from tenure_server.rpc.values import timestamp_us as timestamp_us

_NO_FAILURE = Failure("")


# -- workflows


def workflow_message(
    value: records.Workflow, content: WorkflowDefinition | None = None
) -> workflows_pb2.Workflow:
    """A registered version, with its definition where it is given."""
    message = workflows_pb2.Workflow(
        name=value.name,
        version=value.version,
        digest=value.digest,
        task_count=value.task_count,
        dependency_count=value.dependency_count,
        create_time=timestamp(value.create_us),
        created_by=value.created_by,
    )
    if content is not None:
        message.definition.CopyFrom(definition_message(content))
    return message


def pause_message(value: records.Pause) -> pauses_pb2.Pause:
    """Why a workflow or a tenant is paused."""
    return pauses_pb2.Pause(
        reason=value.reason, pause_time=timestamp(value.pause_us), paused_by=value.paused_by
    )


# -- tenants and keys


def tenant_message(value: records.Tenant, quarantine: str = "") -> tenants_pb2.Tenant:
    """A tenant, and why it is stopped."""
    return tenants_pb2.Tenant(
        tenant_id=value.tenant_id,
        display_name=value.display_name,
        max_leases=value.max_leases,
        weight=value.weight,
        create_time=timestamp(value.create_us),
        quarantine=quarantine,
    )


def api_key_message(
    value: records.ApiKey, visible: Sequence[str] | None = None
) -> tenants_pb2.ApiKey:
    """A key; of its tenants only the visible ones, where these are given."""
    message = tenants_pb2.ApiKey(
        api_key_id=value.api_key_id,
        name=value.name,
        roles=cast("list[access_pb2.Role.ValueType]", sorted(int(role) for role in value.roles)),
        tenant_ids=[name for name in value.tenant_ids if visible is None or name in visible],
        create_time=timestamp(value.create_us),
    )
    if value.expire_us is not None:
        message.expire_time.CopyFrom(timestamp(value.expire_us))
    if value.revoke_us is not None:
        message.revoke_time.CopyFrom(timestamp(value.revoke_us))
    return message


# -- runs


def run_message(
    value: records.Run, counts: records.Counts, *, with_input: bool = False
) -> runs_pb2.Run:
    """A run with its tasks counted."""
    message = runs_pb2.Run(
        run_id=value.run_id,
        tenant_id=value.tenant_id,
        workflow=value.workflow,
        workflow_version=value.workflow_version,
        workflow_digest=value.workflow_digest,
        constitution_digest=value.constitution_digest,
        state=run_state(value.state),
        priority=value.priority,
        labels=value.labels,
        create_time=timestamp(value.create_us),
        tasks=runs_pb2.TaskCounts(
            total=counts.total,
            waiting=counts.waiting,
            ready=counts.ready,
            leased=counts.leased,
            retrying=counts.retrying,
            succeeded=counts.succeeded,
            failed=counts.failed,
            upstream_failed=counts.upstream_failed,
            cancelled=counts.cancelled,
            skipped=counts.skipped,
            active=counts.active,
        ),
        correlation_id=value.correlation_id,
        started_by=value.started_by,
        reason=value.reason,
        parent_run_id=value.parent_run_id,
        parent_task_key=value.parent_task,
    )
    if value.start_us is not None:
        message.start_time.CopyFrom(timestamp(value.start_us))
    if value.end_us is not None:
        message.end_time.CopyFrom(timestamp(value.end_us))
    if value.deadline_us is not None:
        message.deadline_time.CopyFrom(timestamp(value.deadline_us))
    if with_input and value.detail is not None:
        for one in records.earlier_versions(orjson.loads(value.detail)):
            message.earlier_versions.add(
                workflow_version=one.version,
                workflow_digest=one.digest,
                until_sequence=one.until_sequence,
                until_time=timestamp(one.until_us),
            )
    if with_input and value.input is not None:
        fill_payload(message.input, value.input)
    if with_input and value.output is not None:
        fill_payload(message.output, value.output)
    return message


class Node(NamedTuple):
    """A task of a run: items of a list have keys of their own and share a declaration."""

    key: str
    task: WorkflowTask


def task_message(
    run_id: str,
    node: Node,
    state: TaskState,
    row: records.Task | None,
    *,
    progress: tuple[float, str] | None = None,
    with_output: bool = False,
) -> runs_pb2.Task:
    """A task from its definition, its state, and its row where it has one."""
    message = runs_pb2.Task(
        run_id=run_id,
        key=node.key,
        kind=node.task.kind,
        state=cast("runs_pb2.TaskState.ValueType", int(state)),
        depends_on=node.task.depends_on,
    )
    if row is None:
        return message
    message.attempt = row.attempt
    message.term = row.term
    message.agent = row.agent
    if row.lease_us is not None:
        message.lease_time.CopyFrom(timestamp(row.lease_us))
    if row.end_us is not None:
        message.end_time.CopyFrom(timestamp(row.end_us))
    if row.retry_us is not None and state is TaskState.RETRYING:
        message.retry_time.CopyFrom(timestamp(row.retry_us))
    if row.failure is not None and row.failure != _NO_FAILURE:
        message.failure.CopyFrom(_failure_message(row.failure))
    if row.detail is not None:
        _fill_wait(message, node.task, orjson.loads(row.detail), state)
    if progress is not None and state is TaskState.LEASED:
        message.progress, message.progress_message = progress
    if with_output and row.output is not None:
        fill_payload(message.output, row.output)
    return message


def _fill_wait(
    message: runs_pb2.Task, task: WorkflowTask, detail: dict[str, Any], state: TaskState
) -> None:
    """Says what a task waits for, until when, and which run it is."""
    message.child_run_id = detail.get("child", "")
    if state is not TaskState.ACTIVE:
        return
    match task.wait:
        case Timer():
            message.waits_for = "timer"
        case SignalWait(name=name):
            message.waits_for = f"signal {name}"
        case EventWait(name=name):
            message.waits_for = f"event {name} {detail.get('key', '')}".rstrip()
        case SubWorkflow(name=name):
            message.waits_for = f"workflow {name}"
        case Approval(question=question):
            message.waits_for = question or "approval"
    if detail.get("due") is not None:
        message.due_time.CopyFrom(timestamp(detail["due"]))


def _failure_message(value: Failure) -> runs_pb2.Failure:
    return runs_pb2.Failure(
        code=value.code, message=value.message, non_retryable=value.non_retryable
    )


def run_state(value: RunState) -> runs_pb2.RunState.ValueType:
    """A state of a run."""
    return cast("runs_pb2.RunState.ValueType", int(value))


def event_message(value: records.Event) -> runs_pb2.RunEvent:
    """One event of a run."""
    return runs_pb2.RunEvent(
        sequence=value.sequence,
        time=timestamp(value.at_us),
        kind=cast("runs_pb2.RunEventKind.ValueType", int(value.kind)),
        task_key=value.task_key,
        attempt=value.attempt,
        term=value.term,
        agent=value.agent,
        message=value.message,
        code=value.code,
    )
