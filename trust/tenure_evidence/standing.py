"""Compares what the rows of runs and tasks repeat of their events and entries, column by column.

Events and columns of entries are compared with the log elsewhere, so they stand for it here.
Takes no notice of runs that are older than evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenure_evidence.audit import Fault
from tenure_evidence.database import Database

_START = """
SELECT r.run_id, l.entry_index FROM workflow_runs r
JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
  AND l.sequence = 1
JOIN evidence_entries e ON e.tenant_id = l.tenant_id AND e.entry_index = l.entry_index
WHERE r.tenant_id = ?1 AND (r.create_us IS NOT l.at_us OR r.started_by IS NOT e.principal
  OR r.correlation_id IS NOT coalesce(e.correlation_id, ''))
"""
_CANCELLING = """
SELECT r.run_id, l.entry_index FROM workflow_runs r
JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
  AND l.sequence = 1
WHERE r.tenant_id = ?1 AND l.entry_index IS NOT NULL AND r.state IN (1, 2)
  AND (r.state = 2) != EXISTS (
    SELECT 1 FROM workflow_execution_log c
    WHERE c.tenant_id = r.tenant_id AND c.run_id = r.run_id AND c.kind = 2)
"""
_END = """
SELECT r.run_id, l.entry_index FROM workflow_runs r
LEFT JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
  AND l.kind IN (3, 4, 5)
WHERE r.tenant_id = ?1 AND (l.sequence IS NULL OR l.entry_index IS NOT NULL)
  AND r.state IN (1, 2, 3, 4, 5) AND r.end_us IS NOT l.at_us
"""
_COUNTS = """
SELECT r.run_id, max(l.entry_index) FROM workflow_runs r
JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
WHERE r.tenant_id = ?1 AND r.state IN (3, 4, 5)
GROUP BY r.run_id
HAVING min(l.entry_index IS NOT NULL) AND (r.succeeded != total(l.kind = 7)
  OR r.failed != total(l.kind = 9) OR r.upstream_failed != total(l.kind = 10)
  OR r.cancelled != total(l.kind = 11))
"""
_TASK = """
SELECT t.run_id || ': task ' || t.task_key, l.entry_index FROM workflow_tasks t
JOIN workflow_execution_log l ON l.tenant_id = t.tenant_id AND l.run_id = t.run_id
  AND l.task_key = t.task_key AND l.kind IN (7, 9)
WHERE t.tenant_id = ?1 AND l.entry_index IS NOT NULL AND t.state IN (5, 6)
  AND (t.attempt IS NOT l.attempt OR t.term IS NOT l.term OR t.agent IS NOT l.agent
    OR t.end_us IS NOT l.at_us)
"""
_WHOLE = """
SELECT run_id || ': event ' || sequence, entry_index FROM workflow_execution_log
WHERE tenant_id = ?1 AND entry_index IS NOT NULL AND task_key = ''
  AND (attempt IS NOT 0 OR term IS NOT 0 OR agent IS NOT '')
"""
_CHECKS: Final = (
    ("run", _START, "was started at another time, by another key or in another call"),
    ("run", _CANCELLING, "is or is not being cancelled, other than its events say"),
    ("run", _END, "ended at another time"),
    ("run", _COUNTS, "counts its tasks otherwise than they ended"),
    ("result", _TASK, "ended otherwise: another attempt, term, agent or time"),
    ("event", _WHOLE, "is of the whole run, but names an attempt, a term or an agent"),
)


def faults(database: Database, log: str) -> Iterator[Fault]:
    """Gives what is wrong, with the entry that it contradicts. Raises sqlite3.Error."""
    for what, sql, reason in _CHECKS:
        for whose, index in database.rows(sql, log):
            yield Fault(what=what, reason=f"run {whose} {reason}", index=index)
