"""Contract to core and back: nothing is lost, and what cannot be is refused by its path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import yaml
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import ListValue, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as some

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, workflows_pb2
from tenure_client.builder import Workflow
from tenure_client.workflow_file import read_text
from tenure_server.core import errors
from tenure_server.core.definitions.definition import (
    DAY_US,
    NO_RETRY,
    Payload,
    RetryPolicy,
    WorkflowDefinition,
    WorkflowTask,
)
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import (
    EventKind,
    Failure,
    RunState,
    Standing,
    TaskState,
    Verdict,
)
from tenure_server.rpc import convert

spans_us = some.integers(0, 366 * DAY_US)
words = some.text(max_size=20)
names = some.text("abcXYZ019", min_size=1, max_size=8)
payloads = some.builds(
    Payload, some.binary(max_size=50), some.sampled_from(["", "application/json", "image/png"])
)
retries = some.builds(
    RetryPolicy,
    max_attempts=some.integers(1, 100),
    initial_delay_us=spans_us,
    max_delay_us=spans_us,
    multiplier=some.floats(1, 10),
    jitter=some.floats(0, 1),
    non_retryable_codes=some.lists(words, max_size=3).map(tuple),
)
tasks = some.builds(
    WorkflowTask,
    key=words,
    kind=names,
    depends_on=some.lists(words, max_size=4).map(tuple),
    input=some.none() | payloads,
    retry=some.just(NO_RETRY) | retries,
    attempt_timeout_us=some.none() | spans_us,
    priority=some.integers(-1000, 1000),
)
definitions = some.builds(
    WorkflowDefinition,
    name=names,
    tasks=some.lists(tasks, max_size=6).map(tuple),
    description=words,
    max_leases=some.integers(0, 1000),
    labels=some.dictionaries(words, words, max_size=3),
    dimensions=some.dictionaries(words, words, max_size=3),
)
json_values = some.recursive(
    some.none()
    | some.booleans()
    | words
    | some.integers(-(2**53), 2**53)
    | some.floats(allow_nan=False, allow_infinity=False),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@given(definitions)
def test_a_definition_comes_back_as_it_went(definition: WorkflowDefinition) -> None:
    """So its digest is the same on both sides of the wire."""
    message = convert.definition_message(definition)
    parsed = workflows_pb2.WorkflowDefinition.FromString(message.SerializeToString())
    assert convert.definition(parsed) == definition


@pytest.mark.parametrize("form", ["yaml", "json", "builder"])
def test_a_definition_has_its_digest_however_it_was_written(form: str) -> None:
    """The statements of dimensions count, and are the same in a file and in the builder."""
    says = {"risk": "Low.", "stakeholders": "The data team."}
    value = {"name": "w", "dimensions": says, "tasks": [{"key": "a", "kind": "k"}]}
    builder = Workflow("w", dimensions=says)
    builder.task("a", kind="k")
    message = {
        "yaml": lambda: read_text(yaml.safe_dump(value), name="w", json=False),
        "json": lambda: read_text(orjson.dumps(value).decode(), name="w", json=True),
        "builder": builder.definition,
    }[form]()
    plain = WorkflowDefinition(name="w", tasks=(WorkflowTask(key="a", kind="k"),), dimensions=says)
    assert convert.definition(message).digest() == plain.digest()


def test_what_a_definition_leaves_out_has_its_defaults() -> None:
    """An unset policy is no retry; a policy of which nothing is set is the same."""
    message = workflows_pb2.WorkflowDefinition(name="w")
    message.tasks.add(key="a", kind="k")
    message.tasks.add(key="b", kind="k").retry.SetInParent()
    bare, empty = convert.definition(message).tasks
    assert bare == WorkflowTask(key="a", kind="k")
    assert empty.retry == NO_RETRY
    zero = message.tasks[1].retry
    zero.jitter = 0
    zero.initial_delay.SetInParent()
    asked = convert.definition(message).tasks[1].retry
    assert (asked.jitter, asked.initial_delay_us) == (0, 0)


def test_a_definition_over_the_limits_is_refused_before_it_costs_anything() -> None:
    """The tasks are counted, not converted: the bad duration in them is never reached."""
    message = workflows_pb2.WorkflowDefinition(name="w")
    message.tasks.add(key="a", kind="k").attempt_timeout.seconds = -1
    message.tasks.extend([workflows_pb2.WorkflowTask(key="b", kind="k")] * 20_000)
    assert _violation(lambda: convert.definition(message)) == (
        "definition.tasks",
        "has 20001 tasks, at most 20000",
    )
    del message.tasks[1:]
    message.tasks[0].depends_on.extend(["b"] * 200_001)
    assert _violation(lambda: convert.definition(message)) == (
        "definition.tasks",
        "have 200001 dependencies, at most 200000",
    )


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("attempt_timeout", {"attempt_timeout": "-1s"}),
        ("retry.initial_delay", {"retry": {"initial_delay": "-0.5s"}}),
        ("retry.max_delay", {"retry": {"max_delay": "-3s"}}),
    ],
)
def test_a_negative_duration_names_its_field(path: str, field: dict[str, Any]) -> None:
    """The path leads to the very task."""
    message = workflows_pb2.WorkflowDefinition(name="w")
    message.tasks.add(key="a", kind="k")
    message.tasks.append(ParseDict({"key": "b", "kind": "k", **field}, message.tasks.add()))
    found, reason = _violation(lambda: convert.definition(message))
    assert found == f"definition.tasks[1].{path}"
    assert reason == "must be a duration that is not negative"


@given(some.integers(0, 4_102_444_800_000_000))
def test_times_come_back_as_they_went(at_us: int) -> None:
    """Whole microseconds survive the wire."""
    assert convert.timestamp_us(convert.timestamp(at_us), "t") == at_us
    assert convert.duration_us(convert.duration(at_us), "d") == at_us
    assert convert.timestamp(at_us).ToMicroseconds() == at_us


@given(some.integers(-(2**63), 2**63 - 1), some.integers(-(2**31), 2**31 - 1))
def test_any_time_is_taken_or_refused(seconds: int, nanos: int) -> None:
    """No pair of numbers gets through as something it is not, and none is a fault."""
    whole = seconds >= 0 and 0 <= nanos < 10**9
    _taken_if(
        whole and seconds <= 253_402_300_799,
        lambda: convert.timestamp_us(Timestamp(seconds=seconds, nanos=nanos), "at"),
        seconds * 10**6 + nanos // 1000,
    )
    _taken_if(
        whole and seconds <= 315_576_000_000,
        lambda: convert.duration_us(Duration(seconds=seconds, nanos=nanos), "at"),
        seconds * 10**6 + nanos // 1000,
    )


def _taken_if(allowed: bool, read: Callable[[], int], expected: int) -> None:
    if allowed:
        assert read() == expected
    else:
        assert _violation(read)[0] == "at"


@given(json_values)
def test_a_value_for_people_becomes_the_json_it_looks_like(value: Any) -> None:
    """Whole numbers are integers again, and the bytes are canonical."""
    message = payload_pb2.Payload(value=ParseDict(value, Value()))
    found = convert.payload(message, "input")
    assert found is not None
    assert found.content_type == ""
    assert orjson.loads(found.data) == _with_whole_numbers(value)
    assert found.data == orjson.dumps(_with_whole_numbers(value), option=orjson.OPT_SORT_KEYS)


def _with_whole_numbers(value: Any) -> Any:
    match value:
        case float() if value.is_integer() and abs(value) <= 2**53:
            return int(value)
        case list():
            return [_with_whole_numbers(item) for item in value]
        case dict():
            return {key: _with_whole_numbers(item) for key, item in value.items()}
        case _:
            return value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_names_its_place(number: float) -> None:
    """Also deep inside."""
    value = Value(list_value=ListValue(values=[Value(number_value=1), Value(number_value=number)]))
    message = payload_pb2.Payload(value=value)
    assert _violation(lambda: convert.payload(message, "input")) == (
        "input.value[1]",
        "is not a number that JSON has",
    )


def test_a_value_without_a_kind_is_refused() -> None:
    """It is not null: null is a kind."""
    message = payload_pb2.Payload(value=Value())
    assert _violation(lambda: convert.payload(message, "in")) == ("in.value", "has no kind")
    found = convert.payload(payload_pb2.Payload(value=Value(null_value=0)), "in")  # type: ignore[arg-type]
    assert found == Payload(b"null")


def test_no_body_is_no_content() -> None:
    """It differs from empty bytes and from null."""
    assert convert.payload(payload_pb2.Payload(), "input") is None
    found = convert.payload(payload_pb2.Payload(data=b"", content_type="a/b"), "input")
    assert found == Payload(b"", "a/b")


@given(payloads)
def test_bytes_and_content_type_are_kept_as_they_are(value: Payload) -> None:
    """The coordinator does not rewrite what programs send."""
    message = payload_pb2.Payload()
    convert.fill_payload(message, value)
    assert convert.payload(message, "input") == value


@pytest.mark.parametrize(
    ("message", "path", "reason"),
    [
        (payload_pb2.Payload(data=b"{"), "input", "is not JSON"),
        (payload_pb2.Payload(data=b""), "input", "is not JSON"),
        (payload_pb2.Payload(data=b"x" * (2**20 + 1), content_type="a/b"), "input", "1048577"),
        (
            payload_pb2.Payload(data=b"", content_type="a/" + "b" * 126),
            "input",
            "content_type has more than 127",
        ),
        (
            payload_pb2.Payload(data=b"", content_type="a/\0"),
            "input.content_type",
            "printable ASCII",
        ),
        (
            payload_pb2.Payload(value=Value(bool_value=True), content_type="image/png"),
            "input.content_type",
            "must be empty or application/json",
        ),
    ],
)
def test_a_payload_that_cannot_be_kept_is_refused(
    message: payload_pb2.Payload, path: str, reason: str
) -> None:
    """With its field and why."""
    found, why = _violation(lambda: convert.checked_payload(message, "input"))
    assert found == path
    assert reason in why


def _violation(act: Any) -> tuple[str, str]:
    with pytest.raises(errors.FieldsInvalid) as raised:
        act()
    [violation] = raised.value.violations
    return violation


TASK = records.Task(
    run_id="r",
    task_index=0,
    task_key="a",
    state=TaskState.RETRYING,
    attempt=2,
    term=3,
    lost=0,
    agent="host",
    holder="k",
    token_hash=None,
    lease_us=1_000_000,
    end_us=None,
    retry_us=2_500_000,
    result_hash=None,
    failure=Failure("BOOM", "it broke", True),
    output=Payload(b"1"),
    checkpoint=None,
)
NODE = convert.Node("a", WorkflowTask(key="a", kind="k", depends_on=("b",)))


def test_a_task_shows_its_row() -> None:
    """Attempt, term, agent, times and failure; the output only where it is asked for."""
    message = convert.task_message("r", NODE, TaskState.RETRYING, TASK)
    assert (message.attempt, message.term, message.agent) == (2, 3, "host")
    assert message.lease_time.seconds == 1
    assert message.retry_time.ToMicroseconds() == 2_500_000
    assert not message.HasField("end_time")
    assert (message.failure.code, message.failure.message) == ("BOOM", "it broke")
    assert message.failure.non_retryable
    assert not message.HasField("output")
    shown = convert.task_message("r", NODE, TaskState.RETRYING, TASK, with_output=True)
    assert shown.output.data == b"1"


def test_a_task_without_a_row_shows_where_it_stands() -> None:
    """Nothing happened to it yet."""
    message = convert.task_message("r", NODE, TaskState.WAITING, None)
    assert message == runs_pb2.Task(
        run_id="r", key="a", kind="k", state=runs_pb2.TASK_STATE_WAITING, depends_on=["b"]
    )


def test_numbers_of_states_are_the_contracts() -> None:
    """Core and contract count alike, so that a cast is enough."""
    for mine, prefix, contract in (
        (RunState, "RUN_STATE_", runs_pb2.RunState),
        (TaskState, "TASK_STATE_", runs_pb2.TaskState),
        (EventKind, "RUN_EVENT_KIND_", runs_pb2.RunEventKind),
        (Verdict, "VERDICT_", agents_pb2.Verdict),
        (Standing, "STANDING_", agents_pb2.Standing),
        (records.AgentPresence, "AGENT_STATE_", agents_pb2.AgentState),
    ):
        declared = {name.removeprefix(prefix): number for name, number in contract.items()}
        assert {it.name: it.value for it in mine} == {
            name: number for name, number in declared.items() if number
        }
