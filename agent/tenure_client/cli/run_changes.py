"""`tenure run pause|resume|close|retry|rerun|move|skip|settle`: what operators do to runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import click

from tenure.v1 import runs_pb2
from tenure_client.cli import objections, options, output, plain, run_names, session, starting
from tenure_client.client import Client
from tenure_client.errors import TenureError
from tenure_client.payload import ABSENT

_REASON = click.option("--reason", default="", help="Why, for the log.")
_REASON_NEEDED = click.option("--reason", required=True, help="Why, for the log.")
_PAUSED = click.option("--paused", is_flag=True, help="Leave it paused, to settle or skip tasks.")


def _act(
    context: click.Context,
    run_id: str,
    act: Callable[[Client, str], Awaitable[dict[str, object]]],
) -> None:
    """Does something to a run, and says what came of it: the run may have ended by it already."""

    async def work(client: Client) -> dict[str, object]:
        full_id = await run_names.resolve(client, run_id)
        done = {"run_id": full_id, **await act(client, full_id)}
        try:
            state = (await client.get_run(full_id)).state
        except TenureError as error:
            # It is done all the same: to fail now would have it done again.
            click.echo(f"how the run stands now could not be read: {error}", err=True)
            return done
        name = "run_state" if "task" in done else "state"
        return {**done, name: plain.word(runs_pb2.RunState.DESCRIPTOR, state)}

    done = session.of(context).run(work)
    if session.wants_json(context):
        output.document(done)
    else:
        output.details([("run" if name == "run_id" else name, done[name]) for name in done])


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@_REASON
@click.pass_context
def pause(context: click.Context, run_id: str, reason: str) -> None:
    """Pause a run: nothing new is leased, what is leased goes on.

    So do the runs that it has begun for its tasks: see `tenure run bulk pause --parent`.
    """

    async def act(client: Client, full_id: str) -> dict[str, object]:
        await client.operations.pause(full_id, reason=reason)
        return {}

    _act(context, run_id, act)


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@_REASON
@click.pass_context
def resume(context: click.Context, run_id: str, reason: str) -> None:
    """Let a paused run go on."""

    async def act(client: Client, full_id: str) -> dict[str, object]:
        await client.operations.resume(full_id, reason=reason)
        return {}

    _act(context, run_id, act)


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@_REASON_NEEDED
@click.pass_context
def close(context: click.Context, run_id: str, reason: str) -> None:
    """End a run at once, by force; results that are under way come too late."""

    async def act(client: Client, full_id: str) -> dict[str, object]:
        await client.operations.close(full_id, reason=reason)
        return {}

    _act(context, run_id, act)


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@_PAUSED
@_REASON
@click.pass_context
def retry(context: click.Context, run_id: str, paused: bool, reason: str) -> None:
    """Execute again what ended otherwise than well; all other results are kept."""

    async def act(client: Client, full_id: str) -> dict[str, object]:
        count = await client.operations.reopen(full_id, paused=paused, reason=reason)
        return {"tasks": count}

    _act(context, run_id, act)


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@click.option("--from", "keys", multiple=True, required=True, metavar="TASK", help="More may come.")
@_PAUSED
@_REASON
@click.pass_context
def rerun(
    context: click.Context, run_id: str, keys: tuple[str, ...], paused: bool, reason: str
) -> None:
    """Execute chosen tasks and all that depend on them again."""

    async def act(client: Client, full_id: str) -> dict[str, object]:
        count = await client.operations.reopen(
            full_id, task_keys=keys, paused=paused, reason=reason
        )
        return {"tasks": count}

    _act(context, run_id, act)


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--to",
    "version",
    type=click.IntRange(min=1),
    default=None,
    metavar="VERSION",
    help="Default: the newest.",
)
@click.option("--resume", "goes_on", is_flag=True, help="Let it go on at once.")
@_REASON
@click.pass_context
def move(
    context: click.Context, run_id: str, version: int | None, goes_on: bool, reason: str
) -> None:
    """Put a paused or failed run under a newer version of its workflow.

    What has ended keeps its result, what has begun goes on, everything else follows the newer
    version. Of a failed run, what ended otherwise than well is executed again. The run is paused
    then. Where the versions do not fit together, each task that stands against it is named.
    """

    async def act(client: Client, full_id: str) -> dict[str, object]:
        moved = await client.operations.move(
            full_id, version=version or 0, resume=goes_on, reason=reason
        )
        objections.warn(moved.warnings)
        return {
            "version": moved.workflow_version,
            "digest": moved.workflow_digest,
            "tasks": moved.task_count,
        }

    _act(context, run_id, act)


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("task_key", metavar="TASK")
@_REASON_NEEDED
@click.pass_context
def skip(context: click.Context, run_id: str, task_key: str, reason: str) -> None:
    """Do not execute a task; what depends on it follows by its trigger rule."""

    async def act(client: Client, full_id: str) -> dict[str, object]:
        await client.operations.skip(full_id, task_key, reason=reason)
        return {"task": task_key}

    _act(context, run_id, act)


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("task_key", metavar="TASK")
@click.option("--output", "output_text", metavar="JSON|@FILE", help="What it has put out.")
@click.option("--failed", is_flag=True, help="Take it as failed for good.")
@_REASON_NEEDED
@click.pass_context
def settle(
    context: click.Context,
    run_id: str,
    task_key: str,
    output_text: str | None,
    failed: bool,
    reason: str,
) -> None:
    """Take a task as done, or as failed, though no agent said so."""
    if failed and output_text is not None:
        raise click.UsageError("--output: a task that failed has none")
    content = ABSENT if output_text is None else starting.content(output_text, "--output")

    async def act(client: Client, full_id: str) -> dict[str, object]:
        await client.operations.settle(
            full_id, task_key, reason=reason, failed=failed, output=content
        )
        return {"task": task_key}

    _act(context, run_id, act)


#: All of them, for the group.
COMMANDS = (pause, resume, close, retry, rerun, move, skip, settle)
