"""Starts a coordinator on a machine whose clock somebody sets: `skewed.py FILE …`.

FILE says by how many seconds the clock is ahead, now and at any later time. What runs evenly, by
which leases and waits are measured, is left alone, as it is where a real clock is set.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path


def main(file: Path) -> None:
    """Runs the coordinator with what is left of the command line."""
    seconds, nanoseconds = time.time, time.time_ns

    def ahead() -> int:
        return int(file.read_text())

    time.time = lambda: seconds() + ahead()
    time.time_ns = lambda: nanoseconds() + ahead() * 1_000_000_000
    runpy.run_module("tenure_server", run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv.pop(1)))
