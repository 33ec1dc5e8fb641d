"""`python -m tests.simulation`: stories of one seed after the other, until there were enough steps.

A story is the same each time that its seed is told, so the seed of a wrong one is all there is to
remember.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.simulation.story import Told, tell

STORY_STEPS = 3000
_PROGRESS_SECONDS = 5.0
#: What strings hash to decides the order of sets, and so must be the same each time.
_HASHES = ("PYTHONHASHSEED", "0")


def main() -> int:
    """Gives 0 when nothing was wrong, 1 after the first story in which something was."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    given = parser.parse_args()
    if os.environ.get(_HASHES[0]) != _HASHES[1]:
        os.environ[_HASHES[0]] = _HASHES[1]
        words = ["--steps", str(given.steps), "--seed", str(given.seed)]
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *words])
    began = told_at = time.monotonic()
    steps = stories = crashes = runs = 0
    while steps < given.steps:
        told = _tell(given.seed + stories, min(STORY_STEPS, given.steps - steps))
        steps, stories = steps + told.steps, stories + 1
        crashes, runs = crashes + told.crashes, runs + told.runs
        if told.wrong:
            print(f"simulate: the story of seed {told.seed} went wrong")
            print("\n".join(f"  {one}" for one in told.wrong[:10]))
            print(f"repeat it with: make simulate STEPS={STORY_STEPS} SEED={told.seed}")
            return 1
        if time.monotonic() - told_at > _PROGRESS_SECONDS:
            told_at = time.monotonic()
            print(f"simulate: {steps} steps, {crashes} crashes, {runs} runs", flush=True)
    took = time.monotonic() - began
    print(
        f"simulate: {steps} steps in {stories} stories from seed {given.seed} on, {crashes} "
        f"crashes, {runs} runs, {took:.0f} s: every promise was kept"
    )
    return 0


def _tell(seed: int, steps: int) -> Told:
    # In memory where the system has such a place: what is simulated needs no disk.
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tenure-simulation-", dir=place) as folder:
        return tell(seed, steps, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
