"""Plays examples for a person to watch: `python examples/play.py release`, or without a name all.

A coordinator whose time stands still is started, so that days of waiting pass in no time. Beside
each line stands the time that has passed in the example.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tenure_client import testing

HERE = Path(__file__).parent
NAMES = ("documents", "release", "sales", "saga", "training")

#: Given an environment, an empty folder, and what says a line; runs the example.
Scene = Callable[[testing.Environment, Path, Callable[[str], None]], Awaitable[list[testing.Run]]]


def scene_of(name: str) -> Scene:
    """Loads `NAME/NAME_scene.py`."""
    file = HERE / name / f"{name}_scene.py"
    spec = importlib.util.spec_from_file_location(f"scene_of_{name}", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scene: Scene = module.scene
    return scene


async def play(name: str) -> None:
    """Plays one example and shows what happened in its runs."""
    print(f"== {name}")
    with tempfile.TemporaryDirectory(prefix=f"tenure-{name}-") as folder:
        async with testing.Environment(agent=HERE / name / "agent.toml") as env:
            began = env.now()
            runs = await scene_of(name)(env, Path(folder), lambda line: print(f"  -- {line}"))
            for run in runs[:3]:
                print(f"  run {run.run_id}: {run.state} after {run.took}")
                for event in run.events:
                    words = f"{event.task} {event.code} {event.message}".strip()
                    print(f"    {event.at - began!s:>18}  {event.kind:<22} {words}")
            if len(runs) > 3:
                print(f"  and {len(runs) - 3} more runs")


async def main(names: list[str]) -> None:
    """Plays the examples of these names, or all."""
    # Attempts fail on purpose here, and the events tell of it.
    logging.disable(logging.WARNING)
    for name in names or NAMES:
        await play(name)


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in NAMES]
    if unknown:
        sys.exit(f"error: no example {unknown[0]!r}; there are {', '.join(NAMES)}")
    asyncio.run(main(sys.argv[1:]))
