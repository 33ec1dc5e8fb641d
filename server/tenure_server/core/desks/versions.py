"""A newer version of a workflow beside a run of an older one: what can stand against moving it.

Everything here is about one task or about the run's state; `crossing` goes through all of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tenure_server.core import errors
from tenure_server.core.definitions.declared import WAIT_WORDS, WorkflowTask
from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.features import (
    Approval,
    EventWait,
    SignalWait,
    SubWorkflow,
    Wait,
)
from tenure_server.core.definitions.graph import Graph
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState, TaskState
from tenure_server.core.progress import aftermath
from tenure_server.core.runs import extensions
from tenure_server.core.runs.live import LiveRun

#: What can stand against it, as programs read it: of a task,
TASK_LEASED = "TASK_LEASED"
TASK_MISSING = "TASK_MISSING"
TASK_WORK = "TASK_WORK"
TASK_WAIT = "TASK_WAIT"
TASK_ORDER = "TASK_ORDER"
TASK_TIME = "TASK_TIME"
#: and of the run as a whole.
RUN_INPUT = "RUN_INPUT"
RUN_TIME = "RUN_TIME"
RUN_KEY = "RUN_KEY"
RUN_TASKS = "RUN_TASKS"

#: So many tasks are named in one sentence.
_NAMED_MAX = 5
_HAS = {
    TaskState.SUCCEEDED: "has succeeded",
    TaskState.FAILED: "has failed",
    TaskState.UPSTREAM_FAILED: "failed with what it depended on",
    TaskState.SKIPPED: "was skipped",
    TaskState.CANCELLED: "was cancelled",
    TaskState.ACTIVE: "is under way",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a workflow."""

    number: int
    digest: str
    definition: WorkflowDefinition
    graph: Graph
    #: What articles may look at under ``workflow``.
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands against it."""

    kind: str
    #: The task's key. Empty: it is the run as a whole.
    task: str
    why: str

    @property
    def subject(self) -> str:
        """Whose it is, in words."""
        return f"task {self.task}" if self.task else "run"


def check_state(run: LiveRun, to: Version) -> bool:
    """Whether a run is to be moved at all; False when it is there already, and paused.

    Raises RunClosed or RunStands where its state, or the number of the version, does not allow it.
    """
    state, name = run.state, f"run {run.run_id}"
    facts = {"state": state.name}
    same = to.number == run.workflow_version
    if state is RunState.PAUSED and same:
        return False
    if state in RUN_ENDED and state is not RunState.FAILED:
        message = f"{name} has {state.name.lower()}; only a paused or a failed run can be moved"
        raise errors.RunClosed(message, **facts)
    if any(one.kind == extensions.UNDO for one in run.extensions):
        message = f"{name}: what its tasks had done was undone; start a new run instead"
        raise (errors.RunClosed if run.ended else errors.RunStands)(message, **facts)
    if state is RunState.RUNNING:
        raise errors.RunStands(f"{name} is running; pause it first", **facts)
    if state not in (RunState.PAUSED, RunState.FAILED):
        raise errors.RunStands(f"{name} is {state.name.lower()}; wait for its end", **facts)
    if aftermath.is_under_way(run):
        why = "what follows from its failure is under way; resume it, and wait"
        raise errors.RunStands(f"{name}: {why}", **facts)
    if same:
        raise errors.RunStands(f"{name} is under version {to.number} already", **facts)
    if to.number < run.workflow_version:
        own = f"version {run.workflow_version}, the run's own"
        raise errors.RunStands(f"{name}: version {to.number} is older than {own}", **facts)
    return True


def other_work(before: WorkflowTask, after: WorkflowTask) -> str:
    """What a task is under the newer version, when that is other work. Empty: it is the same."""
    if after.for_each is None and before.for_each is not None:
        return "no list"
    if before.for_each is None and after.for_each is not None:
        return "a list"
    if type(before.wait) is not type(after.wait):
        return f"of kind {after.kind}" if after.wait is None else WAIT_WORDS[type(after.wait)]
    return f"of kind {after.kind}" if before.kind != after.kind else ""


def waits_for_other(before: Wait | None, after: Wait | None) -> bool:
    """Whether something that waits would wait for something else.

    It goes on as it began: its time, its key and the decisions that were made are kept, so these
    may be declared otherwise.
    """
    if isinstance(before, Approval) and isinstance(after, Approval):
        return _without_times(before) != _without_times(after)
    named = (SignalWait, EventWait, SubWorkflow)
    if isinstance(before, named) and isinstance(after, named):
        return before.name != after.name
    return False


def _without_times(asked: Approval) -> Approval:
    return replace(asked, timeout_us=None, escalate_after_us=None)


def has(state: TaskState) -> str:
    """What has become of a task, as the beginning of a sentence."""
    return _HAS.get(state, "has begun")


def listed(keys: Sequence[str]) -> str:
    """Tasks, by their keys, the first few of them."""
    more = len(keys) - _NAMED_MAX
    named = ", ".join(keys[:_NAMED_MAX])
    return f"{named} and {more} more" if more > 0 else named
