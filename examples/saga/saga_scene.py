"""Books a journey that can be paid, and one that is too dear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tenure_client import testing

HERE = Path(__file__).parent


async def scene(
    env: testing.Environment, folder: Path, say: Callable[[str], None]
) -> list[testing.Run]:
    """Two runs: the second gives everything back, the last first, and tells the customer."""
    paid, dear = folder / "paid", folder / "dear"
    good = await env.run(HERE / "workflow.yaml", input={"folder": str(paid), "budget": 500})
    say(f"one could be paid: {good.output('pay')['paid']}")
    bad = await env.run(HERE / "workflow.yaml", input={"folder": str(dear)})
    say(f"the other could not: {bad.task('pay').message}")
    for act in (dear / "acts.txt").read_text(encoding="utf-8").splitlines():
        say(act)
    return [good, bad]
