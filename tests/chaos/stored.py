"""Reads what a store holds, straight from its tables: SQLite or PostgreSQL, nobody else near it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import psycopg
from tests.chaos.history import (
    Entry,
    Happening,
    Record,
    StoredEvent,
    StoredRun,
    StoredSchedule,
    StoredTask,
)

from tenure_evidence import audit, keys
from tenure_evidence.canonical import canonical, hash_text
from tenure_evidence.digests import payload_digest
from tenure_evidence.items import events_of
from tenure_evidence.packing import unpacked
from tenure_server.core.definitions.definition import parse
from tenure_server.core.ledger.lifecycle import EventKind, RunState, TaskState
from tenure_server.store import schedule_rows
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
    logs, found = _logs(query, tenants)
    return Record(
        tenants=tenants,
        workflows={
            (tenant, name, version): parse(bytes(content))
            for tenant, name, version, content in query(
                "SELECT tenant_id, name, version, canonical FROM workflow_definitions"
            )
        },
        agents=dict(slots),
        runs=_runs(query),
        tasks={
            (run_id, key): StoredTask(state=TaskState(state).name, output=_json(output))
            for run_id, key, state, output in query(
                "SELECT run_id, task_key, state, output FROM workflow_tasks"
            )
        },
        schedules=_schedules(query),
        events=_events(query),
        logs=logs,
        owners={
            key_id: tenant
            for tenant, key_id in query("SELECT tenant_id, api_key_id FROM api_key_tenants")
        },
        audit=found,
    )


def _runs(query: Query) -> dict[str, StoredRun]:
    runs = {}
    for tenant, run_id, workflow, version, state, labels, *more in query(
        "SELECT tenant_id, run_id, workflow, workflow_version, state, labels, parent_run_id,"
        " parent_task, input, output, detail FROM workflow_runs"
    ):
        parent, parent_task, given, output, detail = more
        words = json.loads(labels)
        kept = json.loads(detail).get("signals", {}) if detail else {}
        runs[run_id] = StoredRun(
            tenant=tenant,
            workflow=workflow,
            version=version,
            state=RunState(state).name,
            request_id=words.get(REQUEST_LABEL, ""),
            labels=words,
            input=_json(given),
            output=_json(output),
            parent=parent,
            parent_task=parent_task,
            signals={name: [_digest_of(one) for one in many] for name, many in kept.items()},
        )
    return runs


def content_digest(data: bytes, content_type: str = "") -> str:
    """The digest of a payload as evidence has it."""
    return hash_text(payload_digest(data, content_type))


def _digest_of(kept: Mapping[str, Any]) -> str:
    return "" if kept["data"] is None else content_digest(b64decode(kept["data"]), kept["type"])


def _json(data: bytes | None) -> Any:
    return None if data is None else json.loads(bytes(data))


def _schedules(query: Query) -> dict[tuple[str, str], StoredSchedule]:
    standings = {
        (tenant, name): schedule_rows.standing((name, standing))[1]
        for tenant, name, standing in query(
            "SELECT tenant_id, name, standing FROM schedule_standings"
        )
    }
    lines: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for tenant, name, *row in query(
        "SELECT tenant_id, name, number, nominal_us, at_us, cause, outcome, times, run_id, code,"
        " message FROM schedule_fires ORDER BY tenant_id, name, number"
    ):
        lines[tenant, name].append(schedule_rows.fire(row))
    return {
        (tenant, row[0]): StoredSchedule(
            schedule=schedule_rows.schedule(row),
            standing=standings[tenant, row[0]],
            lines=lines[tenant, row[0]],
        )
        for tenant, *row in query(
            "SELECT tenant_id, name, content, input, input_type, create_us, created_by, update_us"
            " FROM schedules"
        )
    }


def _events(query: Query) -> dict[str, list[StoredEvent]]:
    events: dict[str, list[StoredEvent]] = defaultdict(list)
    for run_id, sequence, kind, task, term, index, at_us, code, message in query(
        "SELECT run_id, sequence, kind, task_key, term, entry_index, at_us, code, message"
        " FROM workflow_execution_log ORDER BY tenant_id, run_id, sequence"
    ):
        events[run_id].append(
            StoredEvent(
                sequence=sequence,
                kind=kind_name(kind),
                task=task,
                term=term,
                entry=-1 if index is None else index,
                at=at_us / 1e6,
                code=code,
                message=message,
            )
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
            said = json.loads(bytes(entry))
            entries.setdefault(tenant, []).append(
                Entry(
                    index=index,
                    kind=kind,
                    items=tuple(_happening(event) for item in told for event in events_of(item)),
                    at=said["at"] / 1e6,
                    subject=said.get("subject", {}),
                )
            )
    chain, notes = signatures(query)
    found = []
    heads: dict[str, int] = dict(query("SELECT tenant_id, size FROM evidence_heads"))
    for tenant, log in stored.items():
        result = audit.audit(log, tenant=tenant, chain=chain, checkpoints=notes.get(tenant, ()))
        found += [f"log of {tenant!r}, {fault.index}: {fault.reason}" for fault in result.faults]
        if heads.get(tenant) != len(log):
            found.append(f"log of {tenant!r} has {len(log)} entries, its head {heads.get(tenant)}")
    return entries, found


def signatures(query: Query) -> tuple[keys.Chain, dict[str, list[str]]]:
    """The keys that a store names, and the signed checkpoints of each log."""
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
        output=item.get("output", ""),
    )
