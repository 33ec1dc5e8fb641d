"""Worker processes: how many there are, how they begin and end, alone and with the agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.conftest import AgentProcess, WriteConfig, wait_for_end
from tests.agent.fake_coordinator import FakeCoordinator, key_of, new_lease
from tests.agent.isolation import HANDLERS, StartIsolated
from tests.agent.trial import failure, output

from tenure_agent import config, handlers, workers
from tenure_agent.isolated import Isolated
from tenure_agent.toml import ConfigError

Spawn = Callable[..., Awaitable[AgentProcess]]


# --- The pool -------------------------------------------------------------------------------------


async def test_a_worker_is_used_again_and_replaced_in_time(
    start_isolated: StartIsolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "ATTEMPTS_MAX", 2)
    it = start_isolated("who")
    pids = [output(await it.result("who")) for _ in range(4)]
    assert (pids[0], pids[2]) == (pids[1], pids[3])
    assert pids[1] != pids[2]
    await wait_for_end(pids[0])


async def test_there_are_never_more_workers_than_slots(start_isolated: StartIsolated) -> None:
    it = start_isolated("who", slots=2)
    ends = await asyncio.gather(*(it.end(it.start("who")) for _ in range(8)))
    pids = {output(end) for end in ends if end is not None}
    assert 1 <= len(pids) <= 2


async def test_a_worker_without_work_leaves(
    start_isolated: StartIsolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "IDLE_SECONDS", 0.01)
    await wait_for_end(output(await start_isolated("who").result("who")))


async def test_no_attempt_pays_for_a_worker_that_died_idle(start_isolated: StartIsolated) -> None:
    it = start_isolated("who")
    pid = output(await it.result("who"))
    os.kill(pid, signal.SIGKILL)
    assert output(await it.result("who")) != pid


async def test_an_attempt_that_is_over_is_not_heard(start_isolated: StartIsolated) -> None:
    """Its context still exists in the worker, but the worker has another attempt now."""
    it = start_isolated("keep", "speak_for_another", slots=1)
    await it.result("keep")
    key = it.start("speak_for_another")
    words = it.runner.running[key].words
    await it.end(key)
    assert words.checkpoint is None
    assert words.progress == (0.2, "")


async def test_a_worker_that_cannot_start_fails_its_attempt(
    start_isolated: StartIsolated, tmp_path: Path
) -> None:
    it = start_isolated("who")
    (tmp_path / "isolated_test_handlers.py").write_text("import os; os._exit(9)")
    assert failure(await it.result("who"))[0] == "WORKER_NOT_STARTED"
    (tmp_path / "isolated_test_handlers.py").write_text("")
    code, message, _ = failure(await it.result("who"))
    assert code == "FunctionError"
    assert message.endswith("module 'isolated_test_handlers' has no 'who'")


# --- The configuration and the agent --------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "no module 'isolated_start' on "),
        ("x = 1", "module 'isolated_start' has no 'f'"),
        ("def f(): pass", "must take (context, input): "),
        ("1 / 0", "the module cannot be imported: ZeroDivisionError: division by zero"),
        ("import os; os._exit(7)", "importing the module ends its process: exit code 7"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "importing the module ends its process: signal SEGV",
        ),
    ],
)
def test_what_is_wrong_with_a_function_is_found_at_the_start(
    write_config: WriteConfig, source: str | None, reason: str
) -> None:
    kinds = (
        "[[python]]\nkind='good'\nfunction='agent_test_handlers:double'\nprocess=true\n"
        "[[python]]\nkind='it'\nfunction='isolated_start:f'\nprocess=true\n"
    )
    path = write_config("127.0.0.1:1", kinds=kinds)
    if source is not None:
        (path.parent / "isolated_start.py").write_text(source)
    with pytest.raises(ConfigError) as refused:
        handlers.build(config.load(path))
    assert str(refused.value).startswith(f"{path}: kind 'it': isolated_start:f: {reason}")


def test_a_function_runs_in_a_process_only_if_the_file_says_so(write_config: WriteConfig) -> None:
    entry = "[[python]]\nkind='{0}'\nfunction='agent_test_handlers:double'\n{1}\n"
    kinds = entry.format("by-default", "") + entry.format("isolated", "process = true")
    path = write_config("127.0.0.1:1", kinds=kinds)
    table = handlers.build(config.load(path))
    assert type(table["by-default"]) is handlers.Coroutine
    assert table["isolated"] == Isolated(function="agent_test_handlers:double", folder=path.parent)
    path = write_config("127.0.0.1:1", kinds=entry.format("it", "process = 1"))
    with pytest.raises(ConfigError, match="process: must be true or false"):
        config.load(path)


def isolated_kinds(*names: str) -> str:
    return "".join(
        f"[[python]]\nkind='{name}'\nfunction='isolated_test_handlers:{name}'\nprocess=true\n"
        for name in names
    )


async def test_an_agent_goes_on_after_the_crashes_of_its_handlers(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig
) -> None:
    path = write_config(
        coordinator.address, kinds=isolated_kinds("fail", "segfault", "who", "log", "talk")
    )
    (path.parent / "isolated_test_handlers.py").write_text(HANDLERS)
    leases: list[Any] = []
    for kind, value in (("fail", "exit"), ("segfault", None), ("fail", "kill"), ("log", None)):
        leases.append(new_lease(f"{kind}-{value}", kind))
        leases[-1].input.data = json.dumps(value).encode()
    leases += [new_lease(f"who-{number}", "who") for number in range(20)]
    leases.append(new_lease("talk", "talk"))
    coordinator.offer(*leases)
    agent = await spawn_agent(path, "--log-format", "json")
    ends = [await coordinator.result(lease) for lease in leases]
    codes = [end.failure.code for end in ends]
    assert codes == ["EXIT_4", "SIGNAL_SEGV", "SIGNAL_KILL", *([""] * 22)]
    assert len(coordinator.hellos) == 1
    assert {len(results) for results in coordinator.results.values()} == {1}
    agent.process.send_signal(signal.SIGTERM)
    assert await agent.exit_code() == 0
    assert not (path.parent / "spool" / "groups").exists()
    lines = [json.loads(line) for line in (await agent.log()).splitlines()]
    (said,) = [line for line in lines if line["event"] == "by context"]
    assert (said["task_key"], said["logger"], said["level"]) == ("log-None", "handler", "warning")
    assert [it["task_key"] for it in lines if it.get("text") == "by print"] == ["talk"]


@pytest.mark.parametrize("kind", ["until_told", "hog"])
async def test_workers_end_with_a_killed_agent(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig, kind: str
) -> None:
    """At once, or if nothing in them can run, when the next agent starts."""
    path = write_config(coordinator.address, kinds=isolated_kinds("until_told", "hog"))
    (path.parent / "isolated_test_handlers.py").write_text(HANDLERS)
    lease = new_lease("it", kind)
    coordinator.offer(lease)
    agent = await spawn_agent(path)
    await coordinator.until(
        lambda: any(it.message or it.checkpoint.data for it in coordinator.renewals)
    )
    said = next(it for it in coordinator.renewals if it.message or it.checkpoint.data)
    assert key_of(said.lease) == key_of(lease)
    pid = int(said.message or said.checkpoint.data)
    await agent.kill()
    if kind == "hog":
        await spawn_agent(path)
    await wait_for_end(pid)
