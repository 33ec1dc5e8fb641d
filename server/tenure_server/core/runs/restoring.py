"""Runs that are read back: where their tasks stand, from the rows that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import TASK_ENDED, TaskState
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts
from tenure_server.core.runs.triggers import Turn


def restore(
    run: LiveRun,
    tasks: Mapping[int, records.Task],
    outputs: Mapping[int, Payload],
    *,
    judged: bool = True,
) -> None:
    """Takes the states of stored rows; tasks without one wait, or are ready.

    Not `judged`: about tasks that wait nothing was decided yet, though their turn has come.
    """
    for index, task in tasks.items():
        run.move(index, task.state)
        if index < run.planned and run.tasks[index].for_each is not None:
            run.keep_list(index, (_parsed(task.detail) or {}).get("items", []))
        if task.state in TASK_ENDED:
            for down in run.graph.downstream[index]:
                run.missing[down] -= 1
        if task.state is TaskState.FAILED and task.failure:
            run.note_failure(index, task.failure)
        if task.state is TaskState.SUCCEEDED and task.detail is not None:
            _restore_success(run, index, task.detail)
        if task.state not in TASK_ENDED:
            run.facts[index] = TaskFacts(
                attempt=task.attempt,
                term=task.term,
                lost=task.lost,
                agent=task.agent,
                holder=task.holder,
                token_hash=task.token_hash or b"",
                lease_us=task.lease_us,
                retry_us=task.retry_us,
                result_hash=task.result_hash or b"",
                failure=task.failure,
                checkpoint=task.checkpoint,
                detail=_parsed(task.detail),
            )
    special = run.graph.special
    for index in range(run.planned if judged else 0):
        state = run.states[index]
        # What else follows from the ends before it was written down with them.
        if index in special and run.held:
            continue
        if state == TaskState.WAITING and (
            run.turn_of(index) is Turn.COME if index in special else not run.missing[index]
        ):
            run.move(index, TaskState.READY)
    for index, output in outputs.items():
        run.keep_output(index, output)
    if run.graph.limited:
        leased = [task for task in tasks.values() if task.lease_us is not None and task.agent]
        if leased:
            last = max(leased, key=lambda task: task.lease_us or 0)
            run.last_agent = last.holder, last.agent


def _restore_success(run: LiveRun, index: int, detail: str) -> None:
    sequence = orjson.loads(detail).get("succeeded")
    # It may have been kept under a version that could undo the task.
    if sequence is not None and run.tasks[index].compensation is not None:
        run.successes[index] = sequence


def _parsed(detail: str | None) -> dict[str, Any] | None:
    return None if detail is None else orjson.loads(detail)
