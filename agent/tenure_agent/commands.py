"""Executes a command: JSON on stdin, JSON on stdout, and nothing of it outlives its attempt.

Each command leads a session of its own, so that the whole process group can be killed: when the
attempt is stopped, when it says more than a payload may hold, and what is left of it when its
leader ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import children, payloads
from tenure_agent.children import Child, ChildFailed
from tenure_agent.groups import Groups
from tenure_agent.payloads import PAYLOAD_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run: its argument vector, where, and with which environment."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]


async def execute(
    command: Command,
    stdin: bytes,
    variables: Mapping[str, str],
    *,
    stop_seconds: float,
    groups: Groups | None = None,
    output_bytes_max: int = PAYLOAD_BYTES_MAX,
) -> payload_pb2.Payload | None:
    """Runs a command to its end and gives its output, None when stdout was empty.

    Cancelling sends TERM to the process group, and KILL after `stop_seconds`. Raises ChildFailed
    with code `EXIT_<n>`, `SIGNAL_<name>`, `OUTPUT_INVALID` or `COMMAND_NOT_STARTED`.
    """
    child = await _spawn(command, variables, groups, output_bytes_max)
    try:
        child.feed(stdin, last=True)
        await child.done.wait()
        await child.last_words()
    except asyncio.CancelledError:
        await child.terminate(stop_seconds)
        raise
    finally:
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


class _Command(Child):
    """The process of a command."""

    def __init__(self, groups: Groups | None, output_bytes_max: int) -> None:
        super().__init__(groups)
        self.output_bytes_max = output_bytes_max
        self.stdout = bytearray()
        self.loud = False

    def stdout_received(self, data: bytes) -> None:
        if len(self.stdout) + len(data) <= self.output_bytes_max:
            self.stdout += data
        else:
            self.loud = True
            self.give_up()


async def _spawn(
    command: Command,
    variables: Mapping[str, str],
    groups: Groups | None,
    output_bytes_max: int,
) -> _Command:
    env = {**command.env, **variables}
    try:
        return await children.spawn(
            partial(_Command, groups, output_bytes_max), command.argv, cwd=command.cwd, env=env
        )
    except (OSError, ValueError) as error:
        reason = f"{command.argv[0]}: cannot be started: {error}"
        raise ChildFailed("COMMAND_NOT_STARTED", reason) from error


def _output(child: _Command) -> payload_pb2.Payload | None:
    """Judges how the command ended."""
    if child.loud:
        reason = f"stdout: more than {child.output_bytes_max} bytes"
        raise ChildFailed("OUTPUT_INVALID", reason, non_retryable=True)
    if child.transport.get_returncode() != 0:
        raise child.death()
    data = bytes(child.stdout).strip()
    if not data:
        return None
    try:
        payloads.decode_bytes(data)
    except payloads.PayloadError as error:
        raise ChildFailed("OUTPUT_INVALID", f"stdout: {error}", non_retryable=True) from error
    return payload_pb2.Payload(data=data)


def _raw(payload: payload_pb2.Payload) -> bytes:
    """A payload as a piece of JSON: itself, null when empty, a string when it is not JSON."""
    if payload.WhichOneof("body") is None:
        return b"null"
    if payloads.is_json(payload):
        return payload.data
    return orjson.dumps(payload.data.decode("utf-8", "replace"))
