"""The course of one run, replayed from its events: where everything stood before each of them.

What nobody writes down is not known here either: a task whose turn has come is still WAITING until
something happens to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.chaos.history import Record, StoredEvent

from tenure_server.core.definitions.declared import WorkflowTask
from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.features import TriggerRule

ENDED = {"SUCCEEDED", "FAILED", "UPSTREAM_FAILED", "CANCELLED", "SKIPPED"}
#: Ends that are a failure for what depends on the task.
LOST = {"FAILED", "UPSTREAM_FAILED", "CANCELLED"}
#: Kinds of event after which a run has no other, unless it is opened again.
RUN_ENDS = {
    "run.succeeded": "SUCCEEDED",
    "run.failed": "FAILED",
    "run.cancelled": "CANCELLED",
    "run.closed": "CLOSED",
}
#: Events after which a lease is no longer live.
RELEASES = {
    "task.succeeded",
    "task.failed",
    "task.retrying",
    "task.cancelled",
    "task.lease_lost",
    "task.lease_returned",
}
UNDO = "~undo"
ON_FAILURE = "~on_failure"
_TASKS = {
    "task.leased": "LEASED",
    "task.activated": "ACTIVE",
    "task.succeeded": "SUCCEEDED",
    "task.retrying": "RETRYING",
    "task.failed": "FAILED",
    "task.upstream_failed": "UPSTREAM_FAILED",
    "task.cancelled": "CANCELLED",
    "task.skipped": "SKIPPED",
    "task.lease_lost": "READY",
    "task.lease_returned": "READY",
    "task.reopened": "WAITING",
}
_RUNS = {
    "run.started": "RUNNING",
    "run.reopened": "RUNNING",
    "run.cancelling": "CANCELLING",
    "run.compensating": "COMPENSATING",
    "run.paused": "PAUSED",
    **RUN_ENDS,
}


@dataclass(slots=True)
class Course:
    """One run. Iterate `steps`; in between it shows what was before the event at hand."""

    run_id: str
    definition: WorkflowDefinition
    events: Sequence[StoredEvent]
    state: str = ""
    states: dict[str, str] = field(default_factory=dict)
    #: The number of the event of each task's last success.
    successes: dict[str, int] = field(default_factory=dict)
    #: Whether it is being undone, paused or not.
    undoing: bool = False
    tasks: dict[str, WorkflowTask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = {task.key: task for task in self.definition.tasks}

    def of(self, key: str) -> str:
        """Where a task stands."""
        return self.states.get(key, "WAITING")

    def steps(self) -> Iterator[StoredEvent]:
        """Gives the events, each before it counts."""
        for event in self.events:
            yield event
            self._take(event)

    def _take(self, event: StoredEvent) -> None:
        if event.task:
            if event.kind in _TASKS:
                self.states[event.task] = _TASKS[event.kind]
            if event.kind == "task.succeeded":
                self.successes[event.task] = event.sequence
            elif event.kind == "task.reopened":
                self.successes.pop(event.task, None)
            return
        if event.kind in ("run.compensating", "run.reopened"):
            self.undoing = event.kind == "run.compensating"
        if event.kind == "run.resumed":
            self.state = "COMPENSATING" if self.undoing else "RUNNING"
        else:
            self.state = _RUNS.get(event.kind, self.state)

    @property
    def has_failed(self) -> bool:
        """Whether a task of the definition failed, or was cancelled by itself."""
        return any(self.of(key) in ("FAILED", "CANCELLED") for key in self.tasks)


def courses(record: Record) -> Iterator[Course]:
    """The runs whose definitions are known."""
    for run_id, events in record.events.items():
        definition = record.definition_of(run_id)
        if definition is not None:
            yield Course(run_id, definition, events)


def list_of(key: str) -> str:
    """The task whose item a key names. Empty: it is none."""
    return key.rpartition("[")[0] if key.endswith("]") else ""


def is_beside(key: str) -> bool:
    """Whether a key names what follows after a failure."""
    return key.endswith(UNDO) or key == ON_FAILURE


def declared(definition: WorkflowDefinition, key: str) -> WorkflowTask | None:
    """What declares a task of the graph, or the list of an item. None: it lies beside."""
    if is_beside(key):
        return None
    names = (list_of(key), key)
    return next((task for task in definition.tasks if task.key in names), None)


def stands(rule: TriggerRule, upstream: Sequence[str]) -> str:
    """What the ends of its dependencies mean for a task: wait, come, skip or doom."""
    open_ = any(state not in ENDED for state in upstream)
    lost = any(state in LOST for state in upstream)
    match rule:
        case TriggerRule.ALL_DONE:
            return "wait" if open_ else "come"
        case TriggerRule.ANY_FAILED if lost:
            return "come"
        case TriggerRule.ANY_FAILED:
            return "wait" if open_ else "skip"
        case _ if lost:
            return "doom"
        case _ if open_:
            return "wait"
        case TriggerRule.NONE_FAILED:
            return "come"
        case _:
            return "skip" if "SKIPPED" in upstream else "come"
