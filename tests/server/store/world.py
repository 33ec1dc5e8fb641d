"""Rows and values for the store's tests: everything has a default, tests name what matters."""

from __future__ import annotations

import hashlib
from typing import Any

from tenure_server.core import ids
from tenure_server.core.ledger import journal, records
from tenure_server.core.ledger.lifecycle import EventKind, RunState, TaskState
from tenure_server.core.ledger.records import ApiKey, Role, Tenant
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

NOW = 1_764_000_000_000_000
SECOND = 1_000_000
TENANT = "acme"
OTHER = "bolt"
DIGEST = "sha256:" + "0" * 64


def tenant(tenant_id: str = TENANT, **changes: Any) -> Tenant:
    """A tenant."""
    values = {"display_name": tenant_id.title(), "max_leases": 100, "weight": 1, "create_us": NOW}
    return Tenant(tenant_id=tenant_id, **{**values, **changes})


def api_key(number: int = 1, *tenant_ids: str, **changes: Any) -> ApiKey:
    """A key whose secret is its number."""
    values: dict[str, Any] = {
        "api_key_id": new_id(number),
        "name": f"key {number}",
        "secret_hash": hashlib.sha256(str(number).encode()).digest(),
        "roles": frozenset({Role.SUBMITTER, Role.AGENT}),
        "tenant_ids": tenant_ids,
        "create_us": NOW + number,
    }
    return ApiKey(**{**values, **changes})


def new_id(number: int, tenant_id: str = TENANT) -> str:
    """An id; larger numbers make later ones."""
    return ids.new_id(tenant_id, NOW + number * 1000, number.to_bytes(ids.RANDOM_BYTES, "big"))


def run_row(run_id: str, tenant_id: str = TENANT, **changes: Any) -> journal.Row:
    """A run that was just accepted."""
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "workflow": "count",
        "workflow_version": 1,
        "workflow_digest": DIGEST,
        "state": RunState.RUNNING,
        "priority": 0,
        "labels": "{}",
        "input": None,
        "input_type": None,
        "correlation_id": "c-1",
        "started_by": "k-1",
        "reason": "",
        "task_count": 10,
        "succeeded": 0,
        "failed": 0,
        "upstream_failed": 0,
        "cancelled": 0,
        "create_us": NOW,
        "start_us": None,
        "end_us": None,
        "constitution_digest": "",
        "skipped": 0,
        "parent_run_id": "",
        "parent_task": "",
        "deadline_us": None,
        "detail": None,
        "output": None,
        "output_type": None,
    }
    return _row(journal.RUN_COLUMNS, values, changes)


def run_change(run_id: str, tenant_id: str = TENANT, **changes: Any) -> journal.Row:
    """A run that has succeeded."""
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "state": RunState.SUCCEEDED,
        "reason": "",
        "succeeded": 10,
        "failed": 0,
        "upstream_failed": 0,
        "cancelled": 0,
        "start_us": NOW + 1,
        "end_us": NOW + 2,
        "skipped": 0,
        "task_count": 10,
        "detail": None,
        "output": None,
        "output_type": None,
    }
    return _row(journal.RUN_CHANGE_COLUMNS, values, changes)


def task_row(run_id: str, index: int, tenant_id: str = TENANT, **changes: Any) -> journal.Row:
    """A task that was just leased, under term 1."""
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "task_index": index,
        "task_key": f"task-{index}",
        "state": TaskState.LEASED,
        "attempt": 1,
        "term": 1,
        "lost": 0,
        "agent": "host-1",
        "holder": "k-2",
        "token_hash": b"\x00" * 32,
        "lease_us": NOW,
        "end_us": None,
        "retry_us": None,
        "result_hash": None,
        "failure_code": None,
        "failure_message": None,
        "output": None,
        "output_type": None,
        "checkpoint": None,
        "checkpoint_type": None,
        "detail": None,
    }
    return _row(journal.TASK_COLUMNS, values, changes)


def event_row(run_id: str, sequence: int, tenant_id: str = TENANT, **changes: Any) -> journal.Row:
    """The event of a lease."""
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "run_id": run_id,
        "sequence": sequence,
        "at_us": NOW + sequence,
        "kind": EventKind.TASK_LEASED,
        "task_key": "task-0",
        "attempt": 1,
        "term": 1,
        "agent": "host-1",
        "code": "",
        "message": "",
    }
    return _row(journal.EVENT_COLUMNS[:-1], values, changes)


def request_row(request_id: str, tenant_id: str = TENANT, **changes: Any) -> journal.Row:
    """An answered request."""
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "request_id": request_id,
        "method": "StartRun",
        "digest": b"\x01" * 32,
        "response": b"answer",
        "at_us": NOW,
    }
    return _row(journal.REQUEST_COLUMNS, values, changes)


def changes(term: int = 1, tenant_id: str = TENANT, **rows: Any) -> journal.Changes:
    """Changes under the seat of one tenant."""
    return journal.Changes(seats={tenant_id: term}, **rows)


def settle(store: Store, tenant_id: str = TENANT, name: str = "count") -> TenantReads:
    """Makes a tenant with a workflow, and gives what reads it."""
    writer = store.writer()
    writer.act({}, lambda acts: acts.create_tenant(tenant(tenant_id)))
    register(store, tenant_id, name)
    return TenantReads(store, tenant_id)


def register(
    store: Store, tenant_id: str = TENANT, name: str = "count", digest: str = DIGEST, term: int = 1
) -> int:
    """Registers a workflow and gives its version."""
    workflow, _ = store.writer().act(
        {tenant_id: term},
        lambda acts: acts.register_workflow(
            tenant_id, name, digest, digest.encode(), 10, 9, "k-1", NOW, ["paid"]
        ),
    )
    return workflow.version


def pause(store: Store, tenant_id: str = TENANT, workflow: str = "count") -> None:
    """Keeps that a workflow is paused."""
    paused = records.Pause(workflow=workflow, reason=tenant_id, pause_us=NOW, paused_by="k-1")
    store.writer().act({tenant_id: 1}, lambda acts: acts.pause(tenant_id, paused))


def constitute(
    store: Store, tenant_id: str = TENANT, digest: str = DIGEST
) -> tuple[records.ConstitutionVersion, bool]:
    """Puts a constitution into force."""
    return store.writer().act(
        {tenant_id: 1},
        lambda acts: acts.set_constitution(tenant_id, digest, b"{}", tenant_id, NOW),
    )


def _row(columns: tuple[str, ...], values: dict[str, Any], changes: dict[str, Any]) -> journal.Row:
    assert changes.keys() <= values.keys()
    merged = {**values, **changes}
    return tuple(merged[column] for column in columns)
