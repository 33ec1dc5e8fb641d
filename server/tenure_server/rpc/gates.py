"""The one path of every call, in order, for all four RPC shapes; see `GATES`.

A gate has two sides. `enter` hears of the call before any message of it is looked at; `admit` hears
each inbound message, on a stream every one. A gate refuses by raising a `Refusal`; whatever else it
raises is a refusal too, because the doorway answers INTERNAL and never goes on.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol

import structlog
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from protovalidate import Validator

from tenure.v1 import agents_pb2
from tenure_server.core import errors, ids, records
from tenure_server.core.evidence import INSTALLATION, Act
from tenure_server.rpc import access, fields
from tenure_server.rpc.columns import Columns
from tenure_server.rpc.owned import Mention, Owned, Walker
from tenure_server.rpc.sizes import beside_the_loop

CORRELATION_HEADER = "x-correlation-id"
CREDENTIAL_HEADER = "authorization"
TENANT_HEADER = "x-tenure-tenant"
CORRELATION_CHARACTERS_MAX = 100
_VIOLATIONS_MAX = 20


class Desk(Protocol):
    """What the gates need to know from the engine."""

    async def principal(self, secret_hash: bytes) -> records.ApiKey | None:
        """The key with this hash, valid or not."""

    def still_valid(self, api_key_id: str) -> bool:
        """False once the key is revoked or expired. Cheap."""

    def now_us(self) -> int:
        """The time."""

    def check_seat(self, tenant_id: str) -> None:
        """Raises SeatElsewhere when another coordinator decides for the tenant."""

    def log_of(self, tenant_ids: Sequence[str]) -> Sequence[str]:
        """Where a call stands that chose no tenant."""

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
        """Judges a call or message under the constitutions of these tenants. Raises CallDenied."""

    async def record(self, act: Act, tenant_ids: Sequence[str]) -> str:
        """Writes down an act by which nothing changed, and gives the decision's id."""


@dataclass(slots=True, eq=False)
class Call:
    """One call on its way through the gates, and what they found out about it."""

    rule: access.AccessRule
    #: Pairs as they came; names are lower case.
    metadata: Iterable[tuple[str, str | bytes]]
    #: What is noted of it. On a stream, of its present message.
    act: Act = field(default_factory=partial(Act, kind="", principal=""))
    #: Whether messages come in as a stream.
    inbound_stream: bool = False
    correlation_id: str = ""
    key: records.ApiKey | None = None
    tenant_ids: tuple[str, ...] = ()
    tenant_id: str = ""
    #: Whether it can be written down.
    recorded: bool = True
    #: Why the stream is to end although its handler would go on.
    ended: errors.Refusal | None = None

    def header(self, name: str) -> str | None:
        """One header of ours, None when absent. Raises MetadataInvalid when it came twice."""
        values = [value for key, value in self.metadata if key == name]
        if not values:
            return None
        if len(values) > 1:
            raise errors.MetadataInvalid(f"{name} came {len(values)} times", header=name)
        value = values[0]
        if isinstance(value, bytes) or not value.isprintable():
            raise errors.MetadataInvalid(f"{name} is not printable text", header=name)
        return value

    def caller(self) -> access.Caller:
        """Who calls, once every gate let the call in."""
        if self.key is None:
            raise LookupError(f"{self.rule.method} is open: it has no caller")
        return access.Caller(
            key=self.key,
            tenant_ids=self.tenant_ids,
            tenant_id=self.tenant_id,
            correlation_id=self.correlation_id,
            rule=self.rule,
            act=self.act,
        )

    def logs(self, desk: Desk) -> Sequence[str]:
        """The logs that the call stands in."""
        if self.tenant_id:
            return (self.tenant_id,)
        if self.key is None or records.Role.OPERATOR in self.key.roles:
            return (INSTALLATION,)
        if self.rule.all_tenants and self.tenant_ids:
            return self.tenant_ids
        return desk.log_of(self.key.tenant_ids)


class Gate:
    """Lets calls and messages pass, or refuses them."""

    #: Whether large messages are read in a thread. Such a gate asks nothing of its desk then.
    reads_beside_the_loop = False

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def enter(self, call: Call) -> None:
        """Hears of a call. Raises Refusal."""

    def admit(self, call: Call, message: Message) -> None:
        """Hears of an inbound message. Raises Refusal."""


class Correlation(Gate):
    """Gives the call the id that ties together everything it causes."""

    async def enter(self, call: Call) -> None:
        """Takes the caller's id, or makes one."""
        try:
            given = self._given(call)
        except errors.MetadataInvalid:
            self._bind(call, secrets.token_hex(16))
            raise
        self._bind(call, given or secrets.token_hex(16))

    @staticmethod
    def _given(call: Call) -> str | None:
        given = call.header(CORRELATION_HEADER)
        if given is not None and not 1 <= len(given) <= CORRELATION_CHARACTERS_MAX:
            raise errors.MetadataInvalid(
                f"{CORRELATION_HEADER} must have 1 to {CORRELATION_CHARACTERS_MAX} characters",
                header=CORRELATION_HEADER,
            )
        return given

    @staticmethod
    def _bind(call: Call, correlation_id: str) -> None:
        call.correlation_id = call.act.correlation_id = correlation_id
        structlog.contextvars.bind_contextvars(
            correlation_id=correlation_id, method=call.rule.method
        )


class Identity(Gate):
    """Finds out who calls: the API key, known to us by the hash of its secret only."""

    async def enter(self, call: Call) -> None:
        """Wants a key that is valid now."""
        if call.rule.open:
            return
        header = call.header(CREDENTIAL_HEADER)
        if header is None:
            raise errors.CredentialMissing("no 'authorization: Bearer …' came with the call")
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise errors.CredentialMissing("authorization must read 'Bearer' and an API key")
        key = await self._desk.principal(hashlib.sha256(secret.encode()).digest())
        if key is None or not key.valid_at(self._desk.now_us()):
            raise _credential_invalid()
        call.key = key
        call.act.principal = key.api_key_id
        call.act.roles = tuple(sorted(role.name.lower() for role in key.roles))
        structlog.contextvars.bind_contextvars(api_key_id=key.api_key_id)

    def admit(self, call: Call, message: Message) -> None:
        """Wants the key to be valid still."""
        if call.key is not None and not self._desk.still_valid(call.key.api_key_id):
            raise _credential_invalid()


class Tenancy(Gate):
    """Decides what the caller may call and for which tenants, and keeps other tenants' things out.

    Another tenant's thing is NOT_FOUND in the very words of a thing that does not exist. This is
    the first of two checks: handlers read through a store that is bound to the tenant.
    """

    reads_beside_the_loop = True

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._walkers = {request.full_name: Walker(request) for request in access.request_types()}

    async def enter(self, call: Call) -> None:
        """Wants a role that the rule names, and one tenant where the rule needs one."""
        key = call.key
        if key is None:
            return
        rule = call.rule
        if rule.roles.isdisjoint(key.roles):
            names = ", ".join(role.name.lower() for role in sorted(rule.roles))
            raise errors.RoleMissing(f"this call needs one of the roles {names}", roles=names)
        call.tenant_ids = key.tenant_ids
        if records.Role.OPERATOR in key.roles and (rule.tenantless or rule.installation):
            return
        asked = call.header(TENANT_HEADER)
        if asked:
            if asked not in key.tenant_ids:
                raise errors.NotFound("tenant", asked)
            if not rule.tenantless:
                call.tenant_ids = (asked,)
        if rule.tenantless:
            return
        self._choose(call)

    def admit(self, call: Call, message: Message) -> None:
        """Wants everything that the message names to be the caller's."""
        walker = self._walkers.get(message.DESCRIPTOR.full_name)
        if walker is None or walker.names_nothing or call.key is None:
            return
        mentions = list(walker.mentions(message))
        if records.Role.OPERATOR not in call.key.roles:
            self._check(call.tenant_ids, mentions)
        if not call.inbound_stream:
            # What is somebody else's is not even named in the caller's own log.
            call.act.subject = _subject(mentions)
        if isinstance(message, agents_pb2.WorkRequest) and message.hello.tenant_ids:
            # The agent serves no others on this stream: nothing of it concerns them.
            call.tenant_ids = tuple(sorted(message.hello.tenant_ids))

    @staticmethod
    def _check(tenant_ids: tuple[str, ...], mentions: Iterable[Mention]) -> None:
        for path, owned, value in mentions:
            if owned is Owned.WORKFLOW:
                continue
            if owned is Owned.TENANT:
                if value not in tenant_ids:
                    raise errors.NotFound("tenant", value)
            elif not _in_scope(value, tenant_ids):
                if not _is_uuid(value):
                    raise errors.FieldsInvalid([(path, "must be a valid UUID")])
                raise errors.NotFound(_WORDS[owned], value)

    def _choose(self, call: Call) -> None:
        if not call.tenant_ids:
            raise errors.TenantNotChosen("the key acts for no tenant")
        if len(call.tenant_ids) == 1:
            call.tenant_id = call.tenant_ids[0]
            structlog.contextvars.bind_contextvars(tenant=call.tenant_id)
            # Reads too: only the holder of the seat can write down that somebody read.
            self._check_seat(call)
        elif not call.rule.all_tenants:
            raise errors.TenantNotChosen(
                f"the key acts for {len(call.tenant_ids)} tenants: name one in {TENANT_HEADER}"
            )

    def _check_seat(self, call: Call) -> None:
        try:
            self._desk.check_seat(call.tenant_id)
        except errors.Quarantined:
            if call.rule.evidence not in _LOOKING:
                raise
            # So that people can look. The log takes nothing any more, not even that.
            call.recorded = False


class Rate(Gate):
    """The place of the rate gate. It counts nothing yet, so it lets everything pass."""


class Contract(Gate):
    """Holds messages against the field rules that the contract declares."""

    reads_beside_the_loop = True

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._validator = Validator()
        # Frames are many and alike: whole columns of them can be judged at once.
        self._columns = {
            method.input_type.full_name: Columns(method.input_type)
            for method in access.methods()
            if method.client_streaming
        }
        # The first use of a type compiles its rules: no call shall wait for that.
        for request in access.request_types():
            self._validator.collect_violations(GetMessageClass(request)())

    def admit(self, call: Call, message: Message) -> None:
        """Wants every field to keep its rule, and no field that we do not know."""
        columns = self._columns.get(message.DESCRIPTOR.full_name)
        if columns is not None and columns.surely_valid(message):
            return
        if violations := self._validator.collect_violations(message):
            raise errors.FieldsInvalid([fields.read(item) for item in violations[:_VIOLATIONS_MAX]])
        # A newer client's field must not be dropped silently: it may change what the call means.
        # Streams are spared: their frames are many, and newer agents say hello to older servers.
        if call.inbound_stream:
            return
        if found := [*fields.unknown_fields(message), *fields.unstorable(message, "")]:
            raise errors.FieldsInvalid(found[:_VIOLATIONS_MAX])


#: No article of a tenant can keep its admin from replacing it.
SET_CONSTITUTION = "/tenure.v1.Constitution/SetConstitution"


@lru_cache(maxsize=1000)
def rpc_facts(rule: access.AccessRule) -> dict[str, Any]:
    """What articles may look at under ``rpc``."""
    _, service, method = rule.method.split("/")
    return {
        "service": service.rpartition(".")[2],
        "method": method,
        "mutation": rule.mutation,
    }


class Constitution(Gate):
    """Has every call, and every message of a stream, judged for each tenant that it is for.

    gRPC's own services, which leave no evidence, are not judged.
    """

    def admit(self, call: Call, message: Message) -> None:
        """Wants no article to deny it."""
        rule, act = call.rule, call.act
        if call.key is None or not rule.recorded:
            return
        if call.inbound_stream:
            # What was said of the message before is not said of this one.
            act.objections, act.facts = [], None
        tenant_ids: Sequence[str] = call.tenant_ids if rule.all_tenants else (call.tenant_id,)
        denying = self._desk.judge_call(
            act,
            rpc_facts(rule),
            tenant_ids,
            platform_only=rule.method == SET_CONSTITUTION,
            keeps_facts=rule.mutation and not rule.all_tenants,
            # One tenant's articles are not to keep an agent from the others. A stream that has
            # begun is ended instead, and begins anew without that tenant.
            divisible=rule.all_tenants and not act.taken,
        )
        if denying:
            call.tenant_ids = tuple(name for name in call.tenant_ids if name not in denying)


#: Every call passes these, in this order; then its handler hears of it.
GATES: tuple[type[Gate], ...] = (
    Correlation,
    Identity,
    Tenancy,
    Rate,
    Contract,
    Constitution,
)


class Chain:
    """The gates, built and in order."""

    def __init__(self, desk: Desk, rules: Mapping[str, access.AccessRule]) -> None:
        self.rules = rules
        self.desk = desk
        #: Whether the coordinator stops: then only calls that are open to everybody pass.
        self.closing = False
        gates = [gate(desk) for gate in GATES]
        self._enter = [gate for gate in gates if type(gate).enter is not Gate.enter]
        self._admit = [gate for gate in gates if type(gate).admit is not Gate.admit]

    async def enter(self, call: Call) -> None:
        """Leads a call through the first side of every gate. Raises Refusal."""
        for gate in self._enter:
            await gate.enter(call)
        if self.closing and not call.rule.open:
            raise errors.Stopping("the coordinator is stopping")

    def admit(self, call: Call, message: Message) -> None:
        """Leads a message through the second side of every gate. Raises Refusal."""
        for gate in self._admit:
            gate.admit(call, message)

    async def admit_large(self, call: Call, message: Message) -> None:
        """As `admit`, for a message so large that others would wait."""
        for gate in self._admit:
            work = partial(gate.admit, call, message)
            await beside_the_loop(gate.reads_beside_the_loop, work)


#: The evidence of calls that look at evidence.
_LOOKING = frozenset({"evidence.read", "evidence.export"})

_WORDS = {
    Owned.TENANT: "tenant",
    Owned.RUN: "run",
    Owned.API_KEY: "API key",
    Owned.AGENT: "agent",
}


def _subject(mentions: Iterable[Mention]) -> dict[str, str]:
    """What a request names, as its evidence has it: of each kind of thing, if it is one only."""
    named: dict[Owned, str] = {}
    several: set[Owned] = set()
    for _, owned, value in mentions:
        if named.setdefault(owned, value) != value:
            several.add(owned)
    return {owned.name.lower(): value for owned, value in named.items() if owned not in several}


def _credential_invalid() -> errors.CredentialInvalid:
    return errors.CredentialInvalid("the API key is unknown, expired or revoked")


@lru_cache(maxsize=65_536)
def _in_scope(name: str, tenant_ids: tuple[str, ...]) -> bool:
    return any(ids.belongs(name, tenant_id) for tenant_id in tenant_ids)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
