"""The constitution that is shipped: it admits itself, and lets plain work through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.constitution.making import LEASE, rule, rules
from tests.constitution.test_facts import EXAMPLES, diamond, facts_of, flow

from tenure_client import workflow_file
from tenure_constitution import admission, article, check, facts
from tenure_constitution.article import ConstitutionInvalid
from tenure_constitution.facts import Labels
from tenure_constitution.judge import Judge
from tenure_constitution.laws import Point, VerdictResult
from tenure_server.core.definitions.definition import RetryPolicy, WorkflowDefinition, WorkflowTask
from tenure_server.rpc import convert

PLATFORM = article.platform_default()
JUDGE = Judge(PLATFORM)
NOON = 1_784_030_400.0
ALLOW, WARN, DENY = VerdictResult.ALLOW, VerdictResult.WARN, VerdictResult.DENY


def objections(point: Point, given: dict[str, dict[str, Any]]) -> list[str]:
    found = JUDGE.judge(point, given)
    assert not any(item.errored for item in found.objections)
    return [item.article for item in found.objections]


def report(definition: WorkflowDefinition, **declared: str) -> check.Report:
    canonical = orjson.loads(definition.canonical()) | {"dimensions": declared}
    return check.check(canonical, platform=PLATFORM, unix_seconds=NOON)


def call(service: str, method: str, *roles: str, principal: str = "k1") -> list[str]:
    return objections(
        Point.CALL,
        {
            "principal": {"id": principal, "roles": roles},
            "rpc": {"service": service, "method": method, "mutation": True},
        },
    )


def test_it_admits_itself_and_every_article_is_cheap() -> None:
    seconds = admission.admit(PLATFORM).seconds
    assert len(seconds) == len(PLATFORM.articles)
    assert max(seconds.values()) < 0.001


def test_it_has_articles_at_every_point() -> None:
    assert all(JUDGE.applies(point) for point in Point)


def test_leases_and_results_are_judged_by_what_comes_again_and_again() -> None:
    fresh_each_time = {"run.id", "task.key", "result.output_bytes", "time.unix", "run.input_bytes"}
    for point in (Point.LEASE, Point.SETTLE):
        assert not JUDGE.reads(point) & fresh_each_time


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_the_examples_pass(file: Path) -> None:
    assert report(convert.definition(workflow_file.read(file))).result <= WARN


def test_a_plain_workflow_is_warned_at_most() -> None:
    plain = report(flow(WorkflowTask(key="a", kind="k")))
    assert (plain.register.result, plain.start.result, plain.result) == (WARN, ALLOW, WARN)
    assert [item.article for item in plain.register.objections] == ["intent-is-stated"]
    assert report(diamond(description="Counts words.")).result is ALLOW


def test_plain_leases_and_results_pass() -> None:
    settle = LEASE | {"result": {"ok": True, "code": "", "output_bytes": 3}}
    assert objections(Point.LEASE, LEASE) == []
    assert objections(Point.SETTLE, settle) == []
    failed = LEASE | {"result": {"ok": False, "code": "HANDLER_ERROR", "output_bytes": 0}}
    assert objections(Point.SETTLE, failed) == []


def test_a_success_has_no_code_and_a_failure_without_one_is_warned_of() -> None:
    success = LEASE | {"result": {"ok": True, "code": "X", "output_bytes": 0}}
    assert objections(Point.SETTLE, success) == ["results-say-one-thing"]
    assert JUDGE.judge(Point.SETTLE, success).result is DENY
    failure = LEASE | {"result": {"ok": False, "code": "", "output_bytes": 0}}
    assert objections(Point.SETTLE, failure) == ["failures-have-a-code"]
    assert JUDGE.judge(Point.SETTLE, failure).result is WARN


def test_an_operator_and_nothing_else_does_not_touch_the_work_of_tenants() -> None:
    assert call("Runs", "GetRun", "operator") == ["operators-see-no-payloads"]
    assert call("Workflows", "GetWorkflow", "operator") == ["operators-see-no-payloads"]
    assert call("Tenants", "CreateTenant", "operator") == []
    assert call("Evidence", "ListEntries", "operator") == []
    assert call("Runs", "GetRun", "operator", "viewer") == []
    assert call("Runs", "StartRun", "submitter") == []


def test_an_act_without_a_principal_is_denied() -> None:
    assert call("Runs", "StartRun", "submitter", principal="") == ["acts-have-a-principal"]


def test_a_declared_high_risk_asks_for_retries_and_time_limits() -> None:
    name = "high-risk-can-be-retried-and-stopped"
    for statement in ("high", "High: it moves money", "HIGH.", " high", "\u00a0\t'High'"):
        found = report(diamond(description="d"), risk=statement)
        assert [item.article for item in found.register.objections] == [name]
    assert report(diamond(description="d"), risk="highly unlikely").result is ALLOW
    assert report(diamond(description="d"), risk="low").result is ALLOW
    safe = WorkflowTask(
        key="a", kind="k", attempt_timeout_us=1000, retry=RetryPolicy(max_attempts=2)
    )
    assert report(flow(safe, description="d"), risk="high").result is ALLOW


def test_personal_data_asks_for_stakeholders() -> None:
    for words in ("personal data", "personal  data", "Personal\u00a0data", "personal\ndata"):
        found = report(diamond(description="d"), ethics=f"Has {words}.")
        assert found.result is DENY
    statement = "Processes personal data of customers."
    found = report(diamond(description="d"), ethics=statement)
    assert [item.article for item in found.register.objections] == [
        "personal-data-has-stakeholders"
    ]
    both = report(diamond(description="d"), ethics=statement, stakeholders="Customers.")
    assert both.result is ALLOW


def test_a_backlog_beyond_bounds_is_denied() -> None:
    given = check.ASIDE | {"workflow": facts_of(diamond()), "time": facts.of_time(NOON)}
    assert objections(Point.START, given) == []
    given["tenant"] = given["tenant"] | {"open_tasks": 4_999_997}
    assert objections(Point.START, given) == ["backlog-stays-in-bounds"]


def test_residency_is_kept() -> None:
    def lease(run: Labels, agent: Labels) -> list[str]:
        act = LEASE | {"run": LEASE["run"] | {"labels": run}}
        return objections(Point.LEASE, act | {"agent": {"name": "a", "labels": agent}})

    eu, us = Labels({"tenure.residency": "eu"}), Labels({"tenure.residency": "us"})
    assert lease(eu, eu) == lease(Labels(), us) == []
    assert lease(eu, us) == lease(eu, Labels()) == ["residency-is-kept"]


# -- judged offline


def test_a_tenant_s_constitution_is_judged_with_the_platform_s() -> None:
    canonical = orjson.loads(diamond(description="d").canonical())
    mine = rules(rule("workflow.tasks_with_retry == workflow.task_count", Point.REGISTER))
    found = check.check(canonical, platform=PLATFORM, tenant=mine, unix_seconds=NOON)
    assert found.result is DENY
    assert [item.article for item in found.register.objections] == ["rule"]
    assert found.start.result is ALLOW
    assert len(found.dimensions) == 13
    stolen = rules(rule("true", article_id="intent-is-stated"))
    with pytest.raises(ConstitutionInvalid, match="is the id of an article of the platform"):
        check.check(canonical, platform=PLATFORM, tenant=stolen, unix_seconds=NOON)


def test_the_start_of_a_run_with_labels_can_be_judged() -> None:
    canonical = orjson.loads(diamond(description="d").canonical())
    mine = rules(rule("has(run.labels.ticket)", Point.START))
    for labels, result in ((None, DENY), ({"ticket": "T-1"}, ALLOW)):
        found = check.check(
            canonical, platform=PLATFORM, tenant=mine, unix_seconds=NOON, run_labels=labels
        )
        assert found.start.result is result
