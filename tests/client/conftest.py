"""A coordinator that is only its answers: real gRPC on a free port, fake servicers behind it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, duration_pb2, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from tenure.v1 import (
    access_pb2,
    agents_pb2_grpc,
    constitution_pb2_grpc,
    evidence_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
    workflows_pb2_grpc,
)
from tenure_client.cli import app

KEY = "tnr_" + "k" * 43
RUN_ID = "0199aaaa-1111-8222-8333-444455556666"
OTHER_RUN_ID = "0199bbbb-1111-8222-8333-777788889999"
AT = timestamp_pb2.Timestamp(seconds=1_790_000_000, nanos=250_000_000)
Context = Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal to give instead of an answer."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None
    quota: tuple[str, str] | None = None
    #: Article and sentence of each objection.
    objections: tuple[tuple[str, str], ...] = ()


def details_of(refusal: Refusal) -> bytes:
    """The serialized google.rpc.Status of a refusal."""
    parts: list[Message] = []
    if refusal.reason:
        parts.append(
            error_details_pb2.ErrorInfo(
                reason=refusal.reason, domain="tenure", metadata=refusal.metadata
            )
        )
    if refusal.fields:
        violation = error_details_pb2.BadRequest.FieldViolation
        parts.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    violation(field=name, description=text) for name, text in refusal.fields
                ]
            )
        )
    if refusal.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(round(refusal.retry_after * 1e6))
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if refusal.quota:
        violation = error_details_pb2.QuotaFailure.Violation
        subject, description = refusal.quota
        parts.append(
            error_details_pb2.QuotaFailure(
                violations=[violation(subject=subject, description=description)]
            )
        )
    if refusal.objections:
        denial = error_details_pb2.PreconditionFailure()
        for article, sentence in refusal.objections:
            denial.violations.add(type="ARTICLE", subject=article, description=sentence)
        parts.append(denial)
    status = status_pb2.Status(code=refusal.code.value[0], message=refusal.message)
    for part in parts:
        packed = any_pb2.Any()
        packed.Pack(part)
        status.details.append(packed)
    data: bytes = status.SerializeToString()
    return data


@dataclass(slots=True)
class Script:
    """What the fake answers, by RPC, and what it heard."""

    answers: dict[str, list[Any]] = field(default_factory=dict)
    heard: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)
    address: str = ""

    def on(self, rpc: str, *answers: Any) -> None:
        """Sets the answers to an RPC: in turn, the last one again and again.

        A Refusal refuses; a callable is given the request; a list holds a stream's messages, and
        may have Refusals to end it and Events to wait for in between.
        """
        self.answers[rpc] = list(answers)

    def requests(self, rpc: str) -> list[Any]:
        """The requests of an RPC so far."""
        return [request for name, request, _ in self.heard if name == rpc]

    def metadata(self, rpc: str) -> list[dict[str, str]]:
        """The metadata of an RPC's calls so far."""
        return [metadata for name, _, metadata in self.heard if name == rpc]

    def take(self, rpc: str, request: Any, context: Context) -> Any:
        self.heard.append((rpc, request, dict(context.invocation_metadata())))
        unknown = Refusal(grpc.StatusCode.UNIMPLEMENTED, f"{rpc} is not in the script")
        answers = self.answers.get(rpc, [unknown])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(request) if callable(answer) else answer

    async def answer(self, rpc: str, request: Any, context: Context) -> Any:
        answer = self.take(rpc, request, context)
        if isinstance(answer, Refusal):
            await refuse(answer, context)
        return answer

    async def stream(self, rpc: str, request: Any, context: Context) -> AsyncIterator[Any]:
        for message in self.take(rpc, request, context):
            if isinstance(message, Refusal):
                await refuse(message, context)
            if isinstance(message, asyncio.Event):
                await message.wait()
            else:
                yield message


async def refuse(refusal: Refusal, context: Context) -> None:
    trailing = (("grpc-status-details-bin", details_of(refusal)),)
    await context.abort(refusal.code, refusal.message, trailing)


class _Tenants(tenants_pb2_grpc.TenantsServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def PauseTenant(self, request: Any, context: Context) -> Any:
        return await self._script.answer("PauseTenant", request, context)

    async def ResumeTenant(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ResumeTenant", request, context)

    async def DeleteTenant(self, request: Any, context: Context) -> Any:
        return await self._script.answer("DeleteTenant", request, context)

    async def CreateTenant(self, request: Any, context: Context) -> Any:
        return await self._script.answer("CreateTenant", request, context)

    async def GetTenant(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetTenant", request, context)

    async def ListTenants(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ListTenants", request, context)

    async def UpdateTenant(self, request: Any, context: Context) -> Any:
        return await self._script.answer("UpdateTenant", request, context)

    async def CreateApiKey(self, request: Any, context: Context) -> Any:
        return await self._script.answer("CreateApiKey", request, context)

    async def ListApiKeys(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ListApiKeys", request, context)

    async def RevokeApiKey(self, request: Any, context: Context) -> Any:
        return await self._script.answer("RevokeApiKey", request, context)

    async def GetCaller(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetCaller", request, context)


class _Workflows(workflows_pb2_grpc.WorkflowsServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def PauseWorkflow(self, request: Any, context: Context) -> Any:
        return await self._script.answer("PauseWorkflow", request, context)

    async def ResumeWorkflow(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ResumeWorkflow", request, context)

    async def RegisterWorkflow(self, request: Any, context: Context) -> Any:
        return await self._script.answer("RegisterWorkflow", request, context)

    async def ValidateWorkflow(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ValidateWorkflow", request, context)

    async def GetWorkflow(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetWorkflow", request, context)

    async def ListWorkflows(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ListWorkflows", request, context)


def _runs(script: Script) -> runs_pb2_grpc.RunsServicer:
    """The service Runs, whatever it can be asked: each method as the script says."""
    members: dict[str, Any] = {}
    for method in runs_pb2.DESCRIPTOR.services_by_name["Runs"].methods:
        members[method.name] = (
            _streaming(script, method.name)
            if method.server_streaming
            else _answering(script, method.name)
        )
    made: runs_pb2_grpc.RunsServicer = type("Runs", (runs_pb2_grpc.RunsServicer,), members)()
    return made


def _answering(script: Script, name: str) -> Any:
    async def answer(self: object, request: Any, context: Context) -> Any:
        return await script.answer(name, request, context)

    return answer


def _streaming(script: Script, name: str) -> Any:
    async def stream(self: object, request: Any, context: Context) -> AsyncIterator[Any]:
        async for message in script.stream(name, request, context):
            yield message

    return stream


class _Evidence(evidence_pb2_grpc.EvidenceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def ListEntries(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ListEntries", request, context)

    async def GetCheckpoint(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetCheckpoint", request, context)

    async def ListCheckpoints(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ListCheckpoints", request, context)

    async def GetInclusionProof(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetInclusionProof", request, context)

    async def GetConsistencyProof(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetConsistencyProof", request, context)

    async def GetSigningKeys(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetSigningKeys", request, context)

    async def ExportRun(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for message in self._script.stream("ExportRun", request, context):
            yield message

    async def WatchEntries(self, request: Any, context: Context) -> AsyncIterator[Any]:
        async for message in self._script.stream("WatchEntries", request, context):
            yield message


class _Agents(agents_pb2_grpc.AgentsServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def ListAgents(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ListAgents", request, context)

    def Work(self, request_iterator: Any, context: Context) -> Any:
        raise NotImplementedError

    async def LeaseTasks(self, request: Any, context: Context) -> Any:
        raise NotImplementedError

    async def RenewLeases(self, request: Any, context: Context) -> Any:
        raise NotImplementedError

    async def SettleTasks(self, request: Any, context: Context) -> Any:
        raise NotImplementedError


class _Constitution(constitution_pb2_grpc.ConstitutionServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def SetConstitution(self, request: Any, context: Context) -> Any:
        return await self._script.answer("SetConstitution", request, context)

    async def GetConstitution(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetConstitution", request, context)

    async def ListConstitutions(self, request: Any, context: Context) -> Any:
        return await self._script.answer("ListConstitutions", request, context)

    async def GetComplianceReport(self, request: Any, context: Context) -> Any:
        return await self._script.answer("GetComplianceReport", request, context)

    async def TryConstitution(self, request: Any, context: Context) -> AsyncIterator[Any]:
        for message in self._script.take("TryConstitution", request, context):
            if isinstance(message, Refusal):
                await refuse(message, context)
            yield message


async def serve(script: Script) -> grpc.aio.Server:
    """Starts a fake coordinator and notes its address in the script."""
    server = grpc.aio.server()
    tenants_pb2_grpc.add_TenantsServicer_to_server(_Tenants(script), server)
    workflows_pb2_grpc.add_WorkflowsServicer_to_server(_Workflows(script), server)
    runs_pb2_grpc.add_RunsServicer_to_server(_runs(script), server)
    agents_pb2_grpc.add_AgentsServicer_to_server(_Agents(script), server)
    constitution_pb2_grpc.add_ConstitutionServicer_to_server(_Constitution(script), server)
    evidence_pb2_grpc.add_EvidenceServicer_to_server(_Evidence(script), server)
    script.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    return server


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """The script of a fake coordinator in this test's own loop."""
    script = Script()
    server = await serve(script)
    yield script
    await server.stop(None)


@pytest.fixture
async def other_script() -> AsyncIterator[Script]:
    """The script of a second fake coordinator."""
    script = Script()
    server = await serve(script)
    yield script
    await server.stop(None)


@pytest.fixture
def far_script() -> Iterator[Script]:
    """The script of a fake coordinator in a thread of its own, for commands that run a loop."""
    script = Script()
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        server = await serve(script)
        loops.append(asyncio.get_running_loop())
        ready.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(10)
    yield script
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(10)


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.err == ""
        return json.loads(self.out)


Tenure = Callable[..., Done]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the settings of whoever tests out of the tests."""
    for word in ("ADDRESS", "KEY", "KEY_FILE", "CREDENTIALS", "TENANT", "TLS_CA", "AS"):
        monkeypatch.delenv(f"TENURE_{word}", raising=False)
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def tenure(far_script: Script, capsys: pytest.CaptureFixture[str]) -> Tenure:
    """Executes a command against the fake coordinator."""

    def execute(*arguments: str) -> Done:
        line = ["--address", far_script.address, "--key", KEY, "--wait-seconds", "0", *arguments]
        code = app.invoke(line)
        return Done(code, *capsys.readouterr())

    return execute


def key_of(**rest: Any) -> tenants_pb2.ApiKey:
    return tenants_pb2.ApiKey(
        api_key_id=RUN_ID,
        name="ci",
        roles=[access_pb2.ROLE_SUBMITTER, access_pb2.ROLE_TENANT_ADMIN],
        tenant_ids=["dev"],
        create_time=AT,
        **rest,
    )


def event(sequence: int, kind: str, task_key: str = "", **rest: Any) -> runs_pb2.RunEvent:
    """One event, by the name of its kind."""
    number = runs_pb2.RunEventKind.Value(f"RUN_EVENT_KIND_{kind}")
    return runs_pb2.RunEvent(sequence=sequence, kind=number, task_key=task_key, **rest)


def batch(*events: runs_pb2.RunEvent) -> runs_pb2.WatchRunResponse:
    """A watch's message with these events."""
    return runs_pb2.WatchRunResponse(events=events)


def run_in(state: str, **rest: Any) -> runs_pb2.Run:
    """A run in a state."""
    number = runs_pb2.RunState.Value(f"RUN_STATE_{state}")
    return runs_pb2.Run(run_id=RUN_ID, workflow="word-count", state=number, **rest)
