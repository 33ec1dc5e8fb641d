"""A trial of articles, in a process of its own: compiles and evaluates them under a hard limit.

Reads JSON from its input, ``[{"id", "point", "expression"}, …]``, and writes one line of JSON for
each, in that order, as soon as it knows: ``{"id", "problem", "seconds"}``, `problem` empty for an
article that is good. Whatever an article does to this process, the lines before it are written,
and the first that is missing is to blame.

Started as ``python -m tenure_constitution.trial``, by `admission` alone.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from tenure_constitution import bounds, cel, facts
from tenure_constitution.bounds import Asked
from tenure_constitution.facts import Fact, Kind, Labels
from tenure_constitution.laws import Point
from tenure_constitution.stopwatch import Stopwatch

#: The longest that one article may take in all, before this process is killed.
ARTICLE_SECONDS_MAX = 2.0
EVALUATION_SECONDS_MAX = 0.005
MEMORY_BYTES_MAX = 2 << 30

#: The longest item of a table that is not a statement: where each random item begins.
_STRIDE = 255


@dataclass(frozen=True, slots=True)
class _Filling:
    """What texts are made of: characters repeated, or drawn at random, the same in every trial."""

    characters: str
    drawn: bool = False

    def text(self, length: int, number: int = 0) -> str:
        """A text of that length; by its number one of many."""
        if self.drawn:
            begin = number * _STRIDE
            return _drawn(self.characters)[begin : begin + length]
        return (self.characters * length)[:length]

    def item(self, number: int, length: int) -> str:
        """One of many items that all differ, though a drawn one has nothing but its characters."""
        if self.drawn:
            return self.text(length, number)
        return f"{number:02}{self.text(length)}"[:length]


#: Texts that cost the most to compare, search and match, each in its own way. A drawn one brings a
#: pattern into as many states as it has, which the engine must all build.
_FILLINGS = (
    _Filling("a"),
    _Filling("0"),
    _Filling("ab-"),
    _Filling("é"),
    _Filling("x y.z_"),
    _Filling("\U0001f600"),
    _Filling("ab", drawn=True),
    _Filling("\U0001f600\U0001f601", drawn=True),
)
_EMPTY = _Filling("")


def main() -> None:
    """Tries the articles of the input, one after the other."""
    _limit_memory()
    # Nothing here catches the alarm: it ends the process even amid native code.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    stopwatch = Stopwatch()
    for item in json.load(sys.stdin):
        signal.setitimer(signal.ITIMER_REAL, ARTICLE_SECONDS_MAX)
        problem, seconds = attempt(item["expression"], Point[item["point"].upper()], stopwatch)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"id": item["id"], "problem": problem, "seconds": seconds}), flush=True)


def attempt(expression: str, point: Point, stopwatch: Stopwatch | None = None) -> tuple[str, float]:
    """Compiles an expression and evaluates it on the worst facts.

    Gives what is wrong with it, or nothing, and the longest evaluation in seconds, as the stopwatch
    tells them: one that looks how slow this machine is, unless another is given.
    """
    try:
        reads = bounds.check(expression, point)
        program = cel.CelEvaluator().compile(expression, point, reads)
    except (bounds.BoundsExceeded, cel.CompileFailed) as error:
        return str(error), 0.0
    stopwatch = stopwatch or Stopwatch()
    longest = 0.0
    asked = bounds.patterns_asked(expression, point)
    own = _own_fillings(asked)
    for given in (*worst_facts(point), *(_filled(point, filling, 1) for filling in own)):
        longest = max(longest, stopwatch.seconds(_evaluation(program, given), longest))
        if longest > EVALUATION_SECONDS_MAX:
            return _too_long(longest), longest
    together = 0.0
    for pattern in asked:
        # By itself: in the expression, a condition before it could have kept it from being tried,
        # and a loop could have ended with the first item.
        problem, seconds = _try_pattern(pattern, [*_FILLINGS, *own], stopwatch)
        together += seconds
        if problem or together > EVALUATION_SECONDS_MAX:
            return problem or _too_long(together), together
    return "", max(longest, together)


def _own_fillings(asked: list[Asked]) -> list[_Filling]:
    """Drawn from what an article's own patterns are written with: all, and the two commonest."""
    written = Counter(one for pattern in asked for one in pattern.literal[1:-1] if one.isalnum())
    commonest = [one for one, _ in written.most_common(2)]
    known = {frozenset("ab")}
    alphabets = [one for one in (frozenset(written), frozenset(commonest)) if one]
    return [_Filling("".join(sorted(one)), drawn=True) for one in {*alphabets} - known]


def _too_long(seconds: float) -> str:
    limit = EVALUATION_SECONDS_MAX * 1000
    shown = f"{seconds * 1000:.1f} ms, at most {limit:g} ms are allowed"
    return f"takes too long to evaluate: {shown}"


@cache
def worst_facts(point: Point) -> Iterable[dict[str, dict[str, Any]]]:
    """Facts of a point that are as large as they can be, in several fillings, and empty ones."""
    numbers = (0, 1, (1 << 63) - 1)
    return (
        *(_filled(point, filling, number) for filling in _FILLINGS for number in numbers),
        _filled(point, _EMPTY, 0),
    )


def _filled(point: Point, filling: _Filling, number: int) -> dict[str, dict[str, Any]]:
    given: dict[str, dict[str, Any]] = {}
    for fact in facts.at(point):
        given.setdefault(fact.root, {})[fact.name] = _value(fact, filling, number)
    return given


def _value(fact: Fact, filling: _Filling, number: int) -> Any:
    match fact.kind:
        case Kind.NUMBER:
            return number
        case Kind.FLAG:
            return number > 0
        case Kind.TEXT:
            return filling.text(fact.characters_max)
    items = [filling.item(n, fact.characters_max) for n in range(facts.ITEMS_MAX)]
    if filling is _EMPTY:
        items = []
    return tuple(items) if fact.kind is Kind.TEXTS else Labels(zip(items, items, strict=True))


@lru_cache(maxsize=8)
def _drawn(characters: str) -> str:
    """Enough for all items of a table. Of one character nothing else could be drawn: of two."""
    length = facts.ITEMS_MAX * _STRIDE + facts.TEXT_MAX
    known = characters if len(characters) > 1 else characters + "a"
    return "".join(random.Random(1).choices(known, k=length))


def _try_pattern(
    pattern: Asked, fillings: Iterable[_Filling], stopwatch: Stopwatch
) -> tuple[str, float]:
    """Asks a pattern as often as its article can, of texts as long as they can be there."""
    fact = facts.FACTS["workflow.dimensions"]
    asked = f"matches({pattern.literal})"
    expression = f"{fact.path}['0'].{asked}"
    if pattern.looping:
        expression = f"{fact.path}.filter(k, {fact.path}[k].{asked}).size() >= 0"
    compiled = cel.CelEvaluator().compile(expression, Point.REGISTER, frozenset({fact.path}))
    longest = 0.0
    for filling in fillings:
        numbers = range(facts.ITEMS_MAX if pattern.looping else 1)
        texts = {str(n): filling.text(pattern.characters_max, n) for n in numbers}
        given = {fact.root: {fact.name: Labels(texts)}}
        try:
            compiled.holds(given)
        except cel.CannotTell as error:
            return str(error), 0.0
        longest = max(longest, stopwatch.seconds(_evaluation(compiled, given), longest))
        if longest > EVALUATION_SECONDS_MAX:
            return _too_long(longest), longest
    return "", longest


def _evaluation(program: cel.Program, given: dict[str, dict[str, Any]]) -> Callable[[], None]:
    def evaluate() -> None:
        # Not to be able to tell is an answer like any other here: it takes its time too.
        with contextlib.suppress(cel.CannotTell):
            program.holds(given)

    return evaluate


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))


if __name__ == "__main__":
    main()
