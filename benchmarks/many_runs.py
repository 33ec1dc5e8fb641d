"""Many runs that have ended, written straight into a store while no coordinator has it.

A million runs would take an agent minutes; to list them it matters only that their rows are there.
They are the rows that the engine makes, written by the store's own writer, but for events, tasks
and evidence.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tenure_server.core import ids
from tenure_server.core.ledger import journal, records
from tenure_server.core.ledger.lifecycle import RunState, TaskState
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.store.database import open_store
from tenure_server.store.reads import TenantReads
from tenure_server.store.seats import Seats

#: The first run's time, and how far the next one is from it, in microseconds.
BEGIN_US = 1_700_000_000_000_000
STEP_US = 1_000_000
#: Every so many runs there is one that has labels, that failed, that is of the rare workflow.
LABELLED = 10
FAILED = 100
RARE = 1_000
REASON = "task load failed: TIMED_OUT"
#: So many labelled runs after another are of one batch.
BATCH = 100
_AT_ONCE = 5_000
_SEAT_US = 600_000_000


@dataclass(frozen=True, slots=True)
class Told:
    """What a run is, by its number."""

    number: int

    @property
    def create_us(self) -> int:
        """When it was accepted."""
        return BEGIN_US + self.number * STEP_US

    @property
    def failed(self) -> bool:
        """Whether it failed, with `REASON`."""
        return self.number % FAILED == 1

    @property
    def rare(self) -> bool:
        """Whether it is of the rare workflow."""
        return self.number % RARE == 2

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        if self.number % LABELLED:
            return {}
        place = self.number // LABELLED
        return {"env": "test" if place % 4 == 0 else "prod", "batch": f"batch-{place // BATCH}"}

    def run_id(self, tenant_id: str) -> str:
        """Its id."""
        random = hashlib.sha256(self.number.to_bytes(8, "big")).digest()
        return ids.new_id(tenant_id, self.create_us, random)


def write(url: str, tenant_id: str, workflow: str, rare_workflow: str, count: int) -> None:
    """Writes runs of two registered workflows. No coordinator may have the store."""
    store = open_store(url, holder="benchmark", address="benchmark:0")
    try:
        seats = Seats(store)
        [term] = [
            seat.term
            for seat in seats.take(time.time_ns() // 1000, _SEAT_US)
            if seat.tenant_id == tenant_id
        ]
        known = []
        for name in (workflow, rare_workflow):
            with store.reading():
                record = TenantReads(store, tenant_id).workflow(name)
            if record is None:
                raise LookupError(f"there is no workflow {name}")
            known.append(KnownWorkflow.of(record))
        writer = store.writer()
        for changes in _changes(tenant_id, known, count):
            changes.seats[tenant_id] = term
            writer.commit(changes)
        if store.kind == "postgresql":
            # What its own housekeeping would do by and by.
            store.backend.writing.execute_sql("ANALYZE")
        seats.release()
    finally:
        store.close()


def _changes(tenant_id: str, known: list[KnownWorkflow], count: int) -> Iterator[journal.Changes]:
    for begin in range(0, count, _AT_ONCE):
        changes = journal.Changes()
        for number in range(begin, min(begin + _AT_ONCE, count)):
            told = Told(number)
            run = _run(tenant_id, told, known[told.rare])
            changes.runs.append(run.row())
            changes.terms.extend(run.term_rows(new=True))
        yield changes


def _run(tenant_id: str, told: Told, known: KnownWorkflow) -> LiveRun:
    record = records.Run(
        tenant_id=tenant_id,
        run_id=told.run_id(tenant_id),
        workflow=known.record.name,
        workflow_version=known.record.version,
        workflow_digest=known.record.digest,
        state=RunState.FAILED if told.failed else RunState.SUCCEEDED,
        priority=0,
        labels=told.labels,
        input=None,
        correlation_id=f"benchmark-{told.number}",
        started_by="benchmark",
        reason=REASON if told.failed else "",
        task_count=len(known.graph.keys),
        succeeded=0,
        failed=0,
        upstream_failed=0,
        cancelled=0,
        create_us=told.create_us,
        start_us=told.create_us,
        end_us=told.create_us + STEP_US,
    )
    run = LiveRun(record, known.definition, known.graph, order=told.number)
    for index in range(len(run.states)):
        run.move(index, TaskState.FAILED if told.failed else TaskState.SUCCEEDED)
    return run
