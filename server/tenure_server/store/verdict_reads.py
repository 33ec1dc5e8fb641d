"""What trials and reports read: decisions as they were recorded, and counts over them.

As in `reads`, every query is handed its tenant and does not run without asking for it. Whatever may
be long is read a page or a day at a time, so that no reader's thread is held for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from peewee import Case, Node, fn

from tenure_evidence.packing import unpacked
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.store import evidence_tables, statements, tables
from tenure_server.store.database import Store

_slot = statements.slot
_TENANT = _slot("tenant_id")

_ENTRY = evidence_tables.EvidenceEntry
_HEAD = evidence_tables.EvidenceHead
_RUN = tables.WorkflowRun
_TASK = tables.WorkflowTask
_EVENT = tables.WorkflowExecutionLog

#: In `EvidenceEntry.standing`.
WARNED, DENIED, REFUSED = 1, 2, 3
_STATES = sorted(int(state) for state in RunState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One entry of a log, with what was kept beside it."""

    index: int
    at_us: int
    kind: str
    principal: str
    entry: dict[str, Any]
    items: Sequence[dict[str, Any]]
    facts: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run as articles see it, without what it carries."""

    run_id: str
    workflow_digest: str
    priority: int
    labels: dict[str, str]
    input_bytes: int
    #: What is kept of it beyond its columns, see `LiveRun.detail`.
    detail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """What became of the tasks of a run, counted."""

    attempts: int
    retries: int
    leases_lost: int
    agents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a report is about: everything, or what happened to the runs of a workflow, or to one.

    To a workflow belongs what names it as its subject too, such as a start that was denied.
    """

    workflow: str = ""
    run_id: str = ""


_SIZE = _HEAD.select(_HEAD.size).where(_HEAD.tenant_id == _TENANT)
_NEWEST_INDEX = _ENTRY.select(fn.MAX(_ENTRY.entry_index)).where(_ENTRY.tenant_id == _TENANT)
_DECISIONS = (
    _ENTRY.select(
        _ENTRY.entry_index,
        _ENTRY.at_us,
        _ENTRY.kind,
        _ENTRY.principal,
        _ENTRY.entry,
        _ENTRY.items,
        _ENTRY.facts,
    )
    .where(_ENTRY.tenant_id == _TENANT, _ENTRY.entry_index < _slot("before_index"))
    .order_by(_ENTRY.entry_index.desc())
    .limit(_slot("limit"))
)
_OUTPUT_BYTES = _TASK.select(fn.LENGTH(_TASK.output)).where(
    _TASK.tenant_id == _TENANT,
    _TASK.run_id == _slot("run_id"),
    _TASK.task_index == _slot("task_index"),
)
_ATTEMPTS = _TASK.select(
    fn.SUM(_TASK.attempt),
    fn.SUM(Case(None, ((_TASK.attempt > 1, _TASK.attempt - 1),), 0)),
    fn.SUM(_TASK.lost),
).where(_TASK.tenant_id == _TENANT, _TASK.run_id == _slot("run_id"))
_AGENTS = (
    _TASK.select(_TASK.agent)
    .distinct()
    .where(_TASK.tenant_id == _TENANT, _TASK.run_id == _slot("run_id"), _TASK.agent != "")
    .order_by(_TASK.agent)
    .limit(_slot("limit"))
)


_NOTHING_HAPPENED = (
    _ENTRY.select(_ENTRY.entry_index, _ENTRY.standing, _ENTRY.entry)
    .where(
        _ENTRY.tenant_id == _TENANT,
        _ENTRY.at_us >= _slot("from_us"),
        _ENTRY.at_us < _slot("until_us"),
        _ENTRY.items.is_null(),
        _ENTRY.entry_index > _slot("after_index"),
    )
    .order_by(_ENTRY.entry_index)
    .limit(_slot("limit"))
)


class VerdictReads:
    """Reads one tenant's decisions. Raises StoreFailed through `Store.reading`."""

    def __init__(self, store: Store, tenant_id: str) -> None:
        self._store = store
        self._tenant_id = tenant_id

    def log_size(self) -> int:
        """How many entries the tenant's log has."""
        found = self._rows(_SIZE)
        return found[0][0] if found else 0

    def entry_count(self) -> int:
        """One more than the number of the newest entry that is there."""
        [(newest,)] = self._rows(_NEWEST_INDEX)
        return 0 if newest is None else newest + 1

    def decisions(self, before_index: int, limit: int) -> list[Decision]:
        """Entries, the newest first, from below a number on."""
        return [
            Decision(
                index=index,
                at_us=at_us,
                kind=kind,
                principal=principal,
                entry=orjson.loads(bytes(entry)),
                items=() if items is None else orjson.loads(unpacked(bytes(items))),
                facts=None if facts is None else orjson.loads(bytes(facts)),
            )
            for index, at_us, kind, principal, entry, items, facts in self._rows(
                _DECISIONS, before_index=before_index, limit=limit
            )
        ]

    def runs(self, run_ids: Sequence[str]) -> dict[str, RunSummary]:
        """These runs by their ids, as far as they are there."""
        found = {}
        for piece in statements.pieces(run_ids):
            for row in self._rows(_runs_named(len(piece)), run_ids=piece):
                found[row[0]] = RunSummary(
                    run_id=row[0],
                    workflow_digest=row[1],
                    priority=row[2],
                    labels=orjson.loads(row[3]),
                    input_bytes=row[4] or 0,
                    detail=row[5],
                )
        return found

    def output_bytes(self, run_id: str, task_index: int) -> int | None:
        """How large the output of a task is; None: there is no such task."""
        found = self._rows(_OUTPUT_BYTES, run_id=run_id, task_index=task_index)
        return None if not found else found[0][0] or 0

    def attempts(self, run_id: str, agents_max: int) -> Attempts:
        """What became of a run's tasks."""
        [(attempts, retries, lost)] = self._rows(_ATTEMPTS, run_id=run_id)
        agents = self._rows(_AGENTS, run_id=run_id, limit=agents_max)
        return Attempts(
            attempts=int(attempts or 0),
            retries=int(retries or 0),
            leases_lost=int(lost or 0),
            agents=tuple(agent for (agent,) in agents),
        )

    def standings(self, scope: Scope, from_us: int, until_us: int) -> dict[int, int]:
        """How many entries of a span of time have each standing."""
        query = _standings(bool(scope.workflow), bool(scope.run_id))
        return dict(self._scoped(query, scope, from_us=from_us, until_us=until_us))

    def objected(
        self, scope: Scope, from_us: int, until_us: int, after_index: int, limit: int
    ) -> list[tuple[int, int, dict[str, Any]]]:
        """Entries of a span that were warned of, denied or refused: index, standing, entry."""
        query = _objected(bool(scope.workflow), bool(scope.run_id))
        rows = self._scoped(
            query, scope, from_us=from_us, until_us=until_us, after_index=after_index, limit=limit
        )
        return [(row[0], row[1], orjson.loads(bytes(row[2]))) for row in rows]

    def named(
        self, scope: Scope, from_us: int, until_us: int, after_index: int, limit: int
    ) -> tuple[list[tuple[int, int, dict[str, Any]]], int | None]:
        """Those of the next entries of a span that name the scope's workflow, and by which nothing
        happened to a run; with the number to go on after, None: these were the last.
        """
        rows = self._rows(
            _NOTHING_HAPPENED,
            from_us=from_us,
            until_us=until_us,
            after_index=after_index,
            limit=limit,
        )
        # In canonical bytes no text has a quote without a backslash before it: only a member
        # matches, and only the subject has one of this name.
        member = b'"workflow":' + orjson.dumps(scope.workflow)
        found = [
            (row[0], row[1], orjson.loads(entry))
            for row in rows
            if member in (entry := bytes(row[2]))
        ]
        return found, rows[-1][0] if len(rows) == limit else None

    def run_states(
        self, scope: Scope, from_us: int, until_us: int
    ) -> list[tuple[str, RunState, int]]:
        """How many runs were started in a span of time: workflow, state as it is now, number."""
        query = _run_states(bool(scope.workflow), bool(scope.run_id))
        rows = self._scoped(query, scope, from_us=from_us, until_us=until_us)
        return [(workflow, RunState(state), count) for workflow, state, count in rows]

    def _scoped(self, query: Node, scope: Scope, **values: Any) -> list[tuple[Any, ...]]:
        return self._rows(query, workflow=scope.workflow, run_id=scope.run_id, **values)

    def _rows(self, query: Node, **values: Any) -> list[tuple[Any, ...]]:
        return self._store.rows(query, {**values, "tenant_id": self._tenant_id}, needs="tenant_id")


@cache
def _runs_named(length: int) -> Node:
    run_ids = statements.slots("run_ids", length)
    columns = (
        _RUN.run_id,
        _RUN.workflow_digest,
        _RUN.priority,
        _RUN.labels,
        fn.LENGTH(_RUN.input),
        _RUN.detail,
    )
    return _RUN.select(*columns).where(_RUN.tenant_id == _TENANT, _RUN.run_id.in_(run_ids))


def _in_span(of_workflow: bool, of_run: bool) -> Any:
    """Which entries are in a scope and a span of time."""
    inside: Any = (
        (_ENTRY.tenant_id == _TENANT)
        & (_ENTRY.at_us >= _slot("from_us"))
        & (_ENTRY.at_us < _slot("until_us"))
    )
    if not of_workflow and not of_run:
        return inside
    caused = _EVENT.select(_EVENT.entry_index).where(_EVENT.tenant_id == _TENANT)
    if of_run:
        caused = caused.where(_EVENT.run_id == _slot("run_id"))
    if of_workflow:
        runs = _RUN.select(_RUN.run_id).where(
            _RUN.tenant_id == _TENANT, _RUN.workflow == _slot("workflow")
        )
        caused = caused.where(_EVENT.run_id.in_(runs))
    return inside & _ENTRY.entry_index.in_(caused)


@cache
def _standings(of_workflow: bool, of_run: bool) -> Node:
    return (
        _ENTRY.select(_ENTRY.standing, fn.COUNT(_ENTRY.entry_index))
        .where(_in_span(of_workflow, of_run))
        .group_by(_ENTRY.standing)
    )


@cache
def _objected(of_workflow: bool, of_run: bool) -> Node:
    return (
        _ENTRY.select(_ENTRY.entry_index, _ENTRY.standing, _ENTRY.entry)
        .where(
            _in_span(of_workflow, of_run),
            _ENTRY.standing > 0,
            _ENTRY.entry_index > _slot("after_index"),
        )
        .order_by(_ENTRY.entry_index)
        .limit(_slot("limit"))
    )


@cache
def _run_states(of_workflow: bool, of_run: bool) -> Node:
    query = _RUN.select(_RUN.workflow, _RUN.state, fn.COUNT(_RUN.run_id)).where(
        _RUN.tenant_id == _TENANT,
        # All of them: so the index by state serves.
        _RUN.state.in_(_STATES),
        _RUN.create_us >= _slot("from_us"),
        _RUN.create_us < _slot("until_us"),
    )
    if of_workflow:
        query = query.where(_RUN.workflow == _slot("workflow"))
    if of_run:
        query = query.where(_RUN.run_id == _slot("run_id"))
    return query.group_by(_RUN.workflow, _RUN.state)
