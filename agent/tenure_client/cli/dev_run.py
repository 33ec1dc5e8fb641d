"""`tenure dev run`: one workflow from beginning to end, its report and its evidence."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import click

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, workflows_pb2
from tenure_client import duration, graph, wfcommons, wholeness
from tenure_client.cli import (
    embedded,
    objections,
    output,
    progress,
    proving,
    report,
    run_tables,
)
from tenure_client.client import Client
from tenure_client.payload import Absent

AGENT_CONFIG = "agent.toml"
_LONG_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `tenure dev run` is about to do."""

    file: Path
    definition: workflows_pb2.WorkflowDefinition
    content: payload_pb2.Payload | Absent
    time_scale: float
    slots: int | None
    config: Path | None
    #: Where the evidence goes. None: nowhere.
    bundle: Path | None
    json: bool


async def run_plan(plan: Plan, directory: Path, *, kept: bool) -> int:
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
            async with house.unless_broken():
                made = await _run_to_end(
                    client, plan, registered, str(house.data) if kept else None
                )
                if plan.bundle is not None:
                    made = await _with_evidence(client, made, plan.bundle)
    if plan.json:
        output.document(made.as_json())
    else:
        _show(made)
    proven = plan.bundle is None or made.proven
    return run_tables.exit_code(made.run) if proven and not made.order_violations else 1


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
                if progress.makes_tasks(event):
                    tally.total = (await client.get_run(started.run_id)).tasks.total
    ended = await client.wait_run(started.run_id)
    tasks = [task async for task in client.list_tasks(started.run_id)]
    return report.judge(
        plan.definition, ended, tasks, events, time_scale=plan.time_scale, data=data
    )


async def _with_evidence(client: Client, made: report.Report, path: Path) -> report.Report:
    """Writes the bundle of a finished run, and verifies it with the coordinator's keys."""
    chain = await proving.chain_from(client, None)
    await client.evidence.export_run(made.run.run_id, path)
    good, text = proving.bundle_verdict(path, chain)
    return replace(made, bundle=str(path), evidence=text, proven=good)


async def _agent(client: Client, agent_id: str) -> agents_pb2.Agent:
    async for agent in client.list_agents():
        if agent.agent_id == agent_id:
            return agent
    raise embedded.EmbeddedError("the agent has left the coordinator's list right after its start")


def _check_kinds(plan: Plan, agent: agents_pb2.Agent) -> None:
    """Raises click.UsageError when a task would wait for ever for a handler."""
    missing = sorted(set(wholeness.kinds(plan.definition)) - set(agent.kinds))
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
