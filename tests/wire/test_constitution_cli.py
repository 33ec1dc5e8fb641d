"""`tenure constitution` with a real coordinator: what is set holds, is tried, and reported on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.wire.installation import Installation

from tenure_client.cli import app
from tenure_constitution import article

RULES = """
description: Ours.
articles:
  - id: no-shell
    law: precedence
    perspective: resource_constraint
    point: register
    effect: deny
    expression: "!workflow.kinds.exists(kind, kind.startsWith('shell.'))"
    message: nothing of a shell here
  - id: urgent-is-rare
    law: integrity
    perspective: security_boundary
    point: start
    effect: warn
    expression: run.priority < 100
    message: keep high priorities for what is urgent
"""
SENTENCE = (
    "article no-shell (law of precedence, resource constraint) denies: nothing of a shell here"
)
STRICTER = RULES.replace("effect: warn", "effect: deny").replace("< 100", "< 0")
PLAIN = "name: plain\ndescription: Tries it.\ntasks:\n  - {key: a, kind: nobody}\n"
SHELL = PLAIN.replace("nobody", "shell.run").replace("plain", "with-shell")
SILENT = "name: silent\ntasks:\n  - {key: a, kind: nobody, input: {z: 1, a: [1.5, null]}}\n"


class Done(NamedTuple):
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


Tenure = Callable[..., Done]


@pytest.fixture
async def tenant(house: Installation, request: pytest.FixtureRequest) -> str:
    """A tenant of this test's own."""
    name = f"rules-{zlib.crc32(request.node.name.encode()):08x}"
    await house.add_tenant(name)
    return name


@pytest.fixture
async def tenure(
    house: Installation,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Tenure:
    """Executes the command as the tenant's admin, or as another with the same role of it."""
    secrets = {role: await house.secret(role, tenant) for role in ("admin", "viewer")}
    monkeypatch.chdir(tmp_path)
    for word in ("KEY_FILE", "CREDENTIALS"):
        monkeypatch.delenv(f"TENURE_{word}", raising=False)
    monkeypatch.setenv("TENURE_ADDRESS", house.coordinator.address)
    monkeypatch.setenv("TENURE_TENANT", tenant)

    def execute(*arguments: str, role: str = "admin") -> Done:
        monkeypatch.setenv("TENURE_KEY", secrets[role])
        capsys.readouterr()
        code = app.invoke(arguments)
        return Done(code, *capsys.readouterr())

    for name, text in (
        ("rules.yaml", RULES),
        ("stricter.yaml", STRICTER),
        ("none.yaml", "articles: []"),
        ("plain.yaml", PLAIN),
        ("shell.yaml", SHELL),
        ("silent.yaml", SILENT),
    ):
        (tmp_path / name).write_text(text)
    return execute


def document(done: Done, code: int = 0) -> Any:
    """What a command wrote for programs."""
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout)


def test_what_is_set_is_shown_and_listed_by_its_digest(tenure: Tenure) -> None:
    none = tenure("constitution", "show")
    assert "the tenant has no constitution of its own" in none.stdout
    first = document(tenure("constitution", "set", "rules.yaml", "--json"))
    mine = article.read(RULES, origin="rules")
    assert first["created"] is True
    assert first["constitution"]["version"] == 1
    assert first["constitution"]["digest"] == mine.digest()
    assert document(tenure("constitution", "set", "rules.yaml", "--json"))["created"] is False
    document(tenure("constitution", "set", "none.yaml", "--json"))
    listed = document(tenure("constitution", "list", "--json", role="viewer"))
    assert [each["version"] for each in listed] == [2, 1]
    shown = tenure("constitution", "show", "--version", "1", "--yaml", role="viewer")
    assert article.read(shown.stdout, origin="shown").digest() == mine.digest()
    above = tenure("constitution", "show", "--platform", "--yaml")
    assert (
        article.read(above.stdout, origin="shown").digest() == article.platform_default().digest()
    )
    assert tenure("constitution", "show", "--version", "9").returncode == 5


def test_only_a_tenant_s_admin_sets_and_tries(tenure: Tenure) -> None:
    for command in ("set", "try"):
        assert tenure("constitution", command, "rules.yaml", role="viewer").returncode == 4


def test_a_candidate_that_is_not_admitted_changes_nothing(tenure: Tenure, tmp_path: Path) -> None:
    bad = RULES.replace("run.priority < 100", "run.nonsense == 1")
    (tmp_path / "bad.yaml").write_text(bad)
    for command in ("set", "try"):
        done = tenure("constitution", command, "bad.yaml")
        assert done.returncode == 2
        assert done.stderr.startswith("error: bad.yaml: articles[1].expression: ")
    assert document(tenure("constitution", "list", "--json")) == []


def test_a_denial_names_article_law_and_a_decision_that_is_there(tenure: Tenure) -> None:
    document(tenure("constitution", "set", "rules.yaml", "--json"))
    denied = tenure("workflow", "register", "shell.yaml")
    assert denied.returncode == 1
    first, see = denied.stderr.splitlines()
    assert first == f"error: {SENTENCE}"
    number = int(see.removeprefix("  see: tenure evidence show "))
    report = document(tenure("constitution", "report", "--json"))
    [refusal] = [each for each in report["recent_refusals"] if each["index"] == number]
    assert (refusal["reason"], refusal["articles"]) == ("ACT_DENIED", ["no-shell"])
    judged = tenure("workflow", "validate", "shell.yaml")
    assert (judged.returncode, judged.stdout.splitlines()[-1]) == (1, SENTENCE)


def test_warnings_of_registration_and_start_are_told(tenure: Tenure) -> None:
    document(tenure("constitution", "set", "rules.yaml", "--json"))
    warned = tenure("workflow", "register", "silent.yaml")
    assert warned.returncode == 0
    assert warned.stderr.startswith("warning: article intent-is-stated (law of provenance")
    started = tenure("run", "start", "silent", "--priority", "500")
    assert started.returncode == 0
    assert started.stderr.startswith("warning: article urgent-is-rare (law of integrity")
    again = document(tenure("run", "start", "silent", "--priority", "500", "--json"))
    assert [each["article"] for each in again["warnings"]] == ["urgent-is-rare"]


def test_a_desk_judges_and_names_a_file_as_the_coordinator_does(tenure: Tenure) -> None:
    document(tenure("constitution", "set", "rules.yaml", "--json"))
    for file in ("plain.yaml", "silent.yaml", "shell.yaml"):
        there = tenure("workflow", "validate", file, "--json")
        here = tenure("constitution", "check", file, "--constitution", "rules.yaml", "--json")
        assert here.returncode == there.returncode
        [mine], theirs = json.loads(here.stdout), json.loads(there.stdout)
        assert mine["digest"] == theirs["digest"]
        assert [each["article"] for each in mine["objections"]] == [
            each["article"] for each in theirs["objections"]
        ]
        assert mine["dimensions"] == theirs["dimensions"]


def test_a_trial_tells_which_decisions_would_come_out_otherwise(tenure: Tenure) -> None:
    document(tenure("workflow", "register", "plain.yaml", "--json"))
    run = document(tenure("run", "start", "plain", "--json"))
    same = tenure("constitution", "try", "none.yaml")
    assert (same.returncode, same.stderr) == (0, "")
    assert "all come out as they did" in same.stdout
    other = document(tenure("constitution", "try", "stricter.yaml", "--json"), code=1)
    assert other["judged"] == other["total"] > 0
    [change] = other["changes"]
    assert (change["kind"], change["was"], change["would"]) == ("run.start", "ALLOW", "DENY")
    assert [each["article"] for each in change["objections"]] == ["urgent-is-rare"]
    assert document(tenure("constitution", "list", "--json")) == []
    assert document(tenure("run", "show", run["run_id"], "--json"))["state"] == "RUNNING"


def test_a_report_tells_how_the_laws_were_kept(tenure: Tenure, tenant: str, tmp_path: Path) -> None:
    document(tenure("constitution", "set", "rules.yaml", "--json"))
    document(tenure("workflow", "register", "plain.yaml", "--json"))
    run = document(tenure("run", "start", "plain", "--json"))
    assert tenure("workflow", "register", "shell.yaml").returncode == 1
    report = document(tenure("constitution", "report", "--json", role="viewer"))
    assert report["tenant_id"] == tenant
    assert [law["kept"] for law in report["laws"]] == [True] * 5
    denied = {each["article"]["id"]: each["denied"] for each in report["articles"]}
    assert (denied["no-shell"], denied["urgent-is-rare"]) == (1, 0)
    assert "acts-have-a-principal" in denied
    [workflow] = report["workflows"]
    assert (workflow["workflow"], workflow["runs"], len(workflow["dimensions"])) == ("plain", 1, 13)
    [day] = [each for each in report["days"] if each["acts"]]
    assert day["denied"] == 1
    one = document(tenure("constitution", "report", "--run", run["run_id"], "--json"))
    assert [each["workflow"] for each in one["workflows"]] == ["plain"]
    done = tenure("constitution", "report", "--html", "report.html", "--workflow", "plain")
    assert (done.returncode, done.stdout) == (0, "written: report.html\n")
    page = (tmp_path / "report.html").read_text()
    assert "no-shell" in page
    assert tenure("constitution", "report").stdout.startswith(f"tenant              {tenant}\n")
