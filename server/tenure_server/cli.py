"""The command `tenure-server`: serves, rotates the signing key, audits a store."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from tenure_server import logs, signing

# Before whatever else imports grpc: it sets what grpc reads when it is loaded.
from tenure_server.app import Coordinator, StartError, holder_name, loop_factory, serve
from tenure_server.audit import audit_store
from tenure_server.config import (
    ACCEPT_SECONDS_DEFAULT,
    LEASE_SECONDS_DEFAULT,
    LISTEN_DEFAULT,
    SEAT_SECONDS_DEFAULT,
    TENANT_DEFAULT,
    Config,
    ConfigError,
)
from tenure_server.core.errors import Refusal
from tenure_server.engine.settings import SystemClock
from tenure_server.rpc import access
from tenure_server.signing import SigningError, default_file
from tenure_server.store.database import open_store
from tenure_server.store.errors import StoreFailed, StoreOpenError

# A loop beside a writer thread: the default of 5 ms lets either hold the interpreter far too long.
SWITCH_SECONDS = 0.0005


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tenure", prog_name="tenure-server")
def main() -> None:
    """The Tenure coordinator: keeps workflow state, grants leases, answers every call."""


def _option(name: str, **settings: Any) -> Callable[[Any], Any]:
    """A flag that can be given as an environment variable too."""
    variable = "TENURE_SERVER_" + name.strip("-").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, **settings)


_FILE = click.Path(path_type=Path, dir_okay=False)


@main.command("serve", context_settings={"show_default": True})
@_option("--store", required=True, help="sqlite:///absolute/path or postgresql://…")
@_option("--listen", default=LISTEN_DEFAULT, help="host:port; port 0 takes a free one.")
@_option("--address", default="", help="Where others reach this coordinator, if not there.")
@_option("--lease-seconds", type=float, default=LEASE_SECONDS_DEFAULT, help="How long leases hold.")
@_option("--accept-seconds", type=float, default=ACCEPT_SECONDS_DEFAULT, help="To accept within.")
@_option("--seat-seconds", type=float, default=SEAT_SECONDS_DEFAULT, help="How long seats hold.")
@_option("--tls-cert", type=_FILE, help="PEM file of the certificate chain.")
@_option("--tls-key", type=_FILE, help="PEM file of its private key.")
@_option("--tls-client-ca", type=_FILE, help="Demand client certificates signed by this one.")
@_option("--constitution", type=_FILE, help="The platform's constitution, if not the default one.")
@_option("--keep-payloads-days", type=float, default=0.0, help="Of ended runs; 0: for ever.")
@_option("--keep-runs-days", type=float, default=0.0, help="Ended ones; 0: for ever.")
@_option("--signing-key", type=_FILE, help="Key file of evidence, made when missing.")
@_option("--ready-file", type=_FILE, help="Write address and pid here once serving.")
@_option("--bootstrap", type=_FILE, help="Make a tenant and keys in an empty store; write them.")
@_option("--bootstrap-tenant", default=TENANT_DEFAULT, help="The tenant that --bootstrap makes.")
@_option("--exit-with-stdin", is_flag=True, help="Drain and exit when standard input ends.")
@_option("--log-format", type=click.Choice(["json", "console"]), default="console", help="Form.")
@_option("--log-level", type=click.Choice(logs.LEVELS), default="info", help="From here up.")
# Without an environment variable: nobody is to get it by accident.
@click.option("--skip-time", type=_FILE, help="For tests only: time jumps, as this socket says.")
@click.pass_obj
def serve_command(
    kind: type[Coordinator] | None,
    /,
    log_format: Literal["json", "console"],
    log_level: str,
    **settings: Any,
) -> None:
    """Serves until it is told to stop, then drains and exits with 0."""
    try:
        config = Config.checked(log_format=log_format, log_level=log_level, **settings)
        logs.configure(log_format, log_level)
        sys.setswitchinterval(SWITCH_SECONDS)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(config, kind or Coordinator))
    except (
        ConfigError,
        StartError,
        StoreOpenError,
        StoreFailed,
        access.ContractFault,
        Refusal,
    ) as error:
        click.echo(f"tenure-server: {error}", err=True)
        sys.exit(2)


@main.command("rotate-key")
@_option("--signing-key", type=_FILE, required=True, help="Key file of evidence.")
def rotate_key_command(signing_key: Path) -> None:
    """Draws a new signing key, certified by the present one. Takes effect at the next start.

    Every coordinator of the store needs the new file then. What was signed before stays verifiable.
    """
    try:
        rotated = signing.rotate(signing_key, SystemClock().now_us())
    except SigningError as error:
        click.echo(f"tenure-server: {error}", err=True)
        sys.exit(2)
    click.echo(rotated.newest.verifier.text)


@main.command("audit")
@_option("--store", required=True, help="sqlite:///absolute/path or postgresql://…")
@_option("--signing-key", type=_FILE, help="Key file of evidence.")
def audit_command(store: str, signing_key: Path | None) -> None:
    """Audits every log, and every run against its log, while no coordinator works on the store.

    Exits with 1 when anything is not as it was written, and names it.
    """
    try:
        keys = signing.load(signing_key or default_file(store))
        opened = open_store(store, holder=holder_name(), address="audit")
        try:
            findings = audit_store(opened, keys.chain())
        finally:
            opened.close()
    except FileNotFoundError as error:
        click.echo(f"tenure-server: there is no signing key {error.filename}", err=True)
        sys.exit(2)
    except (SigningError, StoreOpenError, StoreFailed) as error:
        click.echo(f"tenure-server: {error}", err=True)
        sys.exit(2)
    for finding in findings:
        click.echo(finding.sentence)
    if findings:
        sys.exit(1)
    click.echo("everything is as it was written")
