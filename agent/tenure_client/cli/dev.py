"""`tenure dev`: coordinator and agent on this machine, and a workflow file run at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import click

from tenure_client import wholeness, workflow_file
from tenure_client.cli import (
    dev_run,
    embedded,
    options,
    output,
    session,
    starting,
    workflows,
)
from tenure_client.cli.dev_run import AGENT_CONFIG

DATA = Path(".tenure")
BUILT_IN = "tenure."
#: Built-in kinds do no work of their own, so that slots cost nothing.
SLOTS_FOR_BUILT_IN = 256
TERMINATED = 143

_SLOTS = click.option(
    "--slots",
    type=click.IntRange(1, 100_000),
    help="Tasks at one instant. Default: as the agent's file says.",
)
_CONFIG = click.option(
    "--agent-config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The agent's TOML file, for its handlers and labels.",
)


@click.group(cls=options.Group, invoke_without_command=True)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA,
    show_default=True,
    help="Where everything is kept.",
)
@click.option(
    "--address",
    default=options.DEFAULT_ADDRESS,
    show_default=True,
    help="Where the coordinator listens; port 0 takes a free one.",
)
@_SLOTS
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Write address and files as JSON.")
@click.pass_context
def dev(
    context: click.Context,
    data: Path,
    address: str,
    slots: int | None,
    agent_config: Path | None,
    as_json: bool,
) -> int | None:
    """Start a coordinator and an agent here, with a ready key.

    They go on until Ctrl-C, which drains both. `tenure dev run FILE` runs one workflow to its end
    instead. Without --agent-config, an agent.toml in the current directory is used if there is
    one; else the agent has the built-in kinds only.
    """
    if context.invoked_subcommand is not None:
        return None
    config = _config(agent_config, Path())
    json = as_json or session.wants_json(context)
    return _run(lambda: _serve(data, address, slots, config, json=json))


@dev.command()
@click.argument("file", type=workflows.FILE)
@starting.TIME_SCALE
@_SLOTS
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep everything here. Default: a temporary directory, removed at the end.",
)
@_CONFIG
@starting.INPUT
@workflows.DEFAULT_SECONDS
@click.option(
    "--bundle",
    type=options.NewFile(),
    help="Write the evidence of the run into this file, and verify it.",
)
@click.pass_context
def run(
    context: click.Context,
    file: Path,
    time_scale: float | None,
    slots: int | None,
    data: Path | None,
    agent_config: Path | None,
    input_text: str | None,
    default_seconds: float | None,
    bundle: Path | None,
) -> int:
    """Run the workflow in FILE to its end, with a coordinator and an agent of its own.

    FILE is YAML, JSON or a WfCommons trace. Its handlers are those of --agent-config, or of an
    agent.toml beside FILE. Exit code 0 means that the run SUCCEEDED, and that its evidence is
    good when --bundle asks for it.
    """
    definition = workflow_file.read(file, default_seconds=default_seconds)
    built_in = all(kind.startswith(BUILT_IN) for kind in wholeness.kinds(definition))
    plan = dev_run.Plan(
        file=file,
        definition=definition,
        content=starting.run_input(input_text, time_scale),
        time_scale=1.0 if time_scale is None else time_scale,
        slots=slots or (SLOTS_FOR_BUILT_IN if built_in else None),
        config=_config(agent_config, file.parent),
        bundle=bundle,
        json=session.wants_json(context),
    )
    with _directory(data) as directory:
        return _run(lambda: dev_run.run_plan(plan, directory, kept=data is not None))


async def _serve(
    data: Path, address: str, slots: int | None, config: Path | None, *, json: bool
) -> int:
    """Keeps coordinator and agent going until a signal comes."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    async with embedded.Embedded(data) as house:
        await house.start_coordinator(address)
        await house.start_agent(config=config, slots=slots)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if json:
            facts = {"address": house.address, "credentials": str(house.credentials)}
            output.line({**facts, "data": str(house.data)})
        else:
            _welcome(house)
        async with house.unless_broken():
            await stop.wait()
        if not json:
            click.echo("draining; Ctrl-C again stops what runs", err=True)
        loop.remove_signal_handler(signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, house.stop_now)
    return 0


def _welcome(house: embedded.Embedded) -> None:
    click.echo(f"coordinator and agent are ready at {house.address}; Ctrl-C ends them\n")
    click.echo("in another terminal:")
    click.echo(f"  export TENURE_ADDRESS={house.address}")
    click.echo(f"  export TENURE_CREDENTIALS={house.credentials}")
    click.echo("  tenure whoami\n")
    click.echo(f"data and logs: {house.data}")


@contextlib.contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="tenure-") as directory:
        yield Path(directory)


def _config(given: Path | None, folder: Path) -> Path | None:
    """Finds the agent's file: the one that was named, or the one that lies in the folder."""
    if given is not None:
        if not given.is_file():
            raise click.UsageError(f"--agent-config: there is no file {given}")
        return given.absolute()
    beside = folder / AGENT_CONFIG
    return beside.absolute() if beside.is_file() else None


def _run(act: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Runs something to its end; SIGTERM ends it as orderly as Ctrl-C does."""
    terminated = False

    async def guarded() -> int:
        task = asyncio.current_task()
        assert task is not None

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await act()

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not terminated:
            raise
        return TERMINATED
    except embedded.EmbeddedError as error:
        click.echo(f"error: {error}", err=True)
        return 1
