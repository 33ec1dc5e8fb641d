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

#: How many items `for_each` may have where nothing else is said.
ITEMS_MAX = 10_000


def facts_of(canonical: Mapping[str, Any]) -> dict[str, Any]:
    """The facts under ``workflow`` of a definition that was checked: its graph has no cycle.

    Takes time in proportion to tasks, dependencies and bytes of input. Raises ValueError for a
    cycle, KeyError for what is not the canonical form.
    """
    tasks: Sequence[Mapping[str, Any]] = canonical["tasks"]
    beside = _handlers(canonical)
    limits = [task["attempt_timeout_us"] for task in tasks if task["attempt_timeout_us"]]
    longest = max((*limits, *(item.get("attempt_timeout_us", 0) for item in beside)), default=0)
    attempts = [task["retry"]["max_attempts"] for task in tasks if "retry" in task]
    more = [handler["retry"]["max_attempts"] for handler in beside if "retry" in handler]
    kinds = sorted({item["kind"] for item in (*tasks, *beside)} - {""})
    found: dict[str, Any] = {
        "name": canonical["name"],
        "task_count": len(tasks),
        "kinds": tuple(kinds),
        "kind_count": len(kinds),
        "labels": Labels(canonical["labels"]),
        "dimensions": Labels(canonical.get("dimensions", {})),
        "tasks_with_retry": sum(number > 1 for number in attempts),
        "tasks_with_timeout": len(limits),
        "max_attempts": max((*attempts, *more), default=1),
        "max_attempt_timeout_seconds": _seconds(longest),
        "input_bytes": sum(map(_input_bytes, tasks)) + sum(map(_input_bytes, beside)),
        "description_length": len(canonical["description"]),
        "max_leases": canonical["max_leases"],
    }
    found |= _declared(canonical) | _shape(tasks)
    assessed = dimensions.of_workflow(found)
    for coverage in Coverage:
        found[coverage.word] = dimensions.names(assessed, coverage)
    return found


def _handlers(canonical: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is executed beside the graph."""
    found = [task["compensation"] for task in canonical["tasks"] if "compensation" in task]
    if "on_failure" in canonical:
        found.append(canonical["on_failure"])
    return found


def _declared(canonical: Mapping[str, Any]) -> dict[str, Any]:
    """What the tasks wait for, and what is declared for some of them or for all."""
    tasks: Sequence[Mapping[str, Any]] = canonical["tasks"]
    repeated = [task["for_each"] for task in tasks if "for_each" in task]
    approvals = [task["approval"] for task in tasks if "approval" in task]
    approvers = {
        person
        for approval in approvals
        for who in ("approvers", "escalate_to")
        for person in approval.get(who, ())
    }
    return {
        "tasks_waiting": sum(task["kind"] == "" for task in tasks),
        "timers": sum("timer" in task for task in tasks),
        "approvals": len(approvals),
        "approvers": tuple(sorted(approvers)),
        "sub_workflows": tuple(
            sorted({task["workflow"]["name"] for task in tasks if "workflow" in task})
        ),
        "tasks_with_for_each": len(repeated),
        "max_items": max((item.get("items_max", ITEMS_MAX) for item in repeated), default=0),
        "tasks_with_compensation": sum("compensation" in task for task in tasks),
        "tasks_with_placement": sum("placement" in task for task in tasks),
        "on_failure": "on_failure" in canonical,
        "total_timeout_seconds": _seconds(canonical.get("total_timeout_us", 0)),
        "max_runs": canonical.get("concurrency", {}).get("limit", 0),
        "events": tuple(sorted({event["name"] for event in canonical.get("events", ())})),
    }


def _seconds(span_us: int) -> int:
    """Whole seconds, rounded up."""
    return -(-span_us // 1_000_000)


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
