"""What may be wrong with each thing that a task or a workflow declares.

Every rule gives pairs of field and reason; the field is named from the value that is judged, so
that `under` can say where that lies. Expressions are judged as texts elsewhere, all in one place:
`rules`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import orjson

from tenure_server.core.definitions.features import (
    ITEMS_MAX,
    NO_RETRY,
    REPETITIONS_MAX,
    Approval,
    Concurrency,
    EventTrigger,
    EventWait,
    ForEach,
    Handler,
    Placement,
    Rate,
    RetryPolicy,
    SignalWait,
    SubWorkflow,
    Timer,
    Wait,
)
from tenure_server.core.definitions.payloads import Payload, json_of, payload_problem

DAY_US = 86_400_000_000
#: The longest span that can be asked for: 366 days.
SPAN_MAX_US = 366 * DAY_US
ATTEMPTS_MAX = 100
BINDINGS_MAX = 64
FIELD_CHARACTERS_MAX = 200
QUESTION_CHARACTERS_MAX = 1000
APPROVALS_MAX = 100
APPROVER_CHARACTERS_MAX = 128
PLACEMENT_LABELS_MAX = 16
SCHEMA_BYTES_MAX = 64 << 10

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NAME_RULE = "must be letters, digits, '.', '_', '-', at most 128 of them"

#: Pairs of field and reason.
Violations = Iterator[tuple[str, str]]


def under(path: str, violations: Iterable[tuple[str, str]]) -> Violations:
    """The same violations, named from what lies above."""
    for name, reason in violations:
        yield f"{path}.{name}" if name else path, reason


def span(name: str, span_us: int | None) -> Violations:
    """A span that is declared must be one."""
    if span_us is not None and not 0 < span_us <= SPAN_MAX_US:
        yield name, "must be longer than zero and at most 366 days"


def attempt_timeout(timeout_us: int | None) -> Violations:
    """How long an attempt may take."""
    if timeout_us is not None and not 1000 <= timeout_us <= SPAN_MAX_US:
        yield "attempt_timeout", "must lie between one millisecond and 366 days"


# -- payloads


def input_problem(payload: Payload) -> str | None:
    """Says what is wrong with a task's input, or None.

    It becomes part of the canonical form, so JSON must survive being read and written again.
    """
    problem = payload_problem(payload)
    if problem is not None or not payload.is_json:
        return problem
    try:
        # As deep as it will lie in the canonical form.
        orjson.dumps([[[[json_of(payload)]]]])
    except (TypeError, RecursionError):
        return "is nested too deeply"
    except ValueError as error:
        return str(error)
    return None


def given(payload: Payload | None, *, object_because: str = "") -> Violations:
    """What a handler is given; it must be an object, if anything, where there is a reason."""
    if payload is None:
        return
    if problem := input_problem(payload):
        yield "input", problem
    elif object_because and not _is_object(payload):
        yield "input", f"must be a JSON object, {object_because}"


def schema(payload: Payload) -> str | None:
    """Says why something cannot be a JSON Schema here: too large, or no JSON object."""
    if len(payload.data) > SCHEMA_BYTES_MAX:
        return f"has {len(payload.data)} bytes, at most {SCHEMA_BYTES_MAX} are allowed"
    if problem := input_problem(payload):
        return problem
    return None if _is_object(payload) else "must be a JSON object"


def _is_object(payload: Payload) -> bool:
    return payload.is_json and payload.data.lstrip()[:1] == b"{"


# -- what agents execute


def retry(policy: RetryPolicy) -> Violations:
    """What becomes of failed attempts."""
    if policy is NO_RETRY:
        return
    if not 1 <= policy.max_attempts <= ATTEMPTS_MAX:
        yield "max_attempts", f"must lie between 1 and {ATTEMPTS_MAX}"
    if not 0 <= policy.initial_delay_us <= DAY_US:
        yield "initial_delay", "must lie between zero and one day"
    if not 0 <= policy.max_delay_us <= DAY_US:
        yield "max_delay", "must lie between zero and one day"
    if not 1 <= policy.multiplier <= 10:
        yield "multiplier", "must lie between 1 and 10"
    if not 0 <= policy.jitter <= 1:
        yield "jitter", "must lie between 0 and 1"
    if len(policy.non_retryable_codes) > 64:
        yield "non_retryable_codes", "has more than 64 codes"
    yield from span("total_timeout", policy.total_timeout_us)


def fields(name: str, bindings: Mapping[str, str]) -> Violations:
    """The names of fields that are worked out."""
    if len(bindings) > BINDINGS_MAX:
        yield name, f"has {len(bindings)} fields, at most {BINDINGS_MAX}"
    for word in bindings:
        if not 1 <= len(word) <= FIELD_CHARACTERS_MAX:
            yield name, f"has a field whose name has not 1 to {FIELD_CHARACTERS_MAX} characters"


def handler(value: Handler, *, object_because: str = "") -> Violations:
    """Something that is executed beside the graph."""
    if not NAME.fullmatch(value.kind):
        yield "kind", NAME_RULE
    if value.bindings:
        yield from fields("bindings", value.bindings)
        object_because = object_because or "as fields of it are bound"
    yield from given(value.input, object_because=object_because)
    yield from under("retry", retry(value.retry))
    yield from attempt_timeout(value.attempt_timeout_us)


def for_each(value: ForEach) -> Violations:
    """One task for each item."""
    if value.parallelism < 0:
        yield "parallelism", "must not be negative"
    if value.failures_max < -1:
        yield "failures_max", "must be a number of items, or -1 for any"
    if not 1 <= value.items_max <= ITEMS_MAX:
        yield "items_max", f"must lie between 1 and {ITEMS_MAX}"


def concurrency(value: Concurrency) -> Violations:
    """How much of a key goes on at once."""
    if value.limit < 1:
        yield "limit", "must be at least 1"


def rate(value: Rate) -> Violations:
    """How often something begins."""
    if value.count < 1:
        yield "count", "must be at least 1"
    yield from span("per", value.per_us)


def placement(value: Placement) -> Violations:
    """Which agents."""
    if not (value.required or value.preferred or value.sticky):
        yield "", "says nothing; leave it out"
    for name, labels in (("required", value.required), ("preferred", value.preferred)):
        if len(labels) > PLACEMENT_LABELS_MAX:
            yield name, f"has {len(labels)} labels, at most {PLACEMENT_LABELS_MAX}"
        for word, text in labels.items():
            if not 1 <= len(word) <= 63:
                yield name, "has a word that has not 1 to 63 characters"
            elif len(text) > 255:
                yield f"{name}[{word!r}]", "must have at most 255 characters"


def event_trigger(value: EventTrigger) -> Violations:
    """An event that starts a run."""
    if not NAME.fullmatch(value.name):
        yield "name", NAME_RULE
    yield from fields("bindings", value.bindings)


# -- what tasks wait for


def wait(value: Wait) -> Violations:
    """What a task waits for."""
    match value:
        case Timer():
            if (value.delay_us is None) == (value.until == ""):
                yield "", "must have exactly one of delay and until"
            yield from span("delay", value.delay_us)
        case SignalWait() | EventWait():
            if not NAME.fullmatch(value.name):
                yield "name", NAME_RULE
            yield from span("timeout", value.timeout_us)
        case Approval():
            yield from _approval(value)
        case SubWorkflow():
            yield from _sub_workflow(value)


def _approval(value: Approval) -> Violations:
    if len(value.question) > QUESTION_CHARACTERS_MAX:
        yield "question", f"must have at most {QUESTION_CHARACTERS_MAX} characters"
    if not 1 <= value.quorum <= APPROVALS_MAX:
        yield "quorum", f"must lie between 1 and {APPROVALS_MAX}"
    elif value.approvers and value.quorum > len(set(value.approvers)):
        named = len(set(value.approvers))
        yield "quorum", f"asks for {value.quorum} of the {named} approvers that are named"
    yield from _people("approvers", value.approvers)
    yield from span("timeout", value.timeout_us)
    yield from span("escalate_after", value.escalate_after_us)
    yield from _people("escalate_to", value.escalate_to)
    after_us = value.escalate_after_us
    if value.escalate_to and after_us is None:
        yield "escalate_to", "needs escalate_after"
    if after_us is not None and not value.escalate_to:
        yield "escalate_after", "needs escalate_to"
    if after_us is not None and value.timeout_us is not None and after_us >= value.timeout_us:
        yield "escalate_after", "must be shorter than timeout"


def _people(name: str, people: Sequence[str]) -> Violations:
    if len(people) > APPROVALS_MAX:
        yield name, f"names {len(people)}, at most {APPROVALS_MAX}"
    for index, person in enumerate(people):
        if not 1 <= len(person) <= APPROVER_CHARACTERS_MAX:
            yield f"{name}[{index}]", f"must have 1 to {APPROVER_CHARACTERS_MAX} characters"
    if len(set(people)) != len(people):
        yield name, "names somebody twice"


def _sub_workflow(value: SubWorkflow) -> Violations:
    if not NAME.fullmatch(value.name):
        yield "name", NAME_RULE
    if value.version < 0:
        yield "version", "must not be negative"
    if not 1 <= value.repetitions_max <= REPETITIONS_MAX:
        yield "repetitions_max", f"must lie between 1 and {REPETITIONS_MAX}"
    elif value.repetitions_max > 1 and not value.until:
        yield "repetitions_max", "needs until"
