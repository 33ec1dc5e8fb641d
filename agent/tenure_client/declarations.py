"""What a task or a workflow can declare in Python, as small values in the words of a workflow file.

Spans of time are seconds as a number, or text such as `500ms`, `2m`. Expressions are CEL, as text.
What is not given is the coordinator's default. The builder checks and sends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tenure_client.duration import Span
from tenure_client.payload import ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What becomes of a failed attempt; what is not given is the coordinator's default.

    Delays are spans of time: seconds as a number, or text such as `500ms`, `2m`.
    """

    max_attempts: int = 0
    initial_delay: Span | None = None
    max_delay: Span | None = None
    multiplier: float = 0.0
    jitter: float | None = None
    non_retryable_codes: Iterable[str] = ()
    #: `exponential`, `fixed` or `linear`.
    strategy: str = ""
    #: How long all attempts and waits may take together.
    total_timeout: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """Something that an agent executes beside the graph: what undoes a task, or `on_failure`."""

    kind: str
    input: Any = ABSENT
    bind: Mapping[str, str] = field(default_factory=dict)
    retry: Retry | None = None
    attempt_timeout: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForEach:
    """Executes a task once for each item of a list, which an expression gives."""

    items: str
    #: How many at once. 0: all.
    parallelism: int = 0
    #: How many may fail before the task fails. -1: any number.
    failures_max: int = 0
    #: The most items there may be. 0: 10,000, which is the most.
    items_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """How much of one key may go on at once, and what becomes of more."""

    limit: int
    key: str = ""
    #: `queue`, `cancel_running` or `cancel_newest`.
    strategy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often something of one key may begin in a span of time."""

    count: int
    per: Span
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which agents may (`required`), and which should (`preferred`), execute a task."""

    required: Mapping[str, str] = field(default_factory=dict)
    preferred: Mapping[str, str] = field(default_factory=dict)
    #: Prefers the agent that last executed a task of the run.
    sticky: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTrigger:
    """An event that starts a run."""

    name: str
    when: str = ""
    bind: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schemas:
    """JSON Schemas of what a kind of handler is given and gives back."""

    input: Any = ABSENT
    output: Any = ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Waits for a span, or until a time that an expression gives: one of the two."""

    delay: Span | None = None
    until: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Waits for a signal to the run."""

    name: str
    timeout: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Waits for an event of the tenant, of any key or of the one that an expression gives."""

    name: str
    key: str = ""
    timeout: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Waits for the consent of people: of anyone who may submit, or of those named."""

    question: str = ""
    #: How many must consent. 0: 1.
    quorum: int = 0
    approvers: Iterable[str] = ()
    timeout: Span | None = None
    escalate_after: Span | None = None
    escalate_to: Iterable[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubWorkflow:
    """Runs another workflow of the tenant, once or until an expression holds."""

    name: str
    #: 0: the newest.
    version: int = 0
    until: str = ""
    #: 0: 1 without `until`, else 100.
    repetitions_max: int = 0


#: What a task is instead of a handler's work.
Wait = Timer | Signal | Event | Approval | SubWorkflow
