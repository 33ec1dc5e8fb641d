"""The queries that find runs, built once for each shape of a question.

A question is answered from **candidates**: keys of runs in the order of the list, taken from one
index or merged from sorted pieces of one, never more than `examine` of them. What is wanted beyond
that is judged of each candidate by its keys (`fits`). So however rare a match is, a query looks at
a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, reduce
from operator import and_, or_
from typing import Any

from peewee import JOIN, SQL, Case, Join, Node, Tuple, Value, fn

from tenure_server.store import evidence_tables, rows, statements, tables

_RUN = tables.WorkflowRun
_TERM = tables.RunTerm
_WORD = tables.WorkflowWord
_ENTRY = evidence_tables.EvidenceEntry

_slot = statements.slot
_TENANT = _slot("tenant_id")
_EXAMINE = _slot("examine")
_IS_CHILD = _RUN.parent_run_id == _slot("parent_run_id")


@dataclass(frozen=True, slots=True)
class Source:
    """Where candidates come from: the number of pieces of each kind. States multiply workflows."""

    oldest_first: bool
    #: Runs in each of so many states, of any workflow or of so many.
    states: int = 0
    workflows: int = 0
    #: Runs that have a term.
    term: bool = False
    #: Runs that were started for a run.
    parent: bool = False
    #: Runs whose ids begin alike, in each of the states.
    prefix: bool = False
    #: Runs by their ids.
    run_ids: int = 0

    @property
    def by_state(self) -> bool:
        """Whether every piece is of one state."""
        return not (self.term or self.parent or self.prefix or self.run_ids)


@dataclass(frozen=True, slots=True)
class Fit:
    """What is judged of each candidate."""

    states: int = 0
    workflow: bool = False
    ended: bool = False
    terms: int = 0
    parent: bool = False
    #: Of a text: so many words, or the beginning of the id, or one of so many ids.
    words: int = 0
    prefix: bool = False
    run_ids: int = 0

    def __bool__(self) -> bool:
        return self != NOTHING


NOTHING = Fit()


@cache
def runs(source: Source) -> Node:
    """The first candidates as whole runs without inputs."""
    found = _candidates(source).alias("found")
    # The candidates come first, whatever a planner thinks.
    query = _RUN.select(*rows.RUN).from_(Join(found, _RUN, JOIN.CROSS))
    query = query.where(_RUN.tenant_id == _TENANT, _RUN.run_id == found.c.run_id)
    return query.order_by(*_order(source, found.c.create_us, found.c.run_id))


@cache
def judged(source: Source, fit: Fit) -> Node:
    """Time, id and 0 or 1 of the first candidates: whether each is what is wanted."""
    found = _candidates(source).alias("found")
    query = _RUN.select(found.c.create_us, found.c.run_id, _of_candidate(found, _fits(fit)))
    return query.from_(found).order_by(*_order(source, found.c.create_us, found.c.run_id))


@cache
def tally(source: Source, fit: Fit) -> Node:
    """How many of the first candidates there are of each kind: twice the state, and 1 if wanted."""
    found = _candidates(source).alias("found")
    kind = _of_candidate(found, _RUN.state * 2 + _fits(fit))
    looked_at = _RUN.select(kind.alias("kind")).from_(found).alias("looked_at")
    query = _RUN.select(looked_at.c.kind, fn.COUNT(SQL("*"))).from_(looked_at)
    return query.group_by(looked_at.c.kind)


@cache
def number(source: Source) -> Node:
    """How many candidates there are, up to `examine`."""
    found = _candidates(source).alias("found")
    return _RUN.select(fn.COUNT(found.c.run_id)).from_(found)


@cache
def by_ids(length: int) -> Node:
    """So many runs, in no order, without inputs."""
    ids = statements.slots("run_ids", length)
    return _RUN.select(*rows.RUN).where(_RUN.tenant_id == _TENANT, _RUN.run_id.in_(ids))


#: The workflows whose names hold a word, by name.
NAMES = (
    _WORD.select(_WORD.name)
    .where(_WORD.tenant_id == _TENANT, _WORD.word == _slot("word"))
    .order_by(_WORD.name)
    .limit(_slot("limit"))
)
NAME = NAMES.where(_WORD.name == _slot("workflow"))

_first = (
    _ENTRY.select(_ENTRY.entry_index, _ENTRY.kind, _ENTRY.items)
    .where(_ENTRY.tenant_id == _TENANT, _ENTRY.correlation_id == _slot("correlation_id"))
    .order_by(_ENTRY.entry_index)
    .limit(_slot("limit"))
    .alias("first")
)
#: Items of the starts among the first entries under a correlation id.
STARTS = (
    _ENTRY.select(_first.c.items)
    .from_(_first)
    .where(_first.c.kind == "run.start", _first.c.items.is_null(False))
    .order_by(_first.c.entry_index)
)


def _of_candidate(found: Any, value: Any) -> Any:
    """Something of a candidate's own row: one look-up each, which no planner can turn around."""
    row = _RUN.select(value)
    return row.where(_RUN.tenant_id == _TENANT, _RUN.run_id == found.c.run_id)


def _candidates(source: Source) -> Any:
    pieces = list(_pieces(source))
    if len(pieces) == 1:
        return pieces[0]
    # One run may be in several pieces.
    merged = reduce(or_, pieces)
    return merged.order_by(*_order(source, merged.c.create_us, merged.c.run_id)).limit(_EXAMINE)


def _pieces(source: Source) -> Iterator[Any]:
    states = statements.slots("states", source.states)
    if source.term:
        yield _piece(_TERM, source, _TERM.term == _slot("term"))
    if source.parent:
        # Said by the way: the index has no others.
        anybodys = _RUN.parent_run_id != SQL("''")
        yield _piece(_RUN, source, _IS_CHILD & anybodys)
    for name in statements.slots("workflows", source.workflows):
        for state in states:
            yield _piece(_RUN, source, (_RUN.workflow == name) & (_RUN.state == state))
    if source.prefix:
        alike = (_RUN.run_id >= _slot("from_id")) & (_RUN.run_id < _slot("until_id"))
        for state in states:
            yield _piece(_RUN, source, (_RUN.state == state) & alike, "prefix_")
    if source.run_ids:
        ids = statements.slots("run_ids", source.run_ids)
        yield _piece(_RUN, source, _RUN.run_id.in_(ids))
    if source.by_state and not source.workflows:
        for state in states:
            yield _piece(_RUN, source, _RUN.state == state)


def _piece(table: Any, source: Source, condition: Any, bounds: str = "") -> Any:
    """A sorted piece of an index, from behind a place on and up to a time."""
    place = Tuple(table.create_us, table.run_id)
    behind = Tuple(_slot(f"{bounds}create_us"), _slot(f"{bounds}run_id"))
    far = _slot(f"{bounds}far_us")
    within = (
        (place > behind) & (table.create_us < far)
        if source.oldest_first
        else (place < behind) & (table.create_us >= far)
    )
    query = table.select(table.create_us, table.run_id)
    query = query.where(table.tenant_id == _TENANT, condition, within)
    return query.order_by(*_order(source, table.create_us, table.run_id)).limit(_EXAMINE)


def _order(source: Source, create_us: Any, run_id: Any) -> tuple[Any, Any]:
    if source.oldest_first:
        return create_us.asc(), run_id.asc()
    return create_us.desc(), run_id.desc()


def _fits(fit: Fit) -> Any:
    conditions: list[Any] = []
    if fit.states:
        conditions.append(_RUN.state.in_(statements.slots("states", fit.states)))
    if fit.workflow:
        conditions.append(_RUN.workflow == _slot("workflow"))
    if fit.ended:
        conditions += [_RUN.end_us >= _slot("ended_from_us"), _RUN.end_us < _slot("ended_until_us")]
    if fit.parent:
        conditions.append(_IS_CHILD)
    conditions += [_has_term(term) for term in statements.slots("terms", fit.terms)]
    if text := _ways_to_fit_text(fit):
        conditions.append(reduce(or_, text))
    if not conditions:
        return Value(1)
    return Case(None, ((reduce(and_, conditions), 1),), 0)


def _ways_to_fit_text(fit: Fit) -> list[Any]:
    ways: list[Any] = []
    if fit.words:
        word_terms = statements.slots("word_terms", fit.words)
        words = statements.slots("words", fit.words)
        each = [_has_term(t) | _is_named(w) for t, w in zip(word_terms, words, strict=True)]
        ways.append(reduce(and_, each))
    if fit.prefix:
        ways.append((_RUN.run_id >= _slot("from_id")) & (_RUN.run_id < _slot("until_id")))
    if fit.run_ids:
        ways.append(_RUN.run_id.in_(statements.slots("run_ids", fit.run_ids)))
    return ways


# Both compare with the one row that there can be, and do not ask whether there is any: PostgreSQL
# answers that by reading everything that has the term or the word, once and for all candidates.


def _has_term(term: Value) -> Any:
    return _RUN.create_us == _TERM.select(_TERM.create_us).where(
        _TERM.tenant_id == _TENANT, _TERM.run_id == _RUN.run_id, _TERM.term == term
    )


def _is_named(word: Value) -> Any:
    return _RUN.workflow == _WORD.select(_WORD.name).where(
        _WORD.tenant_id == _TENANT, _WORD.word == word, _WORD.name == _RUN.workflow
    )
