"""Finds runs by filter, a page at a time and counted, without walking over what is not shown.

For each question one index is chosen that serves it: the one with the fewest candidates, as far as
they are worth counting. What that index cannot know is judged of its candidates, and of no more
than `EXAMINED_MAX` of them for a page; a page that ends there is short, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from peewee import Node

from tenure_evidence.packing import unpacked
from tenure_server.core.ledger import records
from tenure_server.core.ledger.terms import word_term
from tenure_server.core.seeing.filters import (
    IdRange,
    Place,
    RunFilter,
    RunPage,
    Span,
    StateCount,
    ids_beginning_with,
)
from tenure_server.store import rows, run_queries, statements
from tenure_server.store.database import Store
from tenure_server.store.run_queries import Fit, Source

#: The most candidates that one page or one count looks at.
EXAMINED_MAX = 10_000
#: Up to so many candidates are counted to choose an index.
PROBED_MAX = 1_000
#: The fewest candidates that are looked at in one step.
_STEP_MIN = 256
#: A word in the names of more workflows is looked for among all runs.
NAMES_MAX = 8
#: Starts are looked for among so many entries under a correlation id, and so many runs of them.
ENTRIES_MAX = 1_000
IDS_MAX = 1_024

#: Behind every id, to begin or end an order with.
_NO_ID = ""


@dataclass(frozen=True, slots=True)
class _Text:
    """What a text can mean."""

    words: tuple[str, ...] = ()
    prefix: IdRange | None = None
    #: Filled up to a power of two.
    run_ids: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.words or self.prefix or self.run_ids)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to answer: an index, what is left to judge, and the values of both."""

    source: Source
    fit: Fit
    values: Mapping[str, Any]

    @property
    def pieces(self) -> int:
        """How many pieces are merged."""
        source = self.source
        alone = source.term + source.parent
        return source.states * (max(1, source.workflows) + source.prefix) + alone + 1


class RunSearch:
    """Finds runs of one tenant, inside `Store.reading`. Raises StoreFailed through it."""

    def __init__(self, store: Store, tenant_id: str) -> None:
        self._store = store
        self._tenant_id = tenant_id

    def page(
        self, wanted: RunFilter, after: Place | None, limit: int, *, oldest_first: bool = False
    ) -> RunPage:
        """At most `limit` runs without their inputs from behind a place on, newest first.

        It may hold fewer, even none, and still have a page behind it.
        """
        way = self._way(wanted, after, oldest_first)
        if way is None:
            return RunPage([], None)
        if not way.fit:
            found = self._runs(way, limit + 1)
            return RunPage(found[:limit], _place(found[limit - 1]) if len(found) > limit else None)
        keys, end = self._fitting(way, limit)
        return RunPage(self._by_ids([run_id for _, run_id in keys]), end)

    def count(self, wanted: RunFilter) -> list[StateCount]:
        """How many runs are in each of the states that are wanted.

        Where all is decided by state and workflow, each state is counted up to `EXAMINED_MAX` for
        itself; else all together, and every one has `more` when the candidates did not end.
        """
        way = self._way(wanted, None, False)
        if way is None:
            return []
        if not way.fit and way.source.by_state:
            return [self._count_of(way, state) for state in way.values["states"]]
        found = self._rows(run_queries.tally(way.source, way.fit), way.values, EXAMINED_MAX + 1)
        more = sum(number for _, number in found) > EXAMINED_MAX
        # Each kind is twice a state, and 1 more for the runs of it that are wanted.
        counted = {kind // 2: number for kind, number in found if kind is not None and kind % 2}
        return [StateCount(state, counted.get(state, 0), more) for state in wanted.wanted_states()]

    # -- pages

    def _fitting(self, way: _Way, limit: int) -> tuple[list[Place], Place | None]:
        """The first places that fit, and where to go on."""
        keys: list[Place] = []
        examined, step, values = 0, max(_STEP_MIN, 2 * limit), dict(way.values)
        query = run_queries.judged(way.source, way.fit)
        while True:
            step = min(step, EXAMINED_MAX - examined)
            found = self._rows(query, values, step)
            for create_us, run_id, fits in found:
                if not fits:
                    continue
                if len(keys) == limit:
                    return keys, keys[-1]
                keys.append((create_us, run_id))
            examined += len(found)
            if len(found) < step:
                return keys, None
            end = (found[-1][0], found[-1][1])
            if examined >= EXAMINED_MAX:
                return keys, end
            values |= self._bounds(way, end)
            step *= 2

    def _runs(self, way: _Way, limit: int) -> list[records.Run]:
        found = self._rows(run_queries.runs(way.source), way.values, limit)
        return [rows.run(row) for row in found]

    def _by_ids(self, run_ids: Sequence[str]) -> list[records.Run]:
        found: dict[str, records.Run] = {}
        for piece in statements.pieces(run_ids):
            for row in self._rows(run_queries.by_ids(len(piece)), {"run_ids": piece}):
                run = rows.run(row)
                found[run.run_id] = run
        # One may be gone since it was found.
        return [found[run_id] for run_id in run_ids if run_id in found]

    def _count_of(self, way: _Way, state: int) -> StateCount:
        source = replace(way.source, states=1)
        values = {**way.values, "states": [state]}
        [(count,)] = self._rows(run_queries.number(source), values, EXAMINED_MAX + 1)
        return StateCount(rows.run_state(state), min(count, EXAMINED_MAX), count > EXAMINED_MAX)

    # -- ways to answer

    def _way(self, wanted: RunFilter, after: Place | None, oldest_first: bool) -> _Way | None:
        """The cheapest way to answer. None: nothing can be meant."""
        states, terms = wanted.wanted_states(), wanted.terms()
        text = self._text(wanted.text) if wanted.text else _Text()
        if not states or (wanted.text and not text):
            return None
        values: dict[str, Any] = {
            "workflow": wanted.workflow,
            "workflows": [wanted.workflow],
            "states": [int(state) for state in states],
            "terms": terms,
            "parent_run_id": wanted.parent_run_id,
            "words": text.words,
            "word_terms": [word_term(word) for word in text.words],
            "run_ids": text.run_ids,
            "ended_from_us": wanted.ended.from_us,
            "ended_until_us": wanted.ended.until_us,
            **_bounds(wanted.created, after, oldest_first),
        }
        if text.prefix is not None:
            values |= _prefix_bounds(text.prefix, values, oldest_first)
        whole = Fit(
            states=len(states) if wanted.states or wanted.by_end else 0,
            workflow=bool(wanted.workflow),
            ended=wanted.by_end,
            terms=len(terms),
            parent=bool(wanted.parent_run_id),
            words=len(text.words),
            prefix=text.prefix is not None,
            run_ids=len(text.run_ids),
        )
        ways = [
            *self._by_terms(whole, values, oldest_first),
            *self._by_text(whole, values, oldest_first),
        ]
        if whole.parent:
            source = Source(oldest_first, parent=True)
            ways.append(_Way(source, replace(whole, parent=False), values))
        if not ways or whole.states or whole.workflow:
            ways.append(_by_states(whole, values, oldest_first))
        return ways[0] if len(ways) == 1 else min(ways, key=self._cost)

    def _by_terms(
        self, whole: Fit, values: Mapping[str, Any], oldest_first: bool
    ) -> Iterator[_Way]:
        terms = values["terms"]
        for number, term in enumerate(terms):
            others = [*terms[:number], *terms[number + 1 :]]
            yield _Way(
                Source(oldest_first, term=True),
                replace(whole, terms=len(others)),
                {**values, "term": term, "terms": others},
            )

    def _by_text(self, whole: Fit, values: Mapping[str, Any], oldest_first: bool) -> Iterator[_Way]:
        """By one of the words, and whatever else the text can mean."""
        states = len(values["states"])
        source = Source(oldest_first, prefix=whole.prefix, run_ids=whole.run_ids)
        if whole.prefix:
            source = replace(source, states=states)
        for word in values["words"]:
            names = self._names(word, values["workflow"])
            if len(names) > NAMES_MAX:
                continue
            of_word = replace(source, term=True, workflows=len(names))
            if names:
                of_word = replace(of_word, states=states)
            fit = whole if len(values["words"]) > 1 else replace(whole, **_NO_TEXT)
            yield _Way(of_word, fit, {**values, "term": word_term(word), "workflows": names})

    def _names(self, word: str, workflow: str) -> list[str]:
        """Workflows whose names hold a word: those of one name only, where that is given."""
        query = run_queries.NAME if workflow else run_queries.NAMES
        values = {"word": word, "workflow": workflow, "limit": NAMES_MAX + 1}
        return [name for (name,) in self._rows(query, values)]

    def _cost(self, way: _Way) -> tuple[int, int, bool]:
        """What a way costs: candidates as far as they are counted, and pieces to merge."""
        [(count,)] = self._rows(run_queries.number(way.source), way.values, PROBED_MAX)
        return count, way.pieces, bool(way.fit)

    def _bounds(self, way: _Way, end: Place) -> dict[str, Any]:
        """The values with which the candidates behind a place are taken."""
        oldest_first = way.source.oldest_first
        found: dict[str, Any] = {"create_us": end[0], "run_id": end[1]}
        if way.source.prefix:
            before = (way.values["prefix_create_us"], way.values["prefix_run_id"])
            nearer = max(before, end) if oldest_first else min(before, end)
            found |= {"prefix_create_us": nearer[0], "prefix_run_id": nearer[1]}
        return found

    def _text(self, text: str) -> _Text:
        words = RunFilter(text=text).words()
        found = list(self._started_under(text))
        # As long as a power of two, so that few queries serve all.
        length = 1 << (len(found) - 1).bit_length() if found else 0
        found += found[-1:] * (length - len(found))
        return _Text(tuple(words), ids_beginning_with(text), tuple(found))

    def _started_under(self, correlation_id: str) -> Iterator[str]:
        """Runs that were started by calls with this correlation id, as the evidence has it."""
        seen: dict[str, None] = {}
        values = {"correlation_id": correlation_id, "limit": ENTRIES_MAX}
        for (items,) in self._rows(run_queries.STARTS, values):
            for item in orjson.loads(unpacked(bytes(items))):
                if item["kind"] == "run.started":
                    seen[item["run"]] = None
            if len(seen) >= IDS_MAX:
                break
        return iter(list(seen)[:IDS_MAX])

    def _rows(
        self, query: Node, values: Mapping[str, Any], examine: int = 0
    ) -> list[tuple[Any, ...]]:
        whole = {**values, "tenant_id": self._tenant_id, "examine": examine}
        return self._store.rows(query, whole, needs="tenant_id")


_NO_TEXT: dict[str, Any] = {"words": 0, "prefix": False, "run_ids": 0}


def _by_states(whole: Fit, values: Mapping[str, Any], oldest_first: bool) -> _Way:
    source = Source(oldest_first, states=len(values["states"]), workflows=int(whole.workflow))
    return _Way(source, replace(whole, states=0, workflow=False), values)


def _bounds(created: Span, after: Place | None, oldest_first: bool) -> dict[str, Any]:
    if oldest_first:
        begin, far_us = (created.from_us, _NO_ID), created.until_us
        near = begin if after is None else max(begin, after)
    else:
        begin, far_us = (created.until_us, _NO_ID), created.from_us
        near = begin if after is None else min(begin, after)
    return {"create_us": near[0], "run_id": near[1], "far_us": far_us}


def _prefix_bounds(
    prefix: IdRange, values: Mapping[str, Any], oldest_first: bool
) -> dict[str, Any]:
    """The bounds of the piece of ids that begin alike: they were made in a span that is known."""
    after, far_us = (values["create_us"], values["run_id"]), values["far_us"]
    near = _bounds(prefix.made, after, oldest_first)
    far_us = min(far_us, near["far_us"]) if oldest_first else max(far_us, near["far_us"])
    return {
        "prefix_create_us": near["create_us"],
        "prefix_run_id": near["run_id"],
        "prefix_far_us": far_us,
        "from_id": prefix.from_id,
        "until_id": prefix.until_id,
    }


def _place(run: records.Run) -> Place:
    return run.create_us, run.run_id
