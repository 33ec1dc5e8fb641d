"""Agents under test: in this process for what they say, in one of their own for how they die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.fake_coordinator import FakeCoordinator
from tests.agent.isolation import HANDLERS as ISOLATED_HANDLERS
from tests.agent.isolation import StartIsolated
from tests.agent.trial import STOP_SECONDS, StartTrial, Trial

from tenure_agent import config, daemon
from tenure_agent.handlers import Handler
from tenure_agent.isolated import Isolated
from tenure_agent.references import References
from tenure_agent.runner import StopCause

KEY = "tnr_" + "k" * 43

HANDLERS = """
import asyncio
import threading

import tenure_agent

release = threading.Event()
began = threading.Event()


async def double(ctx, value):
    return value * 2


def report(ctx, value):
    ctx.progress(0.5, "half way")
    ctx.save_checkpoint({"done": 1})
    return {
        "run_id": ctx.run_id, "task_key": ctx.task_key, "attempt": ctx.attempt,
        "tenant_id": ctx.tenant_id, "workflow": ctx.workflow, "input": value,
        "correlation_id": ctx.correlation_id, "run_input": ctx.run_input,
        "upstream": ctx.upstream, "checkpoint": ctx.checkpoint,
    }


async def wait(ctx, value):
    await asyncio.Event().wait()


def until_cancelled(ctx, value):
    ctx.progress(0.25, "waiting")
    while True:
        ctx.raise_if_cancelled()
        release.wait(0.01)


def deaf(ctx, value):
    began.set()
    release.wait()
"""

KINDS = """
[[python]]
kind = "double"
function = "agent_test_handlers:double"
[[python]]
kind = "report"
function = "agent_test_handlers:report"
[[python]]
kind = "wait"
function = "agent_test_handlers:wait"
[[python]]
kind = "until-cancelled"
function = "agent_test_handlers:until_cancelled"
[[python]]
kind = "deaf"
function = "agent_test_handlers:deaf"
[[command]]
kind = "cat"
argv = ["cat"]
[[command]]
kind = "sleep"
argv = ["sleep", "60"]
"""

WriteConfig = Callable[..., Path]


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Writes an agent's folder: configuration, key and handlers. Gives the path of the TOML."""

    def write(*addresses: str, agent: str = "", kinds: str = KINDS) -> Path:
        (tmp_path / "agent.key").write_text(KEY + "\n")
        (tmp_path / "agent_test_handlers.py").write_text(HANDLERS)
        path = tmp_path / "agent.toml"
        path.write_text(
            f"[coordinator]\naddresses = {list(addresses)}\nkey_file = 'agent.key'\n"
            f"[agent]\nname = 'host-1'\nslots = 4\nstop_seconds = 0.2\n{agent}\n{kinds}"
        )
        return path

    return write


@pytest.fixture(autouse=True)
def _forget_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a module of handlers of its own, and no thread of it outlives the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "agent_test_handlers", raising=False)
    yield
    module = sys.modules.pop("agent_test_handlers", None)
    if module is not None:
        module.release.set()


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    """A coordinator that serves."""
    fake = FakeCoordinator()
    await fake.start()
    yield fake
    await fake.stop()


StartAgent = Callable[[Path], daemon.Daemon]


@pytest.fixture
async def start_agent() -> AsyncIterator[StartAgent]:
    """Starts agents in this process; they are stopped in a hurry when the test ends."""
    running: list[tuple[daemon.Daemon, asyncio.Task[None]]] = []

    def start(path: Path) -> daemon.Daemon:
        agent = daemon.Daemon(config.load(path), ready_file=None)
        running.append((agent, asyncio.create_task(agent.run())))
        return agent

    yield start
    for agent, _ in running:
        agent.stop()
        agent.stop()
    async with asyncio.timeout(60):
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)


class AgentProcess:
    """An agent in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def kill(self) -> None:
        """Ends it without a chance to say anything."""
        self.process.kill()
        await self.process.wait()

    async def exit_code(self) -> int:
        """Waits for its end."""
        async with asyncio.timeout(60):
            return await self.process.wait()

    async def log(self) -> str:
        """All that it logged, once it has ended."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


@pytest.fixture
async def spawn_agent() -> AsyncIterator[Callable[..., object]]:
    """Starts agent processes: `await spawn_agent(path, *options)`."""
    started: list[AgentProcess] = []

    async def spawn(path: Path, *options: str) -> AgentProcess:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tenure_agent", "--config", str(path), *options),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        started.append(AgentProcess(process))
        return started[-1]

    yield spawn
    for agent in started:
        with contextlib.suppress(ProcessLookupError):
            agent.process.kill()
        await agent.process.communicate()


async def wait_for_end(pid: int) -> None:
    """Waits until a process is dead, be it waited for by its parent or not."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    try:
        async with asyncio.timeout(60):
            await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


@pytest.fixture
async def trial() -> AsyncIterator[StartTrial]:
    made: list[Trial] = []

    def make(
        slots: int = 4,
        stop_seconds: float = STOP_SECONDS,
        references: References | None = None,
        **table: Handler,
    ) -> Trial:
        made.append(Trial(table, slots=slots, stop_seconds=stop_seconds, references=references))
        return made[-1]

    yield make
    for it in made:
        it.runner.stop_all(StopCause.DRAINED)
        await asyncio.gather(*it.ended.values())
        await it.runner.close()


@pytest.fixture
def start_isolated(trial: StartTrial, tmp_path: Path) -> StartIsolated:
    """A trial of some isolated functions, as kinds of the same names.

    There is much time to stop, since those that do stop do so as soon as they are asked.
    """
    (tmp_path / "isolated_test_handlers.py").write_text(ISOLATED_HANDLERS)

    def make(
        *names: str,
        slots: int = 4,
        stop_seconds: float = 10.0,
        references: References | None = None,
    ) -> Trial:
        found = {
            name: Isolated(function=f"isolated_test_handlers:{name}", folder=tmp_path)
            for name in names
        }
        return trial(slots=slots, stop_seconds=stop_seconds, references=references, **found)

    return make
