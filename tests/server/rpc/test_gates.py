"""The gates before a tiny real server with one RPC of each shape, and a desk that the test owns."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from tenure.v1 import access_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_constitution.judge import Objection
from tenure_constitution.laws import Effect, Law, Perspective, Point
from tenure_evidence.canonical import digest_text
from tenure_server.core import errors, ids
from tenure_server.core.evidence import INSTALLATION, Act
from tenure_server.core.ledger import records
from tenure_server.core.ledger.records import Role
from tenure_server.rpc import access, calls, doorway, gates, tenancy

NOW_US = 1_700_000_000_000_000
SECRET = "tnr_secret-of-ann"
OPEN = access.AccessRule(
    method="/test.Shapes/Open", roles=frozenset(), evidence="x.y", rate=access.RateClass.READ
)
READERS = frozenset({Role.VIEWER, Role.TENANT_ADMIN})
SHAPES = {
    name: access.AccessRule(
        method=f"/test.Shapes/{name}", roles=READERS, evidence="x.y", rate=access.RateClass.READ
    )
    for name in ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
}
RULES = {rule.method: rule for rule in (OPEN, *SHAPES.values())}
RUN = ids.new_id("acme", NOW_US, b"random")
FOREIGN_RUN = ids.new_id("other", NOW_US, b"random")

shapes = pytest.mark.parametrize("shape", list(SHAPES))


@dataclass(slots=True)
class OwnDesk:
    """What the engine knows, as the test says it."""

    keys: dict[str, records.ApiKey] = field(default_factory=dict)
    broken: Exception | None = None
    elsewhere: str = ""
    #: What was written down, and in which logs.
    recorded: list[tuple[Act, tuple[str, ...]]] = field(default_factory=list)
    #: The calls and messages that were judged, and for whom.
    judged: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    #: The objection that denies every call.
    denying: Objection | None = None
    #: Why nothing can be written down.
    unwritable: Exception | None = None

    async def principal(self, secret_hash: bytes) -> records.ApiKey | None:
        if self.broken is not None:
            raise self.broken
        return next((key for key in self.keys.values() if key.secret_hash == secret_hash), None)

    def still_valid(self, api_key_id: str) -> bool:
        return self.keys[api_key_id].valid_at(NOW_US)

    def now_us(self) -> int:
        return NOW_US

    def check_seat(self, tenant_id: str) -> None:
        if tenant_id == self.elsewhere:
            raise errors.SeatElsewhere(tenant_id, "10.0.0.7:7233")

    def judge_call(
        self,
        act: Act,
        rpc: Mapping[str, Any],
        tenant_ids: Sequence[str],
        *,
        platform_only: bool,
        keeps_facts: bool,
        divisible: bool,
    ) -> Sequence[str]:
        self.judged.append((rpc["method"], tuple(tenant_ids)))
        if self.denying is not None:
            act.object(tenant_ids[0], [self.denying])
            raise errors.CallDenied([self.denying])
        return ()

    def log_of(self, tenant_ids: Sequence[str]) -> Sequence[str]:
        return tenant_ids if len(tenant_ids) == 1 else (INSTALLATION,)

    async def record(self, act: Act, tenant_ids: Sequence[str]) -> str:
        if self.unwritable is not None:
            raise self.unwritable
        act.taken = True
        self.recorded.append((act, tuple(tenant_ids)))
        return f"{tenant_ids[0] or 'installation'}/{len(self.recorded) - 1}"

    def add(self, secret: str = SECRET, **settings: Any) -> records.ApiKey:
        settings = {"tenant_ids": ("acme",), "roles": frozenset({Role.VIEWER}), **settings}
        key = records.ApiKey(
            api_key_id=ids.new_id("acme", NOW_US, len(self.keys).to_bytes(6, "big")),
            name="test",
            secret_hash=hashlib.sha256(secret.encode()).digest(),
            create_us=NOW_US - 10,
            **settings,
        )
        self.keys[key.api_key_id] = key
        return key

    def revoke(self, key: records.ApiKey) -> None:
        self.keys[key.api_key_id] = replace(key, revoke_us=NOW_US - 1)


@dataclass(slots=True)
class Shapes:
    """Handlers of every shape that tell who called, and count how often they were reached."""

    reached: int = 0
    messages: list[Any] = field(default_factory=list)
    fault: Exception | None = None
    #: Set once a message was heard.
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    #: Holds a stream of answers open until it is set.
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    def _take(self, request: Any) -> runs_pb2.GetRunResponse:
        self.messages.append(request)
        self.heard.set()
        if self.fault is not None:
            raise self.fault
        caller = access.caller()
        return runs_pb2.GetRunResponse(
            run=runs_pb2.Run(tenant_id=caller.tenant_id, correlation_id=caller.correlation_id)
        )

    async def open(self, request: Any, context: Any) -> runs_pb2.GetRunResponse:
        self.reached += 1
        return runs_pb2.GetRunResponse()

    async def unary_unary(self, request: Any, context: Any) -> runs_pb2.GetRunResponse:
        self.reached += 1
        return self._take(request)

    async def unary_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.reached += 1
        yield self._take(request)
        if request.run_id == RUN and not self.hold.is_set():
            await self.hold.wait()

    async def stream_unary(self, requests: Any, context: Any) -> runs_pb2.GetRunResponse:
        self.reached += 1
        answer = runs_pb2.GetRunResponse()
        async for request in requests:
            answer = self._take(request)
        return answer

    async def stream_stream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        self.reached += 1
        async for request in requests:
            yield self._take(request)

    def generic_handler(self) -> grpc.GenericRpcHandler:
        coders: dict[str, Any] = {
            "request_deserializer": runs_pb2.GetRunRequest.FromString,
            "response_serializer": runs_pb2.GetRunResponse.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            "test.Shapes",
            {
                "Open": grpc.unary_unary_rpc_method_handler(self.open, **coders),
                "UnaryUnary": grpc.unary_unary_rpc_method_handler(self.unary_unary, **coders),
                "UnaryStream": grpc.unary_stream_rpc_method_handler(self.unary_stream, **coders),
                "StreamUnary": grpc.stream_unary_rpc_method_handler(self.stream_unary, **coders),
                "StreamStream": grpc.stream_stream_rpc_method_handler(self.stream_stream, **coders),
                "Unruled": grpc.unary_unary_rpc_method_handler(self.unary_unary, **coders),
            },
        )


@dataclass(slots=True)
class House:
    """The server under test and a line to it."""

    desk: OwnDesk
    shapes: Shapes
    chain: gates.Chain
    streams: doorway.Streams
    channel: grpc.aio.Channel

    async def call(
        self, shape: str, *requests: Message | bytes, secret: str | None = SECRET, **headers: str
    ) -> Any:
        """Makes one call of a shape, and gives its last answer."""
        metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if secret is not None:
            metadata.append(("authorization", f"Bearer {secret}"))
        coders: dict[str, Any] = {
            "request_serializer": lambda it: (
                it if isinstance(it, bytes) else it.SerializeToString()
            ),
            "response_deserializer": runs_pb2.GetRunResponse.FromString,
        }
        sent = requests or (runs_pb2.GetRunRequest(run_id=RUN),)
        method = f"/test.Shapes/{shape}"
        line = self.channel
        match shape:
            case "UnaryStream":
                call: Any = line.unary_stream(method, **coders)(sent[0], metadata=metadata)
                return await call.read()
            case "StreamUnary":
                stream = self._paced(sent)
                return await line.stream_unary(method, **coders)(stream, metadata=metadata)
            case "StreamStream":
                stream = self._paced(sent)
                call = line.stream_stream(method, **coders)(stream, metadata=metadata)
                answers = [answer async for answer in call]
                return answers[-1]
            case _:
                return await line.unary_unary(method, **coders)(sent[0], metadata=metadata)

    async def _paced(self, requests: Sequence[Message | bytes]) -> AsyncIterator[Message | bytes]:
        """Sends each message when the one before was heard.

        A write that meets the end of its call hides the call's status behind an error of gRPC.
        """
        begun = len(self.shapes.messages)
        for number, request in enumerate(requests):
            while len(self.shapes.messages) - begun < number:
                self.shapes.heard.clear()
                await self.shapes.heard.wait()
            yield request

    async def refused(self, shape: str, *requests: Message | bytes, **how: Any) -> Refused:
        """Makes a call that has to be refused, and reads the refusal."""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.call(shape, *requests, **how)
        return Refused.read(raised.value)


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal as a client reads it."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: tuple[tuple[str, str], ...]
    correlation_id: str
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, error: grpc.aio.AioRpcError) -> Refused:
        trailing = dict(error.trailing_metadata() or ())
        found = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
        assert (found.code, found.message) == (error.code().value[0], error.details())
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in found.details:
            detail.Unpack(info) or detail.Unpack(bad)
        assert info.domain == "tenure"
        return cls(
            error.code(),
            info.reason,
            found.message,
            tuple((it.field, it.description) for it in bad.field_violations),
            str(trailing.get("x-correlation-id", "")),
            dict(info.metadata),
        )


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A served `Shapes` behind the gates, on a free port."""
    desk, handlers = OwnDesk(), Shapes()
    chain, streams = gates.Chain(desk, RULES), doorway.Streams(desk)
    door = doorway.Doorway()
    door.open(chain, streams)
    door.add_generic_rpc_handlers((handlers.generic_handler(),))
    server = grpc.aio.server(handlers=[door])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield House(desk, handlers, chain, streams, channel)
    await server.stop(None)


def test_the_gates_stand_in_their_order() -> None:
    """The list is the whole truth about what a call passes."""
    names = [gate.__name__ for gate in gates.GATES]
    assert names == [
        *("Correlation", "Identity", "Tenancy", "Rate", "Contract", "Seats", "Constitution")
    ]


@shapes
async def test_a_caller_with_a_key_and_role_gets_through(house: House, shape: str) -> None:
    """Handler and caller meet, and the handler knows who calls for whom."""
    house.desk.add()
    answer = await house.call(shape, x_correlation_id="tie-1")
    assert (answer.run.tenant_id, answer.run.correlation_id) == ("acme", "tie-1")


@shapes
async def test_the_correlation_id_comes_back(house: House, shape: str) -> None:
    """With the answer where there is one, and at its start on a stream."""
    house.desk.add()
    metadata = (("authorization", f"Bearer {SECRET}"), ("x-correlation-id", "tie-3"))
    word = {"U": "unary", "S": "stream"}
    kind = "_".join(word[letter] for letter in shape if letter.isupper())
    method: Any = getattr(house.channel, kind)(f"/test.Shapes/{shape}")
    raw = runs_pb2.GetRunRequest(run_id=RUN).SerializeToString()
    call = method(iter([raw]) if kind.startswith("stream") else raw, metadata=metadata)
    if kind.endswith("stream"):
        assert dict(await call.initial_metadata())["x-correlation-id"] == "tie-3"
        call.cancel()
    else:
        await call
        assert dict(await call.trailing_metadata())["x-correlation-id"] == "tie-3"


@shapes
async def test_no_credential_is_no_entry(house: House, shape: str) -> None:
    """The handler never hears of the call."""
    refused = await house.refused(shape, secret=None)
    assert refused.code is grpc.StatusCode.UNAUTHENTICATED
    assert refused.reason == "CREDENTIAL_MISSING"
    assert house.shapes.reached == 0


@shapes
async def test_unknown_expired_and_revoked_keys_are_told_apart_by_nobody(
    house: House, shape: str
) -> None:
    """The same code, reason and words for each."""
    house.desk.add("tnr_expired", expire_us=NOW_US)
    house.desk.add("tnr_revoked", revoke_us=NOW_US - 1)
    secrets = ("tnr_unknown", "tnr_expired", "tnr_revoked")
    answers = [await house.refused(shape, secret=secret) for secret in secrets]
    assert {answer.reason for answer in answers} == {"CREDENTIAL_INVALID"}
    assert len({answer.message for answer in answers}) == 1
    assert house.shapes.reached == 0


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "tnr_secret-of-ann"])
async def test_another_scheme_is_no_credential(house: House, header: str) -> None:
    """Only 'Bearer' and a key will do."""
    house.desk.add()
    refused = await house.refused("UnaryUnary", secret=None, authorization=header)
    assert refused.reason == "CREDENTIAL_MISSING"


@shapes
async def test_a_role_that_the_rule_does_not_name_is_denied(house: House, shape: str) -> None:
    """The denial says which roles would do."""
    house.desk.add(roles=frozenset({Role.AGENT}))
    refused = await house.refused(shape)
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
    assert refused.reason == "ROLE_MISSING"
    assert "viewer, tenant_admin" in refused.message
    assert house.shapes.reached == 0


@shapes
async def test_another_tenants_run_is_not_there(house: House, shape: str) -> None:
    """In the very words of a run that does not exist, on every inbound message."""
    house.desk.add()
    refused = await house.refused(shape, runs_pb2.GetRunRequest(run_id=FOREIGN_RUN))
    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == "NOT_FOUND"
    assert refused.message == str(errors.NotFound("run", FOREIGN_RUN))
    assert house.shapes.messages == []


@pytest.mark.parametrize("shape", ["StreamUnary", "StreamStream"])
async def test_a_later_message_of_a_stream_passes_the_gates_too(house: House, shape: str) -> None:
    """What came before it was handled; it was not, and the stream is over."""
    house.desk.add()
    good = runs_pb2.GetRunRequest(run_id=RUN)
    for bad, reason in (
        (runs_pb2.GetRunRequest(run_id=FOREIGN_RUN), "NOT_FOUND"),
        (runs_pb2.GetRunRequest(run_id="no-uuid"), "FIELD_INVALID"),
        (b"\xff\xff", "FIELD_INVALID"),
    ):
        house.shapes.messages.clear()
        refused = await house.refused(shape, good, good, bad)
        assert refused.reason == reason
        assert house.shapes.messages == [good, good]


@pytest.mark.parametrize("shape", ["StreamUnary", "StreamStream"])
async def test_a_key_revoked_between_two_messages_ends_the_stream(house: House, shape: str) -> None:
    """The second message is refused although the first was not."""
    key = house.desk.add()

    async def requests() -> AsyncIterator[runs_pb2.GetRunRequest]:
        yield runs_pb2.GetRunRequest(run_id=RUN)
        await house.shapes.heard.wait()
        house.desk.revoke(key)
        yield runs_pb2.GetRunRequest(run_id=RUN)

    kind = house.channel.stream_unary if shape == "StreamUnary" else house.channel.stream_stream
    method: Any = kind(
        f"/test.Shapes/{shape}",
        request_serializer=runs_pb2.GetRunRequest.SerializeToString,
        response_deserializer=runs_pb2.GetRunResponse.FromString,
    )
    call = method(requests(), metadata=(("authorization", f"Bearer {SECRET}"),))
    if shape == "StreamStream":
        await anext(aiter(call))
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(house.shapes.messages) == 1


async def test_a_waiting_stream_ends_at_once_when_its_key_is_revoked(house: House) -> None:
    """Nobody has to say anything for it to end."""
    key = house.desk.add()
    call = await _waiting_stream(house)
    house.desk.revoke(key)
    house.streams.end(key.api_key_id)
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_waiting_stream_notices_by_itself_that_its_key_is_over(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The net under the notice: keys expire, and other coordinators revoke."""
    monkeypatch.setattr(doorway, "STREAM_CHECK_SECONDS", 0.01)
    key = house.desk.add()
    call = await _waiting_stream(house)
    house.desk.revoke(key)
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_streams_end_when_the_coordinator_stops(house: House) -> None:
    """They are told why, so that they come again."""
    house.desk.add()
    call = await _waiting_stream(house)
    house.streams.end_all()
    assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def _waiting_stream(house: House) -> Any:
    """A stream that has sent its first answer and waits."""
    method: Any = house.channel.unary_stream(
        "/test.Shapes/UnaryStream",
        request_serializer=runs_pb2.GetRunRequest.SerializeToString,
        response_deserializer=runs_pb2.GetRunResponse.FromString,
    )
    call = method(
        runs_pb2.GetRunRequest(run_id=RUN), metadata=(("authorization", f"Bearer {SECRET}"),)
    )
    await call.read()
    return call


@shapes
async def test_a_gate_that_errs_refuses(house: House, shape: str) -> None:
    """The caller learns nothing of the fault but where to look for it."""
    house.desk.broken = RuntimeError("the password is swordfish")
    refused = await house.refused(shape, x_correlation_id="tie-2")
    assert refused.code is grpc.StatusCode.INTERNAL
    assert refused.reason == "INTERNAL"
    assert "swordfish" not in refused.message
    assert "tie-2" in refused.message
    assert house.shapes.reached == 0


@shapes
async def test_a_handler_that_errs_tells_nothing(house: House, shape: str) -> None:
    """Exceptions are for the log."""
    house.desk.add()
    house.shapes.fault = ValueError("row 17 of table secrets")
    refused = await house.refused(shape)
    assert refused.code is grpc.StatusCode.INTERNAL
    assert "secrets" not in refused.message


@shapes
async def test_a_handlers_refusal_becomes_its_status(house: House, shape: str) -> None:
    """Whatever is raised below, the table decides what it is on the wire."""
    house.desk.add()
    house.shapes.fault = errors.RunClosed("run r has failed", state="FAILED")
    refused = await house.refused(shape)
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.reason == "RUN_CLOSED"


async def test_an_open_call_needs_no_key(house: House) -> None:
    """Health and reflection answer strangers."""
    await house.call("Open", secret=None)
    assert house.shapes.reached == 1


async def test_a_served_method_without_a_rule_is_refused(house: House) -> None:
    """What nobody declared nobody may call."""
    house.desk.add()
    refused = await house.refused("Unruled")
    assert refused.code is grpc.StatusCode.INTERNAL
    assert house.shapes.reached == 0


async def test_an_unknown_method_is_named(house: House) -> None:
    """UNIMPLEMENTED, typed like every other refusal."""
    refused = await house.refused("Nothing")
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED
    assert refused.reason == "METHOD_UNKNOWN"
    assert "/test.Shapes/Nothing" in refused.message


async def test_a_correlation_id_is_made_when_there_is_none(house: House) -> None:
    """Also a refused caller gets one to quote."""
    first = await house.refused("UnaryUnary", secret=None)
    second = await house.refused("UnaryUnary", secret=None)
    assert len(first.correlation_id) == 32
    assert first.correlation_id != second.correlation_id


@pytest.mark.parametrize("given", ["", "x" * 101])
async def test_a_correlation_id_has_bounds(house: House, given: str) -> None:
    """1 to 100 characters, or the call is refused under an id of ours."""
    house.desk.add()
    refused = await house.refused("UnaryUnary", x_correlation_id=given)
    assert refused.reason == "METADATA_INVALID"
    assert len(refused.correlation_id) == 32


async def test_a_header_that_comes_twice_is_refused(house: House) -> None:
    """Which of two keys was meant is not ours to guess."""
    house.desk.add()
    refused = await house.refused("UnaryUnary", authorization="Bearer tnr_other")
    assert refused.reason == "METADATA_INVALID"


async def test_a_key_of_several_tenants_has_to_choose(house: House) -> None:
    """Without the header nothing happens; with it, the call is for that tenant."""
    house.desk.add(tenant_ids=("acme", "beta"))
    assert (await house.refused("UnaryUnary")).reason == "TENANT_NOT_CHOSEN"
    answer = await house.call("UnaryUnary", x_tenure_tenant="acme")
    assert answer.run.tenant_id == "acme"


async def test_a_chosen_tenant_hides_the_callers_other_ones(house: House) -> None:
    """A run of beta is not there for a call in acme, whoever makes it."""
    house.desk.add(tenant_ids=("acme", "beta"))
    run_of_beta = ids.new_id("beta", NOW_US, b"random")
    request = runs_pb2.GetRunRequest(run_id=run_of_beta)
    refused = await house.refused("UnaryUnary", request, x_tenure_tenant="acme")
    assert refused.reason == "NOT_FOUND"
    await house.call("UnaryUnary", request, x_tenure_tenant="beta")


@pytest.mark.parametrize("tenant", ["other", "never-heard-of"])
async def test_a_foreign_tenant_is_not_there(house: House, tenant: str) -> None:
    """Whether it exists makes no difference."""
    house.desk.add()
    refused = await house.refused("UnaryUnary", x_tenure_tenant=tenant)
    assert refused.reason == "NOT_FOUND"
    assert refused.message == f"no such tenant: {tenant}"


@shapes
async def test_reads_need_the_seat_as_writes_do(house: House, shape: str) -> None:
    """Only the holder can write down that somebody read; the answer says who that is."""
    house.desk.add()
    house.desk.elsewhere = "acme"
    refused = await house.refused(shape)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SEAT_ELSEWHERE")
    assert refused.facts == {"holder": "10.0.0.7:7233"}
    assert house.shapes.reached == 0
    assert house.desk.recorded == [], "what nobody decided is written down by nobody"


@shapes
async def test_a_call_that_is_let_in_is_written_down_once(house: House, shape: str) -> None:
    """In its tenant's log, with the digest of the bytes that came."""
    key = house.desk.add()
    request = runs_pb2.GetRunRequest(run_id=RUN)
    await house.call(shape, request, x_correlation_id="tie-4")
    [(act, logs)] = house.desk.recorded
    assert logs == ("acme",)
    assert (act.kind, act.method, act.refusal) == ("x.y", f"/test.Shapes/{shape}", "")
    assert (act.principal, act.roles) == (key.api_key_id, ("viewer",))
    assert act.correlation_id == "tie-4"
    assert act.request == digest_text(request.SerializeToString())


@shapes
async def test_a_refusal_is_written_down_once_and_names_its_decision(
    house: House, shape: str
) -> None:
    """Also one of a stream that was let in before, and then its message's digest stands there."""
    house.desk.add()
    bad = runs_pb2.GetRunRequest(run_id=FOREIGN_RUN)
    good = [runs_pb2.GetRunRequest(run_id=RUN)] if shape.startswith("Stream") else []
    refused = await house.refused(shape, *good, bad)
    (act, logs) = house.desk.recorded[-1]
    assert (act.refusal, logs) == ("NOT_FOUND", ("acme",))
    assert act.request == digest_text(bad.SerializeToString())
    assert refused.facts["decision"] == f"acme/{len(house.desk.recorded) - 1}"
    before = [act.refusal for act, _ in house.desk.recorded[:-1]]
    assert before == ([""] if shape == "StreamStream" else [])


async def test_who_is_not_known_is_written_down_with_the_installation(house: House) -> None:
    """Nobody's log but the operator's own tells of strangers."""
    refused = await house.refused("UnaryUnary", secret=None)
    [(act, logs)] = house.desk.recorded
    assert (act.principal, act.refusal, logs) == ("", "CREDENTIAL_MISSING", (INSTALLATION,))
    assert refused.facts["decision"] == "installation/0"


@shapes
@pytest.mark.parametrize(
    "fault", [errors.StoreUnavailable("not now"), RuntimeError("the password is swordfish")]
)
async def test_a_refusal_that_cannot_be_written_down_is_one_all_the_same(
    house: House, shape: str, fault: Exception
) -> None:
    """The caller hears why it is refused, without a decision, and nothing of the fault."""
    house.desk.add()
    house.desk.unwritable = fault
    refused = await house.refused(shape, runs_pb2.GetRunRequest(run_id=FOREIGN_RUN))
    assert refused.reason == "NOT_FOUND"
    assert "decision" not in refused.facts


@shapes
async def test_every_message_is_judged_for_its_tenant(house: House, shape: str) -> None:
    """Each message of a stream by itself."""
    house.desk.add()
    requests = [runs_pb2.GetRunRequest(run_id=RUN)] * (2 if shape.startswith("Stream") else 1)
    await house.call(shape, *requests)
    assert house.desk.judged == [(shape, ("acme",))] * len(requests)


def test_every_rpc_of_the_contract_is_judged() -> None:
    """For its tenant, for each tenant of its agent, or for none; gRPC's own services are not."""
    desk = OwnDesk()
    key = desk.add(tenant_ids=("acme", "beta"))
    gate = gates.Constitution(desk)
    for method in access.methods():
        rule = access.all_rules()[access.full_name(method)]
        tenant_id = "" if rule.tenantless or rule.all_tenants else "acme"
        call = calls.Call(rule, (), key=key, tenant_ids=key.tenant_ids, tenant_id=tenant_id)
        gate.admit(call, GetMessageClass(method.input_type)())
        tenant_ids = key.tenant_ids if rule.all_tenants else (tenant_id,)
        assert desk.judged.pop() == (method.name, tenant_ids)
    for method in access.methods(access.PLATFORM):
        rule = access.all_rules()[access.full_name(method)]
        gate.admit(calls.Call(rule, (), key=key), GetMessageClass(method.input_type)())
    assert desk.judged == []


@shapes
async def test_what_the_constitution_denies_never_reaches_its_handler(
    house: House, shape: str
) -> None:
    """The caller hears the article's sentence; evidence holds the article."""
    house.desk.add()
    house.desk.denying = Objection(
        article="closed-on-sundays",
        law=Law.PRECEDENCE,
        perspective=Perspective.RESOURCE_CONSTRAINT,
        point=Point.CALL,
        effect=Effect.DENY,
        message="come back tomorrow",
    )
    refused = await house.refused(shape, runs_pb2.GetRunRequest(run_id=RUN))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALL_DENIED")
    assert refused.message == house.desk.denying.sentence
    assert refused.facts == {
        "law": "precedence",
        "article": "closed-on-sundays",
        "perspective": "resource_constraint",
        "decision": "acme/0",
    }
    assert house.shapes.messages == []
    [(act, logs)] = house.desk.recorded
    assert (act.verdict_in("acme"), act.refusal, logs) == ("deny", "CALL_DENIED", ("acme",))


async def test_a_request_that_does_not_parse_is_bad_input(house: House) -> None:
    """Not a fault, and not before the caller is known."""
    assert (await house.refused("UnaryUnary", b"\xff\xff")).reason == "CREDENTIAL_INVALID"
    house.desk.add()
    refused = await house.refused("UnaryUnary", b"\xff\xff")
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == (("request", "does not parse"),)


async def test_a_closing_coordinator_lets_nobody_in(house: House) -> None:
    """But it still answers who asks after its health."""
    house.desk.add()
    house.chain.closing = True
    assert (await house.refused("UnaryUnary")).reason == "STOPPING"
    await house.call("Open", secret=None)


class TestContract:
    """The contract gate on messages, without a line."""

    call = calls.Call(SHAPES["UnaryUnary"], ())
    stream = calls.Call(SHAPES["StreamStream"], (), inbound_stream=True)
    gate = gates.Contract(OwnDesk())

    def _violations(self, message: Message) -> tuple[tuple[str, str], ...]:
        with pytest.raises(errors.FieldsInvalid) as raised:
            self.gate.admit(self.call, message)
        return raised.value.violations

    def test_every_broken_rule_is_named_by_its_path(self) -> None:
        """Indexes and map keys stand in the path."""
        found = self._violations(
            runs_pb2.BatchStartRunsRequest(
                requests=[
                    runs_pb2.StartRunRequest(workflow="w"),
                    runs_pb2.StartRunRequest(priority=5000, labels={"x" * 64: "y"}),
                ]
            )
        )
        paths = [path for path, _ in found]
        assert paths[0] == "requests[1].workflow"
        assert "requests[1].priority" in paths
        assert any(path.startswith("requests[1].labels['xxx") for path in paths)

    def test_numbers_that_no_enum_has_are_refused(self) -> None:
        """A state from the future is no filter."""
        assert self._violations(runs_pb2.ListRunsRequest(states=[77]))[0][0] == "states[0]"  # type: ignore[list-item]

    def test_fields_of_a_newer_client_are_not_dropped_silently(self) -> None:
        """They may change what the request means; nested ones too."""
        newer = bytes([0x98, 0x06, 0x01])  # field 99
        start = runs_pb2.StartRunRequest(workflow="w").SerializeToString() + newer
        found = self._violations(runs_pb2.StartRunRequest.FromString(start))
        assert found == (("request", "has a field that is not known here: 99"),)
        batch = bytes([0x0A, len(start)]) + start
        found = self._violations(runs_pb2.BatchStartRunsRequest.FromString(batch))
        assert found == (("requests[0]", "has a field that is not known here: 99"),)

    def test_streams_are_spared_the_search_for_unknown_fields(self) -> None:
        """A newer agent can talk to an older coordinator."""
        newer = runs_pb2.GetRunRequest(run_id=RUN).SerializeToString() + bytes([0x98, 0x06, 0x01])
        self.gate.admit(self.stream, runs_pb2.GetRunRequest.FromString(newer))

    @pytest.mark.parametrize(
        ("message", "path"),
        [
            (tenants_pb2.CreateApiKeyRequest(name="a\0b", roles=[access_pb2.ROLE_VIEWER]), "name"),
            (runs_pb2.CancelRunRequest(run_id=RUN, reason="\0"), "reason"),
            (workflows_pb2.GetWorkflowRequest(name="a\0"), "name"),
            (runs_pb2.StartRunRequest(workflow="w", labels={"k": "\0"}), "labels"),
            (
                runs_pb2.BatchStartRunsRequest(
                    requests=[runs_pb2.StartRunRequest(workflow="w", request_id="\0")]
                ),
                "requests.request_id",
            ),
        ],
    )
    def test_text_that_a_database_cannot_keep_is_refused(self, message: Message, path: str) -> None:
        """At the edge, before it can fail a commit that others share."""
        assert self._violations(message) == ((path, "must not contain the character NUL"),)

    def test_an_id_that_is_none_is_bad_input_rather_than_missing(self) -> None:
        """The tenant gate leaves no id unread, but says what is wrong with this one."""
        call = calls.Call(SHAPES["UnaryUnary"], ())
        call.key, call.tenant_ids = OwnDesk().add(), ("acme",)
        with pytest.raises(errors.FieldsInvalid) as raised:
            tenancy.Tenancy(OwnDesk()).admit(call, runs_pb2.GetRunRequest(run_id="17"))
        assert raised.value.violations == (("run_id", "must be a valid UUID"),)
