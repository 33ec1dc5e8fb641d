"""`tenure constitution report`: a table, JSON, and a page that is complete and harmless."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.client import compliance
from tests.client.conftest import RUN_ID, Script, Tenure

from tenure.v1 import constitution_pb2
from tenure_client.cli import compliance_chart, compliance_page
from tenure_constitution import article
from tenure_constitution.laws import Dimension, Law

MADE = datetime(2026, 7, 1, 9, 30, tzinfo=UTC)
HOSTILE = "<script>alert('x')</script>&\"\x1b\u202e<img src=https://evil.example/x onerror=y>"
_VOID = {"meta", "br"}


class Page(HTMLParser):
    """Reads a page strictly: every tag that opens is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        """All that is to be read."""
        return " ".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.texts.append(data)


def page(found: constitution_pb2.GetComplianceReportResponse, subject: str = "") -> str:
    return compliance_page.page(found, subject=subject, made=MADE)


def hostile() -> constitution_pb2.GetComplianceReportResponse:
    """A report in which everything that others name is HTML."""
    found = compliance.report(days=2)
    found.tenant_id = found.constitution_digest = HOSTILE
    found.laws[0].standing = HOSTILE
    for one in found.articles:
        one.article.id = one.article.expression = one.article.message = HOSTILE
    for each in found.workflows:
        each.workflow = each.digest = HOSTILE
        for assessed in each.dimensions:
            assessed.basis = assessed.basis and HOSTILE
    for refusal in found.recent_refusals:
        refusal.kind = refusal.principal = refusal.reason = refusal.articles[0] = HOSTILE
    return found


def test_the_page_holds_all_of_the_report() -> None:
    found = compliance.report()
    text = page(found, "workflow etl-nightly")
    read = Page(text)
    for word in (
        *(law.word.capitalize() for law in Law),
        *(law.standing for law in found.laws),
        *(dimension.word for dimension in Dimension),
        *(one.id for one in article.platform_default().articles),
        *(one.message for one in article.platform_default().articles),
        *(each.workflow for each in found.workflows),
        "workflow etl-nightly",
        found.constitution_digest,
        "48,210",
        "2026-06-01 00:00:00 to 2026-07-01 00:00:00 UTC",
        "Made 2026-07-01 09:30:00 UTC",
        str(found.recent_refusals[0].index),
        "All five laws are kept.",
    ):
        assert word in read.text, word
    assert read.tags.count("svg") == 1
    assert text.isprintable() or set(filter(str.isspace, text)) <= {" ", "\n"}


def test_the_page_loads_nothing_from_anywhere() -> None:
    for found in (compliance.report(), hostile()):
        text = page(found)
        read = Page(text)
        assert set(read.tags).isdisjoint(
            {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "use"}
        )
        names = {name for _, name, _ in read.attributes}
        assert names.isdisjoint({"src", "href", "srcset", "action", "style", "xlink:href", "xmlns"})
        assert not any(name.startswith("on") for name in names)
        style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
        assert len(style) == 1
        assert not re.search(r"url\(|@import|//", style[0])
        assert "default-src 'none'" in text
    assert "http:" not in page(compliance.report())
    assert "https:" not in page(compliance.report())


def test_what_others_have_named_is_shown_and_never_obeyed() -> None:
    text = page(hostile(), HOSTILE)
    read = Page(text)
    assert read.tags == Page(page(compliance.report(days=2), "x")).tags
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<script>alert('x')</script>&\"\\x1b\\u202e<img" in read.text
    assert '"' not in re.sub(r'="[^"]*"', "", re.sub(r"<style>.*</style>", "", text, flags=re.S))


def test_a_broken_law_stands_at_the_top() -> None:
    found = compliance.report()
    found.laws[4].kept = False
    assert "Not kept: integrity." in Page(page(found)).text


def test_a_report_of_nothing_is_a_page_too() -> None:
    empty = constitution_pb2.GetComplianceReportResponse(tenant_id="dev")
    read = Page(page(empty))
    assert "Nothing was judged in this period." in read.text
    assert "Nothing was refused." in read.text


def test_many_days_become_weeks_and_no_act_is_lost() -> None:
    for days in (1, 30, 190, 191, 800):
        found = compliance.report(days=days).days
        drawn = compliance_chart.bars(found)
        assert len(drawn) == (days if days <= 190 else -(-days // 7))
        assert sum(bar.acts for bar in drawn) == sum(day.acts for day in found)
        refusals = sum(bar.denied + bar.refused for bar in drawn)
        assert refusals == sum(day.refusals for day in found)
        Page(compliance_chart.chart(found))


def test_bars_stay_inside_the_picture() -> None:
    for days in (1, 3, 31, 400):
        read = Page(compliance_chart.chart(compliance.report(days=days).days))
        for tag, name, value in read.attributes:
            if tag == "rect" and name in ("x", "y", "width", "height"):
                assert 0 <= float(value) <= compliance_chart.WIDTH


def test_the_report_is_a_table_for_people(far_script: Script, tenure: Tenure) -> None:
    far_script.on("GetComplianceReport", compliance.report())
    done = tenure("constitution", "report")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    [integrity] = [line.split() for line in lines if line.startswith("integrity ")]
    assert integrity[:4] == ["integrity", "yes", "2", "9"]
    [etl] = [line for line in lines if line.startswith("etl-nightly")]
    assert "●◐◐○○◐○◐◐◐◐◐●" in etl
    assert "and 5 more; --json and --html have them" in done.out


def test_the_report_is_one_document_for_programs(far_script: Script, tenure: Tenure) -> None:
    far_script.on("GetComplianceReport", compliance.report())
    document = tenure("constitution", "report", "--json").json()
    assert document["acts"] == 48210
    assert [law["law"] for law in document["laws"]] == [law.name for law in Law]
    assert len(document["days"]) == 30


def test_the_period_the_workflow_and_the_run_are_asked_for(
    far_script: Script, tenure: Tenure
) -> None:
    far_script.on("GetComplianceReport", compliance.report())
    period = ("--since", "2026-07-01", "--until", "2026-07-14T12:00+02:00")
    tenure("constitution", "report", "--workflow", "etl", "--run", RUN_ID, *period)
    [request] = far_script.requests("GetComplianceReport")
    assert (request.workflow, request.run_id) == ("etl", RUN_ID)
    assert request.start_time.ToDatetime(tzinfo=UTC) == datetime(2026, 7, 1, tzinfo=UTC)
    assert request.end_time.ToDatetime(tzinfo=UTC) == datetime(2026, 7, 14, 10, tzinfo=UTC)
    tenure("constitution", "report")
    last = far_script.requests("GetComplianceReport")[-1]
    assert not last.HasField("start_time")
    assert not last.HasField("end_time")


@pytest.mark.parametrize(
    "arguments",
    [("--since", "soon"), ("--since", "2026-07-02", "--until", "2026-07-01")],
    ids=["no moment", "backwards"],
)
def test_a_period_that_is_none_is_not_sent(
    far_script: Script, tenure: Tenure, arguments: tuple[str, ...]
) -> None:
    assert tenure("constitution", "report", *arguments).code == 2
    assert far_script.heard == []


def test_a_page_is_written(far_script: Script, tenure: Tenure, tmp_path: Path) -> None:
    far_script.on("GetComplianceReport", compliance.report())
    file = tmp_path / "report.html"
    done = tenure("constitution", "report", "--html", str(file))
    assert (done.code, done.out) == (0, f"written: {file}\n")
    assert Page(file.read_text(encoding="utf-8")).tags[0] == "html"
    missing = tmp_path / "no" / "report.html"
    assert tenure("constitution", "report", "--html", str(missing)).code == 1
