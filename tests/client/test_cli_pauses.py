"""`pause` and `resume` of `tenure workflow` and `tenants`: what is asked, and what people see."""

from __future__ import annotations

import pytest
from tests.client.conftest import AT, Script, Tenure

from tenure.v1 import pauses_pb2, tenants_pb2, workflows_pb2

PAUSED = pauses_pb2.Pause(reason="look first", pause_time=AT)


@pytest.mark.parametrize(("group", "noun"), [("workflow", "Workflow"), ("tenants", "Tenant")])
def test_each_is_asked_for_by_name_with_its_reason(
    far_script: Script, tenure: Tenure, group: str, noun: str
) -> None:
    for verb, state in (("pause", "paused"), ("resume", "running")):
        method = f"{verb.capitalize()}{noun}"
        far_script.on(method, getattr(pauses_pb2, f"{method}Response")())
        done = tenure(group, verb, "flow", "--reason", "look first", "--json").json()
        assert done == {noun.lower(): "flow", "state": state}
        [request] = far_script.requests(method)
        assert "flow" in (getattr(request, "name", ""), getattr(request, "tenant_id", ""))
        assert request.reason == "look first"
        assert request.request_id


def test_who_looks_sees_what_is_paused(far_script: Script, tenure: Tenure) -> None:
    flow = workflows_pb2.Workflow(name="flow", version=1, create_time=AT, pause=PAUSED)
    far_script.on("GetWorkflow", workflows_pb2.GetWorkflowResponse(workflow=flow))
    assert ": look first" in tenure("workflow", "show", "flow").out
    team = tenants_pb2.Tenant(tenant_id="team", create_time=AT, pause=PAUSED)
    far_script.on("GetTenant", tenants_pb2.GetTenantResponse(tenant=team))
    assert ": look first" in tenure("tenants", "show", "team").out
    far_script.on("GetTenant", tenants_pb2.GetTenantResponse(tenant=tenants_pb2.Tenant()))
    assert "paused" not in tenure("tenants", "show", "team").out
