"""How people name runs: by id, or by the beginning or end of one."""

from __future__ import annotations

import re

import click
import grpc

from tenure_client.client import Client
from tenure_client.errors import TenureError

PREFIX_CHARACTERS_MIN = 6
RUNS_SEARCHED = 1000

HELP = "RUN is a run's id, or its beginning or end of at least 6 characters."

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


async def resolve(client: Client, text: str) -> str:
    """Finds the run that an abbreviation means.

    Raises click.UsageError for one that is too short or means several, TenureError (NOT_FOUND)
    for one that means none.
    """
    wanted = text.lower()
    if _UUID.fullmatch(wanted):
        return wanted
    if len(wanted) < PREFIX_CHARACTERS_MIN or not re.fullmatch(r"[0-9a-f-]+", wanted):
        raise click.UsageError(
            f"RUN: must be a run's id, or at least {PREFIX_CHARACTERS_MIN} characters of its "
            f"beginning or end, is {text!r}"
        )
    found = []
    searched = 0
    async for each in client.list_runs(page_size=RUNS_SEARCHED):
        if each.run_id.startswith(wanted) or each.run_id.endswith(wanted):
            found.append(each.run_id)
        searched += 1
        if searched == RUNS_SEARCHED:
            break
    if not found:
        reason = f"none of the newest {RUNS_SEARCHED} runs begins or ends with {text!r}"
        raise TenureError(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", reason)
    if len(found) > 1:
        shown = ", ".join(found[:3])
        raise click.UsageError(f"RUN: {text!r} means {len(found)} runs, among them {shown}")
    return found[0]
