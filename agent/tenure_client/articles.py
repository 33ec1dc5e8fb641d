"""Articles and objections of the contract as the values that both sides share."""

from __future__ import annotations

from tenure.v1 import constitution_pb2, verdict_pb2
from tenure_constitution.article import Article, Constitution
from tenure_constitution.laws import Effect, Law, Perspective, Point


def read_version(version: constitution_pb2.ConstitutionVersion) -> Constitution:
    """Gives a version's content, whose digest can then be made and compared here."""
    return Constitution(
        description=version.description,
        articles=tuple(
            sorted((read_article(item) for item in version.articles), key=lambda item: item.id)
        ),
    )


def read_article(article: constitution_pb2.Article) -> Article:
    """Gives an article of the contract as a value."""
    return Article(
        id=article.id,
        law=Law(article.law),
        perspective=Perspective(article.perspective),
        point=Point(article.point),
        effect=Effect(article.effect),
        expression=article.expression,
        message=article.message,
    )


def origin_of(report: constitution_pb2.ArticleReport) -> str:
    """Says whose an article of a report is; one without an expression is in force no more."""
    if not report.article.expression:
        return "former"
    return "platform" if report.platform else "tenant"


def sentence(objection: verdict_pb2.Objection) -> str:
    """Says what people are told of an objection: the words that the coordinator has for it."""
    law, effect = Law(objection.law).word, Effect(objection.effect)
    side = Perspective(objection.perspective).word.replace("_", " ")
    verb = "denies" if effect is Effect.DENY else "warns"
    cause = " (it could not be evaluated)" if objection.errored else ""
    return f"article {objection.article} (law of {law}, {side}) {verb}: {objection.message}{cause}"
