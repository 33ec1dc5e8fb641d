"""`tenure run` and `tenure logs`: executions of workflows."""

from __future__ import annotations

from contextlib import aclosing

import click

from tenure.v1 import runs_pb2
from tenure_client.cli import (
    bulk,
    objections,
    options,
    output,
    plain,
    progress,
    run_changes,
    run_names,
    run_tables,
    run_waits,
    seeing,
    session,
    starting,
)
from tenure_client.cli.run_names import resolve
from tenure_client.client import Client

TASK_STATES = plain.words(runs_pb2.TaskState.DESCRIPTOR)

_RUN_HELP = run_names.HELP


@click.group(cls=options.Group)
def run() -> None:
    """Start, list, find, show, compare, watch, cancel and mend runs.

    RUN is a run's id, or the beginning or end of one: at least 6 characters that no other of the
    newest 1000 runs shares.
    """


@run.command()
@click.argument("workflow")
@click.option("--version", type=click.IntRange(min=1), help="Default: the newest.")
@starting.INPUT
@starting.TIME_SCALE
@click.option("--priority", type=click.IntRange(-1000, 1000), default=0, help="Higher goes first.")
@click.option("--label", "pairs", multiple=True, metavar="WORD=TEXT", help="May come again.")
@click.option("--request-id", help="The same id twice starts one run only.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 unless it SUCCEEDED.")
@click.pass_context
def start(
    context: click.Context,
    workflow: str,
    version: int | None,
    input_text: str | None,
    time_scale: float | None,
    priority: int,
    pairs: tuple[str, ...],
    request_id: str | None,
    wait: bool,
) -> int:
    """Start a run of a registered WORKFLOW."""
    caller, json = session.of(context), session.wants_json(context)
    content = starting.run_input(input_text, time_scale)
    words = starting.labels(pairs)

    async def act(client: Client) -> int:
        started = await client.start_run(
            workflow,
            version=version or 0,
            input=content,
            priority=priority,
            labels=words,
            request_id=request_id,
        )
        # With --wait the document is the run, which has no place for them.
        if wait or not json:
            objections.warn(started.warnings)
        if not wait:
            _show_started(started, json=json)
            return 0
        if not json:
            click.echo(f"run {started.run_id} is started", err=True)
        ended = await _follow(client, started.run_id, json=json, stderr=True)
        run_tables.show_run(ended, json=json)
        return run_tables.exit_code(ended)

    return caller.run(act)


@run.command(epilog=_RUN_HELP)
@click.argument("run_id", metavar="RUN")
@click.pass_context
def show(context: click.Context, run_id: str) -> None:
    """Show a run: where it stands, and what failed."""
    json = session.wants_json(context)

    async def act(client: Client) -> tuple[runs_pb2.Run, list[runs_pb2.Task]]:
        found = await client.get_run(await resolve(client, run_id))
        failed = [runs_pb2.TASK_STATE_FAILED, runs_pb2.TASK_STATE_RETRYING]
        if json or not (found.tasks.failed or found.tasks.retrying):
            return found, []
        return found, [task async for task in client.list_tasks(found.run_id, states=failed)]

    found, failed = session.of(context).run(act)
    run_tables.show_run(found, json=json)
    if failed:
        run_tables.show_tasks(failed, json=False)


@run.command(epilog=_RUN_HELP)
@click.argument("run_id", metavar="RUN")
@click.pass_context
def watch(context: click.Context, run_id: str) -> int:
    """Watch a run to its end; exit 1 unless it SUCCEEDED.

    On a terminal a bar, else a line for each event, from the first on.
    """
    json = session.wants_json(context)

    async def act(client: Client) -> int:
        full_id = await resolve(client, run_id)
        ended = await _follow(client, full_id, json=json, stderr=False)
        if not json:
            run_tables.show_end(ended)
        return run_tables.exit_code(ended)

    return session.of(context).run(act)


@run.command(epilog=_RUN_HELP)
@click.argument("run_id", metavar="RUN")
@click.option("--reason", default="", help="Why, for the log.")
@click.option("--wait", is_flag=True, help="Wait until the run has ended.")
@click.pass_context
def cancel(context: click.Context, run_id: str, reason: str, wait: bool) -> None:
    """Cancel a run; agents hear of it at once."""
    json = session.wants_json(context)

    async def act(client: Client) -> None:
        full_id = await resolve(client, run_id)
        state = await client.cancel_run(full_id, reason=reason)
        if wait:
            state = (await client.wait_run(full_id)).state
        word = plain.word(runs_pb2.RunState.DESCRIPTOR, state)
        if json:
            output.document({"run_id": full_id, "state": word})
        else:
            output.details([("run", full_id), ("state", word)])

    session.of(context).run(act)


@run.command(epilog=_RUN_HELP)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--state",
    "states",
    multiple=True,
    help="Only tasks in this state; may come again.",
    type=click.Choice(TASK_STATES, case_sensitive=False),
)
@click.pass_context
def tasks(context: click.Context, run_id: str, states: tuple[str, ...]) -> None:
    """List the tasks of a run."""
    numbers = [runs_pb2.TaskState.Value(f"TASK_STATE_{state.upper()}") for state in states]

    async def act(client: Client) -> list[runs_pb2.Task]:
        full_id = await resolve(client, run_id)
        return [task async for task in client.list_tasks(full_id, states=numbers)]

    run_tables.show_tasks(session.of(context).run(act), json=session.wants_json(context))


@run.command(epilog=_RUN_HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("task_key", metavar="TASK")
@click.pass_context
def task(context: click.Context, run_id: str, task_key: str) -> None:
    """Show one task of a run with its output."""

    async def act(client: Client) -> runs_pb2.Task:
        return await client.get_task(await resolve(client, run_id), task_key)

    run_tables.show_task(session.of(context).run(act), json=session.wants_json(context))


@click.command(cls=options.Command, epilog=_RUN_HELP)
@click.argument("run_id", metavar="RUN")
@click.option("--task", "task_key", help="Only events of this task.")
@click.option("--follow", is_flag=True, help="Go on until the run has ended.")
@click.pass_context
def logs(context: click.Context, run_id: str, task_key: str | None, follow: bool) -> None:
    """Show what happened in a run: time, event, task, attempt, agent, message."""
    show_event = output.line if session.wants_json(context) else _echo_event

    async def act(client: Client) -> None:
        full_id = await resolve(client, run_id)
        events = client.watch_run(full_id) if follow else client.list_run_events(full_id)
        async with aclosing(events):
            async for event in events:
                if task_key is None or event.task_key == task_key:
                    show_event(event)

    session.of(context).run(act)


run.add_command(logs, "logs")
run.add_command(seeing.list_, "list")
run.add_command(seeing.search, "search")
run.add_command(seeing.count, "count")
run.add_command(seeing.compare, "compare")
run.add_command(seeing.explain, "explain")
run.add_command(bulk.bulk, "bulk")
for _command in (*run_changes.COMMANDS, *run_waits.COMMANDS):
    run.add_command(_command)


async def _follow(client: Client, run_id: str, *, json: bool, stderr: bool) -> runs_pb2.Run:
    """Shows a run while it runs, and gives it as it ended."""
    begun = await client.get_run(run_id)
    tally = progress.Tally(begun.tasks.total)
    shown = progress.display(begun.workflow, tally, json=json, stderr=stderr)
    with shown:
        async with aclosing(client.watch_run(run_id)) as events:
            async for event in events:
                tally.take(event)
                shown.show(event)
                if progress.makes_tasks(event):
                    tally.total = (await client.get_run(run_id)).tasks.total
    return await client.wait_run(run_id)


def _show_started(started: runs_pb2.StartRunResponse, *, json: bool) -> None:
    if json:
        output.document(started)
        return
    output.details(
        (
            ("run", started.run_id),
            ("version", started.workflow_version),
            ("digest", started.workflow_digest),
        )
    )


def _echo_event(event: runs_pb2.RunEvent) -> None:
    click.echo(progress.event_line(event))
