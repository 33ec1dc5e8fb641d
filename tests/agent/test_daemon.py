"""The agent as a process: how it starts, how it dies, and what it leaves."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from tests.agent.conftest import KEY, AgentProcess, WriteConfig
from tests.agent.fake_coordinator import FakeCoordinator, key_of, new_lease

Spawn = Callable[..., Awaitable[AgentProcess]]


async def test_results_survive_a_kill_and_reach_the_next_process(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig
) -> None:
    """Finished, not acknowledged: the new process names their leases and sends them."""
    path = write_config(coordinator.address)
    coordinator.acknowledges = False
    leases = [new_lease(f"t{number}", "tenure.noop") for number in range(10)]
    coordinator.offer(*leases)
    first = await spawn_agent(path)
    await coordinator.until(lambda: len(coordinator.results) == 10)
    await first.kill()
    coordinator.acknowledges = True
    second = await spawn_agent(path)
    await coordinator.until(lambda: all(len(it) == 2 for it in coordinator.results.values()))
    assert {key_of(ref) for ref in coordinator.hellos[1].held} == {key_of(it) for it in leases}
    assert coordinator.hellos[0].instance != coordinator.hellos[1].instance
    assert all(before == after for before, after in coordinator.results.values())
    second.process.send_signal(signal.SIGTERM)
    assert await second.exit_code() == 0
    assert [it.name for it in (path.parent / "spool").iterdir()] == ["lock"]


async def test_sigterm_drains(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig, tmp_path: Path
) -> None:
    """What ends in time counts, what does not is reported as stopped, and then it leaves."""
    ready = tmp_path / "ready.json"
    quick = new_lease("quick", "tenure.trace")
    quick.input.data = b'{"seconds": 0.4}'
    slow = [new_lease(kind, kind) for kind in ("wait", "sleep", "deaf")]
    coordinator.offer(quick, *slow)
    path = write_config(coordinator.address, agent="drain_seconds = 0.8")
    agent = await spawn_agent(path, "--ready-file", str(ready), "--log-format", "json")
    await coordinator.until(lambda: len(coordinator.begun) == 4)
    facts = json.loads(ready.read_text())
    assert (facts["agent"], facts["pid"]) == ("host-1", agent.process.pid)
    agent.process.send_signal(signal.SIGTERM)
    assert await agent.exit_code() == 0
    ends = {key[1]: results[0].WhichOneof("end") for key, results in coordinator.results.items()}
    assert ends == {"quick": "success", "wait": "stopped", "sleep": "stopped", "deaf": "stopped"}
    assert not ready.exists()
    lines = [json.loads(line) for line in (await agent.log()).splitlines()]
    stopped = [line for line in lines if line["event"] == "attempt is stopped"]
    assert len(stopped) == 3
    for line in stopped:
        assert line["tenant"] == "acme"
        assert {"run_id", "task_key", "attempt", "correlation_id"} <= line.keys()
    assert KEY not in json.dumps(lines)


async def test_it_leaves_with_its_parent(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig
) -> None:
    agent = await spawn_agent(write_config(coordinator.address), "--exit-with-stdin")
    await coordinator.until(lambda: coordinator.line is not None)
    assert agent.process.stdin is not None
    agent.process.stdin.close()
    assert await agent.exit_code() == 0


async def test_it_leaves_without_a_coordinator_too(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig
) -> None:
    agent = await spawn_agent(write_config(coordinator.address))
    await coordinator.until(lambda: coordinator.line is not None)
    await coordinator.stop()
    agent.process.send_signal(signal.SIGINT)
    assert await agent.exit_code() == 0


async def test_a_second_process_under_its_name_makes_it_leave(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig
) -> None:
    coordinator.refuses_with = (grpc.StatusCode.FAILED_PRECONDITION, "AGENT_REPLACED")
    agent = await spawn_agent(write_config(coordinator.address))
    assert await agent.exit_code() == 1
    assert "another process runs under this agent's name" in await agent.log()


async def test_a_fault_in_the_file_is_one_sentence_and_no_stack(
    spawn_agent: Spawn, write_config: WriteConfig
) -> None:
    agent = await spawn_agent(write_config("127.0.0.1:1", agent="slotz = 4"))
    assert await agent.exit_code() == 1
    log = await agent.log()
    assert "[agent] slotz: unknown key; did you mean 'slots'?" in log
    assert "Traceback" not in log


async def test_what_handlers_log_names_their_attempt(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig
) -> None:
    """Through the context, structlog or the standard library; in threads and coroutines."""
    kinds = "".join(
        f"[[python]]\nkind='{kind}'\nfunction='agent_test_handlers:{kind}'\n"
        for kind in ("plain", "coroutine")
    )
    path = write_config(coordinator.address, kinds=kinds)
    handlers = path.parent / "agent_test_handlers.py"
    handlers.write_text(
        "import logging, structlog\n"
        "def plain(ctx, value):\n"
        "    ctx.logger.info('by context', more=1)\n"
        "    structlog.get_logger().info('by structlog')\n"
        "    logging.getLogger('lib').warning('by %s', 'logging')\n"
        "async def coroutine(ctx, value):\n"
        "    plain(ctx, value)\n"
    )
    leases = [new_lease(kind, kind) for kind in ("plain", "coroutine")]
    coordinator.offer(*leases)
    agent = await spawn_agent(path, "--log-format", "json")
    for lease in leases:
        await coordinator.result(lease)
    agent.process.send_signal(signal.SIGTERM)
    await agent.exit_code()
    lines = [json.loads(line) for line in (await agent.log()).splitlines()]
    said = [(line["event"], line.get("task_key")) for line in lines if line["event"][:3] == "by "]
    assert sorted(said) == sorted(
        (f"by {what}", kind)
        for what in ("context", "structlog", "logging")
        for kind in ("plain", "coroutine")
    )
