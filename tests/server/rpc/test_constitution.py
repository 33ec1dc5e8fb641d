"""The service Constitution: what is put into force, and how it is judged at each point."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest
from google.protobuf.json_format import ParseDict
from tests import logbook
from tests.conftest import LiveCoordinator, serving, serving_again
from tests.server.rpc.conftest import Refused
from tests.server.rpc.constitutions import (
    article,
    put,
    ref_of,
    register,
    start,
    text,
    work_off,
)

from tenure.v1 import agents_pb2, constitution_pb2, runs_pb2, verdict_pb2, workflows_pb2


async def test_a_version_is_put_into_force_and_shown(coordinator: LiveCoordinator) -> None:
    """The same content is that version; other content is the next one; the list has both."""
    calls = coordinator.calls("admin").constitution
    before = await calls.GetConstitution(constitution_pb2.GetConstitutionRequest())
    assert not before.HasField("tenant")
    assert before.platform.version == 0
    assert {one.id for one in before.platform.articles} >= {"residency-is-kept"}
    first = await put(coordinator, article("start", "run.priority < 10"))
    again = await put(coordinator, article("start", "run.priority < 10"))
    second = await put(coordinator)
    assert (first.created, first.constitution.version) == (True, 1)
    assert (again.created, again.constitution) == (False, first.constitution)
    assert (second.created, second.constitution.version) == (True, 2)
    assert first.constitution.create_time.seconds > 0
    now = await calls.GetConstitution(constitution_pb2.GetConstitutionRequest())
    assert (now.tenant.version, len(now.tenant.articles)) == (2, 0)
    old = await coordinator.calls("viewer").constitution.GetConstitution(
        constitution_pb2.GetConstitutionRequest(version=1)
    )
    assert [one.id for one in old.tenant.articles] == ["at-start"]
    assert old.tenant.articles[0].point == verdict_pb2.POINT_START
    assert len({before.digest, old.digest, now.digest}) == 3
    page = await calls.ListConstitutions(constitution_pb2.ListConstitutionsRequest(page_size=1))
    rest = await calls.ListConstitutions(
        constitution_pb2.ListConstitutionsRequest(page_size=1, page_token=page.next_page_token)
    )
    assert [one.version for one in (*page.constitutions, *rest.constitutions)] == [2, 1]
    assert rest.next_page_token == ""
    assert not page.constitutions[0].articles


async def test_a_version_that_is_not_there_is_not_found(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    refusal = await refused(
        coordinator.calls("viewer").constitution.GetConstitution(
            constitution_pb2.GetConstitutionRequest(version=3)
        )
    )
    assert refusal.code is grpc.StatusCode.NOT_FOUND


async def test_setting_is_safe_to_repeat(coordinator: LiveCoordinator, refused: Refused) -> None:
    """The same id gets the same answer, even after a newer version; other content is refused."""
    one = article("start", "run.priority < 10")
    first = await put(coordinator, one, request_id="r1")
    await put(coordinator)
    assert await put(coordinator, one, request_id="r1") == first
    await register(coordinator)
    await start(coordinator, priority=50)
    refusal = await refused(put(coordinator, request_id="r1"))
    assert refusal.reason == "REQUEST_ID_REUSED"


BAD: dict[str, tuple[str, str, str]] = {
    "no YAML": ("a: [", "text: line 2", "is not YAML"),
    "no articles": ("description: x", "text: articles", "is missing"),
    "unknown fact": (
        text(article("start", "true", name="good"), article("start", "run.size > 1")),
        "text: articles[1].expression",
        "run.size",
    ),
    "no truth": (text(article("start", "run.priority")), "text: articles[0].expression", "int"),
    "the platform's id": (
        text(article("lease", "true", name="residency-is-kept")),
        "text: articles[0].id",
        "platform",
    ),
    "a pattern of states": (
        text(article("register", r"workflow.name.matches('(a{1,250}){250}')")),
        "text: articles[0].expression",
        "",
    ),
    "brackets": (
        text(article("start", "(" * 300 + "true" + ")" * 300)),
        "text: articles[0].expression",
        "",
    ),
}


@pytest.mark.parametrize("bad", list(BAD))
async def test_a_bad_constitution_is_told_where_and_why(
    coordinator: LiveCoordinator, refused: Refused, bad: str
) -> None:
    """Setting and trying refuse it alike, and nothing is put into force."""
    content, path, words = BAD[bad]
    calls = coordinator.calls("admin").constitution
    request = constitution_pb2.SetConstitutionRequest(text=content)
    refusal = await refused(calls.SetConstitution(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    [(field, reason), *_] = refusal.fields.items()
    assert field.startswith(path)
    assert words in f"{field} {reason}"
    trial = calls.TryConstitution(constitution_pb2.TryConstitutionRequest(text=content))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in trial:
            pass
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = await calls.GetConstitution(constitution_pb2.GetConstitutionRequest())
    assert not found.HasField("tenant")


async def test_a_hostile_article_holds_nobody_up(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Others are answered while it is tried in its own process, and the loop does not stall."""
    longest = longest_busy = 0.0
    done = asyncio.Event()

    async def measure() -> None:
        nonlocal longest, longest_busy
        while not done.is_set():
            asked, busy = time.monotonic(), time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - asked)
            longest_busy = max(longest_busy, time.thread_time() - busy)
            await coordinator.calls("viewer").runs.ListRuns(runs_pb2.ListRunsRequest())

    measuring = asyncio.create_task(measure())
    pattern = "(" + "|".join(f"a{{0,60}}b{number}" for number in range(9)) + ")*$"
    expression = " || ".join([f"workflow.kinds.exists(k, k.contains('{n}'))" for n in range(30)])
    hostile = [
        article("register", f"workflow.name.matches('{pattern}')"),
        article("register", expression),
        article("register", "workflow.kinds.all(a, workflow.kinds.all(b, a != b))"),
    ]
    for one in hostile:
        refusal = await refused(put(coordinator, one))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    await put(coordinator, *(article("start", "run.id != 'x'", name=f"a{n}") for n in range(60)))
    done.set()
    await measuring
    # What it works is counted, as the machine may be busy with others' work; and it never waits.
    assert longest_busy < 0.25
    assert longest < 5


async def test_each_point_denies_and_says_the_same_everywhere(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """In the status, in its details, and in the entry whose decision the refusal names."""
    await register(coordinator)
    cases = [
        ("call", "rpc.method != 'ListRuns'", "CALL_DENIED", grpc.StatusCode.PERMISSION_DENIED),
        ("register", "workflow.task_count > 1", "ACT_DENIED", grpc.StatusCode.FAILED_PRECONDITION),
        ("start", "run.priority > 1", "ACT_DENIED", grpc.StatusCode.FAILED_PRECONDITION),
    ]
    for point, expression, reason, code in cases:
        await put(coordinator, article(point, expression))
        acts: dict[str, Callable[[], Awaitable[Any]]] = {
            "call": lambda: coordinator.calls("viewer").runs.ListRuns(runs_pb2.ListRunsRequest()),
            "register": lambda: register(coordinator, name="other"),
            "start": lambda: start(coordinator),
        }
        refusal = await refused(acts[point]())
        sentence = (
            f"article at-{point} (law of precedence, resource constraint) denies: not so at {point}"
        )
        assert (refusal.code, refusal.reason, refusal.message) == (code, reason, sentence)
        assert refusal.preconditions == [
            ("precedence", f"article at-{point} (resource_constraint)", sentence)
        ]
        assert refusal.facts["law"] == "precedence"
        assert refusal.facts["article"] == f"at-{point}"
        assert refusal.facts["perspective"] == "resource_constraint"
        log, index = refusal.facts["decision"].split("/")
        assert log == "alpha"
        entry = logbook.read(coordinator.server.store).of("alpha")[int(index)]
        assert (entry["verdict"], entry["refusal"]) == ("deny", reason)
        assert [one["id"] for one in entry["articles"]] == [f"at-{point}"]
    page = await coordinator.calls("viewer").workflows.ListWorkflows(
        workflows_pb2.ListWorkflowsRequest()
    )
    assert [one.name for one in page.workflows] == ["w"]


async def test_warnings_are_told_and_kept_and_let_the_act_happen(
    coordinator: LiveCoordinator,
) -> None:
    """At every point; those of a call and of the work stand in evidence only."""
    await put(
        coordinator,
        *(article(point, "false", effect="warn") for point in ("register", "start")),
        article("call", "rpc.method != 'GetWorkflow'", effect="warn"),
        article("lease", "task.attempt > 1", effect="warn"),
        article("settle", "!result.ok", effect="warn"),
    )
    registered = await register(coordinator)
    started = await start(coordinator)
    assert [one.article for one in registered.warnings] == ["at-register"]
    assert [one.message for one in started.warnings] == ["not so at start"]
    assert registered.warnings[0].law == verdict_pb2.LAW_PRECEDENCE
    await coordinator.calls("viewer").workflows.GetWorkflow(
        workflows_pb2.GetWorkflowRequest(name="w")
    )
    assert await work_off(coordinator) == agents_pb2.VERDICT_APPLIED
    entries = logbook.read(coordinator.server.store).of("alpha")
    warned = {
        (entry["kind"], one["id"])
        for entry in entries
        if entry["verdict"] == "warn"
        for one in entry["articles"]
    }
    assert warned == {
        ("workflow.register", "at-register"),
        ("run.start", "at-start"),
        ("workflow.read", "at-call"),
        ("lease.grant", "at-lease"),
        ("lease.settle", "at-settle"),
    }


async def test_a_denied_lease_and_a_denied_result_are_failed_attempts(
    coordinator: LiveCoordinator,
) -> None:
    """With the code DENIED and the article's sentence in the run's log."""
    await register(coordinator)
    for point, expression in (("lease", "task.kind != 'k'"), ("settle", "!result.ok")):
        await put(coordinator, article(point, expression))
        run_id = (await start(coordinator)).run_id
        verdict = await work_off(coordinator)
        assert verdict == (0 if point == "lease" else agents_pb2.VERDICT_DENIED)
        found = await coordinator.calls("viewer").runs.ListRunEvents(
            runs_pb2.ListRunEventsRequest(run_id=run_id)
        )
        [failed] = [event for event in found.events if event.code == "DENIED"]
        sentence = (
            f"article at-{point} (law of precedence, resource constraint) denies: not so at {point}"
        )
        assert failed.message.startswith(sentence)


async def test_validating_shows_what_would_object_and_refuses_nothing(
    coordinator: LiveCoordinator,
) -> None:
    """With all thirteen dimensions; registering shows the same."""
    await put(coordinator, article("register", "'risk' in workflow.covered"))
    content = {"name": "w", "tasks": [{"key": "a", "kind": "k"}]}
    definition = ParseDict(content, workflows_pb2.WorkflowDefinition())
    calls = coordinator.calls("viewer").workflows
    request = workflows_pb2.ValidateWorkflowRequest(definition=definition)
    judged = await calls.ValidateWorkflow(request)
    assert {one.article for one in judged.objections} == {"at-register", "intent-is-stated"}
    assert [one.dimension for one in judged.dimensions] == list(range(1, 14))
    definition.dimensions["risk"] = "None."
    registered = await register(coordinator, dimensions={"risk": "None."})
    covered = [
        one.basis for one in registered.dimensions if one.coverage == verdict_pb2.COVERAGE_COVERED
    ]
    assert covered == ["None."]


async def test_articles_of_one_tenant_never_reach_another(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Not even through an agent that serves both: each log has its own articles and no others."""
    await put(
        coordinator,
        article("call", "rpc.service != 'Runs'", name="alpha-only"),
        article("settle", "!result.ok", name="alpha-settle", effect="warn"),
        article("call", "rpc.service != 'Agents'", name="alpha-agents", effect="warn"),
    )
    assert (await refused(start(coordinator))).facts["article"] == "alpha-only"
    await register(coordinator, tenant="beta")
    await start(coordinator, tenant="beta")
    secret = await coordinator.make_key("agent", tenants=("alpha", "beta"))
    agents = coordinator.calls_with(secret).agents
    found = await agents.LeaseTasks(agents_pb2.LeaseTasksRequest(agent="both", kinds=["k"]))
    await agents.SettleTasks(
        agents_pb2.SettleTasksRequest(
            results=[
                agents_pb2.Result(lease=ref_of(one), success=agents_pb2.Success())
                for one in found.batch.leases
            ]
        )
    )
    logs = logbook.read(coordinator.server.store)
    assert "alpha-" not in orjson.dumps(logs.of("beta")).decode()
    assert "alpha-agents" in orjson.dumps(logs.of("alpha")).decode()
    await put(coordinator, article("call", "rpc.service != 'Agents'", name="alpha-shut"))
    await start(coordinator, tenant="beta")
    found = await agents.LeaseTasks(agents_pb2.LeaseTasksRequest(agent="x", kinds=["k"]))
    assert [run.tenant_id for run in found.batch.runs] == ["beta"]
    logs = logbook.read(coordinator.server.store)
    shut, other = logs.of("alpha")[-1], logs.of("beta")[-1]
    assert (shut["verdict"], shut["refusal"]) == ("deny", "CALL_DENIED")
    assert [one["id"] for one in shut["articles"]] == ["alpha-shut"]
    assert other["verdict"] == "allow"
    assert "refusal" not in other
    assert "articles" not in other


async def test_a_call_that_every_tenant_denies_is_refused(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Then there is nobody left for whom it could go on."""
    for tenant in ("alpha", "beta"):
        await put(coordinator, article("call", "rpc.service != 'Agents'"), tenant=tenant)
    secret = await coordinator.make_key("agent", tenants=("alpha", "beta"))
    agents = coordinator.calls_with(secret).agents
    request = agents_pb2.LeaseTasksRequest(agent="x", kinds=["k"])
    assert (await refused(agents.LeaseTasks(request))).reason == "CALL_DENIED"


async def test_an_agent_for_one_tenant_is_not_judged_by_the_other(
    coordinator: LiveCoordinator,
) -> None:
    """A stream that says whom it serves concerns nobody else."""
    await put(coordinator, article("call", "rpc.service != 'Agents'"))
    secret = await coordinator.make_key("agent", tenants=("alpha", "beta"))
    call = coordinator.calls_with(secret).agents.Work()
    hello = agents_pb2.Hello(
        agent="host", instance="instance-1", kinds=["k"], slots=1, tenant_ids=["beta"]
    )
    await call.write(agents_pb2.WorkRequest(hello=hello))
    assert (await call.read()).HasField("welcome")
    call.cancel()


async def test_a_tenant_cannot_allow_what_the_platform_denies(
    tmp_path: Path, refused: Refused
) -> None:
    """Its articles only add objections, and its admin can always replace them."""
    file = tmp_path / "platform.json"
    file.write_text(text(article("start", "run.priority <= 5", name="platform-priority")))
    url = f"sqlite:///{tmp_path}/tenure.db"
    async with serving(url, tmp_path, constitution=file) as live:
        await register(live)
        await put(live, article("start", "true"), article("call", "false", name="shut"))
        refusal = await refused(start(live))
        assert refusal.facts["article"] == "shut"
        await put(live, article("start", "true"))
        refusal = await refused(start(live, priority=9))
        assert refusal.facts["article"] == "platform-priority"
        await start(live, priority=5)


async def test_a_restart_keeps_what_is_in_force(
    tmp_path: Path, either_url: str, refused: Refused
) -> None:
    """And what runs were started under; on both databases."""
    key = tmp_path / "signing-key.json"
    async with serving(either_url, tmp_path, signing_key=key) as live:
        await register(live)
        run_id = (await start(live)).run_id
        before = await live.calls("viewer").constitution.GetConstitution(
            constitution_pb2.GetConstitutionRequest()
        )
        await put(live, article("start", "run.priority > 1"))
        secrets = dict(live.secrets)
    async with serving_again(either_url, secrets, signing_key=key) as live:
        refusal = await refused(start(live))
        assert refusal.facts["article"] == "at-start"
        after = await live.calls("viewer").constitution.GetConstitution(
            constitution_pb2.GetConstitutionRequest()
        )
        assert (after.tenant.version, after.digest != before.digest) == (1, True)
        entries = logbook.read(live.server.store).of("alpha")
        digests = {entry["kind"]: entry["constitution"] for entry in entries}
        assert digests["constitution.set"] == before.digest
        assert entries[-2]["constitution"] == after.digest
        assert await work_off(live) == agents_pb2.VERDICT_APPLIED
        read = logbook.read(live.server.store)
        items = [
            item
            for entry in read.entries["alpha"]
            for item in entry.items
            if item["run"] == run_id and "constitution" in item
        ]
        assert {item["constitution"] for item in items} == {before.digest}
