"""The service Tenants: limits, keys and their secrets, and who may give what to whom."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from tests import logbook
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused

from tenure.v1 import access_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_server.rpc import doorway
from tenure_server.store.acts import Acts

ADMIN, VIEWER = access_pb2.ROLE_TENANT_ADMIN, access_pb2.ROLE_VIEWER
OPERATOR = access_pb2.ROLE_OPERATOR


async def test_a_tenant_gets_defaults_and_can_be_changed(coordinator: LiveCoordinator) -> None:
    """Only the fields in the mask change."""
    tenants = coordinator.calls("operator").tenants
    made = await tenants.CreateTenant(tenants_pb2.CreateTenantRequest(tenant_id="gamma"))
    assert (made.tenant.display_name, made.tenant.max_leases, made.tenant.weight) == (
        "gamma",
        1000,
        1,
    )
    request = tenants_pb2.UpdateTenantRequest(
        tenant=tenants_pb2.Tenant(tenant_id="gamma", display_name="G", max_leases=5, weight=9),
        update_mask=FieldMask(paths=["max_leases", "display_name"]),
    )
    await tenants.UpdateTenant(request)
    found = await tenants.GetTenant(tenants_pb2.GetTenantRequest(tenant_id="gamma"))
    assert (found.tenant.display_name, found.tenant.max_leases, found.tenant.weight) == ("G", 5, 1)
    assert found.tenant.create_time == made.tenant.create_time


async def test_a_new_tenant_is_served_at_once(coordinator: LiveCoordinator) -> None:
    """Its first workflow needs no restart."""
    tenants = coordinator.calls("operator").tenants
    await tenants.CreateTenant(tenants_pb2.CreateTenantRequest(tenant_id="gamma"))
    secret = await coordinator.make_key("submitter", tenants=("gamma",))
    definition = workflows_pb2.WorkflowDefinition(
        name="w", tasks=[workflows_pb2.WorkflowTask(key="a", kind="k")]
    )
    calls = coordinator.calls_with(secret)
    registered = await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    assert registered.created
    started = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="w"))
    assert started.workflow_version == 1


@pytest.mark.parametrize(
    ("paths", "tenant", "field"),
    [
        ([], {}, "update_mask"),
        (["tenant_id"], {}, "update_mask"),
        (["create_time"], {}, "update_mask"),
        (["weight"], {"weight": 0}, "tenant.weight"),
        (["weight"], {"weight": 1001}, "tenant.weight"),
        (["max_leases"], {"max_leases": -1}, "tenant.max_leases"),
        (["display_name"], {"display_name": "x" * 201}, "tenant.display_name"),
        (["weight"], {"tenant_id": "", "weight": 1}, "tenant.tenant_id"),
    ],
)
async def test_a_change_that_cannot_be_is_refused(
    coordinator: LiveCoordinator,
    refused: Refused,
    paths: list[str],
    tenant: dict[str, object],
    field: str,
) -> None:
    """By its field, and nothing changes."""
    tenants = coordinator.calls("operator").tenants
    request = tenants_pb2.UpdateTenantRequest(
        tenant=tenants_pb2.Tenant(**{"tenant_id": "alpha", **tenant}),  # type: ignore[arg-type]
        update_mask=FieldMask(paths=paths),
    )
    before = await tenants.GetTenant(tenants_pb2.GetTenantRequest(tenant_id="alpha"))
    refusal = await refused(tenants.UpdateTenant(request))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.fields) == [field]
    after = await tenants.GetTenant(tenants_pb2.GetTenantRequest(tenant_id="alpha"))
    assert before == after


async def test_what_is_not_there_cannot_be_changed_or_made_twice(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """NOT_FOUND and ALREADY_EXISTS."""
    tenants = coordinator.calls("operator").tenants
    update = tenants_pb2.UpdateTenantRequest(
        tenant=tenants_pb2.Tenant(tenant_id="nobody", weight=2),
        update_mask=FieldMask(paths=["weight"]),
    )
    assert (await refused(tenants.UpdateTenant(update))).reason == "NOT_FOUND"
    create = tenants_pb2.CreateTenantRequest(tenant_id="alpha")
    assert (await refused(tenants.CreateTenant(create))).reason == "ALREADY_EXISTS"
    get = tenants_pb2.GetTenantRequest(tenant_id="nobody")
    assert (await refused(tenants.GetTenant(get))).reason == "NOT_FOUND"


async def test_an_operator_sees_all_tenants_and_others_their_own(
    coordinator: LiveCoordinator,
) -> None:
    """Page by page, in the order of their ids."""
    operator = coordinator.calls("operator").tenants
    for name in ("a1", "z9"):
        await operator.CreateTenant(tenants_pb2.CreateTenantRequest(tenant_id=name))
    seen, token = [], ""
    while True:
        page = await operator.ListTenants(
            tenants_pb2.ListTenantsRequest(page_size=3, page_token=token)
        )
        seen.append([tenant.tenant_id for tenant in page.tenants])
        token = page.next_page_token
        if not token:
            break
    assert seen == [["a1", "alpha", "beta"], ["z9"]]
    both = coordinator.calls_with(await coordinator.make_key("viewer", tenants=("z9", "beta")))
    page = await both.tenants.ListTenants(tenants_pb2.ListTenantsRequest())
    assert [tenant.tenant_id for tenant in page.tenants] == ["beta", "z9"]


async def test_a_page_token_of_somebody_else_is_refused(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Also when both may see the same list."""
    operator = coordinator.calls("operator").tenants
    page = await operator.ListTenants(tenants_pb2.ListTenantsRequest(page_size=1))
    request = tenants_pb2.ListTenantsRequest(page_size=1, page_token=page.next_page_token)
    refusal = await refused(coordinator.calls("viewer").tenants.ListTenants(request))
    assert refusal.reason == "PAGE_TOKEN_INVALID"


async def test_a_secret_is_shown_once(coordinator: LiveCoordinator) -> None:
    """A repeat of the very request gets the key without it; a list never has it."""
    tenants = coordinator.calls("admin").tenants
    request = tenants_pb2.CreateApiKeyRequest(
        name="ci", roles=[VIEWER], tenant_ids=["alpha"], request_id="once"
    )
    first = await tenants.CreateApiKey(request)
    again = await tenants.CreateApiKey(request)
    assert len(first.secret) == 47
    assert first.secret.startswith("tnr_")
    assert again.secret == ""
    assert again.api_key == first.api_key
    who = await coordinator.calls_with(first.secret).tenants.GetCaller(
        tenants_pb2.GetCallerRequest()
    )
    assert who.api_key == first.api_key
    listed = await tenants.ListApiKeys(tenants_pb2.ListApiKeysRequest(tenant_id="alpha"))
    assert first.api_key in listed.api_keys


async def test_a_request_id_with_other_content_is_refused(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """And what it asked for is not made."""
    tenants = coordinator.calls("admin").tenants
    request = tenants_pb2.CreateApiKeyRequest(
        name="ci", roles=[VIEWER], tenant_ids=["alpha"], request_id="once"
    )
    await tenants.CreateApiKey(request)
    before = await tenants.ListApiKeys(tenants_pb2.ListApiKeysRequest(tenant_id="alpha"))
    request.name = "other"
    assert (await refused(tenants.CreateApiKey(request))).reason == "REQUEST_ID_REUSED"
    after = await tenants.ListApiKeys(tenants_pb2.ListApiKeysRequest(tenant_id="alpha"))
    assert before == after


@pytest.mark.parametrize(
    ("caller", "roles", "tenant_ids", "reason", "field"),
    [
        ("admin", [OPERATOR], [], "ROLE_MISSING", ""),
        ("admin", [VIEWER], ["beta"], "NOT_FOUND", ""),
        ("admin", [VIEWER], ["alpha", "nowhere"], "NOT_FOUND", ""),
        ("admin", [VIEWER], [], "FIELD_INVALID", "tenant_ids"),
        ("operator", [VIEWER], [], "FIELD_INVALID", "tenant_ids"),
        ("operator", [VIEWER], ["nowhere"], "NOT_FOUND", ""),
        ("operator", [OPERATOR], ["alpha"], "FIELD_INVALID", "tenant_ids"),
        ("operator", [OPERATOR, VIEWER], [], "FIELD_INVALID", "roles"),
    ],
)
async def test_nobody_gives_more_than_may_be_given(
    coordinator: LiveCoordinator,
    refused: Refused,
    caller: str,
    roles: list[access_pb2.Role.ValueType],
    tenant_ids: list[str],
    reason: str,
    field: str,
) -> None:
    """An admin gives what lies in its tenants; the operator role stands alone."""
    request = tenants_pb2.CreateApiKeyRequest(name="x", roles=roles, tenant_ids=tenant_ids)
    refusal = await refused(coordinator.calls(caller).tenants.CreateApiKey(request))
    assert refusal.reason == reason
    assert list(refusal.fields) == ([field] if field else [])


async def test_a_key_expires(coordinator: LiveCoordinator, refused: Refused) -> None:
    """One that would be born expired is refused; one that lies ahead shows its time."""
    tenants = coordinator.calls("admin").tenants
    past = tenants_pb2.CreateApiKeyRequest(
        name="x", roles=[VIEWER], tenant_ids=["alpha"], expire_time=Timestamp(seconds=1)
    )
    assert list((await refused(tenants.CreateApiKey(past))).fields) == ["expire_time"]
    past.expire_time.seconds = 4_000_000_000
    made = await tenants.CreateApiKey(past)
    assert made.api_key.expire_time.seconds == 4_000_000_000


async def test_a_revoked_key_is_refused_at_once_and_its_streams_end(
    coordinator: LiveCoordinator, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that waits for a run hears of it without asking."""
    monkeypatch.setattr(doorway, "STREAM_CHECK_SECONDS", 3600)
    submitter = coordinator.calls("submitter")
    definition = workflows_pb2.WorkflowDefinition(
        name="w", tasks=[workflows_pb2.WorkflowTask(key="a", kind="k")]
    )
    await submitter.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    run = await submitter.runs.StartRun(runs_pb2.StartRunRequest(workflow="w"))
    calls = coordinator.calls_with(await coordinator.make_key("viewer"))
    who = await calls.tenants.GetCaller(tenants_pb2.GetCallerRequest())
    stream = calls.runs.WatchRun(runs_pb2.WatchRunRequest(run_id=run.run_id))
    await stream.read()
    admin = coordinator.calls("admin").tenants
    request = tenants_pb2.RevokeApiKeyRequest(api_key_id=who.api_key.api_key_id)
    first = await admin.RevokeApiKey(request)
    async with asyncio.timeout(60):
        assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
    refusal = await refused(calls.tenants.GetCaller(tenants_pb2.GetCallerRequest()))
    assert refusal.reason == "CREDENTIAL_INVALID"
    assert first.api_key.HasField("revoke_time")
    assert (await admin.RevokeApiKey(request)) == first


async def test_an_admin_revokes_only_what_is_wholly_its_own(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """A key that serves beta as well is not there for alpha's admin, though it shows in lists."""
    secret = await coordinator.make_key("viewer", tenants=("alpha", "beta"))
    calls = coordinator.calls_with(secret)
    key = (await calls.tenants.GetCaller(tenants_pb2.GetCallerRequest())).api_key
    admin = coordinator.calls("admin").tenants
    listed = await admin.ListApiKeys(tenants_pb2.ListApiKeysRequest(tenant_id="alpha"))
    shown = next(it for it in listed.api_keys if it.api_key_id == key.api_key_id)
    assert list(shown.tenant_ids) == ["alpha"]
    request = tenants_pb2.RevokeApiKeyRequest(api_key_id=key.api_key_id)
    assert (await refused(admin.RevokeApiKey(request))).reason == "NOT_FOUND"
    beta = coordinator.calls("beta/admin").tenants
    assert (await refused(beta.RevokeApiKey(request))).reason == "NOT_FOUND"
    await coordinator.calls("operator").tenants.RevokeApiKey(request)


async def test_keys_that_do_not_exist_are_not_there(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Also for an operator, in the same words as for an admin."""
    request = tenants_pb2.RevokeApiKeyRequest(api_key_id=str(uuid.uuid4()))
    words = set()
    for caller in ("operator", "admin"):
        refusal = await refused(coordinator.calls(caller).tenants.RevokeApiKey(request))
        words.add((refusal.reason, refusal.message))
    assert len(words) == 1


async def test_keys_are_listed_page_by_page(coordinator: LiveCoordinator, refused: Refused) -> None:
    """The operators' keys are for operators only."""
    admin, operator = coordinator.calls("admin").tenants, coordinator.calls("operator").tenants
    everything = await admin.ListApiKeys(tenants_pb2.ListApiKeysRequest(tenant_id="alpha"))
    seen, token = [], ""
    while True:
        request = tenants_pb2.ListApiKeysRequest(tenant_id="alpha", page_size=2, page_token=token)
        page = await admin.ListApiKeys(request)
        assert len(page.api_keys) <= 2
        seen += page.api_keys
        token = page.next_page_token
        if not token:
            break
    assert seen == list(everything.api_keys)
    assert len(seen) >= 4
    mine = await operator.ListApiKeys(tenants_pb2.ListApiKeysRequest())
    assert [list(key.roles) for key in mine.api_keys] == [[OPERATOR]]
    refusal = await refused(admin.ListApiKeys(tenants_pb2.ListApiKeysRequest()))
    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_key_that_was_revoked_elsewhere_ends_its_silent_streams(
    coordinator: LiveCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This coordinator hears of it from the store alone."""
    monkeypatch.setattr(doorway, "STREAM_CHECK_SECONDS", 0.01)
    engine = coordinator.server.engine
    monkeypatch.setattr(engine._keys, "_key_us", 1)
    secret = await coordinator.make_key("agent")
    calls = coordinator.calls_with(secret)
    call = calls.agents.Work()
    await call.initial_metadata()
    me = await calls.tenants.GetCaller(tenants_pb2.GetCallerRequest())

    def revoke(acts: Acts) -> bytes:
        acts.revoke_api_key(me.api_key.api_key_id, engine.now_us())
        return b""

    await engine.mutate(tenants=(), remember_under="", request=None, work=revoke)
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_no_tenant_is_called_as_the_installations_log(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """A decision's id says in whose log it is, and must not say two things."""
    request = tenants_pb2.CreateTenantRequest(tenant_id="installation")
    refusal = await refused(coordinator.calls("operator").tenants.CreateTenant(request))
    assert refusal.reason == "FIELD_INVALID"


async def test_evidence_says_which_tenant_and_which_key(coordinator: LiveCoordinator) -> None:
    """All but the secret, so that a key that nobody made can be told from those that were."""
    tenants = coordinator.calls("operator").tenants
    await tenants.CreateTenant(tenants_pb2.CreateTenantRequest(tenant_id="gamma", max_leases=7))
    made = await tenants.CreateApiKey(
        tenants_pb2.CreateApiKeyRequest(name="k", roles=[VIEWER, ADMIN], tenant_ids=["gamma"])
    )
    api_key_id = made.api_key.api_key_id
    await tenants.RevokeApiKey(tenants_pb2.RevokeApiKeyRequest(api_key_id=api_key_id))
    entries = logbook.read(coordinator.server.store).of("")[-3:]
    assert [entry["subject"] for entry in entries] == [
        {"tenant": "gamma", "max_leases": "7", "weight": "1"},
        {"api_key": api_key_id, "roles": "tenant_admin viewer", "tenants": "gamma"},
        {"api_key": api_key_id},
    ]
    assert made.secret not in str(entries)
