"""WfCommons traces: the graph, the times, the keys, and words for everything that may lack."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tenure.v1 import workflows_pb2
from tenure_client import payload, wfcommons, workflow_file
from tenure_client.graph import DefinitionError

TRACES = Path(__file__).parents[3] / "shared" / "wfinstances"
#: Tasks, dependencies and seconds on the critical path, counted from the files by another program.
FACTS = {
    "1000genome-chameleon-2ch-100k-001": (52, 76, 204.686),
    "bwa-chameleon-small-001": (104, 400, 91.370927),
    "epigenomics-chameleon-hep-1seq-100k-001": (41, 48, 104.822),
    "montage-chameleon-2mass-005d-001": (58, 114, 21.385),
    "montage-chameleon-dss-10d-001": (472, 1284, 935.823),
    "rnaseq-dirt02-001": (197, 451, 759.454),
    "srasearch-chameleon-10a-003": (22, 30, 2894.512),
}


def trace_of(tasks: list[dict[str, Any]], seconds: dict[str, Any] | None) -> dict[str, Any]:
    workflow: dict[str, Any] = {"specification": {"tasks": tasks}}
    if seconds is not None:
        records = [{"id": name, "runtimeInSeconds": each} for name, each in seconds.items()]
        workflow["execution"] = {"tasks": records}
    return {"name": "made up (1)", "schemaVersion": "1.5", "workflow": workflow}


def diamond() -> dict[str, Any]:
    tasks = [
        {"id": "a", "name": "first", "parents": [], "children": ["b", "c"]},
        {"id": "b", "name": "left", "parents": ["a"], "children": []},
        {"id": "c", "name": "right", "parents": []},
        {"id": "d", "name": "last", "parents": ["b", "c"]},
    ]
    return trace_of(tasks, {"a": 1, "b": 2.5, "c": 0, "d": 4})


def refusal(trace: dict[str, Any], **options: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        wfcommons.definition_of(trace, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", FACTS)
def test_a_real_trace_becomes_the_same_graph(name: str) -> None:
    path = TRACES / f"{name}.json"
    if not path.exists():
        pytest.skip(f"the trace {name} does not lie in ../shared/wfinstances")
    tasks, dependencies, seconds = FACTS[name]
    definition = workflow_file.read(path)
    assert len(definition.tasks) == tasks
    assert sum(len(task.depends_on) for task in definition.tasks) == dependencies
    assert {task.kind for task in definition.tasks} == {"tenure.trace"}
    assert wfcommons.critical_path_seconds(definition, 1.0) == pytest.approx(seconds)
    raw = json.loads(path.read_text())["workflow"]
    assert [task.key for task in definition.tasks] == [
        task["id"] for task in raw["specification"]["tasks"]
    ]
    recorded = {task["id"]: task["runtimeInSeconds"] for task in raw["execution"]["tasks"]}
    assert wfcommons.recorded_seconds(definition) == [
        recorded[task.key] for task in definition.tasks
    ]


def test_parents_and_children_are_one_relation() -> None:
    definition = wfcommons.definition_of(diamond())
    assert {task.key: list(task.depends_on) for task in definition.tasks} == {
        "a": [],
        "b": ["a"],
        "c": ["a"],
        "d": ["b", "c"],
    }
    assert definition.name == "made-up-1"
    assert payload.decode(definition.tasks[1].input) == {"name": "left", "seconds": 2.5}
    assert wfcommons.critical_path_seconds(definition, 0.5) == pytest.approx(3.75)


def test_a_graph_of_6000_edges_is_read_in_well_under_a_second(tmp_path: Path) -> None:
    tasks: list[dict[str, Any]] = [
        {
            "id": f"t{n}",
            "parents": sorted({f"t{(n * k) // (k + 1)}" for k in (1, 2, 3)} - {f"t{n}"}),
        }
        for n in range(2006)
    ]
    edges = sum(len(task["parents"]) for task in tasks)
    path = tmp_path / "big.json"
    path.write_text(json.dumps(trace_of(tasks, {task["id"]: 0.1 for task in tasks})))
    began = time.process_time()
    definition = workflow_file.read(path)
    assert time.process_time() - began < 1.0
    assert edges >= 6000
    assert sum(len(task.depends_on) for task in definition.tasks) == edges


def test_a_trace_without_execution_needs_a_default() -> None:
    trace = diamond()
    del trace["workflow"]["execution"]
    assert refusal(trace) == (
        "workflow.execution: is missing from the trace, so no task has a run time; "
        "give every task one with --default-seconds F"
    )
    definition = wfcommons.definition_of(trace, default_seconds=2.0)
    assert wfcommons.recorded_seconds(definition) == [2.0] * 4


def test_tasks_without_a_run_time_are_counted_and_one_is_named() -> None:
    trace = diamond()
    records = trace["workflow"]["execution"]["tasks"]
    del records[1]["runtimeInSeconds"], records[3]
    assert refusal(trace) == (
        "workflow.execution.tasks: 2 of 4 tasks have no runtimeInSeconds (the first is 'b'); "
        "give them one with --default-seconds F"
    )
    definition = wfcommons.definition_of(trace, default_seconds=9)
    assert wfcommons.recorded_seconds(definition) == [1, 9, 0, 9]


SPEC = ("workflow", "specification", "tasks")
EXECUTION = ("workflow", "execution", "tasks")

#: What is put where, and what is said of it.
BROKEN: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "unknown parent": (
        (*SPEC, 3, "parents"),
        ["bb"],
        "workflow.specification.tasks[3].parents[0]: there is no task 'bb'; did you mean 'b'?",
    ),
    "unknown child": (
        (*SPEC, 0, "children"),
        ["b", "nowhere"],
        "workflow.specification.tasks[0].children[1]: there is no task 'nowhere'",
    ),
    "duplicate": (
        (*SPEC, 2, "id"),
        "b",
        "workflow.specification.tasks[2].id: 'b' is taken by tasks[1]",
    ),
    "cycle": (
        (*SPEC, 0, "parents"),
        ["d"],
        "workflow.specification.tasks: the tasks form a cycle: a -> b -> d -> a",
    ),
    "no id": ((*SPEC, 1, "id"), None, "workflow.specification.tasks[1].id: is missing or no text"),
    "parents are text": (
        (*SPEC, 1, "parents"),
        "a",
        "workflow.specification.tasks[1].parents: must be a list of task ids",
    ),
    "parent is a number": (
        (*SPEC, 1, "parents"),
        [1],
        "workflow.specification.tasks[1].parents[0]: must be the id of a task",
    ),
    "task is text": ((*SPEC, 1), "b", "workflow.specification.tasks[1]: must be a table"),
    "no tasks": (SPEC, [], "workflow.specification.tasks: must have at least one task"),
    "no list": (SPEC[:2], {}, "workflow.specification.tasks: is missing from the trace"),
    "negative time": (
        (*EXECUTION, 0, "runtimeInSeconds"),
        -1,
        "workflow.execution.tasks[0].runtimeInSeconds: must be seconds from 0 to 10^9, is -1",
    ),
    "time is text": (
        (*EXECUTION, 2, "runtimeInSeconds"),
        "1.5",
        "workflow.execution.tasks[2].runtimeInSeconds: must be seconds from 0 to 10^9, is '1.5'",
    ),
    "record of nobody": (
        (*EXECUTION, 2, "id"),
        "e",
        "workflow.execution.tasks[2].id: there is no task 'e'",
    ),
    "recorded twice": (
        (*EXECUTION, 2, "id"),
        "a",
        "workflow.execution.tasks[2].id: 'a' is recorded twice",
    ),
    "execution is a list": (EXECUTION[:2], [], "workflow.execution: must be a table"),
    "name is a number": (("name",), 7, "name: must be text"),
}


def broken(name: str) -> dict[str, Any]:
    path, value, _ = BROKEN[name]
    trace = diamond()
    place: Any = trace
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return trace


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_is_refused_with_its_place(name: str) -> None:
    assert refusal(broken(name)) == BROKEN[name][2]


def test_odd_ids_become_keys_that_differ_and_stay_the_same() -> None:
    names = ["with space", "with_space", "with\tspace", "x" * 300, "x" * 301, "ok:1", "ünder way"]
    tasks = [{"id": name, "parents": names[:n]} for n, name in enumerate(names)]
    definition = wfcommons.definition_of(trace_of(tasks, dict.fromkeys(names, 1)))
    keys = [task.key for task in definition.tasks]
    assert len(set(keys)) == len(names)
    assert keys[1] == "with_space"
    assert keys[0].startswith("with_space~")
    assert keys[5] == "ok:1"
    assert all(len(key) <= 200 and key.isprintable() and " " not in key for key in keys)
    backwards = wfcommons.definition_of(
        trace_of([{"id": name} for name in reversed(names)], dict.fromkeys(names, 1))
    )
    assert [task.key for task in backwards.tasks] == keys[::-1]
    assert list(definition.tasks[6].depends_on) == keys[:6]


def test_an_id_cannot_take_the_key_of_another() -> None:
    [spelt] = wfcommons.definition_of(trace_of([{"id": "a b"}], {"a b": 1})).tasks
    tasks = [{"id": "a b"}, {"id": spelt.key}]
    definition = wfcommons.definition_of(trace_of(tasks, {"a b": 1, spelt.key: 1}))
    assert len({task.key for task in definition.tasks}) == 2
    assert definition.tasks[1].key == spelt.key


@pytest.mark.parametrize("word", ["runtime", "runtimeInSeconds"])
def test_older_traces_hold_time_and_graph_in_one_list(word: str) -> None:
    tasks = [
        {"name": "one_1", "id": "ID1", "parents": [], "children": ["two_1"], word: 3},
        {"name": "two_1", "id": "ID2", "parents": ["ID1"], word: 4.5},
    ]
    definition = wfcommons.definition_of({"name": "old", "workflow": {"tasks": tasks}})
    assert [(task.key, list(task.depends_on)) for task in definition.tasks] == [
        ("ID1", []),
        ("ID2", ["ID1"]),
    ]
    assert wfcommons.recorded_seconds(definition) == [3.0, 4.5]


def test_other_workflows_have_no_recorded_time() -> None:
    task = workflows_pb2.WorkflowTask(key="a", kind="k")
    definition = workflows_pb2.WorkflowDefinition(name="a", tasks=[task])
    assert wfcommons.critical_path_seconds(definition, 1.0) is None


def test_a_trace_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(diamond()))
    assert len(workflow_file.read(tmp_path / "t.json").tasks) == 4
    (tmp_path / "t.json").write_text(json.dumps(broken("cycle")))
    with pytest.raises(workflow_file.WorkflowFileError, match=r"t\.json:1: workflow\.spec.*cycle"):
        workflow_file.read(tmp_path / "t.json")
