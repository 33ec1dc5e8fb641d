"""`pause` and `resume` of `tenure workflow` and `tenure tenants`, and how a pause is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import click

from tenure.v1 import tenants_pb2, workflows_pb2
from tenure_client.cli import options, output, plain, session
from tenure_client.client import Client

REASON = click.option("--reason", default="", help="Why, for the log and for who looks at it.")


def said(of: tenants_pb2.Tenant | workflows_pb2.Workflow) -> str | None:
    """Since when something is paused, and why; None: it is not."""
    if not of.HasField("pause"):
        return None
    since = f"since {plain.local_time(of.pause.pause_time)}"
    return f"{since}: {of.pause.reason}" if of.pause.reason else since


@click.command(cls=options.Command)
@click.argument("name")
@REASON
@click.pass_context
def pause_workflow(context: click.Context, name: str, reason: str) -> None:
    """Pause a workflow: nothing new is leased of its runs; they may start, and wait."""

    async def act(client: Client) -> None:
        await client.pause_workflow(name, reason=reason)

    _act(context, act, "workflow", name, "paused")


@click.command(cls=options.Command)
@click.argument("name")
@REASON
@click.pass_context
def resume_workflow(context: click.Context, name: str, reason: str) -> None:
    """Let a paused workflow go on."""

    async def act(client: Client) -> None:
        await client.resume_workflow(name, reason=reason)

    _act(context, act, "workflow", name, "running")


@click.command(cls=options.Command)
@click.argument("tenant_id")
@REASON
@click.pass_context
def pause_tenant(context: click.Context, tenant_id: str, reason: str) -> None:
    """Pause a tenant: nothing new is leased of any of its runs; they may start, and wait."""

    async def act(client: Client) -> None:
        await client.pause_tenant(tenant_id, reason=reason)

    _act(context, act, "tenant", tenant_id, "paused", key_name="operator")


@click.command(cls=options.Command)
@click.argument("tenant_id")
@REASON
@click.pass_context
def resume_tenant(context: click.Context, tenant_id: str, reason: str) -> None:
    """Let a paused tenant go on."""

    async def act(client: Client) -> None:
        await client.resume_tenant(tenant_id, reason=reason)

    _act(context, act, "tenant", tenant_id, "running", key_name="operator")


def _act(
    context: click.Context,
    act: Callable[[Client], Awaitable[None]],
    what: str,
    name: str,
    state: str,
    *,
    key_name: str = "admin",
) -> None:
    session.of(context, key_name=key_name).run(act)
    done = {what: name, "state": state}
    if session.wants_json(context):
        output.document(done)
    else:
        output.details(list(done.items()))
