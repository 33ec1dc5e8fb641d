"""`tenure constitution check`: judges workflow files at a desk or in CI, without a coordinator."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tenure_client import canonical, workflow_file
from tenure_client.cli import constitution_file, moments, options, output, session, starting
from tenure_client.cli.workflows import DEFAULT_SECONDS
from tenure_client.cli.workflows import FILE as WORKFLOW_FILE
from tenure_client.graph import DefinitionError
from tenure_constitution import admission, article
from tenure_constitution import check as checking
from tenure_constitution.article import Constitution
from tenure_constitution.judge import Objection
from tenure_constitution.laws import Effect, Point, VerdictResult
from tenure_evidence.shown import clean

ALLOWED = 0
DENIED = 1
UNUSABLE = 2
_WORDS = {
    VerdictResult.ALLOW: "allowed",
    VerdictResult.WARN: "allowed, with warnings",
    VerdictResult.DENY: "denied",
}


@click.command(
    cls=options.Command,
    epilog="Exit codes: 0 all are allowed; 1 one is denied, or warned of under --strict; 2 a file "
    "cannot be used.",
)
@click.argument("files", metavar="WORKFLOW...", nargs=-1, required=True, type=WORKFLOW_FILE)
@click.option(
    "--constitution",
    "tenant_file",
    type=constitution_file.FILE,
    help="The tenant's constitution. Without one only the platform's holds.",
)
@click.option(
    "--platform",
    "platform_file",
    type=constitution_file.FILE,
    help="The installation's platform constitution. Default: the one that comes with Tenure.",
)
@click.option("--strict", is_flag=True, help="A warning is as bad as a denial.")
@click.option("--at", "at_text", help=f"Judge as if it were then. Default: now. {moments.HELP}")
@click.option("--label", "pairs", multiple=True, metavar="WORD=TEXT", help="A label of the run.")
@DEFAULT_SECONDS
@click.pass_context
def check(
    context: click.Context,
    files: tuple[Path, ...],
    tenant_file: Path | None,
    platform_file: Path | None,
    strict: bool,
    at_text: str | None,
    pairs: tuple[str, ...],
    default_seconds: float | None,
) -> int:
    """Judge workflow files as their registration and start would be, here and now.

    Needs no coordinator and no key. A WORKFLOW is YAML, JSON or a WfCommons trace. The caller is
    taken for a submitter in a tenant that has nothing to do.
    """
    now = datetime.now(UTC)
    bench = Bench(
        platform=_constitution(platform_file) or article.platform_default(),
        tenant=_constitution(tenant_file),
        unix_seconds=moments.read("--at", at_text, now=now).timestamp() if at_text else time.time(),
        run_labels=starting.labels(pairs),
        default_seconds=default_seconds,
    )
    _check_beneath(bench, tenant_file)
    json = session.wants_json(context)
    found = []
    for file in files:
        found.append(bench.judge(file))
        if not json:
            _show(found[-1])
    if json:
        output.document([each.as_json() for each in found])
    return max(each.exit_code(strict=strict) for each in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Under what, and when, files are judged."""

    platform: Constitution
    tenant: Constitution | None
    unix_seconds: float
    run_labels: dict[str, str]
    default_seconds: float | None

    def judge(self, file: Path) -> Judged:
        """Judges a file; one that cannot be used is a result too."""
        try:
            definition = workflow_file.read(file, default_seconds=self.default_seconds)
            content = canonical.form(definition)
            return Judged(
                file=file,
                workflow=definition.name,
                digest=canonical.digest(definition),
                report=checking.check(
                    content,
                    platform=self.platform,
                    tenant=self.tenant,
                    unix_seconds=self.unix_seconds,
                    run_labels=self.run_labels,
                ),
            )
        except workflow_file.WorkflowFileError as error:
            return Judged(file=file, problem=str(error))
        except DefinitionError as error:
            return Judged(file=file, problem=f"{file}: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of a file."""

    file: Path
    workflow: str = ""
    digest: str = ""
    report: checking.Report | None = None
    #: Why the file cannot be used; empty when it can.
    problem: str = ""

    def exit_code(self, *, strict: bool) -> int:
        """Gives the exit code that it stands for."""
        if self.report is None:
            return UNUSABLE
        limit = VerdictResult.ALLOW if strict else VerdictResult.WARN
        return DENIED if self.report.result > limit else ALLOWED

    def objections(self) -> Iterable[tuple[Point, Objection]]:
        """Gives what articles object to, and where."""
        if self.report is not None:
            for point, verdict in (
                (Point.REGISTER, self.report.register),
                (Point.START, self.report.start),
            ):
                for objection in verdict.objections:
                    yield point, objection

    def as_json(self) -> dict[str, Any]:
        """Gives the result as plain values."""
        return {
            "file": str(self.file),
            "workflow": self.workflow or None,
            "digest": self.digest or None,
            "result": self.report.result.name if self.report else None,
            "problem": self.problem or None,
            "objections": [
                {
                    "article": objection.article,
                    "point": point.name,
                    "law": objection.law.name,
                    "perspective": objection.perspective.name,
                    "effect": objection.effect.name,
                    "message": objection.message,
                    "errored": objection.errored,
                    "sentence": objection.sentence,
                }
                for point, objection in self.objections()
            ],
            "dimensions": [
                {
                    "dimension": each.dimension.name,
                    "coverage": each.coverage.name,
                    "basis": each.basis,
                }
                for each in (self.report.dimensions if self.report else ())
            ],
        }


def _show(judged: Judged) -> None:
    if judged.report is None:
        click.echo(f"error: {clean(judged.problem)}", err=True)
        return
    output.details(
        (
            ("file", judged.file),
            ("workflow", judged.workflow),
            ("digest", judged.digest),
            ("result", _WORDS[judged.report.result]),
        )
    )
    for point, objection in judged.objections():
        color = "red" if objection.effect is Effect.DENY else "yellow"
        click.secho(f"  at {point.word}: {clean(objection.sentence)}", fg=color)
    output.table(
        ("DIMENSION", "COVERAGE", "BASIS"),
        (
            (each.dimension.word, each.coverage.word, each.basis)
            for each in judged.report.dimensions
        ),
        empty="no dimensions",
    )
    click.echo()


def _constitution(file: Path | None) -> Constitution | None:
    """Reads a constitution and admits it. Raises click.UsageError for one that cannot be."""
    if file is None:
        return None
    found = constitution_file.read(file)
    try:
        admission.admit(found)
    except (admission.ArticleRefused, admission.TrialFailed) as error:
        raise click.UsageError(f"{file}: {error}") from error
    return found


def _check_beneath(bench: Bench, file: Path | None) -> None:
    if bench.tenant is None:
        return
    try:
        article.check_beneath(bench.platform, bench.tenant)
    except article.ConstitutionInvalid as error:
        places: Sequence[str] = [f"{path} {reason}" for path, reason in error.violations]
        raise click.UsageError(f"{file}: {'; '.join(places)}") from error
