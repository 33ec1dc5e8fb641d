"""The service Constitution: what would change under a candidate, and how the laws were kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tests import logbook
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused
from tests.server.rpc.constitutions import (
    ALLOW,
    DENY,
    POINTS,
    WARN,
    article,
    put,
    register,
    start,
    tried,
    work_off,
)

from tenure.v1 import agents_pb2, constitution_pb2, runs_pb2, verdict_pb2
from tenure_constitution.laws import Law


async def test_a_trial_reports_exactly_the_decisions_that_change(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Newest first, at each point, in both directions."""
    await put(coordinator, article("start", "run.priority < 5", name="old"))
    await register(coordinator)
    await register(coordinator, name="large", tasks=[{"key": n, "kind": "k"} for n in "abc"])
    await start(coordinator, priority=1)
    await start(coordinator, priority=3)
    await refused(start(coordinator, priority=7))
    await work_off(coordinator)
    await work_off(coordinator, failure=runs_pb2.Failure(code="E", message="no"))
    await coordinator.calls("viewer").runs.ListRuns(runs_pb2.ListRunsRequest())
    changes, steps = await tried(
        coordinator,
        article("call", "rpc.method != 'ListRuns'", effect="warn"),
        article("register", "workflow.task_count < 3"),
        article("start", "run.priority != 3"),
        article("settle", "result.code != 'E'", effect="warn"),
    )
    found = [(POINTS[one.point], one.was, one.would) for one in changes]
    assert found == [
        ("call", ALLOW, WARN),
        ("settle", ALLOW, WARN),
        ("start", DENY, ALLOW),
        ("start", ALLOW, DENY),
        ("register", ALLOW, DENY),
    ]
    assert steps[-1][0] == steps[-1][1] > 0
    assert [one.index for one in changes] == sorted((one.index for one in changes), reverse=True)
    assert changes[2].objections == []
    assert [one.article for one in changes[3].objections] == ["at-start"]
    same, _ = await tried(coordinator, article("start", "run.priority < 5", name="old"))
    assert same == []
    few, steps = await tried(coordinator, decisions_max=2)
    assert (few, steps[-1]) == ([], (2, 2))


async def lease_by_stream(live: LiveCoordinator) -> None:
    """An agent says hello, with what its host is, and takes a lease."""
    call = live.calls("agent").agents.Work()
    hello = agents_pb2.Hello(
        agent="host", instance="instance-1", kinds=["k"], slots=1, labels={"zone": "eu"}
    )
    await call.write(agents_pb2.WorkRequest(hello=hello, credits=1))
    while not (await call.read()).HasField("batch"):
        pass
    call.cancel()


async def lease_by_call(live: LiveCoordinator) -> None:
    """A call without a stream says the same, and takes a lease."""
    request = agents_pb2.LeaseTasksRequest(agent="host", kinds=["k"], labels={"zone": "eu"})
    assert len((await live.calls("agent").agents.LeaseTasks(request)).batch.leases) == 1


@pytest.mark.parametrize("lease", [lease_by_stream, lease_by_call])
async def test_a_trial_judges_leases_by_what_the_agent_said_of_itself(
    coordinator: LiveCoordinator, lease: Callable[[LiveCoordinator], Awaitable[None]]
) -> None:
    """Its labels were kept with the grant."""
    await register(coordinator)
    await start(coordinator)
    await lease(coordinator)
    for zone, changed in (("eu", 0), ("us", 1)):
        expression = f"'zone' in agent.labels && agent.labels['zone'] == '{zone}'"
        changes, _ = await tried(coordinator, article("lease", expression))
        assert len(changes) == changed
    assert changes[0].subject.startswith("task a of run ")


async def test_a_report_counts_what_the_log_holds(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """By law, article, day and workflow; a run's report has the run's own dimensions."""
    await put(coordinator, article("start", "run.priority < 5"))
    await register(coordinator)
    run_id = (await start(coordinator, priority=1)).run_id
    await refused(start(coordinator, priority=7))
    await refused(start(coordinator, priority=8))
    await work_off(coordinator)
    calls = coordinator.calls("viewer").constitution
    report = await calls.GetComplianceReport(constitution_pb2.GetComplianceReportRequest())
    assert report.tenant_id == "alpha"
    assert (report.refusals, report.runs) == (2, 1)
    entries = logbook.read(coordinator.server.store).of("alpha")
    assert report.log_size == report.acts == len(entries) - 1
    assert {one.law: (one.denied, one.kept) for one in report.laws} == {
        int(law): (2 if law is Law.PRECEDENCE else 0, True) for law in Law
    }
    assert all(one.standing for one in report.laws)
    [mine] = [one for one in report.articles if not one.platform]
    assert (mine.article.id, mine.denied, mine.warned) == ("at-start", 2, 0)
    assert sum(day.acts for day in report.days) == report.acts
    assert sum(day.denied for day in report.days) == 2
    [workflow] = report.workflows
    assert (workflow.workflow, workflow.runs, workflow.succeeded) == ("w", 1, 1)
    assert [one.reason for one in report.recent_refusals] == ["ACT_DENIED"] * 2
    assert list(report.recent_refusals[0].articles) == ["at-start"]
    one = await calls.GetComplianceReport(
        constitution_pb2.GetComplianceReportRequest(run_id=run_id)
    )
    assert (one.runs, one.refusals, one.acts) == (1, 0, 3)
    state = one.workflows[0].dimensions[verdict_pb2.DIMENSION_STATE - 1]
    assert state.basis.startswith("It ended succeeded")
    of_workflow = await calls.GetComplianceReport(
        constitution_pb2.GetComplianceReportRequest(workflow="w")
    )
    # The registration and the two starts that were refused name it, and nothing else does.
    assert (of_workflow.runs, of_workflow.acts, of_workflow.refusals) == (1, 6, 2)
    assert [one.denied for one in of_workflow.articles if not one.platform] == [2]
    await put(coordinator)
    later = await calls.GetComplianceReport(constitution_pb2.GetComplianceReportRequest())
    [former] = [one for one in later.articles if not one.platform]
    assert (former.article.id, former.denied, former.article.expression) == ("at-start", 2, "")
    assert former.article.message == "no longer in force"
    for request in (
        constitution_pb2.GetComplianceReportRequest(workflow="none"),
        constitution_pb2.GetComplianceReportRequest(run_id=run_id.replace(run_id[-4:], "0000")),
    ):
        assert (await refused(calls.GetComplianceReport(request))).code is grpc.StatusCode.NOT_FOUND
    too_long = constitution_pb2.GetComplianceReportRequest(start_time=Timestamp(seconds=1))
    assert (await refused(calls.GetComplianceReport(too_long))).fields.keys() == {"start_time"}


async def test_a_trial_knows_what_an_article_said_before_its_id_meant_another(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """What was decided is what the entry says, not what the newest version would have said."""
    await put(coordinator, article("start", "run.priority < 5"))
    await register(coordinator)
    await refused(start(coordinator, priority=7))
    await put(coordinator, article("start", "run.priority < 9"))
    none, _ = await tried(coordinator)
    assert [(POINTS[one.point], one.was, one.would) for one in none] == [("start", DENY, ALLOW)]
    first, _ = await tried(coordinator, article("start", "run.priority < 5"))
    assert first == []
    entries = logbook.read(coordinator.server.store).of("alpha")
    [said] = next(one["articles"] for one in entries if one.get("refusal") == "ACT_DENIED")
    assert (said["point"], said["message"] != "", "problem" in said) == ("start", True, False)
