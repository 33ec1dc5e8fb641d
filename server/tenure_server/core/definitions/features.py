"""What a task or a workflow may declare beyond handler, dependencies and retry.

Values only; `core.definitions.definition` checks them. CEL expressions are texts here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tenure_server.core.definitions.payloads import Payload

_NOTHING: Mapping[str, str] = MappingProxyType({})

ITEMS_MAX = 10_000
#: Of one run, those beside its graph included: it must stay small enough to be read at once.
RUN_TASKS_MAX = 200_000
REPETITIONS_MAX = 10_000


def nothing() -> Mapping[str, str]:
    """What those have who declared none: one empty mapping for all."""
    return _NOTHING


class TriggerRule(enum.IntEnum):
    """How the dependencies of a task must have ended. Numbers as in the contract."""

    ALL_SUCCEEDED = 1
    ALL_DONE = 2
    ANY_FAILED = 3
    NONE_FAILED = 4


class Backoff(enum.IntEnum):
    """How the wait between attempts grows. Numbers as in the contract."""

    EXPONENTIAL = 1
    FIXED = 2
    LINEAR = 3


class Strategy(enum.IntEnum):
    """What happens when a key's limit is reached. Numbers as in the contract."""

    QUEUE = 1
    CANCEL_RUNNING = 2
    CANCEL_NEWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What becomes of a failed attempt; see the contract's message of the same name."""

    max_attempts: int = 1
    initial_delay_us: int = 1_000_000
    max_delay_us: int = 60_000_000
    multiplier: float = 2.0
    jitter: float = 0.2
    non_retryable_codes: tuple[str, ...] = ()
    backoff: Backoff = Backoff.EXPONENTIAL
    #: How long all attempts may take together, from the first lease on.
    total_timeout_us: int | None = None


NO_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """Something that an agent executes beside the graph."""

    kind: str
    input: Payload | None = None
    bindings: Mapping[str, str] = field(default_factory=nothing)
    retry: RetryPolicy = NO_RETRY
    attempt_timeout_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForEach:
    """One task for each item of a list."""

    items: str
    #: 0: all at once.
    parallelism: int = 0
    #: -1: any number.
    failures_max: int = 0
    items_max: int = ITEMS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Waits for a span, or until a time that an expression gives."""

    delay_us: int | None = None
    until: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalWait:
    """Waits for a signal to the run."""

    name: str
    timeout_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventWait:
    """Waits for an event of the tenant, of any key or of one that an expression gives."""

    name: str
    key: str = ""
    timeout_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Waits for the consent of people."""

    question: str = ""
    quorum: int = 1
    approvers: tuple[str, ...] = ()
    timeout_us: int | None = None
    escalate_after_us: int | None = None
    escalate_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubWorkflow:
    """Runs another workflow, once or until an expression holds."""

    name: str
    version: int = 0
    until: str = ""
    repetitions_max: int = 1


#: What a task is instead of a handler's work.
Wait = Timer | SignalWait | EventWait | Approval | SubWorkflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """How much of one key may go on at once."""

    limit: int
    key: str = ""
    strategy: Strategy = Strategy.QUEUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often something of one key may begin in a span of time."""

    count: int
    per_us: int
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which agents may, and which should, execute a task."""

    required: Mapping[str, str] = field(default_factory=nothing)
    preferred: Mapping[str, str] = field(default_factory=nothing)
    sticky: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTrigger:
    """An event that starts a run."""

    name: str
    when: str = ""
    bindings: Mapping[str, str] = field(default_factory=nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSchemas:
    """JSON Schemas of a kind's input and output."""

    input: Payload | None = None
    output: Payload | None = None
