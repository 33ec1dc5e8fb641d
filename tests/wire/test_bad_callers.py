"""Callers who lie, guess, pry or talk nonsense: each is refused and changes nothing."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterable

import grpc
import pytest
from google.protobuf.message import Message
from tests.wire.installation import Installation
from tests.wire.raw import Before, Line, Metadata, Said, bearer

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, tenants_pb2, workflows_pb2

BAD = grpc.StatusCode.INVALID_ARGUMENT
UNKNOWN_CALLER = grpc.StatusCode.UNAUTHENTICATED
MIB = 1 << 20
_START_RUN = "Runs/StartRun"
_KNOWN = runs_pb2.StartRunRequest(workflow="known")

KEY = "tnr_" + "k" * 43


def headers(*names_and_values: str) -> Metadata:
    """Metadata from a flat list."""
    pairs = iter(names_and_values)
    return list(zip(pairs, pairs, strict=True))


@pytest.mark.parametrize(
    ("metadata", "code", "reason"),
    [
        ((), UNKNOWN_CALLER, "CREDENTIAL_MISSING"),
        (("authorization", "Basic abc"), UNKNOWN_CALLER, "CREDENTIAL_MISSING"),
        (("authorization", "Bearer"), UNKNOWN_CALLER, "CREDENTIAL_MISSING"),
        (("authorization", f"Bearer {KEY}"), UNKNOWN_CALLER, "CREDENTIAL_INVALID"),
        (("authorization", "Bearer ' OR 1=1"), UNKNOWN_CALLER, "CREDENTIAL_INVALID"),
        (("authorization", "Bearer OURS", "authorization", "Bearer OURS"), BAD, "METADATA_INVALID"),
        (("authorization", "Bearer OURS", "x-correlation-id", ""), BAD, "METADATA_INVALID"),
        (("authorization", "Bearer OURS", "x-correlation-id", "c" * 101), BAD, "METADATA_INVALID"),
        (
            ("authorization", "Bearer OURS", "x-correlation-id", "a", "x-correlation-id", "b"),
            BAD,
            "METADATA_INVALID",
        ),
        (
            ("authorization", "Bearer OURS", "x-tenure-tenant", "beta"),
            grpc.StatusCode.NOT_FOUND,
            "NOT_FOUND",
        ),
        (
            ("authorization", "Bearer OURS", "x-tenure-tenant", "unheard-of"),
            grpc.StatusCode.NOT_FOUND,
            "NOT_FOUND",
        ),
    ],
    ids=str,
)  # fmt: skip
async def test_metadata_that_cannot_be_trusted_is_refused(
    metadata: tuple[str, ...],
    code: grpc.StatusCode,
    reason: str,
    seeded: Installation,
    line: Line,
) -> None:
    """`OURS` stands for the key of an admin."""
    ours = await seeded.secret("admin")
    sent = headers(*(word.replace("OURS", ours) for word in metadata))
    before = Before(seeded.folder / "tenure.db")
    for method in (_START_RUN, "Runs/ListRuns", "Runs/WatchRun"):
        said = await line.unary(method, _KNOWN if method == _START_RUN else b"", sent)
        assert (said.code, said.reason) == (code, reason), said.message
        assert ours not in said.message
    before.check(*[reason] * 3)


async def test_the_tenant_header_betrays_no_foreign_tenant(
    seeded: Installation, line: Line
) -> None:
    """A tenant that is not the caller's and one that does not exist get the same words."""
    key = bearer(await seeded.secret("admin"))
    said = [
        await line.unary("Runs/ListRuns", b"", [key, ("x-tenure-tenant", name)])
        for name in ("beta", "nope")
    ]
    assert said[0].message.replace("beta", "nope") == said[1].message


@pytest.mark.parametrize(
    ("role", "method", "request_"),
    [
        ("viewer", _START_RUN, _KNOWN),
        ("viewer", "Agents/LeaseTasks", b""),
        ("viewer", "Tenants/CreateApiKey", b""),
        ("submitter", "Agents/SettleTasks", b""),
        ("submitter", "Tenants/ListApiKeys", b""),
        ("agent", "Runs/ListRuns", b""),
        ("agent", _START_RUN, _KNOWN),
        ("admin", "Tenants/CreateTenant", b""),
        ("admin", "Tenants/UpdateTenant", b""),
        ("admin", "Agents/LeaseTasks", b""),
        ("operator", "Runs/ListRuns", b""),
        ("operator", _START_RUN, _KNOWN),
    ],
)
async def test_who_may_not_is_denied_before_anything_is_read(
    role: str, method: str, request_: bytes | Message, seeded: Installation, line: Line
) -> None:
    """The request need not even be valid."""
    before = Before(seeded.folder / "tenure.db")
    said = await line.unary(method, request_, [bearer(await seeded.secret(role))])
    assert (said.code, said.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
    before.check("ROLE_MISSING")


async def test_an_admin_gives_neither_the_operators_role_nor_foreign_tenants(
    seeded: Installation, line: Line
) -> None:
    """Keys are a way up for nobody."""
    key = [bearer(await seeded.secret("admin"))]
    before = Before(seeded.folder / "tenure.db")
    make = "Tenants/CreateApiKey"
    up = tenants_pb2.CreateApiKeyRequest(name="up", roles=[5])  # type: ignore[list-item]
    assert (await line.unary(make, up, key)).code is grpc.StatusCode.PERMISSION_DENIED
    out = tenants_pb2.CreateApiKeyRequest(name="out", roles=[1], tenant_ids=["beta"])  # type: ignore[list-item]
    assert (await line.unary(make, out, key)).code is grpc.StatusCode.NOT_FOUND
    before.check("ROLE_MISSING", "NOT_FOUND")


def naming(run_id: str) -> Iterable[tuple[str, str, Message]]:
    """Every unary call that takes the id of a run, and who may make it."""
    yield "admin", "Runs/GetRun", runs_pb2.GetRunRequest(run_id=run_id)
    yield "admin", "Runs/GetTask", runs_pb2.GetTaskRequest(run_id=run_id, task_key="a")
    yield "admin", "Runs/ListTasks", runs_pb2.ListTasksRequest(run_id=run_id)
    yield "admin", "Runs/ListRunEvents", runs_pb2.ListRunEventsRequest(run_id=run_id)
    yield "admin", "Runs/WatchRun", runs_pb2.WatchRunRequest(run_id=run_id)
    yield "admin", "Runs/CancelRun", runs_pb2.CancelRunRequest(run_id=run_id)
    lease = agents_pb2.LeaseRef(run_id=run_id, task_key="a", term=1, token=b"token")
    renewal = agents_pb2.Renewal(lease=lease)
    result = agents_pb2.Result(lease=lease, stopped=agents_pb2.Stopped())
    yield "agent", "Agents/RenewLeases", agents_pb2.RenewLeasesRequest(renewals=[renewal])
    yield "agent", "Agents/SettleTasks", agents_pb2.SettleTasksRequest(results=[result])


async def test_another_tenants_run_is_not_found_in_the_words_of_one_that_never_was(
    seeded: Installation, line: Line
) -> None:
    """In every call that takes the id of a run."""
    foreign, never = seeded.seeds["beta/open"], str(uuid.uuid4())
    before = Before(seeded.folder / "tenure.db")
    for (role, method, there), (_, _, nowhere) in zip(naming(foreign), naming(never), strict=True):
        key = [bearer(await seeded.secret(role))]
        refused = await line.unary(method, there, key)
        unknown = await line.unary(method, nowhere, key)
        assert refused.code is grpc.StatusCode.NOT_FOUND, method
        assert _without(refused, foreign) == _without(unknown, never)
    before.check(*["NOT_FOUND"] * 2 * len(list(naming(foreign))))


def _without(said: Said, run_id: str) -> tuple[object, ...]:
    # The decision's number tells how much the caller's own tenant has asked.
    facts = [
        (name, value.replace(run_id, "ID")) for name, value in said.facts if name != "decision"
    ]
    return said.code, said.reason, said.message.replace(run_id, "ID"), said.fields, facts


async def test_page_tokens_are_good_for_one_caller_and_one_list(
    seeded: Installation, line: Line
) -> None:
    """Not for another key, tenant, list or filter, and not with a letter changed."""
    admin = bearer(await seeded.secret("admin"))
    page = await line.unary("Runs/ListRuns", runs_pb2.ListRunsRequest(page_size=1), [admin])
    token = runs_pb2.ListRunsResponse.FromString(page.answers[0]).next_page_token
    assert token
    again = runs_pb2.ListRunsRequest(page_token=token)
    assert (await line.unary("Runs/ListRuns", again, [admin])).code is grpc.StatusCode.OK
    bent = token[:-3] + ("A" if token[-3] != "A" else "B") + token[-2:]
    wrong: list[tuple[str, Message, tuple[str, str]]] = [
        ("Runs/ListRuns", again, bearer(await seeded.secret("viewer"))),
        ("Runs/ListRuns", again, bearer(await seeded.secret("admin", "beta"))),
        ("Runs/ListRuns", runs_pb2.ListRunsRequest(page_token=bent), admin),
        ("Runs/ListRuns", runs_pb2.ListRunsRequest(page_token=token, workflow="known"), admin),
        (
            "Workflows/ListWorkflows",
            workflows_pb2.ListWorkflowsRequest(page_token=token),
            admin,
        ),
    ]
    for method, request, key in wrong:
        said = await line.unary(method, request, [key])
        assert (said.code, said.reason) == (BAD, "PAGE_TOKEN_INVALID"), (method, request)


async def test_a_message_over_the_limit_is_refused_by_the_line(
    seeded: Installation, line: Line
) -> None:
    """65 MiB: no message of the contract is that large."""
    request = runs_pb2.StartRunRequest(
        workflow="known", input=payload_pb2.Payload(data=b"0" * (65 * MIB))
    )
    said = await line.unary(_START_RUN, request, [bearer(await seeded.secret("admin"))])
    assert said.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    after = await line.unary("Runs/ListRuns", b"", [bearer(await seeded.secret("admin"))])
    assert after.code is grpc.StatusCode.OK


GARBAGE = {
    "noise": random.Random(1).randbytes(4096),
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: tenure\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2 and then noise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(2).randbytes(4096),
    "nothing": b"",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_on_the_port_ends_its_own_connection_only(
    garbage: bytes, seeded: Installation, line: Line
) -> None:
    """Calls before, meanwhile and afterwards are served."""
    key = [bearer(await seeded.secret("admin"))]
    before = Before(seeded.folder / "tenure.db")
    host, _, port = seeded.coordinator.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(garbage)
        await writer.drain()
        meanwhile = await line.unary("Runs/ListRuns", b"", key)
        assert meanwhile.code is grpc.StatusCode.OK
        if garbage:
            async with asyncio.timeout(60):
                await reader.read()  # ends when the coordinator hangs up
    except ConnectionError:
        pass  # hung up while we still spoke
    finally:
        writer.close()
    async with Line(seeded.coordinator.address) as another:
        assert (await another.unary("Runs/ListRuns", b"", key)).code is grpc.StatusCode.OK
    before.check()
