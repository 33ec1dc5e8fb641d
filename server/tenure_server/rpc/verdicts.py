"""What the constitution says, as messages: objections, dimensions, articles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from tenure.v1 import constitution_pb2, verdict_pb2
from tenure_constitution import dimensions
from tenure_constitution.article import Article, Constitution
from tenure_constitution.dimensions import Assessment
from tenure_constitution.judge import Objection
from tenure_server.core import evidence
from tenure_server.core.ledger import records
from tenure_server.rpc import convert


def objection_messages(objections: Iterable[Objection]) -> list[verdict_pb2.Objection]:
    """Objections of articles."""
    return [
        verdict_pb2.Objection(
            article=one.article,
            law=cast("verdict_pb2.Law.ValueType", int(one.law)),
            perspective=cast("verdict_pb2.Perspective.ValueType", int(one.perspective)),
            effect=cast("verdict_pb2.Effect.ValueType", int(one.effect)),
            message=one.message,
            errored=one.errored,
        )
        for one in objections
    ]


def warning_messages(objections: Iterable[evidence.Objection]) -> list[verdict_pb2.Objection]:
    """Objections as the engine passes them on."""
    return objection_messages(one for one in objections if isinstance(one, Objection))


def dimension_messages(workflow: Mapping[str, Any]) -> list[verdict_pb2.DimensionAssessment]:
    """How the thirteen dimensions of a workflow stand, by its facts."""
    return assessment_messages(dimensions.of_workflow(workflow))


def assessment_messages(found: Iterable[Assessment]) -> list[verdict_pb2.DimensionAssessment]:
    """Assessments of dimensions, in their order."""
    return [
        verdict_pb2.DimensionAssessment(
            dimension=cast("verdict_pb2.Dimension.ValueType", int(one.dimension)),
            coverage=cast("verdict_pb2.Coverage.ValueType", int(one.coverage)),
            basis=one.basis,
        )
        for one in found
    ]


def article_message(article: Article) -> constitution_pb2.Article:
    """One article."""
    return constitution_pb2.Article(
        id=article.id,
        law=cast("verdict_pb2.Law.ValueType", int(article.law)),
        perspective=cast("verdict_pb2.Perspective.ValueType", int(article.perspective)),
        point=cast("verdict_pb2.Point.ValueType", int(article.point)),
        effect=cast("verdict_pb2.Effect.ValueType", int(article.effect)),
        expression=article.expression,
        message=article.message,
    )


def platform_message(platform: Constitution) -> constitution_pb2.ConstitutionVersion:
    """The platform's constitution, which has no versions."""
    return constitution_pb2.ConstitutionVersion(
        digest=platform.digest(),
        description=platform.description,
        articles=[article_message(article) for article in platform.articles],
    )


def version_message(
    version: records.ConstitutionVersion, content: Constitution, *, with_articles: bool = False
) -> constitution_pb2.ConstitutionVersion:
    """A version of a tenant's constitution."""
    message = constitution_pb2.ConstitutionVersion(
        version=version.version,
        digest=version.digest,
        description=content.description,
        create_time=convert.timestamp(version.create_us),
        created_by=version.created_by,
    )
    if with_articles:
        message.articles.extend(map(article_message, content.articles))
    return message
