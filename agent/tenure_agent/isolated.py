"""Functions that run in a process of their own: the agent's side of one worker process.

The worker is a module of ours, started like any command and never forked, so that it begins
without the agent's threads, locks and connections. What it says comes in frames; what its handlers
print goes into the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import context
from tenure_agent.children import STDERR_TAIL_BYTES, Child, ChildFailed, signal_name
from tenure_agent.context import Words
from tenure_agent.frames import GREETING, REPORT_EXTRA_BYTES, Frames, Tag, pack
from tenure_agent.groups import Groups

#: How much of what one attempt prints is logged.
PRINTED_BYTES_MAX = 64 * 1024
CHECK_SECONDS = 120.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("workers")
_levels = logging.getLevelNamesMapping()


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolated:
    """A function that runs in a worker process: `module:function`, and the folder to find it."""

    function: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """An attempt as a worker gets it."""

    function: str
    lease: agents_pb2.Lease
    run: agents_pb2.RunContext
    words: Words

    def order(self) -> bytes:
        """The frame that begins it. The lease's token stays here: only the agent needs it."""
        batch = agents_pb2.LeaseBatch(leases=[self.lease], runs=[self.run])
        batch.leases[0].ClearField("token")
        head = f"{self.function} {self.words.output_bytes_max}\n".encode()
        return pack(Tag.BEGIN, head + batch.SerializeToString())


def argv(mode: str, level: str, functions: Sequence[Isolated]) -> list[str]:
    """The command line of a worker. Its folder is not searched for modules, the config's is."""
    program = [sys.executable, "-P", "-m", "tenure_agent.worker", mode, level]
    return [*program, str(functions[0].folder), *(it.function for it in functions)]


def check(functions: Sequence[Isolated]) -> tuple[str, str] | None:
    """Looks for functions in a process of their own, so that the agent never loads their modules.

    Gives the name of the first that cannot be used, and the reason.
    """
    try:
        ended = subprocess.run(
            argv("check", "info", functions),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return _missing(functions, error.stdout, f"takes more than {CHECK_SECONDS:g} s")
    code = ended.returncode
    if code != 0:
        printed = ended.stderr[-STDERR_TAIL_BYTES:].decode("utf-8", "replace").strip()
        log.error("looking for functions failed", code=code, printed=printed)
    how = f"exit code {code}" if code >= 0 else f"signal {signal_name(-code)}"
    return _missing(functions, ended.stdout, f"ends its process: {how}")


def _missing(
    functions: Sequence[Isolated], found: bytes | None, reason: str
) -> tuple[str, str] | None:
    """Reads what a check wrote. Blames the first function about which it says nothing."""
    lines = (found or b"").partition(GREETING)[2].splitlines()
    for line in lines:
        name, fault = orjson.loads(line)
        if fault is not None:
            return name, fault
    if len(lines) < len(functions):
        return functions[len(lines)].function, f"importing the module {reason}"
    return None


class WorkerProcess(Child):
    """One worker process, and the attempt that it executes."""

    def __init__(self, groups: Groups | None, on_exit: Callable[[WorkerProcess], None]) -> None:
        super().__init__(groups)
        self.ready = False
        #: How many attempts it was given.
        self.attempts = 0
        #: Whether the function of the last one was called, and whether it ended.
        self.begun = self.ended = False
        #: Told to stop, or not understood: never used again.
        self.spent = False
        self._on_exit = on_exit
        self._frames = Frames(bytes_max=REPORT_EXTRA_BYTES, greeting=GREETING)
        self._words: Words | None = None
        self._fields: dict[str, str | int] = {}
        self._printed = bytearray()
        self._printed_bytes = 0
        self._output: payload_pb2.Payload | None = None
        self._failure: ChildFailed | None = None

    @property
    def usable(self) -> bool:
        """Whether it can execute another attempt."""
        return self.ready and self.ended and not self.spent and not self.exited.is_set()

    async def perform(self, errand: Errand, *, stop_seconds: float) -> None:
        """Executes an attempt. Cancelling lets it end within `stop_seconds`, or raises."""
        self._begin(errand)
        try:
            await self.done.wait()
            if self.ended:
                # What it printed is in the other pipe by now: let the loop look once more.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            else:
                await self.last_words()
        except asyncio.CancelledError:
            self.spent = True
            await self.terminate(stop_seconds)
            if not self.ended:
                raise
        finally:
            self._words = None
            self._log_printed(whole=True)

    def result(self) -> payload_pb2.Payload | None:
        """The output of the attempt. Raises ChildFailed."""
        if not self.ended:
            raise self._failure or self.death()
        if self._failure is not None:
            raise self._failure
        return self._output

    async def retire(self, seconds: float) -> None:
        """Lets an idle process leave, and kills it when it does not."""
        if not self.exited.is_set():
            self.feed(b"", last=True)
        try:
            async with asyncio.timeout(seconds):
                await self.exited.wait()
        except TimeoutError:
            log.warning("worker process does not leave, it is killed", pid=self.pid)
        finally:
            await self.bury()

    def process_exited(self) -> None:
        super().process_exited()
        self._on_exit(self)

    def stdout_received(self, data: bytes) -> None:
        if self.closed.is_set():
            return
        try:
            for tag, body in self._frames.feed(data):
                self._heard(tag, body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("worker process is not understood", reason=str(error), **self._fields)
            self._failure = ChildFailed("WORKER_NOT_UNDERSTOOD", str(error))
            self.spent, self.ended = True, False
            self.give_up()

    def stderr_received(self, data: bytes) -> None:
        super().stderr_received(data)
        room = PRINTED_BYTES_MAX - self._printed_bytes
        self._printed_bytes += len(data)
        if room <= 0:
            return
        self._printed += data[:room]
        self._log_printed(whole=False)
        if len(data) > room:
            log.warning("handler prints too much, the rest is not logged", **self._fields)

    def _begin(self, errand: Errand) -> None:
        self.attempts += 1
        self.begun = self.ended = False
        self.done.clear()
        self._output = self._failure = None
        self._log_printed(whole=True)
        self._words = errand.words
        self._frames.bytes_max = errand.words.output_bytes_max + REPORT_EXTRA_BYTES
        self._fields = context.log_fields(errand.lease, errand.run)
        self.stderr.clear()
        self._printed_bytes = 0
        self.feed(errand.order(), last=False)
        if self.exited.is_set():
            self.done.set()

    def _heard(self, tag: Tag, body: bytes) -> None:
        """Takes what the worker said."""
        match tag:
            case Tag.READY:
                self.ready = True
                self.done.set()
            case Tag.BEGUN:
                self.begun = True
            case Tag.LOG:
                _log_again(orjson.loads(body), self._fields)
            case Tag.PROGRESS if self._words is not None:
                fraction, message = orjson.loads(body)
                self._words.progress = (fraction, message)
                self._words.speak(False)
            case Tag.CHECKPOINT if self._words is not None:
                self._words.checkpoint = payload_pb2.Payload(data=body)
                self._words.speak(True)
            case Tag.OUTPUT:
                self._end(payload_pb2.Payload(data=body), None)
            case Tag.NOTHING:
                self._end(None, None)
            case Tag.FAILURE:
                facts = orjson.loads(body)
                code, message = facts.pop("code"), facts.pop("message")
                self._end(None, ChildFailed(code, message, **facts))

    def _end(self, output: payload_pb2.Payload | None, failure: ChildFailed | None) -> None:
        self._output, self._failure = output, failure
        self.ended = True
        self.done.set()

    def _log_printed(self, *, whole: bool) -> None:
        """Logs the lines that were printed; with `whole` also one that has no end yet."""
        *lines, rest = self._printed.split(b"\n")
        self._printed = bytearray() if whole else rest
        for line in (*lines, rest) if whole else lines:
            if line:
                text = line.decode("utf-8", "replace")
                structlog.get_logger("handler").info("printed", text=text, **self._fields)


def _log_again(line: dict[str, Any], fields: dict[str, str | int]) -> None:
    """Puts a line that a handler logged into the agent's log."""
    facts = {**fields, **line}
    facts.pop("timestamp", None)
    facts.pop("self", None)
    number = _levels.get(str(facts.pop("level", "info")).upper(), logging.INFO)
    logger = structlog.get_logger(str(facts.pop("logger", "handler")))
    logger.log(number, str(facts.pop("event", "")), **facts)


def environment() -> dict[str, str]:
    """What a worker inherits: all that handlers in threads would see."""
    return dict(os.environ)
