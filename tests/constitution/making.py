"""Articles and facts that the tests of the constitution are made of."""

from __future__ import annotations

from typing import Any

from tenure_constitution.article import Article, Constitution
from tenure_constitution.facts import Labels
from tenure_constitution.laws import Effect, Law, Perspective, Point


def rule(
    expression: str,
    point: Point = Point.LEASE,
    *,
    effect: Effect = Effect.DENY,
    article_id: str = "rule",
) -> Article:
    """An article that nothing matters of but this."""
    return Article(
        id=article_id,
        law=Law.INTEGRITY,
        perspective=Perspective.SECURITY_BOUNDARY,
        point=point,
        effect=effect,
        expression=expression,
        message=f"{article_id} must hold",
    )


def rules(*articles: Article) -> Constitution:
    """A constitution of these articles."""
    return Constitution(articles=articles)


#: What every task of the tests of leases and results has in common.
LEASE: dict[str, dict[str, Any]] = {
    "run": {"id": "r", "priority": 0, "labels": Labels(team="red"), "input_bytes": 2},
    "task": {"key": "t", "kind": "sql", "attempt": 1, "priority": 3, "has_timeout": True},
    "agent": {"name": "a", "labels": Labels(region="eu")},
}


def task(**changed: Any) -> dict[str, dict[str, Any]]:
    """The facts of a lease, some of the task's changed."""
    return LEASE | {"task": LEASE["task"] | changed}
