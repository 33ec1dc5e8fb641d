"""Compares what the rows of runs and tasks repeat of their events and entries, column by column.

Events and columns of entries are compared with the log elsewhere, so they stand for it here.
Takes no notice of runs that are older than evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tenure_evidence.audit import Fault
from tenure_evidence.database import Database
from tenure_evidence.rows import KINDS, RUN_ENDS, RUN_STANDS, TASK_ENDS


def _listed(numbers: Iterable[int]) -> str:
    return f"({', '.join(map(str, sorted(numbers)))})"


def _numbers(*kinds: str) -> str:
    return _listed(KINDS.index(kind) + 1 for kind in kinds)


_STANDS = " ".join(
    f"WHEN {KINDS.index(kind) + 1} THEN r.state IN {_listed(states)}"
    for kind, states in RUN_STANDS.items()
)
_MISCOUNTED = " OR ".join(
    f"r.{column} != total(l.kind IN {_numbers(kind)})" for kind, column in TASK_ENDS.items()
)
_START = """
SELECT r.run_id, l.entry_index FROM workflow_runs r
JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
  AND l.sequence = 1
JOIN evidence_entries e ON e.tenant_id = l.tenant_id AND e.entry_index = l.entry_index
WHERE r.tenant_id = ?1 AND (r.create_us IS NOT l.at_us OR r.started_by IS NOT e.principal
  OR r.correlation_id IS NOT coalesce(e.correlation_id, ''))
"""
#: The last event that says where a run stands, against where its row says it does.
_STATE = f"""
SELECT r.run_id, l.entry_index FROM workflow_runs r
JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
  AND l.sequence = (
    SELECT max(m.sequence) FROM workflow_execution_log m
    WHERE m.tenant_id = r.tenant_id AND m.run_id = r.run_id
      AND m.kind IN {_numbers(*RUN_STANDS, *RUN_ENDS.values())})
WHERE r.tenant_id = ?1 AND l.entry_index IS NOT NULL
  AND r.state NOT IN {_listed(RUN_ENDS)} AND NOT CASE l.kind {_STANDS} ELSE 0 END
"""
_END = f"""
SELECT r.run_id, l.entry_index FROM workflow_runs r
JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
  AND l.sequence = (
    SELECT max(m.sequence) FROM workflow_execution_log m
    WHERE m.tenant_id = r.tenant_id AND m.run_id = r.run_id)
WHERE r.tenant_id = ?1 AND l.entry_index IS NOT NULL
  AND r.end_us IS NOT CASE WHEN l.kind IN {_numbers(*RUN_ENDS.values())} THEN l.at_us END
"""
#: Whatever became of a task before it was last reopened does not count.
_REOPENED = """
WITH reopened AS (
  SELECT run_id, task_key, max(sequence) AS sequence FROM workflow_execution_log
  WHERE tenant_id = ?1 AND kind = 24 GROUP BY run_id, task_key)
"""
_COUNTS = f"""
{_REOPENED}
SELECT r.run_id, max(l.entry_index) FROM workflow_runs r
JOIN workflow_execution_log l ON l.tenant_id = r.tenant_id AND l.run_id = r.run_id
LEFT JOIN reopened o ON o.run_id = l.run_id AND o.task_key = l.task_key
WHERE r.tenant_id = ?1 AND r.state IN {_listed(RUN_ENDS)}
  AND l.sequence > coalesce(o.sequence, 0)
GROUP BY r.run_id
HAVING min(l.entry_index IS NOT NULL)
  AND ({_MISCOUNTED} OR r.task_count != total(l.kind IN {_numbers(*TASK_ENDS)}))
"""
_TASK = f"""
{_REOPENED}
SELECT t.run_id || ': task ' || t.task_key, l.entry_index FROM workflow_tasks t
JOIN workflow_execution_log l ON l.tenant_id = t.tenant_id AND l.run_id = t.run_id
  AND l.task_key = t.task_key AND l.kind IN (7, 9)
LEFT JOIN reopened o ON o.run_id = l.run_id AND o.task_key = l.task_key
WHERE t.tenant_id = ?1 AND l.entry_index IS NOT NULL AND t.state IN (5, 6)
  AND l.sequence > coalesce(o.sequence, 0)
  AND (t.attempt IS NOT l.attempt OR t.term IS NOT l.term OR t.agent IS NOT l.agent
    OR t.end_us IS NOT l.at_us)
"""
_CHECKS: Final = (
    ("run", _START, "was started at another time, by another key or in another call"),
    ("run", _STATE, "stands otherwise than its events say"),
    ("run", _END, "ended at another time"),
    ("run", _COUNTS, "counts its tasks otherwise than they ended"),
    ("result", _TASK, "ended otherwise: another attempt, term, agent or time"),
)


def faults(database: Database, log: str) -> Iterator[Fault]:
    """Gives what is wrong, with the entry that it contradicts. Raises sqlite3.Error."""
    for what, sql, reason in _CHECKS:
        for whose, index in database.rows(sql, log):
            yield Fault(what=what, reason=f"run {whose} {reason}", index=index)
