"""The writes of the hot path, each once, as Peewee queries over a source of rows.

The databases differ only in how thousands of rows best reach them: SQLite wants one long list of
VALUES, PostgreSQL one array for each column. So every query here takes its rows as an argument, and
the two journals (`sqlite_journal`, `postgresql_journal`) build it at the start and keep the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peewee import EXCLUDED, Select, Value

from tenure_server.core.ledger import journal, lifecycle
from tenure_server.store import evidence_tables, statements, tables

#: What one transaction writes of evidence.
ENTRY_COLUMNS = (
    "tenant_id",
    "entry_index",
    "at_us",
    "kind",
    "principal",
    "correlation_id",
    "standing",
    "entry",
    "items",
    "facts",
)
NODE_COLUMNS = ("tenant_id", "level", "position", "hash")
HEAD_COLUMNS = ("tenant_id", "size", "previous", "term")
TASK_KEY = ("tenant_id", "run_id", "task_index")
RUN_KEY = ("tenant_id", "run_id")
_TASK_ENDED = sorted(int(state) for state in lifecycle.TASK_ENDED)
_RUN_ENDED = sorted(int(state) for state in lifecycle.RUN_ENDED)


def insert(table: type[tables.Table], columns: Sequence[str], rows: Any) -> Any:
    """Inserts the rows; a key that is there already is an error."""
    fields = [getattr(table, column) for column in columns]
    if isinstance(rows, Select):
        return table.insert_from(rows, fields)
    return table.insert_many(rows, fields)


def add_terms(rows: Any) -> Any:
    """Inserts terms of runs; those that are there already stay."""
    return insert(tables.RunTerm, journal.TERM_COLUMNS, rows).on_conflict_ignore()


def upsert_tasks(rows: Any) -> Any:
    """Writes the tasks where the table does not know better: a later term, or its end."""
    task = tables.WorkflowTask
    fixed = (*TASK_KEY, "task_key")
    changing = [getattr(task, name) for name in journal.TASK_COLUMNS if name not in fixed]
    return insert(task, journal.TASK_COLUMNS, rows).on_conflict(
        conflict_target=[getattr(task, name) for name in TASK_KEY],
        preserve=changing,
        where=(task.term < EXCLUDED.term)
        | ((task.term == EXCLUDED.term) & task.state.not_in(_TASK_ENDED)),
    )


def move_heads(rows: Any) -> Any:
    """Moves the ends of logs on, each from where the writer believed it to be."""
    head = evidence_tables.EvidenceHead
    return insert(head, HEAD_COLUMNS, rows).on_conflict(
        conflict_target=[head.tenant_id],
        preserve=[head.size, head.previous, head.term],
        where=head.size == EXCLUDED.previous,
    )


# A run that is moved has its tasks numbered anew. No two rows may have one number in between, so
# those that stay go below zero, the others are forgotten, and then they come up again.


def move_runs(rows: Any, columns: Sequence[str]) -> Any:
    """Puts runs that have not ended under another version; `columns` as in `change_runs`."""
    run = tables.WorkflowRun
    source = [getattr(rows.c, column) for column in columns]
    found = dict(zip(journal.RUN_MOVED_COLUMNS, source, strict=True))
    changing = {getattr(run, name): found[name] for name in found if name not in RUN_KEY}
    same = [getattr(run, name) == found[name] for name in RUN_KEY]
    return run.update(changing).from_(rows).where(*same, run.state.not_in(_RUN_ENDED))


def lower_tasks(rows: Any, columns: Sequence[str]) -> Any:
    """Takes the tasks that stay below zero, see `lowered`; `columns` as before."""
    task = tables.WorkflowTask
    tenant_id, run_id, index, moved, detail = (getattr(rows.c, column) for column in columns)
    same = (task.tenant_id == tenant_id, task.run_id == run_id, task.task_index == index)
    return task.update({task.task_index: moved, task.detail: detail}).from_(rows).where(*same)


def lowered(rows: Sequence[journal.Row]) -> list[journal.Row]:
    """Rows of `journal.TASK_MOVED_COLUMNS` with new numbers below zero."""
    return [
        (tenant_id, run_id, index, -1 - moved, detail)
        for tenant_id, run_id, index, moved, detail in rows
    ]


_TASK = tables.WorkflowTask
_OF_RUN = (_TASK.tenant_id == statements.slot("tenant_id")) & (
    _TASK.run_id == statements.slot("run_id")
)
#: Forgets the tasks of a moved run that do not stay.
FORGET_TASKS = _TASK.delete().where(_OF_RUN, _TASK.task_index >= 0)
#: Brings those up again that stay.
RAISE_TASKS = _TASK.update(task_index=Value(-1) - _TASK.task_index).where(
    _OF_RUN, _TASK.task_index < 0
)


def change_runs(rows: Any, columns: Sequence[str]) -> Any:
    """Changes the runs that have not ended, or are open again.

    `columns` names the columns of the rows' source.
    """
    run = tables.WorkflowRun
    source = {
        name: getattr(rows.c, column)
        for name, column in zip(journal.RUN_CHANGE_COLUMNS, columns, strict=True)
    }
    changing = {getattr(run, name): source[name] for name in source if name not in RUN_KEY}
    same = [getattr(run, name) == source[name] for name in RUN_KEY]
    changes = run.state.not_in(_RUN_ENDED) | source["state"].not_in(_RUN_ENDED)
    return run.update(changing).from_(rows).where(*same, changes)
