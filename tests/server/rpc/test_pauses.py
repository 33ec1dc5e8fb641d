"""Workflows and tenants are paused over the wire, on both databases, and stay so over a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import logbook
from tests.conftest import LiveCoordinator, serving, serving_again
from tests.server.rpc.conftest import Refused
from tests.server.rpc.test_runs import _lease
from tests.server.rpc.test_seeing import registered, started

from tenure.v1 import pauses_pb2, tenants_pb2, workflows_pb2

ONE = [{"key": "a", "kind": "k"}]


async def pause_of_workflow(live: LiveCoordinator, name: str) -> pauses_pb2.Pause | None:
    """Why a workflow is paused, as its readers see it."""
    request = workflows_pb2.GetWorkflowRequest(name=name)
    found = (await live.calls("viewer").workflows.GetWorkflow(request)).workflow
    return found.pause if found.HasField("pause") else None


async def pause_of_tenant(live: LiveCoordinator) -> pauses_pb2.Pause | None:
    """Why the tenant is paused, as its people see it."""
    request = tenants_pb2.GetTenantRequest(tenant_id="alpha")
    found = (await live.calls("viewer").tenants.GetTenant(request)).tenant
    return found.pause if found.HasField("pause") else None


async def pause(live: LiveCoordinator, what: str, reason: str = "look first") -> None:
    """Pauses the workflow `flow`, or the tenant."""
    if what == "workflow":
        request = pauses_pb2.PauseWorkflowRequest(name="flow", reason=reason)
        await live.calls("submitter").workflows.PauseWorkflow(request)
    else:
        of_tenant = pauses_pb2.PauseTenantRequest(tenant_id="alpha", reason=reason)
        await live.calls(what).tenants.PauseTenant(of_tenant)


async def resume(live: LiveCoordinator, what: str) -> None:
    """Lets it go on."""
    if what == "workflow":
        request = pauses_pb2.ResumeWorkflowRequest(name="flow", reason="seen")
        await live.calls("submitter").workflows.ResumeWorkflow(request)
    else:
        of_tenant = pauses_pb2.ResumeTenantRequest(tenant_id="alpha", reason="seen")
        await live.calls(what).tenants.ResumeTenant(of_tenant)


@pytest.mark.parametrize("what", ["workflow", "admin", "operator"])
async def test_what_is_paused_is_not_leased_until_it_is_resumed(
    on_either: LiveCoordinator, what: str
) -> None:
    """Runs start and wait; whoever looks sees why; and each act stands in the tenant's log."""
    live = on_either
    await registered(live, "flow", ONE)
    await pause(live, what)
    await pause(live, what, "again")
    run_id = await started(live, "flow")
    assert await _lease(live) == []
    found = await (pause_of_workflow(live, "flow") if what == "workflow" else pause_of_tenant(live))
    assert found is not None
    assert found.reason == "look first"
    assert bool(found.paused_by) == (what != "operator")
    await resume(live, what)
    [lease] = await _lease(live)
    assert lease.run_id == run_id
    assert await pause_of_workflow(live, "flow") is None
    assert await pause_of_tenant(live) is None
    noun = "workflow" if what == "workflow" else "tenant"
    kinds = [entry["kind"] for entry in logbook.read(live.server.store).of("alpha")]
    assert kinds.count(f"{noun}.pause") == 2
    assert kinds.count(f"{noun}.resume") == 1


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_a_restart_keeps_what_is_paused(
    database: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The workflow and the tenant, each until it is resumed itself."""
    store, key = f"sqlite:///{tmp_path}/tenure.db", None
    if database == "postgresql":
        store, key = request.getfixturevalue("postgres_url"), tmp_path / "signing-key.json"
    async with serving(store, tmp_path) as live:
        secrets = live.secrets
        await registered(live, "flow", ONE)
        run_id = await started(live, "flow")
        await pause(live, "workflow")
        await pause(live, "admin")
    async with serving_again(store, secrets, signing_key=key) as live:
        assert await pause_of_workflow(live, "flow") is not None
        assert await pause_of_tenant(live) is not None
        await resume(live, "admin")
        assert await _lease(live) == []
        await resume(live, "workflow")
        [lease] = await _lease(live)
        assert lease.run_id == run_id


async def test_a_workflow_that_is_not_there_cannot_be_paused(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Nor one of another tenant, nor another tenant."""
    calls = coordinator.calls("admin")
    asked = pauses_pb2.PauseWorkflowRequest(name="missing")
    assert (await refused(calls.workflows.PauseWorkflow(asked))).reason == "NOT_FOUND"
    foreign = pauses_pb2.PauseTenantRequest(tenant_id="beta")
    assert (await refused(calls.tenants.PauseTenant(foreign))).reason == "NOT_FOUND"
    long = pauses_pb2.PauseTenantRequest(tenant_id="alpha", reason="x" * 1001)
    assert list((await refused(calls.tenants.PauseTenant(long))).fields) == ["reason"]
