"""The parts of an expression: their texts for the compiler, and what is counted of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tenure_constitution import patterns
from tenure_server.core.expressions.words import FUNCTIONS, TEXTS, ExpressionInvalid, Words, refuse

PATTERNS_MAX = 3

#: What takes time that grows with its operands.
_LINEAR = frozenset({"==", "!=", "<", "<=", ">", ">=", "+", "in"}) | TEXTS | FUNCTIONS - {"has"}
_OPERATORS = frozenset(
    ("&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", "in")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is counted of a part of an expression, loops inside of it left out."""

    operations: int = 0
    #: How many of them take time that grows with their operands.
    linear: int = 0
    additions: int = 0
    #: Steps of all its patterns.
    pattern_steps: int = 0
    #: Variables of reads, as often as they stand there.
    variables: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Loop:
    """Where a loop stands among the words, and the variables that stand for parts of it."""

    macro: str
    #: Where what it runs over begins, and the dot that ends it.
    begin: int
    dot: int
    #: One past its closing bracket.
    end: int
    variable: str
    #: From its variable to its closing bracket.
    body: range
    result: str = ""
    over: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """Looks at parts of an expression whose loops and reads are known."""

    _words: Words
    #: Where a read begins: where it ends, and the variable that stands for it.
    _spans: Mapping[int, tuple[int, str]]

    def _pieces(self, begin: int, end: int, done: Sequence[Loop]) -> Iterator[tuple[int, str]]:
        """Places and words of a part; reads, and loops that are done, as their variables (-1)."""
        place = begin
        while place < end:
            loops = [one for one in done if one.begin == place and one.end <= end]
            if loops:
                longest = max(loops, key=lambda one: one.end)
                yield -1, longest.result
                place = longest.end
            elif place in self._spans:
                place, name = self._spans[place]
                yield -1, name
            else:
                yield place, self._words.at(place)
                place += 1

    def text(self, begin: int, end: int, done: Sequence[Loop]) -> str:
        """A part as the compiler is given it, the loops that are done as their results."""
        return " ".join(word for _, word in self._pieces(begin, end, done))

    def counted(self, begin: int, end: int, done: Sequence[Loop], variable: str = "") -> Part:
        """What is counted of a part; `variable` is that of the loop whose body it is.

        Raises ExpressionInvalid for patterns: too many, too large, or not constant.
        """
        operations = linear = additions = steps = asked = 0
        variables: list[str] = []
        for place, word in self._pieces(begin, end, done):
            if place < 0:
                variables.append(word)
                continue
            if self._words.is_text(place):
                continue
            calls = self._words.is_name(place) and self._words.at(place + 1) == "("
            if word == variable and not calls and self._words.at(place - 1) != ".":
                variables.append(word)
            if calls or word in _OPERATORS:
                operations += 1
                linear += word in _LINEAR
                additions += word == "+"
            if calls and word == "matches":
                asked += 1
                steps += self._pattern_steps(place, looping=bool(variable))
        if asked > PATTERNS_MAX:
            refuse(f"has {asked} calls of matches, at most {PATTERNS_MAX} are allowed")
        return Part(
            operations=operations,
            linear=linear,
            additions=additions,
            pattern_steps=steps,
            variables=tuple(variables),
        )

    def _pattern_steps(self, place: int, *, looping: bool) -> int:
        if not self._words.is_text(place + 2) or self._words.at(place + 3) != ")":
            refuse("the pattern of matches must be a text that stands there")
        try:
            steps = patterns.weight(self._words.at(place + 2), looping=looping)
        except patterns.PatternError as error:
            raise ExpressionInvalid(str(error)) from error
        if steps > patterns.WEIGHT_MAX:
            refuse("its pattern is too large with all its repetitions")
        return steps
