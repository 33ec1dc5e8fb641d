"""The data flow of workflows: CEL over a run's input, the outputs of tasks and what they are about.

    text ──compiled──▶ Expression ──value(names, Budget())──▶ plain JSON value
                           │
                         reads: what it looks at (`core.definitions.expression_checks` judges that)

`names` is what an expression may look at, as tables within tables: ``{"run": {"input": …, "labels":
…, "id": …}, "tasks": {"fetch": {"output": …, "state": "SUCCEEDED"}}, "attempt": 1}``. Only what is
in `Expression.reads` needs to be there.

What an evaluation may cost is bounded by a `Budget`: worked out from the sizes of what was read,
before it is spent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from tenure_constitution import cel
from tenure_constitution.cel import CannotTell, DataProgram
from tenure_constitution.cel import Sort as Sort
from tenure_server.core.expressions import reading as reading
from tenure_server.core.expressions.costs import Budget as Budget
from tenure_server.core.expressions.costs import (
    BudgetExceeded,
    Size,
    growth,
    loop_cost,
    part_cost,
    size_of,
)
from tenure_server.core.expressions.reads import Read as Read
from tenure_server.core.expressions.results import ResultInvalid, as_json
from tenure_server.core.expressions.words import ExpressionInvalid as ExpressionInvalid

ITEMS_MAX = 10_000
#: So many compiled expressions are kept, of all workflows together.
_KEPT = 8192
#: What a loop is given at once. The time for one part grows with the square of its size.
_PART_ITEMS = 32


_DEEP = "max recursion depth"
_PLACE = re.compile(r"^\d+:\d+: |^-1:-1: ")


class EvaluationFailed(ValueError):  # noqa: N818 - named for what happened
    """An expression came to no value; the message says why."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for data that there is, but no expression can look into."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    stage: reading.Stage
    range: DataProgram
    loop: DataProgram


class Expression:
    """A compiled expression."""

    __slots__ = ("_growth", "_loops", "_reading", "_rest", "reads", "sort", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self._reading = reading.read(source)
        #: What it looks at.
        self.reads: tuple[Read, ...] = tuple(self._reading.reads.values())
        #: What it comes out as, where that can be told.
        self.sort = Sort.ANY
        self._rest: DataProgram | None = None
        self._loops: tuple[_Loop, ...] = ()
        self._growth = growth(self._reading)
        if self._reading.plain is not None:
            self.sort = self._reading.plain.sort
            return
        try:
            self.sort = cel.compile_data(self._reading.text).sort
            self._rest = cel.compile_data(self._reading.rest_text)
            self._loops = tuple(
                _Loop(
                    stage=stage,
                    range=cel.compile_data(stage.range_text),
                    loop=cel.compile_data(_in_parts(stage)),
                )
                for stage in self._reading.stages
            )
        except cel.CompileFailed as error:
            raise ExpressionInvalid(self._named(str(error))) from error

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but a path, which needs no compiler."""
        return self._reading.plain is not None

    def value(self, names: Mapping[str, Any], budget: Budget) -> Any:
        """Gives what it comes out as: what JSON can hold, integers exact.

        Raises EvaluationFailed: a path leads nowhere, types do not fit, the result is no JSON, or
        it would cost more than is left of the budget.
        """
        plain = self._reading.plain
        if plain is not None:
            return _found(plain, names)
        try:
            return as_json(self._computed(names, budget))
        except ResultInvalid as error:
            raise EvaluationFailed(f"comes out as something that {error}") from error
        except BudgetExceeded as error:
            raise EvaluationFailed(str(error)) from error

    def _computed(self, names: Mapping[str, Any], budget: Budget) -> Any:
        given: dict[str, Any] = {}
        sizes: dict[str, Size] = {}
        lacking: dict[str, str] = {}
        for variable, one in self._reading.reads.items():
            try:
                given[variable] = _found(one, names)
            except EvaluationFailed as error:
                # An error only where the expression comes to it.
                lacking[variable] = str(error)
            else:
                sizes[variable] = size_of(given[variable], budget)
        for loop in self._loops:
            try:
                result = self._looped(loop, given, sizes, budget)
            except CannotTell as error:
                lacking[loop.stage.result] = self._reason(error, lacking)
            else:
                given[loop.stage.result] = result
                sizes[loop.stage.result] = size_of(result, budget)
        assert self._rest is not None
        part = self._reading.rest
        budget.spend(part_cost(part, sizes, self._growth))
        try:
            return self._rest.value(_only(part.variables, given))
        except CannotTell as error:
            raise EvaluationFailed(self._reason(error, lacking)) from error

    def _looped(
        self, loop: _Loop, given: Mapping[str, Any], sizes: dict[str, Size], budget: Budget
    ) -> Any:
        stage = loop.stage
        budget.spend(part_cost(stage.range, sizes, self._growth))
        over = loop.range.value(_only(stage.range.variables, given))
        if isinstance(over, dict):
            over = sorted(over, key=str)
        if not isinstance(over, list):
            raise CannotTell(f"{stage.macro} runs over a list or a table, not over {_kind(over)}")
        if len(over) > ITEMS_MAX:
            raise CannotTell(
                f"{stage.macro} would run over {len(over)} items, at most {ITEMS_MAX} are allowed"
            )
        items = size_of(over, budget)
        budget.spend(loop_cost(stage, items, sizes, self._growth, _PART_ITEMS))
        outer = _only(stage.body.variables, given)
        return _COLLECTORS[stage.macro](
            loop.loop.value({**outer, stage.over: over[begin : begin + _PART_ITEMS]})
            for begin in range(0, len(over), _PART_ITEMS)
        )

    def _reason(self, error: CannotTell, lacking: Mapping[str, str]) -> str:
        text = str(error)
        for variable, reason in lacking.items():
            if f'"{variable}"' in text:
                return reason
        return self._named(text)

    def _named(self, text: str) -> str:
        """The library's words with the names that people wrote."""
        for variable, one in self._reading.reads.items():
            text = text.replace(f"'{variable}'", f"'{one}'")
        # Places are those in the text with variables, which nobody wrote.
        text = _PLACE.sub("", text.partition(" expecting {")[0])
        return "is nested too deeply, or has too many operators in a row" if _DEEP in text else text


@lru_cache(maxsize=_KEPT)
def compiled(source: str) -> Expression:
    """Compiles an expression, once for all who have the same one. Raises ExpressionInvalid."""
    return Expression(source)


@lru_cache(maxsize=_KEPT)
def reads_of(source: str) -> tuple[Read, ...]:
    """What an expression looks at, without compiling it. Raises ExpressionInvalid."""
    return tuple(reading.read(source).reads.values())


def _in_parts(stage: reading.Stage) -> str:
    """The loop as it is asked of a part of the items."""
    if stage.macro == "exists_one":
        head, _, tail = stage.text.partition("exists_one")
        return f"{head}filter{tail}"
    return stage.text


def _concatenated(parts: Iterator[Any]) -> list[Any]:
    return [item for part in parts for item in part]


def _all_hold(parts: Iterator[Any]) -> bool:
    return _first(parts, False)


def _some_hold(parts: Iterator[Any]) -> bool:
    return _first(parts, True)


def _first(parts: Iterator[Any], decisive: bool) -> bool:
    """As in CEL: one decisive item outweighs errors of others."""
    failed: CannotTell | None = None
    while True:
        try:
            part = next(parts)
        except StopIteration:
            break
        except CannotTell as error:
            failed = error
            break
        if bool(part) is decisive:
            return decisive
    if failed is not None:
        raise failed
    return not decisive


def _exactly_one(parts: Iterator[Any]) -> bool:
    return sum(map(len, parts)) == 1


_COLLECTORS = {
    "map": _concatenated,
    "filter": _concatenated,
    "all": _all_hold,
    "exists": _some_hold,
    "exists_one": _exactly_one,
}


def _only(variables: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in variables if name in given}


def _found(one: Read, names: Mapping[str, Any]) -> Any:
    if not one.asks:
        return _walked(one, names)
    table = Read(one.root, one.task, one.steps[:-1])
    value = _walked(table, names)
    if not isinstance(value, dict):
        raise EvaluationFailed(f"{table} is {_kind(value)}, which has no keys")
    there: bool = one.steps[-1] in value
    return there


def _walked(one: Read, names: Mapping[str, Any]) -> Any:
    """What a read leads to. Raises EvaluationFailed saying where the path ends."""
    value: Any = names
    try:
        if one.task:
            value = value["tasks"][one.task]
        for word in one.root.split(".")[1 if one.task else 0 :]:
            value = value[word]
    except (KeyError, TypeError):
        raise EvaluationFailed(f"{one.source} is not known here") from None
    for depth, step in enumerate(one.steps):
        if isinstance(value, dict) and isinstance(step, str):
            if step in value:
                value = value[step]
                continue
            _lost(one, depth, f"has no {step!r}")
        if isinstance(value, list) and isinstance(step, int):
            if step < len(value):
                value = value[step]
                continue
            _lost(one, depth, f"has {len(value)} items, so no [{step}]")
        if isinstance(value, Unreadable):
            break
        what = "a place in a list" if isinstance(step, int) else f"the key {step!r}"
        _lost(one, depth, f"is {_kind(value)}, which does not have {what}")
    if isinstance(value, Unreadable):
        _lost(one, 0, value.reason)
    return value


def _lost(one: Read, depth: int, reason: str) -> NoReturn:
    raise EvaluationFailed(f"{Read(one.root, one.task, one.steps[:depth])} {reason}")


def _kind(value: Any) -> str:
    for kind, word in _KINDS:
        if isinstance(value, kind):
            return word
    return "null" if value is None else type(value).__name__


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "an integer"),
    (float, "a number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a table"),
)
