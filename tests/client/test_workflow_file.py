"""Workflow files: what is read, what is refused and in which words, and that all forms are one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenure.v1 import workflows_pb2
from tenure_client import workflow_file
from tenure_client.builder import Retry, Workflow
from tenure_client.graph import DefinitionError

YAML = """
# counts words
name: word-count
description: Counts words.
max_leases: 4
labels: {owner: data, since: 2024-01-01, country: "no"}
dimensions: {risk: Low., ethics: "No people."}
tasks:
  - key: split
    kind: split-text
    input: {path: corpus.txt, sizes: [1, 2.5, 9007199254740993], "on": yes, flag: true, gone: null}
  - key: count-1
    kind: count-words
    depends_on: [split]
    priority: 5
    attempt_timeout: 1h30m
    retry:
      max_attempts: 3
      initial_delay: 500ms
      max_delay: 1m
      multiplier: 2
      jitter: 0.2
      non_retryable_codes: [ValueError]
  - {key: count-2, kind: count-words, depends_on: [split], input: null, attempt_timeout: 0.25}
  - key: merge
    kind: merge-counts
    depends_on: [count-1, count-2]
"""

INPUT = {
    "flag": True,
    "gone": None,
    "sizes": [1, 2.5, 9007199254740993],
    "path": "corpus.txt",
    "on": "yes",
}

AS_JSON = {
    "tasks": [
        {"input": INPUT, "kind": "split-text", "key": "split"},
        {
            "key": "count-1",
            "kind": "count-words",
            "depends_on": ["split"],
            "priority": 5,
            "attempt_timeout": 5400,
            "retry": {
                "max_attempts": 3,
                "initial_delay": 0.5,
                "max_delay": "60s",
                "multiplier": 2.0,
                "jitter": 0.2,
                "non_retryable_codes": ["ValueError"],
            },
        },
        {
            "key": "count-2",
            "kind": "count-words",
            "depends_on": ["split"],
            "input": None,
            "attempt_timeout": "250ms",
        },
        {"key": "merge", "kind": "merge-counts", "depends_on": ["count-1", "count-2"]},
    ],
    "labels": {"country": "no", "owner": "data", "since": "2024-01-01"},
    "dimensions": {"ethics": "No people.", "risk": "Low."},
    "max_leases": 4,
    "description": "Counts words.",
    "name": "word-count",
}


def built() -> workflows_pb2.WorkflowDefinition:
    labels = {"owner": "data", "country": "no", "since": "2024-01-01"}
    dimensions = {"risk": "Low.", "ethics": "No people."}
    with Workflow(
        "word-count",
        description="Counts words.",
        max_leases=4,
        labels=labels,
        dimensions=dimensions,
    ) as w:
        split = w.task("split", kind="split-text", input=INPUT)
        retry = Retry(
            max_attempts=3,
            initial_delay="500ms",
            max_delay=60,
            multiplier=2,
            jitter=0.2,
            non_retryable_codes=["ValueError"],
        )
        one = w.task(
            "count-1", kind="count-words", after=[split], retry=retry, timeout="90m", priority=5
        )
        two = w.task("count-2", kind="count-words", after=[split], input=None, timeout=0.25)
        w.task("merge", kind="merge-counts", after=[one, two])
    return w.definition()


def read(text: str, *, as_json: bool = False) -> workflows_pb2.WorkflowDefinition:
    return workflow_file.read_text(text, name="w", json=as_json)


def test_yaml_json_and_builder_give_the_same_bytes() -> None:
    def data(definition: workflows_pb2.WorkflowDefinition) -> bytes:
        return definition.SerializeToString(deterministic=True)

    assert data(read(YAML)) == data(built())
    assert data(read(json.dumps(AS_JSON), as_json=True)) == data(built())
    assert data(read(json.dumps(AS_JSON, indent=1))) == data(built())


def test_what_is_read_is_what_was_written() -> None:
    definition = read(YAML)
    split, count, second, merge = definition.tasks
    assert definition.max_leases == 4
    assert dict(definition.labels)["country"] == "no"
    assert split.input.data == (
        b'{"flag":true,"gone":null,"on":"yes","path":"corpus.txt","sizes":[1,2.5,9007199254740993]}'
    )
    assert count.attempt_timeout.seconds == 5400
    assert count.retry.initial_delay.nanos == 500_000_000
    assert list(count.retry.non_retryable_codes) == ["ValueError"]
    assert second.input.data == b"null"
    assert not merge.HasField("input")
    assert not merge.HasField("retry")
    assert list(merge.depends_on) == ["count-1", "count-2"]


def test_anchors_save_repetition() -> None:
    text = """
name: a
tasks:
  - {key: x, kind: k, retry: &twice {max_attempts: 2}}
  - {key: y, kind: k, retry: *twice}
"""
    assert [task.retry.max_attempts for task in read(text).tasks] == [2, 2]


def bad_workflows() -> Iterator[Any]:
    """The table of bad files, which is a file itself, because its lines are long."""
    text = (Path(__file__).parent / "bad_workflows.txt").read_text(encoding="utf-8")
    for section in text.split("\n=== ")[1:]:
        name, _, rest = section.partition("\n")
        file, _, message = rest.partition("\n--> ")
        yield pytest.param(file, message.strip(), id=name)


BAD_YAML = [
    *bad_workflows(),
    pytest.param("", "w: is empty", id="empty"),
    pytest.param(
        "a: " + "[" * 200 + "]" * 200, "w:1: is nested more than 100 levels deep", id="too deep"
    ),
    pytest.param(
        "name: \x07",
        "w: is not YAML: control characters are not allowed at character 6",
        id="control character",
    ),
]

BAD_JSON = {
    "broken": ('{"name" "a"}', "w:1: is not JSON: expecting ':' delimiter in column 9"),
    "key twice": ('{"name": "a", "name": "b"}', "w: the key 'name' comes twice in one object"),
    "NaN": ('{"name": NaN}', "w: NaN is not a number that JSON knows"),
    "too deep": ("[" * 100_000, "w: is nested too deeply"),
    "long integer": (
        '{"name": ' + "1" * 5000 + "}",
        "w: an integer has thousands of digits; write it as text",
    ),
    "half a character": ('{"name": "\\ud800"}', "w: holds one half of a surrogate pair"),
    "a list": ("[]", "w:1: must be a table of keys and values, is a list"),
    "line of the fault": (
        '{\n "name": "a",\n "tasks": [\n  {"key": "x",\n   "kind": 3}]}',
        "w:5: tasks[0].kind: must be text, is the number 3",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_YAML)
def test_a_bad_yaml_file_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(workflow_file.WorkflowFileError) as caught:
        read(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(("text", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_a_bad_json_file_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(workflow_file.WorkflowFileError) as caught:
        read(text, as_json=True)
    assert str(caught.value) == message


def test_aliases_that_explode_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    with pytest.raises(workflow_file.WorkflowFileError, match="more than 5,000,000 values"):
        read("\n".join(lines))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("none.yaml", None, "cannot be read: no such file or directory"),
        ("w.toml", b"", "must end in one of .yaml, .yml, .json"),
        ("w.yaml", b"name: \xff", "is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(workflow_file.WorkflowFileError) as caught:
        workflow_file.read(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert str(caught.value).endswith(reason)


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "w.JSON").write_text(json.dumps(AS_JSON), encoding="utf-8-sig")
    assert workflow_file.read(tmp_path / "w.JSON") == built()


def test_the_builder_refuses_in_the_words_of_a_file() -> None:
    workflow = Workflow("a")
    workflow.task("x", kind="k")
    with pytest.raises(DefinitionError) as caught:
        workflow.task("y", kind="k", input={"a": float("inf")})
    assert str(caught.value) == "tasks[1].input: a: inf cannot be written as JSON"
    workflow.task("y", kind="k", after=["z"])
    with pytest.raises(DefinitionError, match=r"tasks\[1\].depends_on\[0\]: there is no task 'z'"):
        workflow.definition()


def test_leaving_a_builder_checks_it_and_a_definition_is_a_copy() -> None:
    with pytest.raises(DefinitionError, match="at least one task"), Workflow("a"):
        pass
    with Workflow("b") as workflow:
        workflow.task("x", kind="k")
    workflow.definition().tasks[0].key = "other"
    assert workflow.definition().tasks[0].key == "x"
