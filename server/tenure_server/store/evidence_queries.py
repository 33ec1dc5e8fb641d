"""The queries over one log, each of which takes the log's tenant in a slot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from peewee import CTE, Node, ValuesList

from tenure_server.core.ledger import lifecycle
from tenure_server.store import evidence_tables, rows, statements, tables

_ENTRY = evidence_tables.EvidenceEntry
_NODE = evidence_tables.EvidenceNode
_HEAD = evidence_tables.EvidenceHead
_CHECKPOINT = evidence_tables.EvidenceCheckpoint
_EVENT = tables.WorkflowExecutionLog
_RUN = tables.WorkflowRun
_WORKFLOW = tables.WorkflowDefinition
_CONSTITUTION = tables.Constitution

_slot = statements.slot
_TENANT = _slot("tenant_id")
_LIMIT = _slot("limit")
_RUN_OPEN = sorted(int(state) for state in set(lifecycle.RunState) - lifecycle.RUN_ENDED)
#: From this standing on an entry is a refusal; see `evidence_tables.EvidenceEntry`.
_REFUSED = 2

_PLAIN = (_ENTRY.entry_index, _ENTRY.entry)
_WITH_ITEMS = (*_PLAIN, _ENTRY.items)


def _of_log(table: type[tables.Table], columns: Sequence[Any]) -> Any:
    return table.select(*columns).where(table.tenant_id == _TENANT)  # type: ignore[attr-defined]


HEAD = _of_log(_HEAD, [_HEAD.size])

ENTRY = _of_log(_ENTRY, _WITH_ITEMS).where(_ENTRY.entry_index == _slot("index"))
#: The last entries, the newest first.
LAST_ENTRIES = (
    _of_log(_ENTRY, _WITH_ITEMS)
    .where(_ENTRY.entry_index < _slot("below"))
    .order_by(_ENTRY.entry_index.desc())
    .limit(_LIMIT)
)
_OF_RUN = (
    _EVENT.select(_EVENT.entry_index)
    .where(_EVENT.tenant_id == _TENANT, _EVENT.run_id == _slot("run_id"))
    .distinct()
)

NUMBERS_OF_RUN = _OF_RUN.where(_EVENT.entry_index < _slot("below")).order_by(_EVENT.entry_index)


@cache
def numbered(length: int) -> Node:
    """So many entries by number, with their items."""
    query = _of_log(_ENTRY, _WITH_ITEMS).where(
        _ENTRY.entry_index.in_(statements.slots("numbers", length))
    )
    return query.order_by(_ENTRY.entry_index)  # type: ignore[no-any-return]


@cache
def entries(
    *, kind: bool, principal: bool, correlation: bool, refused: bool, run: bool, items: bool
) -> Node:
    """A page of entries that match what is asked for, from `index` on and below `below`."""
    query = _of_log(_ENTRY, _WITH_ITEMS if items else _PLAIN).where(
        _ENTRY.entry_index >= _slot("index"), _ENTRY.entry_index < _slot("below")
    )
    if kind:
        query = query.where(_ENTRY.kind == _slot("kind"))
    if principal:
        query = query.where(_ENTRY.principal == _slot("principal"))
    if correlation:
        query = query.where(_ENTRY.correlation_id == _slot("correlation_id"))
    if refused:
        query = query.where(_ENTRY.standing >= _REFUSED)
    if run:
        query = query.where(_ENTRY.entry_index.in_(_OF_RUN))
    return query.order_by(_ENTRY.entry_index).limit(_LIMIT)  # type: ignore[no-any-return]


@cache
def nodes(length: int) -> Node:
    """So many nodes by their places."""
    places = zip(
        statements.slots("levels", length), statements.slots("positions", length), strict=True
    )
    # A join, because older versions of SQLite do not use the key for pairs in a list.
    asked = CTE("asked", ValuesList(list(places)), columns=("level", "position"))
    same = (_NODE.level == asked.c.level) & (_NODE.position == asked.c.position)
    query = _of_log(_NODE, [_NODE.level, _NODE.position, _NODE.hash]).join(asked, on=same)
    return query.with_cte(asked)  # type: ignore[no-any-return]


#: A stretch of one level.
NODES_OF_LEVEL = (
    _of_log(_NODE, [_NODE.position, _NODE.hash])
    .where(
        _NODE.level == _slot("level"),
        _NODE.position >= _slot("position"),
        _NODE.position < _slot("end"),
    )
    .order_by(_NODE.position)
)

#: Checkpoints below a size, the newest first.
CHECKPOINTS = (
    _of_log(_CHECKPOINT, rows.CHECKPOINT)
    .where(_CHECKPOINT.size < _slot("below"))
    .order_by(_CHECKPOINT.size.desc())
    .limit(_LIMIT)
)

#: Definitions that open runs use, with what they are called by.
DEFINITIONS_IN_USE = _of_log(_WORKFLOW, [_WORKFLOW.digest, _WORKFLOW.canonical]).where(
    _WORKFLOW.digest.in_(
        _RUN.select(_RUN.workflow_digest).where(
            _RUN.tenant_id == _TENANT, _RUN.state.in_(_RUN_OPEN)
        )
    )
)

#: Definitions of runs that were started in a span of time.
DEFINITIONS_STARTED = _of_log(_WORKFLOW, [_WORKFLOW.digest, _WORKFLOW.canonical]).where(
    _WORKFLOW.digest.in_(
        _RUN.select(_RUN.workflow_digest).where(
            _RUN.tenant_id == _TENANT,
            _RUN.create_us >= _slot("from_us"),
            _RUN.create_us < _slot("until_us"),
        )
    )
)

DEFINITIONS = _of_log(
    _WORKFLOW, [_WORKFLOW.name, _WORKFLOW.version, _WORKFLOW.digest, _WORKFLOW.canonical]
).order_by(_WORKFLOW.name, _WORKFLOW.version)
EVENT_COLUMNS = (
    _EVENT.sequence,
    _EVENT.at_us,
    _EVENT.kind,
    _EVENT.task_key,
    _EVENT.attempt,
    _EVENT.term,
    _EVENT.agent,
    _EVENT.code,
    _EVENT.message,
    _EVENT.entry_index,
)
#: The events of a run with what ties them to the log.
EVENTS = (
    _of_log(_EVENT, EVENT_COLUMNS)
    .where(_EVENT.run_id == _slot("run_id"), _EVENT.sequence > _slot("after_sequence"))
    .order_by(_EVENT.sequence)
    .limit(_LIMIT)
)

CONSTITUTION = (
    _of_log(_CONSTITUTION, [_CONSTITUTION.canonical])
    .where(_CONSTITUTION.digest == _slot("digest"))
    .limit(1)
)
