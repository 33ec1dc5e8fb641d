"""Declarations to messages of the contract, checked on the way.

Each function takes the path of what it turns in a workflow file, and raises DefinitionError with
the path of the culprit beneath it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenure.v1 import workflows_pb2
from tenure_client import declarations, rules
from tenure_client.graph import DefinitionError, Path

PLACEMENT_LABELS_MAX = 16
EVENTS_MAX = 16
KINDS_WITH_SCHEMAS_MAX = 256


def retry(path: Path, value: declarations.Retry | None) -> workflows_pb2.RetryPolicy | None:
    """What becomes of failed attempts."""
    if value is None:
        return None
    rules.number((*path, "max_attempts"), value.max_attempts, 0, 100)
    if value.multiplier != 0:
        rules.number((*path, "multiplier"), value.multiplier, 1, 10)
    if value.jitter is not None:
        rules.number((*path, "jitter"), value.jitter, 0, 1)
    codes = list(value.non_retryable_codes)
    if len(codes) > 64:
        raise DefinitionError((*path, "non_retryable_codes"), "must have at most 64 codes")
    words = workflows_pb2.BackoffStrategy
    return workflows_pb2.RetryPolicy(
        max_attempts=value.max_attempts,
        initial_delay=rules.span((*path, "initial_delay"), value.initial_delay),
        max_delay=rules.span((*path, "max_delay"), value.max_delay),
        multiplier=value.multiplier,
        jitter=value.jitter,
        non_retryable_codes=codes,
        strategy=rules.word((*path, "strategy"), value.strategy, words, "BACKOFF_STRATEGY_"),
        total_timeout=rules.lasting((*path, "total_timeout"), value.total_timeout),
    )


def handler(
    path: Path, value: declarations.Handler | None, *, object_because: str = ""
) -> workflows_pb2.Handler | None:
    """Something that is executed beside the graph."""
    if value is None:
        return None
    because = object_because or (value.bind and "as fields of it are bound") or ""
    return workflows_pb2.Handler(
        kind=rules.name((*path, "kind"), value.kind),
        input=rules.content((*path, "input"), value.input, object_because=because),
        bindings=rules.bindings((*path, "bind"), value.bind),
        retry=retry((*path, "retry"), value.retry),
        attempt_timeout=rules.span((*path, "attempt_timeout"), value.attempt_timeout),
    )


def for_each(path: Path, value: declarations.ForEach | None) -> workflows_pb2.ForEach | None:
    """One task for each item."""
    if value is None:
        return None
    rules.number((*path, "parallelism"), value.parallelism, 0, rules.INT32_MAX)
    rules.number((*path, "failures_max"), value.failures_max, -1, rules.INT32_MAX)
    rules.number((*path, "items_max"), value.items_max, 0, 10_000)
    return workflows_pb2.ForEach(
        items=rules.expression((*path, "items"), value.items),
        parallelism=value.parallelism,
        failures_max=value.failures_max or None,
        items_max=value.items_max,
    )


def concurrency(
    path: Path, value: declarations.Concurrency | None
) -> workflows_pb2.Concurrency | None:
    """How much of a key goes on at once."""
    if value is None:
        return None
    rules.number((*path, "limit"), value.limit, 1, rules.INT32_MAX)
    words = workflows_pb2.ConcurrencyStrategy
    return workflows_pb2.Concurrency(
        key=rules.optional((*path, "key"), value.key),
        limit=value.limit,
        strategy=rules.word((*path, "strategy"), value.strategy, words, "CONCURRENCY_STRATEGY_"),
    )


def rate(path: Path, value: declarations.Rate | None) -> workflows_pb2.Rate | None:
    """How often something begins."""
    if value is None:
        return None
    rules.number((*path, "count"), value.count, 1, rules.INT32_MAX)
    return workflows_pb2.Rate(
        key=rules.optional((*path, "key"), value.key),
        count=value.count,
        per=rules.lasting((*path, "per"), value.per),
    )


def placement(path: Path, value: declarations.Placement | None) -> workflows_pb2.Placement | None:
    """Which agents."""
    if value is None:
        return None
    if not (value.required or value.preferred or value.sticky):
        raise DefinitionError(path, "says nothing; leave it out")
    return workflows_pb2.Placement(
        required=rules.labels((*path, "required"), value.required, PLACEMENT_LABELS_MAX),
        preferred=rules.labels((*path, "preferred"), value.preferred, PLACEMENT_LABELS_MAX),
        sticky=value.sticky,
    )


def event_trigger(path: Path, value: declarations.EventTrigger) -> workflows_pb2.EventTrigger:
    """An event that starts a run."""
    return workflows_pb2.EventTrigger(
        name=rules.name((*path, "name"), value.name),
        when=rules.optional((*path, "when"), value.when),
        bindings=rules.bindings((*path, "bind"), value.bind),
    )


def schemas(
    path: Path, given: Mapping[str, declarations.Schemas]
) -> dict[str, workflows_pb2.KindSchemas]:
    """JSON Schemas by kind."""
    if len(given) > KINDS_WITH_SCHEMAS_MAX:
        reason = f"must be at most {KINDS_WITH_SCHEMAS_MAX} kinds, are {len(given)}"
        raise DefinitionError(path, reason)
    found = {}
    for kind, pair in given.items():
        here: Path = (*path, kind)
        found[kind] = workflows_pb2.KindSchemas(
            input=rules.schema((*here, "input"), pair.input),
            output=rules.schema((*here, "output"), pair.output),
        )
        if not found[kind].ListFields():
            raise DefinitionError(here, "must have input, output, or both")
    return found


# -- what tasks wait for


def timer(path: Path, value: declarations.Timer) -> workflows_pb2.Timer:
    """A time to come."""
    if (value.delay is None) == (value.until == ""):
        raise DefinitionError(path, "must have exactly one of delay and until")
    return workflows_pb2.Timer(
        delay=rules.lasting((*path, "delay"), value.delay),
        until=rules.optional((*path, "until"), value.until),
    )


def signal(path: Path, value: declarations.Signal) -> workflows_pb2.SignalWait:
    """A signal to the run."""
    return workflows_pb2.SignalWait(
        name=rules.name((*path, "name"), value.name),
        timeout=rules.lasting((*path, "timeout"), value.timeout),
    )


def event(path: Path, value: declarations.Event) -> workflows_pb2.EventWait:
    """An event of the tenant."""
    return workflows_pb2.EventWait(
        name=rules.name((*path, "name"), value.name),
        key=rules.optional((*path, "key"), value.key),
        timeout=rules.lasting((*path, "timeout"), value.timeout),
    )


def approval(path: Path, value: declarations.Approval) -> workflows_pb2.Approval:
    """The consent of people."""
    rules.number((*path, "quorum"), value.quorum, 0, 100)
    made = workflows_pb2.Approval(
        question=rules.text((*path, "question"), value.question, 1000),
        quorum=value.quorum,
        approvers=rules.people((*path, "approvers"), value.approvers),
        timeout=rules.lasting((*path, "timeout"), value.timeout),
        escalate_after=rules.lasting((*path, "escalate_after"), value.escalate_after),
        escalate_to=rules.people((*path, "escalate_to"), value.escalate_to),
    )
    named = len(made.approvers)
    if named and value.quorum > named:
        reason = f"asks for {value.quorum} of the {named} approvers that are named"
        raise DefinitionError((*path, "quorum"), reason)
    escalates = made.HasField("escalate_after")
    if escalates != bool(made.escalate_to):
        has, needs = ("escalate_after", "escalate_to")[:: 1 if escalates else -1]
        raise DefinitionError((*path, has), f"needs {needs}")
    if escalates and made.HasField("timeout"):
        after, most = made.escalate_after, made.timeout
        if (after.seconds, after.nanos) >= (most.seconds, most.nanos):
            raise DefinitionError((*path, "escalate_after"), "must be shorter than timeout")
    return made


def sub_workflow(path: Path, value: declarations.SubWorkflow) -> workflows_pb2.SubWorkflow:
    """Runs of another workflow."""
    rules.number((*path, "version"), value.version, 0, rules.INT32_MAX)
    rules.number((*path, "repetitions_max"), value.repetitions_max, 0, 10_000)
    if value.repetitions_max > 1 and not value.until:
        raise DefinitionError((*path, "repetitions_max"), "needs until")
    return workflows_pb2.SubWorkflow(
        name=rules.name((*path, "name"), value.name),
        version=value.version,
        until=rules.optional((*path, "until"), value.until),
        repetitions_max=value.repetitions_max,
    )


def wait(path: Path, value: declarations.Wait) -> dict[str, Any]:
    """What a task waits for: the field of its message, by name."""
    match value:
        case declarations.Timer():
            return {"timer": timer((*path, "timer"), value)}
        case declarations.Signal():
            return {"signal": signal((*path, "signal"), value)}
        case declarations.Event():
            return {"event": event((*path, "event"), value)}
        case declarations.Approval():
            return {"approval": approval((*path, "approval"), value)}
        case declarations.SubWorkflow():
            return {"workflow": sub_workflow((*path, "workflow"), value)}
