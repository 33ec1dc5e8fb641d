"""What a definition says about order: which tasks there can be, and when the turn of each comes.

Reads the canonical form of definitions, as far as order needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tenure_evidence.canonical import read_json

ON_FAILURE: Final = "~on_failure"
_UNDO: Final = "~undo"
_ITEM: Final = re.compile(r"(.+)\[(0|[1-9][0-9]*)\]", re.DOTALL)
#: What a task is when no agent executes it.
_WAITS: Final = ("timer", "signal", "event", "approval", "workflow")

#: How a task can end, and the ends that count as a failure for what depends on it.
SUCCEEDED, SKIPPED = "succeeded", "skipped"
LOST: Final = frozenset({"failed", "upstream_failed", "cancelled"})
#: The rules by which the turn of a task comes.
_RULES: Final = frozenset({"all_succeeded", "all_done", "any_failed", "none_failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A task of a definition."""

    #: Its handler. Empty: no agent executes it.
    kind: str
    depends_on: tuple[str, ...]
    rule: str = "all_succeeded"
    #: The handler that undoes it. Empty: none does.
    undo: str = ""
    #: Whether it is executed once for each item of a list.
    repeated: bool = False

    def before(self, ends: Mapping[str, str]) -> str:
        """Why its turn has not come, by how tasks have ended; empty when it has."""
        if self.rule == "any_failed":
            if any(ends.get(name) in LOST for name in self.depends_on):
                return ""
            return f"before any of {', '.join(self.depends_on)} failed"
        for name in self.depends_on:
            end = ends.get(name)
            if end is None and self.rule != "all_succeeded":
                return f"before {name!r} ended"
            if self.rule == "none_failed" and end in LOST:
                return f"though {name!r} did not succeed"
            if self.rule == "all_succeeded" and end != SUCCEEDED:
                return f"before {name!r} succeeded"
        return ""

    def is_doomed(self, ends: Mapping[str, str]) -> bool:
        """Whether it fails with what it depends on."""
        dooming = self.rule in ("all_succeeded", "none_failed")
        return dooming and any(ends.get(name) in LOST for name in self.depends_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a task has its place: in the graph or beside it."""

    step: Step
    handler: str
    #: The task whose item it is, or that it undoes. Empty: neither.
    item_of: str = ""
    undoes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a definition says about order."""

    name: str
    tasks: Mapping[str, Step]
    #: The handler that is called after a failure. Empty: none is.
    on_failure: str = ""
    _places: dict[str, Place | None] = field(default_factory=dict)

    def place(self, key: str) -> Place | None:
        """The place of a task; None when a run of this definition can have no such task."""
        if key not in self._places:
            self._places[key] = self._find(key)
        return self._places[key]

    def _find(self, key: str) -> Place | None:
        step = self.tasks.get(key)
        if step is not None:
            return Place(step=step, handler=step.kind)
        if key == ON_FAILURE and self.on_failure:
            alone = Step(kind=self.on_failure, depends_on=())
            return Place(step=alone, handler=self.on_failure)
        if key.endswith(_UNDO):
            of = key.removesuffix(_UNDO)
            if self.can_be_undone(of):
                undone = self.place(of)
                assert undone is not None
                return Place(step=undone.step, handler=undone.step.undo, undoes=of)
        if match := _ITEM.fullmatch(key):
            whole = self.tasks.get(match[1])
            if whole is not None and whole.repeated:
                return Place(step=whole, handler=whole.kind, item_of=match[1])
        return None

    def can_be_undone(self, key: str) -> bool:
        """Whether a task has something that undoes it. Of a list it is the items that have."""
        place = self.place(key) if not key.endswith(_UNDO) else None
        if place is None or not place.step.undo or key == ON_FAILURE:
            return False
        return bool(place.item_of) == place.step.repeated


def undo_of(key: str) -> str:
    """The task that undoes another."""
    return f"{key}{_UNDO}"


def plan_of(definition: bytes) -> Plan:
    """Reads a definition, as far as order needs it. Raises ValueError for what is none."""
    match read_json(definition):
        case {"name": str(name), "tasks": list(rows)} as value:
            tasks = dict(map(_step, rows))
        case _:
            raise ValueError("is not a definition")
    if len(tasks) != len(rows):
        raise ValueError("has a task twice")
    return Plan(name=name, tasks=tasks, on_failure=_handler(value, "on_failure"))


def _step(row: Any) -> tuple[str, Step]:
    match row:
        case {"key": str(key), "kind": str(kind), "depends_on": list(depends_on)}:
            pass
        case _:
            raise ValueError("has a task without key, kind or depends_on")
    rule = row.get("trigger", "all_succeeded")
    if not _texts([rule, *depends_on]) or rule not in _RULES:
        raise ValueError(f"has task {key!r} with a strange depends_on or trigger")
    step = Step(
        kind="" if any(word in row for word in _WAITS) else kind,
        depends_on=tuple(depends_on),
        rule=rule,
        undo=_handler(row, "compensation"),
        repeated="for_each" in row,
    )
    return key, step


def _handler(row: Mapping[str, Any], name: str) -> str:
    match row.get(name):
        case None:
            return ""
        case {"kind": str(kind)}:
            return kind
        case _:
            raise ValueError(f"has a strange {name}")


def _texts(values: Iterable[Any]) -> bool:
    return all(type(value) is str for value in values)
