"""Programs generated from the first contract, of commit 100923d, and the coordinator of today."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from tests.compatibility.contract import Contract
from tests.compatibility.programs import Program, on_line, ref, success
from tests.conftest import LiveCoordinator

from tenure.v1 import access_pb2

FIRST = Contract("first")
#: The identity that the first coordinator gave to the definition below.
DIGEST = "sha256:8667be082b165100d1cee485cc0e1b6fbc64392ce7aa7caea7530101087de788"
#: As a program of then declared it: nothing in it is newer.
DIAMOND = {
    "name": "diamond",
    "description": "as it was in the first year",
    "labels": {"team": "old"},
    "max_leases": 3,
    "tasks": [
        {"key": "a", "kind": "count", "input": {"data": b'{"from":9007199254740993}'}},
        {
            "key": "b",
            "kind": "count",
            "depends_on": ["a"],
            "retry": {"max_attempts": 3, "initial_delay": {"nanos": 1_000_000}, "jitter": 0},
            "attempt_timeout": {"seconds": 60},
        },
        {"key": "c", "kind": "count", "depends_on": ["a"], "priority": 5},
        {"key": "d", "kind": "count", "depends_on": ["b", "c"]},
    ],
}


def _fields(message: Descriptor) -> Iterator[FieldDescriptor]:
    yield from message.fields
    for inner in message.nested_types:
        yield from _fields(inner)


def _shape(field: FieldDescriptor) -> tuple[object, ...]:
    """What of a field may never change: on the wire, in JSON, and in generated code."""
    kind = field.message_type or field.enum_type
    return (
        *(field.full_name, field.json_name, field.number, field.type, field.is_repeated),
        *(field.has_presence, kind and kind.full_name),
        field.containing_oneof and field.containing_oneof.name,
    )


def _values(enum: EnumDescriptor) -> set[tuple[str, int]]:
    return {(value.name, value.number) for value in enum.values}


def _signature(method: MethodDescriptor) -> tuple[object, ...]:
    return (
        *(method.full_name, method.input_type.full_name, method.output_type.full_name),
        *(method.client_streaming, method.server_streaming),
    )


def test_nothing_of_the_first_contract_was_taken_back() -> None:
    """Each field, value and RPC is what it was, and whoever might call it still may."""
    today, looked = descriptor_pool.Default(), 0
    for file in FIRST.files:
        for message in file.message_types_by_name.values():
            for field in _fields(message):
                assert _shape(field) == _shape(today.FindFieldByName(field.full_name))
                looked += 1
        for enum in file.enum_types_by_name.values():
            assert _values(enum) <= _values(today.FindEnumTypeByName(enum.full_name))
        for service in file.services_by_name.values():
            for method in service.methods:
                now = today.FindMethodByName(method.full_name)
                assert _signature(method) == _signature(now)
                roles = method.GetOptions().Extensions[access_pb2.access].roles
                assert set(roles) <= set(now.GetOptions().Extensions[access_pb2.access].roles)
    assert looked > 200


async def _register(program: Program, definition: dict[str, Any]) -> Any:
    request = FIRST.RegisterWorkflowRequest(definition=definition, request_id="register")
    return (await program.Workflows.RegisterWorkflow(request)).workflow


async def _watched(program: Program, run_id: str) -> list[Any]:
    request = FIRST.WatchRunRequest(run_id=run_id)
    return [event async for page in program.Runs.WatchRun(request) for event in page.events]


async def test_programs_of_the_first_contract_do_all_that_they_could(
    coordinator: LiveCoordinator,
) -> None:
    """Every RPC of then, called by a generated client, answers what it answered then."""
    called: set[str] = set()
    made = {
        caller: Program(FIRST, coordinator, caller, called)
        for caller in ("operator", "admin", "submitter", "agent")
    }
    await _tenants_and_keys(made["operator"], made["admin"])
    await _a_run(made["submitter"], made["agent"])
    await _by_hand(made["admin"], made["agent"])
    assert called == FIRST.rpcs


async def _a_run(client: Program, agent: Program) -> None:
    """From the definition to the last event."""
    checked = await client.Workflows.ValidateWorkflow(
        FIRST.ValidateWorkflowRequest(definition=DIAMOND)
    )
    workflow = await _register(client, DIAMOND)
    assert (workflow.digest, workflow.version, checked.depth) == (checked.digest, 1, 3)
    assert workflow.digest == DIGEST
    start = FIRST.StartRunRequest(
        workflow="diamond", input={"data": b"7"}, labels={"for": "ada"}, request_id="once"
    )
    run_id = (await client.Runs.StartRun(start)).run_id
    assert (await client.Runs.StartRun(start)).run_id == run_id
    watching = asyncio.create_task(_watched(client, run_id))
    await _work(agent)
    events = await watching
    assert [event.sequence for event in events] == [*range(1, len(events) + 1)]
    assert events[-1].kind == FIRST.RUN_EVENT_KIND_RUN_SUCCEEDED
    assert FIRST.RUN_EVENT_KIND_TASK_CHECKPOINTED in {event.kind for event in events}
    page = await client.Runs.ListRunEvents(FIRST.ListRunEventsRequest(run_id=run_id))
    assert list(page.events) == events
    run = (await client.Runs.GetRun(FIRST.GetRunRequest(run_id=run_id))).run
    assert (run.state, run.tasks.succeeded) == (FIRST.RUN_STATE_SUCCEEDED, 4)
    assert (run.input.data, dict(run.labels)) == (b"7", {"for": "ada"})
    asked = FIRST.GetTaskRequest(run_id=run_id, task_key="d")
    assert (await client.Runs.GetTask(asked)).task.output.data == b"4"
    tasks = (await client.Runs.ListTasks(FIRST.ListTasksRequest(run_id=run_id))).tasks
    assert [task.key for task in tasks] == ["a", "b", "c", "d"]
    assert {task.state for task in tasks} == {FIRST.TASK_STATE_SUCCEEDED}


async def _work(agent: Program) -> None:
    """On the stream, with a retry, a checkpoint and a result that is said twice."""
    async with on_line(FIRST, agent, ["count"]) as line:
        assert list(line.welcome.tenant_ids) == ["alpha"]
        await line.say(credits=4)
        (first,) = await line.hear("leases")
        assert (first.task_key, first.input.data) == ("a", b'{"from":9007199254740993}')
        await line.say(accepts=[ref(first)], results=[success(first, b"1")])
        middle = {lease.task_key: lease for lease in await line.hear("leases", 2)}
        assert middle["b"].upstream["a"].data == b"1"
        kept = {"lease": ref(middle["b"]), "progress": 0.5, "checkpoint": {"data": b'"half"'}}
        await line.say(renewals=[kept])
        (standing,) = await line.hear("standings")
        assert standing.standing == FIRST.STANDING_HELD
        failed = {"lease": ref(middle["b"]), "failure": {"code": "Unlucky", "message": "again"}}
        await line.say(results=[failed, success(middle["c"], b"3")])
        (again,) = await line.hear("leases")
        assert (again.attempt, again.checkpoint.data) == (2, b'"half"')
        await line.say(results=[success(again, b"2")], credits=1)
        (last,) = await line.hear("leases")
        await line.say(results=[success(last, b"4"), success(last, b"4")])
        verdicts = [outcome.verdict for outcome in await line.hear("outcomes", 6)]
        assert verdicts == [FIRST.VERDICT_APPLIED] * 5 + [FIRST.VERDICT_ALREADY_APPLIED]
        await line.say(draining=True)
        assert await line.end() is grpc.StatusCode.OK


async def _by_hand(admin: Program, agent: Program) -> None:
    """Leases without a stream, a cancel, lists and pages."""
    batch = FIRST.BatchStartRunsRequest(requests=[{"workflow": "diamond"}] * 3)
    runs = [one.run_id for one in (await admin.Runs.BatchStartRuns(batch)).responses]
    asked = FIRST.LeaseTasksRequest(agent="by-hand", kinds=["count"], wait={"seconds": 20})
    (lease,) = (await agent.Agents.LeaseTasks(asked)).batch.leases
    runs.remove(lease.run_id)
    renew = FIRST.RenewLeasesRequest(renewals=[{"lease": ref(lease)}])
    assert _standings(await agent.Agents.RenewLeases(renew)) == [FIRST.STANDING_HELD]
    cancel = FIRST.CancelRunRequest(run_id=lease.run_id, reason="not now", request_id="cancel")
    assert (await admin.Runs.CancelRun(cancel)).state == FIRST.RUN_STATE_CANCELLING
    assert _standings(await agent.Agents.RenewLeases(renew)) == [FIRST.STANDING_CANCELLING]
    stopped = FIRST.SettleTasksRequest(results=[{"lease": ref(lease), "stopped": {}}])
    assert (await agent.Agents.SettleTasks(stopped)).outcomes[0].verdict == FIRST.VERDICT_APPLIED
    found: list[str] = []
    page = FIRST.ListRunsRequest(workflow="diamond", states=[FIRST.RUN_STATE_RUNNING], page_size=1)
    while not found or page.page_token:
        answer = await admin.Runs.ListRuns(page)
        found += [run.run_id for run in answer.runs]
        page.page_token = answer.next_page_token
    assert found == sorted(runs, reverse=True)
    agents = (await admin.Agents.ListAgents(FIRST.ListAgentsRequest())).agents
    assert [one.name for one in agents] == ["old-host"]
    (listed,) = (await admin.Workflows.ListWorkflows(FIRST.ListWorkflowsRequest())).workflows
    kept = await admin.Workflows.GetWorkflow(FIRST.GetWorkflowRequest(name="diamond"))
    assert listed.digest == kept.workflow.digest == DIGEST
    assert kept.workflow.definition.tasks[1].retry.max_attempts == 3


def _standings(answer: Any) -> list[int]:
    return [one.standing for one in answer.standings]


async def _tenants_and_keys(operator: Program, admin: Program) -> None:
    new = FIRST.CreateTenantRequest(tenant_id="gamma", max_leases=5, request_id="gamma")
    assert (await operator.Tenants.CreateTenant(new)).tenant.weight == 1
    more = FIRST.UpdateTenantRequest(
        tenant={"tenant_id": "gamma", "max_leases": 6}, update_mask={"paths": ["max_leases"]}
    )
    assert (await operator.Tenants.UpdateTenant(more)).tenant.max_leases == 6
    tenant = (await operator.Tenants.GetTenant(FIRST.GetTenantRequest(tenant_id="gamma"))).tenant
    assert (tenant.max_leases, tenant.display_name) == (6, "gamma")
    tenants = (await operator.Tenants.ListTenants(FIRST.ListTenantsRequest())).tenants
    assert [one.tenant_id for one in tenants] == ["alpha", "beta", "gamma"]
    caller = await admin.Tenants.GetCaller(FIRST.GetCallerRequest())
    assert list(caller.api_key.tenant_ids) == ["alpha"]
    key = FIRST.CreateApiKeyRequest(
        name="old", roles=[FIRST.ROLE_VIEWER], tenant_ids=["alpha"], request_id="key"
    )
    made = (await admin.Tenants.CreateApiKey(key)).api_key
    revoke = FIRST.RevokeApiKeyRequest(api_key_id=made.api_key_id)
    assert (await admin.Tenants.RevokeApiKey(revoke)).api_key.HasField("revoke_time")
    listed = (await admin.Tenants.ListApiKeys(FIRST.ListApiKeysRequest(tenant_id="alpha"))).api_keys
    assert made.api_key_id in {one.api_key_id for one in listed}
