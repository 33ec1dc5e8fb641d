"""Two coordinators that each hold the seat of one tenant of an agent: it is served by both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests import logbook
from tests.conftest import LiveCoordinator, serving, serving_again
from tests.server.rpc.conftest import read_refusal

from tenure.v1 import agents_pb2, runs_pb2, tenants_pb2, workflows_pb2

PATIENCE_SECONDS = 60


@dataclass(slots=True)
class Pair:
    """The holder of alpha's seat, that of gamma's, and the key of an agent of both."""

    alpha: LiveCoordinator
    gamma: LiveCoordinator
    agent: str
    submitters: dict[str, str]
    #: Stops the holder of gamma's seat, which gives it back.
    leaving: AsyncExitStack

    async def start(self, tenant: str, tasks: int = 1) -> str:
        """Starts a run of independent tasks."""
        live = self.alpha if tenant == "alpha" else self.gamma
        calls = live.calls_with(self.submitters[tenant])
        parts = [workflows_pb2.WorkflowTask(key=f"t{n}", kind="k") for n in range(tasks)]
        definition = workflows_pb2.WorkflowDefinition(name="w", tasks=parts)
        await calls.workflows.RegisterWorkflow(
            workflows_pb2.RegisterWorkflowRequest(definition=definition)
        )
        run_id: str = (await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="w"))).run_id
        return run_id


@pytest.fixture
async def pair(tmp_path: Path, postgres_url: str) -> AsyncIterator[Pair]:
    key = tmp_path / "signing-key.json"
    async with (
        serving(postgres_url, tmp_path) as alpha,
        AsyncExitStack() as leaving,
    ):
        gamma = await leaving.enter_async_context(
            serving_again(postgres_url, alpha.secrets, signing_key=key)
        )
        # Who makes a tenant takes its seat.
        await gamma.calls("operator").tenants.CreateTenant(
            tenants_pb2.CreateTenantRequest(tenant_id="gamma")
        )
        agent = await alpha.make_key("agent", tenants=("alpha", "gamma"))
        submitters = {
            tenant: await alpha.make_key("submitter", tenants=(tenant,))
            for tenant in ("alpha", "gamma")
        }
        yield Pair(alpha, gamma, agent, submitters, leaving)


def _hello(**more: Any) -> agents_pb2.WorkRequest:
    words = {"agent": "host", "instance": "instance-1", "kinds": ["k"], "slots": 4, **more}
    return agents_pb2.WorkRequest(hello=agents_pb2.Hello(several=True, **words))


async def _on_line(pair: Pair, live: LiveCoordinator, **hello: Any) -> tuple[Any, Any]:
    """A stream of the agent, and its welcome."""
    call = live.calls_with(pair.agent).agents.Work()
    await call.write(_hello(**hello))
    first = await _read(call)
    assert first.HasField("welcome")
    return call, first.welcome


async def _read(call: Any) -> Any:
    return await asyncio.wait_for(call.read(), PATIENCE_SECONDS)


async def _leases(call: Any, count: int) -> list[Any]:
    leases: list[Any] = []
    while len(leases) < count:
        leases += (await _read(call)).batch.leases
    return leases


def _ref(lease: Any) -> agents_pb2.LeaseRef:
    return agents_pb2.LeaseRef(
        run_id=lease.run_id, task_key=lease.task_key, term=lease.term, token=lease.token
    )


def _done(lease: Any) -> agents_pb2.Result:
    return agents_pb2.Result(lease=_ref(lease), success=agents_pb2.Success())


async def test_each_serves_the_tenants_it_holds_and_names_who_holds_the_others(pair: Pair) -> None:
    _, first = await _on_line(pair, pair.alpha)
    while not first.elsewhere[0].address:  # it was made elsewhere this very moment
        _, first = await _on_line(pair, pair.alpha)
    assert list(first.tenant_ids) == ["alpha"]
    assert [(seat.tenant_id, seat.address, seat.stopped) for seat in first.elsewhere] == [
        ("gamma", pair.gamma.address, False)
    ]
    _, second = await _on_line(pair, pair.gamma)
    assert list(second.tenant_ids) == ["gamma"]
    assert [seat.address for seat in second.elsewhere] == [pair.alpha.address]


async def test_an_agent_of_one_stream_is_refused_as_before(pair: Pair) -> None:
    call = pair.alpha.calls_with(pair.agent).agents.Work()
    hello = _hello()
    hello.hello.several = False
    await call.write(hello)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _read(call)
    assert read_refusal(refused.value).reason == "SEAT_ELSEWHERE"


async def test_who_holds_none_of_its_tenants_refuses_an_agent(pair: Pair) -> None:
    holder = ""
    while not holder:  # it asks for it, and knows it when it is asked again
        call = pair.alpha.calls_with(pair.agent).agents.Work()
        await call.write(_hello(tenant_ids=["gamma"]))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _read(call)
        refusal = read_refusal(refused.value)
        assert refusal.reason == "SEAT_ELSEWHERE"
        holder = refusal.facts.get("holder", "")
    assert holder == pair.gamma.address


async def test_what_concerns_the_others_tenant_is_sent_there_and_written_down_nowhere(
    pair: Pair,
) -> None:
    """Results and renewals are neither judged nor lost, and a lease is not called lost."""
    await pair.start("gamma")
    at_gamma, _ = await _on_line(pair, pair.gamma)
    await at_gamma.write(agents_pb2.WorkRequest(credits=1))
    [lease] = await _leases(at_gamma, 1)
    at_alpha, welcome = await _on_line(pair, pair.alpha, held=[_ref(lease)])
    assert not welcome.unnamed
    standings = (await _read(at_alpha)).standings
    assert [one.standing for one in standings] == [agents_pb2.STANDING_ELSEWHERE]
    before = logbook.sizes(pair.alpha.server.store)
    renewal = agents_pb2.Renewal(lease=_ref(lease))
    await at_alpha.write(
        agents_pb2.WorkRequest(accepts=[_ref(lease)], renewals=[renewal], results=[_done(lease)])
    )
    answer = await _read(at_alpha)
    assert {one.standing for one in answer.standings} == {agents_pb2.STANDING_ELSEWHERE}
    assert [one.verdict for one in answer.outcomes] == [agents_pb2.VERDICT_ELSEWHERE]
    assert logbook.sizes(pair.alpha.server.store) == before
    await at_gamma.write(agents_pb2.WorkRequest(results=[_done(lease)]))
    assert [one.verdict for one in (await _read(at_gamma)).outcomes] == [agents_pb2.VERDICT_APPLIED]


async def test_another_tenants_lease_is_not_there_for_an_agent_of_several(pair: Pair) -> None:
    """Wherever its seat is: only the agent's own tenants are sent elsewhere."""
    at_alpha, _ = await _on_line(pair, pair.alpha, tenant_ids=["alpha"])
    run_id = await pair.start("gamma")
    ref = agents_pb2.LeaseRef(run_id=run_id, task_key="t0", term=1, token=b"t")
    await at_alpha.write(agents_pb2.WorkRequest(accepts=[ref]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _read(at_alpha)
    assert read_refusal(refused.value).reason == "NOT_FOUND"


async def test_credits_are_given_back_when_they_are_asked_for(pair: Pair) -> None:
    """Those that leases were granted for are gone, and the answer comes after the leases."""
    call, _ = await _on_line(pair, pair.alpha)
    await call.write(agents_pb2.WorkRequest(credits=3))
    await call.write(agents_pb2.WorkRequest(withdraw=2))
    assert (await _read(call)).withdrawn == 2
    await pair.start("alpha", tasks=2)
    assert len(await _leases(call, 1)) == 1
    await call.write(agents_pb2.WorkRequest(withdraw=4))
    answers = [await _read(call)]
    while not answers[-1].HasField("withdrawn"):
        answers.append(await _read(call))
    assert answers[-1].withdrawn == 0


async def test_tasks_that_wait_for_credits_are_told_once_until_credits_come(pair: Pair) -> None:
    call, _ = await _on_line(pair, pair.alpha)
    await pair.start("alpha", tasks=6)
    wanted = (await _read(call)).wanted
    assert (wanted.credits, wanted.weight) == (4, 1.0), "as many as it has slots"
    await pair.start("alpha", tasks=1)
    await call.write(agents_pb2.WorkRequest(credits=1))
    frames = [await _read(call)]
    while not frames[-1].HasField("wanted"):
        frames.append(await _read(call))
    assert sum(len(frame.batch.leases) for frame in frames) == 1
    assert frames[-1].wanted.credits == 3, "one slot is taken"


async def test_an_agent_that_one_coordinator_serves_whole_is_told_nothing_of_credits(
    pair: Pair,
) -> None:
    call, _ = await _on_line(pair, pair.alpha, tenant_ids=["alpha"])
    await pair.start("alpha", tasks=2)
    await call.write(agents_pb2.WorkRequest(credits=1))
    frame = await _read(call)
    assert len(frame.batch.leases) == 1
    assert not frame.HasField("wanted")


async def test_leases_that_the_hello_does_not_name_are_named_by_the_welcome(pair: Pair) -> None:
    """They take slots. One that is given back is called over, so that its slot can be used."""
    await pair.start("alpha", tasks=2)
    call, welcome = await _on_line(pair, pair.alpha)
    assert not welcome.unnamed
    await call.write(agents_pb2.WorkRequest(credits=2))
    known, unknown = await _leases(call, 2)
    call.cancel()
    call, welcome = await _on_line(pair, pair.alpha, held=[_ref(known)])
    assert [(one.task_key, one.term) for one in welcome.unnamed] == [
        (unknown.task_key, unknown.term)
    ]
    assert [one.standing for one in (await _read(call)).standings] == [agents_pb2.STANDING_HELD]
    await call.write(agents_pb2.WorkRequest(returns=[_ref(unknown)]))
    (standing,) = (await _read(call)).standings
    assert (standing.task_key, standing.standing) == (unknown.task_key, agents_pb2.STANDING_LOST)


async def test_when_a_seat_comes_the_stream_ends_and_the_next_one_serves_the_tenant_too(
    pair: Pair,
) -> None:
    call, _ = await _on_line(pair, pair.alpha)
    await pair.leaving.aclose()
    assert await _read(call) is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    _, welcome = await _on_line(pair, pair.alpha)
    assert list(welcome.tenant_ids) == ["alpha", "gamma"]
    assert not welcome.elsewhere
