"""Shows a bug on the commit before its mend: `python -m tests.reproduce MEND … PYTEST ARGUMENTS`.

The product is that of then, in a checkout of its own that is removed again; the tests are those of
the mend, or of `--tests COMMIT` where they came later, and `--file COMMIT:PATH` is added to them.
`--given NAME=VALUE` stands in for what a test imports from the product and was not there yet. It
takes the whole history. `docs/found-bugs.md` has the commands.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Where the packages are that tests import.
_PATHS = ("server", "agent", "protos", "trust", ".")
#: What pytest ends with when tests have failed.
FAILED = 1


def _git(*words: str, where: Path = ROOT) -> None:
    subprocess.run(["git", *words], cwd=where, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A checkout of a commit, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="tenure-then-") as parent:
        folder = Path(parent) / "tenure"
        _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def take_tests(folder: Path, commit: str, files: list[str], given: list[str]) -> None:
    """Replaces the tests of a checkout."""
    shutil.rmtree(folder / "tests")
    _git("checkout", "--quiet", commit, "--", "tests", where=folder)
    for origin, _, file in (words.partition(":") for words in files):
        _git("checkout", "--quiet", origin, "--", file, where=folder)
    for name, _, value in (words.partition("=") for words in given):
        imported = re.compile(rf"^from \S+ import {name}$", re.MULTILINE)
        for path in folder.glob("tests/**/*.py"):
            text = path.read_text()
            if imported.search(text):
                path.write_text(imported.sub(f"{name} = {value}", text))


def run(folder: Path, arguments: list[str]) -> int:
    """Makes the stubs and runs the tests; gives pytest's exit code."""
    path = os.pathsep.join(str(folder / name) for name in _PATHS)
    environment = {**os.environ, "PYTHONPATH": path}
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--hooks-only"]
    subprocess.run(build, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    # Today's plugin is announced by what is installed, and was not there then.
    tests = [sys.executable, "-m", "pytest", "-p", "no:tenure", "-p", "no:cacheprovider"]
    done = subprocess.run([*tests, *arguments], cwd=folder, env=environment, check=False)
    return done.returncode


def main() -> int:
    """0 when the bug showed itself, 1 when it did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.reproduce")
    parser.add_argument("mend", help="the commit that mended it")
    parser.add_argument("--tests", default="", help="the commit that has the tests")
    parser.add_argument("--file", action="append", default=[])
    parser.add_argument("--given", action="append", default=[])
    known, arguments = parser.parse_known_args()
    with checkout(f"{known.mend}~") as folder:
        take_tests(folder, known.tests or known.mend, known.file, known.given)
        code = run(folder, arguments)
    shown = code == FAILED
    print(f"before {known.mend} the bug {'shows itself' if shown else f'does not show: {code}'}")
    return 0 if shown else 1


if __name__ == "__main__":
    sys.exit(main())
