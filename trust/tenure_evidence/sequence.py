"""What may follow what in a run: the law of Precedence, checked on the events alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tenure_evidence.canonical import read_json

ENDS = frozenset({"run.succeeded", "run.failed", "run.cancelled"})
RESULTS = frozenset({"task.succeeded", "task.failed", "task.retrying"})
KINDS = (
    ENDS
    | RESULTS
    | {"run.started", "run.cancelling", "task.leased", "task.upstream_failed", "task.cancelled"}
    | {"task.lease_lost", "task.lease_returned", "task.checkpointed"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a definition says about order."""

    name: str
    #: For each task its kind, and the tasks it depends on.
    tasks: Mapping[str, tuple[str, tuple[str, ...]]]


def plan_of(definition: bytes) -> Plan:
    """Reads a definition, as far as order needs it. Raises ValueError for what is none."""
    match read_json(definition):
        case {"name": str(name), "tasks": list(rows)}:
            tasks = dict(_task(row) for row in rows)
        case _:
            raise ValueError("is not a definition")
    if len(tasks) != len(rows):
        raise ValueError("has a task twice")
    return Plan(name=name, tasks=tasks)


def _task(row: Any) -> tuple[str, tuple[str, tuple[str, ...]]]:
    match row:
        case {"key": str(key), "kind": str(kind), "depends_on": list(depends_on)}:
            if all(type(upstream) is str for upstream in depends_on):
                return key, (kind, tuple(depends_on))
    raise ValueError("has a task without key, kind or depends_on")


@dataclass(slots=True)
class Sequence:
    """The events of one run, taken one after the other.

    Without a plan, when the definition is not the one of the run, only that is checked which the
    events say by themselves.
    """

    plan: Plan | None
    #: The last event's number.
    seq: int = 0
    ended: str = ""
    _definition: object = None
    _succeeded: set[str] = field(default_factory=set)
    _terms: dict[str, int] = field(default_factory=dict)
    _results: set[tuple[str, int]] = field(default_factory=set)

    def take(self, item: Mapping[str, Any]) -> str:
        """Takes the next event; says what is wrong with it, or nothing."""
        seq, kind, task = item.get("seq"), item.get("kind"), item.get("task")
        if type(seq) is not int or type(kind) is not str or kind not in KINDS:
            return f"it has no number or no known kind: {seq!r}, {kind!r}"
        problem = self._number_problem(seq)
        if problem:
            return problem
        if self.ended:
            return f"event {seq}, {kind}, comes after the end of the run, {self.ended}"
        self.seq = seq
        if (kind == "run.started") != (seq == 1):
            return f"event {seq} is {kind}; the first event, and no other, is run.started"
        if kind.startswith("task."):
            if type(task) is not str or (self.plan and task not in self.plan.tasks):
                return f"event {seq} is of task {task!r}, which the definition has not"
            return self._task_problem(seq, kind, task, item)
        if kind == "run.started":
            self._definition = item.get("definition")
        elif kind in ENDS:
            self.ended = kind
        if kind == "run.succeeded" and self.plan and self.plan.tasks.keys() != self._succeeded:
            missing = sorted(self.plan.tasks.keys() - self._succeeded)
            return f"event {seq} is run.succeeded, but task {missing[0]!r} has not succeeded"
        return ""

    def _number_problem(self, seq: int) -> str:
        if seq == self.seq + 1:
            return ""
        if seq <= self.seq:
            return f"event {seq} comes after event {self.seq}"
        if seq == self.seq + 2:
            return f"event {seq - 1} is missing before event {seq}"
        return f"events {self.seq + 1} to {seq - 1} are missing before event {seq}"

    def _task_problem(self, seq: int, kind: str, task: str, item: Mapping[str, Any]) -> str:
        if kind == "task.leased":
            return self._lease_problem(seq, task, item)
        if kind not in RESULTS:
            return ""
        term = item.get("term")
        if term is not None:
            if type(term) is not int or self._terms.get(task) != term:
                return f"event {seq}: result of task {task!r} for term {term!r}, not its last lease"
            if (task, term) in self._results:
                return f"event {seq}: a second result of task {task!r} for term {term}"
            self._results.add((task, term))
        if kind == "task.succeeded":
            if task in self._succeeded:
                return f"event {seq}: task {task!r} succeeds a second time"
            self._succeeded.add(task)
        return ""

    def _lease_problem(self, seq: int, task: str, item: Mapping[str, Any]) -> str:
        term = item.get("term")
        if type(term) is not int or term <= self._terms.get(task, -1):
            return f"event {seq}: term {term!r} of task {task!r} does not grow"
        self._terms[task] = term
        if item.get("definition") != self._definition:
            return f"event {seq}: lease of task {task!r} under another definition than the run's"
        if task in self._succeeded:
            return f"event {seq}: task {task!r} is leased after it succeeded"
        if self.plan is None:
            return ""
        handler, depends_on = self.plan.tasks[task]
        if item.get("handler") != handler:
            return (
                f"event {seq}: task {task!r} is leased as {item.get('handler')!r}, not {handler!r}"
            )
        for upstream in depends_on:
            if upstream not in self._succeeded:
                return f"event {seq}: task {task!r} is leased before {upstream!r} succeeded"
        return ""
