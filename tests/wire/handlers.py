"""Handlers of the agents under test. Copied beside an agent's configuration.

They meet the tests through files: an attempt that has begun leaves `<task>.<attempt>.began` in the
folder of its input, and waits for `<task>.go` or `go`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import tenure_agent

_never = threading.Event()
_LOOK_SECONDS = 0.01
_SPEAK_SECONDS = 0.1


def _begin(ctx: tenure_agent.TaskContext, folder: str) -> Path:
    place = Path(folder)
    (place / f"{ctx.task_key}.{ctx.attempt}.began").touch()
    return place


def _may_go(place: Path, task_key: str) -> bool:
    return (place / "go").exists() or (place / f"{task_key}.go").exists()


def hold(ctx: tenure_agent.TaskContext, folder: str) -> str:
    """Waits until it may go, and stops when it is told to."""
    place = _begin(ctx, folder)
    try:
        while not _may_go(place, ctx.task_key):
            ctx.raise_if_cancelled()
            _never.wait(_LOOK_SECONDS)
    except tenure_agent.Stopped:
        (place / f"{ctx.task_key}.stopped").touch()
        raise
    return f"attempt {ctx.attempt}"


async def hold_async(ctx: tenure_agent.TaskContext, folder: str) -> str:
    """The same as `hold`, on the agent's loop."""
    place = _begin(ctx, folder)
    try:
        while not _may_go(place, ctx.task_key):  # noqa: ASYNC110 - the test is no event of this loop
            await asyncio.sleep(_LOOK_SECONDS)
    except asyncio.CancelledError:
        (place / f"{ctx.task_key}.stopped").touch()
        raise
    return f"attempt {ctx.attempt}"


def deaf(ctx: tenure_agent.TaskContext, folder: str) -> None:
    """Never ends, whatever it is told."""
    _begin(ctx, folder)
    _never.wait()


async def deaf_async(ctx: tenure_agent.TaskContext, folder: str) -> None:
    """Never ends by itself."""
    _begin(ctx, folder)
    await asyncio.Event().wait()


def fail_until(ctx: tenure_agent.TaskContext, instructions: dict[str, Any]) -> int:
    """Fails with a code until the attempt that it is told."""
    if ctx.attempt < instructions["attempt"]:
        raise type(instructions["code"], (Exception,), {})("not yet")
    return ctx.attempt


def add_up(ctx: tenure_agent.TaskContext, number: int) -> dict[str, int]:
    """Adds its number to the sums of all tasks before it."""
    return {"sum": number + sum(output["sum"] for output in ctx.upstream.values())}


def count(ctx: tenure_agent.TaskContext, steps: int) -> list[int]:
    """Counts, keeps a checkpoint of each step, and crashes once on the way."""
    done = ctx.checkpoint or []
    for step in range(len(done), steps):
        done = [*done, ctx.attempt]
        ctx.save_checkpoint(done)
        ctx.progress(len(done) / steps, f"step {step + 1}")
        if ctx.attempt == 1 and step == steps // 2:
            raise RuntimeError("half way")
    return done


def speak(ctx: tenure_agent.TaskContext, seconds: float) -> None:
    """Tells of its progress for that long."""
    for step in range(int(seconds / _SPEAK_SECONDS)):
        ctx.progress(step * _SPEAK_SECONDS / seconds)
        _never.wait(_SPEAK_SECONDS)


def leave(ctx: tenure_agent.TaskContext, code: int) -> None:
    """Tries to end the whole process."""
    sys.exit(code)


def loud(ctx: tenure_agent.TaskContext, characters: int) -> None:
    """Prints a lot, and raises a message of the same length."""
    print("x" * characters)
    raise RuntimeError("y" * characters)


def big(ctx: tenure_agent.TaskContext, characters: int) -> str:
    """Gives an output of that length."""
    return "z" * characters


def measure(ctx: tenure_agent.TaskContext, _nothing: None) -> dict[str, int]:
    """Says how long the outputs are that it is given."""
    return {key: len(output) for key, output in ctx.upstream.items()}
