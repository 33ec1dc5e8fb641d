"""WfCommons traces (WfFormat 1.3 to 1.5): recorded scientific workflows, made to run again.

Each traced task becomes a task of kind `tenure.trace` that takes its recorded time; the scale is
part of a run's input, so that the definition and its digest do not depend on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tenure.v1 import workflows_pb2
from tenure_client import builder, graph, payload
from tenure_client.graph import DefinitionError, Path

KIND = "tenure.trace"

#: Where the tasks of the graph stand, newest form first.
_SPECIFICATION: Path = ("workflow", "specification", "tasks")
_OLD_TASKS: Path = ("workflow", "tasks")
_EXECUTION: Path = ("workflow", "execution", "tasks")
_NAME_CHARACTERS_MAX = 128
_KEY_CHARACTERS_MAX = 200
_SECONDS_MAX = 10**9


def is_trace(value: Any) -> bool:
    """Tells a trace from a workflow file by its content."""
    return isinstance(value, dict) and isinstance(value.get("workflow"), dict)


def definition_of(
    trace: Mapping[str, Any], *, default_seconds: float | None = None
) -> workflows_pb2.WorkflowDefinition:
    """Turns a trace into a definition: same graph, same order, recorded run times.

    `default_seconds` is the run time of tasks for which none was recorded. Raises DefinitionError
    for what is missing or broken, with its place in the trace.
    """
    place = _SPECIFICATION if "specification" in trace["workflow"] else _OLD_TASKS
    tasks = _tasks_at(trace, place)
    if not tasks:
        raise DefinitionError(place, "must have at least one task")
    numbers = _numbers(tasks, place)
    upstream = _upstream(tasks, numbers, place)
    seconds = _run_times(trace, tasks, numbers, place, default_seconds)
    keys = _keys(list(numbers))
    workflow = builder.Workflow(
        _slug(_optional_text(trace, ("name",))),
        description=_optional_text(trace, ("description",))[:4000],
        labels={"source": "wfcommons", "trace": _optional_text(trace, ("name",))[:255]},
    )
    for number, task in enumerate(tasks):
        name = task.get("name", "")
        workflow.task(
            keys[number],
            kind=KIND,
            after=[keys[dependency] for dependency in upstream[number]],
            input={"seconds": seconds[number], "name": name if isinstance(name, str) else ""},
        )
    return _checked(workflow, place)


def recorded_seconds(definition: workflows_pb2.WorkflowDefinition) -> list[float] | None:
    """Gives the recorded run time of each task, in order; None when this is no trace."""
    seconds = []
    for task in definition.tasks:
        if task.kind != KIND:
            return None
        content = payload.decode(task.input)
        if not isinstance(content, dict) or not _is_time(content.get("seconds")):
            return None
        seconds.append(float(content["seconds"]))
    return seconds


def critical_path_seconds(
    definition: workflows_pb2.WorkflowDefinition, time_scale: float
) -> float | None:
    """Gives the least time a trace can take however many slots there are; None for no trace."""
    seconds = recorded_seconds(definition)
    if seconds is None:
        return None
    upstream = graph.upstream_of([(task.key, task.depends_on) for task in definition.tasks])
    return graph.longest_path(upstream, seconds) * time_scale


def _tasks_at(trace: Mapping[str, Any], place: Path) -> list[dict[str, Any]]:
    """Gives the list of tables at a place."""
    value: Any = trace
    for depth, step in enumerate(place):
        if not isinstance(value, dict):
            raise DefinitionError(place[:depth], "must be a table")
        if step not in value:
            raise DefinitionError(place[: depth + 1], "is missing from the trace")
        value = value[step]
    if not isinstance(value, list):
        raise DefinitionError(place, "must be a list")
    for number, task in enumerate(value):
        if not isinstance(task, dict):
            raise DefinitionError((*place, number), "must be a table")
    return value


def _numbers(tasks: list[dict[str, Any]], place: Path) -> dict[str, int]:
    """Numbers the tasks by id. Traces before 1.5 may have names only."""
    numbers: dict[str, int] = {}
    for number, task in enumerate(tasks):
        word = "name" if place == _OLD_TASKS and "id" not in task else "id"
        name = task.get(word)
        if not isinstance(name, str) or not name:
            raise DefinitionError((*place, number, word), "is missing or no text")
        first = numbers.setdefault(name, number)
        if first != number:
            reason = f"{name!r} is taken by tasks[{first}]"
            raise DefinitionError((*place, number, word), reason)
    return numbers


def _upstream(
    tasks: list[dict[str, Any]], numbers: dict[str, int], place: Path
) -> list[dict[int, None]]:
    """Gives what each task depends on: its parents, and whoever names it as a child."""
    known = dict(numbers)
    if place == _OLD_TASKS:
        # There, parents and children may be given by name where tasks have ids as well.
        for number, task in enumerate(tasks):
            if isinstance(name := task.get("name"), str):
                known.setdefault(name, number)
    upstream: list[dict[int, None]] = [{} for _ in tasks]
    for number, task in enumerate(tasks):
        for parent in _references(task, "parents", known, (*place, number)):
            upstream[number][parent] = None
    for number, task in enumerate(tasks):
        for child in _references(task, "children", known, (*place, number)):
            upstream[child][number] = None
    return upstream


def _references(
    task: dict[str, Any], word: str, known: dict[str, int], path: Path
) -> Iterator[int]:
    names = task.get(word, [])
    if not isinstance(names, list):
        raise DefinitionError((*path, word), "must be a list of task ids")
    for position, name in enumerate(names):
        where: Path = (*path, word, position)
        if not isinstance(name, str):
            raise DefinitionError(where, "must be the id of a task")
        if name not in known:
            hint = graph.did_you_mean(name, known)
            raise DefinitionError(where, f"there is no task {name!r}{hint}")
        yield known[name]


def _run_times(
    trace: Mapping[str, Any],
    tasks: list[dict[str, Any]],
    numbers: dict[str, int],
    place: Path,
    default_seconds: float | None,
) -> list[float]:
    """Gives the recorded run time of each task, or the default where there is none."""
    found: dict[int, float] = {}
    if place == _OLD_TASKS:
        for number, task in enumerate(tasks):
            _note_time(found, number, task, (*place, number))
    elif "execution" in trace["workflow"]:
        for position, record in enumerate(_tasks_at(trace, _EXECUTION)):
            path: Path = (*_EXECUTION, position)
            name = record.get("id")
            if not isinstance(name, str) or name not in numbers:
                hint = graph.did_you_mean(name, numbers) if isinstance(name, str) else ""
                raise DefinitionError((*path, "id"), f"there is no task {name!r}{hint}")
            if numbers[name] in found:
                raise DefinitionError((*path, "id"), f"{name!r} is recorded twice")
            _note_time(found, numbers[name], record, path)
    elif default_seconds is None:
        raise DefinitionError(
            _EXECUTION[:2],
            "is missing from the trace, so no task has a run time; "
            "give every task one with --default-seconds F",
        )
    missing = [name for name, number in numbers.items() if number not in found]
    if missing and default_seconds is None:
        where = place if place == _OLD_TASKS else _EXECUTION
        raise DefinitionError(
            where,
            f"{len(missing)} of {len(tasks)} tasks have no runtimeInSeconds (the first is "
            f"{missing[0]!r}); give them one with --default-seconds F",
        )
    return [found.get(number, default_seconds or 0.0) for number in range(len(tasks))]


def _note_time(found: dict[int, float], number: int, record: dict[str, Any], path: Path) -> None:
    word = "runtimeInSeconds" if "runtimeInSeconds" in record else "runtime"
    seconds = record.get(word)
    if seconds is None:
        return
    if not _is_time(seconds):
        raise DefinitionError((*path, word), f"must be seconds from 0 to 10^9, is {seconds!r:.40}")
    found[number] = float(seconds)


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= _SECONDS_MAX


def _keys(names: list[str]) -> list[str]:
    """Maps ids to task keys: as they are where they can be, else spelt out with a digest.

    The key of an id depends on that id, except where two would meet: then the digest grows.
    """
    taken = {name for name in names if _fits(name)}
    keys = []
    for name in names:
        if _fits(name):
            keys.append(name)
            continue
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        readable = re.sub(r"[^\w.:/+-]+", "_", name, flags=re.ASCII)[:100]
        lengths = range(8, len(digest) + 1)
        spelt = (f"{readable}~{digest[:length]}" for length in lengths)
        key = next(key for key in spelt if key not in taken)
        taken.add(key)
        keys.append(key)
    return keys


def _fits(name: str) -> bool:
    return (
        len(name) <= _KEY_CHARACTERS_MAX and name.isprintable() and not any(map(str.isspace, name))
    )


def _slug(name: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-").rstrip("-")
    return slug[:_NAME_CHARACTERS_MAX] or "trace"


def _optional_text(trace: Mapping[str, Any], path: Path) -> str:
    value = trace.get(str(path[0]), "")
    if not isinstance(value, str):
        raise DefinitionError(path, "must be text")
    return value


def _checked(workflow: builder.Workflow, place: Path) -> workflows_pb2.WorkflowDefinition:
    """Gives the definition, or the fault of its graph with the place it has in the trace."""
    try:
        return workflow.definition()
    except DefinitionError as error:
        if error.path[:1] != ("tasks",):
            raise
        raise DefinitionError((*place, *error.path[1:]), error.reason) from error
