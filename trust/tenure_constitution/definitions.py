"""The facts of a workflow, told from its definition's canonical form in one pass.

The canonical form is the JSON that a definition's digest is made over, as a dict. Facts of a
graph are counts, so that no article needs to go over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tenure_constitution import dimensions
from tenure_constitution.facts import Labels
from tenure_constitution.laws import Coverage


def facts_of(canonical: Mapping[str, Any]) -> dict[str, Any]:
    """The facts under ``workflow`` of a definition that was checked: its graph has no cycle.

    Takes time in proportion to tasks, dependencies and bytes of input. Raises ValueError for a
    cycle, KeyError for what is not the canonical form.
    """
    tasks: Sequence[Mapping[str, Any]] = canonical["tasks"]
    limits = [task["attempt_timeout_us"] for task in tasks if task["attempt_timeout_us"]]
    attempts = [task["retry"]["max_attempts"] for task in tasks if "retry" in task]
    kinds = sorted({task["kind"] for task in tasks})
    found: dict[str, Any] = {
        "name": canonical["name"],
        "task_count": len(tasks),
        "kinds": tuple(kinds),
        "kind_count": len(kinds),
        "labels": Labels(canonical["labels"]),
        "dimensions": Labels(canonical.get("dimensions", {})),
        "tasks_with_retry": sum(number > 1 for number in attempts),
        "tasks_with_timeout": len(limits),
        "max_attempts": max(attempts, default=1),
        "max_attempt_timeout_seconds": -(-max(limits, default=0) // 1_000_000),
        "input_bytes": sum(map(_input_bytes, tasks)),
        "description_length": len(canonical["description"]),
        "max_leases": canonical["max_leases"],
    }
    found |= _shape(tasks)
    assessed = dimensions.of_workflow(found)
    for coverage in Coverage:
        found[coverage.word] = dimensions.names(assessed, coverage)
    return found


def _input_bytes(task: Mapping[str, Any]) -> int:
    if "input" in task:
        return len(orjson.dumps(task["input"]))
    # Three bytes in four characters, less what only fills up.
    text: str = task.get("input_base64", "")
    return len(text) // 4 * 3 - text[-2:].count("=")


def _shape(tasks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How long, wide and dense the graph is."""
    index = {task["key"]: number for number, task in enumerate(tasks)}
    followers: list[list[int]] = [[] for _ in tasks]
    missing = [0] * len(tasks)
    for number, task in enumerate(tasks):
        missing[number] = len(task["depends_on"])
        for key in task["depends_on"]:
            followers[index[key]].append(number)
    fan_in = max(missing, default=0)
    level = [number for number, count in enumerate(missing) if count == 0]
    depth = width = placed = 0
    while level:
        depth += 1
        width = max(width, len(level))
        placed += len(level)
        following = []
        for number in level:
            for follower in followers[number]:
                missing[follower] -= 1
                if missing[follower] == 0:
                    following.append(follower)
        level = following
    if placed < len(tasks):
        raise ValueError("the tasks form a cycle")
    return {
        "dependency_count": sum(map(len, followers)),
        "depth": depth,
        "width": width,
        "max_fan_out": max(map(len, followers), default=0),
        "max_fan_in": fan_in,
    }
