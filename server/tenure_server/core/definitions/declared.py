"""What an author declares: tasks and the workflow around them, as values.

Values only; `rules` says what may be wrong with them, `form` how they are written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tenure_server.core.definitions.features import (
    NO_RETRY,
    Approval,
    Concurrency,
    EventTrigger,
    EventWait,
    ForEach,
    Handler,
    KindSchemas,
    Placement,
    Rate,
    RetryPolicy,
    SignalWait,
    SubWorkflow,
    Timer,
    TriggerRule,
    Wait,
    nothing,
)
from tenure_server.core.definitions.payloads import Payload

#: The name of each kind of wait, in the contract, in files and in the canonical form.
WAIT_WORDS: Mapping[type[Wait], str] = {
    Timer: "timer",
    SignalWait: "signal",
    EventWait: "event",
    Approval: "approval",
    SubWorkflow: "workflow",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowTask:
    """A node of the graph. See the contract's message of the same name."""

    key: str
    #: Empty where `wait` is set.
    kind: str
    depends_on: tuple[str, ...] = ()
    input: Payload | None = None
    retry: RetryPolicy = NO_RETRY
    attempt_timeout_us: int | None = None
    priority: int = 0
    bindings: Mapping[str, str] = field(default_factory=nothing)
    when: str = ""
    trigger: TriggerRule = TriggerRule.ALL_SUCCEEDED
    for_each: ForEach | None = None
    wait: Wait | None = None
    queue_timeout_us: int | None = None
    total_timeout_us: int | None = None
    heartbeat_timeout_us: int | None = None
    compensation: Handler | None = None
    weight: int = 1
    concurrency: Concurrency | None = None
    rate: Rate | None = None
    placement: Placement | None = None

    @property
    def is_special(self) -> bool:
        """Whether more is to be done than to lease it when its turn has come, and be done."""
        return (
            self.when != ""
            or self.trigger is not TriggerRule.ALL_SUCCEEDED
            or self.for_each is not None
            or self.wait is not None
            or self.queue_timeout_us is not None
            or self.total_timeout_us is not None
            or self.compensation is not None
        )

    @property
    def is_limited(self) -> bool:
        """Whether its lease depends on more than its kind, its agent's slots and its workflow."""
        return (
            self.weight != 1
            or self.concurrency is not None
            or self.rate is not None
            or self.placement is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A graph of tasks and what holds for all of it."""

    name: str
    tasks: tuple[WorkflowTask, ...]
    description: str = ""
    #: The most live leases of all its runs together. 0: no such limit.
    max_leases: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    #: What it says of itself: statements by the names of the thirteen dimensions.
    dimensions: dict[str, str] = field(default_factory=dict)
    input_schema: Payload | None = None
    #: By kind of task.
    schemas: Mapping[str, KindSchemas] = field(default_factory=dict)
    #: The run's output, field by field.
    output: Mapping[str, str] = field(default_factory=nothing)
    total_timeout_us: int | None = None
    on_failure: Handler | None = None
    concurrency: Concurrency | None = None
    events: tuple[EventTrigger, ...] = ()


#: The key of the task that `on_failure` becomes.
ON_FAILURE_KEY = "~on_failure"


def item_key(key: str, index: int) -> str:
    """The key of the task that `for_each` makes of one item, from 0."""
    return f"{key}[{index}]"


def undo_key(key: str) -> str:
    """The key of the task that undoes another."""
    return f"{key}~undo"
