"""The one path of every call, in order, for all four RPC shapes; see `GATES`.

A gate has two sides. `enter` hears of the call before any message of it is looked at; `admit` hears
each inbound message, on a stream every one. A gate refuses by raising a `Refusal`; whatever else it
raises is a refusal too, because the doorway answers INTERNAL and never goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any

import structlog
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from protovalidate import Validator

from tenure.v1 import agents_pb2
from tenure_server.core import errors
from tenure_server.engine.chance import draw
from tenure_server.rpc import access, fields
from tenure_server.rpc.api_keys import secret_hash
from tenure_server.rpc.calls import Call, Desk, Gate
from tenure_server.rpc.columns import Columns
from tenure_server.rpc.sizes import beside_the_loop
from tenure_server.rpc.tenancy import Tenancy

CORRELATION_HEADER = "x-correlation-id"
CREDENTIAL_HEADER = "authorization"
CORRELATION_CHARACTERS_MAX = 100
_VIOLATIONS_MAX = 20


class Correlation(Gate):
    """Gives the call the id that ties together everything it causes."""

    async def enter(self, call: Call) -> None:
        """Takes the caller's id, or makes one."""
        try:
            given = self._given(call)
        except errors.MetadataInvalid:
            self._bind(call, draw(16).hex())
            raise
        self._bind(call, given or draw(16).hex())

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
        key = await self._desk.principal(secret_hash(secret))
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


class Rate(Gate):
    """The place of the rate gate. It counts nothing yet, so it lets everything pass."""


@cache
def _rules_of_the_contract() -> tuple[Validator, Mapping[str, Columns]]:
    """The field rules, compiled: of every message, and by column of those that clients stream.

    They are the same for every coordinator of a process, and nobody changes them.
    """
    validator = Validator()
    # The first use of a type compiles its rules: no call shall wait for that.
    for request in access.request_types():
        validator.collect_violations(GetMessageClass(request)())
    # Frames are many and alike: whole columns of them can be judged at once.
    columns = {
        method.input_type.full_name: Columns(method.input_type)
        for method in access.methods()
        if method.client_streaming
    }
    return validator, columns


class Contract(Gate):
    """Holds messages against the field rules that the contract declares."""

    reads_beside_the_loop = True

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._validator, self._columns = _rules_of_the_contract()

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


class Seats(Gate):
    """Keeps an agent that serves several coordinators from tenants that are decided for elsewhere.

    They are judged, and what concerns them is written down, where their seats are held.
    """

    def admit(self, call: Call, message: Message) -> None:
        """Wants the seat of one of its tenants at least to be held here."""
        if not isinstance(message, agents_pb2.WorkRequest) or not message.hello.several:
            return
        refusals = {tenant_id: self._refusal(tenant_id) for tenant_id in call.tenant_ids}
        here = tuple(tenant_id for tenant_id, refusal in refusals.items() if refusal is None)
        away = {tenant_id: refusal for tenant_id, refusal in refusals.items() if refusal}
        if not here:
            found = list(away.values())
            raise next((one for one in found if isinstance(one, errors.SeatElsewhere)), found[0])
        call.tenant_ids = here
        call.elsewhere = tuple(
            access.SeatElsewhere(
                tenant_id,
                refusal.facts.get("holder", ""),
                isinstance(refusal, errors.Quarantined),
            )
            for tenant_id, refusal in away.items()
        )

    def _refusal(self, tenant_id: str) -> errors.Refusal | None:
        try:
            self._desk.check_seat(tenant_id)
        except (errors.SeatElsewhere, errors.Quarantined) as refusal:
            return refusal
        return None


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
    Seats,
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
        self.check_open(call)

    def check_open(self, call: Call) -> None:
        """Raises Stopping for a call that came, or got its turn, too late."""
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


def _credential_invalid() -> errors.CredentialInvalid:
    return errors.CredentialInvalid("the API key is unknown, expired or revoked")
