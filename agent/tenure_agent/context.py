"""The SDK of handlers: what a handler is told about its task, and what it can say back."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import structlog

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import payloads

#: The most characters of a progress message that the contract takes.
MESSAGE_CHARS_MAX = 500


class NonRetryable(Exception):  # noqa: N818 - named by what it does to the task
    """Raised by a handler to end its task at once: another attempt makes no sense.

    `code` is a stable word for programs, at most 128 characters; `message` is for people.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message


class Stopped(BaseException):
    """Raised by `TaskContext.raise_if_cancelled` when the attempt has to stop.

    Not an Exception, on purpose: a handler's own ``except Exception`` must not swallow it.
    """


class Words:
    """What a handler said last and has been told, shared with the part that talks to the wire.

    Each field is written by one side only and replaced whole, so that no lock is needed.
    """

    __slots__ = ("checkpoint", "output_bytes_max", "progress", "speak", "stop_asked")

    def __init__(
        self,
        speak: Callable[[bool], None],
        output_bytes_max: int = payloads.PAYLOAD_BYTES_MAX,
    ) -> None:
        #: The most bytes that its output may have.
        self.output_bytes_max = output_bytes_max
        #: Called after something was said; True when it is to be sent at once.
        self.speak = speak
        self.progress: tuple[float, str] | None = None
        self.checkpoint: payload_pb2.Payload | None = None
        self.stop_asked = False


class TaskContext:
    """What a handler is told about its task, and what it can say back.

    Safe to use from the handler's thread. Inputs are decoded when first asked for.
    """

    def __init__(self, lease: agents_pb2.Lease, run: agents_pb2.RunContext, words: Words) -> None:
        self._lease = lease
        self._run = run
        self._words = words

    @property
    def run_id(self) -> str:
        """The run."""
        return self._lease.run_id

    @property
    def task_key(self) -> str:
        """The task's key in its workflow."""
        return self._lease.task_key

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return self._lease.attempt

    @property
    def tenant_id(self) -> str:
        """The tenant that owns the run."""
        return self._run.tenant_id

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self._run.workflow

    @property
    def correlation_id(self) -> str:
        """The id that ties together everything one call caused; hand it on in calls you make."""
        return self._run.correlation_id

    @cached_property
    def input(self) -> Any:
        """The task's own input, decoded. None when it has none."""
        return payloads.decode(self._lease.input)

    @cached_property
    def run_input(self) -> Any:
        """The run's input, decoded. None when it has none."""
        return payloads.decode(self._run.input)

    @cached_property
    def upstream(self) -> dict[str, Any]:
        """The outputs of the tasks it depends on, by key; a task without output is left out."""
        return {key: payloads.decode(value) for key, value in self._lease.upstream.items()}

    @cached_property
    def checkpoint(self) -> Any:
        """What an earlier attempt saved last. None when there is nothing."""
        return payloads.decode(self._lease.checkpoint)

    @cached_property
    def logger(self) -> structlog.stdlib.BoundLogger:
        """A logger whose lines name the tenant, run, task, attempt and correlation id."""
        logger: structlog.stdlib.BoundLogger = structlog.get_logger("handler")
        return logger.bind(**self.log_fields())

    @property
    def cancelled(self) -> bool:
        """True once the attempt has to stop: cancelled, out of time, or its lease is lost."""
        return self._words.stop_asked

    def raise_if_cancelled(self) -> None:
        """Raises `Stopped` once the attempt has to stop. Call it often in plain functions."""
        if self._words.stop_asked:
            raise Stopped("the attempt has to stop")

    def progress(self, fraction: float, message: str = "") -> None:
        """Tells how far the task is, 0 to 1, and what it is doing, in at most 500 characters.

        Cheap: only the last word is sent, about twice a second. Raises ValueError for a fraction
        that is not a number.
        """
        if math.isnan(fraction):
            raise ValueError("progress: the fraction is not a number")
        self._words.progress = (min(1.0, max(0.0, fraction)), text(message, MESSAGE_CHARS_MAX))
        self._words.speak(False)

    def save_checkpoint(self, value: Any) -> None:
        """Saves what the next attempt shall find if this one fails, replacing what was saved.

        Sent at once. Raises ValueError when the value is not JSON or has more than 1 MiB.
        """
        self._words.checkpoint = payloads.encode(value)
        self._words.speak(True)

    def log_fields(self) -> dict[str, str | int]:
        """The fields that every log line about the attempt carries."""
        return log_fields(self._lease, self._run)


#: The attempt for which the running code works, for log lines that handlers write by other means
#: than `TaskContext.logger`. One variable, since binding each field by itself costs 10 us a task.
CURRENT: ContextVar[TaskContext | None] = ContextVar("tenure_attempt", default=None)


def log_fields(lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> dict[str, str | int]:
    """The fields that every log line about an attempt carries."""
    return {
        "tenant": run.tenant_id,
        "run_id": lease.run_id,
        "task_key": lease.task_key,
        "attempt": lease.attempt,
        "correlation_id": run.correlation_id,
    }


def text(words: object, chars_max: int) -> str:
    """Gives words that any protobuf string can hold, cut to a length."""
    return str(words)[:chars_max].encode("utf-8", "replace").decode("utf-8")
