"""The rows of an open run and of its tasks, as the journal takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.ledger.journal import Journal, Row
from tenure_server.core.ledger.lifecycle import RUN_ENDED, TaskState
from tenure_server.core.ledger.terms import label_terms, reason_terms
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.runs.live import LiveRun

_NO_WORDS: Mapping[str, str] = MappingProxyType({})


def run_row(run: LiveRun) -> Row:
    """The run's row, see `journal.RUN_COLUMNS`."""
    payload = run.input
    tallies = run.tallies
    return (
        run.tenant_id,
        run.run_id,
        run.workflow,
        run.workflow_version,
        run.workflow_digest,
        int(run.state),
        run.priority,
        orjson.dumps(run.labels).decode(),
        None if payload is None else payload.data,
        "" if payload is None else payload.content_type,
        run.correlation_id,
        run.started_by,
        run.reason,
        len(run.states),
        tallies[TaskState.SUCCEEDED],
        tallies[TaskState.FAILED],
        tallies[TaskState.UPSTREAM_FAILED],
        tallies[TaskState.CANCELLED],
        run.create_us,
        run.start_us,
        run.end_us,
        run.constitution_digest,
        tallies[TaskState.SKIPPED],
        run.parent_run_id,
        run.parent_task,
        run.deadline_us,
        _json(run.detail),
        None if run.output is None else run.output.data,
        "" if run.output is None else run.output.content_type,
    )


def change_row(run: LiveRun) -> Row:
    """What changes in the run's row, see `journal.RUN_CHANGE_COLUMNS`."""
    tallies = run.tallies
    return (
        run.tenant_id,
        run.run_id,
        int(run.state),
        run.reason,
        tallies[TaskState.SUCCEEDED],
        tallies[TaskState.FAILED],
        tallies[TaskState.UPSTREAM_FAILED],
        tallies[TaskState.CANCELLED],
        run.start_us,
        run.end_us,
        tallies[TaskState.SKIPPED],
        len(run.states),
        _json(run.detail),
        None if run.output is None else run.output.data,
        "" if run.output is None else run.output.content_type,
    )


def term_rows(run: LiveRun, *, new: bool) -> Sequence[Row]:
    """Under what it is found, see `journal.TERM_COLUMNS`: nothing for nearly every run."""
    labels = run.labels if new else _NO_WORDS
    reason = run.reason if run.state in RUN_ENDED else ""
    if not labels and not reason:
        return ()
    found = dict.fromkeys([*label_terms(labels), *reason_terms(reason)])
    return [(run.tenant_id, run.run_id, term, run.create_us) for term in found]


def write_task(
    run: LiveRun,
    journal: Journal,
    index: int,
    facts: TaskFacts,
    *,
    end_us: int | None = None,
    output: Payload | None = None,
) -> None:
    """Notes the row of a task as it stands, see `journal.TASK_COLUMNS`."""
    failure = facts.failure
    checkpoint = facts.checkpoint
    row = (
        run.tenant_id,
        run.run_id,
        index,
        run.graph.keys[index],
        run.states[index],
        facts.attempt,
        facts.term,
        facts.lost,
        facts.agent,
        facts.holder,
        facts.token_hash or None,
        facts.lease_us,
        end_us,
        facts.retry_us,
        facts.result_hash or None,
        None if failure is None else failure.code,
        None if failure is None else failure.message,
        None if output is None else output.data,
        "" if output is None else output.content_type,
        None if checkpoint is None else checkpoint.data,
        "" if checkpoint is None else checkpoint.content_type,
        _json(facts.detail),
    )
    journal.task(run.run_id, index, row)


def _json(detail: Mapping[str, Any] | None) -> str | None:
    return None if detail is None else orjson.dumps(detail).decode()
