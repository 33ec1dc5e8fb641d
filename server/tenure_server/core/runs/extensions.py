"""Tasks that a run gets beside those of its definition: items of a list, what undoes, on_failure.

They are numbered behind the definition's tasks, in the order in which they came to be, so that a
run that is read back from the store has the same numbers again. Tasks of one extension share their
declaration; only their keys differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from tenure_server.core.definitions.declared import ON_FAILURE_KEY, WorkflowTask, item_key, undo_key
from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.features import Handler, TriggerRule, nothing
from tenure_server.core.definitions.graph import Graph

ITEMS = "items"
UNDO = "undo"
ON_FAILURE = "on_failure"


@dataclass(frozen=True, slots=True)
class Extension:
    """Some tasks beside the graph."""

    #: `ITEMS`, `UNDO` or `ON_FAILURE`.
    kind: str
    #: The task that they belong to; -1 for `ON_FAILURE`.
    of: int
    #: How many.
    count: int = 1
    #: Of items: the place of the first in their list. A list that was worked out anew may be longer
    #: than it was.
    start: int = 0

    def as_json(self) -> list[Any]:
        """What the store keeps of it."""
        value = [self.kind, self.of, self.count]
        return [*value, self.start] if self.start else value


def parse(value: Sequence[Any]) -> Extension:
    """Reads `as_json` back."""
    return Extension(*value)


def extend(
    definition: WorkflowDefinition,
    tasks: Sequence[WorkflowTask],
    graph: Graph,
    extensions: Iterable[Extension],
) -> tuple[list[WorkflowTask], Graph]:
    """The tasks and the graph of a run, with extensions behind them."""
    all_tasks, first = list(tasks), len(tasks)
    more: list[tuple[str, tuple[int, ...]]] = []
    for extension in extensions:
        if extension.kind == ITEMS:
            of = all_tasks[extension.of]
            beside = _item_of(of)
            upstream = graph.upstream[extension.of]
            begin = extension.start
            keys = [item_key(of.key, number) for number in range(begin, begin + extension.count)]
        elif extension.kind == UNDO:
            of = all_tasks[extension.of]
            assert of.compensation is not None
            beside = _beside(of.key, of.compensation)
            upstream = (extension.of,)
            at = extension.of - first
            keys = [undo_key(graph.keys[extension.of] if at < 0 else more[at][0])]
        else:
            assert definition.on_failure is not None
            beside = _beside(ON_FAILURE_KEY, definition.on_failure)
            upstream = ()
            keys = [ON_FAILURE_KEY]
        more += [(key, upstream) for key in keys]
        all_tasks += [beside] * extension.count
    return all_tasks, graph.extended(more)


def parts_of(planned: int, extensions: Sequence[Extension], index: int) -> Sequence[int]:
    """The numbers of the items of a task, in the order of its list."""
    first, found = planned, list[range]()
    for extension in extensions:
        if extension.kind == ITEMS and extension.of == index:
            found.append(range(first, first + extension.count))
        first += extension.count
    return found[0] if len(found) == 1 else [part for parts in found for part in parts]


@dataclass(frozen=True, slots=True)
class Shape:
    """The tasks of a run, and how they depend on each other."""

    tasks: Sequence[WorkflowTask]
    graph: Graph
    extensions: Sequence[Extension] = ()
    #: Those that follow after a failure. Each begins with a row.
    aftermath: frozenset[int] = frozenset()

    @property
    def planned(self) -> int:
        """How many tasks the definition has."""
        return len(self.tasks) - sum(extension.count for extension in self.extensions)


def shape_of(definition: WorkflowDefinition, graph: Graph, detail: str | None) -> Shape:
    """The shape of a run, by its definition and by what its row keeps under `detail`."""
    values = orjson.loads(detail).get("extensions", ()) if detail else ()
    if not values:
        return Shape(definition.tasks, graph)
    found = [parse(value) for value in values]
    tasks, extended = extend(definition, definition.tasks, graph, found)
    return Shape(tasks, extended, found, frozenset(aftermath_of(found, len(definition.tasks))))


def aftermath_of(extensions: Iterable[Extension], first: int) -> Iterator[int]:
    """The numbers of what follows after a failure, when the first of all has this number."""
    for extension in extensions:
        if extension.kind != ITEMS:
            yield first
        first += extension.count


def declared_as(definition: WorkflowDefinition, graph: Graph, key: str) -> WorkflowTask:
    """What declares the task with a key, in the graph or beside it. Raises LookupError."""
    index = graph.index.get(key)
    if index is not None:
        return definition.tasks[index]
    if key == ON_FAILURE_KEY and definition.on_failure is not None:
        return _beside(key, definition.on_failure)
    undone = key.removesuffix(undo_key(""))
    if undone != key:
        of = declared_as(definition, graph, undone)
        if of.compensation is not None:
            return _beside(key, of.compensation)
    whole = key.rpartition("[")[0]
    if whole in graph.index and definition.tasks[graph.index[whole]].for_each is not None:
        return _item_of(definition.tasks[graph.index[whole]])
    raise LookupError(f"no run of {definition.name} has a task {key!r}")


def _item_of(of: WorkflowTask) -> WorkflowTask:
    """One item of a list: the time of all of them is bounded by the task that has them."""
    return replace(
        of, for_each=None, when="", trigger=TriggerRule.ALL_SUCCEEDED, total_timeout_us=None
    )


def _beside(key: str, handler: Handler) -> WorkflowTask:
    return WorkflowTask(
        key=key,
        kind=handler.kind,
        input=handler.input,
        bindings=handler.bindings or nothing(),
        retry=handler.retry,
        attempt_timeout_us=handler.attempt_timeout_us,
    )
