"""The facts of definitions and instants, the table of all facts, and the thirteen dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_client import workflow_file
from tenure_constitution import definitions, dimensions, facts
from tenure_constitution.dimensions import RunSummary
from tenure_constitution.facts import FACTS, Kind
from tenure_constitution.laws import Coverage, Dimension, Point
from tenure_server.core.definitions.definition import (
    Payload,
    RetryPolicy,
    WorkflowDefinition,
    WorkflowTask,
)
from tenure_server.core.definitions.features import (
    Approval,
    Concurrency,
    EventTrigger,
    ForEach,
    Handler,
    Placement,
    SubWorkflow,
    Timer,
)
from tenure_server.rpc import convert

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/workflow.yaml"))


def facts_of(definition: WorkflowDefinition, **declared: str) -> dict[str, Any]:
    canonical = orjson.loads(definition.canonical())
    if declared:
        canonical["dimensions"] = declared
    return definitions.facts_of(canonical)


def flow(*tasks: WorkflowTask, **more: Any) -> WorkflowDefinition:
    return WorkflowDefinition(name="flow", tasks=tasks, **more)


def diamond(**more: Any) -> WorkflowDefinition:
    return flow(
        WorkflowTask(key="a", kind="split", input=Payload(b'{"n": 1}')),
        WorkflowTask(key="b", kind="count", depends_on=("a",), attempt_timeout_us=1_500_000),
        WorkflowTask(
            key="c", kind="count", depends_on=("a",), retry=RetryPolicy(max_attempts=3, jitter=0.5)
        ),
        WorkflowTask(
            key="d",
            kind="join",
            depends_on=("b", "c"),
            input=Payload(b"\x00\x01\x02\x03", "image/png"),
        ),
        **more,
    )


def test_the_facts_of_a_definition() -> None:
    found = facts_of(diamond(description="Counts.", max_leases=4, labels={"team": "red"}))
    assert found == {
        "name": "flow",
        "task_count": 4,
        "dependency_count": 4,
        "depth": 3,
        "width": 2,
        "max_fan_out": 2,
        "max_fan_in": 2,
        "kinds": ("count", "join", "split"),
        "kind_count": 3,
        "labels": {"team": "red"},
        "dimensions": {},
        "covered": (),
        "derived": (
            "identity",
            "intent",
            "modality",
            "state",
            "scale",
            "risk",
            "evidence",
        ),
        "missing": ("stakeholders", "context", "scope", "time", "space", "ethics"),
        "tasks_with_retry": 1,
        "tasks_with_timeout": 1,
        "max_attempts": 3,
        "max_attempt_timeout_seconds": 2,
        "input_bytes": 11,
        "description_length": 7,
        "max_leases": 4,
        "tasks_waiting": 0,
        "timers": 0,
        "approvals": 0,
        "approvers": (),
        "sub_workflows": (),
        "events": (),
        "tasks_with_for_each": 0,
        "max_items": 0,
        "tasks_with_compensation": 0,
        "tasks_with_placement": 0,
        "on_failure": False,
        "total_timeout_seconds": 0,
        "max_runs": 0,
    }


def release() -> WorkflowDefinition:
    """A workflow in which people, lists and other workflows have a part."""
    undo = Handler(kind="roll-back", input=Payload(b"{}"), retry=RetryPolicy(max_attempts=9))
    return flow(
        WorkflowTask(
            key="build",
            kind="build",
            for_each=ForEach(items="run.input.targets", items_max=20),
            attempt_timeout_us=60_000_000,
            placement=Placement(required={"os": "linux"}),
        ),
        WorkflowTask(
            key="asked",
            kind="",
            depends_on=("build",),
            wait=Approval(
                approvers=("ann", "bob"), escalate_after_us=1_000_000, escalate_to=("chief",)
            ),
        ),
        WorkflowTask(key="night", kind="", depends_on=("asked",), wait=Timer(delay_us=1)),
        WorkflowTask(
            key="deploy",
            kind="",
            depends_on=("night",),
            wait=SubWorkflow(name="deploy-one"),
            compensation=undo,
        ),
        total_timeout_us=86_400_500_000,
        on_failure=Handler(kind="tell", attempt_timeout_us=90_000_000),
        concurrency=Concurrency(limit=2),
        events=(EventTrigger(name="pushed"),),
    )


def test_the_facts_of_a_definition_with_people_lists_and_other_workflows() -> None:
    release().check()
    found = facts_of(release())
    expected = {
        "kinds": ("build", "roll-back", "tell"),
        "kind_count": 3,
        "tasks_with_timeout": 1,
        "max_attempt_timeout_seconds": 90,
        "tasks_with_retry": 0,
        "max_attempts": 9,
        "input_bytes": 2,
        "tasks_waiting": 3,
        "timers": 1,
        "approvals": 1,
        "approvers": ("ann", "bob", "chief"),
        "sub_workflows": ("deploy-one",),
        "events": ("pushed",),
        "tasks_with_for_each": 1,
        "max_items": 20,
        "tasks_with_compensation": 1,
        "tasks_with_placement": 1,
        "on_failure": True,
        "total_timeout_seconds": 86_401,
        "max_runs": 2,
        "missing": ("intent", "context", "scope", "state", "ethics"),
    }
    assert {name: found[name] for name in expected} == expected


def test_the_dimensions_tell_of_people_lists_and_limits() -> None:
    found = {item.dimension: item.basis for item in dimensions.of_workflow(facts_of(release()))}
    assert found[Dimension.STAKEHOLDERS] == (
        "1 approval, for which 3 approvers: ann, bob, chief are named."
    )
    assert found[Dimension.TIME] == (
        "Every attempt has a time limit, 90 s at most. A run takes 86401 s at most. "
        "Timers: 1 of 4 tasks."
    )
    assert found[Dimension.SCALE] == (
        "4 tasks in 4 levels, 1 task wide at most. "
        "Lists of up to 20 items: 1 of 4 tasks. At most 2 runs of a key at once."
    )
    assert found[Dimension.SPACE] == "Which agents execute them is said for 1 of 4 tasks."
    assert found[Dimension.MODALITY] == (
        "Its tasks are of 3 kinds: build, roll-back, tell. "
        "No agent executes 3 of 4 tasks. People decide in 1 approval."
    )
    assert found[Dimension.RISK] == (
        "0 of 4 tasks can be attempted again, 1 of 4 tasks has a time limit. "
        "A failed run undoes 1 of 4 tasks. Something is executed after a failure."
    )


def test_the_facts_of_the_plainest_definition() -> None:
    found = facts_of(flow(WorkflowTask(key="only", kind="k")))
    assert found["depth"] == found["width"] == found["task_count"] == found["max_attempts"] == 1
    assert found["max_fan_in"] == found["max_fan_out"] == found["dependency_count"] == 0
    assert found["max_attempt_timeout_seconds"] == found["input_bytes"] == 0
    assert found["derived"] == ("identity", "modality", "scale", "evidence")


def test_a_definition_gives_every_fact_of_the_table_in_its_type() -> None:
    for found in (facts_of(diamond()), facts_of(diamond(), risk="low"), facts_of(release())):
        table = {fact.name: fact for fact in FACTS.values() if fact.root == "workflow"}
        assert found.keys() == table.keys()
        for name, value in found.items():
            assert facts.problem_of(table[name], value) is None
            hash(value)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_the_examples_have_facts_and_all_thirteen_dimensions(file: Path) -> None:
    definition = convert.definition(workflow_file.read(file))
    graph = definition.check()
    found = facts_of(definition)
    assert found["task_count"] == len(graph.keys)
    assert found["depth"] == graph.depth
    assert found["dependency_count"] == graph.dependency_count
    assert found["max_fan_in"] == max(graph.missing)
    assert found["max_fan_out"] == max(map(len, graph.downstream))
    assert sorted(found["covered"] + found["derived"] + found["missing"]) == sorted(
        dimensions.NAMES
    )


@given(st.lists(st.lists(st.integers(0, 30), unique=True, max_size=6), min_size=1, max_size=30))
def test_the_shape_of_any_graph_is_that_which_the_coordinator_finds(
    edges: list[list[int]],
) -> None:
    tasks = [
        WorkflowTask(
            key=str(number),
            kind="k",
            depends_on=tuple(str(before) for before in befores if before < number),
        )
        for number, befores in enumerate(edges)
    ]
    definition = flow(*reversed(tasks))
    graph = definition.check()
    found = facts_of(definition)
    assert found["depth"] == graph.depth
    assert found["dependency_count"] == graph.dependency_count
    assert found["max_fan_in"] == max(graph.missing)
    assert found["max_fan_out"] == max(map(len, graph.downstream))
    assert found["task_count"] / found["depth"] <= found["width"] <= found["task_count"]


def test_a_cycle_has_no_facts() -> None:
    with pytest.raises(ValueError, match="cycle"):
        facts_of(
            flow(
                WorkflowTask(key="a", kind="k", depends_on=("b",)),
                WorkflowTask(key="b", kind="k", depends_on=("a",)),
            )
        )


@pytest.mark.parametrize("size", range(8))
def test_the_bytes_of_an_input_are_counted_as_they_were_before_base64(size: int) -> None:
    task = WorkflowTask(key="a", kind="k", input=Payload(b"x" * size, "text/plain"))
    assert facts_of(flow(task))["input_bytes"] == size


def test_the_facts_of_an_instant_are_in_utc() -> None:
    assert facts.of_time(1_784_037_909.7) == {
        "unix": 1_784_037_909,
        "hour": 14,
        "minute": 5,
        "weekday": 1,
        "date": "2026-07-14",
    }
    table = {fact.name: fact for fact in FACTS.values() if fact.root == "time"}
    assert facts.of_time(0).keys() == table.keys()


def test_the_table_is_whole() -> None:
    assert {fact.root for fact in FACTS.values()} == set(facts.ROOTS)
    for path, fact in FACTS.items():
        assert path == fact.path
        assert fact.meaning
        texts = fact.kind in (Kind.TEXT, Kind.TEXTS, Kind.LABELS)
        assert (0 < fact.characters_max <= facts.TEXT_MAX) == texts
    for point in Point:
        assert facts.at(point)


def test_the_table_as_markdown_has_a_row_for_each_fact() -> None:
    lines = facts.markdown().splitlines()
    assert len(lines) == len(FACTS) + 2
    assert "| `task.kind` | string |   |   |   | ✓ | ✓ | the task's kind |" in lines


# -- dimensions


def test_what_is_declared_is_covered_in_the_words_of_the_definition() -> None:
    declared = {name: f"About {name}." for name in dimensions.NAMES}
    found = dimensions.of_workflow(facts_of(diamond(), **declared))
    assert [item.dimension for item in found] == list(Dimension)
    assert {item.coverage for item in found} == {Coverage.COVERED}
    assert found[0].basis == "About identity."


def test_white_space_declares_nothing() -> None:
    assert "ethics" in facts_of(diamond(), ethics=" \n")["missing"]


def test_what_no_graph_can_tell_is_never_derived() -> None:
    task = WorkflowTask(
        key="a", kind="k", attempt_timeout_us=1000, retry=RetryPolicy(max_attempts=2)
    )
    found = facts_of(flow(task, description="Why.", labels={"owner": "me"}))
    assert found["missing"] == ("stakeholders", "context", "scope", "space", "ethics")


def test_what_is_derived_says_what_from() -> None:
    found = {item.dimension: item for item in dimensions.of_workflow(facts_of(diamond()))}
    assert found[Dimension.SCALE].basis == "4 tasks in 3 levels, 2 tasks wide at most."
    assert found[Dimension.MODALITY].basis == "Its tasks are of 3 kinds: count, join, split."
    assert found[Dimension.RISK].basis == (
        "1 of 4 tasks can be attempted again, 1 of 4 tasks has a time limit."
    )
    for item in found.values():
        assert (item.coverage is Coverage.MISSING) == (item.basis == "")


RUN = RunSummary(
    run_id="r1",
    definition_digest="sha256:00",
    state="failed",
    started_us=1_000_000,
    ended_us=3_250_000,
    tasks_succeeded=2,
    tasks_failed=1,
    tasks_left=1,
    attempts=5,
    retries=2,
    leases_lost=1,
    agents=("b", "a"),
)


def test_a_run_is_assessed_by_what_became_of_it_where_nothing_was_declared() -> None:
    workflow = facts_of(diamond(), space="Only in the EU.", ethics="No personal data.")
    found = {item.dimension: item for item in dimensions.of_run(workflow, RUN)}
    assert found[Dimension.SPACE].basis == "Only in the EU."
    assert found[Dimension.ETHICS].coverage is Coverage.COVERED
    assert found[Dimension.TIME].basis == "It took 2.250 s from its start to its end."
    assert found[Dimension.RISK].basis == "2 retries, 1 lost lease, 1 failed task."
    assert found[Dimension.STATE].basis == (
        "It ended failed: of its tasks 2 succeeded, 1 failed, 1 left."
    )
    assert found[Dimension.STAKEHOLDERS].coverage is Coverage.MISSING


def test_a_run_tells_where_it_was_executed_if_it_was() -> None:
    workflow = facts_of(diamond())
    found = {item.dimension: item for item in dimensions.of_run(workflow, RUN)}
    assert found[Dimension.SPACE].basis == "It was executed by 2 agents: a, b."
    many = RunSummary(**{name: getattr(RUN, name) for name in RUN.__slots__} | {"agents": ()})
    found = {item.dimension: item for item in dimensions.of_run(workflow, many)}
    assert found[Dimension.SPACE].coverage is Coverage.MISSING


def test_the_documentation_has_the_table_as_it_is() -> None:
    text = (ROOT / "docs" / "constitution.md").read_text(encoding="utf-8")
    assert facts.markdown() in text
    for dimension in Dimension:
        assert f"| `{dimension.word}` | {dimension.sentence} |" in text
