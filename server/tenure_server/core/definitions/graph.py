"""A workflow as a directed acyclic graph: checked once, then asked what follows what.

Tasks are numbered in the order of their definition; everything after the check speaks in numbers.
"""

from __future__ import annotations

import graphlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tenure_server.core import errors


@dataclass(frozen=True, slots=True)
class Needs:
    """Whose outputs are looked at beyond the edges, by task number."""

    #: By task: those it looks at without depending on them directly.
    before: Mapping[int, tuple[int, ...]]
    #: By task: those that look at it so.
    behind: Mapping[int, tuple[int, ...]]
    #: Those that are looked at when the run has come to its end.
    to_the_end: frozenset[int]


NO_NEEDS = Needs({}, {}, frozenset())


@dataclass(frozen=True, slots=True)
class Graph:
    """The edges of a checked graph, by task number."""

    keys: tuple[str, ...]
    #: Task number of each key.
    index: dict[str, int]
    #: For each task, the tasks it depends on.
    upstream: tuple[tuple[int, ...], ...]
    #: For each task, the tasks that depend on it.
    downstream: tuple[tuple[int, ...], ...]
    #: For each task, how many tasks it depends on.
    missing: array[int]
    #: The length of the longest chain, in tasks.
    depth: int
    #: Tasks that are not simply leased when all they depend on have succeeded.
    special: frozenset[int] = frozenset()
    needs: Needs = NO_NEEDS
    #: Whether any task declares limits of its own, so that the others need not be asked.
    limited: bool = False

    def needed_by(self, index: int) -> tuple[int, ...]:
        """The tasks that are given the output of a task, or look at it."""
        behind = self.downstream[index]
        if self.needs is NO_NEEDS:
            return behind
        return behind + self.needs.behind.get(index, ())

    @classmethod
    def build(
        cls, tasks: Sequence[tuple[str, Iterable[str]]], special: frozenset[int] = frozenset()
    ) -> Graph:
        """Builds the graph from pairs of key and dependencies.

        Raises GraphInvalid: duplicate key, unknown dependency, one named twice, or a cycle (named).
        """
        index: dict[str, int] = {}
        violations: list[tuple[str, str]] = []
        for number, (key, _) in enumerate(tasks):
            if index.setdefault(key, number) != number:
                violations.append((_field(number, "key"), f"duplicate task key {key!r}"))
        upstream = []
        for number, (key, depends_on) in enumerate(tasks):
            names = tuple(depends_on)
            violations.extend(_dependency_violations(number, key, names, index))
            upstream.append(tuple(index[name] for name in names if name in index))
        if violations:
            raise errors.GraphInvalid(violations[:20])
        keys = tuple(index)
        order = _order(keys, upstream)
        followers: list[list[int]] = [[] for _ in keys]
        levels = [1] * len(keys)
        for number in order:
            for dependency in upstream[number]:
                levels[number] = max(levels[number], levels[dependency] + 1)
        for number, dependencies in enumerate(upstream):
            for dependency in dependencies:
                followers[dependency].append(number)
        return cls(
            keys=keys,
            index=index,
            upstream=tuple(upstream),
            downstream=tuple(tuple(numbers) for numbers in followers),
            missing=array("i", (len(dependencies) for dependencies in upstream)),
            depth=max(levels),
            special=special,
        )

    def extended(self, tasks: Sequence[tuple[str, tuple[int, ...]]]) -> Graph:
        """The graph with more tasks behind its own: their keys, and what each is given of.

        Nothing depends on them, and they depend on nothing any more.
        """
        first = len(self.keys)
        keys = [key for key, _ in tasks]
        return replace(
            self,
            keys=(*self.keys, *keys),
            index=self.index | {key: first + number for number, key in enumerate(keys)},
            upstream=(*self.upstream, *(upstream for _, upstream in tasks)),
            downstream=(*self.downstream, *([()] * len(keys))),
            missing=self.missing + array("i", bytes(4 * len(keys))),
        )

    @property
    def dependency_count(self) -> int:
        """How many edges there are."""
        return sum(self.missing)


def _field(number: int, name: str) -> str:
    return f"definition.tasks[{number}].{name}"


def _dependency_violations(
    number: int, key: str, names: tuple[str, ...], index: dict[str, int]
) -> Iterable[tuple[str, str]]:
    field = _field(number, "depends_on")
    for name in names:
        if name not in index:
            yield field, f"task {key!r} depends on {name!r}, which is not in the workflow"
    if len(set(names)) != len(names):
        yield field, f"task {key!r} names a dependency twice"


def _order(keys: Sequence[str], upstream: Sequence[tuple[int, ...]]) -> list[int]:
    sorter = graphlib.TopologicalSorter(dict(enumerate(upstream)))
    try:
        return list(sorter.static_order())
    except graphlib.CycleError as error:
        # graphlib gives predecessor → successor with the first task again at the end.
        cycle = [keys[number] for number in error.args[1]]
        shown = " → ".join(cycle if len(cycle) <= 12 else [*cycle[:11], "…", cycle[-1]])
        field = _field(error.args[1][0], "depends_on")
        raise errors.GraphInvalid([(field, f"the tasks form a cycle: {shown}")]) from None
