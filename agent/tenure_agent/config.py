"""Reads the agent's TOML file into one frozen value, and refuses what makes no sense.

Every refusal is a sentence that names the file, the table and the key. Unknown keys are refused
too, since a key with a typo would otherwise be a setting that silently does nothing.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenure_client import channel
from tenure_evidence.keys import Chain, ChainInvalid
from tenure_evidence.notes import VerifierKey

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
BUILTIN_PREFIX = "tenure."
COMMAND_ENV_DEFAULT = ("PATH", "HOME", "LANG")


class ConfigError(ValueError):
    """The configuration cannot be used; the message says where and why."""


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
    document = {} if path is None else _read(path)
    path = (path or Path("command line")).absolute()
    if overrides is not None:
        _lay_over(document, overrides)
    top = _Table(path, "", document)
    coordinator = _coordinator(top.table("coordinator", required=True))
    agent = top.table("agent")
    python = tuple(_python(table) for table in top.tables("python"))
    command = tuple(_command(table) for table in top.tables("command"))
    top.finish()
    _refuse_repeats(path, [*(it.kind for it in python), *(it.kind for it in command)])
    return _agent(agent, coordinator, python, command)


def _read(path: Path) -> dict[str, Any]:
    """Reads the file as TOML."""
    path = path.absolute()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


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


class _Table:
    """One table of the file; remembers which keys were asked for, so that others are refused."""

    def __init__(self, path: Path, name: str, content: Mapping[str, Any]) -> None:
        self.path = path
        self.name = name
        self._content = content
        self._known: list[str] = []

    def refuse(self, key: str, reason: str) -> ConfigError:
        """Makes the error for one key of this table."""
        where = f"[{self.name}] {key}" if self.name else key
        return ConfigError(f"{self.path}: {where}: {reason}")

    def value(self, key: str, kind: type, expected: str, *, required: bool = False) -> Any:
        """The value of a key, None when it is absent. Booleans never pass as numbers."""
        self._known.append(key)
        if key not in self._content:
            if required:
                raise self.refuse(key, "is missing" + self._near(key, self._content))
            return None
        value = self._content[key]
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.refuse(key, f"must be {expected}, not {_describe(value)}")
        return value

    def text(self, key: str, *, required: bool = False) -> str | None:
        """A string that is not empty."""
        value: str | None = self.value(key, str, "a string", required=required)
        if value == "":
            raise self.refuse(key, "must not be empty")
        return value

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...] | None:
        """A list of strings."""
        value = self.value(key, list, "a list of strings", required=required)
        if value is None:
            return None
        for entry in value:
            if not isinstance(entry, str):
                raise self.refuse(key, f"must be a list of strings, not with {_describe(entry)}")
        return tuple(value)

    def seconds(self, key: str, default: float) -> float:
        """A span of time from 0 to one day."""
        value: float | None = self.value(key, float, "a number of seconds")
        if value is None:
            return default
        if not 0 <= value <= 86400:
            raise self.refuse(key, "must be from 0 to 86400 seconds")
        return value

    def file(self, key: str) -> Path | None:
        """A path, relative to the file's folder, of something that exists."""
        value = self.text(key)
        if value is None:
            return None
        target = self.path.parent / Path(value).expanduser()
        if not target.is_file():
            raise self.refuse(key, f"no such file: {target}")
        return target

    def table(self, key: str, *, required: bool = False) -> _Table:
        """A table inside this one; empty when it is absent."""
        content = self.value(key, dict, f"a table: [{key}]", required=required)
        return _Table(self.path, key, content or {})

    def tables(self, key: str) -> list[_Table]:
        """A list of tables, named by their place."""
        content = self.value(key, list, f"a list of tables: [[{key}]]") or []
        for entry in content:
            if not isinstance(entry, dict):
                raise self.refuse(key, f"must be a list of tables: [[{key}]]")
        return [_Table(self.path, f"{key} #{i}", entry) for i, entry in enumerate(content, 1)]

    def finish(self) -> None:
        """Refuses keys that nobody asked for."""
        for key in self._content:
            if key in self._known:
                continue
            hint = self._near(key, self._known) or f"; known: {', '.join(self._known)}"
            what = "unknown key" if self.name else "unknown table or key"
            raise self.refuse(key, what + hint)

    @staticmethod
    def _near(key: str, others: Iterable[str]) -> str:
        """Asks whether another key was meant, when one is near."""
        near = difflib.get_close_matches(key, list(others), n=1)
        return f"; did you mean {near[0]!r}?" if near else ""


def _coordinator(table: _Table) -> CoordinatorConfig:
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


def _secret(table: _Table, key_file: Path | None, key_env: str | None) -> str:
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


def _public_key(table: _Table, text: str | None, file: Path | None) -> VerifierKey | None:
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
    table: _Table,
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
            raise table.refuse("labels", f"{key!r} must be a string, not {_describe(value)}")
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


def _python(table: _Table) -> PythonConfig:
    kind = _kind(table)
    function = table.text("function", required=True)
    process = table.value("process", bool, "true or false")
    table.finish()
    assert function is not None
    module, _, name = function.partition(":")
    if not (module and name and all(part.isidentifier() for part in module.split("."))):
        raise table.refuse("function", f"{function!r} must read module:function")
    return PythonConfig(kind=kind, function=function, process=bool(process))


def _command(table: _Table) -> CommandConfig:
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


def _kind(table: _Table) -> str:
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


def _describe(value: object) -> str:
    """Says what a TOML value is, in words."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f"the string {value!r}"
        case int() | float():
            return f"the number {value}"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"
