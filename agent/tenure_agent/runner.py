"""Executes attempts. Whatever a handler does, it costs its own attempt and nothing else.

An attempt ends in one of three ways: its handler ends; it was told to stop and does so in time;
or it was told to stop, does not, and is *given up*: its result is reported and its slot is used
again, while the thread or task that does not listen runs on unheard. Only as many attempts as
there are slots can be given up at one time; beyond that a slot stays taken until its handler ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import structlog

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2
from tenure_agent import commands, context, functions, handlers
from tenure_agent.children import ChildFailed
from tenure_agent.context import NonRetryable, Stopped, TaskContext, Words
from tenure_agent.deadlines import Deadline, Deadlines
from tenure_agent.functions import Ending
from tenure_agent.groups import Groups
from tenure_agent.holding import Key
from tenure_agent.isolated import Errand, Isolated
from tenure_agent.references import CORRUPT, ReferenceFailed, References
from tenure_agent.threads import HandlerThreads
from tenure_agent.workers import Workers

#: A process kills itself after `stop_seconds`; this much later even that has not worked.
PROCESS_EXTRA_SECONDS = 5.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("runner")


class StopCause(enum.Enum):
    """Why an attempt was told to stop."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    DRAINED = "the agent stops"
    #: Not renewed in time. The coordinator may still wait for a word.
    LAPSED = "the lease could not be renewed in time"
    #: The coordinator said so: nobody wants a result.
    LOST = "the lease is lost"


class Attempt:
    """One attempt under execution."""

    __slots__ = (
        "cause", "checkpoint_sent", "deadline", "key", "lease", "progress_sent", "reported", "run",
        "stop_seconds", "task", "word_waits", "words",
    )  # fmt: skip

    def __init__(self, key: Key, lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> None:
        self.key = key
        self.lease = lease
        self.run = run
        self.words: Words
        self.cause: StopCause | None = None
        self.task: asyncio.Task[Any] | None = None
        self.deadline: Deadline | None = None
        self.stop_seconds = 0.0
        self.reported = False
        #: A word from a thread is on its way to the loop.
        self.word_waits = False
        #: What of its words has been sent. Kept by `renewals`.
        self.progress_sent: tuple[float, str] | None = None
        self.checkpoint_sent: payload_pb2.Payload | None = None

    def log_fields(self) -> dict[str, str | int]:
        """The fields that every log line about the attempt carries."""
        return context.log_fields(self.lease, self.run)


class Runner:
    """Runs attempts and tells how they ended. Lives on one loop."""

    def __init__(
        self,
        table: Mapping[str, handlers.Handler],
        *,
        loop: asyncio.AbstractEventLoop,
        slots: int,
        stop_seconds: float,
        on_end: Callable[[Attempt, agents_pb2.Result | None], None],
        on_free: Callable[[], None],
        on_word: Callable[[Key, bool], None],
        groups: Groups | None = None,
        references: References | None = None,
    ) -> None:
        """Takes three callbacks.

        `on_end` is called once for each attempt, with None when nobody wants its result; `on_free`
        once when its slot is free again, which may be later; `on_word` when a handler has
        something to tell, True when it is to be sent at once.
        """
        self.running: dict[Key, Attempt] = {}
        self._table = table
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._threads = HandlerThreads()
        in_workers = [handler for handler in table.values() if type(handler) is Isolated]
        self._workers = Workers(in_workers, size=slots, groups=groups)
        self._deadlines = Deadlines(loop)
        self._slots = slots
        self._given_up = 0
        self._stop_seconds = stop_seconds
        self._groups = groups
        self._references = references or References(None)
        self._on_end = on_end
        self._on_free = on_free
        self._on_word = on_word

    def start(
        self, key: Key, lease: agents_pb2.Lease, run: agents_pb2.RunContext
    ) -> agents_pb2.Result | None:
        """Begins an attempt. Gives its result when it ended at once; no callback comes then."""
        handler = self._table.get(lease.kind)
        if type(handler) is handlers.Inline:
            return _fill(handler, lease)
        attempt = Attempt(key, lease, run)
        output_bytes_max = self._references.output_bytes_max
        attempt.words = Words(partial(self._spoken, attempt), output_bytes_max)
        attempt.stop_seconds = self._stop_seconds
        if lease.HasField("attempt_timeout"):
            seconds = lease.attempt_timeout.ToNanoseconds() / 1e9
            timed_out = partial(self.stop, key, StopCause.TIMED_OUT)
            attempt.deadline = self._deadlines.at(self._loop.time() + seconds, timed_out)
        self.running[key] = attempt
        if self._references.wants_fetching(lease, run):
            attempt.task = self._loop.create_task(self._fetch(attempt))
            attempt.task.add_done_callback(partial(self._fetched, attempt, handler))
        else:
            self._begin(attempt, handler)
        return None

    def _begin(self, attempt: Attempt, handler: handlers.Handler | None) -> None:
        match handler:
            case handlers.Coroutine(function):
                lease, run, words = attempt.lease, attempt.run, attempt.words
                self._start_task(attempt, functions.call_async(function, lease, run, words))
            case handlers.Threaded(function):
                self._start_thread(attempt, function)
            case Isolated() | commands.Command():
                attempt.stop_seconds += PROCESS_EXTRA_SECONDS
                self._start_task(attempt, self._execute(handler, attempt))
            case _:
                reason = f"no handler: {attempt.lease.kind}"
                self._ended(attempt, NonRetryable("KIND_UNKNOWN", reason))

    async def _fetch(self, attempt: Attempt) -> None:
        attempt.lease, attempt.run = await self._references.fetched(attempt.lease, attempt.run)

    def _fetched(
        self, attempt: Attempt, handler: handlers.Handler | None, task: asyncio.Task[None]
    ) -> None:
        """Begins an attempt once everything is there that its handler is given."""
        if task.cancelled():
            self._settle(attempt, asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._settle(attempt, error)
        elif attempt.reported:
            self._settle(attempt, None)
        else:
            attempt.task = None
            self._begin(attempt, handler)

    def stop(self, key: Key, cause: StopCause) -> None:
        """Tells an attempt to stop. The first cause stands, but a lost lease overrides any."""
        attempt = self.running.get(key)
        if attempt is None:
            return
        if attempt.cause is not None:
            if cause is StopCause.LOST:
                attempt.cause = cause
            return
        log.info("attempt is stopped", cause=cause.value, **attempt.log_fields())
        attempt.cause = cause
        attempt.words.stop_asked = True
        if attempt.deadline is not None:
            attempt.deadline.cancel()
        give_up_at = self._loop.time() + attempt.stop_seconds
        attempt.deadline = self._deadlines.at(give_up_at, partial(self._give_up, attempt))
        if attempt.task is not None:
            attempt.task.cancel()

    def stop_all(self, cause: StopCause) -> None:
        """Tells all attempts to stop."""
        for key in list(self.running):
            self.stop(key, cause)

    async def close(self) -> None:
        """Lets go of timers, idle threads and workers. Attempts must have been stopped before."""
        self._deadlines.close()
        self._threads.close()
        await self._workers.close()

    def _start_task(self, attempt: Attempt, work: Coroutine[Any, Any, Ending]) -> None:
        attempt.task = self._loop.create_task(work)
        attempt.task.add_done_callback(partial(self._task_done, attempt))

    def _task_done(self, attempt: Attempt, task: asyncio.Task[Ending]) -> None:
        # A task that is cancelled before its first step ends without an ending of its own.
        self._ended(attempt, asyncio.CancelledError() if task.cancelled() else task.result())

    def _start_thread(self, attempt: Attempt, function: Callable[[TaskContext, Any], Any]) -> None:
        loop = self._loop

        def work() -> None:
            ending = contextvars.Context().run(
                functions.call_plain, function, attempt.lease, attempt.run, attempt.words
            )
            # Nobody listens any more when the loop is closed: the agent has left.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, attempt, ending)

        self._threads.submit(work)

    async def _execute(self, handler: Isolated | commands.Command, attempt: Attempt) -> Ending:
        """Executes in another process. Never raises: what went wrong is an ending."""
        lease, run = attempt.lease, attempt.run
        try:
            if isinstance(handler, Isolated):
                name, words = handler.function, attempt.words
                errand = Errand(function=name, lease=lease, run=run, words=words)
                return await self._workers.execute(errand, stop_seconds=self._stop_seconds)
            return await commands.execute(
                handler,
                commands.stdin_bytes(lease, run),
                commands.variables_of(lease, run),
                stop_seconds=self._stop_seconds,
                groups=self._groups,
                output_bytes_max=attempt.words.output_bytes_max,
            )
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - its attempt fails
            return error

    def _spoken(self, attempt: Attempt, urgent: bool) -> None:
        """Takes a word of a handler, from whatever thread."""
        if threading.get_ident() == self._loop_thread:
            self._on_word(attempt.key, urgent)
        elif urgent or not attempt.word_waits:
            attempt.word_waits = True
            self._loop.call_soon_threadsafe(self._word_came, attempt, urgent)

    def _word_came(self, attempt: Attempt, urgent: bool) -> None:
        attempt.word_waits = False
        self._on_word(attempt.key, urgent)

    def _give_up(self, attempt: Attempt) -> None:
        """Reports an attempt whose handler was told to stop and does not."""
        log.error("handler does not stop, it is given up", **attempt.log_fields())
        self._report(attempt, Stopped())
        self._given_up += 1
        if self._given_up <= self._slots:
            self._on_free()

    def _ended(self, attempt: Attempt, ending: Ending) -> None:
        """Takes the end of a handler; an output that is too large to travel is stored first."""
        if not attempt.reported and self._references.wants_keeping(ending):
            assert isinstance(ending, payload_pb2.Payload)
            tenant_id = attempt.run.tenant_id
            attempt.task = self._loop.create_task(self._keep(tenant_id, ending))
            attempt.task.add_done_callback(partial(self._kept, attempt))
        else:
            self._settle(attempt, ending)

    async def _keep(self, tenant_id: str, output: payload_pb2.Payload) -> Ending:
        try:
            return await self._references.keep(tenant_id, output)
        except ReferenceFailed as error:
            return error

    def _kept(self, attempt: Attempt, task: asyncio.Task[Ending]) -> None:
        self._settle(attempt, asyncio.CancelledError() if task.cancelled() else task.result())

    def _settle(self, attempt: Attempt, ending: Ending) -> None:
        """Reports how an attempt ended, unless that was done when it was given up."""
        if not attempt.reported:
            self._report(attempt, ending)
            self._on_free()
            return
        log.warning("handler that was given up has ended", **attempt.log_fields())
        self._given_up -= 1
        if self._given_up >= self._slots:
            self._on_free()

    def _report(self, attempt: Attempt, ending: Ending) -> None:
        attempt.reported = True
        del self.running[attempt.key]
        if attempt.deadline is not None:
            attempt.deadline.cancel()
        self._on_end(attempt, _judge(attempt, ending))


def _fill(handler: handlers.Inline, lease: agents_pb2.Lease) -> agents_pb2.Result:
    """Runs a built-in handler to its end."""
    result = agents_pb2.Result(lease=ref(lease))
    try:
        handler.fill(lease, result)
    except Exception as error:  # noqa: BLE001 - its input may be anything
        result.failure.CopyFrom(_failure(error))
    return result


def ref(lease: agents_pb2.Lease) -> agents_pb2.LeaseRef:
    """Names a lease, with its token."""
    return agents_pb2.LeaseRef(
        run_id=lease.run_id, task_key=lease.task_key, term=lease.term, token=lease.token
    )


def _judge(attempt: Attempt, ending: Ending) -> agents_pb2.Result | None:
    """Turns the end of a handler into the result to report, None when nobody wants one."""
    result = agents_pb2.Result(lease=ref(attempt.lease))
    ended_well = not isinstance(ending, BaseException)
    match attempt.cause:
        case StopCause.LOST:
            return None
        case StopCause.TIMED_OUT:
            seconds = attempt.lease.attempt_timeout.ToNanoseconds() / 1e9
            result.failure.code = "TIMED_OUT"
            result.failure.message = f"the attempt took longer than {seconds:g} s"
            return result
        case StopCause() if not ended_well:
            # Told to stop, and did: with Stopped, a cancellation, or an error on its way out.
            result.stopped.SetInParent()
            return result
    if isinstance(ending, BaseException):
        result.failure.CopyFrom(_failure(ending))
        _log_failure(attempt, ending, result.failure)
        return result
    result.success.SetInParent()
    if ending is not None:
        result.success.output.CopyFrom(ending)
    return result


def _failure(error: BaseException) -> runs_pb2.Failure:
    """Says what a handler raised, or how its process ended."""
    if isinstance(error, ChildFailed):
        return functions.failure_in(error.code, error.message, non_retryable=error.non_retryable)
    if isinstance(error, ReferenceFailed):
        return functions.failure_in(error.code, error, non_retryable=error.code == CORRUPT)
    return functions.failure(error)


def _log_failure(attempt: Attempt, error: BaseException, failure: runs_pb2.Failure) -> None:
    known = isinstance(error, NonRetryable | ChildFailed | ReferenceFailed)
    log.warning(
        "attempt failed",
        code=failure.code,
        reason=failure.message,
        exc_info=None if known else error,
        **({"exception": error.trace} if isinstance(error, ChildFailed) and error.trace else {}),
        **attempt.log_fields(),
    )
