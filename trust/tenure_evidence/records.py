"""Compares a coordinator's records with its log: definitions, runs, events, results.

The log is proven by its tree and its checkpoints; the records are what everybody looks at. A record
that says something else than the log was changed afterwards. What retention has removed is counted,
not blamed: a run or a payload may be gone, but it cannot be another one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tenure_evidence import digests, enactments, keys, rows, standing, tree
from tenure_evidence.audit import Audit, Fault, LogEntry, audit
from tenure_evidence.canonical import canonical, digest_text, read_json
from tenure_evidence.database import Database, Stored
from tenure_evidence.items import ItemInvalid, events_of
from tenure_evidence.outcomes import Outcomes
from tenure_evidence.report import FINDINGS_MAX
from tenure_evidence.results import Results

_DENIED, _REFUSED = 2, 3
_FAULTS_MAX = 10_000

#: What an item says and the execution log does not.
_ITEM_ONLY = {"definition", "previous", "constitution", "input", "handler", "output", "result"}
_REPEATED = {"run", "seq", *rows.REPEATED}
#: Nothing of it is so of an event that is about no task.
_OF_TASKS = ("attempt", "term", "agent")
_EVENT = """
SELECT at_us, kind, task_key, attempt, term, agent, code, message, entry_index
FROM workflow_execution_log WHERE tenant_id = ? AND run_id = ? AND sequence = ?
"""
_EVENTS = """
SELECT run_id, sequence, entry_index FROM workflow_execution_log
WHERE tenant_id = ? AND entry_index IS NOT NULL
"""
_UNPROVEN = """
SELECT run_id, min(sequence) FROM workflow_execution_log e
WHERE tenant_id = ?1 AND entry_index IS NULL AND EXISTS (
  SELECT 1 FROM workflow_execution_log f WHERE f.tenant_id = ?1 AND f.run_id = e.run_id
  AND f.sequence < e.sequence AND f.entry_index IS NOT NULL)
GROUP BY run_id
"""
#: Runs without a first event, or with one that no act caused though there was evidence by then.
_UNBORN = """
SELECT r.run_id FROM workflow_runs r LEFT JOIN workflow_execution_log l
  ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id AND l.sequence = 1
WHERE r.tenant_id = ?1 AND l.entry_index IS NULL AND (
  l.sequence IS NULL
  OR r.create_us >= (SELECT min(at_us) FROM evidence_entries WHERE tenant_id = ?1))
"""
_RUN = """
SELECT workflow_digest, constitution_digest, input, input_type FROM workflow_runs
WHERE tenant_id = ? AND run_id = ?
"""
_RUNS = """
SELECT r.run_id, r.state, l.kind, l.entry_index, d.digest IS NULL
FROM workflow_runs r
JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
  AND l.sequence = (SELECT max(sequence) FROM workflow_execution_log m
                    WHERE m.tenant_id = r.tenant_id AND m.run_id = r.run_id)
LEFT JOIN workflow_definitions d ON d.tenant_id = r.tenant_id AND d.digest = r.workflow_digest
  AND d.name = r.workflow AND d.version = r.workflow_version
WHERE r.tenant_id = ? AND l.entry_index IS NOT NULL
"""
_ITEMS = "SELECT items FROM evidence_entries WHERE tenant_id = ? AND entry_index = ?"
_NODE = "SELECT hash FROM evidence_nodes WHERE tenant_id = ? AND level = ? AND position = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What came of the audit of one log in a database."""

    log: str
    audit: Audit
    #: How many events of the execution log agree with the log.
    events: int
    #: How many events, and how many payloads, are no longer there.
    events_pruned: int
    payloads_pruned: int


def _unheard(_: int) -> None:
    """Takes what nobody wants to know."""


def judge(
    database: Database,
    log: str,
    chain: keys.Chain,
    published: Iterable[str] = (),
    told: Callable[[int], None] = _unheard,
) -> Judgement:
    """Audits one log of a database and the records it speaks of.

    `published` are checkpoints that were kept elsewhere; `told` hears how many entries are done.
    """
    records = _Records(database, log, told)
    try:
        kept = database.checkpoints(log)
    except ValueError as error:
        kept = []
        records.fault("database", str(error))
    found = audit(records.entries(), tenant=log, chain=chain, checkpoints=[*kept, *published])
    records.finish(found.size)
    # By number: what comes first must not be what is left out.
    faults = sorted((*found.faults, *records.faults), key=_number)
    left_out = found.faults_left_out + records.left_out + max(0, len(faults) - FINDINGS_MAX)
    return Judgement(
        log=log,
        audit=replace(
            found,
            faults=tuple(faults[:FINDINGS_MAX]),
            faults_left_out=left_out,
        ),
        events=records.events,
        events_pruned=records.events_pruned,
        payloads_pruned=records.payloads_pruned
        + records.results.payloads_pruned
        + records.outcomes.payloads_pruned,
    )


class _Records:
    """Compares the records of one tenant while its log goes by."""

    def __init__(self, database: Database, log: str, told: Callable[[int], None]) -> None:
        self.database = database
        self._told = told
        self.log = log
        self.faults: list[Fault] = []
        self.left_out = 0
        self.results = Results(database, log)
        self.outcomes = Outcomes(database, log)
        self.events = 0
        self.events_pruned = 0
        self.payloads_pruned = 0
        self._damaged = False
        #: Of the stored leaves, as long as none is missing.
        self._frontier: tree.Frontier | None = tree.Frontier()
        #: Digest and entry of each version that the log knows.
        self._versions: dict[tuple[str, str], tuple[str, int]] = {}
        self._enacted: list[enactments.Enactment] = []
        #: Of runs whose rows name another definition than they were started under: the entry that
        #: named their definition last, and its digest.
        self._moving: dict[str, tuple[int, Any]] = {}

    def fault(self, what: str, reason: str, index: int | None = None) -> None:
        """Notes a fault, with the number of the entry that it contradicts."""
        if len(self.faults) < _FAULTS_MAX:
            self.faults.append(Fault(what=what, reason=reason, index=index))
        else:
            self.left_out += 1

    def entries(self) -> Iterator[LogEntry]:
        """Gives the entries as they are stored, each once it was compared; ends at damage."""
        index = 0
        try:
            for stored in self.database.entries(self.log):
                index = stored.index
                yield LogEntry(
                    index=index,
                    entry=stored.entry,
                    items=self._compare(stored),
                    leaf=stored.leaf,
                )
                index += 1
                self._told(index)
        except sqlite3.Error as error:
            self._damaged = True
            self.fault("database", f"the file is damaged from here on: {error}", index)

    def finish(self, size: int) -> None:
        """Compares what the log did not lead to: more than it knows, and what is left of it."""
        if self._damaged:
            return
        try:
            if (said := self.database.size(self.log)) != size:
                self.fault("head", f"the log has {size} entries, its head says {said}", size)
            self._definitions()
            self._constitutions()
            self._more_events()
            self._moves()
            self._runs()
            for index, reason in self.outcomes.problems():
                self.fault("payload", reason, index)
        except sqlite3.Error as error:
            self.fault("database", f"the records are damaged: {error}")

    # Entry by entry

    def _compare(self, stored: Stored) -> list[bytes] | None:
        """Compares what stands beside an entry; gives its items."""
        index = stored.index
        try:
            entry = read_json(stored.entry)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            # The audit says what is wrong with it.
            return None
        self._nodes(stored)
        if stored.columns != _columns_of(entry):
            self.fault("columns", "the columns for searching say something else", index)
        match entry:
            case {"definition": str(digest), "subject": {"workflow": name, "version": version}}:
                if "refusal" not in entry:
                    self._versions.setdefault((str(name), str(version)), (digest, index))
        if enactment := enactments.enactment_of(index, entry):
            self._enacted.append(enactment)
        if stored.items is None:
            # Retention leaves items alone: where the entry has some, the audit misses them.
            return []
        items = self._items(stored)
        for item in items:
            self._item(index, read_json(item))
        return items

    def _nodes(self, stored: Stored) -> None:
        """Compares the nodes that a leaf completes; proofs are made from them."""
        if stored.leaf is None:
            self.fault("node", "its leaf is missing in the stored tree", stored.index)
        if self._frontier is None or stored.leaf is None or self._frontier.size != stored.index:
            self._frontier = None
            return
        for level, position, value in self._frontier.append(stored.leaf)[1:]:
            row = self.database.row(_NODE, self.log, level, position)
            if row is None or row[0] != value:
                reason = f"node {position} of level {level} is not what the entries give"
                self.fault("node", reason, stored.index)

    def _items(self, stored: Stored) -> list[bytes]:
        raw = stored.items or b""
        try:
            items = [canonical(item) for item in read_json(raw)]
        except (ValueError, TypeError):
            items = []
        if not items or b"[" + b",".join(items) + b"]" != raw:
            self.fault("items", "its items are not in their canonical form", stored.index)
        return items

    def _item(self, index: int, item: Any) -> None:
        """Compares an item with the events that it is about."""
        try:
            for event in events_of(item) if isinstance(item, dict) else (item,):
                self._event(index, event)
        except ItemInvalid as error:
            self.fault("items", f"it has an item that {error}", index)

    def _event(self, index: int, item: Any) -> None:
        """Compares what an item says of an event with that event, and what follows from it."""
        match item:
            case {"run": str(run), "seq": int(seq), "kind": str(kind)}:
                where = f"event {seq} of run {run}"
            case _:
                self.fault("items", "it has an item that is about no event", index)
                return
        row = self.database.row(_EVENT, self.log, run, seq)
        if row is None:
            if self.database.row(_EVENTS + " AND run_id = ?", self.log, run) is None:
                self.events_pruned += 1
            else:
                self.fault("event", f"{where} is missing in the execution log", index)
            return
        self.events += 1
        *told, entry_index = row
        if entry_index != index:
            self.fault("event", f"{where} refers to entry {entry_index}", index)
        differs = rows.differing(item, told)
        if differs in _OF_TASKS and not told[2]:
            reason = "is of the whole run, but names an attempt, a term or an agent"
            self.fault("event", f"run {run}: event {seq} {reason}", index)
        elif differs or item.keys() - _REPEATED - _ITEM_ONLY:
            self.fault("event", f"{where} is not what the execution log has of it", index)
        self.outcomes.hear(index, item)
        if kind == "run.started":
            self._started(index, run, item)
        elif kind == "run.moved":
            self._moved(index, run, item)

    def _started(self, index: int, run: str, item: Mapping[str, Any]) -> None:
        row = self.database.row(_RUN, self.log, run)
        if row is None:
            self.fault("run", f"run {run} has events, but is no longer there", index)
            return
        definition, constitution, data, content_type = row
        if constitution != item.get("constitution"):
            reason = f"run {run} has another constitution than it was started with"
            self.fault("run", reason, index)
        if definition != item.get("definition"):
            self._moving[run] = index, item.get("definition")
        self._payload(index, f"the input of run {run}", item.get("input"), data, content_type)

    def _moved(self, index: int, run: str, item: Mapping[str, Any]) -> None:
        _, known = self._moving.get(run, (index, None))
        if known is None:
            reason = f"run {run} was moved, but its row has the definition that it was started with"
            self.fault("run", reason, index)
            return
        if known != item.get("previous"):
            self.fault("run", f"run {run} was moved from another definition than its own", index)
        self._moving[run] = index, item.get("definition")

    def _moves(self) -> None:
        """Compares the definitions that runs were moved to with their rows."""
        for run, (index, digest) in self._moving.items():
            row = self.database.row(_RUN, self.log, run)
            if row is not None and row[0] != digest:
                reason = f"run {run} has another definition than it was started with or moved to"
                self.fault("run", reason, index)

    def _payload(
        self, index: int, what: str, digest: Any, data: bytes | None, content_type: str | None
    ) -> None:
        if data is None:
            self.payloads_pruned += digest is not None
        elif digest != digests.payload_text(data, content_type):
            self.fault("payload", f"{what} is not the one that was there", index)

    # The rest

    def _definitions(self) -> None:
        sql = """
        SELECT name, version, digest, canonical FROM workflow_definitions WHERE tenant_id = ?
        """
        for name, version, digest, text in self.database.rows(sql, self.log):
            said, index = self._versions.pop((name, str(version)), (digest, None))
            if digest_text(text) != digest or digest != said:
                reason = f"definition {name}@{version} is not the one that was registered"
                self.fault("definition", reason, index)
        for (name, version), (_, index) in self._versions.items():
            self.fault("definition", f"definition {name}@{version} is missing", index)

    def _constitutions(self) -> None:
        sql = "SELECT version, digest, canonical FROM constitutions WHERE tenant_id = ?"
        stored = self.database.rows(sql, self.log)
        for index, reason in enactments.problems(stored, self._enacted):
            self.fault("constitution", reason, index)

    def _more_events(self) -> None:
        """Finds events that no act caused."""
        for run, seq in self.database.rows(_UNPROVEN, self.log):
            self.fault("event", f"event {seq} of run {run} refers to no entry")
        sql = f"SELECT count(*) FROM ({_EVENTS})"
        total = self.database.row(sql, self.log)
        if total is None or total[0] == self.events:
            return
        for run, seq, index in self.database.rows(_EVENTS, self.log):
            row = self.database.row(_ITEMS, self.log, index)
            if row is None or row[0] is None or not _has(row[0], run, seq):
                self.fault("event", f"event {seq} of run {run} is not in the entry", index)

    def _runs(self) -> None:
        for fault in standing.faults(self.database, self.log):
            self.fault(fault.what, fault.reason, fault.index)
        for (run,) in self.database.rows(_UNBORN, self.log):
            self.fault("run", f"run {run} has no beginning that any entry knows of")
        for run, state, kind, index, undefined in self.database.rows(_RUNS, self.log):
            last = rows.kind_of(kind)
            ended = last if last in rows.RUN_ENDS.values() else None
            if rows.RUN_ENDS.get(state) != ended:
                reason = f"run {run} is in state {state}, but its last event is {last}"
                self.fault("run", reason, index)
            if undefined:
                self.fault("run", f"run {run} is of a definition that is not there", index)
            for fault in self.results.faults(run):
                self.fault(fault.what, fault.reason, fault.index)


def _number(fault: Fault) -> tuple[bool, int]:
    return fault.index is None, fault.index or 0


def _columns_of(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    standing = 1 if entry.get("articles") else 0
    if entry.get("verdict") == "deny":
        standing = _DENIED
    elif "refusal" in entry:
        standing = _REFUSED
    names = ("at", "kind", "principal", "correlation")
    return (*(entry.get(name) for name in names), standing)


def _has(items: bytes, run: str, seq: int) -> bool:
    try:
        events = (event for item in read_json(items) for event in events_of(item))
        return any(event["run"] == run and event["seq"] == seq for event in events)
    except (ValueError, TypeError, KeyError):
        return False
