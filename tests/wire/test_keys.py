"""Keys that end while calls are under way, and the memory of requests across restarts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from tests.wire.by_hand import hand_agent
from tests.wire.conftest import Install
from tests.wire.installation import TENANT, Installation, until
from tests.wire.raw import Before, Line, bearer

from tenure.v1 import access_pb2, agents_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_client.client import Client
from tenure_client.errors import TenureError

VIEWER = access_pb2.ROLE_VIEWER
AGENT = access_pb2.ROLE_AGENT
Watching = asyncio.Task[list[runs_pb2.RunEvent]]


async def watch(client: Client, run_id: str) -> Watching:
    """Watches a run whose first event has come already."""
    events: list[runs_pb2.RunEvent] = []

    async def gather() -> list[runs_pb2.RunEvent]:
        async for event in client.watch_run(run_id):
            events.append(event)
        return events

    watching = asyncio.create_task(gather())
    await until(lambda: events or watching.done(), "the first event comes")
    if not events:
        await watching
    return watching


async def test_a_revoked_key_ends_its_streams_and_opens_nothing_more(
    seeded: Installation,
) -> None:
    """At once, for readers and for agents."""
    async with seeded.client("operator") as operator:
        viewer = await operator.create_key("reader", roles=[VIEWER], tenant_ids=[TENANT])
        worker = await operator.create_key("worker", roles=[AGENT], tenant_ids=[TENANT])
        async with (
            seeded.client_with(viewer.secret) as reader,
            hand_agent(seeded, secret=worker.secret) as agent,
        ):
            watching = await watch(reader, seeded.seeds[f"{TENANT}/open"])
            hello = agents_pb2.Hello(agent="r", instance="12345678", kinds=["k"], slots=1)
            stream = agent.stub.Work(metadata=agent.metadata)
            await stream.write(agents_pb2.WorkRequest(hello=hello))
            welcome = await stream.read()
            assert isinstance(welcome, agents_pb2.WorkResponse)
            await operator.revoke_key(viewer.api_key.api_key_id)
            await operator.revoke_key(worker.api_key.api_key_id)
            with pytest.raises(TenureError) as ended:
                await asyncio.wait_for(watching, 40)
            assert ended.value.reason == "CREDENTIAL_INVALID"
            assert await asyncio.wait_for(stream.code(), 40) is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(TenureError) as refused:
                await reader.get_caller()
            assert refused.value.reason == "CREDENTIAL_INVALID"


async def test_a_key_that_expires_ends_its_streams(seeded: Installation) -> None:
    """Nobody has to revoke it."""
    async with seeded.client("operator") as operator:
        made = await operator.create_key(
            "brief",
            roles=[VIEWER],
            tenant_ids=[TENANT],
            expire_time=datetime.now(UTC) + timedelta(seconds=2),
        )
        async with seeded.client_with(made.secret) as reader:

            async def watch_to_the_end() -> None:
                # On a slow host the key may be over before the first event comes.
                await asyncio.wait_for(await watch(reader, seeded.seeds[f"{TENANT}/open"]), 40)

            with pytest.raises(TenureError) as ended:
                await watch_to_the_end()
            assert ended.value.reason == "CREDENTIAL_INVALID"


HELLO = agents_pb2.Hello(agent="odd", instance="12345678", kinds=["k"], slots=1)
REF = agents_pb2.LeaseRef(run_id="0" * 8 + "-0000-8000-8000-" + "0" * 12, task_key="a", term=1)


@pytest.mark.parametrize(
    ("frames", "reason", "field"),
    [
        ([], "FIELD_INVALID", "hello"),
        ([agents_pb2.WorkRequest(credits=1)], "FIELD_INVALID", "hello"),
        ([agents_pb2.WorkRequest(hello=HELLO)] * 2, "FIELD_INVALID", "hello"),
        ([agents_pb2.WorkRequest(hello=HELLO, credits=-1)], "FIELD_INVALID", "credits"),
        ([b"\xff\xff"], "FIELD_INVALID", "request"),
        ([agents_pb2.WorkRequest(hello=HELLO), b"\xff\xff"], "FIELD_INVALID", "request"),
        (
            [agents_pb2.WorkRequest(hello=HELLO), agents_pb2.WorkRequest(accepts=[REF])],
            "NOT_FOUND",
            "",
        ),
        (
            [agents_pb2.WorkRequest(hello=agents_pb2.Hello(agent="a", tenant_ids=["beta"]))],
            "NOT_FOUND",
            "",
        ),
    ],
    ids=[
        "silence", "no hello", "two hellos", "negative credits", "no message",
        "no message later", "an unknown run", "a foreign tenant",
    ],
)  # fmt: skip
async def test_a_bad_frame_ends_the_agents_stream_with_its_reason(
    frames: list[bytes | agents_pb2.WorkRequest],
    reason: str,
    field: str,
    seeded: Installation,
    line: Line,
) -> None:
    """Whether it is the first one or comes later."""
    before = Before(seeded.folder / "tenure.db")
    said = await line.stream("Agents/Work", frames, [bearer(await seeded.secret("agent"))])
    assert said.reason == reason, said
    assert said.fields[:1] == ((field,) if field else ())
    before.check(reason)


def requests(run_id: str) -> dict[str, bytes]:
    """Every mutation, with a request id each."""
    one = workflows_pb2.WorkflowTask(key="a", kind="nobody")
    definition = workflows_pb2.WorkflowDefinition(name="once", tasks=[one])
    start = runs_pb2.StartRunRequest(workflow="once", request_id="r-start")
    batch = [runs_pb2.StartRunRequest(workflow="once", request_id=f"r-batch-{n}") for n in range(3)]
    messages = {
        "Workflows/RegisterWorkflow": workflows_pb2.RegisterWorkflowRequest(
            definition=definition, request_id="r-register"
        ),
        "Runs/StartRun": start,
        "Runs/BatchStartRuns": runs_pb2.BatchStartRunsRequest(requests=[*batch, start]),
        "Runs/CancelRun": runs_pb2.CancelRunRequest(run_id=run_id, request_id="r-cancel"),
        "Tenants/CreateTenant": tenants_pb2.CreateTenantRequest(
            tenant_id="once", request_id="r-tenant"
        ),
        "Tenants/CreateApiKey": tenants_pb2.CreateApiKeyRequest(
            name="once", roles=[VIEWER], tenant_ids=[TENANT], request_id="r-key"
        ),
    }
    return {method: message.SerializeToString() for method, message in messages.items()}


async def test_a_mutation_repeated_across_a_restart_says_the_same_and_does_nothing(
    install: Install,
) -> None:
    """All but the secret of a new key, which is shown once."""
    installation = install()
    admin = [bearer(await installation.secret("admin"))]
    operator = [bearer(installation.operator_secret())]
    async with installation.client() as client:
        one = workflows_pb2.WorkflowTask(key="a", kind="nobody")
        await client.register_workflow(workflows_pb2.WorkflowDefinition(name="doomed", tasks=[one]))
        run_id = (await client.start_run("doomed")).run_id
    first: dict[str, bytes] = {}
    async with Line(installation.coordinator.address) as line:
        for method, request in requests(run_id).items():
            who = operator if method.startswith("Tenants") else admin
            (first[method],) = (await line.unary(method, request, who)).answers
    installation.coordinator.kill()
    await asyncio.to_thread(installation.coordinator.start)
    before = Before(installation.folder / "tenure.db")
    async with Line(installation.coordinator.address) as line:
        for method, request in requests(run_id).items():
            who = operator if method.startswith("Tenants") else admin
            (again,) = (await line.unary(method, request, who)).answers
            if method == "Tenants/CreateApiKey":
                made = tenants_pb2.CreateApiKeyResponse.FromString(first[method])
                assert made.secret
                made.ClearField("secret")
                assert tenants_pb2.CreateApiKeyResponse.FromString(again) == made
            else:
                assert again == first[method], method
    before.check()
