"""The gate between tenants: what a caller may call, for whom, and whose things it may name."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

import structlog
from google.protobuf.message import Message

from tenure.v1 import agents_pb2
from tenure_server.core import errors, ids
from tenure_server.core.ledger import records
from tenure_server.rpc import access
from tenure_server.rpc.calls import Call, Desk, Gate
from tenure_server.rpc.owned import BY_NAME, Mention, Owned, Walker

TENANT_HEADER = "x-tenure-tenant"
#: The evidence of calls that look at evidence.
_LOOKING = frozenset({"evidence.read", "evidence.export"})

_WORDS = {
    Owned.TENANT: "tenant",
    Owned.RUN: "run",
    Owned.API_KEY: "API key",
    Owned.AGENT: "agent",
}

#: What several tenants may have together. Such a thing carries no tenant's tag, so that only its
#: handler can tell whose it is.
_SHARED = frozenset({Owned.API_KEY, Owned.AGENT})


@cache
def _walkers() -> Mapping[str, Walker]:
    """What finds the marks of every request, the same for every coordinator of a process."""
    return {request.full_name: Walker(request) for request in access.request_types()}


class Tenancy(Gate):
    """Decides what the caller may call and for which tenants, and keeps other tenants' things out.

    Another tenant's thing is NOT_FOUND in the very words of a thing that does not exist. This is
    the first of two checks: handlers read through a store that is bound to the tenant.
    """

    reads_beside_the_loop = True

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._walkers = _walkers()

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
            # An agent may tell the wrong one of its coordinators, and is sent on.
            beside = tuple(seat.tenant_id for seat in call.elsewhere)
            self._check(call.tenant_ids + beside, mentions)
        if not call.inbound_stream:
            # What is somebody else's is not even named in the caller's own log.
            call.act.subject = _subject(mentions)
        if isinstance(message, agents_pb2.WorkRequest) and message.hello.tenant_ids:
            # The agent serves no others on this stream: nothing of it concerns them.
            call.tenant_ids = tuple(sorted(message.hello.tenant_ids))

    @staticmethod
    def _check(tenant_ids: tuple[str, ...], mentions: Iterable[Mention]) -> None:
        for path, owned, value in mentions:
            if owned in BY_NAME:
                continue
            if owned is Owned.TENANT:
                if value not in tenant_ids:
                    raise errors.NotFound("tenant", value)
            elif not _in_scope(value, _owners(owned, tenant_ids)):
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


def _owners(owned: Owned, tenant_ids: tuple[str, ...]) -> tuple[str, ...]:
    return (*tenant_ids, ids.INSTALLATION) if owned in _SHARED else tenant_ids


def _subject(mentions: Iterable[Mention]) -> dict[str, str]:
    """What a request names, as its evidence has it: of each kind of thing, if it is one only.

    What it is about lies less deep than what that mentions in turn, such as sub-workflows.
    """
    named: dict[Owned, tuple[int, set[str]]] = {}
    for path, owned, value in mentions:
        depth = path.count(".")
        least, values = named.get(owned, (depth, set()))
        if depth < least or not values:
            named[owned] = depth, {value}
        elif depth == least:
            values.add(value)
    return {
        owned.name.lower(): values.pop() for owned, (_, values) in named.items() if len(values) == 1
    }


@lru_cache(maxsize=65_536)
def _in_scope(name: str, tenant_ids: tuple[str, ...]) -> bool:
    return any(ids.belongs(name, tenant_id) for tenant_id in tenant_ids)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
