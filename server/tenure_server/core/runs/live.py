"""An open run in memory: where each of its tasks stands, and the rows that say so.

Memory is small on purpose: a waiting or ready task costs a byte of state and four of a counter.
Only a task that was leased and has not ended has facts of its own.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import orjson

from tenure_server.core.definitions.definition import Payload, WorkflowDefinition, WorkflowTask
from tenure_server.core.definitions.graph import NO_NEEDS, Graph
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Row
from tenure_server.core.ledger.lifecycle import RUN_ENDED, TASK_ENDED, Failure, RunState, TaskState
from tenure_server.core.runs import extensions, rows
from tenure_server.core.runs.extensions import Extension
from tenure_server.core.runs.gates import AgentName, Gate
from tenure_server.core.runs.outputs import Outputs
from tenure_server.core.runs.tasks import TaskFacts
from tenure_server.core.runs.triggers import Turn, turn

_STATES = max(TaskState) + 1
#: How much of the message of a failure `on_failure` is told, in characters.
MESSAGE_TOLD_MAX = 1000
#: See `LiveRun.order`.
Order = tuple[int, int]
#: Of a definition about which no article asks.
NO_FACTS: Mapping[str, Any] = MappingProxyType({})


class LiveRun:
    """A run that has not ended. Changes go through `Desk`, which owns it."""

    __slots__ = (
        "_ends",
        "_input_digest",
        "aftermath",
        "constitution_digest",
        "correlation_id",
        "create_us",
        "deadline_us",
        "definition",
        "detail",
        "end_us",
        "extensions",
        "facts",
        "failures",
        "gates",
        "graph",
        "held",
        "input",
        "labels",
        "last_agent",
        "lists",
        "missing",
        "order",
        "output",
        "outputs",
        "parent_run_id",
        "parent_task",
        "priority",
        "reason",
        "run_facts",
        "run_id",
        "sequence",
        "start_us",
        "started_by",
        "state",
        "states",
        "successes",
        "tallies",
        "tasks",
        "tenant_id",
        "workflow",
        "workflow_digest",
        "workflow_facts",
        "workflow_version",
    )

    def __init__(
        self,
        record: records.Run,
        definition: WorkflowDefinition,
        graph: Graph,
        *,
        order: int,
        workflow_facts: Mapping[str, Any] = NO_FACTS,
    ) -> None:
        self.tenant_id = record.tenant_id
        self.run_id = record.run_id
        self.workflow = record.workflow
        self.workflow_version = record.workflow_version
        self.workflow_digest = record.workflow_digest
        #: Of the platform's and the tenant's together, when it was started.
        self.constitution_digest = record.constitution_digest
        self.definition = definition
        #: Of its own tasks and of those beside them; see `extend`.
        self.graph = graph
        self.tasks: Sequence[WorkflowTask] = definition.tasks
        self.extensions: list[Extension] = []
        #: The tasks that follow after its failure, in the order in which they are executed.
        self.aftermath: list[int] = []
        #: Behind the last task of each of them.
        self._ends: list[int] = []
        self.parent_run_id = record.parent_run_id
        self.parent_task = record.parent_task
        self.deadline_us = record.deadline_us
        #: What is kept of the run beyond its columns, JSON; each key belongs to one feature.
        self.detail: dict[str, Any] | None = (
            None if record.detail is None else orjson.loads(record.detail)
        )
        self.output = record.output
        self.state = record.state
        self.priority = record.priority
        self.labels = record.labels
        self.input = record.input
        self.correlation_id = record.correlation_id
        self.started_by = record.started_by
        self.reason = record.reason
        self.create_us = record.create_us
        self.start_us = record.start_us
        self.end_us = record.end_us
        #: What articles may look at, of its definition and of itself. They never change.
        self.workflow_facts = workflow_facts
        self.run_facts = record.facts()
        #: Age among the runs of the tenant, lower is older: when it was created, and a number that
        #: tells runs of one moment apart. It need not be the same one after a restart.
        self.order: Order = (record.create_us, order)
        #: Number of the last event.
        self.sequence = 0
        self.states = bytearray([TaskState.WAITING]) * len(graph.keys)
        #: For each task, how many dependencies have not succeeded yet.
        self.missing = array("i", graph.missing)
        #: How many tasks are in each state, by number of the state.
        self.tallies = [0] * _STATES
        self.tallies[TaskState.WAITING] = len(graph.keys)
        self.facts: dict[int, TaskFacts] = {}
        #: Outputs that tasks still to come will be given.
        self.outputs = Outputs()
        #: Limits of its tasks, as far as they were worked out.
        self.gates: dict[int, Gate] = {}
        #: Holder and name of who last executed a task; only where tasks declare limits.
        self.last_agent: AgentName | None = None
        #: Whether it waits until others of its key have ended; see `run_limits`.
        self.held = bool(self.detail and self.detail.get("held"))
        #: The lists of tasks whose items may have to be undone.
        self.lists: dict[int, list[Any]] = {}
        self._input_digest: bytes | None = None
        #: Number of the event of its success, for each task that can be undone.
        self.successes: dict[int, int] = {}
        #: How tasks failed for good, where `on_failure` wants to know.
        self.failures: dict[int, Failure] = {}
        if values := (self.detail or {}).get("extensions"):
            self._take([extensions.parse(value) for value in values])

    # -- where things stand

    @property
    def open_tasks(self) -> int:
        """How many tasks have not ended."""
        tallies = self.tallies
        return (
            tallies[TaskState.WAITING]
            + tallies[TaskState.READY]
            + tallies[TaskState.LEASED]
            + tallies[TaskState.RETRYING]
            + tallies[TaskState.ACTIVE]
        )

    @property
    def is_plain(self) -> bool:
        """Whether each task is leased when all before it have succeeded, and nothing else."""
        return (
            not self.graph.special
            and not self.extensions
            and not self.tallies[TaskState.SKIPPED]
            and self.state is RunState.RUNNING
        )

    @property
    def planned(self) -> int:
        """How many tasks its definition has. Those numbered from here on are beside the graph."""
        return len(self.definition.tasks)

    @property
    def earlier_versions(self) -> list[records.EarlierVersion]:
        """The versions that it was under before it was moved, the first one first."""
        return records.earlier_versions(self.detail)

    @property
    def has_failed(self) -> bool:
        """Whether a task of its definition failed for good, or was cancelled by itself."""
        # Most runs have no such task of any kind, and need no search.
        return any(
            self.tallies[state] > 0 and self.states.find(state, 0, self.planned) >= 0
            for state in (TaskState.FAILED, TaskState.CANCELLED)
        )

    @property
    def ended(self) -> bool:
        """Whether the run has reached a state that it never leaves."""
        return self.state in RUN_ENDED

    @property
    def expired(self) -> bool:
        """Whether it is ended because its time was up."""
        return self.detail is not None and self.detail.get("expired", False)

    @property
    def has_expired(self) -> bool:
        """Whether its time was up once: it may have been reopened since, and has no such time."""
        return self.detail is not None and "expired" in self.detail

    @property
    def live_leases(self) -> int:
        """How many tasks are leased."""
        return self.tallies[TaskState.LEASED]

    def counts(self) -> records.Counts:
        """How many tasks are in each state."""
        return records.Counts.of(self.tallies)

    def upstream_outputs(self, index: int) -> dict[str, Payload]:
        """The outputs that a task is given, by the key of the task that made each."""
        keys = self.graph.keys
        outputs = self.outputs
        return {keys[up]: outputs[up] for up in self.graph.upstream[index] if up in outputs}

    def input_digest(self) -> bytes | None:
        """The raw digest of the run's input, None when it has none."""
        if self._input_digest is None and self.input is not None:
            self._input_digest = self.input.digest()
        return self._input_digest

    # -- changes

    def hold(self) -> None:
        """Lets nothing of it begin. The run's row changes."""
        self.held = True
        self.detail = {**(self.detail or {}), "held": True}

    def let_in(self) -> None:
        """Lets it begin. The run's row changes."""
        self.held = False
        detail = {word: one for word, one in (self.detail or {}).items() if word != "held"}
        self.detail = detail or None

    def keep(self, **values: Any) -> None:
        """Adds to the detail, beside what others keep there. The run's row changes."""
        self.detail = {**(self.detail or {}), **values}

    def extend(self, *more: Extension) -> int:
        """Adds tasks beside the graph and gives the number of the first. The run's row changes."""
        first = len(self.states)
        self._take(more)
        self.keep(extensions=[one.as_json() for one in self.extensions])
        return first

    def _take(self, more: Sequence[Extension]) -> None:
        self.tasks, self.graph = extensions.extend(self.definition, self.tasks, self.graph, more)
        self.extensions += more
        self.aftermath += extensions.aftermath_of(more, len(self.states))
        self._ends += accumulate((one.count for one in more), initial=len(self.states))
        del self._ends[-len(more) - 1]
        count = len(self.tasks) - len(self.states)
        self.states.extend([TaskState.WAITING] * count)
        self.missing.extend([0] * count)
        self.tallies[TaskState.WAITING] += count

    def extension_of(self, index: int) -> tuple[Extension, int]:
        """The extension that a task beside the graph belongs to, and its place in its list."""
        place = bisect_right(self._ends, index)
        if not self.planned <= index < len(self.states):
            raise LookupError(f"run {self.run_id} has no task {index} beside its graph")
        extension = self.extensions[place]
        begin = self._ends[place - 1] if place else self.planned
        return extension, extension.start + index - begin

    def keep_list(self, index: int, items: list[Any]) -> None:
        """Keeps the list of a task where what undoes its items may look at it."""
        if self.tasks[index].compensation is not None:
            self.lists[index] = items

    def replace_task(self, index: int, task: WorkflowTask) -> None:
        """Declares a task beside the graph otherwise."""
        tasks = list(self.tasks)
        tasks[index] = task
        self.tasks = tasks

    def note_failure(self, index: int, failure: Failure) -> None:
        """Remembers how a task failed, its message up to a bound, if `on_failure` wants to know."""
        if self.definition.on_failure is not None:
            self.failures[index] = Failure(failure.code, failure.message[:MESSAGE_TOLD_MAX])

    def forget_end(self, index: int) -> None:
        """The task is executed again."""
        # Those that wait may be given another one, or none.
        self.outputs.forget(index)
        self.successes.pop(index, None)
        self.failures.pop(index, None)

    def parts_of(self, index: int) -> Sequence[int]:
        """The numbers of the items of a task, in the order of its list."""
        return extensions.parts_of(self.planned, self.extensions, index)

    def move(self, index: int, state: TaskState) -> None:
        """Puts a task into a state and keeps the tallies."""
        self.tallies[self.states[index]] -= 1
        self.tallies[state] += 1
        self.states[index] = state

    def release_upstream(self, index: int) -> None:
        """Forgets the outputs that only this task, which has ended, was waiting for."""
        # Tasks beside the graph were never counted among those that wait.
        if not self.outputs or index >= self.planned:
            return
        graph = self.graph
        self.outputs.release(graph.upstream[index])
        if graph.needs is not NO_NEEDS:
            self.outputs.release(graph.needs.before.get(index, ()))

    def keep_output(
        self, index: int, output: Payload | None, *, also: Collection[int] = ()
    ) -> None:
        """Keeps an output as long as tasks that need it have not ended, or are in `also`."""
        states = self.states
        if index >= self.planned:
            # Of items, until all of them have ended, or longer; of others nobody needs it.
            extension, _ = self.extension_of(index)
            is_item = extension.kind == extensions.ITEMS
            wanted = is_item and (states[extension.of] not in TASK_ENDED or extension.of in also)
            if output is not None and (wanted or self.needed_at_end(index)):
                self.outputs[index] = output
            return
        behind = self.graph.needed_by(index)
        waiters = sum(states[one] not in TASK_ENDED or one in also for one in behind)
        waiters += self.needed_at_end(index)
        if output is not None and waiters:
            self.outputs.keep(index, output, waiters)

    def forget_output(self, index: int) -> None:
        """Forgets the output of an item whose list needs it no more, unless something else does."""
        if not self.needed_at_end(index):
            self.outputs.pop(index, None)

    def needed_at_end(self, index: int) -> bool:
        """Whether the output of a task is looked at when the run has come to its end."""
        if index >= self.planned:
            return self.tasks[index].compensation is not None
        if index in self.graph.needs.to_the_end:
            return True
        # What the run is for is given the outputs of its last tasks.
        return (
            self.parent_run_id != ""
            and not self.graph.downstream[index]
            and not self.definition.output
        )

    def recount(self) -> None:
        """Counts anew how many dependencies of each task have not ended, after some were undone."""
        self.missing = array("i", self.graph.missing)
        for index, state in enumerate(self.states):
            if state in TASK_ENDED:
                self.count_end(index)

    def count_end(self, index: int) -> None:
        """Counts an end down in the tasks behind it."""
        missing = self.missing
        for down in self.graph.downstream[index]:
            missing[down] -= 1

    def end_upstream_of(self, index: int) -> Iterator[int]:
        """Counts an end down, and yields the waiting tasks for which it was the last."""
        missing = self.missing
        for down in self.graph.downstream[index]:
            missing[down] -= 1
            if not missing[down] and self.states[down] == TaskState.WAITING:
                yield down

    def turn_of(self, index: int) -> Turn:
        """Whether the turn of a task has come."""
        states = self.states
        upstream = [states[up] for up in self.graph.upstream[index]]
        return turn(self.tasks[index].trigger, upstream)

    # -- rows

    def row(self) -> Row:
        """The run's row, see `journal.RUN_COLUMNS`."""
        return rows.run_row(self)

    def change_row(self) -> Row:
        """What changes in the run's row, see `journal.RUN_CHANGE_COLUMNS`."""
        return rows.change_row(self)

    def moved_row(self) -> Row:
        """What changes in the row of a run that was moved, see `journal.RUN_MOVED_COLUMNS`."""
        return (
            self.tenant_id,
            self.run_id,
            self.workflow_version,
            self.workflow_digest,
            self.deadline_us,
        )

    def term_rows(self, *, new: bool) -> Sequence[Row]:
        """Under what it is found, see `journal.TERM_COLUMNS`: nothing for nearly every run."""
        return rows.term_rows(self, new=new)
