"""Who calls, and what each RPC asks of its caller: read off the descriptors of the contract.

An RPC without a whole access rule is a fault of the contract, and the coordinator does not start.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    FileDescriptor,
    MethodDescriptor,
)
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tenure.v1 import (
    access_pb2,
    agents_pb2,
    constitution_pb2,
    evidence_pb2,
    runs_pb2,
    schedules_pb2,
    tenants_pb2,
    workflows_pb2,
)
from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records

#: The files of the contract that declare services.
CONTRACT = (
    agents_pb2.DESCRIPTOR,
    constitution_pb2.DESCRIPTOR,
    evidence_pb2.DESCRIPTOR,
    runs_pb2.DESCRIPTOR,
    schedules_pb2.DESCRIPTOR,
    tenants_pb2.DESCRIPTOR,
    workflows_pb2.DESCRIPTOR,
)
#: Services that come with gRPC, and who may call them. Nobody: everybody, without a credential.
PLATFORM: Mapping[Any, frozenset[records.Role]] = {
    health_pb2.DESCRIPTOR: frozenset(),
    reflection_pb2.DESCRIPTOR: frozenset(),
    channelz_pb2.DESCRIPTOR: frozenset({records.Role.OPERATOR}),
}


#: What stands for evidence in rules of services that leave none.
PLATFORM_EVIDENCE = "platform.read"


class ContractFault(Exception):  # noqa: N818 (a fault is no refusal and no error of a caller)
    """The contract itself is not whole. The coordinator must not serve under it."""


class RateClass(enum.IntEnum):
    """How calls of one kind are counted by the rate gate. Numbers as in the contract."""

    READ = 1
    WRITE = 2
    WORK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """What one RPC asks of its caller."""

    #: The full name, such as ``/tenure.v1.Runs/StartRun``.
    method: str
    #: Any one of these roles is enough. Empty only for calls that need no credential.
    roles: frozenset[records.Role]
    #: The kind of evidence that an accepted call leaves.
    evidence: str
    rate: RateClass
    #: Whether the call changes state and therefore can carry a ``request_id``.
    mutation: bool = False
    #: Whether the call concerns the installation or the caller itself.
    tenantless: bool = False
    #: Whether an operator's call concerns the installation, and everybody else's their tenant.
    installation: bool = False

    @property
    def open(self) -> bool:
        """Whether anybody may call, without a credential."""
        return not self.roles

    @property
    def recorded(self) -> bool:
        """Whether calls leave evidence: those of the contract do, gRPC's own services do not."""
        return self.evidence != PLATFORM_EVIDENCE

    @property
    def all_tenants(self) -> bool:
        """Whether the call acts for all tenants of its caller at once: the agents' protocol."""
        return self.rate is RateClass.WORK


@dataclass(frozen=True, slots=True)
class SeatElsewhere:
    """A tenant that another coordinator decides for, or nobody."""

    tenant_id: str
    #: Where its holder is reached; empty where that is not known.
    address: str = ""
    #: Whether it is stopped, because its record is broken.
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call, and for which tenants."""

    key: records.ApiKey
    #: The tenants that the call may concern.
    tenant_ids: tuple[str, ...]
    #: The one tenant that the call is for; empty where it concerns none or several.
    tenant_id: str
    correlation_id: str
    rule: AccessRule
    #: What is noted of the call.
    act: Act = field(default_factory=partial(Act, kind=""))
    #: Tenants of an agent's stream that it is not served here.
    elsewhere: tuple[SeatElsewhere, ...] = ()

    @property
    def is_operator(self) -> bool:
        """Whether the caller runs the installation."""
        return records.Role.OPERATOR in self.key.roles

    @property
    def origin(self) -> records.Origin:
        """Where an act of this call comes from."""
        return records.Origin(
            tenant_id=self.tenant_id,
            api_key_id=self.key.api_key_id,
            correlation_id=self.correlation_id,
            act=self.act,
        )


_CALLER: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """The caller of the RPC that this task handles. Raises LookupError outside of one."""
    return _CALLER.get()


def remember_caller(value: Caller) -> None:
    """Makes `caller` give this value in the present task."""
    _CALLER.set(value)


def contract_rules(files: Iterable[FileDescriptor] = CONTRACT) -> Mapping[str, AccessRule]:
    """Reads the rule of every RPC, by its full name.

    Raises ContractFault for the first RPC that has none, or one that is not whole.
    """
    rules = [_read_rule(method) for method in methods(files)]
    return MappingProxyType({rule.method: rule for rule in rules})


def all_rules() -> Mapping[str, AccessRule]:
    """The rules of everything the coordinator serves, by full name. Raises ContractFault."""
    return MappingProxyType({**contract_rules(), **_platform_rules()})


def methods(files: Iterable[FileDescriptor] = CONTRACT) -> Iterator[MethodDescriptor]:
    """Every RPC of these files."""
    for file in files:
        for service in file.services_by_name.values():
            yield from service.methods


def request_types(files: Iterable[FileDescriptor] = CONTRACT) -> Iterator[Descriptor]:
    """The request message of every RPC."""
    for method in methods(files):
        yield method.input_type


def full_name(method: MethodDescriptor) -> str:
    """The name of an RPC as it stands on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def _platform_rules() -> dict[str, AccessRule]:
    return {
        full_name(method): AccessRule(
            method=full_name(method),
            roles=roles,
            evidence=PLATFORM_EVIDENCE,
            rate=RateClass.READ,
            tenantless=True,
        )
        for file, roles in PLATFORM.items()
        for method in methods([file])
    }


def _read_rule(method: MethodDescriptor) -> AccessRule:
    name = full_name(method)
    options = method.GetOptions()
    if not options.HasExtension(access_pb2.access):
        raise ContractFault(f"{name} has no access rule")
    rule = options.Extensions[access_pb2.access]
    try:
        roles = frozenset(records.Role(role) for role in rule.roles)
        rate = RateClass(rule.rate)
    except ValueError as error:
        raise ContractFault(f"{name}: {error}") from None
    if not roles:
        raise ContractFault(f"{name} names no role")
    if not rule.evidence:
        raise ContractFault(f"{name} names no evidence")
    if rule.mutation and not _carries_request_id(method.input_type):
        raise ContractFault(f"{name} changes state but carries no request_id")
    return AccessRule(
        method=name,
        roles=roles,
        evidence=rule.evidence,
        rate=rate,
        mutation=rule.mutation,
        tenantless=rule.tenantless,
        installation=rule.installation,
    )


def _carries_request_id(message: Descriptor) -> bool:
    """Whether a request has a `request_id`, itself or in each of the requests it is a batch of."""
    if "request_id" in message.fields_by_name:
        return True
    return any("request_id" in part.fields_by_name for part in _parts(message))


def _parts(message: Descriptor) -> Iterator[Descriptor]:
    for item in message.fields:
        if item.type == FieldDescriptor.TYPE_MESSAGE and item.message_type is not None:
            yield item.message_type
