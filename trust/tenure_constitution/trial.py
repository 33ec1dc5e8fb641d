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
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from tenure_constitution import bounds, cel, facts
from tenure_constitution.facts import Fact, Kind, Labels
from tenure_constitution.laws import Point

#: The longest that one article may take in all, before this process is killed.
ARTICLE_SECONDS_MAX = 2.0
EVALUATION_SECONDS_MAX = 0.005
MEMORY_BYTES_MAX = 2 << 30

#: Texts that cost the most to compare, search and match, each in its own way. The last but one
#: never repeats itself for long, so that a pattern comes into as many states as it has.
_FILLINGS = (
    "a",
    "0",
    "ab-",
    "é",
    "x y.z_",
    "".join("ab"[number * number // 7 & 1] for number in range(facts.TEXT_MAX)),
    "\U0001f600",
)


def main() -> None:
    """Tries the articles of the input, one after the other."""
    _limit_memory()
    # Nothing here catches the alarm: it ends the process even amid native code.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for item in json.load(sys.stdin):
        signal.setitimer(signal.ITIMER_REAL, ARTICLE_SECONDS_MAX)
        problem, seconds = attempt(item["expression"], Point[item["point"].upper()])
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"id": item["id"], "problem": problem, "seconds": seconds}), flush=True)


def attempt(expression: str, point: Point) -> tuple[str, float]:
    """Compiles an expression and evaluates it on the worst facts.

    Gives what is wrong with it, or nothing, and the longest evaluation in seconds.
    """
    try:
        reads = bounds.check(expression, point)
        program = cel.CelEvaluator().compile(expression, point, reads)
    except (bounds.BoundsExceeded, cel.CompileFailed) as error:
        return str(error), 0.0
    longest = 0.0
    for given in worst_facts(point):
        longest = max(longest, _seconds(_evaluation(program, given)))
        if longest > EVALUATION_SECONDS_MAX:
            return _too_long(longest), longest
    for pattern in bounds.pattern_literals(expression):
        # By itself: in the expression, a condition before it could have kept it from being tried.
        problem, seconds = _try_pattern(pattern)
        longest = max(longest, seconds)
        if problem:
            return problem, longest
    return "", longest


def _too_long(seconds: float) -> str:
    limit = EVALUATION_SECONDS_MAX * 1000
    shown = f"{seconds * 1000:.1f} ms, at most {limit:g} ms are allowed"
    return f"takes too long to evaluate: {shown}"


def worst_facts(point: Point) -> Iterable[dict[str, dict[str, Any]]]:
    """Facts of a point that are as large as they can be, in several fillings, and empty ones."""
    for filling in _FILLINGS:
        for number in (0, 1, (1 << 63) - 1):
            yield _filled(point, filling, number)
    yield _filled(point, "", 0)


def _filled(point: Point, filling: str, number: int) -> dict[str, dict[str, Any]]:
    given: dict[str, dict[str, Any]] = {}
    for fact in facts.at(point):
        given.setdefault(fact.root, {})[fact.name] = _value(fact, filling, number)
    return given


def _value(fact: Fact, filling: str, number: int) -> Any:
    match fact.kind:
        case Kind.NUMBER:
            return number
        case Kind.FLAG:
            return number > 0
        case Kind.TEXT:
            return _text(filling, fact.characters_max)
    items = [_text(f"{n:02}{filling}", fact.characters_max) for n in range(facts.ITEMS_MAX)]
    if not filling:
        items = []
    return tuple(items) if fact.kind is Kind.TEXTS else Labels(zip(items, items, strict=True))


def _text(filling: str, characters: int) -> str:
    return (filling * characters)[:characters]


def _try_pattern(literal: str) -> tuple[str, float]:
    fact = facts.FACTS["workflow.dimensions"]
    compiled = cel.CelEvaluator().compile(
        f"workflow.dimensions['text'].matches({literal})", Point.REGISTER, frozenset({fact.path})
    )
    longest = 0.0
    for filling in _FILLINGS:
        text = _text(filling, fact.characters_max)
        given = {fact.root: {fact.name: Labels(text=text)}}
        try:
            compiled.holds(given)
        except cel.CannotTell as error:
            return str(error), 0.0
        longest = max(longest, _seconds(_evaluation(compiled, given)))
        if longest > EVALUATION_SECONDS_MAX:
            return _too_long(longest), longest
    return "", longest


def _evaluation(program: cel.Program, given: dict[str, dict[str, Any]]) -> Callable[[], None]:
    def evaluate() -> None:
        # Not to be able to tell is an answer like any other here: it takes its time too.
        with contextlib.suppress(cel.CannotTell):
            program.holds(given)

    return evaluate


def _seconds(evaluate: Callable[[], None]) -> float:
    """The processor's time, best of three: what else the machine has to do is not counted."""
    best = float("inf")
    for _ in range(3):
        began = time.thread_time()
        evaluate()
        best = min(best, time.thread_time() - began)
    return best


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))


if __name__ == "__main__":
    main()
