"""`tenure constitution` against a fake coordinator: set, show, list, try, and refusals."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client import compliance
from tests.client.conftest import AT, RUN_ID, Refusal, Script, Tenure

from tenure.v1 import constitution_pb2, runs_pb2, verdict_pb2, workflows_pb2
from tenure_client import articles
from tenure_client.cli.constitution import as_file
from tenure_constitution import article, judge
from tenure_constitution.article import Article, Constitution
from tenure_constitution.laws import Effect, Law, Perspective, Point

RULES = """
description: Ours.
articles:
  - id: no-weekends
    law: precedence
    perspective: resource_constraint
    point: start
    effect: deny
    expression: "time.weekday < 5"
    message: not at weekends
"""
OURS = article.read(RULES, origin="test")
WORKFLOW = "name: etl\ntasks:\n  - {key: a, kind: work}\n"
SENTENCE = "article no-weekends (law of precedence, resource constraint) denies: not at weekends"
WARNING = verdict_pb2.Objection(
    article="intent-is-stated",
    law=verdict_pb2.LAW_PROVENANCE,
    perspective=verdict_pb2.PERSPECTIVE_SECURITY_BOUNDARY,
    effect=verdict_pb2.EFFECT_WARN,
    message="say what it is for",
)
WARNED = "article intent-is-stated (law of provenance, security boundary) warns: say what it is for"


@pytest.fixture
def rules(tmp_path: Path) -> str:
    """A file with a constitution."""
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return str(path)


def test_a_constitution_is_put_into_force(far_script: Script, tenure: Tenure, rules: str) -> None:
    made = constitution_pb2.ConstitutionVersion(version=4, digest="sha256:ab", create_time=AT)
    far_script.on(
        "SetConstitution",
        constitution_pb2.SetConstitutionResponse(constitution=made, created=True),
    )
    done = tenure("constitution", "set", rules)
    assert done.code == 0
    assert ["version", "4"] in [line.split() for line in done.out.splitlines()]
    assert tenure("constitution", "set", rules, "--json").json()["constitution"]["version"] == 4
    first, second = far_script.requests("SetConstitution")
    assert first.text == RULES
    assert first.request_id != second.request_id


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("articles: [", "is not YAML"),
        ("articles: [{id: a}]", "articles[0].law: is missing"),
        ("description: x", "articles: is missing"),
    ],
)
@pytest.mark.parametrize("command", ["set", "try"])
def test_what_is_no_constitution_is_not_sent(
    far_script: Script, tenure: Tenure, tmp_path: Path, command: str, text: str, complaint: str
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    done = tenure("constitution", command, str(path))
    assert done.code == 2
    assert done.err.startswith(f"error: {path}: ")
    assert complaint in done.err
    assert far_script.heard == []


def test_a_file_that_cannot_be_read_is_bad_input(tenure: Tenure, tmp_path: Path) -> None:
    done = tenure("constitution", "set", str(tmp_path / "none.yaml"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    (tmp_path / "latin.yaml").write_bytes(b"\xe9")
    assert "is not UTF-8 text" in tenure("constitution", "set", str(tmp_path / "latin.yaml")).err


def _answer() -> constitution_pb2.GetConstitutionResponse:
    return constitution_pb2.GetConstitutionResponse(
        tenant=compliance.version(OURS, 4),
        platform=compliance.version(article.platform_default()),
        digest="sha256:both",
    )


def test_articles_in_force_are_shown(far_script: Script, tenure: Tenure) -> None:
    far_script.on("GetConstitution", _answer())
    done = tenure("constitution", "show")
    assert done.code == 0
    assert "sha256:both" in done.out
    row = done.out.splitlines()[-1].split()
    assert row[:4] == ["no-weekends", "start", "deny", "precedence"]
    assert "time.weekday < 5" in done.out
    shown = tenure("constitution", "show", "--platform").out
    assert "acts-have-a-principal" in shown
    assert "no-weekends" not in shown
    assert tenure("constitution", "show", "--version", "3", "--json").json()["digest"]
    assert [each.version for each in far_script.requests("GetConstitution")] == [0, 0, 3]


def test_what_is_written_as_yaml_is_the_same_constitution(
    far_script: Script, tenure: Tenure
) -> None:
    far_script.on("GetConstitution", _answer())
    mine = tenure("constitution", "show", "--yaml").out
    assert article.read(mine, origin="shown").digest() == OURS.digest()
    above = tenure("constitution", "show", "--platform", "--yaml").out
    assert article.read(above, origin="shown").digest() == article.platform_default().digest()


_TEXT = st.text(
    st.characters(categories=["L", "N", "P", "S"], include_characters=" "), min_size=1, max_size=60
)


@given(
    description=_TEXT.map(lambda text: " ".join(text.split())),
    expression=(st.sampled_from(["1e5", "0o17", "a\n && b", "# no comment", "- x", "'"]) | _TEXT),
    message=_TEXT.map(lambda text: " ".join(text.split())),
)
def test_any_article_survives_being_written_to_a_file(
    description: str, expression: str, message: str
) -> None:
    one = Article(
        id="n",
        law=Law.INTEGRITY,
        perspective=Perspective.TENANT_ISOLATION,
        point=Point.CALL,
        effect=Effect.WARN,
        expression=expression.strip() or "true",
        message=message or "no",
    )
    content = Constitution(articles=(one,), description=description)
    assert article.read(as_file(content), origin="file") == content


def test_a_tenant_without_a_constitution_is_told_so(far_script: Script, tenure: Tenure) -> None:
    answer = _answer()
    answer.ClearField("tenant")
    far_script.on("GetConstitution", answer)
    done = tenure("constitution", "show")
    assert done.code == 0
    assert "the tenant has no constitution of its own" in done.out
    empty = tenure("constitution", "show", "--yaml").out
    assert article.read(empty, origin="shown").articles == ()


@pytest.mark.parametrize(
    "arguments", [("--platform", "--version", "2"), ("--yaml", "--json")], ids=" ".join
)
def test_options_that_contradict_each_other_are_refused(
    tenure: Tenure, arguments: tuple[str, ...]
) -> None:
    assert tenure("constitution", "show", *arguments).code == 2


def test_versions_are_listed(far_script: Script, tenure: Tenure) -> None:
    pages = [
        constitution_pb2.ListConstitutionsResponse(
            constitutions=[compliance.version(OURS, number)], next_page_token=token
        )
        for number, token in ((2, "more"), (1, ""))
    ]
    far_script.on("ListConstitutions", *pages)
    rows = [line.split() for line in tenure("constitution", "list").out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["2", "1"]
    far_script.on("ListConstitutions", constitution_pb2.ListConstitutionsResponse())
    assert "only the platform's holds" in tenure("constitution", "list").out


def _changed(was: int, would: int) -> constitution_pb2.ChangedDecision:
    return constitution_pb2.ChangedDecision(
        index=1042,
        kind="run.start",
        time=AT,
        was=verdict_pb2.VerdictResult.Name(was),  # type: ignore[arg-type]
        would=verdict_pb2.VerdictResult.Name(would),  # type: ignore[arg-type]
        subject="workflow etl",
        objections=[verdict_pb2.Objection(article="no-weekends")],
    )


def test_a_trial_lists_what_would_come_out_otherwise(
    far_script: Script, tenure: Tenure, rules: str
) -> None:
    answers = [
        constitution_pb2.TryConstitutionResponse(judged=500, total=1000, changes=[_changed(1, 3)]),
        constitution_pb2.TryConstitutionResponse(judged=1000, total=1000, changes=[_changed(3, 1)]),
    ]
    far_script.on("TryConstitution", answers)
    done = tenure("constitution", "try", rules, "--decisions", "1000")
    assert done.code == 1
    assert done.err == ""
    rows = done.out.splitlines()
    assert rows[0].split() == [
        "DECISION",
        "WHEN",
        "KIND",
        "SUBJECT",
        "WAS",
        "→",
        "WOULD",
        "ARTICLES",
    ]
    assert rows[2].split()[0] == "1042"
    assert "allow → deny" in rows[2]
    assert "no-weekends" in rows[2]
    assert (
        rows[-1] == "1000 decisions judged anew, 2 would come out otherwise: 1 stricter, 1 milder"
    )
    [request] = far_script.requests("TryConstitution")
    assert (request.text, request.decisions_max) == (RULES, 1000)
    far_script.on("TryConstitution", answers)
    shown = tenure("constitution", "try", rules, "--json")
    assert shown.code == 1
    assert [each["would"] for each in shown.json()["changes"]] == ["DENY", "ALLOW"]
    assert (shown.json()["judged"], shown.json()["total"]) == (1000, 1000)


def test_a_trial_that_changes_nothing_ends_with_0(
    far_script: Script, tenure: Tenure, rules: str
) -> None:
    answer = constitution_pb2.TryConstitutionResponse(judged=7, total=7)
    far_script.on("TryConstitution", [answer])
    done = tenure("constitution", "try", rules)
    assert (done.code, done.out) == (0, "7 decisions judged anew, all come out as they did\n")
    far_script.on("TryConstitution", [])
    assert tenure("constitution", "try", rules).code == 0


def test_a_candidate_that_the_coordinator_refuses_is_bad_input(
    far_script: Script, tenure: Tenure, rules: str
) -> None:
    fault = ("text: articles[0].expression", "takes too long")
    refusal = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, ": ".join(fault), "FIELD_INVALID", fields=(fault,)
    )
    answer = constitution_pb2.TryConstitutionResponse(judged=1, total=2)
    for stream in ([refusal], [answer, refusal]):
        far_script.on("TryConstitution", stream)
        done = tenure("constitution", "try", rules)
        complaint = f"error: {rules}: articles[0].expression: takes too long\n"
        assert (done.code, done.err) == (2, complaint)


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "CALL_DENIED", 4),
        (grpc.StatusCode.FAILED_PRECONDITION, "ACT_DENIED", 1),
    ],
)
def test_a_denial_names_its_articles_and_its_evidence(
    far_script: Script, tenure: Tenure, status: grpc.StatusCode, reason: str, code: int
) -> None:
    other = "article quiet-hours (law of integrity, security boundary) denies: it is night"
    denial = Refusal(
        status,
        SENTENCE,
        reason,
        metadata={"decision": "dev/42"},
        objections=(("no-weekends", SENTENCE), ("quiet-hours", other)),
    )
    far_script.on("StartRun", denial)
    done = tenure("run", "start", "etl")
    assert done.code == code
    assert done.err.splitlines() == [
        f"error: {SENTENCE}",
        f"  {other}",
        "  see: tenure evidence show 42",
    ]


def test_a_denial_in_the_log_of_the_installation_says_so(
    far_script: Script, tenure: Tenure
) -> None:
    denial = Refusal(
        grpc.StatusCode.PERMISSION_DENIED,
        SENTENCE,
        "CALL_DENIED",
        metadata={"decision": "installation/7"},
    )
    far_script.on("ListTenants", denial)
    done = tenure("tenants", "list")
    assert done.err.splitlines()[-1] == "  see: entry 7 in the log of the installation"


def test_warnings_of_a_registration_are_shown(
    far_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    report = compliance.workflow("etl", "cdmmmmmdddddd")
    answer = workflows_pb2.RegisterWorkflowResponse(
        workflow=workflows_pb2.Workflow(name="etl", version=1),
        warnings=[WARNING],
        dimensions=report.dimensions,
    )
    far_script.on("RegisterWorkflow", answer)
    done = tenure("workflow", "register", str(tmp_path / "w.yaml"))
    assert (done.code, done.err) == (0, f"warning: {WARNED}\n")
    shown = "1 covered, 7 derived, 5 missing: stakeholders, context, scope, time, space"
    assert done.out.splitlines()[-1].split(maxsplit=1) == ["dimensions", shown]
    document = tenure("workflow", "register", str(tmp_path / "w.yaml"), "--json").json()
    assert document["warnings"][0]["article"] == "intent-is-stated"
    assert len(document["dimensions"]) == 13


def test_warnings_of_a_start_are_shown(far_script: Script, tenure: Tenure) -> None:
    started = runs_pb2.StartRunResponse(run_id=RUN_ID, workflow_version=1, warnings=[WARNING])
    far_script.on("StartRun", started)
    assert tenure("run", "start", "etl").err == f"warning: {WARNED}\n"
    [warning] = tenure("run", "start", "etl", "--json").json()["warnings"]
    assert (warning["effect"], warning["law"]) == ("WARN", "PROVENANCE")


def test_a_validation_that_the_constitution_denies_ends_with_1(
    far_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    denial = verdict_pb2.Objection()
    denial.CopyFrom(WARNING)
    denial.effect = verdict_pb2.EFFECT_DENY
    for objections, code in (([WARNING], 0), ([denial, WARNING], 1)):
        answer = workflows_pb2.ValidateWorkflowResponse(objections=objections)
        far_script.on("ValidateWorkflow", answer)
        done = tenure("workflow", "validate", str(tmp_path / "w.yaml"))
        assert done.code == code
        assert done.out.splitlines()[-1] == WARNED
        assert tenure("workflow", "validate", str(tmp_path / "w.yaml"), "--json").code == code
    assert "valid         no: the constitution denies it" in done.out


@pytest.mark.parametrize("effect", Effect)
def test_the_sentence_is_the_one_that_the_judge_has(effect: Effect) -> None:
    spoken = judge.Objection(
        article="a-b",
        law=Law.PROVENANCE,
        perspective=Perspective.TENANT_ISOLATION,
        point=Point.CALL,
        effect=effect,
        message="keep apart",
    )
    sent = verdict_pb2.Objection(
        article="a-b",
        law=verdict_pb2.LAW_PROVENANCE,
        perspective=verdict_pb2.PERSPECTIVE_TENANT_ISOLATION,
        effect=verdict_pb2.Effect.Name(effect),  # type: ignore[arg-type]
        message="keep apart",
    )
    assert articles.sentence(sent) == spoken.sentence
