"""A call on its way through the gates, what a gate is, and what gates ask of the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from google.protobuf.message import Message

from tenure_server.core import errors
from tenure_server.core.evidence import INSTALLATION, Act
from tenure_server.core.ledger import records
from tenure_server.rpc import access


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
    #: Tenants of an agent's stream that it is not served here.
    elsewhere: tuple[access.SeatElsewhere, ...] = ()
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
            elsewhere=self.elsewhere,
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
