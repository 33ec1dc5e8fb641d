"""Shows that a bug was there: `python -m tests.reproduce NAME …`, or `--all`.

`tests/bugs/NAME.patch` takes the mend of one bug back. It is applied to a copy of this tree, and
the tests that it names are run there: they fail, as they did before the mend. One that passes is
told, for then nothing keeps the bug away. `docs/found-bugs.md` has the table.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUGS = ROOT / "tests" / "bugs"
#: Where the packages are that tests import.
_PATHS = ("server", "agent", "protos", "trust", ".")
#: What else is copied, for the tests read it.
_BESIDE = ("benchmarks", "docs", "examples", "tests", "pyproject.toml", "README.md", "Makefile")


@dataclass(frozen=True, slots=True)
class Bug:
    """A mend that can be taken back: the patch, and pytest's arguments that show what follows."""

    name: str
    patch: Path
    shown_by: tuple[str, ...]
    environment: dict[str, str]


def bug(name: str) -> Bug:
    """Reads a patch: what precedes its first `---` tells what it does, and by which tests.

    A line `Shown by:` has pytest's arguments, and before them variables for it; arguments of
    several words are put in double quotes.

    Raises:
        ValueError: no such bug, or no such line.
    """
    patch = BUGS / f"{name}.patch"
    if not patch.is_file():
        raise ValueError(f"{name}: no such bug; there are {', '.join(names())}")
    for line in patch.read_text().partition("\n--- ")[0].splitlines():
        if line.startswith("Shown by:"):
            words = shlex.split(line.removeprefix("Shown by:"))
            given = [word for word in words if word.partition("=")[0].isupper()]
            rest = tuple(word for word in words if word not in given)
            return Bug(name, patch, rest, dict(word.split("=", 1) for word in given))
    raise ValueError(f"{patch}: no line 'Shown by:' before the patch")


def names() -> list[str]:
    """The names of all bugs."""
    return sorted(path.stem for path in BUGS.glob("*.patch"))


def take_back(this: Bug, folder: Path, *options: str) -> None:
    """Applies the patch to a copy of the tree.

    Raises:
        subprocess.CalledProcessError: it does not fit any more.
    """
    # The folder is on its own, even if it happens to lie in a repository.
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    words = ["git", "apply", *options, str(this.patch)]
    subprocess.run(words, cwd=folder, env=alone, check=True)


@contextmanager
def before_its_mend(this: Bug) -> Iterator[Path]:
    """A copy of this tree with the stubs, from which the mend is taken."""
    with tempfile.TemporaryDirectory(prefix="tenure-then-") as folder:
        then = Path(folder)
        for name in {*_PATHS, *_BESIDE} - {"."}:
            here = ROOT / name
            if here.is_dir():
                shutil.copytree(here, then / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(here, then)
        take_back(this, then)
        yield then


def shows(this: Bug) -> bool:
    """Whether every test that is named fails where the mend is taken back.

    One that cannot begin shows nothing, and one that passes keeps nothing away.
    """
    with before_its_mend(this) as then:
        path = os.pathsep.join(str(then / name) for name in _PATHS)
        environment = {**os.environ, **this.environment, "PYTHONPATH": path}
        tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *this.shown_by]
        report = then / "report.xml"
        words = [*tests, f"--junitxml={report}"]
        subprocess.run(words, cwd=then, env=environment, check=False)
        told = report.read_text() if report.is_file() else ""
    # The attributes of its first element count what came of the tests.
    counts = Counter[str]()
    for name, number in re.findall(r' (\w+)="(\d+)"', told.partition("<testcase")[0]):
        counts[name] += int(number)
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return counts["failures"] > 0 and passed == 0


def main() -> int:
    """0 when every bug showed itself, 1 when one did not, 2 for a name that is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.reproduce")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a patch in tests/bugs")
    parser.add_argument("--all", action="store_true", help="every one of them")
    known = parser.parse_args()
    if bool(known.names) == known.all:
        parser.error("either names or --all")
    try:
        bugs = [bug(name) for name in known.names or names()]
    except ValueError as error:
        parser.error(str(error))
    hidden = []
    for number, this in enumerate(bugs, 1):
        shown = shows(this)
        if not shown:
            hidden.append(this.name)
        said = "shows itself" if shown else "DOES NOT SHOW"
        print(f"{number}/{len(bugs)} without its mend, {this.name} {said}", flush=True)
    if hidden:
        print(f"nothing keeps away: {', '.join(hidden)}")
    return 1 if hidden else 0


if __name__ == "__main__":
    sys.exit(main())
