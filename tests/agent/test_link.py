"""The line: an agent against a coordinator, a real gRPC server that does what a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.agent.conftest import KEY, StartAgent, WriteConfig
from tests.agent.fake_coordinator import RUN_ID, FakeCoordinator, Key, key_of, new_lease

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import config, daemon, lines, link


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff without long waits."""
    monkeypatch.setattr(link, "_REFUSED_WAIT", lambda state: 0.02)
    monkeypatch.setattr(link, "_RETRY_WAIT", lambda state: 0.02)


@pytest.fixture
async def other() -> AsyncIterator[FakeCoordinator]:
    """A second coordinator."""
    fake = FakeCoordinator()
    await fake.start()
    yield fake
    await fake.stop()


def data(value: Any) -> payload_pb2.Payload:
    return payload_pb2.Payload(data=json.dumps(value).encode())


def end_of(result: agents_pb2.Result) -> str | None:
    return result.WhichOneof("end")


async def test_an_agent_says_who_it_is_and_what_it_can_do(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    extra = "tenants = ['acme']\nlabels = { region = 'eu' }"
    start_agent(write_config(coordinator.address, agent=extra))
    await coordinator.until(lambda: coordinator.line is not None)
    (hello,) = coordinator.hellos
    assert (hello.agent, hello.slots, dict(hello.labels)) == ("host-1", 4, {"region": "eu"})
    assert {"cat", "double", "tenure.noop", "tenure.trace"} <= set(hello.kinds)
    assert list(hello.tenant_ids) == ["acme"]
    assert len(hello.instance) >= 8
    assert coordinator.keys_seen == [f"Bearer {KEY}"]


async def test_each_sort_of_handler_works(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    coordinator.run_input = data({"n": 1})
    double = new_lease("double", "double", input=data(21))
    report = new_lease("report", "report", input=data("x"), upstream={"up": data([1])}, attempt=2)
    cat = new_lease("cat", "cat", input=data("y"))
    coordinator.offer(double, report, cat)
    start_agent(write_config(coordinator.address))
    assert json.loads((await coordinator.result(double)).success.output.data) == 42
    assert json.loads((await coordinator.result(cat)).success.output.data)["input"] == "y"
    assert json.loads((await coordinator.result(report)).success.output.data) == {
        "run_id": RUN_ID,
        "task_key": "report",
        "attempt": 2,
        "tenant_id": "acme",
        "workflow": "trial",
        "input": "x",
        "correlation_id": "correlation-1",
        "run_input": {"n": 1},
        "upstream": {"up": [1]},
        "checkpoint": None,
    }


async def test_ten_thousand_tasks_pass_through_within_the_slots(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    """Each has one result, and no credit ever went beyond the slots."""
    leases = [new_lease(f"t{number}", "tenure.noop") for number in range(10_000)]
    coordinator.offer(*leases)
    path = write_config(coordinator.address)
    path.write_text(path.read_text().replace("slots = 4", "slots = 64"))
    start_agent(path)
    await coordinator.until(lambda: len(coordinator.results) == 10_000, 60)
    assert {len(results) for results in coordinator.results.values()} == {1}
    assert all(end_of(results[0]) == "success" for results in coordinator.results.values())
    assert coordinator.peak == 64
    assert not coordinator.returned


async def test_no_lease_is_sent_while_the_slots_are_busy(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    leases = [new_lease(f"t{number}", "wait") for number in range(6)]
    coordinator.offer(*leases)
    start_agent(write_config(coordinator.address))
    await coordinator.until(lambda: len(coordinator.begun) == 4)
    assert len(coordinator.ready) == 2
    coordinator.cancel(leases[0])
    await coordinator.until(lambda: len(coordinator.begun) == 5)
    assert coordinator.peak == 4


async def test_a_lease_too_many_is_returned(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    """And so is one whose run is not described."""
    start_agent(write_config(coordinator.address))
    await coordinator.until(lambda: coordinator.line is not None)
    leases = [new_lease(f"t{number}", "wait") for number in range(5)]
    run = agents_pb2.RunContext(run_id=RUN_ID)
    coordinator.say(batch=agents_pb2.LeaseBatch(runs=[run], leases=leases))
    coordinator.say(batch=agents_pb2.LeaseBatch(leases=[new_lease("orphan", "wait")]))
    await coordinator.until(lambda: len(coordinator.returned) == 2)
    assert coordinator.returned == [key_of(leases[4]), (RUN_ID, "orphan", 1)]


async def test_only_a_task_that_still_runs_is_accepted(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    quick, slow = new_lease("quick", "double", input=data(1)), new_lease("slow", "wait")
    coordinator.offer(quick, slow)
    start_agent(write_config(coordinator.address))
    await coordinator.until(lambda: bool(coordinator.begun))
    assert coordinator.accepted == [key_of(slow)]
    assert key_of(quick) in coordinator.results


async def test_a_running_task_is_renewed_with_its_news(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    coordinator.lease_seconds = 1.5
    lease = new_lease("slow", "until-cancelled")
    coordinator.offer(lease)
    start_agent(write_config(coordinator.address))
    await coordinator.until(lambda: len(coordinator.renewals) >= 4)
    assert not coordinator.results, "renewals kept it alive beyond its first time"
    first = coordinator.renewals[0]
    assert (first.progress, first.message) == (0.25, "waiting")
    assert first.lease.token == lease.token
    assert not coordinator.renewals[1].HasField("progress"), "news are told once"


async def test_a_checkpoint_arrives_before_the_failure_that_needs_it(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    kinds = "[[python]]\nkind='fails'\nfunction='agent_test_handlers:fails'\n"
    path = write_config(coordinator.address, kinds=kinds)
    handlers = path.parent / "agent_test_handlers.py"
    handlers.write_text(
        handlers.read_text()
        + "\n\nasync def fails(ctx, value):\n    ctx.save_checkpoint([1])\n    raise ValueError()\n"
    )
    lease = new_lease("t", "fails")
    coordinator.offer(lease)
    start_agent(path)
    assert end_of(await coordinator.result(lease)) == "failure"
    (renewal,) = coordinator.renewals
    assert renewal.checkpoint == payload_pb2.Payload(data=b"[1]")


async def test_a_lease_that_cannot_be_renewed_stops_its_work(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    coordinator.lease_seconds = 0.5
    coordinator.answers_renewals = False
    lease = new_lease("slow", "wait")
    coordinator.offer(lease)
    start_agent(write_config(coordinator.address))
    assert end_of(await coordinator.result(lease)) == "stopped"


async def test_a_cancelled_attempt_is_stopped_and_says_so(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    leases = [new_lease(kind, kind) for kind in ("wait", "until-cancelled", "sleep", "deaf")]
    coordinator.offer(*leases)
    start_agent(write_config(coordinator.address))
    await coordinator.until(lambda: len(coordinator.begun) == 4)
    for lease in leases:
        coordinator.cancel(lease)
    for lease in leases:
        assert end_of(await coordinator.result(lease)) == "stopped"


async def test_a_lost_lease_is_stopped_without_a_word(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    """Its slot is free again."""
    lost = new_lease("lost", "wait")
    coordinator.offer(lost)
    path = write_config(coordinator.address)
    path.write_text(path.read_text().replace("slots = 4", "slots = 1"))
    start_agent(path)
    await coordinator.until(lambda: bool(coordinator.begun))
    following = new_lease("next", "double", input=data(1))
    coordinator.offer(following)
    coordinator.lose(lost)
    assert end_of(await coordinator.result(following)) == "success"
    assert key_of(lost) not in coordinator.results


async def test_a_newer_lease_of_the_same_task_ends_the_older_one(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    older, newer = new_lease("t", "wait", term=1), new_lease("t", "wait", term=2)
    coordinator.offer(older)
    start_agent(write_config(coordinator.address))
    await coordinator.until(lambda: len(coordinator.begun) == 1)
    coordinator.offer(newer)
    await coordinator.until(lambda: len(coordinator.begun) == 2)
    coordinator.cancel(newer)
    assert end_of(await coordinator.result(newer)) == "stopped"
    assert key_of(older) not in coordinator.results


async def test_after_a_cut_leases_are_resumed_and_results_sent_again(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    coordinator.acknowledges = False
    running = new_lease("running", "wait")
    done = [new_lease(f"done{number}", "tenure.noop") for number in range(3)]
    coordinator.offer(running, *done)
    start_agent(write_config(coordinator.address))
    await coordinator.until(lambda: len(coordinator.results) == 3 and bool(coordinator.begun))
    coordinator.acknowledges = True
    coordinator.cut()
    await coordinator.until(lambda: all(len(it) == 2 for it in coordinator.results.values()))
    first, second = coordinator.hellos
    assert first.instance == second.instance
    assert not first.held
    assert {key_of(ref) for ref in second.held} == {key_of(it) for it in (running, *done)}
    await coordinator.until(lambda: key_of(running) in _renewed(coordinator))
    coordinator.cut()
    await coordinator.until(lambda: len(coordinator.hellos) == 3)
    assert [key_of(ref) for ref in coordinator.hellos[2].held] == [key_of(running)]
    assert all(len(it) == 2 for it in coordinator.results.values()), "acknowledged: not again"


async def test_a_lease_lost_during_the_cut_is_stopped_after_it(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    lease = new_lease("t", "wait")
    coordinator.offer(lease)
    start_agent(write_config(coordinator.address))
    await coordinator.until(lambda: bool(coordinator.begun))
    del coordinator.live[key_of(lease)]
    coordinator.cut()
    await coordinator.until(lambda: len(coordinator.hellos) == 2)
    coordinator.cut()
    await coordinator.until(lambda: len(coordinator.hellos) == 3)
    assert not coordinator.hellos[2].held


async def test_a_coordinator_that_comes_back_finds_the_agent_again(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    address = coordinator.address
    start_agent(write_config(address))
    await coordinator.until(lambda: coordinator.line is not None)
    await coordinator.stop()
    await coordinator.start(address)
    lease = new_lease("t", "tenure.noop")
    coordinator.offer(lease)
    await coordinator.result(lease)
    assert len(coordinator.hellos) == 2


async def test_several_addresses_are_tried_in_turn(
    coordinator: FakeCoordinator,
    other: FakeCoordinator,
    start_agent: StartAgent,
    write_config: WriteConfig,
) -> None:
    await coordinator.stop()
    start_agent(write_config(coordinator.address, other.address))
    await other.until(lambda: other.line is not None)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
        (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING"),
        (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        (grpc.StatusCode.FAILED_PRECONDITION, "RUN_CLOSED"),
        (grpc.StatusCode.UNAVAILABLE, "STOPPING"),
    ],
)
async def test_a_refused_agent_asks_again(
    coordinator: FakeCoordinator,
    start_agent: StartAgent,
    write_config: WriteConfig,
    code: grpc.StatusCode,
    reason: str,
) -> None:
    coordinator.refuses_with = (code, reason)
    start_agent(write_config(coordinator.address))
    await _until_asked(coordinator, 2)
    coordinator.refuses_with = None
    await coordinator.until(lambda: coordinator.line is not None)


async def test_an_agent_that_was_replaced_does_not_come_back(
    coordinator: FakeCoordinator, write_config: WriteConfig
) -> None:
    coordinator.refuses_with = (grpc.StatusCode.FAILED_PRECONDITION, "AGENT_REPLACED")
    agent = daemon.Daemon(config.load(write_config(coordinator.address)), ready_file=None)
    with pytest.raises(link.Replaced, match="agent_replaced"):
        await agent.run()
    assert len(coordinator.keys_seen) == 1


async def test_draining_finishes_what_runs_and_takes_nothing_new(
    coordinator: FakeCoordinator, write_config: WriteConfig
) -> None:
    path = write_config(coordinator.address)
    agent = daemon.Daemon(config.load(path), ready_file=None)
    serving = asyncio.create_task(agent.run())
    lease = new_lease("t", "until-cancelled")
    coordinator.offer(lease)
    await coordinator.until(lambda: bool(coordinator.begun))
    agent.stop()
    await coordinator.until(lambda: coordinator.line is not None and coordinator.line.draining)
    late = new_lease("late", "tenure.noop")
    run = agents_pb2.RunContext(run_id=RUN_ID)
    coordinator.say(batch=agents_pb2.LeaseBatch(runs=[run], leases=[late]))
    await coordinator.until(lambda: coordinator.returned == [key_of(late)])
    assert not serving.done()
    agent.stop()
    async with asyncio.timeout(60):
        await serving
    assert end_of(coordinator.results[key_of(lease)][0]) == "stopped"
    assert key_of(late) not in coordinator.results


async def test_large_results_are_split_into_messages(
    coordinator: FakeCoordinator, start_agent: StartAgent, write_config: WriteConfig
) -> None:
    """No message is larger than four mebibytes and a little."""
    path = write_config(coordinator.address)
    path.write_text(path.read_text().replace("slots = 4", "slots = 20"))
    leases = [
        new_lease(f"t{number}", "tenure.echo", input=data("x" * 1_000_000)) for number in range(20)
    ]
    start_agent(path)
    await coordinator.until(lambda: coordinator.line is not None)
    coordinator.offer(*leases)
    await coordinator.until(lambda: len(coordinator.results) == 20)
    assert max(coordinator.bytes_received) < lines.MESSAGE_BYTES + 1024 * 1024 + 10_000
    assert sum(coordinator.bytes_received) > 20_000_000


async def test_a_full_disk_does_not_stop_the_work(
    coordinator: FakeCoordinator,
    start_agent: StartAgent,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: object, results: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tenure_agent.spool.Spool.append", refuse)
    lease = new_lease("t", "tenure.noop")
    coordinator.offer(lease)
    start_agent(write_config(coordinator.address))
    assert end_of(await coordinator.result(lease)) == "success"


async def test_with_spool_sync_results_are_synced(
    coordinator: FakeCoordinator,
    start_agent: StartAgent,
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("os.fdatasync", lambda fd: loop.call_soon_threadsafe(synced.set))
    lease = new_lease("t", "tenure.noop")
    coordinator.offer(lease)
    start_agent(write_config(coordinator.address, agent="spool_sync = true"))
    await coordinator.result(lease)
    async with asyncio.timeout(60):
        await synced.wait()


def _renewed(coordinator: FakeCoordinator) -> set[Key]:
    return {key_of(renewal.lease) for renewal in coordinator.renewals}


async def _until_asked(coordinator: FakeCoordinator, times: int) -> None:
    await coordinator.until(lambda: len(coordinator.keys_seen) >= times)


async def test_the_holder_of_a_seat_is_followed_only_among_our_own(tmp_path: Path) -> None:
    """A stranger's address never gets the key."""
    coordinators = config.CoordinatorConfig(addresses=("a:1", "b:2", "c:3"), key="k")
    agent = config.AgentConfig(path=tmp_path, coordinator=coordinators, name="n", spool=tmp_path)
    made = link.Link(agent, None, {}, on_welcome=lambda **_: None)  # type: ignore[arg-type]
    made.follow("c:3")
    made.follow("stranger:4")
    assert [way.address for way in made._ways if way._called.is_set()] == ["c:3"]
