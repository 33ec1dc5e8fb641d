"""Reads what a store holds, straight from its tables: SQLite or PostgreSQL, nobody else near it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import psycopg
from tests.chaos.history import Entry, Flow, Happening, Record, StoredEvent, StoredRun

from tenure_evidence import audit, keys
from tenure_evidence.canonical import canonical
from tenure_evidence.packing import unpacked
from tenure_server.core.lifecycle import EventKind, RunState
from tenure_server.store.sqlite import path_of

Query = Callable[[str], Iterable[tuple[Any, ...]]]
#: The label under which a run says which request asked for it.
REQUEST_LABEL = "request"
INSTALLATION = ""


def kind_name(number: int) -> str:
    """An event's kind as evidence names it: `task.lease_lost`."""
    return EventKind(number).name.lower().replace("_", ".", 1)


@contextlib.contextmanager
def querying(store: str) -> Iterator[Query]:
    """Opens a store by its URL and gives what runs queries on it."""
    if store.startswith("sqlite"):
        path = path_of(store)
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            yield lambda sql: connection.execute(sql).fetchall()
    else:
        with psycopg.connect(store, autocommit=True) as database:
            yield lambda sql: database.execute(sql.encode()).fetchall()


def record_of(store: str, slots: Mapping[str, int]) -> Record:
    """Reads everything that the checker wants to know. `slots` are the agents', by name."""
    with querying(store) as query:
        return _record(query, slots)


def _record(query: Query, slots: Mapping[str, int]) -> Record:
    tenants: dict[str, int] = dict(query("SELECT tenant_id, max_leases FROM tenants"))
    runs = {
        run_id: StoredRun(
            tenant=tenant,
            workflow=workflow,
            state=RunState(state).name,
            request_id=json.loads(labels).get(REQUEST_LABEL, ""),
        )
        for tenant, run_id, workflow, state, labels in query(
            "SELECT tenant_id, run_id, workflow, state, labels FROM workflow_runs"
        )
    }
    logs, found = _logs(query, tenants)
    return Record(
        tenants=tenants,
        workflows=_workflows(query),
        agents=dict(slots),
        runs=runs,
        events=_events(query),
        logs=logs,
        owners={
            key_id: tenant
            for tenant, key_id in query("SELECT tenant_id, api_key_id FROM api_key_tenants")
        },
        audit=found,
    )


def _workflows(query: Query) -> dict[tuple[str, str], Flow]:
    flows = {}
    for tenant, name, content in query(
        "SELECT tenant_id, name, canonical FROM workflow_definitions ORDER BY version"
    ):
        definition = json.loads(bytes(content))
        flows[tenant, name] = Flow(
            max_leases=definition.get("max_leases", 0),
            upstream={
                task["key"]: tuple(task.get("depends_on", ())) for task in definition["tasks"]
            },
        )
    return flows


def _events(query: Query) -> dict[str, list[StoredEvent]]:
    events: dict[str, list[StoredEvent]] = defaultdict(list)
    for run_id, sequence, kind, task, term, index in query(
        "SELECT run_id, sequence, kind, task_key, term, entry_index FROM workflow_execution_log"
        " ORDER BY tenant_id, run_id, sequence"
    ):
        events[run_id].append(
            (sequence, kind_name(kind), task, term, -1 if index is None else index)
        )
    return dict(events)


def _logs(query: Query, tenants: Iterable[str]) -> tuple[dict[str, list[Entry]], list[str]]:
    leaves = {
        (tenant, position): bytes(value)
        for tenant, position, value in query(
            "SELECT tenant_id, position, hash FROM evidence_nodes WHERE level = 0"
        )
    }
    stored: dict[str, list[audit.LogEntry]] = defaultdict(list)
    entries: dict[str, list[Entry]] = {tenant: [] for tenant in tenants}
    for tenant, index, kind, entry, items in query(
        "SELECT tenant_id, entry_index, kind, entry, items FROM evidence_entries"
        " ORDER BY tenant_id, entry_index"
    ):
        told = [] if items is None else json.loads(unpacked(bytes(items)))
        stored[tenant].append(
            audit.LogEntry(
                index=index,
                entry=bytes(entry),
                items=[canonical(item) for item in told],
                leaf=leaves.get((tenant, index), b"there is no leaf"),
            )
        )
        if tenant != INSTALLATION:
            happened = tuple(map(_happening, told))
            entries.setdefault(tenant, []).append(Entry(index=index, kind=kind, items=happened))
    chain, notes = _signatures(query)
    found = []
    heads: dict[str, int] = dict(query("SELECT tenant_id, size FROM evidence_heads"))
    for tenant, log in stored.items():
        result = audit.audit(log, tenant=tenant, chain=chain, checkpoints=notes.get(tenant, ()))
        found += [f"log of {tenant!r}, {fault.index}: {fault.reason}" for fault in result.faults]
        if heads.get(tenant) != len(log):
            found.append(f"log of {tenant!r} has {len(log)} entries, its head {heads.get(tenant)}")
    return entries, found


def _signatures(query: Query) -> tuple[keys.Chain, dict[str, list[str]]]:
    texts = [text for (text,) in query("SELECT text FROM signing_keys ORDER BY number")]
    if not texts:
        # An installation that signs nothing has no checkpoints that could be wrong.
        return keys.Chain("unsigned", ()), {}
    notes: dict[str, list[str]] = defaultdict(list)
    for tenant, note in query("SELECT tenant_id, note FROM evidence_checkpoints"):
        notes[tenant].append(note)
    return keys.Chain.read(texts[0], texts[1:]), notes


def _happening(item: Mapping[str, Any]) -> Happening:
    return Happening(
        run_id=item["run"],
        sequence=item["seq"],
        kind=item["kind"],
        at=item["at"] / 1e6,
        task=item.get("task", ""),
        term=item.get("term", 0),
        agent=item.get("agent", ""),
    )
