"""Lets three nights pass, then fills in the week before the first."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from tenure_client import schedule_file, testing

HERE = Path(__file__).parent


async def scene(
    env: testing.Environment, folder: Path, say: Callable[[str], None]
) -> list[testing.Run]:
    """Ten runs: one a night, and seven of the backfill."""
    await env.register(HERE / "workflow.yaml")
    made = schedule_file.read(HERE / "schedule.yaml")
    made.spec.start.input.CopyFrom(env.payload({"folder": str(folder)}))
    await env.client.schedules.create(made.name, made.spec)
    first = env.now()
    await env.advance("3d")
    say(f"{len(await env.runs('sales'))} nights have passed")
    answer = await env.client.schedules.backfill(made.name, first - timedelta(days=7), first)
    say(f"{answer.count} nights before are filled in")
    await env.advance("1m")
    return await env.runs("sales")
