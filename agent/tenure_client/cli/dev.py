"""`tenure dev`: coordinator and agent on this machine, and a workflow file run at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, workflows_pb2
from tenure_client import duration, graph, wfcommons, workflow_file
from tenure_client.cli import (
    embedded,
    objections,
    options,
    output,
    progress,
    report,
    run_tables,
    session,
    starting,
    workflows,
)
from tenure_client.client import Client
from tenure_client.payload import Absent

DATA = Path(".tenure")
AGENT_CONFIG = "agent.toml"
BUILT_IN = "tenure."
#: Built-in kinds do no work of their own, so that slots cost nothing.
SLOTS_FOR_BUILT_IN = 256
TERMINATED = 143
_LONG_SECONDS = 120.0

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
) -> int:
    """Run the workflow in FILE to its end, with a coordinator and an agent of its own.

    FILE is YAML, JSON or a WfCommons trace. Its handlers are those of --agent-config, or of an
    agent.toml beside FILE. Exit code 0 means that the run SUCCEEDED.
    """
    definition = workflow_file.read(file, default_seconds=default_seconds)
    built_in = all(task.kind.startswith(BUILT_IN) for task in definition.tasks)
    plan = Plan(
        file=file,
        definition=definition,
        content=starting.run_input(input_text, time_scale),
        time_scale=1.0 if time_scale is None else time_scale,
        slots=slots or (SLOTS_FOR_BUILT_IN if built_in else None),
        config=_config(agent_config, file.parent),
        json=session.wants_json(context),
    )
    with _directory(data) as directory:
        return _run(lambda: _run_plan(plan, directory, kept=data is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `tenure dev run` is about to do."""

    file: Path
    definition: workflows_pb2.WorkflowDefinition
    content: payload_pb2.Payload | Absent
    time_scale: float
    slots: int | None
    config: Path | None
    json: bool


async def _run_plan(plan: Plan, directory: Path, *, kept: bool) -> int:
    """Does everything that a plan says and gives the exit code."""
    async with embedded.Embedded(directory) as house:
        await house.start_coordinator("127.0.0.1:0")
        async with house.client() as client:
            register = asyncio.create_task(client.register_workflow(plan.definition))
            await house.start_agent(config=plan.config, slots=plan.slots)
            answer = await register
            registered = answer.workflow
            agent = await _agent(client, house.agent_id)
            _check_kinds(plan, agent)
            if not plan.json:
                objections.warn(answer.warnings)
                _announce(plan, agent)
            async with _unless_broken(house):
                made = await _run_to_end(
                    client, plan, registered, str(house.data) if kept else None
                )
    if plan.json:
        output.document(made.as_json())
    else:
        _show(made)
    in_order = not made.order_violations
    return run_tables.exit_code(made.run) if in_order else 1


async def _run_to_end(
    client: Client, plan: Plan, registered: workflows_pb2.Workflow, data: str | None
) -> report.Report:
    started = await client.start_run(
        registered.name,
        version=registered.version,
        input=plan.content,
    )
    if not plan.json:
        objections.warn(started.warnings)
    tally = progress.Tally(len(plan.definition.tasks))
    events: list[runs_pb2.RunEvent] = []
    with progress.display(registered.name, tally, json=plan.json, stderr=True) as shown:
        async with contextlib.aclosing(client.watch_run(started.run_id)) as stream:
            async for event in stream:
                events.append(event)
                tally.take(event)
                shown.show(event)
    ended = await client.wait_run(started.run_id)
    tasks = [task async for task in client.list_tasks(started.run_id)]
    return report.judge(
        plan.definition, ended, tasks, events, time_scale=plan.time_scale, data=data
    )


async def _agent(client: Client, agent_id: str) -> agents_pb2.Agent:
    async for agent in client.list_agents():
        if agent.agent_id == agent_id:
            return agent
    raise embedded.EmbeddedError("the agent has left the coordinator's list right after its start")


def _check_kinds(plan: Plan, agent: agents_pb2.Agent) -> None:
    """Raises click.UsageError when a task would wait for ever for a handler."""
    missing = sorted({task.kind for task in plan.definition.tasks} - set(agent.kinds))
    if not missing:
        return
    kinds = ", ".join(repr(kind) for kind in missing)
    if plan.config is None:
        hint = f"give --agent-config, or put an {AGENT_CONFIG} beside the file"
    else:
        hint = f"add a [[python]] or [[command]] table to {plan.config}"
    if near := graph.did_you_mean(missing[0], agent.kinds):
        hint = near.removeprefix("; ")
    raise click.UsageError(f"{plan.file}: no handler for {kinds}; {hint}")


def _announce(plan: Plan, agent: agents_pb2.Agent) -> None:
    tasks = plan.definition.tasks
    edges = sum(len(task.depends_on) for task in tasks)
    click.echo(
        f"{plan.definition.name}: {len(tasks)} tasks, {edges} dependencies, {agent.slots} slots",
        err=True,
    )
    least = wfcommons.critical_path_seconds(plan.definition, plan.time_scale)
    if least is not None and least > _LONG_SECONDS:
        click.echo(
            f"this trace takes at least {duration.short(least)}; a smaller --time-scale makes it "
            "faster",
            err=True,
        )


def _show(made: report.Report) -> None:
    output.details(made.lines())
    if failures := made.failures():
        run_tables.show_tasks(failures, json=False)
    for key, dependency in made.order_violations[:10]:
        click.echo(f"order violation: {key!r} was leased before {dependency!r} had succeeded")


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
        async with _unless_broken(house):
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


@contextlib.asynccontextmanager
async def _unless_broken(house: embedded.Embedded) -> AsyncIterator[None]:
    """Ends what stands within when a child ends by itself. Raises EmbeddedError then."""
    inside = asyncio.current_task()
    assert inside is not None
    errors: list[embedded.EmbeddedError] = []

    async def guard() -> None:
        errors.append(await house.broken())
        inside.cancel()

    guarding = asyncio.create_task(guard())
    try:
        yield
    except asyncio.CancelledError:
        if errors:
            inside.uncancel()
            raise errors[0] from None
        raise
    finally:
        guarding.cancel()


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
