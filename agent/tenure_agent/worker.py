"""The process in which isolated functions run: `python -m tenure_agent.worker`.

Started by the agent, never by hand. Orders come in on what was its stdin, reports go out on what
was its stdout; both are moved out of the way, so that handlers find an empty stdin and a stdout
that leads to the agent's log. The main thread calls the functions, one at a time: it is there
that signals arrive, and SIGTERM is how an attempt is told to stop. A second thread reads orders,
and ends the whole group when there is nobody left to give any.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import io
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from queue import SimpleQueue

import orjson

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import context, functions, logs
from tenure_agent.context import NonRetryable, Stopped, Words
from tenure_agent.frames import GREETING, ORDER_BYTES_MAX, Frames, Tag, pack
from tenure_agent.functions import Ending, Function, FunctionError

#: Progress goes out no more often: the agent's loop is not to be flooded by a busy handler.
PROGRESS_SECONDS = 0.05
TRACE_CHARS_MAX = 8000
LOG_LINE_BYTES_MAX = 64 * 1024


class Reports:
    """The pipe to the agent. Also the stream that log lines are written to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forked)
        self._write(GREETING)

    def send(self, tag: Tag, body: bytes = b"") -> None:
        """Writes a frame, whole. Waits while the agent is busy."""
        with self._lock:
            self._write(pack(tag, body))

    def write(self, line: str) -> None:
        """Takes a rendered log line."""
        body = line.encode("utf-8", "replace")
        if self._fd < 0:
            os.write(2, body)
            return
        if len(body) > LOG_LINE_BYTES_MAX:
            start = context.text(line, LOG_LINE_BYTES_MAX // 4)
            body = orjson.dumps({"event": start, "level": "warning", "cut": True})
        self.send(Tag.LOG, body)

    def flush(self) -> None:
        """Nothing is held back."""

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._fd >= 0:
            rest = rest[os.write(self._fd, rest) :]

    def _forked(self) -> None:
        """Keeps a process that a handler forks from speaking for this one."""
        os.close(self._fd)
        self._fd = -1
        self._lock = threading.Lock()


class Telling:
    """What one attempt has to say, until it ends. A thread that it left behind is not heard."""

    def __init__(
        self, reports: Reports, progressed: threading.Event, output_bytes_max: int
    ) -> None:
        self.words = Words(self._spoken, output_bytes_max)
        self._reports = reports
        self._progressed = progressed
        self._lock = threading.Lock()
        self._told: tuple[float, str] | None = None
        self._over = False

    def tell_progress(self) -> None:
        """Sends the last progress, unless it was."""
        with self._lock:
            self._tell_progress()

    def end(self, tag: Tag, body: bytes) -> None:
        """Sends how the attempt ended, and nothing after it."""
        with self._lock:
            self._tell_progress()
            self._over = True
            self._reports.send(tag, body)

    def _spoken(self, urgent: bool) -> None:
        if not urgent:
            self._progressed.set()
            return
        with self._lock:
            checkpoint = self.words.checkpoint
            if not self._over and checkpoint is not None:
                self._reports.send(Tag.CHECKPOINT, checkpoint.data)

    def _tell_progress(self) -> None:
        progress = self.words.progress
        if self._over or progress is None or progress is self._told:
            return
        self._told = progress
        self._reports.send(Tag.PROGRESS, orjson.dumps(progress))


class Worker:
    """Executes attempts, one after the other, in the main thread."""

    def __init__(self, orders_fd: int, reports: Reports, folder: Path) -> None:
        self._orders_fd = orders_fd
        self._reports = reports
        self._folder = folder
        self._orders: SimpleQueue[bytes | None] = SimpleQueue()
        self._runner = asyncio.Runner()
        self._functions: dict[str, Function | FunctionError] = {}
        self._progressed = threading.Event()
        #: Each counted by one thread only.
        self._ordered = self._executed = 0
        self._telling: Telling | None = None
        self._task: asyncio.Task[Ending] | None = None

    def serve(self, preload: list[str]) -> None:
        """Executes what is ordered, until there are no more orders."""
        signal.signal(signal.SIGTERM, self._told_to_stop)
        threading.Thread(target=self._read_orders, name="orders", daemon=True).start()
        threading.Thread(target=self._tell_progress, name="progress", daemon=True).start()
        for name in preload:
            self._find(name)
        self._reports.send(Tag.READY)
        with self._runner:
            while (order := self._orders.get()) is not None:
                head, _, batch = order.partition(b"\n")
                function, _, bytes_max = head.decode().rpartition(" ")
                self._execute(function, int(bytes_max), agents_pb2.LeaseBatch.FromString(batch))

    def _execute(self, name: str, bytes_max: int, batch: agents_pb2.LeaseBatch) -> None:
        telling = self._telling = Telling(self._reports, self._progressed, bytes_max)
        # A handler may have taken the signal for itself.
        signal.signal(signal.SIGTERM, self._told_to_stop)
        self._reports.send(Tag.BEGUN)
        ending = self._call(name, batch.leases[0], batch.runs[0], telling.words)
        for stream in (sys.stdout, sys.stderr):
            # A handler may have closed them, or put something else in their place.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        self._telling = None
        self._executed += 1
        telling.end(*_report(ending))

    def _call(
        self, name: str, lease: agents_pb2.Lease, run: agents_pb2.RunContext, words: Words
    ) -> Ending:
        function = self._find(name)
        if isinstance(function, FunctionError):
            return function
        if not functions.is_async(function):
            outside = contextvars.Context()
            return outside.run(functions.call_plain, function, lease, run, words)

        async def work() -> Ending:
            self._task = asyncio.current_task()
            try:
                return await functions.call_async(function, lease, run, words)
            finally:
                self._task = None

        return self._runner.run(work(), context=contextvars.Context())

    def _find(self, name: str) -> Function | FunctionError:
        if name not in self._functions:
            try:
                self._functions[name] = functions.find(name, self._folder)
            except FunctionError as error:
                self._functions[name] = FunctionError(f"{name}: {error}")
        return self._functions[name]

    def _told_to_stop(self, _number: int, _frame: object) -> None:
        """Lets the handler see that it has to stop."""
        if self._telling is not None:
            self._telling.words.stop_asked = True
        if self._task is not None:
            # From a signal's handler only this wakes a loop that waits.
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _read_orders(self) -> None:
        frames = Frames(bytes_max=ORDER_BYTES_MAX)
        while data := os.read(self._orders_fd, 256 * 1024):
            for _, body in frames.feed(data):
                self._ordered += 1
                self._orders.put(body)
        if self._ordered == self._executed:
            self._orders.put(None)
            return
        # The agent is gone, and what is worked on will be somebody else's.
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def _tell_progress(self) -> None:
        while self._progressed.wait():
            self._progressed.clear()
            telling = self._telling
            if telling is not None:
                telling.tell_progress()
            time.sleep(PROGRESS_SECONDS)


def _report(ending: Ending) -> tuple[Tag, bytes]:
    """Turns the end of a handler into a frame."""
    match ending:
        case None:
            return Tag.NOTHING, b""
        case payload_pb2.Payload():
            return Tag.OUTPUT, ending.data
        case NonRetryable() | Stopped() | asyncio.CancelledError() | FunctionError():
            trace = ""
        case _:
            trace = "".join(traceback.format_exception(ending))[-TRACE_CHARS_MAX:]
    failure = functions.failure(ending)
    facts = {
        "code": failure.code,
        "message": failure.message,
        "non_retryable": failure.non_retryable,
        "trace": context.text(trace, TRACE_CHARS_MAX),
    }
    return Tag.FAILURE, orjson.dumps(facts)


def _check(names: list[str], folder: Path, fd: int) -> None:
    """Writes a line of JSON for each function that was looked for: its name, what is wrong."""
    os.write(fd, GREETING)
    for name in names:
        reason = None
        try:
            functions.find(name, folder)
        except FunctionError as error:
            reason = context.text(error, functions.FAILURE_CHARS_MAX)
        os.write(fd, orjson.dumps([name, reason]) + b"\n")


def _move_pipes() -> tuple[int, int]:
    """Gives descriptors for orders and reports, and puts harmless ones where they were."""
    orders, reports = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    return orders, reports


def main(arguments: list[str]) -> None:
    """Serves, or checks that functions are there: `serve|check LEVEL FOLDER FUNCTION...`."""
    mode, level, folder, *names = arguments
    faulthandler.enable()
    orders_fd, reports_fd = _move_pipes()
    if mode == "check":
        _check(names, Path(folder), reports_fd)
        return
    reports = Reports(reports_fd)
    logs.configure(log_format="json", level=level, stream=reports)
    Worker(orders_fd, reports, Path(folder)).serve(names)


if __name__ == "__main__":
    main(sys.argv[1:])
