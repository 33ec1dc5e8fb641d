"""Finds what is old enough to be forgotten, a piece at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peewee import Node, Value, fn

from tenure_server.core.ledger import lifecycle
from tenure_server.store import evidence_tables, statements, tables
from tenure_server.store.database import Store

_RUN_ENDED = sorted(int(state) for state in lifecycle.RUN_ENDED)
_RUN = tables.WorkflowRun
_TASK = tables.WorkflowTask
_ENTRY = evidence_tables.EvidenceEntry

#: How much is forgotten in one transaction.
RUNS_AT_ONCE = 100
TASKS_AT_ONCE = 5_000
ENTRIES_AT_ONCE = 1_000

_slot = statements.slot
_OLD = (
    (_RUN.tenant_id == _slot("tenant_id"))
    & _RUN.state.in_(_RUN_ENDED)
    & (_RUN.end_us < _slot("before_us"))
)
_OLD_RUNS = (
    _RUN.select(_RUN.run_id, _RUN.task_count)
    .where(_OLD)
    .order_by(_RUN.create_us, _RUN.run_id)
    .limit(RUNS_AT_ONCE)
)
_STILL_OLD = [
    _RUN.select(_RUN.run_id).where(_OLD, _RUN.run_id.in_(statements.slots("run_ids", 1 << power)))
    for power in range(RUNS_AT_ONCE.bit_length() + 1)
]
_CARRIES = fn.EXISTS(
    _TASK.select(Value(1)).where(
        _TASK.tenant_id == _RUN.tenant_id,
        _TASK.run_id == _RUN.run_id,
        _TASK.output.is_null(False) | _TASK.checkpoint.is_null(False),
    )
)
_OLD_PAYLOADS = _OLD_RUNS.where(_RUN.input.is_null(False) | _RUN.output.is_null(False) | _CARRIES)
_OLD_FACTS = (
    _ENTRY.select(_ENTRY.entry_index)
    .where(
        _ENTRY.tenant_id == _slot("tenant_id"),
        _ENTRY.at_us < _slot("before_us"),
        _ENTRY.facts.is_null(False),
    )
    .limit(ENTRIES_AT_ONCE)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """What is old enough to be forgotten in one transaction. False when there is nothing."""

    runs: tuple[str, ...] = ()
    entries: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.runs or self.entries)


class RetentionReads:
    """Finds what is old in one tenant, inside `Store.reading`."""

    def __init__(self, store: Store, tenant_id: str) -> None:
        self._store = store
        self._tenant_id = tenant_id

    def old_runs(self, before_us: int) -> Old:
        """Runs that ended before a time."""
        return self._some_runs(_OLD_RUNS, before_us)

    def old_payloads(self, before_us: int) -> Old:
        """Those of them that still have payloads."""
        return self._some_runs(_OLD_PAYLOADS, before_us)

    def still_old(self, run_ids: Sequence[str], before_us: int) -> Old:
        """Those of some runs that have ended before a time: at most `RUNS_AT_ONCE` are given."""
        found: set[str] = set()
        for piece in statements.pieces(run_ids):
            query = _STILL_OLD[len(piece).bit_length() - 1]
            found.update(run_id for (run_id,) in self._rows(query, before_us, run_ids=piece))
        return Old(runs=tuple(run_id for run_id in run_ids if run_id in found))

    def old_facts(self, before_us: int) -> Old:
        """Entries of before a time of which is still known what articles were asked about."""
        return Old(entries=tuple(index for (index,) in self._rows(_OLD_FACTS, before_us)))

    def _some_runs(self, query: Node, before_us: int) -> Old:
        runs: list[str] = []
        tasks = 0
        for run_id, task_count in self._rows(query, before_us):
            if runs and tasks + task_count > TASKS_AT_ONCE:
                break
            runs.append(run_id)
            tasks += task_count
        return Old(runs=tuple(runs))

    def _rows(self, query: Node, before_us: int, **more: Any) -> list[tuple[Any, ...]]:
        values = {"tenant_id": self._tenant_id, "before_us": before_us, **more}
        return self._store.rows(query, values, needs="tenant_id")
