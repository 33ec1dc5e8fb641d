"""A compliance report as a coordinator would give it, for the tests of the command."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf import timestamp_pb2

from tenure.v1 import constitution_pb2, verdict_pb2
from tenure_constitution import article as articles
from tenure_constitution.laws import Dimension, Law

BEGIN = datetime(2026, 6, 1, tzinfo=UTC)
_STANDINGS = {
    Law.VERIFIABILITY: "Every act is an entry; the last check of the log found it whole.",
    Law.PRECEDENCE: "Graphs are checked at registration, order at every lease.",
    Law.PROVENANCE: "Every run names its tenant, principal, cause and definition.",
    Law.REPRODUCIBILITY: "Each of 3 definitions has its digest.",
    Law.INTEGRITY: "Results are fenced by terms; the chain is unbroken.",
}
#: The thirteen, as one letter each: covered, derived, missing.
_COVERAGE = {
    "c": verdict_pb2.COVERAGE_COVERED,
    "d": verdict_pb2.COVERAGE_DERIVED,
    "m": verdict_pb2.COVERAGE_MISSING,
}


def stamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """A time of the contract."""
    made = timestamp_pb2.Timestamp()
    made.FromDatetime(moment)
    return made


def article(one: articles.Article) -> constitution_pb2.Article:
    """An article of the contract."""
    return constitution_pb2.Article(
        id=one.id,
        law=verdict_pb2.Law.Value(f"LAW_{one.law.name}"),
        perspective=verdict_pb2.Perspective.Value(f"PERSPECTIVE_{one.perspective.name}"),
        point=verdict_pb2.Point.Value(f"POINT_{one.point.name}"),
        effect=verdict_pb2.Effect.Value(f"EFFECT_{one.effect.name}"),
        expression=one.expression,
        message=one.message,
    )


def version(
    content: articles.Constitution, number: int = 0
) -> constitution_pb2.ConstitutionVersion:
    """A version of the contract."""
    return constitution_pb2.ConstitutionVersion(
        version=number,
        digest=content.digest(),
        description=content.description,
        articles=[article(one) for one in content.articles],
        create_time=stamp(BEGIN),
        created_by="0199-key" if number else "",
    )


def workflow(name: str, letters: str, basis: str = "") -> constitution_pb2.WorkflowReport:
    """A workflow whose dimensions stand as thirteen letters say."""
    return constitution_pb2.WorkflowReport(
        workflow=name,
        version=3,
        digest="sha256:" + "ab" * 32,
        runs=1204,
        succeeded=1190,
        failed=12,
        cancelled=2,
        dimensions=[
            verdict_pb2.DimensionAssessment(
                dimension=verdict_pb2.Dimension.Value(f"DIMENSION_{dimension.name}"),
                coverage=_COVERAGE[letter],
                basis="" if letter == "m" else basis or f"Told from {dimension.word}.",
            )
            for dimension, letter in zip(Dimension, letters, strict=True)
        ],
    )


def report(days: int = 30) -> constitution_pb2.GetComplianceReportResponse:
    """A month of a busy tenant."""
    found = constitution_pb2.GetComplianceReportResponse(
        tenant_id="dev",
        start_time=stamp(BEGIN),
        end_time=stamp(BEGIN + timedelta(days=days)),
        constitution_digest="sha256:" + "cd" * 32,
        acts=48210,
        refusals=61,
        runs=2950,
        log_size=120_452,
    )
    for law in Law:
        name = verdict_pb2.Law.Value(f"LAW_{law.name}")
        found.laws.add(law=name, denied=law % 3, warned=9, standing=_STANDINGS[law], kept=True)
    for number, one in enumerate(articles.platform_default().articles):
        found.articles.add(article=article(one), platform=True, denied=number % 3, warned=number)
    found.workflows.append(workflow("etl-nightly", "cddmmdmdddddc"))
    found.workflows.append(workflow("finance-close", "ccccccccccccc", "Said so."))
    found.workflows.append(workflow("scratch", "dmmmmmmdddmdm"))
    for number in range(days):
        wave = (number * 7) % 11
        found.days.add(
            begin_time=stamp(BEGIN + timedelta(days=number)),
            acts=(900 + 140 * wave) if number % 7 < 5 else 120,
            refusals=wave // 2 + (number % 5 == 0) * 6,
            denied=min(wave // 3, wave // 2),
            warned=wave % 4,
        )
    for number in range(25):
        found.recent_refusals.add(
            index=120_400 - number * 31,
            time=stamp(BEGIN + timedelta(days=days - 1, hours=-number)),
            kind="run.start",
            principal="0199aaaa-1111-8222-8333-444455556666",
            reason="ACT_DENIED",
            articles=["no-starts-at-weekends"],
        )
    return found
