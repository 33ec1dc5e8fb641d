"""Runs and their tasks on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click
import orjson

from tenure.v1 import runs_pb2
from tenure_client import duration
from tenure_client.cli import output, plain
from tenure_evidence.shown import clean

_RUN_STATE = runs_pb2.RunState.DESCRIPTOR
_TASK_STATE = runs_pb2.TaskState.DESCRIPTOR
_COUNTS = (
    *("succeeded", "failed", "upstream_failed", "cancelled", "skipped"),
    *("retrying", "active", "leased", "ready"),
)
_JSON_CHARACTERS_SHOWN = 2000


def exit_code(run: runs_pb2.Run) -> int:
    """Gives the exit code that a run's end stands for."""
    return 0 if run.state == runs_pb2.RUN_STATE_SUCCEEDED else 1


def state_of(run: runs_pb2.Run) -> str:
    """Gives the word for where a run stands."""
    return plain.word(_RUN_STATE, run.state)


def show_run(run: runs_pb2.Run, *, json: bool) -> None:
    """Writes everything about a run."""
    if json:
        output.document(run)
        return
    output.details(
        (
            ("run", run.run_id),
            ("workflow", f"{run.workflow} version {run.workflow_version}"),
            ("state", state_of(run)),
            ("reason", run.reason),
            ("tasks", counts(run.tasks)),
            ("took", _took(run)),
            ("created", plain.local_time(run.create_time)),
            ("started", _time(run, "start_time")),
            ("ended", _time(run, "end_time")),
            ("deadline", _time(run, "deadline_time")),
            ("priority", run.priority or None),
            ("labels", output.words(run.labels)),
            ("input", _json_text(plain.of(run.input)) if run.HasField("input") else None),
            ("output", output_of(run, _JSON_CHARACTERS_SHOWN)),
            ("digest", run.workflow_digest),
            ("before", _earlier(run)),
            ("started for", _parent(run)),
            ("constitution", run.constitution_digest or "-"),
            ("correlation id", run.correlation_id),
        )
    )


def _earlier(run: runs_pb2.Run) -> str | None:
    """Says which versions a run was under before it was moved, and until when."""
    told = [
        f"version {one.workflow_version} until {plain.local_time(one.until_time)}"
        for one in run.earlier_versions
    ]
    return ", ".join(told) or None


def _parent(run: runs_pb2.Run) -> str | None:
    return f"task {run.parent_task_key} of run {run.parent_run_id}" if run.parent_run_id else None


def show_end(run: runs_pb2.Run) -> None:
    """Writes how a run ended, on one line."""
    reason = f": {clean(run.reason)}" if run.reason else ""
    click.echo(f"{state_of(run)} in {_took(run)}, {counts(run.tasks)}{reason}")


def show_runs(runs: Sequence[runs_pb2.Run], *, json: bool) -> None:
    """Writes a list of runs."""
    if json:
        output.document(list(runs))
        return
    output.table(
        ("RUN", "WORKFLOW", "VERSION#", "STATE", "DONE#", "TASKS#", "CREATED", "TOOK#"),
        (
            (
                run.run_id,
                run.workflow,
                run.workflow_version,
                state_of(run),
                run.tasks.succeeded,
                run.tasks.total,
                plain.local_time(run.create_time),
                _took(run),
            )
            for run in runs
        ),
        empty="no runs",
    )


def show_tasks(tasks: Sequence[runs_pb2.Task], *, json: bool) -> None:
    """Writes a list of tasks."""
    if json:
        output.document(list(tasks))
        return
    output.table(
        ("TASK", "KIND", "STATE", "ATTEMPT#", "AGENT", "TOOK#", "FAILURE"),
        (
            (
                task.key,
                task.kind,
                plain.word(_TASK_STATE, task.state),
                task.attempt,
                task.agent,
                _task_took(task),
                _failure(task),
            )
            for task in tasks
        ),
        empty="no tasks",
    )


def show_explanations(tasks: Sequence[runs_pb2.TaskExplanation], *, json: bool) -> None:
    """Writes why tasks do not run: a line for each reason."""
    if json:
        output.document(list(tasks))
        return
    rows: list[tuple[str, str, str]] = []
    for task in tasks:
        said = [one.sentence for one in task.hindrances] or ["-"]
        state = plain.word(_TASK_STATE, task.state)
        rows += [
            ("" if number else task.task_key, "" if number else state, sentence)
            for number, sentence in enumerate(said)
        ]
    output.table(("TASK", "STATE", "WHY"), rows, empty="every task runs or has ended")


def show_task(task: runs_pb2.Task, *, json: bool) -> None:
    """Writes everything about a task."""
    if json:
        output.document(task)
        return
    output.details(
        (
            ("task", task.key),
            ("run", task.run_id),
            ("kind", task.kind),
            ("state", plain.word(_TASK_STATE, task.state)),
            ("attempt", task.attempt),
            ("agent", task.agent),
            ("progress", _progress(task)),
            ("took", _task_took(task)),
            ("leased", _time(task, "lease_time")),
            ("ended", _time(task, "end_time")),
            ("next attempt", _time(task, "retry_time")),
            ("failure", _failure(task)),
            ("depends on", ", ".join(task.depends_on)),
            ("output", _json_text(plain.of(task.output)) if task.HasField("output") else None),
        )
    )


def _progress(task: runs_pb2.Task) -> str | None:
    if not task.HasField("progress"):
        return None
    return f"{task.progress:.0%} {task.progress_message}".rstrip()


def counts(tasks: runs_pb2.TaskCounts) -> str:
    """Writes how many tasks are in each state, leaving out states without any."""
    found = ((getattr(tasks, word), word.replace("_", " ")) for word in _COUNTS)
    parts = [f"{count} {word}" for count, word in found if count]
    return f"{', '.join(parts) or 'none begun'} of {tasks.total}"


def _took(run: runs_pb2.Run) -> str:
    end = run.end_time.ToDatetime(tzinfo=UTC) if run.HasField("end_time") else datetime.now(UTC)
    seconds = (end - run.create_time.ToDatetime(tzinfo=UTC)).total_seconds()
    return duration.short(max(0.0, seconds))


def _task_took(task: runs_pb2.Task) -> str | None:
    if not (task.HasField("lease_time") and task.HasField("end_time")):
        return None
    return duration.short(max(0.0, span_seconds(task)))


def span_seconds(task: runs_pb2.Task) -> float:
    """Gives the time from a task's last lease to its end."""
    span: float = (task.end_time.ToDatetime() - task.lease_time.ToDatetime()).total_seconds()
    return span


def _time(message: runs_pb2.Run | runs_pb2.Task, name: str) -> str | None:
    if not message.HasField(name):  # type: ignore[arg-type]
        return None
    return plain.local_time(getattr(message, name), milliseconds=True)


def _failure(task: runs_pb2.Task) -> str | None:
    if not task.HasField("failure"):
        return None
    first, _, _ = task.failure.message.partition("\n")
    return f"{task.failure.code}: {first}"


def output_of(run: runs_pb2.Run, characters: int) -> str | None:
    """Gives what a run came to, at most so much of it. None: nothing."""
    return _json_text(plain.of(run.output), characters) if run.HasField("output") else None


def _json_text(value: object, characters: int = _JSON_CHARACTERS_SHOWN) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= characters else f"{text[:characters]}... (--json shows all of it)"


def show_comparison(found: runs_pb2.CompareRunsResponse, *, json: bool) -> None:
    """Writes two runs side by side, then the tasks that came along."""
    if json:
        output.document(found)
        return
    left, right = found.left, found.right
    differing = {
        plain.word(runs_pb2.RunDifference.DESCRIPTOR, kind).lower() for kind in found.differences
    }
    rows = (
        ("run", left.run_id, right.run_id, ""),
        ("workflow", left.workflow, right.workflow, "workflow"),
        ("version", left.workflow_version, right.workflow_version, "definition"),
        ("definition", left.workflow_digest, right.workflow_digest, "definition"),
        ("constitution", left.constitution_digest, right.constitution_digest, "constitution"),
        ("input", found.left_input_digest, found.right_input_digest, "input"),
        ("labels", output.words(left.labels), output.words(right.labels), "labels"),
        ("priority", left.priority, right.priority, "priority"),
        ("state", state_of(left), state_of(right), "state"),
        ("took", _took(left), _took(right), ""),
    )
    output.table(
        ("", "LEFT", "RIGHT", "DIFFERS"),
        (
            (name, _digest(a), _digest(b), "differs" if word in differing else "")
            for name, a, b, word in rows
        ),
        empty="",
    )
    click.echo()
    first = clean(found.first_differing_task)
    total = max(left.tasks.total, right.tasks.total)
    told = f"; they first went apart at {first}" if first else ""
    click.echo(f"{found.differing_tasks} of {total} tasks differ{told}")
    if found.tasks:
        click.echo()
        output.table(
            ("TASK", "LEFT", "RIGHT", "LEFT TOOK#", "RIGHT TOOK#", "DIFFERS"),
            (_pair(pair) for pair in found.tasks),
            empty="",
        )


def _pair(pair: runs_pb2.TaskComparison) -> tuple[object, ...]:
    sides = [getattr(pair, name) if pair.HasField(name) else None for name in ("left", "right")]
    words = (plain.word(runs_pb2.TaskDifference.DESCRIPTOR, kind) for kind in pair.differences)
    differs = ", ".join(word.lower() for word in words)
    return (pair.key, *map(_side, sides), *map(_side_took, sides), differs)


def _side(side: runs_pb2.TaskSide | None) -> str | None:
    """The state of a task, with what is not usual about it."""
    if side is None:
        return None
    state = plain.word(_TASK_STATE, side.state)
    attempts = f" in {side.attempt} attempts" if side.attempt > 1 else ""
    return f"{state}{attempts}{f': {side.failure_code}' if side.failure_code else ''}"


def _side_took(side: runs_pb2.TaskSide | None) -> str | None:
    if side is None or not side.HasField("duration"):
        return None
    return duration.short(duration.seconds_of(side.duration))


def _digest(value: object) -> object:
    """What a table holds: of a digest enough to tell it from others."""
    text = str(value)
    return text[: len("sha256:") + 16] if text.startswith("sha256:") else value
