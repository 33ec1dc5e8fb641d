"""Every RPC × every kind of caller, built from the descriptors, against a real house.

A caller that the rule does not name is denied, one that it names is served, and a marked id of
another tenant is not there. An RPC that joins the contract joins these tests by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from tests.conftest import LiveCoordinator, serving

from tenure.v1 import runs_pb2, tenants_pb2, workflows_pb2
from tenure_server.core import ids, records
from tenure_server.rpc import access
from tenure_server.rpc.owned import Owned, Walker, marked
from tenure_server.store import sqlite

METHODS = {
    access.full_name(method): method
    for file in access.CONTRACT
    for service in file.services_by_name.values()
    for method in service.methods
}
RULES = access.contract_rules()
CALLERS = {
    "viewer": records.Role.VIEWER,
    "submitter": records.Role.SUBMITTER,
    "agent": records.Role.AGENT,
    "admin": records.Role.TENANT_ADMIN,
    "operator": records.Role.OPERATOR,
}
#: What fields without a mark need so that a request keeps its rules.
PLAIN: dict[str, Any] = {
    "CreateTenantRequest.tenant_id": "gamma",
    "UpdateTenantRequest.update_mask": FieldMask(paths=["weight"]),
    "Tenant.weight": 2,
    "CreateApiKeyRequest.name": "made",
    "CreateApiKeyRequest.roles": [1],
    "WorkflowTask.key": "a",
    "WorkflowTask.kind": "k",
    "LeaseRef.task_key": "a",
    "LeaseRef.term": 1,
    "LeaseRef.token": b"token",
    "Result.stopped": workflows_pb2.WorkflowTask(),
    "GetTaskRequest.task_key": "a",
    "SetConstitutionRequest.text": '{"articles": []}',
    "TryConstitutionRequest.text": '{"articles": []}',
    "Hello.agent": "host",
    "Hello.instance": "instance",
    "Hello.kinds": ["k"],
    "Hello.slots": 1,
    "LeaseTasksRequest.agent": "host",
    "LeaseTasksRequest.kinds": ["k"],
    "GetConsistencyProofRequest.first_size": 1,
}

Names = dict[Owned, str]


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a call: its reason ("OK" when it was served), words, and first answer."""

    reason: str
    words: str = ""
    answer: Any = None


async def _call(
    live: LiveCoordinator, method: str, request: Message, secret: str | None
) -> Answered:
    """Makes a call of any shape and takes its first answer."""
    rpc = METHODS[method]
    shape = "_".join("stream" if it else "unary" for it in _streaming(method))
    start = getattr(live.channel, shape)(
        method,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(rpc.output_type).FromString,
    )
    metadata = [("authorization", f"Bearer {secret}")] if secret is not None else []
    client_streams, server_streams = _streaming(method)
    call = start(iter([request]) if client_streams else request, metadata=metadata)
    try:
        if not server_streams:
            return Answered("OK", answer=await call)
        # Some streams go on for as long as their reader stays.
        answer = await call.read()
        call.cancel()
        return Answered("OK", answer=answer)
    except grpc.aio.AioRpcError as error:
        return Answered(_reason(error), error.details() or "")


def _streaming(method: str) -> tuple[bool, bool]:
    rpc = METHODS[method]
    return rpc.client_streaming, rpc.server_streaming


def _reason(error: grpc.aio.AioRpcError) -> str:
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(raw).details[0].Unpack(info)
    return str(info.reason)


async def _names(live: LiveCoordinator, tenant_id: str) -> Names:
    """Something fresh of a tenant for every kind of mark; the run has ended already."""
    calls = live.calls(f"{tenant_id}/submitter")
    definition = workflows_pb2.WorkflowDefinition(
        name="known", tasks=[workflows_pb2.WorkflowTask(key="a", kind="k")]
    )
    await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    run = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="known"))
    await calls.runs.CancelRun(runs_pb2.CancelRunRequest(run_id=run.run_id))
    secret = await live.make_key("viewer", tenants=(tenant_id,))
    caller = await live.calls_with(secret).tenants.GetCaller(tenants_pb2.GetCallerRequest())
    return {
        Owned.TENANT: tenant_id,
        Owned.RUN: run.run_id,
        Owned.API_KEY: caller.api_key.api_key_id,
        Owned.AGENT: ids.new_id(tenant_id, 1, b"random"),
        Owned.WORKFLOW: "known",
    }


def _request(method: str, names: Names, *, at: str = "", foreign: Names | None = None) -> Any:
    """A request that keeps every rule; where a path is given, its mark names something foreign."""
    message = GetMessageClass(METHODS[method].input_type)()
    _fill(message, "", names, at, foreign or names)
    return message


def _fill(message: Any, prefix: str, names: Names, at: str, foreign: Names) -> None:
    for field in message.DESCRIPTOR.fields:
        path = f"{prefix}{field.name}"
        mark, part = marked(field), field.message_type
        plain = PLAIN.get(field.full_name.removeprefix("tenure.v1."))
        if mark is not None:
            value = (foreign if path == at else names)[mark]
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        elif field.full_name == "tenure.v1.Result.stopped":
            message.stopped.SetInParent()
        elif plain is None and part is not None and part.full_name.startswith("tenure."):
            if not part.GetOptions().map_entry:
                child = getattr(message, field.name)
                _fill(child.add() if field.is_repeated else child, f"{path}.", names, at, foreign)
        elif isinstance(plain, Message):
            getattr(message, field.name).CopyFrom(plain)
        elif isinstance(plain, list):
            getattr(message, field.name).extend(plain)
        elif plain is not None:
            setattr(message, field.name, plain)


def _marked_paths(method: str) -> Iterator[str]:
    """The paths of a request that name a tenant, a run, a key or an agent."""
    request = METHODS[method].input_type
    names = dict.fromkeys(Owned, "x")
    for path, mark, _ in Walker(request).mentions(_request(method, names)):
        if mark is not Owned.WORKFLOW:
            yield path


@pytest.fixture(params=["sqlite", "postgresql"])
async def house(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LiveCoordinator]:
    """A coordinator on each of the databases: isolation holds on both."""
    monkeypatch.setattr(sqlite, "WAL_BYTES", 0)
    store = f"sqlite:///{tmp_path}/tenure.db"
    if request.param == "postgresql":
        store = request.getfixturevalue("postgres_url")
    async with serving(store, tmp_path) as live:
        yield live


async def test_strangers_are_refused_everywhere(house: LiveCoordinator) -> None:
    """No RPC of the contract answers a call without a key, or with one that nobody gave out."""
    names = await _names(house, "alpha")
    found = {
        method: [
            (await _call(house, method, _request(method, names), secret)).reason
            for secret in (None, "tnr_" + "x" * 43)
        ]
        for method in METHODS
    }
    expected = ["CREDENTIAL_MISSING", "CREDENTIAL_INVALID"]
    assert found == dict.fromkeys(METHODS, expected)


async def test_each_role_may_do_what_its_rule_says_and_nothing_else(
    house: LiveCoordinator,
) -> None:
    """The whole table of RPCs and roles, served or denied; and answers hold the caller's own."""
    found, expected = {}, {}
    for method, rule in RULES.items():
        names = await _names(house, "alpha")
        for caller, role in CALLERS.items():
            name = caller if caller == "operator" else f"alpha/{caller}"
            request = _request(method, names)
            if method.endswith("/CreateTenant"):
                request.tenant_id = f"gamma-{caller}"
            if method.endswith("/DeleteTenant"):
                # The one that was made before.
                request.tenant_id = "gamma-operator"
            answered = await _call(house, method, request, house.secrets[name])
            found[method, caller] = answered.reason
            expected[method, caller] = "OK" if role in rule.roles else "ROLE_MISSING"
            if answered.answer is not None and caller != "operator":
                _assert_own(answered.answer, "alpha")
    assert found == expected


def _assert_own(answer: Any, tenant_id: str) -> None:
    """Everything that an answer names belongs to the tenant."""
    for path, mark, value in Walker(answer.DESCRIPTOR).mentions(answer):
        if mark is Owned.TENANT:
            assert value == tenant_id, path
        elif mark is not Owned.WORKFLOW:
            assert ids.belongs(value, tenant_id), path


async def test_every_marked_id_of_another_tenant_is_not_there(house: LiveCoordinator) -> None:
    """Wherever it stands in a request, and in the same words whether it exists or not."""
    looked_at = set()
    for method, rule in RULES.items():
        # An operator names tenants and keys of anybody: that is its work.
        roles = [caller for caller, role in CALLERS.items() if role in rule.roles]
        for path in _marked_paths(method):
            own = await _names(house, "alpha")
            there = await _names(house, "beta")
            missing = {mark: ids.new_id("beta", 5, b"nobody") for mark in Owned}
            missing[Owned.TENANT] = "nowhere"
            for caller in roles:
                if caller == "operator":
                    continue
                secret = house.secrets[f"alpha/{caller}"]
                answers = []
                for foreign in (there, missing):
                    request = _request(method, own, at=path, foreign=foreign)
                    answered = await _call(house, method, request, secret)
                    name = next(
                        value
                        for at, _, value in Walker(request.DESCRIPTOR).mentions(request)
                        if at == path and value in foreign.values()
                    )
                    answers.append((answered.reason, answered.words.replace(name, "…")))
                assert answers[0] == answers[1], (method, path, caller)
                assert answers[0][0] == "NOT_FOUND", (method, path, caller)
                looked_at.add(path)
    assert looked_at >= {"run_id", "tenant_id", "hello.tenant_ids", "results.lease.run_id"}


async def test_lists_show_nothing_of_another_tenant(house: LiveCoordinator) -> None:
    """What beta has does not show in any list of alpha, nor in a count."""
    await _names(house, "beta")
    for method, rule in RULES.items():
        if not METHODS[method].name.startswith("List") or "run_id" in [
            field.name for field in METHODS[method].input_type.fields
        ]:
            continue
        caller = next(caller for caller in ("viewer", "admin") if CALLERS[caller] in rule.roles)
        names = {mark: "alpha" if mark is Owned.TENANT else "" for mark in Owned}
        secret = house.secrets[f"alpha/{caller}"]
        answered = await _call(house, method, _request(method, names), secret)
        assert answered.reason == "OK", method
        assert answered.answer is not None
        _assert_own(answered.answer, "alpha")
