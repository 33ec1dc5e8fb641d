"""What can only be told from a definition as a whole, beside its graph."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tenure.v1 import workflows_pb2
from tenure_client.graph import DefinitionError, did_you_mean

ON_FAILURE_KEY = "~on_failure"

_MARKS = re.compile(r"[\[\]~]")
_ITEM = re.compile(r"(.*)\[[0-9]+\]")
_UNDO = "~undo"
_LAST_ITEM = "[9999]"
_KEY_CHARACTERS_MAX = 200


def kinds(definition: workflows_pb2.WorkflowDefinition) -> list[str]:
    """The handlers that its runs need, those beside the graph included, each once, sorted."""
    found = {task.kind for task in definition.tasks if task.kind}
    found |= {task.compensation.kind for task in definition.tasks if task.HasField("compensation")}
    if definition.HasField("on_failure"):
        found.add(definition.on_failure.kind)
    return sorted(found)


def waits_for(task: workflows_pb2.WorkflowTask) -> str:
    """What a task waits for, such as `timer`; empty for one that an agent executes."""
    return task.WhichOneof("wait") or ""


def check(definition: workflows_pb2.WorkflowDefinition) -> None:
    """Raises DefinitionError for keys that the coordinator gives itself, and unknown kinds."""
    for number, reason in _taken_keys(definition):
        raise DefinitionError(("tasks", number, "key"), reason)
    if not definition.schemas:
        return
    known = kinds(definition)
    for kind in definition.schemas:
        if kind not in known:
            hint = did_you_mean(kind, known)
            reason = f"is of a kind that nothing in the workflow has{hint}"
            raise DefinitionError(("schemas", kind), reason)


def _taken_keys(definition: workflows_pb2.WorkflowDefinition) -> Iterator[tuple[int, str]]:
    repeated = {task.key for task in definition.tasks if task.HasField("for_each")}
    undone = {task.key for task in definition.tasks if task.HasField("compensation")}
    fails = definition.HasField("on_failure")
    if not (repeated or undone or fails):
        return
    for number, task in enumerate(definition.tasks):
        key = task.key
        added = (len(_LAST_ITEM) if key in repeated else 0) + (len(_UNDO) if key in undone else 0)
        if added and _MARKS.search(key):
            yield number, "must be without '[', ']' and '~' beside for_each or compensation"
        if added and len(key) > _KEY_CHARACTERS_MAX - added:
            most = _KEY_CHARACTERS_MAX - added
            yield number, f"must have at most {most} characters beside for_each or compensation"
        item = _ITEM.fullmatch(key)
        if item is not None and item[1] in repeated:
            yield number, f"is the key of an item of task {item[1]!r}"
        if key.endswith(_UNDO) and key.removesuffix(_UNDO) in undone:
            yield number, f"is the key of what undoes task {key.removesuffix(_UNDO)!r}"
        if fails and key == ON_FAILURE_KEY:
            yield number, "is the key of what is executed after a failure"
