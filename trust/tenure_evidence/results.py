"""Compares what tasks came to, as a coordinator's records have it, with the items that say so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from tenure_evidence import digests
from tenure_evidence.audit import Fault
from tenure_evidence.canonical import hash_text, read_json
from tenure_evidence.database import Database
from tenure_evidence.items import events_of

#: How a task can have ended: numbers of its state and of the event.
_ENDS: Final = {(5, 7), (6, 9)}
_FAILED: Final = 6
#: The number of the event by which an end counts no more.
_REOPENED: Final = 24
#: Runs that were worked on together lie in the same entries, and are looked at one after another.
_ENTRIES_KEPT: Final = 256

_TASKS = """
SELECT task_key, state, result_hash, output, output_type, failure_code, failure_message
FROM workflow_tasks WHERE tenant_id = ? AND run_id = ? AND state IN (5, 6)
"""
_EVENTS = """
SELECT task_key, kind, sequence, code, message, entry_index FROM workflow_execution_log
WHERE tenant_id = ? AND run_id = ? AND kind IN (7, 9, 24) ORDER BY sequence
"""
_ITEMS = "SELECT items FROM evidence_entries WHERE tenant_id = ? AND entry_index = ?"

#: What the items of an entry say, by run and number; nothing when they cannot be read.
_Items = Mapping[tuple[str, int], Mapping[str, Any]]


class Results:
    """Compares the results of one tenant's runs."""

    def __init__(self, database: Database, log: str) -> None:
        self.payloads_pruned = 0
        self._database = database
        self._log = log
        self._items: Callable[[int], _Items] = functools.lru_cache(_ENTRIES_KEPT)(self._read)

    def faults(self, run: str) -> Iterator[Fault]:
        """Gives what is wrong with the results of a run's tasks. Raises sqlite3.Error."""
        ends: dict[Any, Any] = {}
        for ended, *event in self._database.rows(_EVENTS, self._log, run):
            ends[ended] = event
            if event[0] == _REOPENED:
                del ends[ended]
        for task, state, *result in self._database.rows(_TASKS, self._log, run):
            kind, seq, *event, index = ends.pop(task, [None] * 5)
            if kind is not None and index is None:
                continue  # it ended before there was evidence
            problem = "has not ended like this"
            if (state, kind) in _ENDS:
                item = self._items(index).get((run, seq))
                problem = self._failed(event, *result) if state == _FAILED else ""
                # An item that is not there was blamed already.
                problem = problem or ("" if item is None else self._problem(item, *result))
            if problem:
                yield Fault(
                    what="result", reason=f"task {task!r} of run {run} {problem}", index=index
                )
        for task, (*_, index) in ends.items():
            reason = f"task {task!r} of run {run} has ended, but its row says otherwise"
            yield Fault(what="result", reason=reason, index=index)

    def _problem(
        self,
        item: Mapping[str, Any],
        result: bytes | None,
        output: bytes | None,
        output_type: str | None,
        *_: str | None,
    ) -> str:
        if item.get("result") != (None if result is None else hash_text(result)):
            return "has a result that is not the one that was reported"
        said = item.get("output")
        if output is None:
            self.payloads_pruned += said is not None
            return ""
        made = digests.payload_text(output, output_type)
        return "" if made == said else "has an output that is not the one that was reported"

    def _failed(
        self,
        event: list[Any],
        result: bytes | None,
        output: bytes | None,
        output_type: str | None,
        code: str | None,
        message: str | None,
    ) -> str:
        event_code, event_message = event
        same = code == event_code and str(event_message).startswith(message or "")
        return "" if same else "has failed otherwise"

    def _read(self, index: int) -> _Items:
        row = self._database.row(_ITEMS, self._log, index)
        if row is None or row[0] is None:
            return {}
        try:
            events = (event for item in read_json(row[0]) for event in events_of(item))
            return {(event["run"], event["seq"]): event for event in events}
        except (ValueError, TypeError, KeyError):
            return {}
