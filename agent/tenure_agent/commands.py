"""Executes a command: JSON on stdin, JSON on stdout, and nothing of it outlives its attempt.

Each command leads a session of its own, so that the whole process group can be killed: when the
attempt is stopped, when it says more than a payload may hold, and what is left of it when its
leader ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import orjson

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import payloads
from tenure_agent.payloads import PAYLOAD_BYTES_MAX

STDERR_TAIL_BYTES = 4096
#: How long the pipes may stay open after the leader's end, held by what it left behind.
PIPES_SECONDS = 1.0


class CommandFailed(Exception):  # noqa: N818 - an end of an attempt, not a fault of ours
    """The command ended without an output that counts."""

    def __init__(self, code: str, message: str, *, non_retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.non_retryable = non_retryable


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run: its argument vector, where, and with which environment."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]


async def execute(
    command: Command, stdin: bytes, variables: Mapping[str, str], *, stop_seconds: float
) -> payload_pb2.Payload | None:
    """Runs a command to its end and gives its output, None when stdout was empty.

    Cancelling sends TERM to the process group, and KILL after `stop_seconds`. Raises
    CommandFailed with code `EXIT_<n>`, `SIGNAL_<name>`, `OUTPUT_INVALID` or `COMMAND_NOT_STARTED`.
    """
    child = await _spawn(command, variables)
    try:
        child.feed(stdin)
        await child.exited_or_loud.wait()
        if not child.loud:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PIPES_SECONDS):
                    await child.closed_or_loud.wait()
    except asyncio.CancelledError:
        await _terminate(child, stop_seconds)
        raise
    finally:
        child.kill_group(signal.SIGKILL)
        await child.bury()
    return _output(child)


def stdin_bytes(lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> bytes:
    """The JSON document that a command finds on stdin.

    Payloads are put into it as they came, so that numbers stay exact.
    """
    upstream = b",".join(
        orjson.dumps(key) + b":" + _raw(payload) for key, payload in lease.upstream.items()
    )
    fields = [
        (b"input", _raw(lease.input)),
        (b"run_input", _raw(run.input)),
        (b"upstream", b"{" + upstream + b"}"),
        (b"checkpoint", _raw(lease.checkpoint)),
        (b"run_id", orjson.dumps(lease.run_id)),
        (b"task_key", orjson.dumps(lease.task_key)),
        (b"attempt", orjson.dumps(lease.attempt)),
    ]
    return b"{" + b",".join(b'"%s":%s' % field for field in fields) + b"}"


def variables_of(lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> dict[str, str]:
    """The environment variables that tell a command about its attempt."""
    return {
        "TENURE_TENANT": run.tenant_id,
        "TENURE_RUN_ID": lease.run_id,
        "TENURE_TASK_KEY": lease.task_key,
        "TENURE_ATTEMPT": str(lease.attempt),
        "TENURE_CORRELATION_ID": run.correlation_id,
    }


class _Child(asyncio.SubprocessProtocol):
    """One process: what it said so far, and the moments that others wait for."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.loud = False
        self.exited = asyncio.Event()
        self.exited_or_loud = asyncio.Event()
        self.closed_or_loud = asyncio.Event()
        self._open_pipes = {1, 2}
        self._transport: asyncio.SubprocessTransport | None = None
        self.pid = 0

    @property
    def transport(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.stderr += data
            del self.stderr[:-STDERR_TAIL_BYTES]
        elif len(self.stdout) + len(data) <= PAYLOAD_BYTES_MAX:
            self.stdout += data
        else:
            self.loud = True
            self.exited_or_loud.set()
            self.closed_or_loud.set()
            self.kill_group(signal.SIGKILL)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if not self._open_pipes:
            self.closed_or_loud.set()

    def process_exited(self) -> None:
        self.exited.set()
        self.exited_or_loud.set()

    def feed(self, data: bytes) -> None:
        """Writes stdin and closes it; a command that does not read it is none the worse."""
        pipe = cast("asyncio.WriteTransport", self.transport.get_pipe_transport(0))
        # The process may have ended by now, and with it the pipe; uvloop says so with RuntimeError.
        with contextlib.suppress(RuntimeError, OSError):
            pipe.write(data)
            pipe.close()

    def kill_group(self, number: signal.Signals) -> None:
        """Signals every process of the command's group that is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def bury(self) -> None:
        """Waits for the leader after it was killed, and lets go of the pipes."""
        await self.exited.wait()
        self.transport.close()


async def _spawn(command: Command, variables: Mapping[str, str]) -> _Child:
    """Starts the process. Never leaves one behind when cancelled half-way."""
    start = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            _Child,
            *command.argv,
            cwd=command.cwd,
            env={**command.env, **variables},
            start_new_session=True,
        )
    )
    try:
        _, child = await asyncio.shield(start)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            _, child = await start
            child.kill_group(signal.SIGKILL)
            await child.bury()
        raise
    except (OSError, ValueError) as error:
        reason = f"{command.argv[0]}: cannot be started: {error}"
        raise CommandFailed("COMMAND_NOT_STARTED", reason) from error
    return child


async def _terminate(child: _Child, stop_seconds: float) -> None:
    """Asks the group to end. The caller kills what is left of it afterwards."""
    child.kill_group(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(stop_seconds):
            await child.exited.wait()


def _output(child: _Child) -> payload_pb2.Payload | None:
    """Judges how the command ended."""
    code = child.transport.get_returncode()
    if child.loud:
        reason = f"stdout: more than {PAYLOAD_BYTES_MAX} bytes"
        raise CommandFailed("OUTPUT_INVALID", reason, non_retryable=True)
    if code is None or code > 0:
        raise CommandFailed(f"EXIT_{code}", _tail(child) or f"ended with exit code {code}")
    if code < 0:
        name = _signal_name(-code)
        raise CommandFailed(f"SIGNAL_{name}", _tail(child) or f"was ended by signal {name}")
    data = bytes(child.stdout).strip()
    if not data:
        return None
    try:
        payloads.decode_bytes(data)
    except payloads.PayloadError as error:
        raise CommandFailed("OUTPUT_INVALID", f"stdout: {error}", non_retryable=True) from error
    return payload_pb2.Payload(data=data)


def _tail(child: _Child) -> str:
    return child.stderr.decode("utf-8", "replace").strip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def _raw(payload: payload_pb2.Payload) -> bytes:
    """A payload as a piece of JSON: itself, null when empty, a string when it is not JSON."""
    if payload.WhichOneof("body") is None:
        return b"null"
    if payloads.is_json(payload):
        return payload.data
    return orjson.dumps(payload.data.decode("utf-8", "replace"))
