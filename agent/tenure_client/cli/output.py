"""What commands write: tables and details for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import orjson
from google.protobuf.message import Message
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tenure_client.cli import plain
from tenure_evidence.shown import clean

#: Where no terminal sets the width, nothing is cut.
WIDTH_WITHOUT_TERMINAL = 500

STATE_STYLES = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "UPSTREAM_FAILED": "red",
    "CANCELLED": "yellow",
    "CANCELLING": "yellow",
    "RETRYING": "yellow",
    "RUNNING": "cyan",
    "ACTIVE": "green",
    "PAUSED": "yellow",
    "STARTED": "green",
    "SKIPPED": "yellow",
    "MISSED": "red",
    "REFUSED": "red",
    "LEASED": "cyan",
    "CONNECTED": "green",
    "DISCONNECTED": "red",
    "DRAINING": "yellow",
}


def console(*, stderr: bool = False) -> Console:
    """Opens a console on stdout or stderr."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def document(value: Any) -> None:
    """Writes one JSON document; messages of the contract become plain values."""
    data = orjson.dumps(_plain(value), option=orjson.OPT_INDENT_2)
    sys.stdout.write(data.decode() + "\n")
    sys.stdout.flush()


def line(value: Any) -> None:
    """Writes one line of JSON, at once."""
    sys.stdout.write(orjson.dumps(_plain(value)).decode() + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Writes a table; columns whose title ends in `#` hold numbers. `empty` stands for no rows."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for title in columns:
        justify: Any = "right" if title.endswith("#") else "left"
        made.add_column(title.removesuffix("#"), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    if made.row_count == 0:
        click.echo(empty)
        return
    target = console()
    if target.is_terminal:
        target.print(made)
        return
    with target.capture() as captured:
        target.print(made)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def details(pairs: Iterable[tuple[str, Any]]) -> None:
    """Writes names and values below each other; values that say nothing are left out."""
    shown = [
        (name, str(value)) for name, value in pairs if value is not None and value not in ("", [])
    ]
    width = max((len(name) for name, _ in shown), default=0)
    for name, text in shown:
        click.secho(f"{name:<{width}}", bold=True, nl=False)
        click.secho(f"  {clean(text)}", fg=STATE_STYLES.get(text))


def cell(value: Any) -> Text:
    """Makes a cell; text of others is shown as it is, never as markup or terminal control."""
    if value is None:
        return Text("-", style="dim")
    text = clean(str(value))
    return Text(text, style=STATE_STYLES.get(text, ""))


def words(mapping: Any) -> str:
    """Writes labels on one line."""
    return ", ".join(f"{key}={value}" for key, value in sorted(mapping.items()))


def _plain(value: Any) -> Any:
    match value:
        case Message():
            return plain.of(value)
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
