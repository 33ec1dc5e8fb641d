"""The table of kinds: from the configuration to what executes them, and the built-in kinds.

Everything that can be wrong with a handler before its first task is found here, at the start.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenure.v1 import agents_pb2
from tenure_agent import commands, context, functions, isolated, payloads
from tenure_agent.config import AgentConfig, CommandConfig, PythonConfig
from tenure_agent.context import TaskContext
from tenure_agent.functions import FunctionError
from tenure_agent.isolated import Isolated
from tenure_agent.toml import ConfigError

TRACE_SECONDS_MAX = 7 * 86400


@dataclass(frozen=True, slots=True)
class Inline:
    """Fills in a result at once, without waiting for anything. Built-in kinds only."""

    fill: Callable[[agents_pb2.Lease, agents_pb2.Result], None]


@dataclass(frozen=True, slots=True)
class Coroutine:
    """An async function, run on the loop."""

    function: Callable[[TaskContext, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Threaded:
    """A plain function, run in a thread."""

    function: Callable[[TaskContext, Any], Any]


Handler = Inline | Coroutine | Threaded | Isolated | commands.Command


def build(config: AgentConfig) -> dict[str, Handler]:
    """Makes the table of kinds.

    Functions are looked for in the folder of the configuration file first. Raises ConfigError when
    a module cannot be imported, a function is not there or takes other arguments, a program is not
    found.
    """
    table: dict[str, Handler] = dict(BUILTIN)
    for python in config.python:
        table[python.kind] = _python(config.path, python)
    _check_isolated(config)
    for command in config.command:
        table[command.kind] = _command(config.path, command)
    return table


def _python(path: Path, entry: PythonConfig) -> Handler:
    if entry.process:
        return Isolated(function=entry.function, folder=path.parent)
    try:
        function = functions.find(entry.function, path.parent)
    except FunctionError as error:
        raise _unusable(path, entry, str(error)) from error
    return Coroutine(function) if functions.is_async(function) else Threaded(function)


def _check_isolated(config: AgentConfig) -> None:
    """Looks for all functions that run in processes; one start of Python is enough."""
    entries = [entry for entry in config.python if entry.process]
    if not entries:
        return
    folder = config.path.parent
    fault = isolated.check([Isolated(function=it.function, folder=folder) for it in entries])
    if fault is not None:
        name, reason = fault
        entry = next(it for it in entries if it.function == name)
        raise _unusable(config.path, entry, reason)


def _unusable(path: Path, entry: PythonConfig, reason: str) -> ConfigError:
    return ConfigError(f"{path}: kind {entry.kind!r}: {entry.function}: {reason}")


def _command(path: Path, entry: CommandConfig) -> commands.Command:
    where = f"{path}: kind {entry.kind!r}: argv"
    program = entry.argv[0]
    if os.sep in program:
        found = str(entry.cwd / Path(program).expanduser())
        if not (os.path.isfile(found) and os.access(found, os.X_OK)):
            raise ConfigError(f"{where}: {found} is not a program that can be run")
    else:
        # Searched here and not in the child, whose PATH may not be handed on.
        found = shutil.which(program) or ""
        if not found:
            raise ConfigError(f"{where}: no program {program!r} on PATH")
    env = _inherited(entry.env)
    return commands.Command(argv=(found, *entry.argv[1:]), cwd=entry.cwd, env=env)


def _inherited(names: tuple[str, ...]) -> Mapping[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _noop(_lease: agents_pb2.Lease, result: agents_pb2.Result) -> None:
    result.success.SetInParent()


def _echo(lease: agents_pb2.Lease, result: agents_pb2.Result) -> None:
    result.success.SetInParent()
    if lease.HasField("input"):
        result.success.output.CopyFrom(lease.input)


def _fail(lease: agents_pb2.Lease, result: agents_pb2.Result) -> None:
    """Fails with `code`, `message` and `non_retryable` of the input, each with a default."""
    value = payloads.decode(lease.input)
    facts = value if isinstance(value, dict) else {}
    result.failure.code = context.text(facts.get("code", "FAILED"), 128)
    result.failure.message = context.text(facts.get("message", "failed as asked"), 4000)
    result.failure.non_retryable = facts.get("non_retryable") is True


async def _trace(ctx: TaskContext, value: Any) -> None:
    """Waits `seconds` of the input times `time_scale` of the run's input."""
    seconds = _number(value, "seconds", None)
    scale = _number(ctx.run_input, "time_scale", 1.0)
    if not 0 <= seconds * scale <= TRACE_SECONDS_MAX:
        raise context.NonRetryable("INPUT_INVALID", f"seconds: {seconds * scale} is out of range")
    await asyncio.sleep(seconds * scale)


def _number(value: Any, name: str, default: float | None) -> float:
    """Reads a number out of an input."""
    number = value.get(name, default) if isinstance(value, dict) else default
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise context.NonRetryable("INPUT_INVALID", f"{name}: must be a number")
    return float(number)


BUILTIN: Mapping[str, Handler] = {
    "tenure.noop": Inline(_noop),
    "tenure.echo": Inline(_echo),
    "tenure.fail": Inline(_fail),
    "tenure.trace": Coroutine(_trace),
}
