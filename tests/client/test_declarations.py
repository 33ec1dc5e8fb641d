"""What tasks and workflows declare: three forms of one definition, and what is refused in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import everything

from tenure.v1 import workflows_pb2
from tenure_client import builder, canonical, source, wholeness, workflow_file
from tenure_client.builder import Handler, Workflow
from tenure_client.graph import DefinitionError
from tenure_server.core.definitions.definition import parse
from tenure_server.rpc import convert


def read(text: str, *, as_json: bool = False) -> workflows_pb2.WorkflowDefinition:
    return workflow_file.read_text(text, name="w", json=as_json)


@pytest.mark.parametrize("form", ["yaml", "json", "builder"])
def test_everything_has_one_digest_however_it_was_written(form: str) -> None:
    made = {
        "yaml": lambda: read(everything.YAML),
        "json": lambda: read(
            json.dumps(source.plain(source.read_yaml(everything.YAML))), as_json=True
        ),
        "builder": everything.built,
    }[form]()
    there = convert.definition(made)
    there.check()
    assert there.digest() == canonical.digest(made) == everything.DIGEST


def test_everything_is_kept_by_the_store_and_given_back() -> None:
    there = convert.definition(everything.built())
    kept = parse(there.canonical())
    assert kept == there
    back = convert.definition_message(kept)
    assert canonical.digest(back) == everything.DIGEST
    assert convert.definition(back) == there


def test_everything_declared_is_what_the_contract_has() -> None:
    """So nothing of it was forgotten in the file's keys."""
    made = everything.built()
    assert _unset(made) == {
        "WorkflowDefinition": {"description", "max_leases", "labels", "dimensions"},
        "WorkflowTask": {"attempt_timeout", "priority"},
        "RetryPolicy": {
            "initial_delay",
            "max_delay",
            "multiplier",
            "jitter",
            "non_retryable_codes",
        },
    }


def _unset(message: Any) -> dict[str, set[str]]:
    """The fields of each type that no message of it has set."""
    known: dict[str, set[str]] = {}
    used: dict[str, set[str]] = {}

    def walk(part: Any) -> None:
        descriptor = part.DESCRIPTOR
        if descriptor.file.name != "tenure/v1/workflows.proto":
            return
        known[descriptor.name] = {field.name for field in descriptor.fields}
        for field, value in part.ListFields():
            used.setdefault(descriptor.name, set()).add(field.name)
            if field.message_type is None:
                continue
            if field.message_type.GetOptions().map_entry:
                for inner in value.values() if field.name == "schemas" else ():
                    walk(inner)
            else:
                for inner in value if field.is_repeated else (value,):
                    walk(inner)

    walk(message)
    return {
        name: left for name, fields in known.items() if (left := fields - used.get(name, set()))
    }


def test_a_wait_can_be_written_in_short() -> None:
    short = """
name: a
tasks:
  - {key: t, timer: 1m}
  - {key: n, timer: 2}
  - {key: s, signal: go}
  - {key: e, event: came}
  - {key: p, approval: Really?}
  - {key: w, workflow: other}
"""
    long = """
name: a
tasks:
  - {key: t, timer: {delay: 60}}
  - {key: n, timer: {delay: 2s}}
  - {key: s, signal: {name: go}}
  - {key: e, event: {name: came}}
  - {key: p, approval: {question: Really?}}
  - {key: w, workflow: {name: other}}
"""
    assert read(short) == read(long)


def test_what_says_the_default_leaves_no_trace() -> None:
    plain = "name: a\ntasks:\n  - {key: a, kind: k}\n  - {key: b, kind: k, depends_on: [a]}\n"
    said = """
name: a
output: {}
schemas: {}
events: []
tasks:
  - {key: a, kind: k, bind: {}, weight: 1}
  - {key: b, kind: k, depends_on: [a], trigger: all_succeeded, weight: 0, retry: {strategy: exponential}}
"""  # noqa: E501
    assert canonical.encode(read(said)) == canonical.encode(read(plain))


def test_the_handlers_that_a_workflow_needs_are_also_those_beside_its_graph() -> None:
    assert wholeness.kinds(everything.built()) == ["build", "clean", "plan", "tell", "tidy"]


def bad(task: str, message: str, *, top: str = "") -> Any:
    """A file with a first task, a second that breaks one rule, and what is said of it."""
    text = f"name: w\n{top}\ntasks:\n  - {{key: a, kind: k}}\n  - {{{task}}}\n"
    return pytest.param(text, message, id=f"{task} {top}"[:60])


def bad_declarations() -> Iterator[Any]:
    """The table of bad declarations, which is a file, because its lines are long."""
    text = (Path(__file__).parent / "bad_declarations.txt").read_text(encoding="utf-8")
    for row in text.splitlines():
        if row and not row.startswith("#"):
            declared, _, message = row.partition(" --> ")
            task, _, top = declared.partition(" | ")
            yield bad(task, message, top=top)


T, B = "tasks[1]", "key: b, kind: k"
LONG, MANY, LARGE = "x" * 2001, ", ".join(f"f{number}: x" for number in range(65)), "x" * 69_998
BAD = [
    *bad_declarations(),
    bad(f"{B}, when: {LONG}", f"{T}.when: must have at most 2,000 characters"),
    bad(B, "output: must be at most 64, are 65", top=f"output: {{{MANY}}}"),
    bad(
        B,
        "schemas.k.output: has 70010 bytes, at most 65536 are allowed",
        top=f"schemas: {{k: {{output: {{title: {LARGE}}}}}}}",
    ),
    bad(B, "events: must be at most 16, are 17", top=f"events: [{', '.join(['e'] * 17)}]"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_declaration_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(workflow_file.WorkflowFileError) as caught:
        read(text)
    place, _, said = str(caught.value).partition(": ")
    assert said == message
    assert place == ("w:5" if message.startswith("tasks") else "w:2")


TAKEN = {
    "an item": ("a[3]", {"for_each": builder.ForEach(items="run.input")}, "an item of task 'a'"),
    "an undo": ("a~undo", {"compensation": Handler(kind="u")}, "what undoes task 'a'"),
}


@pytest.mark.parametrize(("key", "declared", "what"), TAKEN.values(), ids=TAKEN)
def test_no_key_is_one_that_the_coordinator_gives(
    key: str, declared: dict[str, Any], what: str
) -> None:
    workflow = Workflow("w")
    workflow.task("a", kind="k", **declared)
    workflow.task(key, kind="k")
    with pytest.raises(DefinitionError, match=rf"tasks\[1\].key: is the key of {what}"):
        workflow.definition()


def test_keys_with_brackets_are_free_where_nothing_is_made_from_them() -> None:
    workflow = Workflow("w")
    for key in ("a", "a[3]", "a~undo", "~on_failure"):
        workflow.task(key, kind="k")
    assert len(convert.definition(workflow.definition()).check().keys) == 4


REFUSED_IN_PYTHON: dict[str, Callable[[Workflow], Any]] = {
    "tasks[0].kind": lambda w: w.task("a", kind="a b"),
    "tasks[0].bind": lambda w: w.task("a", kind="k", bind={str(n): "x" for n in range(65)}),
    "tasks[0].key": lambda w: w.timer("a b", 1),
    "tasks[0].timer": lambda w: w.timer("a"),
    "tasks[0].signal.name": lambda w: w.signal("a", "a b"),
    "tasks[0].event.timeout": lambda w: w.event("a", "e", timeout="x"),
    "tasks[0].approval.question": lambda w: w.approval("a", "x" * 1001),
    "tasks[0].workflow.version": lambda w: w.call("a", "b", version=-1),
    "tasks[0].input": lambda w: w.wait("a", builder.Signal(name="s"), input=1),
}


@pytest.mark.parametrize("place", REFUSED_IN_PYTHON)
def test_the_builder_refuses_with_the_place_in_a_file(place: str) -> None:
    workflow = Workflow("w")
    with pytest.raises(DefinitionError, match=r".") as caught:
        REFUSED_IN_PYTHON[place](workflow)
    assert str(caught.value).startswith(f"{place}: ")
    assert not workflow._definition.tasks  # what was refused was not added


def test_the_documentation_shows_files_that_can_be_read() -> None:
    page = Path(__file__).parents[2] / "docs" / "workflow-format.md"
    blocks = page.read_text(encoding="utf-8").split("```yaml\n")[1:]
    files = [block.split("```")[0] for block in blocks if block.startswith("name:")]
    assert len(files) >= 5
    for text in files:
        convert.definition(read(text)).check()
