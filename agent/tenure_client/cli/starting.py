"""What a run is started with: its input, its labels, the scale of a trace."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from tenure.v1 import payload_pb2
from tenure_client import payload
from tenure_client.payload import ABSENT, Absent

INPUT = click.option(
    "--input",
    "input_text",
    metavar="JSON|@FILE",
    help="The run's input: JSON, or @FILE to read it from there (@- reads stdin).",
)
TIME_SCALE = click.option(
    "--time-scale",
    type=click.FloatRange(min=0),
    help="For traces: tasks take their recorded time times this.",
)


def run_input(text: str | None, time_scale: float | None) -> payload_pb2.Payload | Absent:
    """Makes the input of a run. Raises click.UsageError for what is no JSON, or no object."""
    if time_scale is not None and not math.isfinite(time_scale):
        raise click.UsageError("--time-scale: must be a number, 0 or more")
    given = ABSENT if text is None else content(text, "--input")
    if time_scale is None:
        return given
    value: Any = {} if given is ABSENT else payload.decode(given)
    if not isinstance(value, dict):
        raise click.UsageError("--time-scale: needs an --input that is a JSON object, or none")
    scaled = payload.canonical({**value, "time_scale": time_scale})
    return payload_pb2.Payload(data=scaled)


def labels(pairs: Iterable[str]) -> dict[str, str]:
    """Reads `word=text` pairs. Raises click.UsageError."""
    found = {}
    for pair in pairs:
        word, separator, text = pair.partition("=")
        if not separator or not word:
            raise click.UsageError(f"--label: must read WORD=TEXT, is {pair!r}")
        found[word] = text
    return found


def content(text: str, option: str) -> payload_pb2.Payload:
    """Reads JSON, or a file of it. Raises click.UsageError naming the option."""
    try:
        data: str | bytes = text
        if text == "@-":
            data = sys.stdin.buffer.read()
        elif text.startswith("@"):
            data = Path(text[1:]).read_bytes()
        return payload.encode_json(data)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise click.UsageError(f"{option}: {text[1:]}: {reason}") from error
    except payload.PayloadError as error:
        raise click.UsageError(f"{option}: {error}") from error
