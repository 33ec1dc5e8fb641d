"""Converts four documents, of which one is not text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tenure_client import testing

HERE = Path(__file__).parent


async def scene(
    env: testing.Environment, folder: Path, say: Callable[[str], None]
) -> list[testing.Run]:
    """One run: three pages, one failure that the workflow allows, one index."""
    source, target = folder / "source", folder / "site"
    source.mkdir()
    (source / "apples.md").write_text("# Apples\n\nThey fall & rot.\n")
    (source / "pears.md").write_text("# Pears\n\nThey do not.\n\n## Sorts\n\nMany.\n")
    (source / "plums.md").write_text("Blue, mostly.\n")
    (source / "scan.md").write_bytes(b"\xff\xfe not text")
    given = {"source": str(source), "target": str(target)}
    run = await env.run(HERE / "workflow.yaml", input=given)
    say(f"{len(list(target.glob('*.html')))} files: {run.result}")
    return [run]
