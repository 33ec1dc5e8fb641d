"""A child process that is measured: its log, its ready file, its CPU time and memory, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
_LOOK_SECONDS = 0.005
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: Where `benchmarks` is found: some of what is measured is in it.
_ROOT = str(Path(__file__).parents[1])
#: Settings of somebody's coordinator must not leak into the one that is measured.
_FOREIGN_PREFIX = "TENURE_SERVER_"


class ProcessError(Exception):
    """A child did not start, or did not end as it should. The message holds the end of its log."""


class Child:
    """One process: `python -m MODULE …`, which writes a ready file and goes when its stdin ends."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.ready_file = folder / f"{name}.ready"
        self.log_file = folder / f"{name}.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def spawn(self, module: str, *arguments: str) -> None:
        """Starts it without waiting for it."""
        if self.alive:
            raise ProcessError(f"the {self.name} runs already")
        self.ready_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", module, *arguments),
                    *("--ready-file", str(self.ready_file)),
                    *("--exit-with-stdin", "--log-format", "json"),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=_environment(os.environ),
            )

    async def ready(self) -> Mapping[str, Any]:
        """Waits until it serves, and gives its ready file. Raises ProcessError."""
        process = self._running()
        there = await _until(
            lambda: self.ready_file.exists() or process.poll() is not None, START_SECONDS_MAX
        )
        if not there or process.poll() is not None:
            raise ProcessError(f"the {self.name} did not start: {self._log_end()}")
        facts: Mapping[str, Any] = json.loads(self.ready_file.read_bytes())
        return facts

    async def stop(self) -> None:
        """Lets it drain and waits for its end. Raises ProcessError unless it ends with 0."""
        if not self.alive:
            return
        process = self._running()
        process.send_signal(signal.SIGTERM)
        ended = await _until(lambda: process.poll() is not None, STOP_SECONDS_MAX)
        self.kill()
        if not ended or process.returncode != 0:
            what = f"ended with {process.returncode}" if ended else "did not drain in time"
            raise ProcessError(f"the {self.name} {what}: {self._log_end()}")

    def kill(self) -> None:
        """Ends it at once and for good (SIGKILL); does nothing when it has ended."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.kill()
            process.wait(STOP_SECONDS_MAX)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def cpu_seconds(self) -> float:
        """The CPU time it has used so far, in user and system mode, all threads."""
        return cpu_seconds(Path(f"/proc/{self.pid}/stat").read_text())

    def rss_bytes(self) -> int:
        """The memory of it that is resident now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def written_bytes(self) -> int:
        """What it has had written to disk so far, in bytes."""
        words = Path(f"/proc/{self.pid}/io").read_text().split()
        return int(words[words.index("write_bytes:") + 1])

    def wake_ups(self) -> int:
        """How often its threads, all together, have gone to sleep and been woken so far."""
        total = 0
        for status in Path(f"/proc/{self.pid}/task").glob("*/status"):
            total += voluntary_switches(status.read_text())
        return total

    def logged(self, event: str) -> list[Mapping[str, Any]]:
        """Its log lines of one event, in all its lives, the oldest first."""
        lines = (line for line in self.log_file.read_bytes().splitlines() if line[:1] == b"{")
        return [entry for entry in map(json.loads, lines) if entry.get("event") == event]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProcessError(f"the {self.name} was not started")
        return self._process

    def _log_end(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:].strip()


def cpu_seconds(stat: str) -> float:
    """The CPU time that a line of /proc/PID/stat tells."""
    # The second field, the program's name in brackets, may hold spaces and brackets itself.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def voluntary_switches(status: str) -> int:
    """How often a thread gave the processor away, as /proc/PID/task/TID/status tells."""
    for line in status.splitlines():
        word, _, number = line.partition(":")
        if word == "voluntary_ctxt_switches":
            return int(number)
    raise ValueError("says nothing of voluntary_ctxt_switches")


def _environment(mine: Mapping[str, str]) -> dict[str, str]:
    kept = {word: text for word, text in mine.items() if not word.startswith(_FOREIGN_PREFIX)}
    paths = [path for path in (kept.get("PYTHONPATH"), _ROOT) if path]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)}


async def _until(holds: Callable[[], bool], seconds: float) -> bool:
    """Waits until something holds. False: it did not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not holds():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True
