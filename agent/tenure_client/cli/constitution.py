"""`tenure constitution`: the rules of a tenant, put into force, shown, tried and checked."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tenure.v1 import constitution_pb2, verdict_pb2
from tenure_client import articles
from tenure_client.cli import objections, options, output, plain, session
from tenure_client.cli.constitution_check import check
from tenure_client.cli.constitution_file import FILE, blamed, read_text
from tenure_client.cli.constitution_report import report
from tenure_client.client import Client
from tenure_constitution.article import Constitution

DECISIONS_MAX = 100_000
_CHANGED = 1


@click.group(cls=options.Group)
def constitution() -> None:
    """Set, show and try a tenant's constitution, check workflows by it, report how it is kept.

    FILE is YAML or JSON: a description, and articles that say what must hold where.
    """


constitution.add_command(check)
constitution.add_command(report)


@constitution.command(name="set")
@click.argument("file", type=FILE)
@click.pass_context
def set_(context: click.Context, file: Path) -> None:
    """Put the constitution in FILE into force; the same content again is the same version."""
    text = read_text(file)

    async def act(client: Client) -> constitution_pb2.SetConstitutionResponse:
        return await client.constitution.put(text)

    with blamed(file):
        answer = session.of(context).run(act)
    if session.wants_json(context):
        output.document(answer)
        return
    made = answer.constitution
    output.details(
        (
            ("version", made.version),
            ("digest", made.digest),
            ("description", made.description),
            ("in force since", plain.local_time(made.create_time)),
            ("new", "yes" if answer.created else "no"),
        )
    )


@constitution.command()
@click.option("--version", type=click.IntRange(min=1), help="Default: the one in force.")
@click.option("--platform", is_flag=True, help="The platform's, which holds for every tenant.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Write a file that `set` takes.")
@click.pass_context
def show(context: click.Context, version: int | None, platform: bool, as_yaml: bool) -> None:
    """Show the articles in force: the tenant's, or with --platform those above them."""
    json = session.wants_json(context)
    if platform and version is not None:
        raise click.UsageError("--platform: has no versions, so it goes without --version")
    if as_yaml and json:
        raise click.UsageError("give --yaml or --json, not both")

    async def act(client: Client) -> constitution_pb2.GetConstitutionResponse:
        return await client.constitution.get(version or 0)

    answer = session.of(context).run(act)
    found = answer.platform if platform else answer.tenant
    if as_yaml:
        click.echo(as_file(articles.read_version(found)), nl=False)
    elif json:
        output.document(answer if not platform else {"platform": answer.platform})
    elif not platform and not answer.HasField("tenant"):
        output.details((("platform", answer.platform.digest), ("in force", answer.digest)))
        click.echo("the tenant has no constitution of its own; see --platform")
    else:
        _show(found, effective=answer.digest if version is None else "")


@constitution.command(name="list")
@click.pass_context
def list_(context: click.Context) -> None:
    """List the versions of the tenant's constitution, newest first."""

    async def act(client: Client) -> list[constitution_pb2.ConstitutionVersion]:
        return [each async for each in client.constitution.versions()]

    found = session.of(context).run(act)
    if session.wants_json(context):
        output.document(found)
        return
    output.table(
        ("VERSION#", "IN FORCE SINCE", "DIGEST", "SET BY", "DESCRIPTION"),
        (
            (
                each.version,
                plain.local_time(each.create_time),
                each.digest[:19],
                each.created_by,
                each.description,
            )
            for each in found
        ),
        empty="no constitution was ever set; only the platform's holds",
    )


@constitution.command(
    name="try",
    epilog="Exit codes: 0 no decision would come out otherwise; 1 some would; 2 the candidate "
    "cannot be put into force.",
)
@click.argument("file", type=FILE)
@click.option(
    "--decisions",
    type=click.IntRange(1, DECISIONS_MAX),
    default=10_000,
    show_default=True,
    help="Judge so many of the newest decisions anew.",
)
@click.pass_context
def try_(context: click.Context, file: Path, decisions: int) -> int:
    """Judge recorded decisions anew under the candidate in FILE, and change nothing.

    Lists those that would come out otherwise.
    """
    text, json = read_text(file), session.wants_json(context)
    changes: list[constitution_pb2.ChangedDecision] = []

    async def act(client: Client) -> tuple[int, int]:
        judged = total = 0
        with _bar(silent=json) as bar:
            shown = bar.add_task("decisions judged", total=None)
            async with aclosing(
                client.constitution.attempt(text, decisions_max=decisions)
            ) as answers:
                async for answer in answers:
                    judged, total = answer.judged, answer.total
                    changes.extend(answer.changes)
                    bar.update(shown, completed=judged, total=total)
        return judged, total

    with blamed(file):
        judged, total = session.of(context).run(act)
    if json:
        output.document({"judged": judged, "total": total, "changes": changes})
    else:
        _show_changes(changes, judged)
    return _CHANGED if changes else 0


def as_file(content: Constitution) -> str:
    """Writes a constitution as YAML that reads back as the same one."""
    items = [
        {
            "id": article.id,
            "law": article.law.word,
            "perspective": article.perspective.word,
            "point": article.point.word,
            "effect": article.effect.word,
            "expression": _Quoted(article.expression),
            "message": _Quoted(article.message),
        }
        for article in content.articles
    ]
    value: dict[str, Any] = {"description": _Quoted(content.description), "articles": items}
    # Wide enough that no line is folded: an expression stays as its author can search for it.
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100_000)


class _Quoted(str):
    """Text that could be anything, so it is always quoted."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, which no constitution may have."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")
)


def _show(found: constitution_pb2.ConstitutionVersion, *, effective: str) -> None:
    output.details(
        (
            ("version", found.version or "the platform's"),
            ("description", found.description),
            ("digest", found.digest),
            ("with the platform's", effective if found.version else ""),
            ("in force since", _time(found)),
            ("set by", found.created_by),
        )
    )
    output.table(
        ("ARTICLE", "POINT", "EFFECT", "LAW", "PERSPECTIVE", "MUST HOLD", "MESSAGE"),
        (
            (
                article.id,
                article.point.word,
                article.effect.word,
                article.law.word,
                article.perspective.word.replace("_", " "),
                " ".join(article.expression.split()),
                article.message,
            )
            for article in articles.read_version(found).articles
        ),
        empty="no articles",
    )


def _time(found: constitution_pb2.ConstitutionVersion) -> str | None:
    return plain.local_time(found.create_time) if found.HasField("create_time") else None


def _bar(*, silent: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=output.console(stderr=True),
        disable=silent or not sys.stderr.isatty(),
        transient=True,
    )


def _show_changes(changes: list[constitution_pb2.ChangedDecision], judged: int) -> None:
    if changes:
        output.table(
            ("DECISION#", "WHEN", "KIND", "SUBJECT", "WAS → WOULD", "ARTICLES"),
            (
                (
                    change.index,
                    plain.local_time(change.time),
                    change.kind,
                    change.subject,
                    _turn(change.was, change.would),
                    ", ".join(each.article for each in change.objections),
                )
                for change in changes
            ),
            empty="",
        )
    stricter = sum(change.would > change.was for change in changes)
    if not changes:
        click.echo(f"{judged} decisions judged anew, all come out as they did")
        return
    click.echo(
        f"{judged} decisions judged anew, {len(changes)} would come out otherwise: "
        f"{stricter} stricter, {len(changes) - stricter} milder"
    )


def _turn(
    was: verdict_pb2.VerdictResult.ValueType, would: verdict_pb2.VerdictResult.ValueType
) -> str:
    return f"{objections.result_word(was).lower()} → {objections.result_word(would).lower()}"
