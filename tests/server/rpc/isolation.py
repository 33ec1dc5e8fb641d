"""The isolation matrix, built from the descriptors: where an id can stand, and who may say it.

An RPC, a mark or a list that joins the contract joins by itself, or it is said loudly what has to
be known of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from tests import holdings
from tests.conftest import ROLES, Calls, LiveCoordinator
from tests.server.rpc.reads import Reads
from tests.server.rpc.test_matrix import CALLERS, EVERYTHING, METHODS, Names, _request

from tenure.v1 import (
    agents_pb2,
    constitution_pb2,
    evidence_pb2,
    runs_pb2,
    schedules_pb2,
    tenants_pb2,
    workflows_pb2,
)
from tenure_server.core import ids
from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records
from tenure_server.rpc.api_keys import new_api_key, new_secret
from tenure_server.rpc.owned import Owned, Walker

#: The roles that are given in a tenant.
MEMBERS = {name: role for name, role in CALLERS.items() if name != "operator"}
OURS, THEIRS, NEIGHBOUR = "alpha", "beta", "gamma"
#: Fields that only the first message of a stream may have.
FIRST_ONLY = {"/tenure.v1.Agents/Work": ("hello",)}
#: In such messages somebody proves that a lease is theirs.
LEASE_REF = "tenure.v1.LeaseRef"
TIE = ("x-correlation-id", "tie")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VARIES = re.compile(r"\b(seconds|nanos|took|version): \d+|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Answered:
    """Everything that came back, and what the store was asked for it."""

    reason: str
    code: grpc.StatusCode
    words: str = ""
    details: tuple[str, ...] = ()
    metadata: tuple[Any, ...] = ()
    answer: str = ""
    reads: tuple[str, ...] = ()

    def without(self, name: str) -> Answered:
        """The same but for a name, and for what differs from call to call whatever is asked."""

        def plain(text: str) -> str:
            return _VARIES.sub("…", text.replace(name, "NAME"))

        return Answered(
            self.reason,
            self.code,
            plain(self.words),
            tuple(map(plain, self.details)),
            self.metadata,
            _UUID.sub("ID", plain(self.answer)),
            self.reads,
        )


@dataclass
class House:
    """A coordinator with three tenants, everything that can be named, and all kinds of callers."""

    live: LiveCoordinator
    reads: Reads
    secrets: dict[str, str] = field(default_factory=dict)
    #: What can be named, by tenant.
    names: dict[str, Names] = field(default_factory=dict)
    #: A lease that is live, by tenant.
    leases: dict[str, agents_pb2.LeaseRef] = field(default_factory=dict)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    #: The id of a key that acts for the other tenant and a third one.
    shared_key: str = ""
    #: What the other tenant had when it was looked at last.
    theirs: holdings.Held = field(default_factory=dict)

    def look(self) -> None:
        """Notes what the other tenant has."""
        self.theirs = holdings.of(self.live.server.store, THEIRS)

    async def furnish(self) -> None:
        """Gives each tenant two of everything that is listed."""
        operator = self.live.calls("operator")
        await operator.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(tenant_id=NEIGHBOUR))
        self.secrets = dict(self.live.secrets)
        for role in ROLES:
            name = f"{NEIGHBOUR}/{role}"
            self.secrets[name] = await self.live.make_key(role, tenants=(NEIGHBOUR,))
        for tenant_id in (OURS, THEIRS):
            await self._stock(tenant_id)
        self.names[NEIGHBOUR] = {mark: ids.new_id(NEIGHBOUR, 7, b"random") for mark in Owned}
        self.names[NEIGHBOUR] |= {Owned.TENANT: NEIGHBOUR, Owned.WORKFLOW: "billing"}
        self.names[NEIGHBOUR][Owned.SCHEDULE] = "billing"
        await self._make_callers()

    async def _stock(self, tenant_id: str) -> None:
        admin = self.live.calls_with(self.secrets[f"{tenant_id}/admin"])
        worker = self.live.calls_with(self.secrets[f"{tenant_id}/agent"])
        names = [(name, kind) for name in ("billing", "second") for kind in ("k", "k2")]
        if tenant_id == THEIRS:
            names += [
                (theirs_alone(place), "k") for place in PLACES if place.mark is Owned.WORKFLOW
            ]
        for name, kind in names:
            tasks = [workflows_pb2.WorkflowTask(key=key, kind=kind) for key in ("b", "a", "c")]
            definition = workflows_pb2.WorkflowDefinition(name=name, tasks=tasks)
            await admin.workflows.RegisterWorkflow(
                workflows_pb2.RegisterWorkflowRequest(definition=definition)
            )
        runs = [
            await admin.runs.StartRun(runs_pb2.StartRunRequest(workflow="billing")) for _ in "12"
        ]
        # Each is tried out in a process of its own, which takes its time.
        for article in ("true", "1 == 1") if tenant_id == THEIRS else ():
            await admin.constitution.SetConstitution(
                constitution_pb2.SetConstitutionRequest(text=_constitution(article))
            )
        for _ in "12":
            evidence: Any = self.live.channel.unary_unary(
                "/tenure.v1.Evidence/GetCheckpoint",
                request_serializer=evidence_pb2.GetCheckpointRequest.SerializeToString,
            )
            await evidence(evidence_pb2.GetCheckpointRequest(), metadata=admin.metadata)
        agents = [await self._agent(tenant_id, name) for name in ("host-1", "host-2")]
        leased = await worker.agents.LeaseTasks(
            agents_pb2.LeaseTasksRequest(agent="by-hand", kinds=["k2"])
        )
        [lease] = leased.batch.leases
        self.leases[tenant_id] = agents_pb2.LeaseRef(
            run_id=lease.run_id, task_key=lease.task_key, term=lease.term, token=lease.token
        )
        caller = await admin.tenants.GetCaller(tenants_pb2.GetCallerRequest())
        self.names[tenant_id] = {
            Owned.TENANT: tenant_id,
            Owned.RUN: next(run.run_id for run in runs if run.run_id == lease.run_id),
            Owned.API_KEY: caller.api_key.api_key_id,
            Owned.AGENT: agents[0],
            Owned.WORKFLOW: "billing",
            Owned.SCHEDULE: "billing",
        }
        await self._schedule(tenant_id, admin)

    async def _schedule(self, tenant_id: str, admin: Calls) -> None:
        """Paused, so that nothing happens by itself; and each with a history of two fires."""
        names = ["billing", "second"]
        if tenant_id == THEIRS:
            names += [theirs_alone(place) for place in PLACES if place.mark is Owned.SCHEDULE]
        for name in names:
            spec = schedules_pb2.ScheduleSpec(
                times=schedules_pb2.FireTimes(
                    crons=[schedules_pb2.CronTimes(expression="0 3 1 1 *")]
                ),
                start=schedules_pb2.ScheduledStart(workflow="billing"),
                overlap=schedules_pb2.OVERLAP_POLICY_ALLOW_ALL,
            )
            await admin.schedules.CreateSchedule(
                schedules_pb2.CreateScheduleRequest(name=name, spec=spec, pause_reason="stock")
            )
        for _ in "12":
            await admin.schedules.TriggerSchedule(
                schedules_pb2.TriggerScheduleRequest(name="billing")
            )

    async def _agent(self, tenant_id: str, name: str) -> str:
        """An agent on the line that takes nothing, until the end of the test."""
        call: Any = self.live.channel.stream_stream(
            "/tenure.v1.Agents/Work",
            request_serializer=agents_pb2.WorkRequest.SerializeToString,
            response_deserializer=agents_pb2.WorkResponse.FromString,
        )(metadata=(("authorization", f"Bearer {self.secrets[f'{tenant_id}/agent']}"),))
        self.stack.callback(call.cancel)
        hello = agents_pb2.Hello(agent=name, instance="instance", kinds=["idle"], slots=1)
        await call.write(agents_pb2.WorkRequest(hello=hello))
        return str((await call.read()).welcome.agent_id)

    async def _make_callers(self) -> None:
        live = self.live
        self.secrets["several"] = await live.make_key(*ROLES, tenants=(OURS, NEIGHBOUR))
        self.secrets["their several"] = await live.make_key(*ROLES, tenants=(NEIGHBOUR, THEIRS))
        shared = await live.calls_with(self.secrets["their several"]).tenants.GetCaller(
            tenants_pb2.GetCallerRequest()
        )
        self.shared_key = shared.api_key.api_key_id
        self.secrets["second key"] = await live.make_key(*ROLES, tenants=(OURS,))
        self.secrets["nobody's"] = "tnr_" + "x" * 43
        self.secrets["revoked"] = await live.make_key(*ROLES, tenants=(OURS,))
        revoked = await live.calls_with(self.secrets["revoked"]).tenants.GetCaller(
            tenants_pb2.GetCallerRequest()
        )
        await live.calls("operator").tenants.RevokeApiKey(
            tenants_pb2.RevokeApiKeyRequest(api_key_id=revoked.api_key.api_key_id)
        )
        # A key that the contract would not make: its time is over from the beginning.
        self.secrets["expired"] = new_secret()
        now_us = live.server.engine.now_us()
        expired = new_api_key(
            self.secrets["expired"],
            name="expired",
            roles=frozenset(records.Role) - {records.Role.OPERATOR},
            tenant_ids=[OURS],
            now_us=now_us,
            expire_us=now_us - 1,
        )

        def make(acts: Any) -> bytes:
            acts.create_api_key(expired)
            return b""

        await live.server.engine.mutate(
            remember_under="", request=None, work=make, act=Act(kind="key.create", principal="")
        )
        # Who calls is looked up once, and that tells nothing of what is asked.
        for secret in self.secrets.values():
            await self.ask("/tenure.v1.Tenants/GetCaller", [tenants_pb2.GetCallerRequest()], secret)

    def indistinguishable(self, mark: Owned) -> Iterator[list[str]]:
        """Names of which the first is somebody else's, and the others are nobody's."""
        theirs = self.names[THEIRS][mark]
        if mark is Owned.TENANT:
            yield [theirs, "nowhere", "b"]
            return
        nobody = {it: ids.new_id(it, 5, b"nobody") for it in (THEIRS, "nowhere", ids.INSTALLATION)}
        yield [theirs, nobody[THEIRS], nobody["nowhere"], _RANDOM_UUID]
        if mark is Owned.API_KEY:
            yield [self.shared_key, nobody[ids.INSTALLATION]]
        else:
            yield [theirs, nobody[ids.INSTALLATION]]

    def page_of(self, method: str, tenant_id: str) -> Any:
        """Asks for a page with one thing."""
        request = _request(method, self.names[tenant_id])
        request.page_size = 1
        return request

    async def token(self, method: str, caller: str, tenant_id: str) -> str:
        """The token of a second page."""
        request = self.page_of(method, tenant_id)
        secret = self.secrets[caller]
        answered = await self.ask(method, [request], secret, tenant_id)
        found = re.search(r'next_page_token: "([^"]+)"', answered.answer)
        assert found, f"{method} has one page: give each tenant two of what it lists ({answered})"
        return found[1]

    async def ask(
        self, method: str, messages: Sequence[Message], secret: str | None, tenant_id: str = ""
    ) -> Answered:
        """Makes a call and takes everything that comes back; of an endless stream its beginning."""
        rpc = METHODS[method]
        shape = "_".join(
            "stream" if it else "unary" for it in (rpc.client_streaming, rpc.server_streaming)
        )
        start = getattr(self.live.channel, shape)(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(rpc.output_type).FromString,
        )
        metadata = [TIE]
        if secret is not None:
            metadata.append(("authorization", f"Bearer {secret}"))
        if tenant_id:
            metadata.append(("x-tenure-tenant", tenant_id))
        call = start(*([] if rpc.client_streaming else messages[:1]), metadata=metadata)
        try:
            if not rpc.server_streaming:
                answer = await call
            elif rpc.client_streaming:
                answer = await _converse(call, messages)
            else:
                # Some go on for as long as their reader stays.
                answer = await call.read()
                call.cancel()
        except grpc.aio.AioRpcError as error:
            if _unheard(error):
                return await self.ask(method, messages, secret, tenant_id)
            return _refused(error, self.reads.taken(TIE[1]))
        ok = grpc.StatusCode.OK
        return Answered("OK", ok, answer=_text(answer), reads=self.reads.taken(TIE[1]))


def _unheard(error: grpc.aio.AioRpcError) -> bool:
    """Whether the client of gRPC lost the answer by itself: it was refused while it still wrote."""
    return not error.trailing_metadata() and "execute_batch" in (error.debug_error_string() or "")


async def _converse(call: Any, messages: Sequence[Message]) -> Any:
    """Says the first message, and the others once that was answered; then hears the rest.

    Gives all answers as one: how they are divided is a matter of time.
    """
    await call.write(messages[0])
    whole = await call.read()
    if len(messages) > 1 and whole is not grpc.aio.EOF:
        # A line that the other side has ended already cannot be written to.
        for message in messages[1:]:
            await call.write(message)
    await call.done_writing()
    while (answer := await call.read()) is not grpc.aio.EOF:
        whole.MergeFrom(answer)
    return whole


def _text(message: Any) -> str:
    return "" if message is grpc.aio.EOF else text_format.MessageToString(message)


def _refused(error: grpc.aio.AioRpcError, reads: tuple[str, ...]) -> Answered:
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing.pop("grpc-status-details-bin"))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    # The decision's number tells how much the caller's own tenant has asked.
    # Strangers' refusals share entries when they are many, and then there is none to name.
    log = (info.metadata.pop("decision", "") or "installation").partition("/")[0]
    assert log in (OURS, NEIGHBOUR, "installation"), "the other tenant's log tells of it"
    return Answered(
        info.reason,
        error.code(),
        error.details() or "",
        tuple(map(_text, (info, *status.details[1:]))),
        (log, *sorted(trailing.items()), *sorted(error.initial_metadata() or ())),
        reads=reads,
    )


def _constitution(expression: str) -> str:
    return (
        '{"articles": [{"id": "one", "law": "precedence", "perspective": "resource_constraint",'
        f' "point": "call", "effect": "warn", "expression": "{expression}", "message": "never"}}]}}'
    )


# -- what is asked


@dataclass(frozen=True, slots=True)
class Place:
    """Where an id stands in what a call says."""

    method: str
    path: str
    mark: Owned
    #: "alone", "batched" (the last of several) or "streamed" (in a later message).
    how: str

    def messages(self, own: Names, named: str) -> list[Any]:
        """What to say: everything is one's own, but for this place."""
        foreign = {**own, self.mark: named}
        message = _request(self.method, own, at=self.path, foreign=foreign)
        first = _request(self.method, own)
        if self.how == "alone":
            return [message]
        if self.how == "batched":
            first.MergeFrom(message)
            return [first]
        for name in FIRST_ONLY[self.method]:
            message.ClearField(name)
        return [first, message]


def _places() -> Iterator[Place]:
    """Every place of the contract in which something of a tenant can be named."""
    names = dict.fromkeys(Owned, "x")
    for method, rpc in METHODS.items():
        request = _request(method, names, at=EVERYTHING)
        for path, mark, _ in Walker(rpc.input_type).mentions(request):
            for how in ("alone", *_ways(method, rpc.input_type, path)):
                yield Place(method, path, mark, how)


def _ways(method: str, message: Descriptor, path: str) -> Iterator[str]:
    if any(item.is_repeated for item in _fields(message, path)):
        yield "batched"
    if METHODS[method].client_streaming:
        assert method in FIRST_ONLY, f"say in FIRST_ONLY what the first message of {method} has"
        if path.partition(".")[0] not in FIRST_ONLY[method]:
            yield "streamed"


def _fields(message: Descriptor, path: str) -> Iterator[Any]:
    for name in path.split("."):
        item = message.fields_by_name[name]
        yield item
        if item.message_type is not None:
            message = item.message_type


def theirs_alone(place: Place) -> str:
    """A name that only the other tenant uses, and that no other place asks for."""
    return f"only-theirs-{PLACES.index(place)}"


def reached(message: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """The message types that a message can hold, itself too."""
    if message.full_name not in seen:
        yield message.full_name
        for item in message.fields:
            if item.message_type is not None:
                yield from reached(item.message_type, seen | {message.full_name})


#: What a House gives names to.
STOCKED = frozenset(
    {
        Owned.TENANT,
        Owned.RUN,
        Owned.API_KEY,
        Owned.AGENT,
        Owned.WORKFLOW,
        Owned.SCHEDULE,
    }
)
PLACES = sorted(_places(), key=repr)
#: Marks whose values are ids that say whose they are, or tenants; all others are mere names, which
#: mean something inside of one tenant only.
IDS = frozenset({Owned.TENANT, Owned.RUN, Owned.API_KEY, Owned.AGENT})


_RANDOM_UUID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
