"""`tenure keys` and `tenure whoami`: API keys and the one in use."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from tenure.v1 import access_pb2, tenants_pb2
from tenure_client import duration
from tenure_client.cli import options, output, plain, session
from tenure_client.client import Client

ROLES = ("viewer", "submitter", "agent", "tenant-admin", "operator")


@click.group(cls=options.Group)
def keys() -> None:
    """Make, list and revoke API keys.

    A tenant admin manages the keys of its tenants, an operator all of them. With --credentials,
    `--as operator` takes the operator's key.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(ROLES),
    help="What the key may do. May be given several times.",
)
@click.option(
    "--for",
    "tenant_ids",
    multiple=True,
    metavar="TENANT",
    help="A tenant the key acts for. May be given several times. Default: yours.",
)
@click.option("--expires", metavar="SPAN", help="Ends after this time, such as 12h or 30d.")
@click.option(
    "--write",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the secret to this new file (mode 0600) instead of showing it.",
)
@click.pass_context
def create(
    context: click.Context,
    name: str,
    roles: tuple[str, ...],
    tenant_ids: tuple[str, ...],
    expires: str | None,
    path: Path | None,
) -> int:
    """Make a key and show its secret, once."""
    caller = session.of(context)
    expire_time = None if expires is None else datetime.now(UTC) + _span(expires)
    if path is not None and path.exists():
        raise click.UsageError(f"--write: {path} exists already")

    async def act(client: Client) -> tenants_pb2.CreateApiKeyResponse:
        return await client.create_key(
            name,
            roles=[
                access_pb2.Role.Value(f"ROLE_{role.upper().replace('-', '_')}") for role in roles
            ],
            tenant_ids=tenant_ids or await _tenants(client, caller, roles),
            expire_time=expire_time,
        )

    made = caller.run(act)
    if not made.secret:
        print_lost(made.api_key.api_key_id)
        return 1
    if path is not None:
        _write(path, made.secret)
    shown = "" if path is not None else made.secret
    if session.wants_json(context):
        output.document({"api_key": made.api_key, "secret": shown or None})
        return 0
    _details(made.api_key)
    output.details([("secret", shown or f"written to {path}")])
    return 0


@keys.command(name="list")
@click.pass_context
def list_(context: click.Context) -> None:
    """List the keys of the tenant, revoked ones too; an operator's without --tenant."""
    caller = session.of(context)

    async def act(client: Client) -> list[tenants_pb2.ApiKey]:
        tenant_ids = await _tenants(client, caller, ())
        return [
            key for tenant_id in tenant_ids or [""] async for key in client.list_keys(tenant_id)
        ]

    found = caller.run(act)
    if session.wants_json(context):
        output.document(found)
        return
    output.table(
        ("KEY", "NAME", "ROLES", "TENANTS", "MADE", "STATE"),
        (
            (
                key.api_key_id,
                key.name,
                _roles(key),
                ", ".join(key.tenant_ids),
                plain.local_time(key.create_time),
                _state(key),
            )
            for key in found
        ),
        empty="no keys",
    )


@keys.command()
@click.argument("api_key_id")
@click.pass_context
def revoke(context: click.Context, api_key_id: str) -> None:
    """End a key at once: its calls are refused, its streams end."""

    async def act(client: Client) -> tenants_pb2.ApiKey:
        return await client.revoke_key(api_key_id)

    _show(context, session.of(context).run(act))


@click.command(cls=options.Command)
@click.pass_context
def whoami(context: click.Context) -> None:
    """Show the key in use, its roles and tenants."""

    async def act(client: Client) -> tenants_pb2.ApiKey:
        return await client.get_caller()

    _show(context, session.of(context).run(act))


def print_lost(api_key_id: str) -> None:
    """Says that a key was made whose secret nobody will ever see."""
    click.echo(
        f"error: the answer with the secret was lost on the way; "
        f"revoke {api_key_id} and make another key",
        err=True,
    )


async def _tenants(client: Client, caller: session.Session, roles: tuple[str, ...]) -> list[str]:
    """Gives the tenants to speak of where none was named."""
    if "operator" in roles:
        return []
    if caller.tenant is not None:
        return [caller.tenant]
    return list((await client.get_caller()).tenant_ids)


def _role(name: str) -> access_pb2.Role.ValueType:
    return access_pb2.Role.Value(f"ROLE_{name.upper().replace('-', '_')}")


def _span(text: str) -> timedelta:
    try:
        return timedelta(seconds=duration.seconds_of(duration.parse(text)))
    except (duration.DurationError, OverflowError) as error:
        raise click.UsageError(f"--expires: {error}") from error


def _write(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")


def _roles(key: tenants_pb2.ApiKey) -> str:
    names = [plain.word(access_pb2.Role.DESCRIPTOR, role) for role in key.roles]
    return ", ".join(name.lower().replace("_", "-") for name in names)


def _state(key: tenants_pb2.ApiKey) -> str:
    if key.HasField("revoke_time"):
        return f"revoked {plain.local_time(key.revoke_time)}"
    if not key.HasField("expire_time"):
        return "valid"
    expired = key.expire_time.ToDatetime(tzinfo=UTC) <= datetime.now(UTC)
    return f"{'expired' if expired else 'valid until'} {plain.local_time(key.expire_time)}"


def _show(context: click.Context, key: tenants_pb2.ApiKey) -> None:
    if session.wants_json(context):
        output.document(key)
        return
    _details(key)


def _details(key: tenants_pb2.ApiKey) -> None:
    pairs: list[tuple[str, Any]] = [
        ("key", key.api_key_id),
        ("name", key.name),
        ("roles", _roles(key)),
        ("tenants", ", ".join(key.tenant_ids)),
        ("made", plain.local_time(key.create_time)),
        ("state", _state(key)),
    ]
    output.details(pairs)
