"""The pool of worker processes: at most as many as there are slots, each for one attempt at a time.

A worker is started when an attempt finds none idle, so a host whose kinds need none has none.
Only a few start at one time: a process that becomes free meanwhile serves sooner than a new one.
It is replaced when it dies, was told to stop, or has executed many attempts, and leaves when it
has had nothing to do for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

import structlog

from tenure.v1 import payload_pb2
from tenure_agent import children, isolated, logs
from tenure_agent.children import ChildFailed
from tenure_agent.groups import Groups
from tenure_agent.isolated import Errand, Isolated, WorkerProcess

#: A worker is replaced after this many attempts, so that what leaks in a handler has an end.
ATTEMPTS_MAX = 5000
#: A worker without work leaves after this long.
IDLE_SECONDS = 60.0
#: How long a worker may take to load its functions.
START_SECONDS = 120.0
#: How long an idle worker may take to leave.
RETIRE_SECONDS = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("workers")


class Workers:
    """Executes attempts in worker processes. Lives on one loop."""

    def __init__(
        self, functions: Sequence[Isolated], *, size: int, groups: Groups | None = None
    ) -> None:
        self._functions = functions
        self._size = size
        self._groups = groups
        self._starts_max = max(2, os.cpu_count() or 1)
        self._starting = 0
        #: Those that may execute another attempt: idle or busy.
        self._live: set[WorkerProcess] = set()
        #: Those without work, with the timers that let them go; the last one is used first.
        self._idle: dict[WorkerProcess, asyncio.TimerHandle] = {}
        self._waiting: deque[asyncio.Future[WorkerProcess]] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[None]] = set()

    async def execute(self, errand: Errand, *, stop_seconds: float) -> payload_pb2.Payload | None:
        """Executes an attempt and gives its output.

        Cancelling sends TERM to the worker's group, and KILL after `stop_seconds`; what the
        handler gives until then counts. Raises ChildFailed with what the handler raised, or with
        code `EXIT_<n>`, `SIGNAL_<name>` or `WORKER_NOT_STARTED`.
        """
        while True:
            worker = await self._take()
            try:
                await worker.perform(errand, stop_seconds=stop_seconds)
            finally:
                await self._put_back(worker)
            # One that died before it came to the function was lost by what ran in it earlier.
            if worker.begun or worker.attempts == 1 or worker.spent:
                return worker.result()

    async def close(self) -> None:
        """Lets the idle ones leave and ends the others."""
        for start in list(self._starts):
            start.cancel()
        for worker in list(self._live):
            if worker in self._idle:
                self._let_go(worker)
            else:
                self._live.discard(worker)
                self._do(worker.bury(), self._ends)
        await asyncio.gather(*self._starts, *self._ends, return_exceptions=True)

    async def _take(self) -> WorkerProcess:
        """Gives a worker that is idle, or waits for the next one."""
        if self._idle:
            worker, timer = self._idle.popitem()
            timer.cancel()
            return worker
        place: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._start_more()
        try:
            return await place
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._waiting.remove(place)
            if place.done() and not place.cancelled() and place.exception() is None:
                self._hand_out(place.result())
            raise

    async def _put_back(self, worker: WorkerProcess) -> None:
        """Takes a worker after its attempt: for the next one, or to its grave."""
        if worker.usable and worker.attempts < ATTEMPTS_MAX:
            self._hand_out(worker)
            return
        self._live.discard(worker)
        self._start_more()
        if worker.usable:
            self._do(worker.retire(RETIRE_SECONDS), self._ends)
        else:
            await worker.bury()

    def _hand_out(self, worker: WorkerProcess) -> None:
        """Gives a worker to the attempt that waits longest, or lets it wait."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(worker)
                return
        loop = asyncio.get_running_loop()
        self._idle[worker] = loop.call_later(IDLE_SECONDS, self._let_go, worker)

    def _let_go(self, worker: WorkerProcess) -> None:
        """Lets an idle worker leave."""
        self._idle.pop(worker).cancel()
        self._live.discard(worker)
        self._do(worker.retire(RETIRE_SECONDS), self._ends)

    def _exited(self, worker: WorkerProcess) -> None:
        """Takes the end of a process. A busy one's is seen by its attempt."""
        if worker in self._idle:
            log.warning("idle worker process has ended", pid=worker.pid, stderr=worker.tail())
            self._let_go(worker)

    def _start_more(self) -> None:
        """Starts workers for those who wait, within the limits."""
        while (
            self._starting < min(self._starts_max, len(self._waiting))
            and len(self._live) + self._starting < self._size
        ):
            self._starting += 1
            self._do(self._start(), self._starts)

    async def _start(self) -> None:
        """Starts a worker and hands it out; the attempt that waits longest learns of a failure."""
        try:
            worker = await self._started()
        except ChildFailed as error:
            log.error("worker process cannot be started", reason=error.message)
            while self._waiting:
                place = self._waiting.popleft()
                if not place.done():
                    place.set_exception(error)
                    break
        else:
            self._live.add(worker)
            self._hand_out(worker)
        finally:
            self._starting -= 1
        self._start_more()

    async def _started(self) -> WorkerProcess:
        """Starts a worker and waits until it has loaded its functions. Raises ChildFailed."""
        level = logging.getLevelName(logging.getLogger().level).lower()
        argv = isolated.argv("serve", level if level in logs.LEVELS else "info", self._functions)
        make = partial(WorkerProcess, self._groups, self._exited)
        try:
            worker = await children.spawn(make, argv, cwd=None, env=isolated.environment())
        except (OSError, ValueError) as error:
            raise ChildFailed("WORKER_NOT_STARTED", str(error)) from error
        try:
            async with asyncio.timeout(START_SECONDS):
                await worker.done.wait()
        except TimeoutError:
            worker.spent = True
        finally:
            if not worker.ready or worker.spent:
                await worker.bury()
        if not worker.ready or worker.exited.is_set():
            reason = "it does not begin" if worker.spent else worker.death().message
            raise ChildFailed("WORKER_NOT_STARTED", reason)
        worker.ended = True
        return worker

    def _do(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
