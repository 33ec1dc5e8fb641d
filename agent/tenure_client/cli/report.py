"""What a run did, judged from its record: how long, in what order, against what was possible."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tenure.v1 import runs_pb2, workflows_pb2
from tenure_client import duration, graph, wfcommons
from tenure_client.cli import plain, run_tables
from tenure_evidence.plan import Step

_ITEM = re.compile(r"\[[0-9]+\]$")
_ENDS = frozenset({"SUCCEEDED", "FAILED", "UPSTREAM_FAILED", "CANCELLED", "SKIPPED"})
_RULES = {
    workflows_pb2.TRIGGER_RULE_UNSPECIFIED: "all_succeeded",
    workflows_pb2.TRIGGER_RULE_ALL_SUCCEEDED: "all_succeeded",
    workflows_pb2.TRIGGER_RULE_ALL_DONE: "all_done",
    workflows_pb2.TRIGGER_RULE_ANY_FAILED: "any_failed",
    workflows_pb2.TRIGGER_RULE_NONE_FAILED: "none_failed",
}

_OUTPUT_CHARACTERS_SHOWN = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished run: its record and what follows from it."""

    run: runs_pb2.Run
    tasks: tuple[runs_pb2.Task, ...]
    #: From the acceptance of the run to its end.
    makespan_seconds: float
    #: The least time that any number of slots would have needed.
    critical_path_seconds: float
    #: Tasks that began before their turn, each with what was missing.
    order_violations: tuple[tuple[str, str], ...]
    #: Where coordinator and agent kept their data. None: nowhere that still exists.
    data: str | None
    #: The file with the run's evidence, and what verifying it said. None: nobody asked for it.
    bundle: str | None = None
    evidence: str | None = None
    #: Whether the evidence is good.
    proven: bool = False

    @property
    def attempts(self) -> int:
        """How many attempts were begun in all."""
        return sum(task.attempt for task in self.tasks)

    def as_json(self) -> dict[str, Any]:
        """Gives the report as plain values."""
        counts = self.run.tasks
        return {
            "run_id": self.run.run_id,
            "workflow": self.run.workflow,
            "version": self.run.workflow_version,
            "digest": self.run.workflow_digest,
            "state": run_tables.state_of(self.run),
            "reason": self.run.reason or None,
            "output": plain.of(self.run.output) if self.run.HasField("output") else None,
            "tasks": counts.total,
            "succeeded": counts.succeeded,
            "failed": counts.failed,
            "upstream_failed": counts.upstream_failed,
            "cancelled": counts.cancelled,
            "skipped": counts.skipped,
            "attempts": self.attempts,
            "makespan_seconds": self.makespan_seconds,
            "critical_path_seconds": self.critical_path_seconds,
            "order_violations": len(self.order_violations),
            "data": self.data,
            "bundle": self.bundle,
            "evidence": "verified" if self.proven else self.evidence,
        }

    def lines(self) -> Iterable[tuple[str, Any]]:
        """Gives the report as names and values for people."""
        yield "run", self.run.run_id
        yield "state", run_tables.state_of(self.run)
        yield "reason", self.run.reason
        yield "output", run_tables.output_of(self.run, _OUTPUT_CHARACTERS_SHOWN)
        yield "tasks", run_tables.counts(self.run.tasks)
        yield "attempts", self.attempts
        yield "took", duration.short(self.makespan_seconds)
        yield "critical path", duration.short(self.critical_path_seconds)
        yield "order violations", len(self.order_violations)
        yield "data", self.data
        yield "bundle", self.bundle
        if self.evidence is not None:
            yield "evidence", f"{'verified' if self.proven else 'BAD'}: {self.evidence}"

    def failures(self) -> list[runs_pb2.Task]:
        """Gives the tasks that failed for good."""
        return [task for task in self.tasks if task.state == runs_pb2.TASK_STATE_FAILED]


def judge(
    definition: workflows_pb2.WorkflowDefinition,
    run: runs_pb2.Run,
    tasks: Sequence[runs_pb2.Task],
    events: Sequence[runs_pb2.RunEvent],
    *,
    time_scale: float,
    data: str | None,
) -> Report:
    """Judges a finished run by its definition, its tasks and its events."""
    makespan = (run.end_time.ToDatetime() - run.create_time.ToDatetime()).total_seconds()
    return Report(
        run=run,
        tasks=tuple(tasks),
        makespan_seconds=makespan,
        critical_path_seconds=critical_path_seconds(definition, tasks, time_scale),
        order_violations=tuple(order_violations(definition, events)),
        data=data,
    )


def critical_path_seconds(
    definition: workflows_pb2.WorkflowDefinition,
    tasks: Sequence[runs_pb2.Task],
    time_scale: float,
) -> float:
    """Gives the longest chain: of recorded times for a trace, else of measured ones."""
    recorded = wfcommons.critical_path_seconds(definition, time_scale)
    if recorded is not None:
        return recorded
    took = {
        task.key: max(0.0, run_tables.span_seconds(task))
        for task in tasks
        if task.HasField("lease_time") and task.HasField("end_time")
    }
    upstream = graph.upstream_of([(task.key, task.depends_on) for task in definition.tasks])
    return graph.longest_path(upstream, [took.get(task.key, 0.0) for task in definition.tasks])


def order_violations(
    definition: workflows_pb2.WorkflowDefinition, events: Iterable[runs_pb2.RunEvent]
) -> Iterable[tuple[str, str]]:
    """Finds tasks that began before their turn, and says which and why.

    Only the log's own order counts; what the coordinator believes of its states is not asked.
    """
    steps = {
        task.key: Step(
            kind=task.kind, depends_on=tuple(task.depends_on), rule=_RULES.get(task.trigger, "")
        )
        for task in definition.tasks
    }
    ends: dict[str, str] = {}
    for event in sorted(events, key=lambda event: event.sequence):
        what = plain.word(runs_pb2.RunEventKind.DESCRIPTOR, event.kind).removeprefix("TASK_")
        # An item is given what its list is given; what else lies beside the graph has no order.
        step = steps.get(event.task_key) or steps.get(_ITEM.sub("", event.task_key))
        if what in _ENDS:
            ends[event.task_key] = what.lower()
        elif what == "REOPENED":
            ends.pop(event.task_key, None)
        elif what in ("LEASED", "ACTIVATED") and step is not None:
            why = step.before(ends)
            if why:
                yield event.task_key, why
