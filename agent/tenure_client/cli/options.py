"""Options that every command understands, before the command's name or after it.

They are noted in the context as they come; `session` makes sense of them. Nothing heavy is loaded
here: the root needs this module for `tenure --help`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_ADDRESS = "127.0.0.1:7233"
GIVEN = "tenure.given"
FROM_ENVIRONMENT = "tenure.environment"

_FILE = click.Path(dir_okay=False, path_type=Path)


class NewFile(click.Path):
    """A file to be written: its folder must be there, or the work would be for nothing."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.absolute().parent.is_dir():
            self.fail(f"there is no folder {path.parent}", param, ctx)
        return path


class Command(click.Command):
    """A command that takes the options of the connection as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {name for parameter in self.params for name in parameter.opts}
        self.params += [
            option for option in _options(hidden=True) if not taken.intersection(option.opts)
        ]


class Group(click.Group):
    """A noun: a group of such commands."""

    command_class = Command


def connection(*, hidden: bool) -> Callable[[F], F]:
    """Adds the options of the connection to the root command."""

    def add(function: F) -> F:
        existing = getattr(function, "__click_params__", [])
        function.__click_params__ = [*existing, *reversed(list(_options(hidden=hidden)))]  # type: ignore[attr-defined]
        return function

    return add


def given(context: click.Context) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gives what was said on the command line, and what the environment says beside it."""
    return context.meta.get(GIVEN, {}), context.meta.get(FROM_ENVIRONMENT, {})


def _options(*, hidden: bool) -> Iterator[click.Option]:
    yield _option(
        "--address",
        hidden,
        "Where the coordinator listens, host:port; several with "
        f"commas. Default: {DEFAULT_ADDRESS}.",
    )
    yield _option("--key", hidden, "The API key itself. A file is safer: others can see arguments.")
    yield _option("--key-file", hidden, "A file that holds the API key.", kind=_FILE)
    yield _option(
        "--credentials",
        hidden,
        "The credentials file of a new installation; its admin "
        "key is used, its operator key for tenants.",
        kind=_FILE,
    )
    yield _option(
        "--as",
        hidden,
        "Which key of the credentials file to use.",
        kind=click.Choice(["admin", "operator", "agent"]),
    )
    yield _option("--tenant", hidden, "The tenant to act in, for keys of several tenants.")
    yield _option("--tls-ca", hidden, "Trust this authority (PEM) and use TLS.", kind=_FILE)
    yield _option("--tls-cert", hidden, "Certificate for mutual TLS (PEM).", kind=_FILE)
    yield _option("--tls-key", hidden, "Key for mutual TLS (PEM).", kind=_FILE)
    yield _option("--tls", hidden, "Use TLS and trust the system's authorities.", flag=True)
    yield _option(
        "--wait-seconds",
        hidden,
        "How long to try while no coordinator answers. Default: 5.",
        kind=click.FloatRange(min=0),
    )
    yield _option(
        "--json", hidden, "Write JSON: one document, or one line for each event.", flag=True
    )
    yield _option("--debug", True, "Show where an error happened.", flag=True)


def _option(
    name: str, hidden: bool, text: str, *, kind: Any = None, flag: bool = False
) -> click.Option:
    # The environment is read at the root only, or it would overrule what was said there.
    variable = None if hidden or flag else f"TENURE_{name[2:].upper().replace('-', '_')}"
    return click.Option(
        [name, f"_{name[2:].replace('-', '_')}"],
        type=None if flag else kind,
        is_flag=flag,
        default=None,
        envvar=variable,
        hidden=hidden and name != "--json",
        expose_value=False,
        callback=_note,
        help=text,
    )


def _note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is None or value is False:
        return
    source = context.get_parameter_source(parameter.name or "")
    from_environment = source is click.core.ParameterSource.ENVIRONMENT
    place = FROM_ENVIRONMENT if from_environment else GIVEN
    context.meta.setdefault(place, {})[(parameter.name or "").lstrip("_")] = value
