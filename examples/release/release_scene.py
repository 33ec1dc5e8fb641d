"""Releases twice: once with consent, once without an answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tenure_client import testing

HERE = Path(__file__).parent


async def scene(
    env: testing.Environment, folder: Path, say: Callable[[str], None]
) -> list[testing.Run]:
    """Two runs: the first succeeds on the second day, the second goes back by itself."""
    good = await env.start(HERE / "workflow.yaml", input={"version": "1.0", "folder": str(folder)})
    await env.until(good, task="consent", state="ACTIVE")
    say(f"asked after {good.took}: machine one has {_version(folder / 'one')}")
    env.at("20h", lambda: env.approve(good, "consent", by="ada", reason="looks well"))
    await good.wait()
    say(f"after {good.took} machines two and three have {_version(folder / 'two')}")
    late = await env.run(HERE / "workflow.yaml", input={"version": "2.0", "folder": str(folder)})
    say(f"nobody answered for {late.took}: machine one has {_version(folder / 'one')} again")
    return [good, late]


def _version(machine: Path) -> str:
    return (machine / "VERSION").read_text().strip().removeprefix("version = ")
