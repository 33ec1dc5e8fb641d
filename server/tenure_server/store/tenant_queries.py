"""The queries over one tenant's rows, each of which takes the tenant's id in a slot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from peewee import Case, Node, fn

from tenure_server.core.ledger import lifecycle
from tenure_server.store import rows, statements, tables

_WORKFLOW = tables.WorkflowDefinition
_RUN = tables.WorkflowRun
_TASK = tables.WorkflowTask
_EVENT = tables.WorkflowExecutionLog
_REQUEST = tables.Request
_CONSTITUTION = tables.Constitution

_slot = statements.slot
_TENANT = _slot("tenant_id")
_LIMIT = _slot("limit")

_TASK_ENDED = sorted(int(state) for state in lifecycle.TASK_ENDED)
_RUN_EVENTS = sorted(int(kind) for kind in lifecycle.RUN_EVENTS)
_RUN_OPEN = sorted(int(state) for state in set(lifecycle.RunState) - lifecycle.RUN_ENDED)


def _of_tenant(table: type[tables.Table], columns: Sequence[Any]) -> Any:
    return table.select(*columns).where(table.tenant_id == _TENANT)  # type: ignore[attr-defined]


# --- workflows
_NAMED = _of_tenant(_WORKFLOW, rows.WORKFLOW_CANONICAL).where(_WORKFLOW.name == _slot("name"))
WORKFLOW_NEWEST = _NAMED.order_by(_WORKFLOW.version.desc()).limit(1)
WORKFLOW_VERSION = _NAMED.where(_WORKFLOW.version == _slot("version"))
WORKFLOW_BY_DIGEST = (
    _of_tenant(_WORKFLOW, rows.WORKFLOW_CANONICAL)
    .where(_WORKFLOW.digest == _slot("digest"))
    .order_by(_WORKFLOW.name)
    .limit(1)
)
_Other = _WORKFLOW.alias("other")
WORKFLOWS = (
    _of_tenant(_WORKFLOW, rows.WORKFLOW)
    .where(
        _WORKFLOW.name > _slot("after_name"),
        _WORKFLOW.version
        == _Other.select(fn.MAX(_Other.version)).where(
            _Other.tenant_id == _TENANT, _Other.name == _WORKFLOW.name
        ),
    )
    .order_by(_WORKFLOW.name)
    .limit(_LIMIT)
)
VERSIONS = (
    _of_tenant(_WORKFLOW, rows.WORKFLOW)
    .where(_WORKFLOW.name == _slot("name"), _WORKFLOW.version < _slot("before_version"))
    .order_by(_WORKFLOW.version.desc())
    .limit(_LIMIT)
)

# --- constitutions
CONSTITUTIONS = (
    _of_tenant(_CONSTITUTION, rows.CONSTITUTION)
    .where(_CONSTITUTION.version < _slot("before_version"))
    .order_by(_CONSTITUTION.version.desc())
    .limit(_LIMIT)
)
CONSTITUTION_ONE = _of_tenant(_CONSTITUTION, rows.CONSTITUTION).where(
    _CONSTITUTION.version == _slot("version")
)

# --- runs
#: A run without an input has an empty type; none at all has one whose input was pruned.
RUN_PRUNED = _of_tenant(_RUN, [_RUN.run_id]).where(
    _RUN.run_id == _slot("run_id"), _RUN.input_type.is_null()
)
RUN_ONE = _of_tenant(_RUN, rows.RUN_INPUT).where(_RUN.run_id == _slot("run_id"))
_OPEN = _RUN.state.in_(_RUN_OPEN)
RUN_IDS_OPEN = _of_tenant(_RUN, [_RUN.run_id, _RUN.task_count]).where(_OPEN)
RUNS_OPEN = _of_tenant(_RUN, rows.RUN_INPUT).where(_OPEN).order_by(_RUN.create_us, _RUN.run_id)
_LAST_SEQUENCE = _EVENT.select(fn.MAX(_EVENT.sequence)).where(
    _EVENT.tenant_id == _TENANT, _EVENT.run_id == _RUN.run_id
)
LAST_SEQUENCES = _of_tenant(_RUN, [_RUN.run_id, _LAST_SEQUENCE]).where(_OPEN)

# --- tasks
TASK_ONE = _of_tenant(_TASK, rows.TASK_PAYLOADS).where(
    _TASK.run_id == _slot("run_id"), _TASK.task_index == _slot("task_index")
)


def _tasks_page(columns: Sequence[Any]) -> Any:
    return (
        _of_tenant(_TASK, columns)
        .where(_TASK.run_id == _slot("run_id"), _TASK.task_index > _slot("after_index"))
        .order_by(_TASK.task_index)
        .limit(_LIMIT)
    )


TASKS = _tasks_page(rows.TASK)
TASKS_PAYLOADS = _tasks_page(rows.TASK_PAYLOADS)


@cache
def outputs(length: int) -> Node:
    """What tasks of a run put out."""
    query = _of_tenant(_TASK, [_TASK.task_index, _TASK.output, _TASK.output_type])
    indexes = statements.slots("indexes", length)
    query = query.where(_TASK.run_id == _slot("run_id"), _TASK.task_index.in_(indexes))
    return query.where(_TASK.output.is_null(False))  # type: ignore[no-any-return]


@cache
def tasks_of_runs(length: int) -> Node:
    """All tasks of so many runs, for taking up work again: ended tasks without what they carry."""
    unfinished = _TASK.state.not_in(_TASK_ENDED)
    checkpoint = [Case(None, ((unfinished, column),)) for column in rows.TASK_CHECKPOINT]
    columns = [*rows.TASK, *checkpoint]
    run_ids = statements.slots("run_ids", length)
    return _of_tenant(_TASK, columns).where(_TASK.run_id.in_(run_ids))  # type: ignore[no-any-return]


# --- the log
_EVENTS_OF_RUN = (
    _of_tenant(_EVENT, rows.EVENT)
    .where(_EVENT.run_id == _slot("run_id"), _EVENT.sequence > _slot("after_sequence"))
    .order_by(_EVENT.sequence)
    .limit(_LIMIT)
)
EVENTS = _EVENTS_OF_RUN
RUN_EVENTS = _EVENTS_OF_RUN.where(_EVENT.kind.in_(_RUN_EVENTS))
LAST_SEQUENCE = _of_tenant(_EVENT, [fn.MAX(_EVENT.sequence)]).where(
    _EVENT.run_id == _slot("run_id")
)

# --- what events start
_TRIGGER = tables.EventTrigger
EVENT_TRIGGERS = (
    _of_tenant(_TRIGGER, [_TRIGGER.workflow, _TRIGGER.version])
    .where(_TRIGGER.event == _slot("event"))
    .order_by(_TRIGGER.workflow)
)

# --- pauses
_PAUSE = tables.Pause
PAUSES = _of_tenant(_PAUSE, rows.PAUSE).order_by(_PAUSE.workflow)

# --- requests
REQUEST_IDS = (
    _of_tenant(_REQUEST, (_REQUEST.request_id, _REQUEST.at_us))
    .where(_REQUEST.request_id > _slot("after"))
    .order_by(_REQUEST.request_id)
    .limit(_LIMIT)
)
