"""The client's canonical form is the coordinator's, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from tests.proto import declarations
from tests.proto.declarations import DATA, SPANS
from tests.server.core.definitions.test_definition import TEXT

from tenure.v1 import payload_pb2, workflows_pb2
from tenure_client import canonical, workflow_file
from tenure_client.graph import DefinitionError
from tenure_constitution.dimensions import NAMES
from tenure_server.core import errors
from tenure_server.core.definitions.definition import parse
from tenure_server.rpc import convert

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [*ROOT.glob("examples/**/*.yaml"), *ROOT.glob("benchmarks/**/*.json")],
)
WORKFLOWS = [path for path in FILES if "tasks:" in path.read_text(encoding="utf-8")]

#: What a program in another language may send: JSON as a tree, where all numbers are floats.
TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**60), 2**60).map(float)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def _tree(value: Any) -> payload_pb2.Payload:
    made = payload_pb2.Payload()
    json_format.ParseDict(value, made.value)
    return made


RETRIES = st.builds(
    workflows_pb2.RetryPolicy,
    max_attempts=st.integers(0, 100),
    initial_delay=st.none() | SPANS,
    max_delay=st.none() | SPANS,
    multiplier=st.just(0.0) | st.floats(1, 10),
    jitter=st.none() | st.floats(0, 1),
    non_retryable_codes=st.lists(TEXT, max_size=2),
)
TASKS = st.builds(
    workflows_pb2.WorkflowTask,
    key=TEXT,
    kind=TEXT,
    depends_on=st.lists(TEXT, max_size=3),
    input=st.none() | DATA | st.builds(_tree, TREES) | st.just(payload_pb2.Payload()),
    retry=st.none() | RETRIES,
    attempt_timeout=st.none() | SPANS,
    priority=st.integers(-1000, 1000),
)
DEFINITIONS = st.builds(
    workflows_pb2.WorkflowDefinition,
    name=TEXT,
    description=TEXT,
    max_leases=st.integers(0, 2**31 - 1),
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    dimensions=st.dictionaries(st.sampled_from(NAMES), TEXT, max_size=3),
    tasks=st.lists(TASKS, max_size=4),
)


@given(DEFINITIONS)
def test_both_sides_make_the_same_bytes_of_any_definition(
    definition: workflows_pb2.WorkflowDefinition,
) -> None:
    there = convert.definition(definition)
    assert canonical.encode(definition) == there.canonical()
    assert canonical.digest(definition) == there.digest()


@given(declarations.DEFINITIONS)
def test_both_sides_make_the_same_bytes_of_whatever_can_be_declared(
    definition: workflows_pb2.WorkflowDefinition,
) -> None:
    there = convert.definition(definition)
    assert canonical.encode(definition) == there.canonical()
    assert parse(there.canonical()).canonical() == there.canonical()
    back = convert.definition_message(there)
    assert convert.definition(back).canonical() == there.canonical()


def test_a_number_that_no_enum_has_is_refused_on_both_sides() -> None:
    definition = workflows_pb2.WorkflowDefinition(name="w")
    definition.tasks.add(key="a", kind="k").trigger = 99  # type: ignore[assignment]
    reason = "is 99, which the contract does not have"
    with pytest.raises(DefinitionError, match=rf"tasks\[0\]\.trigger: {reason}"):
        canonical.form(definition)
    with pytest.raises(errors.FieldsInvalid, match=rf"definition\.tasks\[0\]\.trigger: {reason}"):
        convert.definition(definition)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.parent.name)
def test_both_sides_make_the_same_bytes_of_the_examples(path: Path) -> None:
    definition = workflow_file.read(path)
    assert canonical.encode(definition) == convert.definition(definition).canonical()


def test_an_input_that_is_no_json_is_refused_with_its_place() -> None:
    definition = workflows_pb2.WorkflowDefinition(name="w")
    definition.tasks.add(key="a", kind="k").input.data = b"{"
    with pytest.raises(DefinitionError, match=r"tasks\[0\]\.input: is not JSON"):
        canonical.form(definition)
