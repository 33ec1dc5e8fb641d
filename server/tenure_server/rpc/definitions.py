"""Definitions, contract to core and back.

What the core's own check judges is left to it. Refused here is what the core's values cannot hold:
negative spans of time, and numbers that no enum has.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from google.protobuf.message import Message

from tenure.v1 import workflows_pb2
from tenure_server.core import errors
from tenure_server.core.definitions.declared import WAIT_WORDS
from tenure_server.core.definitions.definition import (
    DEPENDENCIES_MAX,
    NO_RETRY,
    TASKS_MAX,
    RetryPolicy,
    WorkflowDefinition,
    WorkflowTask,
)
from tenure_server.core.definitions.features import (
    ITEMS_MAX,
    Approval,
    Backoff,
    Concurrency,
    EventTrigger,
    EventWait,
    ForEach,
    Handler,
    KindSchemas,
    Placement,
    Rate,
    SignalWait,
    Strategy,
    SubWorkflow,
    Timer,
    TriggerRule,
    Wait,
    nothing,
)
from tenure_server.core.definitions.payloads import Payload
from tenure_server.rpc.values import duration, duration_us, fill_payload, payload

#: How often a sub-workflow is repeated until something holds, where nothing is said.
_REPETITIONS = 100

E = TypeVar("E", bound=enum.IntEnum)


# -- from a request


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
    path = "definition"
    return WorkflowDefinition(
        name=message.name,
        description=message.description,
        max_leases=message.max_leases,
        labels=dict(message.labels),
        dimensions=dict(message.dimensions),
        input_schema=_payload(message, "input_schema", path),
        schemas={
            kind: _schemas(pair, f"{path}.schemas[{kind!r}]")
            for kind, pair in message.schemas.items()
        },
        output=_texts(message.output),
        total_timeout_us=_span(message, "total_timeout", path),
        on_failure=_handler(message, "on_failure", path),
        concurrency=_concurrency(message, path),
        events=tuple(map(_event_trigger, message.events)),
        tasks=tuple(
            _task(task, f"{path}.tasks[{index}]") for index, task in enumerate(message.tasks)
        ),
    )


def _task(message: workflows_pb2.WorkflowTask, path: str) -> WorkflowTask:
    return WorkflowTask(
        key=message.key,
        kind=message.kind,
        depends_on=tuple(message.depends_on),
        input=_payload(message, "input", path),
        retry=_retry(message, path),
        attempt_timeout_us=_span(message, "attempt_timeout", path),
        priority=message.priority,
        bindings=_texts(message.bindings),
        when=message.when,
        trigger=_word(TriggerRule, message.trigger, f"{path}.trigger"),
        for_each=_for_each(message),
        wait=_wait(message, path),
        queue_timeout_us=_span(message, "queue_timeout", path),
        total_timeout_us=_span(message, "total_timeout", path),
        heartbeat_timeout_us=_span(message, "heartbeat_timeout", path),
        compensation=_handler(message, "compensation", path),
        weight=message.weight or 1,
        concurrency=_concurrency(message, path),
        rate=_rate(message, path),
        placement=_placement(message),
    )


def _span(message: Message, name: str, path: str) -> int | None:
    if not message.HasField(name):
        return None
    return duration_us(getattr(message, name), f"{path}.{name}")


def _payload(message: Message, name: str, path: str) -> Payload | None:
    return payload(getattr(message, name), f"{path}.{name}") if message.HasField(name) else None


def _texts(fields: Mapping[str, str]) -> Mapping[str, str]:
    return dict(fields) if fields else nothing()


def _word(words: type[E], number: int, path: str) -> E:
    """A value of the contract's enum; nothing said is the first that means something."""
    try:
        return words(number or 1)
    except ValueError:
        reason = f"is {number}, which the contract does not have"
        raise errors.FieldsInvalid([(path, reason)]) from None


def _retry(above: Any, path: str) -> RetryPolicy:
    if not above.HasField("retry"):
        return NO_RETRY
    message: workflows_pb2.RetryPolicy = above.retry
    path = f"{path}.retry"
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
        backoff=_word(Backoff, message.strategy, f"{path}.strategy"),
        total_timeout_us=_span(message, "total_timeout", path),
    )


def _handler(above: Message, name: str, path: str) -> Handler | None:
    if not above.HasField(name):
        return None
    message: workflows_pb2.Handler = getattr(above, name)
    path = f"{path}.{name}"
    return Handler(
        kind=message.kind,
        input=_payload(message, "input", path),
        bindings=_texts(message.bindings),
        retry=_retry(message, path),
        attempt_timeout_us=_span(message, "attempt_timeout", path),
    )


def _schemas(message: workflows_pb2.KindSchemas, path: str) -> KindSchemas:
    return KindSchemas(
        input=_payload(message, "input", path), output=_payload(message, "output", path)
    )


def _for_each(above: workflows_pb2.WorkflowTask) -> ForEach | None:
    if not above.HasField("for_each"):
        return None
    message = above.for_each
    return ForEach(
        items=message.items,
        parallelism=message.parallelism,
        failures_max=message.failures_max,
        items_max=message.items_max or ITEMS_MAX,
    )


def _wait(message: workflows_pb2.WorkflowTask, path: str) -> Wait | None:
    match message.WhichOneof("wait"):
        case "timer":
            delay_us = _span(message.timer, "delay", f"{path}.timer")
            return Timer(delay_us=delay_us, until=message.timer.until)
        case "signal":
            timeout_us = _span(message.signal, "timeout", f"{path}.signal")
            return SignalWait(name=message.signal.name, timeout_us=timeout_us)
        case "event":
            event = message.event
            timeout_us = _span(event, "timeout", f"{path}.event")
            return EventWait(name=event.name, key=event.key, timeout_us=timeout_us)
        case "approval":
            approval, path = message.approval, f"{path}.approval"
            return Approval(
                question=approval.question,
                quorum=approval.quorum or 1,
                approvers=tuple(approval.approvers),
                timeout_us=_span(approval, "timeout", path),
                escalate_after_us=_span(approval, "escalate_after", path),
                escalate_to=tuple(approval.escalate_to),
            )
        case "workflow":
            called = message.workflow
            return SubWorkflow(
                name=called.name,
                version=called.version,
                until=called.until,
                repetitions_max=called.repetitions_max or (_REPETITIONS if called.until else 1),
            )
        case _:
            return None


def _concurrency(above: Any, path: str) -> Concurrency | None:
    if not above.HasField("concurrency"):
        return None
    message: workflows_pb2.Concurrency = above.concurrency
    strategy = _word(Strategy, message.strategy, f"{path}.concurrency.strategy")
    return Concurrency(limit=message.limit, key=message.key, strategy=strategy)


def _rate(above: workflows_pb2.WorkflowTask, path: str) -> Rate | None:
    if not above.HasField("rate"):
        return None
    message = above.rate
    per_us = duration_us(message.per, f"{path}.rate.per")
    return Rate(count=message.count, per_us=per_us, key=message.key)


def _placement(above: workflows_pb2.WorkflowTask) -> Placement | None:
    if not above.HasField("placement"):
        return None
    message = above.placement
    return Placement(
        required=_texts(message.required),
        preferred=_texts(message.preferred),
        sticky=message.sticky,
    )


def _event_trigger(message: workflows_pb2.EventTrigger) -> EventTrigger:
    return EventTrigger(name=message.name, when=message.when, bindings=_texts(message.bindings))


# -- to an answer


def definition_message(value: WorkflowDefinition) -> workflows_pb2.WorkflowDefinition:
    """A definition of the core."""
    message = workflows_pb2.WorkflowDefinition(
        name=value.name,
        description=value.description,
        max_leases=value.max_leases,
        labels=value.labels,
        dimensions=value.dimensions,
        output=value.output,
    )
    for task in value.tasks:
        _fill_task(message.tasks.add(), task)
    if value.input_schema is not None:
        fill_payload(message.input_schema, value.input_schema)
    for kind, pair in value.schemas.items():
        schemas = message.schemas[kind]
        if pair.input is not None:
            fill_payload(schemas.input, pair.input)
        if pair.output is not None:
            fill_payload(schemas.output, pair.output)
    _fill_span(message, "total_timeout", value.total_timeout_us)
    _fill_handler(message, "on_failure", value.on_failure)
    _fill_concurrency(message, value.concurrency)
    for event in value.events:
        message.events.add(name=event.name, when=event.when, bindings=event.bindings)
    return message


def _fill_task(message: workflows_pb2.WorkflowTask, value: WorkflowTask) -> None:
    message.key = value.key
    message.kind = value.kind
    message.depends_on.extend(value.depends_on)
    message.priority = value.priority
    if value.input is not None:
        fill_payload(message.input, value.input)
    _fill_span(message, "attempt_timeout", value.attempt_timeout_us)
    if value.retry != NO_RETRY:
        _fill_retry(message.retry, value.retry)
    message.bindings.update(value.bindings)
    message.when = value.when
    if value.trigger is not TriggerRule.ALL_SUCCEEDED:
        message.trigger = cast("workflows_pb2.TriggerRule.ValueType", int(value.trigger))
    if value.for_each is not None:
        _fill_for_each(message.for_each, value.for_each)
    if value.wait is not None:
        _fill_wait(message, value.wait)
    _fill_span(message, "queue_timeout", value.queue_timeout_us)
    _fill_span(message, "total_timeout", value.total_timeout_us)
    _fill_span(message, "heartbeat_timeout", value.heartbeat_timeout_us)
    _fill_handler(message, "compensation", value.compensation)
    if value.weight != 1:
        message.weight = value.weight
    _fill_concurrency(message, value.concurrency)
    if value.rate is not None:
        rate = value.rate
        message.rate.key, message.rate.count = rate.key, rate.count
        message.rate.per.CopyFrom(duration(rate.per_us))
    if value.placement is not None:
        message.placement.SetInParent()
        message.placement.required.update(value.placement.required)
        message.placement.preferred.update(value.placement.preferred)
        message.placement.sticky = value.placement.sticky


def _fill_span(message: Any, name: str, span_us: int | None) -> None:
    if span_us is not None:
        getattr(message, name).CopyFrom(duration(span_us))


def _fill_retry(message: workflows_pb2.RetryPolicy, value: RetryPolicy) -> None:
    message.max_attempts = value.max_attempts
    message.initial_delay.CopyFrom(duration(value.initial_delay_us))
    message.max_delay.CopyFrom(duration(value.max_delay_us))
    message.multiplier = value.multiplier
    message.jitter = value.jitter
    message.non_retryable_codes.extend(value.non_retryable_codes)
    if value.backoff is not Backoff.EXPONENTIAL:
        message.strategy = cast("workflows_pb2.BackoffStrategy.ValueType", int(value.backoff))
    _fill_span(message, "total_timeout", value.total_timeout_us)


def _fill_handler(above: Any, name: str, value: Handler | None) -> None:
    if value is None:
        return
    message: workflows_pb2.Handler = getattr(above, name)
    message.SetInParent()
    message.kind = value.kind
    if value.input is not None:
        fill_payload(message.input, value.input)
    message.bindings.update(value.bindings)
    if value.retry != NO_RETRY:
        _fill_retry(message.retry, value.retry)
    _fill_span(message, "attempt_timeout", value.attempt_timeout_us)


def _fill_for_each(message: workflows_pb2.ForEach, value: ForEach) -> None:
    message.items = value.items
    message.parallelism = value.parallelism
    message.failures_max = value.failures_max
    message.items_max = value.items_max


def _fill_wait(message: workflows_pb2.WorkflowTask, value: Wait) -> None:
    getattr(message, WAIT_WORDS[type(value)]).SetInParent()
    match value:
        case Timer():
            message.timer.until = value.until
            _fill_span(message.timer, "delay", value.delay_us)
        case SignalWait():
            message.signal.name = value.name
            _fill_span(message.signal, "timeout", value.timeout_us)
        case EventWait():
            message.event.name, message.event.key = value.name, value.key
            _fill_span(message.event, "timeout", value.timeout_us)
        case Approval():
            approval = message.approval
            approval.question, approval.quorum = value.question, value.quorum
            approval.approvers.extend(value.approvers)
            _fill_span(approval, "timeout", value.timeout_us)
            _fill_span(approval, "escalate_after", value.escalate_after_us)
            approval.escalate_to.extend(value.escalate_to)
        case SubWorkflow():
            called = message.workflow
            called.name, called.version, called.until = value.name, value.version, value.until
            called.repetitions_max = value.repetitions_max


def _fill_concurrency(above: Any, value: Concurrency | None) -> None:
    if value is None:
        return
    message: workflows_pb2.Concurrency = above.concurrency
    message.SetInParent()
    message.key, message.limit = value.key, value.limit
    if value.strategy is not Strategy.QUEUE:
        message.strategy = cast("workflows_pb2.ConcurrencyStrategy.ValueType", int(value.strategy))
