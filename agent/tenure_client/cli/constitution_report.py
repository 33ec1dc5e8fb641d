"""`tenure constitution report`: how the laws were kept, for people, programs and files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from tenure.v1 import constitution_pb2, verdict_pb2
from tenure_client import articles
from tenure_client.cli import compliance_page, moments, objections, options, output, plain, session
from tenure_client.cli.run_names import resolve
from tenure_client.client import Client
from tenure_constitution.laws import Coverage, Dimension, Law

Report = constitution_pb2.GetComplianceReportResponse

_SIGNS = {Coverage.COVERED: "●", Coverage.DERIVED: "◐", Coverage.MISSING: "○"}
_REFUSALS_SHOWN = 20


@click.command(cls=options.Command)
@click.option("--workflow", default="", help="Only this workflow.")
@click.option("--run", "run_text", help="Only this run: its id, or beginning or end of it.")
@click.option("--since", help=f"Default: 30 days before --until. {moments.HELP}")
@click.option("--until", help=f"Default: now. {moments.HELP}")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page to file, complete in itself.",
)
@click.pass_context
def report(
    context: click.Context,
    workflow: str,
    run_text: str | None,
    since: str | None,
    until: str | None,
    html: Path | None,
) -> None:
    """Report how the tenant, a workflow or a run kept the laws."""
    now = datetime.now(UTC)
    begin = moments.read("--since", since, now=now) if since else None
    end = moments.read("--until", until, now=now) if until else None
    if begin and begin >= (end or now):
        raise click.UsageError("--since: must be before --until")

    async def act(client: Client) -> Report:
        run_id = await resolve(client, run_text) if run_text else ""
        return await client.constitution.report(
            workflow=workflow, run_id=run_id, since=begin, until=end
        )

    found = session.of(context).run(act)
    if html is not None:
        subject = f"run {run_text}" if run_text else f"workflow {workflow}" if workflow else ""
        html.write_text(compliance_page.page(found, subject=subject, made=now), encoding="utf-8")
    if session.wants_json(context):
        output.document(found)
    elif html is not None:
        click.echo(f"written: {html}")
    else:
        _show(found)


def _show(found: Report) -> None:
    output.details(
        (
            ("tenant", found.tenant_id),
            ("from", plain.local_time(found.start_time)),
            ("until", plain.local_time(found.end_time)),
            ("constitution", found.constitution_digest),
            ("acts judged", found.acts),
            ("refused", found.refusals),
            ("runs started", found.runs),
            ("entries in the log", found.log_size),
        )
    )
    click.echo()
    output.table(
        ("LAW", "KEPT", "DENIED#", "WARNED#", "STANDING"),
        (
            (
                Law(law.law).word,
                "yes" if law.kept else "NO",
                law.denied,
                law.warned,
                law.standing,
            )
            for law in found.laws
        ),
        empty="no laws",
    )
    click.echo()
    output.table(
        ("ARTICLE", "OF", "POINT", "EFFECT", "DENIED#", "WARNED#", "MESSAGE"),
        (_article_row(each) for each in found.articles),
        empty="no articles",
    )
    click.echo()
    _show_workflows(found.workflows)
    click.echo()
    _show_refusals(found.recent_refusals)


def _article_row(each: constitution_pb2.ArticleReport) -> Sequence[object]:
    article = articles.read_article(each.article)
    return (
        article.id,
        articles.origin_of(each),
        article.point.word,
        article.effect.word,
        each.denied,
        each.warned,
        article.message,
    )


def _show_workflows(found: Sequence[constitution_pb2.WorkflowReport]) -> None:
    output.table(
        ("WORKFLOW", "VERSION#", "RUNS#", "SUCCEEDED#", "FAILED#", "CANCELLED#", "DIMENSIONS"),
        (
            (
                each.workflow,
                each.version,
                each.runs,
                each.succeeded,
                each.failed,
                each.cancelled,
                "".join(_sign(dimension) for dimension in each.dimensions),
            )
            for each in found
        ),
        empty="no runs were started",
    )
    if found:
        names = ", ".join(dimension.word for dimension in Dimension)
        click.echo(f"● covered  ◐ derived  ○ missing: {names}")
    if len(found) == 1:
        output.table(
            ("DIMENSION", "COVERAGE", "BASIS"),
            (
                (objections.word_of(each), Coverage(each.coverage).word, each.basis)
                for each in found[0].dimensions
            ),
            empty="",
        )


def _sign(assessed: verdict_pb2.DimensionAssessment) -> str:
    return _SIGNS[Coverage(assessed.coverage)]


def _show_refusals(found: Sequence[constitution_pb2.RefusalReport]) -> None:
    output.table(
        ("DECISION#", "WHEN", "KIND", "PRINCIPAL", "REASON", "ARTICLES"),
        (
            (
                each.index,
                plain.local_time(each.time),
                each.kind,
                each.principal,
                each.reason,
                ", ".join(each.articles),
            )
            for each in found[:_REFUSALS_SHOWN]
        ),
        empty="nothing was refused",
    )
    if len(found) > _REFUSALS_SHOWN:
        click.echo(f"and {len(found) - _REFUSALS_SHOWN} more; --json and --html have them")
