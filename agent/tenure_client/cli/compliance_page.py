"""A compliance report as one HTML page that people can read, print and file.

The page is complete in itself: it names no other file or host, holds no script, and forbids the
browser to load anything. All times are UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources

from google.protobuf.timestamp_pb2 import Timestamp

from tenure.v1 import constitution_pb2
from tenure_client import articles
from tenure_client.cli import compliance_chart
from tenure_client.cli.markup import Markup, element, join, table
from tenure_constitution.laws import Coverage, Dimension, Law

Report = constitution_pb2.GetComplianceReportResponse

#: Up to so many workflows, what their dimensions were told from is shown without being asked for.
_OPEN_MAX = 6
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SIGNS = {Coverage.COVERED: "●", Coverage.DERIVED: "◐", Coverage.MISSING: "○"}


def page(found: Report, *, subject: str, made: datetime) -> str:
    """Writes the page; `subject` narrows it for people, such as `workflow etl`, or is empty."""
    title = f"Compliance report: tenant {found.tenant_id}" + (f", {subject}" if subject else "")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(_style())),
    )
    body = element(
        "body",
        _header(found, subject),
        element(
            "main",
            _section("The five laws", _laws(found)),
            _section("Day by day", _trend(found)),
            _section("Articles", _articles(found.articles)),
            _section("The thirteen dimensions", _dimensions(found.workflows)),
            _section("Newest refusals", _refusals(found.recent_refusals)),
        ),
        _footer(found, made),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _section(title: str, *content: Markup) -> Markup:
    return element("section", element("h2", title), *content)


def _header(found: Report, subject: str) -> Markup:
    broken = [Law(law.law).word for law in found.laws if not law.kept]
    if broken:
        verdict = element("p", f"Not kept: {', '.join(broken)}.", class_="verdict broken")
    else:
        verdict = element("p", "All five laws are kept.", class_="verdict kept")
    figures = (
        ("acts judged", found.acts),
        ("refused", found.refusals),
        ("denied", sum(day.denied for day in found.days)),
        ("warned of", sum(day.warned for day in found.days)),
        ("runs started", found.runs),
        ("entries in the log", found.log_size),
    )
    return element(
        "header",
        element("p", "Compliance report", class_="kind"),
        element("h1", found.tenant_id),
        element("p", subject, class_="subject") if subject else "",
        element("p", f"{_time(found.start_time)} to {_time(found.end_time)} UTC", class_="quiet"),
        verdict,
        element(
            "dl",
            [
                element("div", element("dt", name), element("dd", number))
                for name, number in figures
            ],
            class_="figures",
        ),
    )


def _laws(found: Report) -> Markup:
    return table(
        ("Law", "Kept", "Denied#", "Warned#", "Standing"),
        (
            (
                (
                    element("strong", Law(law.law).word.capitalize()),
                    element("span", Law(law.law).sentence, class_="under"),
                ),
                _badge("kept" if law.kept else "broken"),
                law.denied,
                law.warned,
                law.standing,
            )
            for law in found.laws
        ),
        empty="No law was reported on.",
    )


def _trend(found: Report) -> Markup:
    numbers = table(
        ("Day#", "Acts#", "Refused#", "Denied#", "Warned of#"),
        (
            (_time(day.begin_time)[:10], day.acts, day.refusals, day.denied, day.warned)
            for day in found.days
            if day.acts or day.refusals or day.denied or day.warned
        ),
        empty="There are none.",
    )
    return join(
        (
            element(
                "figure",
                element("div", compliance_chart.chart(found.days), class_="scroll"),
                compliance_chart.legend(),
            ),
            element("details", element("summary", "The numbers"), numbers, class_="screen"),
        )
    )


def _articles(found: Sequence[constitution_pb2.ArticleReport]) -> Markup:
    rows = []
    for each in found:
        article = articles.read_article(each.article)
        rows.append(
            (
                (
                    element("strong", article.id),
                    element("span", article.message, class_="under"),
                    element("code", article.expression) if article.expression else "",
                ),
                articles.origin_of(each),
                article.point.word,
                _badge(article.effect.word),
                (
                    article.law.word,
                    element("span", article.perspective.word.replace("_", " "), class_="under"),
                ),
                each.denied,
                each.warned,
            )
        )
    columns = ("Article", "Of", "Point", "Effect", "Law", "Denied#", "Warned#")
    return table(columns, rows, empty="No article is in force.")


def _dimensions(found: Sequence[constitution_pb2.WorkflowReport]) -> Markup:
    if not found:
        return element("p", "No runs were started.", class_="quiet")
    legend = element(
        "ul",
        [
            element(
                "li",
                element("span", _SIGNS[coverage], class_=f"sign {coverage.word}"),
                f"{coverage.word}: {coverage.sentence}",
            )
            for coverage in Coverage
        ],
        class_="legend",
    )
    return join((_matrix(found), legend, [_basis(each, len(found)) for each in found]))


def _matrix(found: Sequence[constitution_pb2.WorkflowReport]) -> Markup:
    head = [element("th", "Workflow", scope="col")]
    head += [element("th", name, class_="number", scope="col") for name in ("Runs", "Failed")]
    head += [
        element("th", element("span", dimension.word), class_="upright", scope="col")
        for dimension in Dimension
    ]
    rows = []
    for each in found:
        name = element(
            "th",
            each.workflow,
            element("span", f"version {each.version}", class_="under"),
            scope="row",
        )
        cells = [element("td", number, class_="number") for number in (each.runs, each.failed)]
        for assessed in each.dimensions:
            coverage = Coverage(assessed.coverage)
            words = f"{Dimension(assessed.dimension).word}: {coverage.word}. {assessed.basis}"
            sign = element(
                "span",
                _SIGNS[coverage],
                element("span", coverage.word, class_="aloud"),
                class_=f"sign {coverage.word}",
                title=words.strip(),
            )
            cells.append(element("td", sign, class_="center"))
        rows.append(element("tr", name, cells))
    made = element("table", element("thead", element("tr", head)), element("tbody", rows))
    return element("div", made, class_="scroll matrix")


def _basis(each: constitution_pb2.WorkflowReport, number: int) -> Markup:
    """What the dimensions of a workflow were told from, to be opened where there are many."""
    rows = (
        (
            element("strong", Dimension(assessed.dimension).word),
            _badge(Coverage(assessed.coverage).word),
            assessed.basis
            or element("span", Dimension(assessed.dimension).sentence, class_="quiet"),
        )
        for assessed in each.dimensions
    )
    return element(
        "details",
        element("summary", f"{each.workflow}, version {each.version}"),
        element("p", element("code", each.digest), class_="quiet"),
        table(("Dimension", "Coverage", "Told from"), rows, empty="None was assessed."),
        open="" if number <= _OPEN_MAX else None,
    )


def _refusals(found: Sequence[constitution_pb2.RefusalReport]) -> Markup:
    return table(
        ("Decision#", "When", "Kind", "Who asked", "Reason", "Articles"),
        (
            (
                str(each.index),
                _time(each.time),
                element("code", each.kind),
                element("code", each.principal or "not known"),
                element("code", each.reason),
                ", ".join(each.articles),
            )
            for each in found
        ),
        empty="Nothing was refused.",
    )


def _footer(found: Report, made: datetime) -> Markup:
    moment = made.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return element(
        "footer",
        element("p", "Constitution in force: ", element("code", found.constitution_digest)),
        element(
            "p",
            f"Made {moment} UTC from the coordinator's answer. Each decision is an entry in the "
            "tenant's log: ",
            element("code", "tenure evidence show DECISION"),
            " shows one, ",
            element("code", "tenure evidence audit"),
            " proves the log whole.",
        ),
    )


def _badge(word: str) -> Markup:
    return element("span", word, class_=f"badge {word}")


def _time(stamp: Timestamp) -> str:
    return stamp.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S")


def _style() -> str:
    return resources.files(__package__).joinpath("compliance.css").read_text(encoding="utf-8")
