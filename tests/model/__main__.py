"""`python -m tests.model`: stories of one seed after the other, until there were enough steps.

A story is the same each time that its seed is told, so the seed of a wrong one is all there is to
remember. It is then made smaller, and its shortest form is shown.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.model.choices import Pages, shrunk
from tests.model.story import STEPS, Library, Told, library, tell_twice

_PROGRESS_SECONDS = 5.0
#: So many smaller stories are tried of one that went wrong.
_SMALLER_MAX = 800
#: What strings hash to decides the order of sets, and so must be the same each time.
_HASHES = ("PYTHONHASHSEED", "0")


def main() -> int:
    """Gives 0 when nothing was wrong, 1 after the first story in which something was."""
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    given = parser.parse_args()
    if os.environ.get(_HASHES[0]) != _HASHES[1]:
        os.environ[_HASHES[0]] = _HASHES[1]
        words = ["--steps", str(given.steps), "--seed", str(given.seed)]
        os.execv(sys.executable, [sys.executable, "-m", "tests.model", *words])
    # In memory where the system has such a place: what is tried here needs no disk.
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="tenure-model-", dir=place) as folder,
        library(Path(folder)) as shelf,
    ):
        return _tell_all(shelf, given.seed, given.steps)


def _tell_all(shelf: Library, seed: int, wanted: int) -> int:
    began = told_at = time.monotonic()
    steps = stories = compared = 0
    while steps < wanted:
        told = tell_twice(shelf, seed + stories, steps=min(STEPS, wanted - steps))
        steps, stories, compared = steps + told.steps, stories + 1, compared + told.compared
        if told.wrong:
            _show(shelf, told)
            print(f"repeat it with: make model STEPS={STEPS} SEED={seed + stories - 1}")
            return 1
        if time.monotonic() - told_at > _PROGRESS_SECONDS:
            told_at = time.monotonic()
            print(f"model: {steps} steps in {stories} stories", flush=True)
    took = time.monotonic() - began
    print(
        f"model: {steps} steps in {stories} stories from seed {seed} on, each also with memory "
        f"thrown away after it, {compared} of them compared, {took:.0f} s: nothing was wrong"
    )
    return 0


def _show(shelf: Library, told: Told) -> None:
    print(f"model: {told.wrong}")
    kind = _kind(told.wrong)

    def fails(pages: Pages) -> Pages | None:
        smaller = tell_twice(shelf, None, steps=len(pages), pages=pages)
        return smaller.pages if _kind(smaller.wrong) == kind else None

    pages = shrunk(told.pages, fails, _SMALLER_MAX)
    smallest = tell_twice(shelf, None, steps=len(pages), pages=pages)
    print("the smallest story in which it is so, told by its workflows and steps:")
    print("\n".join(f"  {line}" for line in smallest.lines))
    print(f"  {smallest.wrong}")


def _kind(wrong: str) -> str:
    """What is wrong, whichever run and task it is and in whichever step."""
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]+|\d+", "#", wrong)


if __name__ == "__main__":
    sys.exit(main())
