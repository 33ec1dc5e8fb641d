"""Two coordinators on one store: one decides at a time, and the other takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import grpc
import pytest
from tests.wire import history
from tests.wire.conftest import Install
from tests.wire.installation import Coordinator, Installation, until

from tenure.v1 import runs_pb2, workflows_pb2
from tenure_client.builder import Workflow
from tenure_client.client import Client
from tenure_client.errors import TenureError

LENGTH = 12


def chain() -> workflows_pb2.WorkflowDefinition:
    """Tasks one after the other that take a while together."""
    with Workflow("chain") as workflow:
        last = workflow.task("0", kind="tenure.trace", input={"seconds": 0.1})
        for number in range(1, LENGTH):
            last = workflow.task(
                str(number), kind="tenure.trace", input={"seconds": 0.1}, after=[last]
            )
    return workflow.definition()


GRAPH = {str(number): [str(number - 1)] if number else [] for number in range(LENGTH)}


@pytest.fixture
def pair(install: Install, postgres_url: str) -> Installation:
    """Two coordinators on one PostgreSQL; the first holds the seat."""
    installation = install("--seat-seconds", "1.5", "--lease-seconds", "2", store=postgres_url)
    installation.add_coordinator().start()
    return installation


@pytest.fixture
def settled_pair(install: Install, postgres_url: str) -> Installation:
    """The same, but the first keeps its seat though it stands still for seconds."""
    installation = install("--seat-seconds", "60", store=postgres_url)
    installation.add_coordinator().start()
    return installation


async def test_a_second_coordinator_on_one_sqlite_file_is_refused_with_a_clear_message(
    install: Install,
) -> None:
    """It ends with exit code 2 and names the process and the address of the first."""
    installation = install()
    second = installation.add_coordinator()
    second.launch()
    assert await second.ended() == 2
    first = installation.coordinator
    assert second.log_tail().strip() == (
        f"tenure-server: {installation.folder}/tenure.db is in use by another coordinator: "
        f"process {first.child.pid}, address {first.address}"
    )
    async with installation.client() as client:
        assert (await client.get_caller()).roles, "the first one still serves"


async def test_who_does_not_hold_the_seat_sends_callers_to_the_holder(
    settled_pair: Installation,
) -> None:
    """UNAVAILABLE, with the holder's address and the time of another try; nothing is done."""
    first, second = settled_pair.coordinators
    async with settled_pair.client_at(first) as at_first:
        await at_first.register_workflow(chain())
        calls: list[Callable[[Client], Awaitable[object]]] = [
            lambda client: client.start_run("chain"),
            lambda client: client.register_workflow(chain()),
            lambda client: anext(client.list_agents()),
            lambda client: client.get_workflow("chain"),
        ]
        for call in calls:
            async with settled_pair.client_at(second) as at_second:
                with pytest.raises(TenureError) as refused:
                    await call(at_second)
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE
            assert refused.value.reason == "SEAT_ELSEWHERE"
            assert refused.value.holder == first.address
            assert refused.value.retry_after == 1.0
        assert [run async for run in at_first.list_runs()] == []
        assert (await at_first.get_workflow("chain")).version == 1


async def test_a_client_sent_away_by_one_coordinator_reaches_the_other(
    settled_pair: Installation,
) -> None:
    """The library follows the holder's address, in the same call."""
    second = settled_pair.coordinators[1]
    secret = await settled_pair.secret("admin")
    async with Client(second.address, secret, retry_seconds=20) as client:
        await client.register_workflow(chain())
        started = await client.start_run("chain")
        assert (await client.get_run(started.run_id)).state == runs_pb2.RUN_STATE_RUNNING


async def test_when_the_holder_is_killed_the_other_takes_over_and_the_runs_go_on(
    pair: Installation,
) -> None:
    """Agents and watchers move over, and the history is without fault or gap."""
    await pair.add_agent()
    seen: list[runs_pb2.RunEvent] = []
    async with pair.client() as client:
        await client.register_workflow(chain())
        run_id = (await client.start_run("chain")).run_id

        async def watch() -> None:
            async with aclosing(client.watch_run(run_id)) as events:
                async for event in events:
                    seen.append(event)

        watching = asyncio.create_task(watch())
        await until(lambda: len(seen) > LENGTH // 2, "the run is half way")
        pair.coordinator.kill()
        await watching
        (found,) = await history.read(client, [run_id])
    history.check_run(found, GRAPH)
    assert seen == list(found.events), "the watcher saw each event once"


async def test_a_holder_that_slept_past_its_seat_can_write_nothing(pair: Installation) -> None:
    """What it is asked when it wakes up is UNAVAILABLE and leaves no trace; then it steps back."""
    first, second = pair.coordinators
    async with pair.client_at(first) as at_first:
        await at_first.register_workflow(chain())
        first.pause()
        asleep = asyncio.create_task(at_first.start_run("chain", request_id="asleep"))
        awake_run = await _start_at_last(pair, second)
        first.go_on()
        with pytest.raises(TenureError) as refused:
            await asleep
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(TenureError) as sent_on:
        await _start_at_last(pair, first, again="STORE_UNAVAILABLE")
    assert sent_on.value.holder == second.address
    async with pair.client_at(second) as at_second:
        assert [run.run_id async for run in at_second.list_runs()] == [awake_run]


async def _start_at_last(
    pair: Installation, coordinator: Coordinator, again: str = "SEAT_ELSEWHERE"
) -> str:
    """Starts a run at one coordinator, and again while it refuses for this reason."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with pair.client_at(coordinator) as client:
                    return (await client.start_run("chain", request_id="awake")).run_id
            except TenureError as error:
                if error.reason != again:
                    raise
