"""`tenure run signal|approve|reject` and `tenure event`: what the world says to runs."""

from __future__ import annotations

from typing import Any

import click

from tenure_client.cli import options, output, run_names, session, starting
from tenure_client.client import Client
from tenure_client.payload import ABSENT

_PAYLOAD = click.option("--payload", "text", metavar="JSON|@FILE", help="What goes with it.")


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("name")
@_PAYLOAD
@click.pass_context
def signal(context: click.Context, run_id: str, name: str, text: str | None) -> None:
    """Give a signal to a run; one that comes early is kept."""
    content = ABSENT if text is None else starting.content(text, "--payload")

    async def act(client: Client) -> dict[str, Any]:
        full_id = await run_names.resolve(client, run_id)
        delivered = await client.operations.signal(full_id, name, content)
        return {"run_id": full_id, "signal": name, "delivered": delivered}

    _show(context, session.of(context).run(act))


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("task_key", metavar="TASK")
@click.option("--reason", default="", help="Why, for the log.")
@click.pass_context
def approve(context: click.Context, run_id: str, task_key: str, reason: str) -> None:
    """Consent to what a task asks."""
    _decide(context, run_id, task_key, True, reason)


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("task_key", metavar="TASK")
@click.option("--reason", default="", help="Why, for the log.")
@click.pass_context
def reject(context: click.Context, run_id: str, task_key: str, reason: str) -> None:
    """Reject what a task asks; it fails."""
    _decide(context, run_id, task_key, False, reason)


@click.group(cls=options.Group)
def event() -> None:
    """Publish events that runs wait for or begin with."""


@event.command()
@click.argument("name")
@click.option("--key", default="", help="What it is about.")
@_PAYLOAD
@click.pass_context
def publish(context: click.Context, name: str, key: str, text: str | None) -> None:
    """Publish an event in the tenant; it is not kept for those who come later."""
    content = ABSENT if text is None else starting.content(text, "--payload")

    async def act(client: Client) -> dict[str, Any]:
        done = await client.operations.publish(name, key, content)
        return {"event": name, "tasks": done.task_count, "runs": list(done.run_ids)}

    done = session.of(context).run(act)
    if not session.wants_json(context):
        done = {**done, "runs": " ".join(done["runs"]) or "none"}
    _show(context, done)


def _decide(context: click.Context, run_id: str, task_key: str, consent: bool, reason: str) -> None:
    async def act(client: Client) -> dict[str, Any]:
        full_id = await run_names.resolve(client, run_id)
        await client.operations.decide(full_id, task_key, consent=consent, reason=reason)
        decision = "consent" if consent else "rejection"
        return {"run_id": full_id, "task": task_key, "decision": decision}

    _show(context, session.of(context).run(act))


def _show(context: click.Context, done: dict[str, Any]) -> None:
    if session.wants_json(context):
        output.document(done)
    else:
        output.details([("run" if name == "run_id" else name, done[name]) for name in done])


#: Those of the group `run`.
COMMANDS = (signal, approve, reject)
