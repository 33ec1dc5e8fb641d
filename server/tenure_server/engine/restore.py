"""Reads the open work of a tenant back from the store, when its seat is taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from tenure_server.core.definitions.definition import Payload
from tenure_server.core.desks.desk import Desk
from tenure_server.core.leasing.leases import AgentSlots
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import TASK_ENDED, TaskState
from tenure_server.core.progress.expansion import is_collecting
from tenure_server.core.runs.extensions import ITEMS
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.store.reads import TenantReads

#: How many rows of tasks are read at once.
_ROWS_AT_ONCE = 1000


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
    #: What is paused of it, see `Desk.pauses`.
    pauses: dict[str, records.Pause]


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
            workflow = known[record.workflow_digest] = _workflow_of(reads, record)
        run = _live(record, workflow, order + 1, sequences.get(record.run_id, 0))
        rows = tasks.get(record.run_id, {})
        wanted = _wanted_outputs(run, rows)
        outputs = reads.outputs(record.run_id, wanted) if wanted else {}
        stored.append(StoredRun(run, rows, outputs))
    return stored


def read_run(
    reads: TenantReads, record: records.Run
) -> tuple[KnownWorkflow, LiveRun, dict[int, records.Task]]:
    """Reads one run with its tasks, open or not. Runs in a reader thread."""
    tasks: dict[int, records.Task] = {}
    after = -1
    while page := reads.tasks(record.run_id, after, _ROWS_AT_ONCE):
        tasks.update((task.task_index, task) for task in page)
        after = page[-1].task_index
    workflow = _workflow_of(reads, record)
    return workflow, _live(record, workflow, 0, reads.last_sequence(record.run_id)), tasks


def _workflow_of(reads: TenantReads, record: records.Run) -> KnownWorkflow:
    found = reads.workflow_by_digest(record.workflow_digest)
    if found is None:
        raise LookupError(
            f"run {record.run_id}: its definition {record.workflow_digest} is missing"
        )
    return KnownWorkflow.of(found)


def _live(record: records.Run, workflow: KnownWorkflow, order: int, sequence: int) -> LiveRun:
    run = LiveRun(
        record,
        workflow.definition,
        workflow.graph,
        order=order,
        workflow_facts=workflow.facts,
    )
    run.sequence = sequence
    return run


def restore(
    desk: Desk,
    stored: list[StoredRun],
    slots_of: Callable[[str, str], AgentSlots],
    now_us: int,
) -> None:
    """Puts stored runs onto a desk."""
    if desk.term > 1:
        # Whoever held the seat before may have begun leases of runs that have ended since.
        desk.limits.resume(now_us)
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


def _wanted_outputs(run: LiveRun, rows: dict[int, records.Task]) -> list[int]:
    wanted = [
        index
        for index, task in rows.items()
        if task.state is TaskState.SUCCEEDED
        and (
            run.needed_at_end(index)
            or any(
                one not in rows or rows[one].state not in TASK_ENDED
                for one in run.graph.needed_by(index)
            )
        )
    ]
    for of in {one.of for one in run.extensions if one.kind == ITEMS}:
        if of in rows and is_collecting(rows[of]):
            parts = run.parts_of(of)
            wanted += [part for part in parts if part in rows and _has_succeeded(rows[part])]
    return wanted


def _has_succeeded(task: records.Task) -> bool:
    return task.state is TaskState.SUCCEEDED
