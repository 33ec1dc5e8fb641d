"""What an expression of a workflow's data flow is made of: told from its tokens, before CEL.

Every name with the constant steps after it, such as ``tasks.fetch.output.items[0]``, is one *read*:
it is walked in Python, and CEL is given what it led to under a variable's name. So CEL converts no
more than an expression looks at, a path that leads nowhere is an error only where the expression
comes to it, and an expression that is nothing but a read needs no CEL.

Loops (``map``, ``filter``, ``all``, ``exists``, ``exists_one``) become *stages*: what they run over
is worked out first, and is then given to them in parts, because the library's lists grow in
quadratic time and its loops end at 10,000 rounds. A loop inside of a loop is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tenure_constitution import cel, tokens
from tenure_constitution.cel import Sort
from tenure_server.core.expressions.parts import Loop, Part, Parts
from tenure_server.core.expressions.reads import FIRST, ROOTS, Read, no_member
from tenure_server.core.expressions.words import (
    FUNCTIONS,
    LITERALS,
    LOOPS,
    METHODS,
    ExpressionInvalid,
    Words,
    hint,
    refuse,
)

CHARACTERS_MAX = 2000
OPERATIONS_MAX = 128
LOOPS_MAX = 8

_PLAIN = re.compile(
    r"""
    (?:run\.(input|labels|id|reason) | tasks\.([A-Za-z_][A-Za-z0-9_]*)\.(output|state))
    ((?:\.[A-Za-z_][A-Za-z0-9_]*)*)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A loop."""

    macro: str
    #: The variable that stands for its result.
    result: str
    #: The variable that stands for what it runs over.
    over: str
    range_text: str
    range: Part
    #: The loop itself, over `over`.
    text: str
    body: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An expression, read."""

    #: By the variable that stands for it.
    reads: dict[str, Read]
    stages: tuple[Stage, ...]
    #: The whole expression over variables, its loops inside: for the compiler to check.
    text: str
    #: What is left of it when the stages are done.
    rest_text: str
    rest: Part
    #: The one read that it is, if it is nothing else.
    plain: Read | None


def read(source: str) -> Reading:
    """Reads an expression. Raises ExpressionInvalid: its form, bounds, or names."""
    if len(source) > CHARACTERS_MAX:
        refuse(f"has {len(source)} characters, at most {CHARACTERS_MAX} are allowed")
    if match := _PLAIN.fullmatch(source):
        return _plain(match)
    try:
        found = tokens.read(source, braces=True)
    except tokens.TokenError as error:
        raise ExpressionInvalid(str(error)) from error
    if not found:
        refuse("is empty")
    return _Reader(Words(found)).reading()


def _plain(match: re.Match[str]) -> Reading:
    """What nearly all are: a path of names. Told without its tokens, ten times as quickly."""
    of_run, task, of_task, path = match.groups()
    root = f"run.{of_run}" if of_run else f"tasks.{of_task}"
    one = Read(root, task or "", tuple(path.split(".")[1:]))
    name = cel.variable(one.sort, 0)
    part = Part(variables=(name,))
    return Reading(reads={name: one}, stages=(), text=name, rest_text=name, rest=part, plain=one)


@dataclass(slots=True)
class _Reader:
    """One pass over the tokens."""

    _words: Words
    _loops: list[Loop] = field(default_factory=list)
    #: Where a read begins: where it ends, and the variable that stands for it.
    _spans: dict[int, tuple[int, str]] = field(default_factory=dict)
    _variables: dict[Read, str] = field(default_factory=dict)
    _used: dict[Sort, int] = field(default_factory=dict)

    def reading(self) -> Reading:
        self._find_loops()
        self._check_names()
        end = len(self._words)
        plain = None
        if self._spans.get(0, (0, ""))[0] == end:
            plain = next(iter(self._variables))
        parts, loops = Parts(self._words, self._spans), self._loops
        stages = tuple(_stage(parts, one, loops[:number]) for number, one in enumerate(loops))
        counted = parts.counted(0, end, loops)
        all_parts = [counted, *(one.range for one in stages), *(one.body for one in stages)]
        operations = sum(one.operations for one in all_parts) + len(stages)
        if operations > OPERATIONS_MAX:
            refuse(f"has {operations} operators and calls, at most {OPERATIONS_MAX} are allowed")
        return Reading(
            reads={name: one for one, name in self._variables.items()},
            stages=stages,
            text=parts.text(0, end, []),
            rest_text=parts.text(0, end, loops),
            rest=counted,
            plain=plain,
        )

    # Loops

    def _find_loops(self) -> None:
        for place, token in enumerate(self._words.tokens):
            called = self._words.at(place + 1) == "(" and self._words.at(place - 1) == "."
            if token.sort is tokens.Sort.NAME and token.word in LOOPS and called:
                self._loops.append(self._loop(place))
        if len(self._loops) > LOOPS_MAX:
            refuse(f"has {len(self._loops)} loops, at most {LOOPS_MAX} are allowed")
        # What stands in the range of another comes first.
        self._loops.sort(key=lambda loop: loop.end)
        for loop in self._loops:
            if any(other.dot in loop.body for other in self._loops):
                refuse(f"{loop.macro} has another loop inside of it, which is not allowed")
            loop.result = self._new(Sort.ANY)
            loop.over = self._new(Sort.ANY)

    def _loop(self, place: int) -> Loop:
        macro, name = self._words.at(place), self._words.at(place + 2)
        if not self._words.is_name(place + 2) or self._words.at(place + 3) != ",":
            refuse(f"{macro} needs a name, a comma and an expression, as in list.{macro}(x, …)")
        reserved = FIRST | FUNCTIONS | METHODS | LITERALS
        if name in reserved or name.startswith((cel.VARIABLE_PREFIX, "__")):
            refuse(f"{name!r} is no name that a loop can use")
        close = self._words.match[place + 1]
        return Loop(
            macro=macro,
            begin=self._words.operand(place - 1),
            dot=place - 1,
            end=close + 1,
            variable=name,
            body=range(place + 4, close),
        )

    def _new(self, sort: Sort) -> str:
        number = self._used.get(sort, 0)
        self._used[sort] = number + 1
        if number >= cel.VARIABLES_MAX:
            refuse("looks at too many different things")
        return cel.variable(sort, number)

    # Names

    def _check_names(self) -> None:
        place = 0
        while place < len(self._words):
            token = self._words.tokens[place]
            if token.word == "{" and (
                self._words.is_name(place - 1) or self._words.at(place - 1) == "."
            ):
                refuse("a table is written with keys in quotes, as in {'a': 1}, without a name")
            if token.sort is not tokens.Sort.NAME:
                place += 1
            elif self._words.at(place - 1) == ".":
                if self._words.at(place + 1) == "(" and token.word not in METHODS:
                    refuse(f"there is no method {token.word}{hint(token.word, METHODS)}")
                place += 1
            else:
                place = self._name(place)

    def _name(self, place: int) -> int:
        """Checks the name at a place, and gives the place after what belongs to it."""
        word = self._words.at(place)
        looping = any(
            word == loop.variable and (place in loop.body or place == loop.body.start - 2)
            for loop in self._loops
        )
        if looping or word in LITERALS:
            return place + 1
        if word in FIRST:
            one, end = self._path(place)
            name = self._variables.get(one)
            if name is None:
                name = self._variables[one] = self._new(one.sort)
            # What is asked for takes the place of the whole call.
            begin, end = (place - 2, end + 1) if one.asks else (place, end)
            self._spans[begin] = (end, name)
            return end
        if word in FUNCTIONS and self._words.at(place + 1) == "(":
            return place + 1
        if self._words.at(place + 1) == ":" or self._words.at(place - 1) == "{":
            refuse(f"{word!r} is not known here; a key of a table stands in quotes")
        return refuse(f"{word!r} is not known here{hint(word, [*FIRST, *FUNCTIONS])}")

    def _path(self, place: int) -> tuple[Read, int]:
        first, task, end = self._words.at(place), "", place + 1
        if first == "tasks":
            key = self._words.constant_step(end)
            if key is None:
                refuse("tasks needs the key of a task, as in tasks.fetch.output")
            task, end = str(key[0]), key[1]
        root = first
        if first in ("tasks", "run", "event"):
            member = self._words.constant_step(end)
            root = f"{first}.{member[0]}" if member else first
            if member is None or root not in ROOTS:
                refuse(no_member(first, task, None if member is None else member[0]))
            end = member[1]
        steps: list[str | int] = []
        while (step := self._words.constant_step(end)) is not None:
            steps.append(step[0])
            end = step[1]
        asks = self._words.at(place - 2) == "has" and self._words.at(place - 1) == "("
        asks = asks and self._words.at(place - 3) != "."
        dotted = self._words.at(end - 2) == "." and self._words.at(end) == ")"
        if asks and not (steps and dotted):
            refuse("has() asks for a key of a table, as in has(run.input.name)")
        return Read(root, task, tuple(steps), asks), end


def _stage(parts: Parts, loop: Loop, before: Sequence[Loop]) -> Stage:
    return Stage(
        macro=loop.macro,
        result=loop.result,
        over=loop.over,
        range_text=parts.text(loop.begin, loop.dot, before),
        range=parts.counted(loop.begin, loop.dot, before),
        text=f"{loop.over} {parts.text(loop.dot, loop.end, before)}",
        body=parts.counted(loop.body.start, loop.body.stop, [], loop.variable),
    )
