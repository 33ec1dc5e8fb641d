"""What an expression may be made of: checked on its tokens, before anything compiles it.

The bounds are chosen so that whatever passes is cheap whichever way its conditions fall: facts are
at most 64 items of at most 1,000 characters, at most one loop runs over one fact, and nothing
grows in a loop. What an expression may *mean*, types above all, is left to the compiler.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from tenure_constitution import facts, patterns, tokens
from tenure_constitution.article import EXPRESSION_BYTES_MAX
from tenure_constitution.facts import Fact, Kind
from tenure_constitution.laws import Point
from tenure_constitution.tokens import Sort, Token

DEPTH_MAX = 12
OPERATIONS_MAX = 64
LOOP_OPERATIONS_MAX = 16
#: Each may copy a text of thousands of characters.
ADDITIONS_MAX = 8
LIST_ITEMS_MAX = 64
PATTERNS_MAX = 3

LOOPS = frozenset({"all", "exists", "exists_one", "filter"})
_FUNCTIONS = frozenset({"size", "has", "string", "int"})
_METHODS = frozenset({"startsWith", "endsWith", "contains", "matches", "size"}) | LOOPS
_LITERALS = frozenset({"true", "false"})
_OPERATORS = frozenset(
    ("&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":")
)
_CLOSING = {"(": ")", "[": "]"}


class BoundsExceeded(ValueError):  # noqa: N818 - named for what happened
    """An expression is refused; the message says why."""


def check(expression: str, point: Point) -> frozenset[str]:
    """Gives the paths of the facts that an expression reads.

    Raises BoundsExceeded when it is too large, too deep, could be too costly, or names what is
    not known at that point.
    """
    size = len(expression.encode())
    if size > EXPRESSION_BYTES_MAX:
        raise BoundsExceeded(f"has {size} bytes, at most {EXPRESSION_BYTES_MAX} are allowed")
    try:
        found = tokens.read(expression)
    except tokens.TokenError as error:
        raise BoundsExceeded(str(error)) from error
    return frozenset(_Check(found, point).reads())


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A pattern of an expression."""

    #: As it stands, with its quotes.
    literal: str
    #: Of the text that it is asked of.
    characters_max: int
    #: Whether it is asked once an item of a loop.
    looping: bool


def patterns_asked(expression: str, point: Point) -> list[Asked]:
    """The patterns of an expression that has passed `check`."""
    checked = _Check(tokens.read(expression), point)
    for _ in checked.reads():
        pass
    return checked.patterns


class _Check:
    """One pass over the tokens."""

    def __init__(self, found: Sequence[Token], point: Point) -> None:
        self._tokens = found
        self._known = {fact.path: fact for fact in facts.at(point)}
        self._point = point
        self._match = _matching(found)
        #: The tokens of the loop's body, and the name it runs with.
        self._body = range(0)
        self._variable = ""
        self._over: Fact | None = None
        self.patterns: list[Asked] = []
        #: Of all patterns together.
        self._weight = 0

    def reads(self) -> Iterator[str]:
        """Checks everything, and gives each fact's path as often as it is read."""
        self._find_loop()
        self._count()
        for place, token in enumerate(self._tokens):
            if token.word == ".":
                self._check_dot(place)
            elif token.sort is Sort.NAME and not self._is_member(place):
                path = self._check_name(place)
                if path:
                    yield path
            elif token.sort is Sort.NAME and self._word(place + 1) == "(":
                self._check_method(place)
            elif token.word == "[":
                self._check_list(place)

    def _word(self, place: int) -> str:
        return self._tokens[place].word if 0 <= place < len(self._tokens) else ""

    def _is_member(self, place: int) -> bool:
        return self._word(place - 1) == "."

    def _find_loop(self) -> None:
        loops = [
            place
            for place, token in enumerate(self._tokens)
            if token.sort is Sort.NAME and token.word in LOOPS and self._is_member(place)
        ]
        if not loops:
            return
        if len(loops) > 1:
            raise BoundsExceeded("has more than one loop (all, exists, exists_one, filter)")
        place = loops[0]
        over = self._fact_before(place - 1)
        if over is None or over.kind not in (Kind.TEXTS, Kind.LABELS):
            raise BoundsExceeded("a loop must run over a fact that is a list or a table")
        variable = place + 2
        if self._word(place + 1) != "(" or self._word(place + 3) != ",":
            raise BoundsExceeded(f"{self._word(place)} needs a name, a comma and a condition")
        name = self._tokens[variable]
        if name.sort is not Sort.NAME or name.word in _reserved():
            raise BoundsExceeded(f"{name.word!a} is no name that a loop can use")
        self._variable = name.word
        self._over = over
        self._body = range(variable + 1, self._match[place + 1])

    def _count(self) -> None:
        total = additions = in_loop = regexes = 0
        for place, token in enumerate(self._tokens):
            calls = token.word == "(" and place > 0 and self._tokens[place - 1].sort is Sort.NAME
            if token.sort is Sort.TEXT or not (calls or self._is_operator(token)):
                continue
            total += 1
            additions += token.word == "+"
            in_loop += place in self._body
            regexes += calls and self._word(place - 1) == "matches"
        for count, limit, what in (
            (total, OPERATIONS_MAX, "operators and calls"),
            (in_loop, LOOP_OPERATIONS_MAX, "operators and calls inside its loop"),
            (additions, ADDITIONS_MAX, "additions"),
            (regexes, PATTERNS_MAX, "calls of matches"),
        ):
            if count > limit:
                raise BoundsExceeded(f"has {count} {what}, at most {limit} are allowed")

    @staticmethod
    def _is_operator(token: Token) -> bool:
        return token.word in _OPERATORS or (token.sort is Sort.NAME and token.word == "in")

    def _check_dot(self, place: int) -> None:
        before = self._tokens[place - 1] if place else None
        good = before is not None and (
            before.word in (")", "]")
            or before.sort is Sort.TEXT
            or (before.sort is Sort.NAME and before.word not in _LITERALS | {"in"})
        )
        after = self._tokens[place + 1] if place + 1 < len(self._tokens) else None
        if not good or after is None or after.sort is not Sort.NAME:
            raise BoundsExceeded("a dot must stand between a value and a name")

    def _check_name(self, place: int) -> str | None:
        word = self._word(place)
        if word in facts.ROOTS:
            return self._check_fact(place)
        if word == self._variable and (place in self._body or place + 1 in self._body):
            return None
        if word in _FUNCTIONS and self._word(place + 1) == "(":
            if word == "has":
                self._check_has(place)
            return None
        if word in _LITERALS or word == "in":
            return None
        known = [*facts.ROOTS, *_FUNCTIONS, *self._known]
        raise BoundsExceeded(f"{word!a} is not known here{_hint(word, known)}")

    def _check_fact(self, place: int) -> str:
        root = self._word(place)
        if self._word(place + 1) != "." or self._word(place + 2) == "":
            raise BoundsExceeded(f"{root} is no fact by itself, only with a name after a dot")
        path = f"{root}.{self._word(place + 2)}"
        if path in self._known:
            return path
        if path in facts.FACTS:
            points = ", ".join(point.word for point in facts.ROOTS[root])
            raise BoundsExceeded(f"{path} is not known at {self._point.word}, only at {points}")
        raise BoundsExceeded(f"there is no fact {path}{_hint(path, self._known)}")

    def _check_has(self, place: int) -> None:
        # Of a fact itself, `has` compiles, and then means the fact's value.
        close = self._match[place + 1]
        fact = self._fact_before(close - 2)
        if close != place + 7 or fact is None or fact.kind is not Kind.LABELS:
            raise BoundsExceeded("has() asks for a key of a table, as in has(run.labels.team)")

    def _check_method(self, place: int) -> None:
        word = self._word(place)
        if word not in _METHODS:
            raise BoundsExceeded(f"there is no method {word}{_hint(word, _METHODS)}")
        if word == "matches":
            self._check_matches(place)

    def _check_matches(self, place: int) -> None:
        pattern = self._tokens[place + 2] if place + 2 < len(self._tokens) else None
        if pattern is None or pattern.sort is not Sort.TEXT or self._word(place + 3) != ")":
            raise BoundsExceeded("the pattern of matches must be a text that stands there")
        looping = place in self._body
        variable = self._word(place - 2) == self._variable and not self._is_member(place - 2)
        fact = self._fact_before(place - 1)
        # run.labels.team and run.labels['team']
        keyed = place - 3 if self._is_member(place - 2) else self._open(place - 2)
        table = self._fact_before(keyed)
        if variable:
            of = self._over
        elif fact is not None and fact.kind is Kind.TEXT:
            of = fact
        else:
            of = table if table is not None and table.kind in (Kind.TEXTS, Kind.LABELS) else None
        if of is None:
            raise BoundsExceeded("matches can only be asked of a fact, an item, or a loop's name")
        asked = Asked(literal=pattern.word, characters_max=of.characters_max, looping=looping)
        self.patterns.append(asked)
        try:
            self._weight += patterns.weight(pattern.word, looping=looping)
        except patterns.PatternError as error:
            raise BoundsExceeded(str(error)) from error
        if self._weight > patterns.WEIGHT_MAX:
            raise BoundsExceeded("its patterns are too large with all their repetitions")

    def _open(self, place: int) -> int:
        """Where the bracket opens that closes at a place around one token; else nowhere."""
        return place - 2 if self._word(place) == "]" and self._word(place - 2) == "[" else -1

    def _fact_before(self, place: int) -> Fact | None:
        """The fact of which the path ends right before a place, if that is what stands there."""
        if place < 3 or self._word(place - 2) != "." or self._is_member(place - 3):
            return None
        return self._known.get(f"{self._word(place - 3)}.{self._word(place - 1)}")

    def _check_list(self, place: int) -> None:
        before = self._tokens[place - 1] if place else None
        if (
            before
            and (before.word in (")", "]") or before.sort is Sort.NAME)
            and (before.word != "in")
        ):
            return  # the key of a table or the place in a list
        items = self._tokens[place + 1 : self._match[place]]
        # A list of facts could make one comparison as costly as a loop.
        if any(
            item.sort is Sort.NAME or item.word not in (",", "-")
            for item in items
            if item.sort not in (Sort.TEXT, Sort.NUMBER)
        ):
            raise BoundsExceeded("a list can only be of texts or of numbers that stand there")
        if sum(item.word == "," for item in items) >= LIST_ITEMS_MAX:
            raise BoundsExceeded(f"a list has more than {LIST_ITEMS_MAX} items")


def _matching(found: Sequence[Token]) -> dict[int, int]:
    """Where each bracket that opens is closed."""
    match: dict[int, int] = {}
    opened: list[int] = []
    for place, token in enumerate(found):
        if token.word in ("(", "["):
            opened.append(place)
            if len(opened) > DEPTH_MAX:
                raise BoundsExceeded(f"has brackets more than {DEPTH_MAX} levels deep")
        elif token.word in (")", "]"):
            if not opened or _CLOSING[found[opened[-1]].word] != token.word:
                _unbalanced()
            match[opened.pop()] = place
    if opened:
        _unbalanced()
    return match


def _unbalanced() -> NoReturn:
    raise BoundsExceeded("has brackets that do not match")


def _reserved() -> frozenset[str]:
    return frozenset(facts.ROOTS) | _FUNCTIONS | _METHODS | _LITERALS | {"in"}


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
