"""Whatever names a tenant's own is marked, and the walker finds it wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_server.rpc import access
from tenure_server.rpc.owned import Owned, Walker, marked

#: What a field of this name must be marked as, in any message.
MARKS = {
    "run_id": Owned.RUN,
    "left_run_id": Owned.RUN,
    "right_run_id": Owned.RUN,
    "tenant_id": Owned.TENANT,
    "tenant_ids": Owned.TENANT,
    "api_key_id": Owned.API_KEY,
    "agent_id": Owned.AGENT,
    "created_by": Owned.API_KEY,
    "started_by": Owned.API_KEY,
    "paused_by": Owned.API_KEY,
    "asked_by": Owned.API_KEY,
    "open_run_ids": Owned.RUN,
    "run_ids": Owned.RUN,
    "child_run_id": Owned.RUN,
    "parent_run_id": Owned.RUN,
}
#: Ids that name nothing a tenant owns, or a thing that does not exist yet.
UNMARKED = {
    "request_id",
    "correlation_id",
    "tenure.v1.CreateTenantRequest.tenant_id",
}


def _reached() -> Iterator[Descriptor]:
    """Every message type of requests and responses, nested ones too."""
    seen: set[str] = set()
    waiting = [
        message
        for file in access.CONTRACT
        for service in file.services_by_name.values()
        for method in service.methods
        for message in (method.input_type, method.output_type)
    ]
    while waiting:
        message = waiting.pop()
        if message.full_name in seen or not message.full_name.startswith("tenure."):
            continue
        seen.add(message.full_name)
        yield message
        waiting += [field.message_type for field in message.fields if field.message_type]


FIELDS = [field for message in _reached() for field in message.fields]
STRING = FieldDescriptor.TYPE_STRING


@pytest.mark.parametrize(
    "field",
    [it for it in FIELDS if it.type == STRING and it.name.endswith(("_id", "_ids", "_by"))],
    ids=lambda field: field.full_name,
)
def test_every_id_says_whose_it_is(field: FieldDescriptor) -> None:
    """A new id field without its mark would pass the tenant gate unseen."""
    if field.name in UNMARKED or field.full_name in UNMARKED:
        assert marked(field) is None
    else:
        assert marked(field) is MARKS[field.name]


def test_marks_stand_on_strings_only() -> None:
    """The gate reads marked fields as names."""
    assert all(field.type == STRING for field in FIELDS if marked(field) is not None)
    assert {marked(field) for field in FIELDS} >= set(Owned)


def test_nested_and_streamed_ids_are_found() -> None:
    """One frame of an agent: hello, accepts, renewals, results and returns."""
    frame = agents_pb2.WorkRequest(
        hello=agents_pb2.Hello(
            tenant_ids=["t1", "t2"], held=[agents_pb2.LeaseRef(run_id="r-held")]
        ),
        accepts=[agents_pb2.LeaseRef(run_id="r-accepted")],
        renewals=[agents_pb2.Renewal(lease=agents_pb2.LeaseRef(run_id="r-renewed"))],
        results=[
            agents_pb2.Result(lease=agents_pb2.LeaseRef(run_id="r-done")),
            agents_pb2.Result(lease=agents_pb2.LeaseRef(run_id="r-failed")),
            agents_pb2.Result(lease=agents_pb2.LeaseRef(run_id="r-done")),
        ],
        returns=[agents_pb2.LeaseRef(run_id="r-returned")],
    )
    found = list(Walker(agents_pb2.WorkRequest.DESCRIPTOR).mentions(frame))
    assert sorted(found) == [
        ("accepts.run_id", Owned.RUN, "r-accepted"),
        ("hello.held.run_id", Owned.RUN, "r-held"),
        ("hello.tenant_ids", Owned.TENANT, "t1"),
        ("hello.tenant_ids", Owned.TENANT, "t2"),
        ("renewals.lease.run_id", Owned.RUN, "r-renewed"),
        ("results.lease.run_id", Owned.RUN, "r-done"),
        ("results.lease.run_id", Owned.RUN, "r-failed"),
        ("returns.run_id", Owned.RUN, "r-returned"),
    ]


def test_unset_fields_are_not_mentioned() -> None:
    """An empty request names nothing."""
    for request in access.request_types():
        assert list(Walker(request).mentions(GetMessageClass(request)())) == []


def test_messages_that_mark_nothing_are_known_beforehand() -> None:
    """So that they cost nothing at all."""
    assert Walker(payload_pb2.Payload.DESCRIPTOR).names_nothing
    assert Walker(tenants_pb2.ListTenantsRequest.DESCRIPTOR).names_nothing
    assert not Walker(workflows_pb2.RegisterWorkflowRequest.DESCRIPTOR).names_nothing


@pytest.mark.parametrize("request_type", list(access.request_types()), ids=lambda it: it.name)
def test_every_marked_field_of_every_request_is_found(request_type: Descriptor) -> None:
    """Filled by a walk of its own, each marked field comes back from the walker."""
    message = GetMessageClass(request_type)()
    filled = set(_fill(message, ""))
    assert set(Walker(request_type).mentions(message)) == filled


def _fill(message: Any, prefix: str) -> Iterator[tuple[str, Owned, str]]:
    """Writes a name into every marked field, entering every part, and tells of each."""
    for field in message.DESCRIPTOR.fields:
        path = f"{prefix}{field.name}"
        owned = marked(field)
        part = field.message_type
        if owned is not None:
            value = f"name-of-{path}"
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
            yield path, owned, value
        elif part is not None and part.full_name.startswith("tenure."):
            if part.GetOptions().map_entry:
                continue
            if field.is_repeated:
                yield from _fill(getattr(message, field.name).add(), f"{path}.")
            else:
                getattr(message, field.name).SetInParent()
                yield from _fill(getattr(message, field.name), f"{path}.")


def test_values_of_maps_are_entered() -> None:
    """No map of the contract holds marked fields yet; the walker would enter one that did."""
    context = runs_pb2.BatchStartRunsRequest(
        requests=[runs_pb2.StartRunRequest(workflow="w", labels={"run_id": "x"})]
    )
    found = list(Walker(runs_pb2.BatchStartRunsRequest.DESCRIPTOR).mentions(context))
    assert found == [("requests.workflow", Owned.WORKFLOW, "w")]
