"""Admission of articles: what may be compiled and evaluated in the coordinator.

First the bounds, which cost nothing. Then a trial in another process, which can be stopped whatever
it does: nothing is compiled here that has not been compiled, and evaluated on the worst facts,
there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenure_constitution import bounds
from tenure_constitution.article import Article, Constitution
from tenure_constitution.laws import Point

#: The longest that starting the process may take, on top of what its articles may.
START_SECONDS_MAX = 20.0
#: What all articles together may take. A hundred ordinary ones take about one second.
TRIAL_SECONDS_MAX = 10.0
#: What all articles of a point may take together, on the largest facts, for one act.
POINT_SECONDS_MAX = {
    Point.CALL: 0.002,
    Point.REGISTER: 0.005,
    Point.START: 0.005,
    Point.LEASE: 0.0005,
    Point.SETTLE: 0.0005,
}


class ArticleRefused(ValueError):  # noqa: N818 - named for what happened
    """An article is not admitted: it does not compile, or could cost too much."""

    def __init__(self, article_id: str, reason: str) -> None:
        super().__init__(f"article {article_id}: {reason}")
        self.article_id = article_id
        self.reason = reason


class TrialFailed(RuntimeError):  # noqa: N818 - named for what happened
    """The trial itself could not be held, whatever the articles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What a trial found: the longest evaluation of each article, in seconds, by id."""

    seconds: dict[str, float]


def admit(constitution: Constitution) -> Admitted:
    """Admits all articles of a constitution, or raises ArticleRefused for the first that is not,
    or for the costliest of a point where they take too long together.

    Blocks for about 150 ms and 20 ms an article, at worst for twice `START_SECONDS_MAX` and
    `TRIAL_SECONDS_MAX` together: not for an event loop. Raises TrialFailed when no process can be
    started.
    """
    for article in constitution.articles:
        try:
            bounds.check(article.expression, article.point)
        except bounds.BoundsExceeded as error:
            raise ArticleRefused(article.id, str(error)) from error
    if not constitution.articles:
        return Admitted(seconds={})
    seconds = _seconds(constitution.articles)
    over = list(_over(constitution.articles, seconds))
    if over:
        # Once more, and the better counts: a busy machine is no reason to refuse anybody.
        again = _seconds([article for article in constitution.articles if article.point in over])
        seconds |= {name: min(took, seconds[name]) for name, took in again.items()}
        for point in _over(constitution.articles, seconds):
            raise _too_long_together(constitution.articles, seconds, point)
    return Admitted(seconds=seconds)


def _over(articles: Sequence[Article], seconds: dict[str, float]) -> Iterator[Point]:
    """The points where all articles together take too long."""
    for point, limit in POINT_SECONDS_MAX.items():
        if sum(seconds[article.id] for article in articles if article.point is point) > limit:
            yield point


def _too_long_together(
    articles: Sequence[Article], seconds: dict[str, float], point: Point
) -> ArticleRefused:
    took = {article.id: seconds[article.id] for article in articles if article.point is point}
    costliest = max(took, key=lambda name: took[name])
    return ArticleRefused(
        costliest,
        f"the articles at {point.word} take too long to evaluate together:"
        f" {sum(took.values()) * 1000:.2f} ms, at most {POINT_SECONDS_MAX[point] * 1000:g} ms are"
        f" allowed; this one takes the most, {took[costliest] * 1000:.2f} ms",
    )


def _seconds(articles: Sequence[Article]) -> dict[str, float]:
    """What a trial measured, by article. Raises ArticleRefused for the first it refuses."""
    found = _try(articles)
    seconds: dict[str, float] = {}
    for article in articles:
        if article.id not in found:
            raise ArticleRefused(article.id, "takes too long, or too much memory, to be tried")
        if problem := found[article.id]["problem"]:
            raise ArticleRefused(article.id, problem)
        seconds[article.id] = found[article.id]["seconds"]
    return seconds


def _try(articles: Sequence[Article]) -> dict[str, Any]:
    """Holds the trial. An article that is missing from the answer brought the process down."""
    items = [
        {"id": article.id, "point": article.point.word, "expression": article.expression}
        for article in articles
    ]
    try:
        # No `preexec_fn`, nor anything else that forks: beside gRPC's threads that can crash.
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "tenure_constitution.trial"],
            input=json.dumps(items).encode(),
            capture_output=True,
            env=_environment(),
            timeout=START_SECONDS_MAX + TRIAL_SECONDS_MAX,
            check=False,
        )
        output = ended.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    except OSError as error:
        raise TrialFailed(f"cannot start a trial: {error.strerror or error}") from error
    else:
        # By a signal it was stopped, as it is meant to be; an exit is no fault of an article.
        if ended.returncode > 0 and not output:
            last = ended.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
            raise TrialFailed(f"the trial ended with {ended.returncode}: {last[:300]}")
    return answers(output)


def answers(output: bytes) -> dict[str, Any]:
    """The lines that a trial has written whole, by the article's id."""
    found = {}
    for line in output.splitlines(keepends=True):
        if line.endswith(b"\n"):
            value = json.loads(line)
            found[value["id"]] = value
    return found


def _environment() -> dict[str, str]:
    home = str(Path(__file__).resolve().parent.parent)
    path = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "GRPC_ENABLE_FORK_SUPPORT": "0"}
