"""Two coordinators on one PostgreSQL: one decides for a tenant, and the other says which."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests import logbook
from tests.conftest import Calls, LiveCoordinator, serving, serving_again
from tests.server.rpc.conftest import Refused

from tenure.v1 import agents_pb2, runs_pb2, tenants_pb2, workflows_pb2


@pytest.fixture
async def pair(
    tmp_path: Path, postgres_url: str
) -> AsyncIterator[tuple[LiveCoordinator, LiveCoordinator]]:
    """The holder of every seat, and one that came later; they know the same keys."""
    async with (
        serving(postgres_url, tmp_path) as holder,
        serving_again(
            postgres_url, holder.secrets, signing_key=tmp_path / "signing-key.json"
        ) as other,
    ):
        yield holder, other


async def _started(calls: Calls) -> str:
    definition = workflows_pb2.WorkflowDefinition(
        name="w", tasks=[workflows_pb2.WorkflowTask(key="a", kind="k")]
    )
    await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    run = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="w"))
    run_id: str = run.run_id
    return run_id


async def test_who_has_not_the_seat_says_who_has_it(
    pair: tuple[LiveCoordinator, LiveCoordinator], refused: Refused
) -> None:
    """Whatever decides something is UNAVAILABLE there, with the holder's address."""
    holder, other = pair
    run_id = await _started(holder.calls("submitter"))
    submitter, agent = other.calls("submitter"), other.calls("agent")
    for call in (
        submitter.runs.StartRun(runs_pb2.StartRunRequest(workflow="w")),
        submitter.runs.CancelRun(runs_pb2.CancelRunRequest(run_id=run_id)),
        submitter.runs.ListRuns(runs_pb2.ListRunsRequest()),
        submitter.agents.ListAgents(agents_pb2.ListAgentsRequest()),
        agent.agents.LeaseTasks(agents_pb2.LeaseTasksRequest(agent="host", kinds=["k"])),
    ):
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "SEAT_ELSEWHERE"
        assert refusal.facts == {"holder": holder.address}


async def test_reads_are_sent_to_the_holder_too(
    pair: tuple[LiveCoordinator, LiveCoordinator], refused: Refused
) -> None:
    """Only the holder can write down that somebody read; the other leaves no entry anywhere."""
    holder, other = pair
    run_id = await _started(holder.calls("submitter"))
    viewer = other.calls("viewer")
    reads: list[Callable[[Calls], Awaitable[Any]]] = [
        lambda calls: calls.runs.GetRun(runs_pb2.GetRunRequest(run_id=run_id)),
        lambda calls: calls.runs.ListTasks(runs_pb2.ListTasksRequest(run_id=run_id)),
        lambda calls: calls.runs.ListRunEvents(runs_pb2.ListRunEventsRequest(run_id=run_id)),
        lambda calls: calls.workflows.GetWorkflow(workflows_pb2.GetWorkflowRequest(name="w")),
        lambda calls: anext(aiter(calls.runs.WatchRun(runs_pb2.WatchRunRequest(run_id=run_id)))),
    ]
    before = logbook.sizes(other.server.store)
    for read in reads:
        refusal = await refused(read(viewer))
        assert refusal.code is grpc.StatusCode.UNAVAILABLE
        assert refusal.reason == "SEAT_ELSEWHERE"
        assert refusal.facts == {"holder": holder.address}
    assert logbook.sizes(other.server.store) == before
    for read in reads:
        await read(holder.calls("viewer"))
    logs = logbook.read(other.server.store)
    logs.check()
    assert [entry["kind"] for entry in logs.since(before)["alpha"]] == [
        *["run.read"] * 3,
        "workflow.read",
        "run.read",
    ]


async def test_a_read_that_concerns_no_tenant_stands_where_its_reader_is_decided_for(
    pair: tuple[LiveCoordinator, LiveCoordinator],
) -> None:
    """With the tenant at the holder, and elsewhere with the installation, which has no seat."""
    holder, other = pair
    store = other.server.store
    request = tenants_pb2.GetTenantRequest(tenant_id="alpha")
    answers = []
    for live, log in ((holder, "alpha"), (other, ""), (holder, "alpha"), (other, "")):
        before = logbook.sizes(store)
        answers.append(await live.calls("viewer").tenants.GetTenant(request))
        added = logbook.since(store, before)
        assert {name: [it["kind"] for it in said] for name, said in added.items()} == {
            log: ["tenant.read"]
        }
    assert answers == answers[:1] * 4
    logbook.read(store).check()


async def test_keys_are_made_anywhere(
    pair: tuple[LiveCoordinator, LiveCoordinator], tmp_path: Path
) -> None:
    """A key belongs to no seat, and there is one operator however many coordinators start."""
    holder, other = pair
    secret = await other.make_key("viewer")
    caller = await holder.calls_with(secret).tenants.GetCaller(tenants_pb2.GetCallerRequest())
    assert list(caller.api_key.tenant_ids) == ["alpha"]
    listed = await other.calls("operator").tenants.ListApiKeys(tenants_pb2.ListApiKeysRequest())
    assert len(listed.api_keys) == 1
    assert json.loads((tmp_path / "credentials.json").read_text())["tenant"] == "alpha"
