"""Every RPC × every kind of caller, built from the descriptors, against a real house.

A caller that the rule does not name is denied, one that it names is served, and a marked id of
another tenant is not there. An RPC that joins the contract joins these tests by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from tests.conftest import LiveCoordinator, serving

from tenure.v1 import (
    access_pb2,
    run_changes_pb2,
    runs_pb2,
    schedules_pb2,
    tenants_pb2,
    workflows_pb2,
)
from tenure_server.core import ids
from tenure_server.core.ledger import records
from tenure_server.rpc import access
from tenure_server.rpc.owned import BY_NAME, Owned, Walker, marked

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
    # Another workflow's run, as that is the part of a task that names something.
    "SubWorkflow.version": 1,
    "LeaseRef.task_key": "a",
    "LeaseRef.term": 1,
    "LeaseRef.token": b"token",
    "Result.stopped": workflows_pb2.WorkflowTask(),
    "GetTaskRequest.task_key": "a",
    "ChangeRunsRequest.verb": 1,
    "ChangeRunsRequest.dry_run": True,
    "CloseRunRequest.reason": "stuck",
    "SkipTaskRequest.task_key": "a",
    "SkipTaskRequest.reason": "not needed",
    "SettleTaskRequest.task_key": "a",
    "SettleTaskRequest.reason": "done by hand",
    "DecideTaskRequest.task_key": "a",
    "DecideTaskRequest.consent": True,
    "SignalRunRequest.name": "go",
    "PublishEventRequest.name": "paid",
    "SetConstitutionRequest.text": '{"articles": []}',
    "TryConstitutionRequest.text": '{"articles": []}',
    "Hello.agent": "host",
    "Hello.instance": "instance",
    "Hello.kinds": ["k"],
    "Hello.slots": 1,
    "LeaseTasksRequest.agent": "host",
    "LeaseTasksRequest.kinds": ["k"],
    "GetConsistencyProofRequest.first_size": 1,
    "UpdateScheduleRequest.update_mask": FieldMask(paths=["notes"]),
    "CronTimes.expression": "0 3 1 1 *",
    "IntervalTimes.every": Duration(seconds=86400 * 366),
    "BackfillScheduleRequest.start_time": Timestamp(seconds=1_700_000_000),
    "BackfillScheduleRequest.end_time": Timestamp(seconds=1_750_000_000),
}

#: Parts of a definition that no definition needs.
SPARED = frozenset(
    f"tenure.v1.{part.name}.{field.name}"
    for part in (
        workflows_pb2.WorkflowDefinition.DESCRIPTOR,
        workflows_pb2.WorkflowTask.DESCRIPTOR,
    )
    for field in part.fields
    if field.message_type is not None and field.name not in ("tasks", "workflow")
)

#: Marks that narrow a list down to little: set only where they are what is tried.
NARROW = frozenset({"tenure.v1.RunFilter.parent_run_id"})
EVERYTHING = "*"

Names = dict[Owned, str]
_numbers = itertools.count(1)


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
    schedule = f"schedule-{next(_numbers)}"
    await calls.schedules.CreateSchedule(
        schedules_pb2.CreateScheduleRequest(
            pause_reason="so that nothing happens by itself",
            name=schedule,
            spec=schedules_pb2.ScheduleSpec(
                times=schedules_pb2.FireTimes(
                    crons=[schedules_pb2.CronTimes(expression="0 3 1 1 *")]
                ),
                start=schedules_pb2.ScheduledStart(workflow="known"),
                overlap=schedules_pb2.OVERLAP_POLICY_ALLOW_ALL,
            ),
        )
    )
    key = await live.calls("operator").tenants.CreateApiKey(
        tenants_pb2.CreateApiKeyRequest(
            name="test", roles=[access_pb2.ROLE_VIEWER], tenant_ids=[tenant_id]
        )
    )
    return {
        Owned.TENANT: tenant_id,
        Owned.RUN: run.run_id,
        Owned.API_KEY: key.api_key.api_key_id,
        Owned.AGENT: ids.new_id(tenant_id, 1, b"random"),
        Owned.WORKFLOW: "known",
        Owned.SCHEDULE: schedule,
    }


#: What is asked of runs that have not ended.
OF_OPEN_RUNS = frozenset(
    f"/tenure.v1.Runs/{name}"
    for name in (
        *("PauseRun", "ResumeRun", "CloseRun", "SkipTask", "SettleTask", "SignalRun"),
        *("DecideTask", "MoveRun"),
    )
)


async def _open_run(live: LiveCoordinator, method: str, request: Any) -> None:
    """Lets a request be about an open run of alpha, or a fresh one that has ended, as it must.

    Nobody who asks has started it.
    """
    reopens = method.endswith("/ReopenRun")
    if method not in OF_OPEN_RUNS and not reopens:
        return
    calls = live.calls_with(await live.make_key("submitter", tenants=("alpha",)))
    asking = workflows_pb2.WorkflowTask(key="a", approval=workflows_pb2.Approval(quorum=50))
    definition = workflows_pb2.WorkflowDefinition(name="asking", tasks=[asking])
    await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    run = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="asking"))
    request.run_id = run.run_id
    if reopens:
        await calls.runs.CancelRun(runs_pb2.CancelRunRequest(run_id=run.run_id))
    if method.endswith("/MoveRun"):
        # To a version that is newer than all there were.
        await calls.runs.PauseRun(run_changes_pb2.PauseRunRequest(run_id=run.run_id))
        definition.description = f"version {next(_numbers)}"
        await calls.workflows.RegisterWorkflow(
            workflows_pb2.RegisterWorkflowRequest(definition=definition)
        )


def _request(method: str, names: Names, *, at: str = "", foreign: Names | None = None) -> Any:
    """A request that keeps every rule; where a path is given, its mark names something foreign."""
    message: Any = GetMessageClass(METHODS[method].input_type)()
    _fill(message, "", names, at, foreign or names)
    if method.endswith("/CreateSchedule") and at != "name":
        message.name = f"new-{next(_numbers)}"
    return message


def _fill(message: Any, prefix: str, names: Names, at: str, foreign: Names) -> None:
    for field in message.DESCRIPTOR.fields:
        path = f"{prefix}{field.name}"
        mark, part = marked(field), field.message_type
        plain = PLAIN.get(field.full_name.removeprefix("tenure.v1."))
        if mark is not None:
            if field.full_name in NARROW and at not in (path, EVERYTHING):
                continue
            value = (foreign if path == at else names)[mark]
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        elif field.full_name in SPARED:
            continue
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
    for path, mark, _ in Walker(request).mentions(_request(method, names, at=EVERYTHING)):
        if mark not in BY_NAME:
            yield path


@pytest.fixture
async def house(either_url: str, tmp_path: Path) -> AsyncIterator[LiveCoordinator]:
    """A coordinator on each of the databases: isolation holds on both."""
    async with serving(either_url, tmp_path) as live:
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
            if method.endswith("/DeleteSchedule"):
                request.name = (await _names(house, "alpha"))[Owned.SCHEDULE]
            if role in rule.roles:
                await _open_run(house, method, request)
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
        elif mark not in BY_NAME:
            assert ids.belongs(value, tenant_id), path


async def test_every_marked_id_of_another_tenant_is_not_there(house: LiveCoordinator) -> None:
    """Wherever it stands in a request, and in the same words whether it exists or not."""
    looked_at = set()
    own, there = await _names(house, "alpha"), await _names(house, "beta")
    missing = {mark: ids.new_id("beta", 5, b"nobody") for mark in Owned}
    missing[Owned.TENANT] = "nowhere"
    for method, rule in RULES.items():
        # An operator names tenants and keys of anybody: that is its work.
        roles = [caller for caller, role in CALLERS.items() if role in rule.roles]
        for path in _marked_paths(method):
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
        if METHODS[method].name.endswith("Fires"):
            names[Owned.SCHEDULE] = (await _names(house, "alpha"))[Owned.SCHEDULE]
        secret = house.secrets[f"alpha/{caller}"]
        answered = await _call(house, method, _request(method, names), secret)
        assert answered.reason == "OK", method
        assert answered.answer is not None
        _assert_own(answered.answer, "alpha")
