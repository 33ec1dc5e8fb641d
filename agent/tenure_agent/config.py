"""Reads the agent's TOML file into one frozen value, and refuses what makes no sense.

Every refusal is a sentence that names the file, the table and the key. Unknown keys are refused
too, since a key with a typo would otherwise be a setting that silently does nothing.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tenure_agent import toml
from tenure_agent.payloads import PAYLOAD_BYTES_MAX
from tenure_agent.stores import SCHEMES
from tenure_agent.toml import ConfigError, Table
from tenure_client import channel
from tenure_evidence.keys import Chain, ChainInvalid
from tenure_evidence.notes import VerifierKey

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
BUILTIN_PREFIX = "tenure."
_STORED_MAX = 1 << 30
COMMAND_ENV_DEFAULT = ("PATH", "HOME", "LANG")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """Where the coordinators are and how to prove who we are."""

    addresses: tuple[str, ...]
    key: str = field(repr=False)
    tls: channel.Tls | None = None
    #: Whose word, or whose successors', a lease needs. None: leases are not checked.
    public_key: VerifierKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonConfig:
    """A kind that a Python function executes: `module:function`.

    With `process` it runs in a process of its own, otherwise in a thread or on the loop.
    """

    kind: str
    function: str
    process: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandConfig:
    """A kind that a command executes. `env` lists the variables that are handed on to it."""

    kind: str
    argv: tuple[str, ...]
    env: tuple[str, ...] = COMMAND_ENV_DEFAULT
    cwd: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadsConfig:
    """Where payloads lie that are too large to travel; sizes in bytes."""

    store: str
    inline_max: int = 256 << 10
    stored_max: int = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Everything one agent process needs to know."""

    path: Path
    coordinator: CoordinatorConfig
    name: str
    slots: int = 8
    spool: Path
    spool_sync: bool = False
    tenants: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    drain_seconds: float = 30.0
    stop_seconds: float = 5.0
    python: tuple[PythonConfig, ...] = ()
    command: tuple[CommandConfig, ...] = ()
    #: None: everything travels, or is too large.
    payloads: PayloadsConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says instead of the file. Paths are relative to the current folder."""

    addresses: tuple[str, ...] = ()
    key_file: Path | None = None
    name: str | None = None
    slots: int | None = None
    spool: Path | None = None
    public_key: str | None = None


def load(path: Path | None, overrides: Overrides | None = None) -> AgentConfig:
    """Reads and checks the file, with the command line laid over it. Raises ConfigError.

    Without a file the command line says it all, and there are the built-in kinds only.
    """
    document = {} if path is None else toml.read(path)
    path = (path or Path("command line")).absolute()
    if overrides is not None:
        _lay_over(document, overrides)
    top = Table(path, "", document)
    coordinator = _coordinator(top.table("coordinator", required=True))
    agent = top.table("agent")
    python = tuple(_python(table) for table in top.tables("python"))
    command = tuple(_command(table) for table in top.tables("command"))
    stored = _payloads(top.table("payloads")) if "payloads" in document else None
    top.finish()
    _refuse_repeats(path, [*(it.kind for it in python), *(it.kind for it in command)])
    return replace(_agent(agent, coordinator, python, command), payloads=stored)


def _lay_over(document: dict[str, Any], overrides: Overrides) -> None:
    """Puts what the command line says into the document, as if the file had said it."""
    coordinator = document.setdefault("coordinator", {})
    agent = document.setdefault("agent", {})
    if not (isinstance(coordinator, dict) and isinstance(agent, dict)):
        return  # refused in a moment, in the file's own terms
    if overrides.addresses:
        # Another coordinator than the file's: the file's TLS settings are not meant for it.
        for key in [key for key in coordinator if key.startswith("tls")]:
            del coordinator[key]
        coordinator["addresses"] = list(overrides.addresses)
    if overrides.key_file is not None:
        coordinator.pop("key_env", None)
        coordinator["key_file"] = str(overrides.key_file.absolute())
    if overrides.public_key is not None:
        coordinator.pop("public_key_file", None)
        coordinator["public_key"] = overrides.public_key
    if overrides.spool is not None:
        agent["spool"] = str(overrides.spool.absolute())
    if overrides.name is not None:
        agent["name"] = overrides.name
    if overrides.slots is not None:
        agent["slots"] = overrides.slots


def _coordinator(table: Table) -> CoordinatorConfig:
    addresses = table.texts("addresses", required=True)
    key_file = table.file("key_file")
    key_env = table.text("key_env")
    tls_wanted = table.value("tls", bool, "true or false")
    ca, cert, key = (table.file(name) for name in ("tls_ca", "tls_cert", "tls_key"))
    public_key_text = table.text("public_key")
    public_key_file = table.file("public_key_file")
    table.finish()
    if not addresses:
        raise table.refuse("addresses", "must name at least one coordinator")
    for address in addresses:
        try:
            channel.check_address(address)
        except channel.ChannelError as error:
            raise table.refuse("addresses", str(error)) from error
    if (cert is None) != (key is None):
        raise table.refuse("tls_cert", "must come together with tls_key")
    if tls_wanted is False and (ca or cert):
        raise table.refuse("tls", "is false although tls files are named")
    tls = channel.Tls(ca=ca, cert=cert, key=key) if tls_wanted or ca or cert else None
    secret = _secret(table, key_file, key_env)
    public_key = _public_key(table, public_key_text, public_key_file)
    return CoordinatorConfig(addresses=addresses, key=secret, tls=tls, public_key=public_key)


def _secret(table: Table, key_file: Path | None, key_env: str | None) -> str:
    """Reads the API key. The error never shows it."""
    if (key_file is None) == (key_env is None):
        raise table.refuse("key_file", "exactly one of key_file and key_env must be given")
    if key_file is not None:
        name = "key_file"
        try:
            secret = key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise table.refuse(name, f"cannot read a key from {key_file}") from error
    else:
        name = "key_env"
        assert key_env is not None
        if key_env not in os.environ:
            raise table.refuse(name, f"the environment has no variable {key_env}")
        secret = os.environ[key_env].strip()
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise table.refuse(name, "does not hold a key: one word of printable characters")
    return secret


def _public_key(table: Table, text: str | None, file: Path | None) -> VerifierKey | None:
    """Reads the verifier key that leases are checked against; None when there is none."""
    if text is not None and file is not None:
        raise table.refuse("public_key", "only one of public_key and public_key_file can be given")
    name = "public_key"
    if file is not None:
        name = "public_key_file"
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise table.refuse(name, f"cannot read a key from {file}") from error
    if text is None:
        return None
    try:
        return Chain.read(text.strip(), ()).newest
    except ChainInvalid as error:
        raise table.refuse(name, f"the key {error.reason}") from error


def _agent(
    table: Table,
    coordinator: CoordinatorConfig,
    python: tuple[PythonConfig, ...],
    command: tuple[CommandConfig, ...],
) -> AgentConfig:
    name = table.text("name")
    slots = table.value("slots", int, "a whole number")
    spool = table.text("spool") or "spool"
    spool_sync = table.value("spool_sync", bool, "true or false")
    tenants = table.texts("tenants") or ()
    labels = table.value("labels", dict, "a table of strings") or {}
    drain_seconds = table.seconds("drain_seconds", 30.0)
    stop_seconds = table.seconds("stop_seconds", 5.0)
    table.finish()
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:128] or "agent"
    if not NAME_PATTERN.fullmatch(name):
        raise table.refuse("name", f"{name!r} must be letters, digits, '.', '_' or '-'")
    slots = 8 if slots is None else slots
    if not 1 <= slots <= 100_000:
        raise table.refuse("slots", "must be from 1 to 100000")
    if len(labels) > 64:
        raise table.refuse("labels", "must be at most 64")
    for key, value in labels.items():
        if not isinstance(value, str):
            raise table.refuse("labels", f"{key!r} must be a string, not {toml.describe(value)}")
    return AgentConfig(
        path=table.path,
        coordinator=coordinator,
        name=name,
        slots=slots,
        spool=table.path.parent / Path(spool).expanduser(),
        spool_sync=bool(spool_sync),
        tenants=tenants,
        labels=labels,
        drain_seconds=drain_seconds,
        stop_seconds=stop_seconds,
        python=python,
        command=command,
    )


def _payloads(table: Table) -> PayloadsConfig:
    store = table.text("store", required=True)
    inline_max = table.size("inline_max", 256 << 10)
    stored_max = table.size("stored_max", 256 << 20)
    table.finish()
    assert store is not None
    scheme, mark, place = store.partition("://")
    if not mark or scheme not in SCHEMES:
        known = ", ".join(f"{it}://" for it in SCHEMES)
        raise table.refuse("store", f"{store!r} must begin with one of {known}")
    if scheme == "file" and not place.startswith("/"):
        reason = "must name a folder from the root on, as in file:///var/lib/tenure/payloads"
        raise table.refuse("store", f"{store!r} {reason}")
    if inline_max > PAYLOAD_BYTES_MAX:
        raise table.refuse("inline_max", "must be at most 1MiB: more cannot travel")
    if stored_max < inline_max:
        raise table.refuse("stored_max", "must not be less than inline_max")
    if stored_max > _STORED_MAX:
        raise table.refuse("stored_max", "must be at most 1GiB: payloads are held in memory")
    return PayloadsConfig(store=store, inline_max=inline_max, stored_max=stored_max)


def _python(table: Table) -> PythonConfig:
    kind = _kind(table)
    function = table.text("function", required=True)
    process = table.value("process", bool, "true or false")
    table.finish()
    assert function is not None
    module, _, name = function.partition(":")
    if not (module and name and all(part.isidentifier() for part in module.split("."))):
        raise table.refuse("function", f"{function!r} must read module:function")
    return PythonConfig(kind=kind, function=function, process=bool(process))


def _command(table: Table) -> CommandConfig:
    kind = _kind(table)
    argv = table.texts("argv", required=True)
    env = table.texts("env")
    cwd = table.path.parent / Path(table.text("cwd") or ".").expanduser()
    table.finish()
    if not argv or not argv[0]:
        raise table.refuse("argv", "must name a program")
    if any("\0" in word for word in argv):
        raise table.refuse("argv", "must not hold a NUL character")
    if not cwd.is_dir():
        raise table.refuse("cwd", f"no such folder: {cwd}")
    env = COMMAND_ENV_DEFAULT if env is None else env
    return CommandConfig(kind=kind, argv=argv, env=env, cwd=cwd)


def _kind(table: Table) -> str:
    kind = table.text("kind", required=True)
    assert kind is not None
    if not NAME_PATTERN.fullmatch(kind):
        raise table.refuse("kind", f"{kind!r} must be letters, digits, '.', '_' or '-'")
    if kind.startswith(BUILTIN_PREFIX):
        raise table.refuse("kind", f"{kind!r}: names in {BUILTIN_PREFIX!r} are built in")
    return kind


def _refuse_repeats(path: Path, kinds: list[str]) -> None:
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ConfigError(f"{path}: kind {kind!r}: has more than one handler")
