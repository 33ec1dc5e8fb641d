"""Every RPC has a rule, read off the contract, and a contract that is not whole is refused."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor

from tenure.v1 import access_pb2
from tenure_server.core.ledger.records import Role
from tenure_server.rpc import access

RULES = access.contract_rules()


def test_every_rpc_of_the_contract_has_a_rule() -> None:
    """No RPC can be served that the gates know nothing of."""
    served = {
        access.full_name(method)
        for file in access.CONTRACT
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert set(RULES) == served
    assert len(served) >= 26


def test_rules_are_read_as_declared() -> None:
    """Roles, evidence, rate and flags arrive as they stand in the contract."""
    rule = RULES["/tenure.v1.Runs/StartRun"]
    assert rule.roles == {Role.SUBMITTER, Role.TENANT_ADMIN}
    assert rule.evidence == "run.start"
    assert rule.rate is access.RateClass.WRITE
    assert rule.mutation
    assert not rule.tenantless
    assert not rule.all_tenants
    assert RULES["/tenure.v1.Agents/Work"].all_tenants
    assert RULES["/tenure.v1.Tenants/GetCaller"].tenantless


def test_only_health_and_reflection_are_open_to_everybody() -> None:
    """Whatever else is served asks for a credential; channelz asks for an operator's."""
    open_services = {rule.method.split("/")[1] for rule in access.all_rules().values() if rule.open}
    assert open_services == {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    channelz = [rule for rule in access.all_rules().values() if ".channelz." in rule.method]
    assert channelz
    assert all(rule.roles == {Role.OPERATOR} for rule in channelz)


def test_operators_see_nothing_inside_a_tenant() -> None:
    """The role that runs the installation calls RPCs only that are tenantless, or that concern the
    installation when an operator calls them.
    """
    for rule in RULES.values():
        may = rule.tenantless or rule.installation
        assert may or Role.OPERATOR not in rule.roles, rule.method
    services = {rule.method.split("/")[1] for rule in RULES.values() if rule.installation}
    assert services == {"tenure.v1.Evidence"}, "the one log beside the tenants' own"


WHOLE = access_pb2.AccessRule(
    roles=[access_pb2.ROLE_VIEWER], evidence="thing.read", rate=access_pb2.RATE_CLASS_READ
)


def _without(field: str) -> access_pb2.AccessRule:
    rule = access_pb2.AccessRule()
    rule.CopyFrom(WHOLE)
    rule.ClearField(field)  # type: ignore[arg-type]
    return rule


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (None, "has no access rule"),
        (_without("roles"), "names no role"),
        (_without("evidence"), "names no evidence"),
        (_without("rate"), "0 is not a valid RateClass"),
        (
            access_pb2.AccessRule(
                roles=[access_pb2.ROLE_UNSPECIFIED], evidence="x.y", rate=access_pb2.RATE_CLASS_READ
            ),
            "0 is not a valid Role",
        ),
        (
            access_pb2.AccessRule(
                roles=[access_pb2.ROLE_VIEWER],
                evidence="x.y",
                rate=access_pb2.RATE_CLASS_READ,
                mutation=True,
            ),
            "carries no request_id",
        ),
    ],
)
def test_an_rpc_without_a_whole_rule_is_a_fault_of_the_contract(
    rule: access_pb2.AccessRule | None, complaint: str
) -> None:
    """The coordinator does not start under a contract that forgot to say who may call."""
    with pytest.raises(access.ContractFault, match=complaint):
        access.contract_rules([_service_file(rule)])


def test_a_whole_rule_is_taken() -> None:
    """The very file of the faults above is fine once its rule is whole."""
    rules = access.contract_rules([_service_file(WHOLE)])
    assert list(rules) == ["/test.Things/Do"]


def _service_file(rule: access_pb2.AccessRule | None) -> FileDescriptor:
    """A file with one service of one RPC under this rule."""
    file = descriptor_pb2.FileDescriptorProto(
        name="things.proto",
        package="test",
        syntax="proto3",
        message_type=[descriptor_pb2.DescriptorProto(name="Empty")],
    )
    method = descriptor_pb2.MethodDescriptorProto(
        name="Do", input_type=".test.Empty", output_type=".test.Empty"
    )
    if rule is not None:
        method.options.Extensions[access_pb2.access].CopyFrom(rule)
    file.service.add(name="Things", method=[method])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindFileByName("things.proto")
