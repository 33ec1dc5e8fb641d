"""Child processes: each leads a session of its own, so that its whole group can be ended.

What commands and workers have in common: they are started without being left behind, heard, asked
to end, killed with all that they started, and waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

from tenure_agent.groups import Groups

STDERR_TAIL_BYTES = 4096
#: How long the pipes may stay open after the leader's end, held by what it left behind.
PIPES_SECONDS = 1.0


class ChildFailed(Exception):  # noqa: N818 - an end of an attempt, not a fault of ours
    """A child ended its attempt without an output that counts.

    `trace` is the stack of what a function raised, empty where there is none.
    """

    def __init__(
        self, code: str, message: str, *, non_retryable: bool = False, trace: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.non_retryable = non_retryable
        self.trace = trace


class Child(asyncio.SubprocessProtocol, ABC):
    """One process: the end of what it said on stderr, and the moments that others wait for."""

    def __init__(self, groups: Groups | None) -> None:
        self.pid = 0
        self.stderr = bytearray()
        self.exited = asyncio.Event()
        #: It has exited, or has said all that is wanted.
        self.done = asyncio.Event()
        #: Its pipes are closed, or nothing more is wanted from them.
        self.closed = asyncio.Event()
        self._groups = groups
        self._open_pipes = {1, 2}
        self._transport: asyncio.SubprocessTransport | None = None

    @abstractmethod
    def stdout_received(self, data: bytes) -> None:
        """Takes what the process wrote on stdout."""

    def stderr_received(self, data: bytes) -> None:
        """Takes what the process wrote on stderr."""
        self.stderr += data
        del self.stderr[:-STDERR_TAIL_BYTES]

    @property
    def transport(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None
        return self._transport

    @property
    def stdin(self) -> asyncio.WriteTransport:
        return cast("asyncio.WriteTransport", self.transport.get_pipe_transport(0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()
        if self._groups is not None:
            self._groups.add(self.pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.stderr_received(data)
        else:
            self.stdout_received(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if not self._open_pipes:
            self.closed.set()

    def process_exited(self) -> None:
        self.exited.set()
        self.done.set()

    def feed(self, data: bytes, *, last: bool) -> None:
        """Writes to stdin; a process that does not read it is none the worse."""
        # The process may have ended by now, and with it the pipe; uvloop says so with RuntimeError.
        with contextlib.suppress(RuntimeError, OSError):
            self.stdin.write(data)
            if last:
                self.stdin.close()

    def give_up(self) -> None:
        """Kills it, since it said something that is not to be heard."""
        self.done.set()
        self.closed.set()
        self.kill_group(signal.SIGKILL)

    def kill_group(self, number: signal.Signals) -> None:
        """Signals every process of the group that is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def last_words(self) -> None:
        """Waits for the rest of what an ended process said, as long as there may be any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PIPES_SECONDS):
                await self.closed.wait()

    async def terminate(self, stop_seconds: float) -> None:
        """Asks the group to end. What is left of it is killed when it is buried."""
        self.kill_group(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stop_seconds):
                await self.done.wait()

    async def bury(self) -> None:
        """Kills what is left of the group, waits for its leader and lets go of the pipes."""
        self.kill_group(signal.SIGKILL)
        await self.exited.wait()
        self.transport.close()
        if self._groups is not None:
            self._groups.discard(self.pid)

    def tail(self) -> str:
        """The last that it wrote on stderr."""
        return self.stderr.decode("utf-8", "replace").strip()

    def death(self) -> ChildFailed:
        """Says how the process ended: `EXIT_<n>` or `SIGNAL_<name>`."""
        code = self.transport.get_returncode()
        if code is None or code >= 0:
            return ChildFailed(f"EXIT_{code}", self.tail() or f"ended with exit code {code}")
        name = signal_name(-code)
        return ChildFailed(f"SIGNAL_{name}", self.tail() or f"was ended by signal {name}")


AnyChild = TypeVar("AnyChild", bound=Child)


async def spawn(
    make: Callable[[], AnyChild], argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str]
) -> AnyChild:
    """Starts a process, and never leaves one behind when cancelled half-way.

    Raises OSError and ValueError when it cannot be started. This is
    `asyncio.create_subprocess_exec` with a protocol of ours instead of its streams.
    """
    loop = asyncio.get_running_loop()
    start = asyncio.ensure_future(
        loop.subprocess_exec(make, *argv, cwd=cwd, env=env, start_new_session=True)
    )
    try:
        _, child = await asyncio.shield(start)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError, ValueError):
            _, child = await start
            await child.bury()
        raise
    return child


def signal_name(number: int) -> str:
    """A signal's name without SIG, or its number."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)
