"""The evaluator of expressions, behind an interface of our own.

Facts are declared to CEL under their whole path, ``task.kind`` being one name: so it knows no name
that the table does not have, checks types when it compiles, and asks for no fact that an
expression does not come to.

Its errors are values: a missing key, a division by zero or a fact of the wrong type is neither
true nor false, and comes out as `CannotTell`.
"""

from __future__ import annotations

import enum
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


class Sort(enum.Enum):
    """What a variable of a workflow's data flow may hold, and what an expression comes out as."""

    ANY = "any value"
    FLAG = "true or false"
    INTEGER = "an integer"
    NUMBER = "a number"
    TEXT = "text"
    BYTES = "bytes"
    NOTHING = "null"
    LIST = "a list"
    TABLE = "a table"
    LABELS = "a table of texts"
    MOMENT = "a time"
    SPAN = "a span of time"


class DataProgram(Protocol):
    """An expression of a workflow's data flow, compiled."""

    #: What it comes out as, where that can be told.
    sort: Sort

    def value(self, given: Mapping[str, Any]) -> Any:
        """Gives what it comes out as, as plain Python values. Raises CannotTell.

        A variable that is not given is an error only where the expression comes to it.
        """


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


#: How many variables of a sort there are.
VARIABLES_MAX = 64

#: What no name of a loop may begin with.
VARIABLE_PREFIX = "tenure_"

#: The letter in the names of a sort's variables.
_VARIABLES = {
    Sort.ANY: ("a", cel.Type.DYN),
    Sort.TEXT: ("t", cel.Type.STRING),
    Sort.INTEGER: ("n", cel.Type.INT),
    Sort.FLAG: ("f", cel.Type.BOOL),
    Sort.LABELS: ("m", cel.Type.Map(cel.Type.STRING, cel.Type.STRING)),
}
_SORTS = {
    "BOOL": Sort.FLAG,
    "INT": Sort.INTEGER,
    "UINT": Sort.INTEGER,
    "DOUBLE": Sort.NUMBER,
    "STRING": Sort.TEXT,
    "BYTES": Sort.BYTES,
    "NULL": Sort.NOTHING,
    "LIST": Sort.LIST,
    "MAP": Sort.TABLE,
    "TIMESTAMP": Sort.MOMENT,
    "DURATION": Sort.SPAN,
}


def variable(sort: Sort, number: int) -> str:
    """The name of a variable of ANY, TEXT, INTEGER, FLAG or LABELS; `number` is from 0 on."""
    return f"{VARIABLE_PREFIX}{_VARIABLES[sort][0]}{number}"


def compile_data(expression: str) -> DataProgram:
    """Compiles an expression over `variable` names. Raises CompileFailed.

    Its cost is the caller's to bound, before and after.
    """
    try:
        return _CelDataProgram(_data_environment().compile(expression))
    except Exception as error:
        raise CompileFailed(_first_line(str(error))) from error


class _CelDataProgram:
    def __init__(self, compiled: Any) -> None:
        self._evaluate = compiled.eval
        name = compiled.return_type().name()
        self.sort = _SORTS.get(name.partition("<")[0], Sort.ANY)

    def value(self, given: Mapping[str, Any]) -> Any:
        try:
            found = self._evaluate(data=given)
            value = found.plain_value()
        except Exception as error:
            raise CannotTell(_first_line(str(error))) from error
        if found.type() == cel.Type.ERROR:
            raise CannotTell(_first_line(str(value)))
        return value


@cache
def _data_environment() -> Any:
    """The library's environment of all data flow. Made once; it takes 0.1 s the first time."""
    names = {
        f"{VARIABLE_PREFIX}{letter}{number}": kind
        for letter, kind in _VARIABLES.values()
        for number in range(VARIABLES_MAX)
    }
    return cel.NewEnv(variables=names)


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


_CODES = ("INVALID_ARGUMENT: ", "CANCELLED: ", "UNKNOWN: ", "NOT_FOUND: ", "OUT_OF_RANGE: ")


def _first_line(text: str) -> str:
    line = text.split("\n", 1)[0]
    for word in (*_CODES, "ERROR: <input>:"):
        line = line.removeprefix(word)
    return line.removesuffix(" [INVALID_ARGUMENT]").removesuffix(" [CANCELLED]")[:300]
