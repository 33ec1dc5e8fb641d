"""Contract to core and back: with `frames` the only module that knows both.

What comes in is bounded and typed already by the gates; what they cannot see is refused here, with
the path of the field. Times are whole microseconds below this floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from tenure.v1 import access_pb2, payload_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_server.core import errors, records
from tenure_server.core.definition import (
    DEPENDENCIES_MAX,
    NO_RETRY,
    TASKS_MAX,
    Payload,
    RetryPolicy,
    WorkflowDefinition,
    WorkflowTask,
    payload_problem,
)
from tenure_server.core.lifecycle import Failure, RunState, TaskState

SECOND_US = 1_000_000
#: Bounds of the well-known types, in seconds.
_DURATION_SECONDS_MAX = 315_576_000_000
_TIMESTAMP_SECONDS_MAX = 253_402_300_799
#: Up to here a float holds every whole number.
_WHOLE_MAX = 2**53
_NO_FAILURE = Failure("")


# -- times


def timestamp(at_us: int) -> Timestamp:
    """A time of the core."""
    seconds, rest = divmod(at_us, SECOND_US)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def duration(span_us: int) -> Duration:
    """A span of the core."""
    seconds, rest = divmod(span_us, SECOND_US)
    return Duration(seconds=seconds, nanos=rest * 1000)


def timestamp_us(message: Timestamp, path: str) -> int:
    """A time of a request, cut to whole microseconds. Raises FieldsInvalid before 1970."""
    if not (0 <= message.seconds <= _TIMESTAMP_SECONDS_MAX and 0 <= message.nanos < 10**9):
        raise errors.FieldsInvalid([(path, "must be a time from 1970 to 9999")])
    return message.seconds * SECOND_US + message.nanos // 1000


def duration_us(message: Duration, path: str) -> int:
    """A span of a request, cut to whole microseconds. Raises FieldsInvalid for a negative one."""
    if not (0 <= message.seconds <= _DURATION_SECONDS_MAX and 0 <= message.nanos < 10**9):
        raise errors.FieldsInvalid([(path, "must be a duration that is not negative")])
    return message.seconds * SECOND_US + message.nanos // 1000


# -- payloads


def payload(message: payload_pb2.Payload, path: str) -> Payload | None:
    """A payload of a request, its size and syntax not yet judged; None where it has no content.

    Raises FieldsInvalid for a value that is no JSON, and a content type that is not printable.
    """
    match message.WhichOneof("body"):
        case "data":
            if message.content_type:
                _check_content_type(message.content_type, path)
            return Payload(message.data, message.content_type)
        case "value":
            if message.content_type not in ("", "application/json"):
                reason = "must be empty or application/json beside a value"
                raise errors.FieldsInvalid([(f"{path}.content_type", reason)])
            value = _plain(message.value, f"{path}.value")
            return Payload(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        case _:
            return None


def checked_payload(message: payload_pb2.Payload, path: str) -> Payload | None:
    """As `payload`, and raises FieldsInvalid when it is too large or does not parse."""
    found = payload(message, path)
    if found is not None and (problem := payload_problem(found)):
        raise errors.FieldsInvalid([(path, problem)])
    return found


def fill_payload(message: payload_pb2.Payload, value: Payload) -> None:
    """Writes a payload of the core into a message."""
    message.data = value.data
    if value.content_type:
        message.content_type = value.content_type


def _check_content_type(text: str, path: str) -> None:
    if not (text.isascii() and text.isprintable()):
        raise errors.FieldsInvalid([(f"{path}.content_type", "must be printable ASCII")])


def _plain(value: Value, path: str) -> Any:
    """The JSON of a Value. Whole numbers become integers, which is what people mean by them."""
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            if number.is_integer() and abs(number) <= _WHOLE_MAX:
                return int(number)
            if number - number != 0:  # only NaN and the infinities are not zero here
                raise errors.FieldsInvalid([(path, "is not a number that JSON has")])
            return number
        case "list_value":
            return [
                _plain(item, f"{path}[{index}]")
                for index, item in enumerate(value.list_value.values)
            ]
        case "struct_value":
            fields = value.struct_value.fields
            return {name: _plain(fields[name], f"{path}.{name}") for name in fields}
        case _:
            raise errors.FieldsInvalid([(path, "has no kind")])


# -- definitions


def definition(message: workflows_pb2.WorkflowDefinition) -> WorkflowDefinition:
    """A definition of a request; what the core's own check judges is left to it.

    Raises FieldsInvalid at once for one over the limits, before it costs anything.
    """
    if len(message.tasks) > TASKS_MAX:
        reason = f"has {len(message.tasks)} tasks, at most {TASKS_MAX}"
        raise errors.FieldsInvalid([("definition.tasks", reason)])
    dependencies = sum(len(task.depends_on) for task in message.tasks)
    if dependencies > DEPENDENCIES_MAX:
        reason = f"have {dependencies} dependencies, at most {DEPENDENCIES_MAX}"
        raise errors.FieldsInvalid([("definition.tasks", reason)])
    return WorkflowDefinition(
        name=message.name,
        description=message.description,
        max_leases=message.max_leases,
        labels=dict(message.labels),
        dimensions=dict(message.dimensions),
        tasks=tuple(
            _task(task, f"definition.tasks[{index}]") for index, task in enumerate(message.tasks)
        ),
    )


def _task(message: workflows_pb2.WorkflowTask, path: str) -> WorkflowTask:
    timeout_us = None
    if message.HasField("attempt_timeout"):
        timeout_us = duration_us(message.attempt_timeout, f"{path}.attempt_timeout")
    return WorkflowTask(
        key=message.key,
        kind=message.kind,
        depends_on=tuple(message.depends_on),
        input=payload(message.input, f"{path}.input") if message.HasField("input") else None,
        retry=_retry(message.retry, f"{path}.retry") if message.HasField("retry") else NO_RETRY,
        attempt_timeout_us=timeout_us,
        priority=message.priority,
    )


def _retry(message: workflows_pb2.RetryPolicy, path: str) -> RetryPolicy:
    initial_us, max_us = NO_RETRY.initial_delay_us, NO_RETRY.max_delay_us
    if message.HasField("initial_delay"):
        initial_us = duration_us(message.initial_delay, f"{path}.initial_delay")
    if message.HasField("max_delay"):
        max_us = duration_us(message.max_delay, f"{path}.max_delay")
    return RetryPolicy(
        max_attempts=message.max_attempts or NO_RETRY.max_attempts,
        initial_delay_us=initial_us,
        max_delay_us=max_us,
        multiplier=message.multiplier or NO_RETRY.multiplier,
        jitter=message.jitter if message.HasField("jitter") else NO_RETRY.jitter,
        non_retryable_codes=tuple(message.non_retryable_codes),
    )


def definition_message(value: WorkflowDefinition) -> workflows_pb2.WorkflowDefinition:
    """A definition of the core."""
    message = workflows_pb2.WorkflowDefinition(
        name=value.name,
        description=value.description,
        max_leases=value.max_leases,
        labels=value.labels,
        dimensions=value.dimensions,
    )
    for task in value.tasks:
        part = message.tasks.add(
            key=task.key, kind=task.kind, depends_on=task.depends_on, priority=task.priority
        )
        if task.input is not None:
            fill_payload(part.input, task.input)
        if task.attempt_timeout_us is not None:
            part.attempt_timeout.CopyFrom(duration(task.attempt_timeout_us))
        if task.retry != NO_RETRY:
            _fill_retry(part.retry, task.retry)
    return message


def _fill_retry(message: workflows_pb2.RetryPolicy, value: RetryPolicy) -> None:
    message.max_attempts = value.max_attempts
    message.initial_delay.CopyFrom(duration(value.initial_delay_us))
    message.max_delay.CopyFrom(duration(value.max_delay_us))
    message.multiplier = value.multiplier
    message.jitter = value.jitter
    message.non_retryable_codes.extend(value.non_retryable_codes)


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
        ),
        correlation_id=value.correlation_id,
        started_by=value.started_by,
        reason=value.reason,
    )
    if value.start_us is not None:
        message.start_time.CopyFrom(timestamp(value.start_us))
    if value.end_us is not None:
        message.end_time.CopyFrom(timestamp(value.end_us))
    if with_input and value.input is not None:
        fill_payload(message.input, value.input)
    return message


def task_message(
    run_id: str,
    node: WorkflowTask,
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
        kind=node.kind,
        state=cast("runs_pb2.TaskState.ValueType", int(state)),
        depends_on=node.depends_on,
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
    if progress is not None and state is TaskState.LEASED:
        message.progress, message.progress_message = progress
    if with_output and row.output is not None:
        fill_payload(message.output, row.output)
    return message


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
