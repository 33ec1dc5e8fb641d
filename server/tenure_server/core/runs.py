"""An open run in memory: where each of its tasks stands, and the rows that say so.

Memory is small on purpose: a waiting or ready task costs a byte of state and four of a counter.
Only a task that was leased and has not ended has facts of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from tenure_constitution.facts import NO_LABELS, Labels
from tenure_evidence.digests import NOTHING_GIVEN, given_digest, payload_digest
from tenure_server.core import records
from tenure_server.core.definition import Payload, WorkflowDefinition
from tenure_server.core.graph import Graph
from tenure_server.core.journal import Journal, Row
from tenure_server.core.lifecycle import (
    RUN_ENDED,
    TASK_ENDED,
    Failure,
    RunState,
    TaskState,
)

_STATES = max(TaskState) + 1
#: Of a definition about which no article asks.
NO_FACTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class TaskFacts:
    """What is known of a task that was leased and has not ended."""

    attempt: int = 0
    term: int = 0
    lost: int = 0
    agent: str = ""
    holder: str = ""
    token_hash: bytes = b""
    lease_us: int | None = None
    retry_us: int | None = None
    #: Digest of the result under this term. Empty: none came yet.
    result_hash: bytes = b""
    failure: Failure | None = None
    checkpoint: Payload | None = None


class LiveRun:
    """A run that has not ended. Changes go through `Desk`, which owns it."""

    __slots__ = (
        "_digests",
        "_input_digest",
        "_waiters",
        "constitution_digest",
        "correlation_id",
        "create_us",
        "definition",
        "end_us",
        "facts",
        "graph",
        "input",
        "labels",
        "missing",
        "order",
        "outputs",
        "priority",
        "reason",
        "run_facts",
        "run_id",
        "sequence",
        "start_us",
        "started_by",
        "state",
        "states",
        "tallies",
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
        self.graph = graph
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
        self.run_facts = facts_of(record)
        #: Age among the runs of the tenant: lower is older.
        self.order = order
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
        self.outputs: dict[int, Payload] = {}
        self._waiters: dict[int, int] = {}
        #: Digests of the outputs that are kept, by task.
        self._digests: dict[int, bytes] = {}
        self._input_digest: bytes | None = None

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
        )

    @property
    def live_leases(self) -> int:
        """How many tasks are leased."""
        return self.tallies[TaskState.LEASED]

    def counts(self) -> records.Counts:
        """How many tasks are in each state."""
        tallies = self.tallies
        return records.Counts(
            total=len(self.states),
            waiting=tallies[TaskState.WAITING],
            ready=tallies[TaskState.READY],
            leased=tallies[TaskState.LEASED],
            retrying=tallies[TaskState.RETRYING],
            succeeded=tallies[TaskState.SUCCEEDED],
            failed=tallies[TaskState.FAILED],
            upstream_failed=tallies[TaskState.UPSTREAM_FAILED],
            cancelled=tallies[TaskState.CANCELLED],
        )

    def upstream_outputs(self, index: int) -> dict[str, Payload]:
        """The outputs that a task is given, by the key of the task that made each."""
        keys = self.graph.keys
        outputs = self.outputs
        return {keys[up]: outputs[up] for up in self.graph.upstream[index] if up in outputs}

    def input_digest(self) -> bytes | None:
        """The raw digest of the run's input, None when it has none."""
        if self._input_digest is None and self.input is not None:
            self._input_digest = digest_of(self.input)
        return self._input_digest

    def given_digest(self, index: int, upstream: Mapping[str, Payload], facts: TaskFacts) -> bytes:
        """The raw digest of everything that an agent is given with a lease."""
        own, left = self.definition.tasks[index].input, facts.checkpoint
        if own is None and left is None and not upstream and self.input is None:
            return NOTHING_GIVEN
        outputs = []
        if upstream:
            number_of, known = self.graph.index, self._digests
            for key in upstream:
                up = number_of[key]
                digest = known.get(up)
                if digest is None:
                    digest = known[up] = digest_of(upstream[key])
                outputs.append((key, digest))
        return given_digest(
            None if own is None else digest_of(own),
            self.input_digest(),
            outputs,
            None if left is None else digest_of(left),
        )

    # -- changes

    def move(self, index: int, state: TaskState) -> None:
        """Puts a task into a state and keeps the tallies."""
        self.tallies[self.states[index]] -= 1
        self.tallies[state] += 1
        self.states[index] = state

    def release_upstream(self, index: int) -> None:
        """Forgets the outputs that only this task, which has ended, was waiting for."""
        if not self.outputs:
            return
        for up in self.graph.upstream[index]:
            if up not in self._waiters:
                continue
            self._waiters[up] -= 1
            if not self._waiters[up]:
                del self._waiters[up]
                del self.outputs[up]
                self._digests.pop(up, None)

    def keep_output(self, index: int, output: Payload | None) -> None:
        """Keeps an output as long as tasks that depend on it have not ended."""
        waiters = sum(self.states[down] not in TASK_ENDED for down in self.graph.downstream[index])
        if output is not None and waiters:
            self.outputs[index] = output
            self._waiters[index] = waiters

    def succeed_upstream_of(self, index: int) -> Iterator[int]:
        """Counts a success down, and yields the tasks that it makes ready."""
        missing = self.missing
        for down in self.graph.downstream[index]:
            missing[down] -= 1
            if not missing[down] and self.states[down] == TaskState.WAITING:
                yield down

    def doomed_by(self, index: int) -> Iterator[int]:
        """Yields every waiting task that can no longer start because this one did not succeed."""
        stack = list(self.graph.downstream[index])
        seen = set(stack)
        while stack:
            down = stack.pop()
            if self.states[down] != TaskState.WAITING:
                continue
            yield down
            new = [one for one in self.graph.downstream[down] if one not in seen]
            seen.update(new)
            stack.extend(new)

    def restore(self, tasks: Mapping[int, records.Task], outputs: Mapping[int, Payload]) -> None:
        """Takes the states of stored rows; tasks without one wait, or are ready."""
        for index, task in tasks.items():
            self.move(index, task.state)
            if task.state == TaskState.SUCCEEDED:
                for down in self.graph.downstream[index]:
                    self.missing[down] -= 1
            if task.state not in TASK_ENDED:
                self.facts[index] = TaskFacts(
                    attempt=task.attempt,
                    term=task.term,
                    lost=task.lost,
                    agent=task.agent,
                    holder=task.holder,
                    token_hash=task.token_hash or b"",
                    lease_us=task.lease_us,
                    retry_us=task.retry_us,
                    result_hash=task.result_hash or b"",
                    failure=task.failure,
                    checkpoint=task.checkpoint,
                )
        for index, state in enumerate(self.states):
            if state == TaskState.WAITING and not self.missing[index]:
                self.move(index, TaskState.READY)
        for index, output in outputs.items():
            self.keep_output(index, output)

    # -- rows

    def row(self) -> Row:
        """The run's row, see `journal.RUN_COLUMNS`."""
        payload = self.input
        tallies = self.tallies
        return (
            self.tenant_id,
            self.run_id,
            self.workflow,
            self.workflow_version,
            self.workflow_digest,
            int(self.state),
            self.priority,
            orjson.dumps(self.labels).decode(),
            None if payload is None else payload.data,
            "" if payload is None else payload.content_type,
            self.correlation_id,
            self.started_by,
            self.reason,
            len(self.states),
            tallies[TaskState.SUCCEEDED],
            tallies[TaskState.FAILED],
            tallies[TaskState.UPSTREAM_FAILED],
            tallies[TaskState.CANCELLED],
            self.create_us,
            self.start_us,
            self.end_us,
            self.constitution_digest,
        )

    def change_row(self) -> Row:
        """What changes in the run's row, see `journal.RUN_CHANGE_COLUMNS`."""
        tallies = self.tallies
        return (
            self.tenant_id,
            self.run_id,
            int(self.state),
            self.reason,
            tallies[TaskState.SUCCEEDED],
            tallies[TaskState.FAILED],
            tallies[TaskState.UPSTREAM_FAILED],
            tallies[TaskState.CANCELLED],
            self.start_us,
            self.end_us,
        )

    def write_task(
        self,
        journal: Journal,
        index: int,
        facts: TaskFacts,
        *,
        end_us: int | None = None,
        output: Payload | None = None,
    ) -> None:
        """Notes the row of a task as it stands, see `journal.TASK_COLUMNS`."""
        failure = facts.failure
        checkpoint = facts.checkpoint
        row = (
            self.tenant_id,
            self.run_id,
            index,
            self.graph.keys[index],
            self.states[index],
            facts.attempt,
            facts.term,
            facts.lost,
            facts.agent,
            facts.holder,
            facts.token_hash or None,
            facts.lease_us,
            end_us,
            facts.retry_us,
            facts.result_hash or None,
            None if failure is None else failure.code,
            None if failure is None else failure.message,
            None if output is None else output.data,
            "" if output is None else output.content_type,
            None if checkpoint is None else checkpoint.data,
            "" if checkpoint is None else checkpoint.content_type,
        )
        journal.task(self.run_id, index, row)

    @property
    def ended(self) -> bool:
        """Whether the run has reached a state that it never leaves."""
        return self.state in RUN_ENDED


def facts_of(record: records.Run) -> dict[str, Any]:
    """What articles may look at under ``run``."""
    return {
        "id": record.run_id,
        "priority": record.priority,
        "labels": Labels(record.labels) if record.labels else NO_LABELS,
        "input_bytes": 0 if record.input is None else len(record.input.data),
    }


def digest_of(payload: Payload) -> bytes:
    """The raw digest of a payload."""
    return payload_digest(payload.data, payload.content_type)


def run_state_after(run: LiveRun) -> RunState:
    """The state in which a run ends whose tasks have all ended."""
    if run.state is RunState.CANCELLING:
        return RunState.CANCELLED
    return RunState.FAILED if run.tallies[TaskState.FAILED] else RunState.SUCCEEDED
