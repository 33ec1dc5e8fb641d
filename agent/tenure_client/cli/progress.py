"""A run while it runs: what its events add up to, shown as bars, lines or JSON."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from tenure.v1 import runs_pb2
from tenure_client import duration
from tenure_client.cli import output, plain
from tenure_evidence.shown import clean, one_line

_KIND = runs_pb2.RunEventKind.DESCRIPTOR
#: How a task can end.
_ENDS = ("SUCCEEDED", "FAILED", "UPSTREAM_FAILED", "CANCELLED", "SKIPPED")
#: Events of a task that leave it where it is.
_SAID_BESIDE = ("CHECKPOINTED", "DECIDED", "ESCALATED", "REPEATED")
RUNNING_TASKS_SHOWN = 6


@dataclass(slots=True)
class Tally:
    """Counts of a run's tasks, kept up to date by its events."""

    #: How many there are, as far as is known: a list of items makes more of them.
    total: int
    #: The tasks of which something was told.
    seen: set[str] = field(default_factory=set)
    #: How each task that has ended did so, and how many did so each way.
    ends: dict[str, str] = field(default_factory=dict)
    ways: Counter[str] = field(default_factory=Counter)
    #: Tasks that wait for their next attempt.
    retrying: set[str] = field(default_factory=set)
    #: Tasks that are under way without a lease.
    active: set[str] = field(default_factory=set)
    #: Tasks that are leased: since when (local clock), and to whom.
    running: dict[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """How many tasks will not change any more, unless somebody has them executed again."""
        return len(self.ends)

    @property
    def succeeded(self) -> int:
        """How many tasks are done."""
        return self.ways["SUCCEEDED"]

    @property
    def failed(self) -> int:
        """How many tasks have failed for good."""
        return self.ways["FAILED"]

    def take(self, event: runs_pb2.RunEvent) -> None:
        """Takes an event into account."""
        key, kind = event.task_key, plain.word(_KIND, event.kind)
        what = kind.removeprefix("TASK_")
        if what == kind or what in _SAID_BESIDE:
            return
        self.seen.add(key)
        self.total = max(self.total, len(self.seen))
        self.retrying.discard(key)
        self.active.discard(key)
        self.running.pop(key, None)
        if what in _ENDS:
            self.ends[key] = what
            self.ways[what] += 1
        elif what == "LEASED":
            self.running[key] = (time.monotonic(), event.agent)
        elif what == "RETRYING":
            self.retrying.add(key)
        elif what == "ACTIVATED":
            self.active.add(key)
        elif what == "REOPENED" and key in self.ends:
            self.ways[self.ends.pop(key)] -= 1

    def summary(self) -> str:
        """Says on one line how the tasks stand, leaving out what there is none of."""
        parts = (
            (len(self.running), "running"),
            (len(self.active), "active"),
            (len(self.retrying), "retrying"),
            *((self.ways[way], way.lower().replace("_", " ")) for way in _ENDS[1:]),
        )
        return ", ".join(f"{count} {word}" for count, word in parts if count)


class Display(Protocol):
    """Shows events as they come, from entering to leaving."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, event: runs_pb2.RunEvent) -> None:
        """Shows an event."""


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, event: runs_pb2.RunEvent) -> None:
        """Shows nothing of it."""


class JsonLines(Silence):
    """Writes each event as a line of JSON."""

    def show(self, event: runs_pb2.RunEvent) -> None:
        """Writes the event."""
        output.line(event)


class Lines(Silence):
    """Writes each event as a line for people."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: runs_pb2.RunEvent) -> None:
        """Writes the event."""
        self._stream.write(event_line(event) + "\n")
        self._stream.flush()


class Bars:
    """Draws a bar, the counts and the tasks that run now, a few times a second.

    An event only counts; the drawing is done by a thread of its own, so that a fast run is not
    slowed down by being looked at.
    """

    def __init__(self, name: str, tally: Tally, console: Console) -> None:
        self._progress = _RunProgress(name, tally, console)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: runs_pb2.RunEvent) -> None:
        """Does nothing: the tally is what is drawn."""


class _RunProgress(Progress):
    """Rich's progress bar, with lines about the run below it."""

    def __init__(self, name: str, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._bar: TaskID | None = None
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=8,
        )
        self._bar = self.add_task(clean(name), total=tally.total)

    def get_renderables(self) -> Iterable[RenderableType]:
        if self._bar is not None:
            self.update(self._bar, completed=self._tally.ended, total=self._tally.total)
        yield from super().get_renderables()
        if summary := self._tally.summary():
            yield Text(f"  {summary}", style="dim")
        running = list(self._tally.running.items())
        now = time.monotonic()
        for key, (since, agent) in running[:RUNNING_TASKS_SHOWN]:
            took = duration.short(now - since)
            yield Text(f"  > {clean(key)}  {took} on {clean(agent)}", style="cyan")
        if len(running) > RUNNING_TASKS_SHOWN:
            yield Text(f"  > and {len(running) - RUNNING_TASKS_SHOWN} more", style="cyan")


def display(name: str, tally: Tally, *, json: bool, stderr: bool) -> Display:
    """Chooses how to show a run: bars on a terminal, else a line for each event.

    With `json` that is a line of JSON on stdout, or nothing when stderr was the place to write.
    """
    if json:
        return Silence() if stderr else JsonLines()
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Bars(name, tally, output.console(stderr=stderr))
    return Lines(stream)


def makes_tasks(event: runs_pb2.RunEvent) -> bool:
    """Whether a run may have more tasks since: worth a look at how many there are."""
    return event.kind == runs_pb2.RUN_EVENT_KIND_TASK_ACTIVATED and event.message.endswith(" items")


def event_line(event: runs_pb2.RunEvent) -> str:
    """Writes an event on one line: time, event, task, attempt, agent, message."""
    kind = plain.word(_KIND, event.kind).lower().replace("_", " ")
    parts = [plain.local_time(event.time, milliseconds=True), f"{kind:<20}"]
    if event.task_key:
        parts.append(event.task_key)
    if event.attempt:
        parts.append(f"attempt {event.attempt}")
    if event.agent:
        parts.append(f"on {event.agent}")
    if event.code or event.message:
        parts.append(": ".join(word for word in (event.code, event.message) if word))
    return one_line("  ".join(parts)).rstrip()
