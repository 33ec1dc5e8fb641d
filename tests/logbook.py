"""Reads the logs of evidence off a store's tables, and checks them without any of its code.

logs = read(store)          in the process that has the store open
logs = read_url(url)        any other's, alive or dead
logs.check()                every hash, number and item anew
sizes, since                the same words for an open store, which read no more than they must
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import psycopg

from tenure_evidence import canonical, tree
from tenure_server.core.ledger.lifecycle import EventKind
from tenure_server.store.database import Store

_ENTRIES = (
    "SELECT tenant_id, entry_index, at_us, kind, principal, correlation_id, standing, entry, items"
    " FROM evidence_entries ORDER BY tenant_id, entry_index"
)
_NODES = "SELECT tenant_id, level, position, hash FROM evidence_nodes"
_HEADS = "SELECT tenant_id, size, term FROM evidence_heads"
_EVENT_NAMES = (
    *("tenant_id", "run_id", "sequence", "at_us", "kind", "task_key", "attempt", "term", "agent"),
    *("code", "entry_index"),
)
_EVENTS = (
    f"SELECT {', '.join(_EVENT_NAMES)} FROM workflow_execution_log"
    " ORDER BY tenant_id, run_id, sequence"
)

Rows = Callable[[str], Iterable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it is stored."""

    raw: bytes
    #: Its columns beside the bytes, which may not say anything else.
    columns: dict[str, Any]
    items: list[dict[str, Any]]

    @property
    def events(self) -> Iterator[dict[str, Any]]:
        """What the items say, event by event."""
        for item in self.items:
            for number, task in enumerate(item.get("tasks", ())):
                alike = {name: value for name, value in item.items() if name != "tasks"}
                yield {**alike, "seq": item["seq"] + number, "task": task}
            if "tasks" not in item:
                yield item

    @property
    def says(self) -> dict[str, Any]:
        """What the entry says."""
        return canonical.read(self.raw)


@dataclass(slots=True)
class Logs:
    """All logs of a store, by tenant; the installation's under the empty name."""

    entries: dict[str, list[Entry]] = field(default_factory=dict)
    nodes: dict[str, dict[tree.Place, bytes]] = field(default_factory=dict)
    #: Size and term.
    heads: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Rows of the execution log.
    events: list[dict[str, Any]] = field(default_factory=list)

    def of(self, tenant_id: str) -> list[dict[str, Any]]:
        """What the entries of one log say."""
        return [entry.says for entry in self.entries.get(tenant_id, [])]

    def sizes(self) -> dict[str, int]:
        """How long each log is."""
        return {tenant_id: len(entries) for tenant_id, entries in self.entries.items()}

    def since(self, before: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
        """What was added to each log since it had these sizes; logs without anything left out."""
        return {
            tenant_id: self.of(tenant_id)[before.get(tenant_id, 0) :]
            for tenant_id in self.entries
            if len(self.entries[tenant_id]) > before.get(tenant_id, 0)
        }

    def check(self) -> None:
        """Wants every log to be whole, and each event to be in the entry that its row names."""
        assert {name: size for name, (size, _) in self.heads.items() if size} == self.sizes()
        for tenant_id, entries in self.entries.items():
            self._check_log(tenant_id, entries)
        places = self._check_items()
        for event in self.events:
            where = (event["tenant_id"], event["entry_index"])
            assert (event["run_id"], event["sequence"]) in places.get(where, {}), event
            item = places[where].pop((event["run_id"], event["sequence"]))
            _check_event(event, item)
        assert not any(places.values()), "items of events that are not in the execution log"

    def _check_log(self, tenant_id: str, entries: list[Entry]) -> None:
        frontier = tree.Frontier()
        nodes: dict[tree.Place, bytes] = {}
        terms = [0]
        for index, entry in enumerate(entries):
            says = entry.says
            assert (says["log"], says["index"]) == (tenant_id, index)
            assert entry.columns["entry_index"] == index, "a gap in the log"
            assert entry.columns["at_us"] == says["at"]
            for name, word in (("kind", "kind"), ("principal",) * 2):
                assert entry.columns[name] == says[word]
            assert entry.columns["correlation_id"] == says["correlation"]
            terms.append(says["term"])
            for level, position, value in frontier.append(tree.leaf_hash(entry.raw)):
                nodes[level, position] = value
        assert terms == sorted(terms), "a term goes back"
        assert tenant_id or set(terms) == {0}, "the installation's log has no seat"
        assert self.nodes[tenant_id] == nodes
        size, term = self.heads[tenant_id]
        assert (size, term) == (len(entries), terms[-1])
        restored = tree.Frontier.restore(size, self.nodes[tenant_id])
        assert restored.root() == tree.root([tree.leaf_hash(entry.raw) for entry in entries])

    def _check_items(self) -> dict[tuple[str, int], dict[tuple[str, int], dict[str, Any]]]:
        places = {}
        for tenant_id, entries in self.entries.items():
            for index, entry in enumerate(entries):
                leaves = [tree.leaf_hash(canonical.canonical(item)) for item in entry.items]
                root = {"count": len(leaves), "root": tree.root(leaves).hex()} if leaves else None
                assert entry.says.get("items") == root
                events = list(entry.events)
                found = {(event["run"], event["seq"]): event for event in events}
                assert len(found) == len(events), "an event twice"
                places[tenant_id, index] = found
        return places


def _check_event(event: dict[str, Any], item: dict[str, Any]) -> None:
    assert item["kind"] == EventKind(event["kind"]).name.lower().replace("_", ".", 1)
    assert item["at"] == event["at_us"]
    for name, column in (("task", "task_key"), ("agent", "agent"), ("code", "code")):
        assert item.get(name, "") == event[column], (name, item, event)
    for name in ("attempt", "term"):
        assert item.get(name, 0) == event[name], (name, item, event)


def read(store: Store) -> Logs:
    """Reads the logs of a store that is open in this process."""
    with store.reading():
        return _read(_of_open(store))


def _of_open(store: Store) -> Rows:
    # A second library on the same file would take the first one's locks away.
    database = cast("Any", store.backend.reading)
    return lambda sql: database.execute_sql(sql).fetchall()


def sizes(store: Store) -> dict[str, int]:
    """How long each log of an open store is."""
    with store.reading():
        rows = _of_open(store)
        counted = "SELECT tenant_id, COUNT(*) FROM evidence_entries GROUP BY tenant_id"
        return {str(tenant_id): int(size) for tenant_id, size in rows(counted)}


def since(store: Store, before: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """What was added to each log since it had these sizes; logs without anything left out."""
    added: dict[str, list[dict[str, Any]]] = {}
    with store.reading():
        rows = _of_open(store)
        for (tenant_id,) in rows("SELECT DISTINCT tenant_id FROM evidence_entries"):
            found = rows(
                "SELECT entry FROM evidence_entries"
                f" WHERE tenant_id = '{tenant_id}' AND entry_index >= {before.get(tenant_id, 0)}"
                " ORDER BY entry_index"
            )
            if says := [canonical.read(bytes(entry)) for (entry,) in found]:
                added[tenant_id] = says
    return added


def read_url(url: str) -> Logs:
    """Reads the logs of a store that other processes have open, or nobody."""
    if url.startswith("sqlite:"):
        path = "/" + url.removeprefix("sqlite:").lstrip("/")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reading:
            # One state of the database for all the statements.
            reading.execute("BEGIN")
            return _read(lambda sql: reading.execute(sql).fetchall())
    with psycopg.connect(url) as connection:
        # One state of the database for all the statements.
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return _read(lambda sql: connection.execute(sql.encode()).fetchall())


def _unpacked(items: bytes) -> bytes:
    text = items if items.startswith(b"[") else zlib.decompress(items)
    if not text.startswith(b":"):
        return text
    head, whole = b"", []
    for line in text.split(b"\n"):
        if line.startswith(b":"):
            head = line[1:]
        else:
            whole.append(head + line)
    return b"[" + b",".join(whole) + b"]"


def _read(rows: Rows) -> Logs:
    logs = Logs()
    names = ("tenant_id", "entry_index", "at_us", "kind", "principal", "correlation_id", "standing")
    for row in rows(_ENTRIES):
        *columns, raw, items = row
        logs.entries.setdefault(row[0], []).append(
            Entry(
                bytes(raw),
                dict(zip(names, columns, strict=True)),
                [] if items is None else json.loads(_unpacked(bytes(items))),
            )
        )
    for tenant_id, level, position, value in rows(_NODES):
        logs.nodes.setdefault(tenant_id, {})[level, position] = bytes(value)
    logs.heads = {tenant_id: (size, term) for tenant_id, size, term in rows(_HEADS)}
    logs.events = [dict(zip(_EVENT_NAMES, row, strict=True)) for row in rows(_EVENTS)]
    return logs
