"""A definition is identified by its content, read back as it was, and refused by name."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.core.world import flow, task

from tenure_constitution.dimensions import NAMES
from tenure_server.core import errors
from tenure_server.core.definitions import definition
from tenure_server.core.definitions.definition import (
    NO_RETRY,
    Payload,
    RetryPolicy,
    WorkflowDefinition,
    WorkflowTask,
    parse,
    payload_problem,
)

# What JSON can hold and a canonical form keeps: integers of 64 bits, finite floats.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
STATEMENT = TEXT.filter(str.strip)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
POLICIES = st.just(NO_RETRY) | st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 100),
    initial_delay_us=st.integers(0, definition.DAY_US),
    max_delay_us=st.integers(0, definition.DAY_US),
    multiplier=st.floats(1, 10),
    jitter=st.floats(0, 1),
    non_retryable_codes=st.lists(TEXT, max_size=3).map(tuple),
)
INPUTS = (
    st.none()
    | JSON.map(lambda value: Payload(orjson.dumps(value)))
    | st.builds(Payload, st.binary(max_size=20), st.just("application/octet-stream"))
)


@st.composite
def definitions(draw: st.DrawFn) -> WorkflowDefinition:
    """Any definition that passes its check."""
    tasks = []
    for number in range(draw(st.integers(1, 6))):
        upstream = draw(st.sets(st.integers(0, max(0, number - 1)), max_size=3))
        tasks.append(
            WorkflowTask(
                key=f"t{number}",
                kind=draw(st.sampled_from(["work", "play"])),
                depends_on=tuple(f"t{up}" for up in sorted(upstream) if up < number),
                input=draw(INPUTS),
                retry=draw(POLICIES),
                attempt_timeout_us=draw(st.none() | st.integers(1000, definition.DAY_US)),
                priority=draw(st.integers(-1000, 1000)),
            )
        )
    return WorkflowDefinition(
        name="flow",
        tasks=tuple(tasks),
        description=draw(TEXT),
        max_leases=draw(st.integers(0, 1 << 31)),
        labels=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        dimensions=draw(st.dictionaries(st.sampled_from(NAMES), STATEMENT, max_size=3)),
    )


@given(definitions())
def test_a_definition_is_read_back_from_its_canonical_form(one: WorkflowDefinition) -> None:
    one.check()
    again = parse(one.canonical())
    assert again.canonical() == one.canonical()
    assert again.digest() == one.digest()
    assert (again.name, again.description, again.labels) == (one.name, one.description, one.labels)
    assert again.dimensions == one.dimensions
    for before, after in zip(one.tasks, again.tasks, strict=True):
        assert _content(after) == _content(before)


def _content(one: WorkflowTask) -> Any:
    payload = one.input
    if payload is not None and payload.is_json:
        payload = Payload(orjson.dumps(orjson.loads(payload.data), option=orjson.OPT_SORT_KEYS))
    return (
        (one.key, one.kind, one.depends_on, one.priority),
        (one.attempt_timeout_us, one.retry, payload),
    )


@given(JSON)
def test_how_json_was_written_leaves_no_trace(value: Any) -> None:
    one = flow(task("a", input=Payload(orjson.dumps(value))))
    pretty = json.dumps(_reversed(value), indent=3, ensure_ascii=True).encode()
    other = flow(task("a", input=Payload(pretty, "application/json")))
    assert one.digest() == other.digest()


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(one) for one in value] if isinstance(value, list) else value


DIFFERENT = [
    flow(task("a")),
    flow(task("a"), name="other"),
    flow(task("a"), max_leases=1),
    flow(task("b")),
    flow(task("a", kind="play")),
    flow(task("a", priority=1)),
    flow(task("a", attempt_timeout_us=5000)),
    flow(task("a", retry=RetryPolicy(max_attempts=2))),
    flow(task("a", retry=RetryPolicy(max_attempts=2, non_retryable_codes=("E",)))),
    flow(task("a", input=Payload(b"null"))),
    flow(task("a", input=Payload(b"1"))),
    flow(task("a", input=Payload(b"1.0"))),
    flow(task("a", input=Payload(b'"1"'))),
    flow(task("a", input=Payload(b"18446744073709551615"))),
    flow(task("a", input=Payload(b"18446744073709551614"))),
    flow(task("a", input=Payload(b"-9223372036854775808"))),
    flow(task("a", input=Payload(b"1", "text/plain"))),
    flow(task("a", input=Payload(b"1", "text/csv"))),
    flow(task("a"), task("b")),
    flow(task("a"), task("b", "a")),
    flow(task("b"), task("a")),
    WorkflowDefinition(name="flow", tasks=(task("a"),), description="x"),
    WorkflowDefinition(name="flow", tasks=(task("a"),), labels={"x": "y"}),
    WorkflowDefinition(name="flow", tasks=(task("a"),), dimensions={"risk": "low"}),
    WorkflowDefinition(name="flow", tasks=(task("a"),), dimensions={"scope": "low"}),
]


def test_different_contents_have_different_digests() -> None:
    for one in DIFFERENT:
        one.check()
    assert len({one.digest() for one in DIFFERENT}) == len(DIFFERENT)


def test_the_digest_of_a_definition_never_changes() -> None:
    # Stored runs name it: a release that computed another one would not find their workflows.
    one = flow(task("a", input=Payload(b'{"n": 1.0, "a": [1]}')), task("b", "a", priority=3))
    assert one.canonical() == (
        b'{"description":"","labels":{},"max_leases":0,"name":"flow","tasks":['
        b'{"attempt_timeout_us":null,"depends_on":[],"input":{"a":[1],"n":1.0},"key":"a",'
        b'"kind":"work","priority":0},'
        b'{"attempt_timeout_us":null,"depends_on":["a"],"key":"b","kind":"work","priority":3}]}'
    )
    digest = "sha256:6f744f2cb08f405375fbe449b516da822301158cdfb24af19633dfa08a3a26c2"
    assert one.digest() == digest


def bad(name: str, **options: Any) -> Any:
    """A definition whose second task breaks one rule, and the field that has to be named."""
    second: dict[str, Any] = {"key": "b", "kind": "work", **options}
    return pytest.param(
        flow(task("a"), WorkflowTask(**second)),
        f"definition.tasks[1].{name}",
        id=f"{name}-{next(iter(options.values()))!r}"[:50],
    )


def retry(name: str, **options: Any) -> Any:
    """The same for a retry policy."""
    return bad(f"retry.{name}", retry=RetryPolicy(**options))


def declaring(name: str, statement: str) -> WorkflowDefinition:
    """A definition that says one thing of itself."""
    return WorkflowDefinition(name="flow", tasks=(task("a"),), dimensions={name: statement})


BAD = [
    pytest.param(flow(task("a"), name=""), "definition.name", id="no name"),
    pytest.param(flow(task("a"), name="a b"), "definition.name", id="white space in name"),
    pytest.param(flow(task("a"), name="a" * 129), "definition.name", id="long name"),
    pytest.param(flow(task("a"), name="a\n"), "definition.name", id="line end in name"),
    pytest.param(flow(task("a"), max_leases=-1), "definition.max_leases", id="negative limit"),
    pytest.param(flow(), "definition.tasks", id="no tasks"),
    pytest.param(declaring("rsik", "low"), "definition.dimensions['rsik']", id="no dimension"),
    pytest.param(declaring("risk", " "), "definition.dimensions['risk']", id="blank statement"),
    pytest.param(
        declaring("risk", "x" * 1001), "definition.dimensions['risk']", id="long statement"
    ),
    bad("key", key=""),
    bad("key", key="a b"),
    bad("key", key="a\x00"),
    bad("key", key="k" * 201),
    bad("kind", kind=""),
    bad("kind", kind="-x"),
    bad("kind", kind="ü"),
    bad("priority", priority=1001),
    bad("priority", priority=-1001),
    bad("attempt_timeout", attempt_timeout_us=999),
    bad("attempt_timeout", attempt_timeout_us=definition.ATTEMPT_TIMEOUT_MAX_US + 1),
    bad("input", input=Payload(b"")),
    bad("input", input=Payload(b"{'a': 1}")),
    bad("input", input=Payload(b"NaN")),
    bad("input", input=Payload(b"1e999")),
    bad("input", input=Payload(b'"\\ud800"')),
    bad("input", input=Payload(b"[" * 2000)),
    bad("input", input=Payload(b"[" * 253 + b"]" * 253)),
    bad("input", input=Payload(b"18446744073709551616")),
    bad("input", input=Payload(b'{"a": [-9223372036854775809]}')),
    bad("input", input=Payload(b"1" * 5000)),
    bad("input", input=Payload(b" " * (1 << 20) + b"1")),
    bad("input", input=Payload(b"x", "t" * 128)),
    retry("max_attempts", max_attempts=0),
    retry("max_attempts", max_attempts=101),
    retry("initial_delay", initial_delay_us=-1),
    retry("initial_delay", initial_delay_us=definition.DAY_US + 1),
    retry("max_delay", max_delay_us=-1),
    retry("max_delay", max_delay_us=definition.DAY_US + 1),
    retry("multiplier", multiplier=0.9),
    retry("multiplier", multiplier=float("nan")),
    retry("multiplier", multiplier=float("inf")),
    retry("jitter", jitter=-0.1),
    retry("jitter", jitter=1.1),
    retry("jitter", jitter=float("nan")),
    retry("non_retryable_codes", non_retryable_codes=("E",) * 65),
]


@pytest.mark.parametrize(("one", "field"), BAD)
def test_a_violation_is_named_with_its_field(one: WorkflowDefinition, field: str) -> None:
    with pytest.raises(errors.FieldsInvalid) as refused:
        one.check()
    assert [name for name, _ in refused.value.violations] == [field]
    assert not isinstance(refused.value, errors.GraphInvalid)


def test_all_violations_are_named_together_up_to_twenty() -> None:
    tasks = [task("a b", kind="") for _ in range(30)]
    with pytest.raises(errors.FieldsInvalid) as refused:
        flow(*tasks, name="").check()
    fields = [name for name, _ in refused.value.violations]
    assert fields[:3] == ["definition.name", "definition.tasks[0].key", "definition.tasks[0].kind"]
    assert len(fields) == 20


def test_bounds_themselves_are_allowed() -> None:
    edge = RetryPolicy(
        max_attempts=100,
        initial_delay_us=0,
        max_delay_us=definition.DAY_US,
        multiplier=10,
        jitter=1,
        non_retryable_codes=("E",) * 64,
    )
    deep = Payload(b"[" * 240 + b"]" * 240)
    one = flow(
        task("k" * 200, kind="k" * 128, priority=1000, attempt_timeout_us=1000, retry=edge),
        task("ключ", priority=-1000, attempt_timeout_us=definition.ATTEMPT_TIMEOUT_MAX_US),
        task("deep", input=deep),
        task("full", input=Payload(b" " * ((1 << 20) - 1) + b"1")),
        name="n" * 128,
    )
    assert len(one.check().keys) == 4
    assert parse(one.canonical()).digest() == one.digest()


def test_a_task_too_many_is_refused() -> None:
    tasks = [task(f"t{number}") for number in range(definition.TASKS_MAX + 1)]
    assert len(flow(*tasks[:-1]).check().keys) == definition.TASKS_MAX
    with pytest.raises(errors.FieldsInvalid, match="20001 tasks, at most 20000"):
        flow(*tasks).check()


def test_a_dependency_too_many_is_refused() -> None:
    sources = [task(f"s{number}") for number in range(500)]
    names = tuple(source.key for source in sources)
    sinks = [task(f"t{number}", *names) for number in range(400)]
    assert flow(*sources, *sinks).check().dependency_count == definition.DEPENDENCIES_MAX
    with pytest.raises(errors.FieldsInvalid, match="200001 dependencies, at most 200000"):
        flow(*sources, *sinks, task("last", "s0")).check()


def test_an_input_of_ten_megabytes_is_refused() -> None:
    with pytest.raises(errors.FieldsInvalid) as refused:
        flow(task("a", input=Payload(b"x" * 10_000_000, "text/plain"))).check()
    [(field, reason)] = refused.value.violations
    assert field == "definition.tasks[0].input"
    assert reason == "has 10000000 bytes, at most 1048576 are allowed"


def test_inputs_that_are_too_large_together_are_refused() -> None:
    full = Payload(b"x" * (1 << 20), "text/plain")
    tasks = [task(f"t{number}", input=full) for number in range(16)]
    flow(*tasks).check()
    with pytest.raises(errors.FieldsInvalid) as refused:
        flow(*tasks, task("more", input=Payload(b"1"))).check()
    assert [name for name, _ in refused.value.violations] == ["definition.tasks"]


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (Payload(b"{}"), None),
        (Payload(b"18446744073709551616"), None),
        (Payload(b"\xff", "text/plain"), None),
        (Payload(b"\xff"), "is not JSON"),
        (Payload(b"{", "application/json"), "is not JSON"),
        (Payload(b"1 2"), "is not JSON"),
        (Payload(b"x" * ((1 << 20) + 1), "text/plain"), "at most 1048576"),
        (Payload(b"x", "t" * 128), "more than 127 characters"),
    ],
)
def test_a_payload_is_judged_by_size_and_form(payload: Payload, problem: str | None) -> None:
    found = payload_problem(payload)
    assert found is None if problem is None else problem in str(found)
