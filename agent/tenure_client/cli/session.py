"""Who calls whom: the address, the key, the tenant and the TLS files of one command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from tenure_client.channel import Tls
from tenure_client.cli import options
from tenure_client.client import Client

T = TypeVar("T")

_KEY_OPTIONS = ("key", "key_file", "credentials")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one command needs to know of its caller."""

    addresses: tuple[str, ...]
    key: str
    tenant: str | None
    tls: Tls | None
    retry_seconds: float

    def client(self) -> Client:
        """Opens a client. Raises ChannelError for what cannot be an address or a key."""
        return Client(
            self.addresses,
            self.key,
            tenant=self.tenant,
            tls=self.tls,
            retry_seconds=self.retry_seconds,
        )

    def run(self, act: Callable[[Client], Awaitable[T]]) -> T:
        """Does something with a client in a loop of its own."""

        async def with_client() -> T:
            async with self.client() as client:
                return await act(client)

        return asyncio.run(with_client())


def wants_json(context: click.Context) -> bool:
    """Tells whether the output is for a program."""
    given, _ = options.given(context)
    return bool(given.get("json"))


def of(context: click.Context, *, key_name: str = "admin") -> Session:
    """Makes the session of a command; `key_name` is the key to take from a credentials file.

    Raises click.UsageError when there is no key, or more than one.
    """
    given, environment = options.given(context)
    both = environment | given
    key, tenant = _key(given, environment, str(both.get("as", key_name)))
    return Session(
        addresses=tuple(
            address.strip() for address in both.get("address", options.DEFAULT_ADDRESS).split(",")
        ),
        key=key,
        tenant=both.get("tenant", tenant),
        tls=_tls(both),
        retry_seconds=float(both.get("wait_seconds", 5.0)),
    )


def _tls(both: dict[str, Any]) -> Tls | None:
    if not any(word in both for word in ("tls", "tls_ca", "tls_cert", "tls_key")):
        return None
    return Tls(ca=both.get("tls_ca"), cert=both.get("tls_cert"), key=both.get("tls_key"))


def _key(
    given: dict[str, Any], environment: dict[str, Any], key_name: str
) -> tuple[str, str | None]:
    """Finds the key, and the tenant that a credentials file names with it."""
    said = [word for word in _KEY_OPTIONS if word in given]
    if len(said) > 1:
        names = " and ".join(f"--{word.replace('_', '-')}" for word in said)
        raise click.UsageError(f"give one key only, not {names}")
    where = given if said else environment
    word = next((word for word in _KEY_OPTIONS if word in where), None)
    match word:
        case "key":
            return str(where["key"]), None
        case "key_file":
            return _read(where["key_file"]).strip(), None
        case "credentials":
            return _from_credentials(where["credentials"], key_name)
        case _:
            raise click.UsageError(
                "no key: give --key-file, --credentials or --key, "
                "or set TENURE_KEY_FILE, TENURE_CREDENTIALS or TENURE_KEY"
            )


def _from_credentials(path: Path, key_name: str) -> tuple[str, str | None]:
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise click.UsageError(f"credentials {path}: is not JSON") from error
    key = content.get(key_name) if isinstance(content, dict) else None
    if not isinstance(key, str):
        raise click.UsageError(f"credentials {path}: has no key {key_name!r}")
    # The operator stands above tenants and belongs to none.
    tenant = content.get("tenant") if key_name != "operator" else None
    return key, tenant if isinstance(tenant, str) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path}: is not text") from error
