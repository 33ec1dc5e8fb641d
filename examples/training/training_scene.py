"""Trains until the error is small; the second epoch is disturbed and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tenure_client import testing

HERE = Path(__file__).parent


async def scene(
    env: testing.Environment, folder: Path, say: Callable[[str], None]
) -> list[testing.Run]:
    """One run and one for each epoch."""
    await env.register(HERE / "epoch.yaml")
    run = await env.run(HERE / "workflow.yaml", input={"wanted_error": 0.004, "seed": 7})
    say(run.result["sentence"])
    epochs = await env.runs("training-epoch")
    return [run, *sorted(epochs, key=lambda epoch: int(epoch.result["epochs"]))]
