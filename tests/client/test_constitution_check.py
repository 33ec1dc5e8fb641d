"""`tenure constitution check`: a file judged where no coordinator is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.client.conftest import Done
from tests.constitution.making import LEASE

from tenure_client.cli import app
from tenure_constitution import admission, article
from tenure_constitution.facts import Labels
from tenure_constitution.judge import Judge
from tenure_constitution.laws import Point, VerdictResult

EXAMPLE = Path(__file__).parents[2] / "examples" / "constitution"
TENANT = EXAMPLE / "tenant.yaml"
FINANCE = EXAMPLE / "finance-close.yaml"
TUESDAY, SATURDAY = "2026-07-14", "2026-07-18"
PLAIN = "name: plain\ndescription: Tries it.\ntasks:\n  - {key: a, kind: work}\n"
SILENT = "name: silent\ntasks:\n  - {key: a, kind: work}\n"
SHELL = "name: shell\ndescription: x\ntasks:\n  - {key: a, kind: shell.run}\n"


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Checks texts, each in a file of its own, with no key and no coordinator."""

    def execute(*arguments: str, **texts: str) -> Done:
        files = []
        for name, text in texts.items():
            file = tmp_path / f"{name}.yaml"
            file.write_text(text)
            files.append(str(file))
        code = app.invoke(["constitution", "check", *files, *arguments])
        return Done(code, *capsys.readouterr())

    return execute


def test_a_plain_workflow_is_allowed_without_key_or_coordinator(check: Any) -> None:
    done = check(plain=PLAIN)
    assert (done.code, done.err) == (0, "")
    assert ["result", "allowed"] in [line.split() for line in done.out.splitlines()]
    dimensions = [line.split()[0] for line in done.out.splitlines()[6:] if line]
    assert len(dimensions) == 13


def test_a_warning_counts_only_when_told_to_be_strict(check: Any) -> None:
    done = check(silent=SILENT)
    assert done.code == 0
    assert "at register: article intent-is-stated (law of provenance" in done.out
    assert check("--strict", silent=SILENT).code == 1


def test_a_denial_ends_with_1_and_names_article_and_point(check: Any) -> None:
    done = check("--constitution", str(TENANT), "--at", SATURDAY, plain=PLAIN)
    assert done.code == 1
    assert "at start: article no-starts-at-weekends (law of precedence" in done.out
    assert check("--constitution", str(TENANT), "--at", TUESDAY, plain=PLAIN).code == 0
    labelled = ("--label", "tenure.weekend=approved")
    assert check("--constitution", str(TENANT), "--at", SATURDAY, *labelled, plain=PLAIN).code == 0


def test_all_files_are_judged_and_the_worst_decides(check: Any) -> None:
    rules = ("--constitution", str(TENANT), "--at", TUESDAY, "--json")
    done = check(*rules, broken="name: [", plain=PLAIN, shell=SHELL)
    assert done.code == 2
    broken, plain, shell = done.json()
    assert (broken["result"], plain["result"], shell["result"]) == (None, "ALLOW", "DENY")
    assert "is not YAML" in broken["problem"]
    [objection] = shell["objections"]
    assert objection["article"] == "shell-tasks-have-timeouts"
    assert (objection["point"], objection["law"]) == ("REGISTER", "PRECEDENCE")
    assert objection["perspective"] == "RESOURCE_CONSTRAINT"
    assert {each["coverage"] for each in plain["dimensions"]} == {"DERIVED", "MISSING"}
    assert plain["digest"].startswith("sha256:")
    assert check(*rules, plain=PLAIN, shell=SHELL).code == 1


def test_a_bad_file_is_an_error_on_stderr(check: Any) -> None:
    done = check(broken="name: x\ntasks: []\n", plain=PLAIN)
    assert done.code == 2
    assert done.err.count("error: ") == 1
    assert "result    allowed" in done.out


def test_a_trace_is_judged_like_any_workflow(check: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    spec = {"tasks": [{"name": "a", "id": "a", "parents": [], "children": []}], "files": []}
    trace.write_text(
        json.dumps(
            {
                "name": "traced",
                "schemaVersion": "1.5",
                "workflow": {"specification": spec, "execution": {"tasks": []}},
            }
        )
    )
    done = check(str(trace), "--default-seconds", "1", "--json")
    [judged] = done.json()
    assert (judged["problem"], judged["workflow"]) == (None, "traced")


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("workflow.nonsense > 1", "article a: "),
        ("workflow.kinds.all(k, workflow.kinds.all(l, k == l))", "article a: "),
        ("1 +", "article a: "),
    ],
)
def test_a_constitution_that_is_not_admitted_is_bad_input(
    check: Any, tmp_path: Path, expression: str, complaint: str
) -> None:
    rules = tmp_path / "rules.json"
    one = {
        "id": "a",
        "law": "integrity",
        "perspective": "security_boundary",
        "point": "register",
        "effect": "deny",
        "expression": expression,
        "message": "m",
    }
    rules.write_text(json.dumps({"articles": [one]}))
    for option in ("--constitution", "--platform"):
        done = check(option, str(rules), plain=PLAIN)
        assert done.code == 2
        assert f"{rules}: {complaint}" in done.err


def test_a_tenant_cannot_speak_as_the_platform(check: Any, tmp_path: Path) -> None:
    text = TENANT.read_text().replace("no-starts-at-weekends", "backlog-stays-in-bounds")
    (tmp_path / "rules").write_text(text)
    done = check("--constitution", str(tmp_path / "rules"), plain=PLAIN)
    assert done.code == 2
    assert "is the id of an article of the platform" in done.err


def test_the_installation_s_own_platform_file_is_judged_by(check: Any, tmp_path: Path) -> None:
    (tmp_path / "platform").write_text("articles: []")
    assert check("--platform", str(tmp_path / "platform"), "--strict", silent=SILENT).code == 0


@pytest.mark.parametrize("moment", ["tomorrow", "2026-13-01", "-5d"])
def test_a_moment_that_is_none_is_refused(check: Any, moment: str) -> None:
    assert check("--at", moment, plain=PLAIN).code == 2


def test_the_example_is_admitted_and_its_workflow_keeps_it(check: Any) -> None:
    admission.admit(article.read(TENANT.read_text(), origin="tenant.yaml"))
    rules = ("--constitution", str(TENANT), "--strict", "--json")
    [judged] = check(str(FINANCE), "--at", TUESDAY, *rules).json()
    assert (judged["result"], judged["objections"]) == ("ALLOW", [])
    assert {each["coverage"] for each in judged["dimensions"]} == {"COVERED"}


def test_the_example_asks_of_finance_what_it_says(check: Any) -> None:
    bare = PLAIN.replace("plain", "finance-x")
    rules = ("--constitution", str(TENANT), "--at", TUESDAY)
    assert "finance-says-whose-why-and-for-whom" in check(*rules, bare=bare).out


def test_the_example_judges_leases_and_results() -> None:
    judge = Judge(article.platform_default(), article.read(TENANT.read_text(), origin="tenant"))

    def result(point: Point, **roots: dict[str, Any]) -> VerdictResult:
        return judge.judge(point, LEASE | roots).result

    train = {"task": LEASE["task"] | {"kind": "train-model"}}
    host = LEASE["agent"]
    assert result(Point.LEASE) is VerdictResult.ALLOW
    assert result(Point.LEASE, **train) is VerdictResult.DENY
    gpu = {"agent": host | {"labels": Labels(gpu="true")}}
    assert result(Point.LEASE, **train, **gpu) is VerdictResult.ALLOW
    small = {"ok": True, "code": "", "output_bytes": 262_144}
    assert result(Point.SETTLE, result=small) is VerdictResult.ALLOW
    assert result(Point.SETTLE, result=small | {"output_bytes": 262_145}) is VerdictResult.DENY
