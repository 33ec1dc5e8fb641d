"""The evaluator of expressions, behind an interface of our own.

Facts are declared to CEL under their whole path, ``task.kind`` being one name: so it knows no name
that the table does not have, checks types when it compiles, and asks for no fact that an
expression does not come to.

Its errors are values: a missing key, a division by zero or a fact of the wrong type is neither
true nor false, and comes out as `CannotTell`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from cel_expr_python import cel

from tenure_constitution import facts
from tenure_constitution.facts import Fact, Kind
from tenure_constitution.laws import Point

_TYPES = {
    Kind.TEXT: cel.Type.STRING,
    Kind.NUMBER: cel.Type.INT,
    Kind.FLAG: cel.Type.BOOL,
    Kind.TEXTS: cel.Type.List(cel.Type.STRING),
    Kind.LABELS: cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
}


class CompileFailed(ValueError):  # noqa: N818 - named for what happened
    """An expression is not CEL, or of wrong types; the message says where and why."""


class CannotTell(Exception):  # noqa: N818 - named for what happened
    """An expression came out neither true nor false; the message says why."""


class Program(Protocol):
    """An expression that can be evaluated."""

    def holds(self, given: Mapping[str, Mapping[str, Any]]) -> bool:
        """Tells whether it is true of facts by root and name. Raises CannotTell."""


class Evaluator(Protocol):
    """What turns expressions into programs."""

    def compile(self, expression: str, point: Point, reads: frozenset[str]) -> Program:
        """Compiles an expression that reads these facts. Raises CompileFailed."""


class CelEvaluator:
    """Evaluates with cel-expr-python."""

    def compile(self, expression: str, point: Point, reads: frozenset[str]) -> Program:
        """Compiles an expression that reads these facts. Raises CompileFailed.

        Its cost is bounded only for expressions that have passed `admission`.
        """
        # The library promises no type for its errors.
        try:
            compiled = environment(point).compile(expression)
        except Exception as error:
            raise CompileFailed(_first_line(str(error))) from error
        if compiled.return_type() != cel.Type.BOOL:
            name = compiled.return_type().name().lower()
            raise CompileFailed(f"must come out true or false, but comes out as {name}")
        return _CelProgram(compiled, sorted(reads))


class _CelProgram:
    def __init__(self, compiled: Any, reads: list[str]) -> None:
        self._evaluate = compiled.eval
        self._reads = [facts.FACTS[path] for path in reads]

    def holds(self, given: Mapping[str, Mapping[str, Any]]) -> bool:
        data = {fact.path: _fact(fact, given) for fact in self._reads}
        try:
            value = self._evaluate(data=data).value()
        except Exception as error:
            raise CannotTell(_first_line(str(error))) from error
        if value is True or value is False:
            return value
        raise CannotTell(_first_line(str(value)))


def _fact(fact: Fact, given: Mapping[str, Mapping[str, Any]]) -> Any:
    try:
        value = given[fact.root][fact.name]
    except (KeyError, TypeError):
        raise CannotTell(f"{fact.path} is not given") from None
    if (problem := facts.problem_of(fact, value)) is not None:
        raise CannotTell(f"{fact.path} {problem}")
    # A tuple is no list to CEL.
    return list(value) if fact.kind is Kind.TEXTS else value


@cache
def environment(point: Point) -> Any:
    """The library's environment of a point: its facts, declared. Made once."""
    return cel.NewEnv(variables={fact.path: _TYPES[fact.kind] for fact in facts.at(point)})


def _first_line(text: str) -> str:
    line = text.split("\n", 1)[0]
    for word in ("INVALID_ARGUMENT: ", "CANCELLED: ", "ERROR: <input>:"):
        line = line.removeprefix(word)
    return line.removesuffix(" [INVALID_ARGUMENT]").removesuffix(" [CANCELLED]")[:300]
