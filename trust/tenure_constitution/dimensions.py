"""The thirteen dimensions of a workflow and of a run: covered, derived or missing.

Covered is what the definition declares. Derived is what can honestly be told from the rest, with
what it was told from. What a workflow is part of, what it touches and what it means for people
cannot be told from a graph: undeclared, they are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenure_constitution.laws import Coverage, Dimension

NAMES = tuple(dimension.word for dimension in Dimension)
#: How many kinds or agents a sentence names.
_NAMED_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """How one dimension stands."""

    dimension: Dimension
    coverage: Coverage
    #: What was declared, or what it was derived from, in a sentence. Empty when it is missing.
    basis: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run at its end, as its dimensions are told from. Times in microseconds since 1970."""

    run_id: str
    definition_digest: str
    #: How it ended, such as ``succeeded``.
    state: str
    started_us: int
    ended_us: int
    tasks_succeeded: int
    tasks_failed: int
    #: Cancelled, or never started because of another task.
    tasks_left: int
    attempts: int
    #: Attempts after the first of their tasks.
    retries: int
    leases_lost: int
    #: The agents that executed any of it.
    agents: tuple[str, ...] = ()


def of_workflow(workflow: Mapping[str, Any]) -> tuple[Assessment, ...]:
    """Assesses a definition from its facts, see `definitions.facts_of`. All thirteen, in order."""
    derived = _derived_of_workflow(workflow)
    return _assess(workflow["dimensions"], derived)


def of_run(workflow: Mapping[str, Any], run: RunSummary) -> tuple[Assessment, ...]:
    """Assesses a run at its end: what its definition declares, else what became of it."""
    derived = _derived_of_workflow(workflow) | _derived_of_run(run)
    return _assess(workflow["dimensions"], derived)


def names(assessments: tuple[Assessment, ...], coverage: Coverage) -> tuple[str, ...]:
    """The names of the dimensions that stand so."""
    return tuple(item.dimension.word for item in assessments if item.coverage is coverage)


def _assess(
    declared: Mapping[str, str], derived: Mapping[Dimension, str]
) -> tuple[Assessment, ...]:
    found = []
    for dimension in Dimension:
        coverage, basis = Coverage.MISSING, ""
        if statement := declared.get(dimension.word, "").strip():
            coverage, basis = Coverage.COVERED, statement
        elif basis := derived.get(dimension, ""):
            coverage = Coverage.DERIVED
        found.append(Assessment(dimension=dimension, coverage=coverage, basis=basis))
    return tuple(found)


def _derived_of_workflow(workflow: Mapping[str, Any]) -> dict[Dimension, str]:
    tasks = workflow["task_count"]
    retried = workflow["tasks_with_retry"]
    derived = {
        Dimension.IDENTITY: f"Its name is {workflow['name']}, its digest tells it from any other.",
        Dimension.MODALITY: _modality(workflow),
        Dimension.SCALE: _scale(workflow),
        Dimension.EVIDENCE: "Each of its acts is an entry in the tenant's log.",
    }
    if workflow["description_length"]:
        derived[Dimension.INTENT] = "It has a description."
    if workflow["approvals"]:
        derived[Dimension.STAKEHOLDERS] = _stakeholders(workflow)
    derived[Dimension.TIME] = _time(workflow)
    if placed := workflow["tasks_with_placement"]:
        derived[Dimension.SPACE] = f"Which agents execute them is said for {_of(placed, tasks)}."
    if retried:
        derived[Dimension.STATE] = f"{_of(retried, tasks)} can be attempted again after a failure."
    derived[Dimension.RISK] = _risk(workflow)
    return derived


def _modality(workflow: Mapping[str, Any]) -> str:
    kinds, waiting = workflow["kinds"], workflow["tasks_waiting"]
    parts = [f"Its tasks are of {_named('kind', kinds)}."] if kinds else []
    if waiting:
        parts.append(f"No agent executes {_of(waiting, workflow['task_count'])}.")
    if approvals := workflow["approvals"]:
        parts.append(f"People decide in {_count(approvals, 'approval')}.")
    return " ".join(parts)


def _scale(workflow: Mapping[str, Any]) -> str:
    tasks, depth, width = workflow["task_count"], workflow["depth"], workflow["width"]
    levels = f"{_count(tasks, 'task')} in {_count(depth, 'level')}"
    parts = [f"{levels}, {_count(width, 'task')} wide at most."]
    if repeated := workflow["tasks_with_for_each"]:
        items = workflow["max_items"]
        parts.append(f"Lists of up to {items} items: {_of(repeated, tasks)}.")
    if runs := workflow["max_runs"]:
        parts.append(f"At most {_count(runs, 'run')} of a key at once.")
    return " ".join(parts)


def _stakeholders(workflow: Mapping[str, Any]) -> str:
    approvals = _count(workflow["approvals"], "approval")
    if people := workflow["approvers"]:
        return f"{approvals}, for which {_named('approver', people)} are named."
    return f"{approvals}, by those who may start a run."


def _time(workflow: Mapping[str, Any]) -> str:
    parts = []
    executed = workflow["task_count"] - workflow["tasks_waiting"]
    if executed and workflow["tasks_with_timeout"] == executed:
        seconds = workflow["max_attempt_timeout_seconds"]
        parts.append(f"Every attempt has a time limit, {seconds} s at most.")
    if seconds := workflow["total_timeout_seconds"]:
        parts.append(f"A run takes {seconds} s at most.")
    if timers := workflow["timers"]:
        parts.append(f"Timers: {_of(timers, workflow['task_count'])}.")
    return " ".join(parts)


def _risk(workflow: Mapping[str, Any]) -> str:
    tasks, parts = workflow["task_count"], []
    retried, limited = workflow["tasks_with_retry"], workflow["tasks_with_timeout"]
    if retried or limited:
        again = f"{_of(retried, tasks)} can be attempted again"
        parts.append(f"{again}, {_of(limited, tasks)} has a time limit.")
    if undone := workflow["tasks_with_compensation"]:
        parts.append(f"A failed run undoes {_of(undone, tasks)}.")
    if workflow["on_failure"]:
        parts.append("Something is executed after a failure.")
    return " ".join(parts)


def _derived_of_run(run: RunSummary) -> dict[Dimension, str]:
    seconds = (run.ended_us - run.started_us) / 1e6
    ended = f"{run.tasks_succeeded} succeeded, {run.tasks_failed} failed, {run.tasks_left} left"
    derived = {
        Dimension.IDENTITY: f"Run {run.run_id} of definition {run.definition_digest}.",
        Dimension.TIME: f"It took {seconds:.3f} s from its start to its end.",
        Dimension.STATE: f"It ended {run.state}: of its tasks {ended}.",
        Dimension.SCALE: f"It took {_count(run.attempts, 'attempt')}.",
        Dimension.RISK: f"{_count(run.retries, 'retry', 'retries')}, "
        f"{_count(run.leases_lost, 'lost lease')}, {_count(run.tasks_failed, 'failed task')}.",
        Dimension.EVIDENCE: "Each of its acts is an entry in the tenant's log.",
    }
    if run.agents:
        derived[Dimension.SPACE] = f"It was executed by {_named('agent', sorted(run.agents))}."
    return derived


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _of(some: int, tasks: int) -> str:
    return f"{some} of {_count(tasks, 'task')}"


def _named(noun: str, words: Any) -> str:
    shown = ", ".join(words[:_NAMED_MAX])
    more = len(words) - _NAMED_MAX
    return f"{_count(len(words), noun)}: {shown}" + (f" and {more} more" if more > 0 else "")
