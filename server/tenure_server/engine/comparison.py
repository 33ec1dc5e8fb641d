"""Compares what the tables say of a run with its evidence, event by event.

The log is what was signed for; the tables are what everybody reads. Payloads that were pruned are
no fault, for the log holds their digests only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tenure_evidence import rows
from tenure_evidence.canonical import NotCanonical, hash_text, read
from tenure_evidence.digests import payload_text
from tenure_evidence.items import ItemInvalid, events_of
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState
from tenure_server.store.evidence_reads import EvidenceReads
from tenure_server.store.reads import TenantReads

_PAGE = 1000
_ENDS = {RunState(number): kind for number, kind in rows.RUN_ENDS.items()}
#: What was written down of an event, and the number of the entry.
Item = tuple[int, Mapping[str, Any]]


def compare(
    tables: TenantReads, evidence: EvidenceReads, run: records.Run
) -> tuple[int | None, str] | None:
    """What is wrong with the rows of a run, first event first: the entry concerned, and what it is.

    Inside `Store.reading`. None: nothing is.
    """
    items = _items(evidence, run.run_id)
    last = unwritten = 0
    for number, event in enumerate(_events(evidence, run.run_id), start=1):
        found = items.get(number)
        if event["sequence"] != number:
            return _entry_of(items, number), f"run {run.run_id}: event {number} is missing"
        if found is None and unwritten == last and _is_before_evidence(evidence, event):
            last = unwritten = number
            continue
        if found is None:
            return event["entry"], f"run {run.run_id}: event {number} is in no entry"
        problem = _event_problem(event, found)
        if problem:
            return found[0], f"run {run.run_id}: event {number} {problem}"
        last = number
    if last < max(items, default=0):
        return items[last + 1][0], f"run {run.run_id}: event {last + 1} is missing"
    if unwritten:
        return None  # what its rows say of it as a whole was begun by what nobody wrote down
    return (
        _run_problem(run, items, last)
        or _start_problem(evidence, run, items)
        or _task_problem(tables, run.run_id, items)
    )


def _items(evidence: EvidenceReads, run_id: str) -> dict[int, Item]:
    found: dict[int, Item] = {}
    for entry in evidence.entries_of_run(run_id, 1 << 53):
        for raw in entry.items or ():
            try:
                item = read(raw)
                if item.get("run") == run_id:
                    found |= {event["seq"]: (entry.index, event) for event in events_of(item)}
            except (NotCanonical, ItemInvalid):
                continue  # the audit of the log names it, or its events are in no entry
    return found


def _events(evidence: EvidenceReads, run_id: str) -> Iterator[Mapping[str, Any]]:
    after = 0
    while page := evidence.events_of_run(run_id, after, _PAGE):
        yield from page
        after = page[-1]["sequence"]


def _is_before_evidence(evidence: EvidenceReads, event: Mapping[str, Any]) -> bool:
    """Whether an event happened before its tenant had a log."""
    first = evidence.entry(0)
    if event["entry"] is not None or first is None:
        return False
    try:
        begin_us = read(first.entry).get("at")
    except NotCanonical:
        return False  # the audit of the log names it
    return isinstance(begin_us, int) and event["at_us"] < begin_us


def _entry_of(items: Mapping[int, Item], number: int) -> int | None:
    return items[number][0] if number in items else None


def _event_problem(event: Mapping[str, Any], found: Item) -> str:
    index, item = found
    if event["entry"] != index:
        return f"names entry {event['entry']}, but is in entry {index}"
    columns = ("at_us", "kind", "task", "attempt", "term", "agent", "code", "message")
    name = rows.differing(item, [event[column] for column in columns])
    return f"says another {name} than was written down" if name else ""


def _run_problem(
    run: records.Run, items: Mapping[int, Item], last: int
) -> tuple[int | None, str] | None:
    name = f"run {run.run_id}"
    if not items:
        return None, f"{name}: nothing was written down of it"
    index, start = items[1]
    if problem := _definition_problem(run, items):
        return problem
    if start.get("constitution", "") != run.constitution_digest:
        return index, f"{name} names another constitution than it was started under"
    if run.input is not None:
        digest = payload_text(run.input.data, run.input.content_type)
        if start.get("input") != digest:
            return index, f"{name} has another input than it was started with"
    index, end = items[last]
    wanted = _ENDS.get(run.state)
    if (run.state in RUN_ENDED or end.get("kind") in _ENDS.values()) and end.get("kind") != wanted:
        return index, f"{name} is {run.state.name.lower()}, but ends with {end.get('kind')}"
    if run.output is not None:
        digest = payload_text(run.output.data, run.output.content_type)
        if end.get("output") != digest:
            return index, f"{name} has another output than it ended with"
    return _repeated_problem(run, items, last)


def _definition_problem(run: records.Run, items: Mapping[int, Item]) -> tuple[int, str] | None:
    """Follows a run from the definition that it was started under through its moves."""
    name = f"run {run.run_id}"
    index, start = items[1]
    definition, how = start.get("definition"), "started under"
    for number in sorted(items):
        place, item = items[number]
        if item.get("kind") == "run.moved":
            if item.get("previous") != definition:
                return place, f"{name} was moved from another definition than its own"
            index, definition, how = place, item.get("definition"), "moved to"
    if definition != run.workflow_digest:
        return index, f"{name} names another definition than it was {how}"
    return None


def _repeated_problem(
    run: records.Run, items: Mapping[int, Item], last: int
) -> tuple[int | None, str] | None:
    """Compares what a run's row repeats of its items."""
    name, ended = f"run {run.run_id}", run.state in RUN_ENDED
    (index, start), (last_index, end) = items[1], items[last]
    if run.create_us != start.get("at"):
        return index, f"{name} was started at another time"
    if run.end_us != (end.get("at") if ended else None):
        return last_index, f"{name} ended at another time"
    if not ended and run.state not in _states_after(items):
        return last_index, f"{name} is {run.state.name.lower()}, other than its items say"
    kinds = Counter(_ends_of_tasks(items).values())
    counted = {"succeeded": run.succeeded}
    if ended:
        counted |= {
            "failed": run.failed,
            "upstream_failed": run.upstream_failed,
            "cancelled": run.cancelled,
            "skipped": run.skipped,
        }
    for how, number in counted.items():
        # Of an open run it is written when the run changes its state, not with each task.
        if number > kinds[f"task.{how}"] or (ended and number < kinds[f"task.{how}"]):
            reason = f"{name} counts {number} tasks that {how}, not {kinds[f'task.{how}']}"
            return last_index, reason
    return None


def _states_after(items: Mapping[int, Item]) -> tuple[int, ...]:
    """Where a run can stand after its events, by the last one that says so."""
    for number in sorted(items, reverse=True):
        states = rows.RUN_STANDS.get(str(items[number][1].get("kind")))
        if states is not None:
            return states
    return ()


def _ends_of_tasks(items: Mapping[int, Item]) -> dict[object, object]:
    """How each task has ended: the kind of the item that says so."""
    found: dict[object, object] = {}
    for number in sorted(items):
        item = items[number][1]
        kind, task = item.get("kind"), item.get("task")
        if kind in rows.TASK_ENDS:
            found[task] = kind
        elif kind == "task.reopened":
            found.pop(task, None)
    return found


def _start_problem(
    evidence: EvidenceReads, run: records.Run, items: Mapping[int, Item]
) -> tuple[int | None, str] | None:
    """Compares by whom a run was started with the entry of its start."""
    index = items[1][0]
    stored = evidence.entry(index)
    try:
        entry = read(stored.entry) if stored else {}
    except NotCanonical:
        return None  # the audit of the log names it
    said = entry.get("principal", ""), entry.get("correlation", "")
    if stored and said != (run.started_by, run.correlation_id):
        return index, f"run {run.run_id} was started by another key or in another call"
    return None


def _task_problem(
    tables: TenantReads, run_id: str, items: Mapping[int, Item]
) -> tuple[int | None, str] | None:
    results: dict[object, Item] = {}
    for number in sorted(items):
        # What no agent reports can have an output too.
        if items[number][1].keys() & {"result", "output"}:
            results[items[number][1].get("task")] = items[number]
    after = -1
    while page := tables.tasks(run_id, after, _PAGE, with_output=True):
        for task in page:
            index, item = results.get(task.task_key, (None, {}))
            name = f"run {run_id}: task {task.task_key}"
            known = item.get("term") == task.term and task.result_hash is not None
            if known and hash_text(task.result_hash or b"") != item.get("result"):
                return index, f"{name} has another result than was written down"
            if task.output is not None:
                digest = payload_text(task.output.data, task.output.content_type)
                if digest != item.get("output"):
                    return index, f"{name} has another output than was written down"
        after = page[-1].task_index
    return None
