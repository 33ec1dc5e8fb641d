"""Where the reference has runs and tasks: plain values, and questions about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.model import expressions as cel

from tenure_server.core.definitions.declared import ON_FAILURE_KEY, WorkflowTask, item_key, undo_key
from tenure_server.core.definitions.definition import Payload, WorkflowDefinition
from tenure_server.core.definitions.features import Handler, RetryPolicy, TriggerRule
from tenure_server.core.leasing.leases import End

ENDED = frozenset({"SUCCEEDED", "FAILED", "UPSTREAM_FAILED", "CANCELLED", "SKIPPED"})
LOST = frozenset({"FAILED", "UPSTREAM_FAILED", "CANCELLED"})
RUN_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "CLOSED"})
#: States of a run in which its ready tasks may be leased.
WORKING = frozenset({"RUNNING", "COMPENSATING"})


@dataclass(eq=False, slots=True)
class Task:
    """One task, and everything that was decided about it since it was last begun anew."""

    key: str
    node: WorkflowTask
    #: ``plan``, ``item``, ``undo`` or ``on_failure``.
    place: str = "plan"
    #: The task whose item it is, or that it undoes.
    of: Task | None = None
    number: int = 0
    state: str = "WAITING"
    attempt: int = 0
    lost: int = 0
    failure: str = ""
    output: Payload | None = None
    checkpoint: Payload | None = None
    retry_us: int = 0
    #: Times until when, or None.
    queue_by: int | None = None
    total_by: int | None = None
    attempts_by: int | None = None
    #: Whether it was leased since its turn came.
    was_leased: bool = False
    #: The last lease, whether it is live, and its times.
    term: int = 0
    token: bytes = b""
    holder: str = ""
    agent: str = ""
    live: bool = False
    lease_us: int = 0
    accept_us: int | None = None
    until_us: int = 0
    heard_us: int = 0
    #: Whether a newer task of its key takes its place.
    displaced: bool = False
    #: The result that counted under this term.
    result: End | None = None
    #: Of a list: its items, whether it is known to fail and why.
    items: list[Any] | None = None
    parts: list[Task] = field(default_factory=list)
    stopping: str = ""
    #: Of a workflow: the run that it waits for, or that it wants one, and which repetition it is.
    child: Run | None = None
    wants_child: bool = False
    iteration: int = 0
    previous: Payload | None = None
    #: Of a wait: until when, what for, who decided what, and when others may.
    due_us: int | None = None
    event_key: str = ""
    decisions: list[dict[str, Any]] = field(default_factory=list)
    escalate_us: int | None = None
    escalated: bool = False

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED

    @property
    def open_parts(self) -> list[Task]:
        """The items of a list that have not ended."""
        return [part for part in self.parts if not part.ended]

    @property
    def known_parts(self) -> list[Task]:
        """The items that are in the list as it is now."""
        return self.parts[: len(self.items or ())]

    def begin_anew(self, *, keep_list: bool) -> None:
        """It is executed again: nothing of before counts, but that its leases are over."""
        fresh = Task(self.key, self.node, self.place, self.of, self.number)
        fresh.term, fresh.parts = self.term, self.parts
        if self.ended or self.term:
            # So that whatever is known of the one before proves nothing now.
            fresh.term += 1
        fresh.items = self.items if keep_list else None
        for name in Task.__slots__:
            setattr(self, name, getattr(fresh, name))


@dataclass(eq=False, slots=True)
class Run:
    """One run."""

    number: int
    run_id: str
    flow: WorkflowDefinition
    input: Payload | None
    priority: int
    create_us: int
    deadline_us: int | None
    parent: tuple[Run, Task] | None = None
    state: str = "RUNNING"
    tasks: dict[str, Task] = field(default_factory=dict)
    #: What follows after its failure, in order.
    aftermath: list[Task] = field(default_factory=list)
    undone: bool = False
    #: Whether it waits for others of its key, and the key; None where none can be worked out.
    held: bool = False
    key: str | None = None
    has_started: bool = False
    #: Whether its time was up once, and whether it ends because of that.
    has_expired: bool = False
    expired: bool = False
    #: Signals that came early, by name.
    signals: dict[str, list[Payload | None]] = field(default_factory=dict)
    #: Losses of leases that count, and when the last one was counted.
    losses: int = 0
    loss_us: int | None = None
    output: Payload | None = None
    #: Keys of tasks in the order of their events: what the log says, not what was decided.
    log: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in RUN_ENDED

    @property
    def plan(self) -> list[Task]:
        """The tasks of the definition."""
        return [task for task in self.tasks.values() if task.place == "plan"]

    @property
    def open_tasks(self) -> list[Task]:
        """The tasks that have not ended."""
        return [task for task in self.tasks.values() if not task.ended]

    @property
    def has_failed(self) -> bool:
        """Whether a task of the definition failed, or was cancelled by itself."""
        return any(task.state in ("FAILED", "CANCELLED") for task in self.plan)

    @property
    def is_undoing(self) -> bool:
        """Whether something that follows after its failure is still to be done."""
        return any(not task.ended for task in self.aftermath)

    def succeeded_at(self, task: Task) -> int:
        """When a task succeeded last: the number of the event."""
        found = [at for at, event in enumerate(self.log) if event == (task.key, "TASK_SUCCEEDED")]
        return found[-1]

    def activated_at(self, task: Task) -> int:
        """When it began to wait: the number of the event."""
        found = [at for at, event in enumerate(self.log) if event == (task.key, "TASK_ACTIVATED")]
        return found[-1]

    def upstream(self, task: Task) -> dict[str, Payload]:
        """What an agent is given of the tasks before it."""
        if task.place == "on_failure":
            return {}
        if task.place == "undo":
            assert task.of is not None
            given = [task.of]
        else:
            node = task.node if task.of is None else task.of.node
            given = [self.tasks[key] for key in node.depends_on]
        return {one.key: one.output for one in given if one.output is not None}

    def look_of(self, task: Task | None = None, **more: Any) -> cel.Look:
        """What expressions may look at, those of a task where there is one."""

        def look(root: str) -> Any:
            if root in more:
                return more[root]
            match root.split("."):
                case ["run", "input"]:
                    return cel.seen(self.input)
                case ["tasks", key, "output"]:
                    return cel.seen(self.tasks[key].output)
                case ["tasks", key, "state"]:
                    return self.tasks[key].state
            assert task is not None, root
            item = task.of if task.place == "undo" else task
            assert item is not None, root
            match root:
                case "attempt":
                    return task.attempt
                case "output":
                    return cel.seen(item.output)
                case "index":
                    return item.number
                case "item":
                    assert item.of is not None
                    assert item.of.items is not None
                    return item.of.items[item.number]
            raise AssertionError(f"nobody looks at {root}")

        return look


def parts_made(of: Task, count: int) -> Iterator[Task]:
    """New items of a list, behind those that there are."""
    node = WorkflowTask(
        key=of.key,
        kind=of.node.kind,
        input=of.node.input,
        bindings=of.node.bindings,
        retry=of.node.retry,
        wait=of.node.wait,
        priority=of.node.priority,
        attempt_timeout_us=of.node.attempt_timeout_us,
        queue_timeout_us=of.node.queue_timeout_us,
        heartbeat_timeout_us=of.node.heartbeat_timeout_us,
        compensation=of.node.compensation,
        weight=of.node.weight,
        concurrency=of.node.concurrency,
        rate=of.node.rate,
        placement=of.node.placement,
    )
    for number in range(len(of.parts), count):
        yield Task(item_key(of.key, number), node, "item", of, number)


def undo_made(of: Task) -> Task:
    """What undoes a task."""
    assert of.node.compensation is not None
    key = undo_key(of.key)
    return Task(key, _handled(key, of.node.compensation), "undo", of)


def on_failure_made(handler: Handler) -> Task:
    """What is executed after a failure."""
    return Task(ON_FAILURE_KEY, _handled(ON_FAILURE_KEY, handler), "on_failure")


def _handled(key: str, handler: Handler) -> WorkflowTask:
    return WorkflowTask(
        key=key,
        kind=handler.kind,
        input=handler.input,
        bindings=handler.bindings,
        retry=handler.retry,
        attempt_timeout_us=handler.attempt_timeout_us,
    )


def delay_us(policy: RetryPolicy, attempt: int) -> int:
    """The wait after an attempt."""
    growth = {1: policy.multiplier ** (attempt - 1), 2: 1, 3: attempt}[int(policy.backoff)]
    return int(min(policy.initial_delay_us * growth, policy.max_delay_us))


def turn(rule: TriggerRule, ends: list[str]) -> str:
    """What the ends of what a task depends on mean for it."""
    over = all(state in ENDED for state in ends)
    lost = any(state in LOST for state in ends)
    match rule:
        case TriggerRule.ALL_DONE:
            return "come" if over else "wait"
        case TriggerRule.ANY_FAILED:
            return "come" if lost else "skip" if over else "wait"
        case TriggerRule.NONE_FAILED:
            return "doom" if lost else "come" if over else "wait"
        case _:
            if lost:
                return "doom"
            return "wait" if not over else "skip" if "SKIPPED" in ends else "come"
