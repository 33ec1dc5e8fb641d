"""`tenure tenants`: who owns workflows, runs, agents and evidence."""

from __future__ import annotations

import click

from tenure.v1 import tenants_pb2
from tenure_client.cli import options, output, pauses, plain, session
from tenure_client.client import Client


@click.group(cls=options.Group)
def tenants() -> None:
    """Make, list, show, change, pause and erase tenants.

    Making, changing and erasing needs an operator's key; with --credentials that key is taken by
    itself.
    """


@tenants.command()
@click.argument("tenant_id")
@click.option("--display-name", default="", help="For people. Default: the id.")
@click.option("--max-leases", type=click.IntRange(min=1), help="Live leases at one instant.")
@click.option("--weight", type=click.IntRange(1, 1000), help="Share where tenants compete.")
@click.pass_context
def create(
    context: click.Context,
    tenant_id: str,
    display_name: str,
    max_leases: int | None,
    weight: int | None,
) -> None:
    """Make a tenant."""

    async def act(client: Client) -> tenants_pb2.Tenant:
        return await client.create_tenant(
            tenant_id,
            display_name=display_name,
            max_leases=max_leases or 0,
            weight=weight or 0,
        )

    _show(context, session.of(context, key_name="operator").run(act))


@tenants.command(name="list")
@click.pass_context
def list_(context: click.Context) -> None:
    """List tenants: all of them for an operator, the caller's own for others."""

    async def act(client: Client) -> list[tenants_pb2.Tenant]:
        return [tenant async for tenant in client.list_tenants()]

    found = session.of(context, key_name="operator").run(act)
    if session.wants_json(context):
        output.document(found)
        return
    # Only where there is something to say: nearly always there is not.
    stopped = any(tenant.quarantine for tenant in found)
    output.table(
        ("TENANT", "NAME", "MAX LEASES#", "WEIGHT#", "MADE", *(["STOPPED"] if stopped else [])),
        (
            (
                tenant.tenant_id,
                tenant.display_name,
                tenant.max_leases,
                tenant.weight,
                plain.local_time(tenant.create_time),
                *([tenant.quarantine] if stopped else []),
            )
            for tenant in found
        ),
        empty="no tenants",
    )


@tenants.command()
@click.argument("tenant_id")
@click.pass_context
def show(context: click.Context, tenant_id: str) -> None:
    """Show a tenant."""

    async def act(client: Client) -> tenants_pb2.Tenant:
        return await client.get_tenant(tenant_id)

    _show(context, session.of(context, key_name="operator").run(act))


@tenants.command()
@click.argument("tenant_id")
@click.option("--display-name", help="For people.")
@click.option("--max-leases", type=click.IntRange(min=1), help="Live leases at one instant.")
@click.option("--weight", type=click.IntRange(1, 1000), help="Share where tenants compete.")
@click.pass_context
def update(
    context: click.Context,
    tenant_id: str,
    display_name: str | None,
    max_leases: int | None,
    weight: int | None,
) -> None:
    """Change what is given, and leave the rest."""
    if display_name is None and max_leases is None and weight is None:
        raise click.UsageError("give at least one of --display-name, --max-leases, --weight")

    async def act(client: Client) -> tenants_pb2.Tenant:
        return await client.update_tenant(
            tenant_id, display_name=display_name, max_leases=max_leases, weight=weight
        )

    _show(context, session.of(context, key_name="operator").run(act))


@tenants.command()
@click.argument("tenant_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def delete(context: click.Context, tenant_id: str, yes: bool) -> None:
    """Erase a tenant with all it has.

    Its workflows, runs and evidence, and the keys that act for it alone. Runs must have ended.
    The installation's log keeps how large the tenant's log was, and its root.
    """
    if not yes:
        click.confirm(f"erase tenant {tenant_id} with all its runs and evidence?", abort=True)

    async def act(client: Client) -> tenants_pb2.DeleteTenantResponse:
        return await client.delete_tenant(tenant_id)

    erased = session.of(context, key_name="operator").run(act)
    facts = {"log_size": erased.log_size, "log_root": erased.log_root.hex()}
    if session.wants_json(context):
        output.document({"tenant_id": tenant_id, **facts})
        return
    output.details([("erased", tenant_id), *facts.items()])


tenants.add_command(pauses.pause_tenant, "pause")
tenants.add_command(pauses.resume_tenant, "resume")


def _show(context: click.Context, tenant: tenants_pb2.Tenant) -> None:
    if session.wants_json(context):
        output.document(tenant)
        return
    output.details(
        (
            ("tenant", tenant.tenant_id),
            ("name", tenant.display_name),
            ("max leases", tenant.max_leases),
            ("weight", tenant.weight),
            ("made", plain.local_time(tenant.create_time)),
            ("stopped", tenant.quarantine),
            ("paused", pauses.said(tenant)),
        )
    )
