"""What may be wrong with the expressions of a definition: told when it is registered.

Each use has names of its own and something that it must come out as. What cannot be told before
there are data, such as the type of a field of an input, is told when it is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tenure_server.core.definitions.declared_texts import Expression as Place
from tenure_server.core.definitions.declared_texts import Use
from tenure_server.core.definitions.graph import Graph
from tenure_server.core.expressions.evaluation import (
    Expression,
    ExpressionInvalid,
    Read,
    Sort,
    compiled,
)

#: In all, plain paths and repetitions counted.
EXPRESSIONS_MAX = 100_000
#: Each costs about half a millisecond to compile; plain paths and repetitions are not counted.
COMPILED_MAX = 1000

_RUN = frozenset({"run.input", "run.labels", "run.id"})
_TASKS = frozenset({"tasks.output", "tasks.state"})
_TURN = _RUN | _TASKS
_EVENT = frozenset({"event.name", "event.key", "event.payload"})
_ITEM = frozenset({"item", "index"})


@dataclass(frozen=True, slots=True)
class _Rule:
    names: frozenset[str]
    sorts: frozenset[Sort] = frozenset(Sort)
    wanted: str = ""


_FLAG = (frozenset({Sort.ANY, Sort.FLAG}), "true or false")
_LIST = (frozenset({Sort.ANY, Sort.LIST}), "a list")
_TEXT = (frozenset({Sort.ANY, Sort.TEXT}), "text")
_TIME = (
    frozenset({Sort.ANY, Sort.MOMENT, Sort.TEXT, Sort.INTEGER, Sort.NUMBER}),
    "a time: a timestamp, text, or seconds since the epoch",
)

_RULES = {
    Use.BINDING: _Rule(_TURN | {"attempt"}),
    Use.UNDO_BINDING: _Rule(_TURN | {"attempt", "output"}),
    Use.FAILURE_BINDING: _Rule(_TURN | {"attempt", "failed", "run.reason"}),
    Use.WHEN: _Rule(_TURN, *_FLAG),
    Use.ITEMS: _Rule(_TURN, *_LIST),
    Use.TIME: _Rule(_TURN, *_TIME),
    Use.EVENT_KEY: _Rule(_TURN, *_TEXT),
    Use.UNTIL: _Rule(frozenset({"output", "iteration"}), *_FLAG),
    Use.TASK_KEY: _Rule(_RUN, *_TEXT),
    Use.RUN_KEY: _Rule(_RUN, *_TEXT),
    Use.OUTPUT: _Rule(_TURN),
    Use.EVENT_WHEN: _Rule(_EVENT, *_FLAG),
    Use.EVENT_BINDING: _Rule(_EVENT),
}
#: Where each item of a `for_each` has its own.
_OF_ITEMS = frozenset({Use.BINDING, Use.UNDO_BINDING})


def check_expressions(
    places: Iterable[Place], graph: Graph, repeated: frozenset[int]
) -> Iterator[tuple[str, str]]:
    """Gives pairs of field path and reason for every expression that is not as it should be.

    `repeated` are the numbers of the tasks with `for_each`.
    """
    compiled_ones = list(_compiled(places))
    upstream = _Upstream(graph)
    upstream.ask(
        (place.task, read.task)
        for place, one in compiled_ones
        if isinstance(one, Expression)
        for read in one.reads
        if read.task
    )
    for place, one in compiled_ones:
        if isinstance(one, str):
            yield place.path, one
            continue
        rule = _RULES[place.use]
        more = _ITEM if place.use in _OF_ITEMS and place.task in repeated else frozenset[str]()
        for read in one.reads:
            if reason := _read_problem(place, read, rule.names | more, upstream):
                yield place.path, reason
        if one.sort not in rule.sorts:
            yield place.path, f"must come out as {rule.wanted}, not as {one.sort.value}"


def _compiled(places: Iterable[Place]) -> Iterator[tuple[Place, Expression | str]]:
    """Compiles what can be, up to so many different ones; a text says why not."""
    seen: set[str] = set()
    for number, place in enumerate(places):
        if number >= EXPRESSIONS_MAX:
            yield place, f"is one too many: at most {EXPRESSIONS_MAX} are allowed"
            return
        if len(seen) >= COMPILED_MAX and place.text not in seen:
            yield place, f"is one too many: at most {COMPILED_MAX} different ones are allowed"
            return
        try:
            expression = compiled(place.text)
        except ExpressionInvalid as error:
            seen.add(place.text)
            yield place, str(error)
            continue
        if not expression.is_plain:
            seen.add(place.text)
        yield place, expression


def _read_problem(
    place: Place, read: Read, names: frozenset[str], upstream: _Upstream
) -> str | None:
    if read.root not in names:
        if read.root in _ITEM and place.use in _OF_ITEMS:
            return f"{read.source} is known only to tasks with for_each"
        known = ", ".join(sorted(name.replace("tasks.", "tasks.KEY.") for name in names))
        return f"{read.source} is not known here; known are {known}"
    if not read.task:
        return None
    if read.task not in upstream.graph.index:
        return f"there is no task {read.task!r} in the workflow"
    if place.task is not None and not upstream.precedes(read.task, place.task):
        key = upstream.graph.keys[place.task]
        return f"task {key!r} does not depend on {read.task!r}, so it has nothing of it to look at"
    return None


class _Upstream:
    """Which tasks come before which: worked out only for those that are asked about."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._bits: dict[int, int] = {}
        self._before: list[int] = []

    def ask(self, pairs: Iterable[tuple[int | None, str]]) -> None:
        """Prepares for pairs of a task's number and the key that it names."""
        graph = self.graph
        for number, key in pairs:
            named = graph.index.get(key)
            if number is not None and named is not None and named not in graph.upstream[number]:
                self._bits.setdefault(named, 1 << len(self._bits))
        if not self._bits:
            return
        before = self._before = [0] * len(graph.keys)
        missing = list(graph.missing)
        ready = [number for number, count in enumerate(missing) if count == 0]
        while ready:
            number = ready.pop()
            reached = before[number] | self._bits.get(number, 0)
            for follower in graph.downstream[number]:
                before[follower] |= reached
                missing[follower] -= 1
                if missing[follower] == 0:
                    ready.append(follower)

    def precedes(self, key: str, number: int) -> bool:
        """Whether a task comes before another, directly or not."""
        named = self.graph.index[key]
        if named in self.graph.upstream[number]:
            return True
        return bool(self._before and self._before[number] & self._bits.get(named, 0))
