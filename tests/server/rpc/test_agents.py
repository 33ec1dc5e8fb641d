"""The service Agents: the stream and its unary twins, and who may speak about a lease."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refusal, Refused, read_refusal

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_server.rpc import agents as service
from tenure_server.rpc import doorway

HELLO = agents_pb2.Hello(agent="host", instance="instance-1", kinds=["k"], slots=4)
APPLIED = agents_pb2.VERDICT_APPLIED


async def _run(live: LiveCoordinator, tasks: int = 1, tenant: str = "alpha", **more: Any) -> str:
    content = {"name": "w", "tasks": [{"key": f"t{n}", "kind": "k", **more} for n in range(tasks)]}
    calls = live.calls(f"{tenant}/submitter")
    definition = ParseDict(content, workflows_pb2.WorkflowDefinition())
    await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    started = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="w"))
    run_id: str = started.run_id
    return run_id


def _ref(lease: agents_pb2.Lease, **changes: Any) -> agents_pb2.LeaseRef:
    fields = {
        "run_id": lease.run_id,
        "task_key": lease.task_key,
        "term": lease.term,
        "token": lease.token,
    }
    return agents_pb2.LeaseRef(**{**fields, **changes})


def _done(ref: agents_pb2.LeaseRef, output: bytes = b"1") -> agents_pb2.Result:
    success = agents_pb2.Success(output=payload_pb2.Payload(data=output))
    return agents_pb2.Result(lease=ref, success=success)


async def _lease(live: LiveCoordinator, caller: str = "agent") -> agents_pb2.Lease:
    found = await live.calls(caller).agents.LeaseTasks(
        agents_pb2.LeaseTasksRequest(agent="host", kinds=["k"])
    )
    [lease] = found.batch.leases
    assert isinstance(lease, agents_pb2.Lease)
    return lease


async def _settle(live: LiveCoordinator, result: agents_pb2.Result, caller: str = "agent") -> int:
    settled = await live.calls(caller).agents.SettleTasks(
        agents_pb2.SettleTasksRequest(results=[result])
    )
    verdict: int = settled.outcomes[0].verdict
    return verdict


async def _on_line(live: LiveCoordinator, caller: str = "agent", **hello: Any) -> Any:
    """A stream that was welcomed."""
    call = live.calls(caller).agents.Work()
    greeting = agents_pb2.Hello()
    greeting.CopyFrom(HELLO)
    greeting.MergeFrom(agents_pb2.Hello(**hello))
    await call.write(agents_pb2.WorkRequest(hello=greeting))
    welcome = await call.read()
    assert welcome.HasField("welcome")
    return call


async def _refusal_of(call: Any) -> Refusal:
    """Reads a stream to its end, which must be a refusal."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return read_refusal(
        grpc.aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )
    )


async def test_a_stream_works_from_hello_to_the_last_outcome(coordinator: LiveCoordinator) -> None:
    """Credits bring leases, results bring outcomes, half a close brings the end."""
    await _run(coordinator, tasks=3)
    call = await _on_line(coordinator)
    await call.write(agents_pb2.WorkRequest(credits=2))
    batch = (await call.read()).batch
    assert len(batch.leases) == 2
    assert [context.tenant_id for context in batch.runs] == ["alpha"]
    results = [_done(_ref(lease)) for lease in batch.leases]
    await call.write(agents_pb2.WorkRequest(results=results, credits=2))
    verdicts: list[int] = []
    leases: list[agents_pb2.Lease] = []
    while len(verdicts) < 2 or not leases:
        frame = await call.read()
        verdicts += [outcome.verdict for outcome in frame.outcomes]
        leases += frame.batch.leases
    assert verdicts == [APPLIED, APPLIED]
    await call.write(agents_pb2.WorkRequest(results=[_done(_ref(leases[0]))], draining=True))
    await call.done_writing()
    frame = await call.read()
    assert [outcome.verdict for outcome in frame.outcomes] == [APPLIED]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_the_welcome_says_what_the_agent_must_know(coordinator: LiveCoordinator) -> None:
    """How long leases hold, how soon to accept, whom it serves, and its id."""
    secret = await coordinator.make_key("agent", tenants=("alpha", "beta"))
    for wanted, served in (([], ["alpha", "beta"]), (["beta"], ["beta"])):
        call = coordinator.calls_with(secret).agents.Work()
        hello = agents_pb2.Hello()
        hello.CopyFrom(HELLO)
        hello.tenant_ids.extend(wanted)
        await call.write(agents_pb2.WorkRequest(hello=hello))
        welcome = (await call.read()).welcome
        assert list(welcome.tenant_ids) == served
        assert welcome.lease_duration.seconds == 30
        assert welcome.accept_within.seconds == 5
        call.cancel()


@pytest.mark.parametrize(
    ("frames", "field"),
    [
        ([agents_pb2.WorkRequest(credits=1)], "hello"),
        ([agents_pb2.WorkRequest(hello=HELLO), agents_pb2.WorkRequest(hello=HELLO)], "hello"),
        ([agents_pb2.WorkRequest(hello=agents_pb2.Hello())], "hello.agent"),
        (
            [agents_pb2.WorkRequest(hello=HELLO), agents_pb2.WorkRequest(credits=-1)],
            "credits",
        ),
        (
            [
                agents_pb2.WorkRequest(hello=HELLO),
                agents_pb2.WorkRequest(results=[agents_pb2.Result()]),
            ],
            "results[0].lease",
        ),
    ],
)
async def test_a_frame_that_breaks_the_contract_ends_the_stream(
    coordinator: LiveCoordinator, frames: list[agents_pb2.WorkRequest], field: str
) -> None:
    """With the field that is wrong."""
    call = coordinator.calls("agent").agents.Work()
    for frame in frames:
        await call.write(frame)
    refusal = await _refusal_of(call)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in refusal.fields


async def test_a_silent_stream_is_not_kept(
    coordinator: LiveCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens a stream says hello soon."""
    monkeypatch.setattr(service, "HELLO_SECONDS", 0.01)
    call = coordinator.calls("agent").agents.Work()
    refusal = await _refusal_of(call)
    assert refusal.fields == {"hello": "must come in the first message"}


async def test_a_newcomer_under_the_same_name_takes_over(coordinator: LiveCoordinator) -> None:
    """The older process is told not to come back; the same process just reconnected."""
    older = await _on_line(coordinator)
    newer = await _on_line(coordinator, instance="instance-2")
    refusal = await _refusal_of(older)
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.reason == "AGENT_REPLACED"
    again = await _on_line(coordinator, instance="instance-2")
    while await newer.read() is not grpc.aio.EOF:
        pass
    assert await newer.code() is grpc.StatusCode.OK
    again.cancel()


async def test_a_revoked_key_ends_the_agents_stream(
    coordinator: LiveCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and it is told that its key is over."""
    monkeypatch.setattr(doorway, "STREAM_CHECK_SECONDS", 3600)
    secret = await coordinator.make_key("agent")
    calls = coordinator.calls_with(secret)
    key = (await calls.tenants.GetCaller(tenants_pb2.GetCallerRequest())).api_key
    call = calls.agents.Work()
    await call.write(agents_pb2.WorkRequest(hello=HELLO))
    await call.read()
    await coordinator.calls("admin").tenants.RevokeApiKey(
        tenants_pb2.RevokeApiKeyRequest(api_key_id=key.api_key_id)
    )
    async with asyncio.timeout(60):
        refusal = await _refusal_of(call)
    assert refusal.reason == "CREDENTIAL_INVALID"


async def test_a_cancelled_run_is_heard_at_once(coordinator: LiveCoordinator) -> None:
    """With the reason that its submitter gave."""
    run_id = await _run(coordinator)
    call = await _on_line(coordinator)
    await call.write(agents_pb2.WorkRequest(credits=1))
    [lease] = (await call.read()).batch.leases
    await call.write(agents_pb2.WorkRequest(accepts=[_ref(lease)]))
    await coordinator.calls("submitter").runs.CancelRun(
        runs_pb2.CancelRunRequest(run_id=run_id, reason="wrong input")
    )
    [cancellation] = (await call.read()).cancellations
    assert (cancellation.run_id, cancellation.task_key) == (run_id, "t0")
    assert "wrong input" in cancellation.reason
    call.cancel()


async def test_held_leases_are_resumed_on_a_new_stream(coordinator: LiveCoordinator) -> None:
    """The hello names them, and the answer says which still hold."""
    await _run(coordinator)
    call = await _on_line(coordinator)
    await call.write(agents_pb2.WorkRequest(credits=1))
    [lease] = (await call.read()).batch.leases
    call.cancel()
    held = [_ref(lease), _ref(lease, token=b"forged")]
    again = await _on_line(coordinator, held=held)
    frame = await again.read()
    assert [it.standing for it in frame.standings] == [
        agents_pb2.STANDING_HELD,
        agents_pb2.STANDING_LOST,
    ]
    again.cancel()


async def test_results_are_settled_once(coordinator: LiveCoordinator) -> None:
    """The same again is fine, another one is not, and unknown leases are unknown."""
    await _run(coordinator)
    lease = await _lease(coordinator)
    ref = _ref(lease)
    assert await _settle(coordinator, _done(_ref(lease, token=b"forged"))) == (
        agents_pb2.VERDICT_UNKNOWN
    )
    assert await _settle(coordinator, _done(_ref(lease, term=9))) == agents_pb2.VERDICT_UNKNOWN
    assert await _settle(coordinator, _done(_ref(lease, task_key="zz"))) == (
        agents_pb2.VERDICT_UNKNOWN
    )
    assert await _settle(coordinator, _done(ref)) == APPLIED
    assert await _settle(coordinator, _done(ref)) == agents_pb2.VERDICT_ALREADY_APPLIED
    assert await _settle(coordinator, _done(ref, b"2")) in (
        agents_pb2.VERDICT_SUPERSEDED,
        agents_pb2.VERDICT_RUN_CLOSED,
    )


async def test_a_lease_is_bound_to_its_key(coordinator: LiveCoordinator) -> None:
    """Another agent of the tenant that knows every word of it can do nothing with it."""
    await _run(coordinator)
    lease = await _lease(coordinator)
    thief = coordinator.calls_with(await coordinator.make_key("agent")).agents
    renewed = await thief.RenewLeases(
        agents_pb2.RenewLeasesRequest(renewals=[agents_pb2.Renewal(lease=_ref(lease))])
    )
    assert renewed.standings[0].standing == agents_pb2.STANDING_LOST
    settled = await thief.SettleTasks(agents_pb2.SettleTasksRequest(results=[_done(_ref(lease))]))
    assert settled.outcomes[0].verdict == agents_pb2.VERDICT_UNKNOWN
    assert await _settle(coordinator, _done(_ref(lease))) == APPLIED


async def test_an_output_that_cannot_be_kept_costs_its_attempt(
    coordinator: LiveCoordinator,
) -> None:
    """Too large or no JSON: the verdict says so, and the task has failed with its code."""
    run_id = await _run(coordinator, tasks=2)
    for output in (b'"' + b"x" * (1 << 20) + b'"', b"{"):
        lease = await _lease(coordinator)
        verdict = await _settle(coordinator, _done(_ref(lease), output))
        assert verdict == agents_pb2.VERDICT_OUTPUT_REFUSED
        shown = await coordinator.calls("viewer").runs.GetTask(
            runs_pb2.GetTaskRequest(run_id=run_id, task_key=lease.task_key)
        )
        assert shown.task.failure.code == "OUTPUT_INVALID"


async def test_progress_shows_while_the_task_is_leased(coordinator: LiveCoordinator) -> None:
    """What the last renewal said; gone with the lease."""
    await _run(coordinator)
    lease = await _lease(coordinator)
    asked = runs_pb2.GetTaskRequest(run_id=lease.run_id, task_key=lease.task_key)
    runs = coordinator.calls("viewer").runs
    assert not (await runs.GetTask(asked)).task.HasField("progress")
    renewal = agents_pb2.Renewal(lease=_ref(lease), progress=0.5, message="half of it")
    await coordinator.calls("agent").agents.RenewLeases(
        agents_pb2.RenewLeasesRequest(renewals=[renewal])
    )
    shown = (await runs.GetTask(asked)).task
    assert (shown.progress, shown.progress_message) == (0.5, "half of it")
    listed = await runs.ListTasks(runs_pb2.ListTasksRequest(run_id=lease.run_id))
    assert [task.progress for task in listed.tasks if task.key == lease.task_key] == [0.5]
    assert await _settle(coordinator, _done(_ref(lease))) == APPLIED
    assert not (await runs.GetTask(asked)).task.HasField("progress")


async def test_a_checkpoint_that_cannot_be_kept_is_refused(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """By its field, and the lease is as it was."""
    await _run(coordinator)
    lease = await _lease(coordinator)
    renewal = agents_pb2.Renewal(lease=_ref(lease), checkpoint=payload_pb2.Payload(data=b"{"))
    calls = coordinator.calls("agent").agents
    refusal = await refused(calls.RenewLeases(agents_pb2.RenewLeasesRequest(renewals=[renewal])))
    assert list(refusal.fields) == ["renewals[0].checkpoint"]
    assert await _settle(coordinator, _done(_ref(lease))) == APPLIED


async def test_waiting_for_work_ends_with_the_first_lease_or_the_time(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """A call that waits is answered as soon as there is something."""
    calls = coordinator.calls("agent").agents
    request = agents_pb2.LeaseTasksRequest(
        agent="host", kinds=["k"], wait=Duration(nanos=10_000_000)
    )
    assert not (await calls.LeaseTasks(request)).HasField("batch")
    request.wait.seconds = 59
    waiting = asyncio.ensure_future(calls.LeaseTasks(request))
    run_id = await _run(coordinator)
    async with asyncio.timeout(40):  # before the time
        found = await waiting
    assert [lease.run_id for lease in found.batch.leases] == [run_id]
    assert found.lease_duration.seconds == 30
    request.wait.seconds = 61
    assert list((await refused(calls.LeaseTasks(request))).fields) == ["wait"]


async def test_a_call_gets_what_its_labels_allow(coordinator: LiveCoordinator) -> None:
    """Like an agent with a stream: only whoever has the labels that a task requires."""
    await _run(coordinator, placement={"required": {"zone": "b"}})
    calls = coordinator.calls("agent").agents
    request = agents_pb2.LeaseTasksRequest(agent="host", kinds=["k"])
    assert not (await calls.LeaseTasks(request)).HasField("batch")
    request.labels["zone"] = "a"
    assert not (await calls.LeaseTasks(request)).HasField("batch")
    request.labels["zone"] = "b"
    [lease] = (await calls.LeaseTasks(request)).batch.leases
    assert lease.task_key == "t0"


async def test_leases_that_make_an_answer_too_large_are_given_back(
    coordinator: LiveCoordinator,
) -> None:
    """Nothing is lost, no attempt is consumed, and the next call has them."""
    text = "x" * 900_000
    await _run(coordinator, tasks=12, input={"value": text})
    calls = coordinator.calls("agent").agents
    request = agents_pb2.LeaseTasksRequest(agent="host", kinds=["k"], max_leases=100)
    seen: list[str] = []
    while len(seen) < 12:
        found = await calls.LeaseTasks(request)
        assert 0 < found.ByteSize() < 4_000_000
        assert all(lease.attempt == 1 for lease in found.batch.leases)
        seen += [lease.task_key for lease in found.batch.leases]
    assert sorted(seen) == sorted(f"t{n}" for n in range(12))


async def test_agents_show_to_the_tenants_they_serve(coordinator: LiveCoordinator) -> None:
    """By name, page by page, with the leases of this tenant only."""
    await _run(coordinator)
    secret = await coordinator.make_key("agent", tenants=("alpha", "beta"))
    shared = coordinator.calls_with(secret).agents.Work()
    hello = agents_pb2.Hello(
        agent="shared", instance="instance-3", kinds=["k"], slots=9, labels={"zone": "b"}
    )
    await shared.write(agents_pb2.WorkRequest(hello=hello, credits=1))
    await shared.read()
    await shared.read()
    own = await _on_line(coordinator)
    for tenant, names, leases in (("alpha", ["host", "shared"], [0, 1]), ("beta", ["shared"], [0])):
        calls = coordinator.calls(f"{tenant}/viewer").agents
        seen, token = [], ""
        while True:
            page = await calls.ListAgents(
                agents_pb2.ListAgentsRequest(page_size=1, page_token=token)
            )
            seen += page.agents
            token = page.next_page_token
            if not token:
                break
        assert [agent.name for agent in seen] == names
        assert [agent.leases for agent in seen] == leases
        assert seen[-1].labels == {"zone": "b"}
        assert all(agent.state == agents_pb2.AGENT_STATE_CONNECTED for agent in seen)
    shared.cancel()
    own.cancel()


async def test_an_agent_is_told_that_the_coordinator_stops(coordinator: LiveCoordinator) -> None:
    """First the word, then the end, as something to come back from."""
    call = await _on_line(coordinator)
    stopping = asyncio.create_task(coordinator.server.stop())
    frame = await call.read()
    assert frame.draining
    refusal = await _refusal_of(call)
    assert refusal.reason == "STOPPING"
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    await stopping
