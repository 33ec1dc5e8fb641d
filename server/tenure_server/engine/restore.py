"""Reads the open work of a tenant back from the store, when its seat is taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from tenure_server.core import records
from tenure_server.core.definition import Payload
from tenure_server.core.desk import Desk
from tenure_server.core.graph import Graph
from tenure_server.core.leases import AgentSlots
from tenure_server.core.lifecycle import TASK_ENDED, TaskState
from tenure_server.core.runs import LiveRun
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.store.reads import TenantReads


@dataclass(frozen=True, slots=True)
class StoredRun:
    """An open run as the tables have it."""

    run: LiveRun
    tasks: dict[int, records.Task]
    outputs: dict[int, Payload]


@dataclass(frozen=True, slots=True)
class StoredTenant:
    """A tenant with all its open work."""

    tenant: records.Tenant
    runs: list[StoredRun]


def read_open_runs(reads: TenantReads) -> list[StoredRun]:
    """Reads every open run of a tenant with its tasks. Runs in a reader thread."""
    tasks: defaultdict[str, dict[int, records.Task]] = defaultdict(dict)
    for task in reads.open_tasks():
        tasks[task.run_id][task.task_index] = task
    sequences = reads.last_sequences()
    known: dict[str, KnownWorkflow] = {}
    stored = []
    for order, record in enumerate(sorted(reads.open_runs(), key=_age)):
        workflow = known.get(record.workflow_digest)
        if workflow is None:
            found = reads.workflow_by_digest(record.workflow_digest)
            if found is None:
                raise LookupError(
                    f"run {record.run_id}: its definition {record.workflow_digest} is missing"
                )
            workflow = known[record.workflow_digest] = KnownWorkflow.of(found)
        run = LiveRun(
            record,
            workflow.definition,
            workflow.graph,
            order=order + 1,
            workflow_facts=workflow.facts,
        )
        run.sequence = sequences.get(record.run_id, 0)
        rows = tasks.get(record.run_id, {})
        wanted = _wanted_outputs(workflow.graph, rows)
        outputs = reads.outputs(record.run_id, wanted) if wanted else {}
        stored.append(StoredRun(run, rows, outputs))
    return stored


def restore(
    desk: Desk,
    stored: list[StoredRun],
    slots_of: Callable[[str, str], AgentSlots],
    now_us: int,
) -> None:
    """Puts stored runs onto a desk."""
    for one in stored:
        desk.next_order()
        leased = [
            (slots_of(task.holder, task.agent), index)
            for index, task in one.tasks.items()
            if task.state is TaskState.LEASED
        ]
        desk.restore(one.run, one.tasks, one.outputs, leased, now_us)


def _age(record: records.Run) -> tuple[int, str]:
    return record.create_us, record.run_id


def _wanted_outputs(graph: Graph, rows: dict[int, records.Task]) -> list[int]:
    return [
        index
        for index, task in rows.items()
        if task.state is TaskState.SUCCEEDED
        and any(
            down not in rows or rows[down].state not in TASK_ENDED
            for down in graph.downstream[index]
        )
    ]
