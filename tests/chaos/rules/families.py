"""Whether runs within runs are as many as were wanted, and end with what they are for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.chaos.history import Observations, Record, StoredRun
from tests.chaos.rules.course import RUN_ENDS, declared

from tenure_server.core.definitions.features import SubWorkflow

_ENDED = set(RUN_ENDS.values())


def runs_within_runs(_: Observations, record: Record) -> Iterator[str]:
    """No run is started twice for one want, or for nobody; what it came to is what its task did."""
    children: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run_id, stored in record.runs.items():
        if stored.parent:
            children[stored.parent, stored.parent_task].append(run_id)
            yield from _of_child(run_id, stored, record)
    for (parent, key), runs in children.items():
        kinds = Counter(event.kind for event in record.events.get(parent, ()) if event.task == key)
        wanted = kinds["task.activated"] + kinds["task.repeated"]
        if len(runs) > wanted:
            yield f"{key} of {parent} wanted {wanted} runs, and has {len(runs)}"
        yield from _of_output(parent, key, runs, record)
    yield from _together(children, record)


def _of_child(run_id: str, stored: StoredRun, record: Record) -> Iterator[str]:
    parent = record.runs.get(stored.parent)
    definition = record.definition_of(stored.parent)
    if parent is None or definition is None or parent.tenant != stored.tenant:
        yield f"run {run_id} is for {stored.parent}, which is not there"
        return
    task = declared(definition, stored.parent_task)
    wait = None if task is None else task.wait
    if not isinstance(wait, SubWorkflow) or wait.name != stored.workflow:
        yield f"run {run_id} of {stored.workflow} is for {stored.parent_task} of {stored.parent}"
    if parent.state in _ENDED and stored.state not in _ENDED:
        yield f"run {run_id} is {stored.state}; {stored.parent}, which it is for, {parent.state}"


def _of_output(parent: str, key: str, runs: list[str], record: Record) -> Iterator[str]:
    """A task that was not ended by hand came to what one of its runs did."""
    task, last = record.tasks.get((parent, key)), ""
    for event in record.events.get(parent, ()):
        if event.task == key and event.kind == "task.succeeded":
            last = record.act_of(parent, event)
    if task is None or task.state != "SUCCEEDED" or last == "task.settle":
        return
    gave = [record.runs[run_id] for run_id in runs]
    if not any(one.state == "SUCCEEDED" and one.output == task.output for one in gave):
        yield f"{key} of {parent} came to {task.output}, none of its runs {runs} did"


def _together(children: dict[tuple[str, str], list[str]], record: Record) -> Iterator[str]:
    """Of one task only one run goes on at a time, beside those that were let go."""
    of = {run_id: name for name, runs in children.items() for run_id in runs}
    for log in record.logs.values():
        going: dict[tuple[str, str], set[str]] = defaultdict(set)
        for item in (item for entry in log for item in entry.items):
            name = of.get(item.run_id)
            if name is None or item.task:
                continue
            if item.kind == "run.started":
                going[name].add(item.run_id)
                if len(going[name]) > 1:
                    yield f"{name[1]} of {name[0]} has {sorted(going[name])} at one time"
            elif item.kind in RUN_ENDS or item.kind == "run.cancelling":
                going[name].discard(item.run_id)
