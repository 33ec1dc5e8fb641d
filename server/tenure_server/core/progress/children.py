"""Tasks that are runs of other workflows, once or until an expression holds.

A child is a run of the same tenant that names its parent. It is decided about on the same desk, so
its end and what follows in its parent are one decision. Its definition may have to be read first,
and its start is judged like any other: so a task only says what it wants, and whoever holds the
desk starts it. `detail` holds the child's id, ``child`` (empty while it is wanted), and which
repetition it is, ``iteration``.

While the run of the task rests (it, its workflow or its tenant is paused) no child begins; one that
has begun goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from tenure_server.core.definitions.features import SubWorkflow
from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.expressions.evaluation import EvaluationFailed
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState
from tenure_server.core.runs import data_flow, run_data
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences

#: How deep runs may lie within runs.
DEPTH_MAX = 16

CHILD_FAILED = "RUN_FAILED"
CHILD_CANCELLED = "RUN_CANCELLED"
CHILD_REFUSED = "RUN_REFUSED"
REPETITIONS_EXHAUSTED = "REPETITIONS_EXHAUSTED"
TOO_DEEP = "RUNS_TOO_DEEP"


@dataclass(frozen=True, slots=True)
class WantedChild:
    """A run that a task waits for and that nobody has started yet."""

    run: LiveRun
    index: int
    #: Tells it from what the task wanted in an earlier attempt.
    attempt: int
    iteration: int
    input: Payload | None

    @property
    def workflow(self) -> SubWorkflow:
        """What it is to be a run of."""
        wait = self.run.tasks[self.index].wait
        assert isinstance(wait, SubWorkflow)
        return wait

    @property
    def detail(self) -> dict[str, Any]:
        """What its run keeps of where it stands."""
        return {"depth": depth_of(self.run) + 1}


class Children:
    """The runs of the tasks of one desk."""

    def __init__(self, consequences: Consequences) -> None:
        self._consequences = consequences
        #: What is to be started; whoever starts it takes it out.
        self.wanted: list[WantedChild] = []
        #: Cancels a run, with a reason; the desk knows how.
        self.cancel_run: Callable[[LiveRun, str, int], None] = _nobody
        #: Whether nothing of a run begins because of a pause; the desk knows.
        self.rests: Callable[[LiveRun], bool] = _nobody

    # -- as an activity

    def begin(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Wants the first run."""
        given = run_data.handler_input(run, index, facts)
        if isinstance(given, Failure):
            self._consequences.fail(run, index, facts, given, now_us)
            return
        if depth_of(run) >= DEPTH_MAX:
            failure = Failure(TOO_DEEP, f"runs lie at most {DEPTH_MAX} deep", True)
            self._consequences.fail(run, index, facts, failure, now_us)
            return
        wait = run.tasks[index].wait
        assert isinstance(wait, SubWorkflow)
        facts.keep(child="", iteration=1)
        self._consequences.note(
            run, index, facts, EventKind.TASK_ACTIVATED, f"workflow {wait.name}", now_us
        )
        self._want(run, index, facts, given)

    def due(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """It sets no alarm."""

    def part_ended(self, run: LiveRun, index: int, part: int, now_us: int) -> None:
        """Its part is a run, see `ended`."""

    def cancel(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Cancels the child, which then ends by itself."""
        child = self._consequences.runs.get((facts.detail or {}).get("child", ""))
        # Whatever becomes of it matters no more.
        facts.keep(let_go=True)
        if child is not None:
            self.cancel_run(child, f"task {run.graph.keys[index]} of its parent has ended", now_us)

    def leave(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """What it wants, this run wants no more; see `still_wanted`."""

    def restore(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Wants again what had not been started."""
        self._want_again(run, index, facts)

    def go_on(self, run: LiveRun) -> None:
        """Wants what was not started while the run rested."""
        queued = {one.index for one in self.wanted if one.run is run}
        for index in sorted(run.facts.keys() - queued):
            task = run.tasks[index]
            wants = isinstance(task.wait, SubWorkflow) and task.for_each is None
            if wants and run.states[index] == TaskState.ACTIVE:
                self._want_again(run, index, run.facts[index])

    # -- with whoever starts runs

    def still_wanted(self, wanted: WantedChild) -> bool:
        """Whether the task still waits for this run."""
        run, facts = wanted.run, wanted.run.facts.get(wanted.index)
        return (
            self._consequences.runs.get(run.run_id) is run
            and run.states[wanted.index] == TaskState.ACTIVE
            and facts is not None
            and facts.attempt == wanted.attempt
            and facts.detail is not None
            and facts.detail["iteration"] == wanted.iteration
            and not facts.detail["child"]
            and not self.rests(run)
        )

    def started(self, wanted: WantedChild, child_id: str) -> None:
        """Notes the run that was started for a task."""
        facts = wanted.run.facts[wanted.index]
        facts.keep(child=child_id)
        write_task(wanted.run, self._consequences.under(), wanted.index, facts)

    def refused(self, wanted: WantedChild, reason: str, now_us: int) -> None:
        """Ends the attempt: the run may not be started."""
        facts = wanted.run.facts[wanted.index]
        failure = Failure(CHILD_REFUSED, reason)
        self._consequences.fail(wanted.run, wanted.index, facts, failure, now_us)

    def ended(self, child: LiveRun, now_us: int) -> None:
        """Draws what follows from the end of a child for the task of its parent."""
        parent = self._consequences.runs.get(child.parent_run_id)
        index = None if parent is None else parent.graph.index.get(child.parent_task)
        if parent is None or index is None or parent.states[index] != TaskState.ACTIVE:
            return
        facts = parent.facts.get(index)
        detail = facts and facts.detail
        if facts is None or not detail or detail["child"] != child.run_id or "let_go" in detail:
            return
        failure = _failure_of(child)
        if failure is not None:
            self._consequences.fail(parent, index, facts, failure, now_us)
            return
        self._next(parent, index, facts, child.output, now_us)

    # -- one after the other

    def _next(
        self, run: LiveRun, index: int, facts: TaskFacts, output: Payload | None, now_us: int
    ) -> None:
        wait = run.tasks[index].wait
        assert isinstance(wait, SubWorkflow)
        assert facts.detail is not None
        iteration = facts.detail["iteration"]
        if wait.until:
            names = {"output": data_flow.given(output), "iteration": iteration}
            try:
                done = data_flow.holds(wait.until, names)
            except EvaluationFailed as error:
                failure = Failure(data_flow.CONDITION_FAILED, f"until: {wait.until}: {error}", True)
                self._consequences.fail(run, index, facts, failure, now_us)
                return
            if not done and iteration >= wait.repetitions_max:
                text = f"`until` did not hold after {iteration} repetitions"
                failure = Failure(REPETITIONS_EXHAUSTED, text, True)
                self._consequences.fail(run, index, facts, failure, now_us)
                return
            if not done:
                self._repeat(run, index, facts, output, now_us)
                return
        self._consequences.succeed(run, index, facts, output, now_us)

    def _repeat(
        self, run: LiveRun, index: int, facts: TaskFacts, output: Payload | None, now_us: int
    ) -> None:
        assert facts.detail is not None
        iteration = facts.detail["iteration"] + 1
        # Kept in the row, for the next run may be started by another coordinator.
        previous = None if output is None or not output.is_json else output.data.decode()
        facts.keep(child="", iteration=iteration, previous=previous)
        given = self._given(run, index, facts)
        if isinstance(given, Failure):
            self._consequences.fail(run, index, facts, given, now_us)
            return
        self._consequences.note(
            run, index, facts, EventKind.TASK_REPEATED, f"repetition {iteration}", now_us
        )
        self._want(run, index, facts, given)

    def _given(self, run: LiveRun, index: int, facts: TaskFacts) -> Payload | Failure | None:
        """The input of the run that is wanted now; a failure where there cannot be one."""
        given = run_data.handler_input(run, index, facts)
        detail = facts.detail or {}
        if isinstance(given, Failure) or detail.get("iteration", 1) == 1:
            return given
        value = {} if given is None else orjson.loads(given.data)
        if not isinstance(value, dict):
            return Failure(run_data.INPUT_INVALID, "its input is no JSON object", True)
        value["previous"] = orjson.Fragment(detail["previous"] or "null")
        return Payload(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))

    def _want_again(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        if not (facts.detail or {}).get("child"):
            given = self._given(run, index, facts)
            if not isinstance(given, Failure):
                self._want(run, index, facts, given)

    def _want(self, run: LiveRun, index: int, facts: TaskFacts, given: Payload | None) -> None:
        if self.rests(run):
            return
        iteration = (facts.detail or {})["iteration"]
        self.wanted.append(WantedChild(run, index, facts.attempt, iteration, given))


def depth_of(run: LiveRun) -> int:
    """How deep a run lies within runs; 0 for one that is nobody's."""
    return int((run.detail or {}).get("depth", 0))


def _failure_of(child: LiveRun) -> Failure | None:
    match child.state:
        case RunState.SUCCEEDED:
            return None
        case RunState.FAILED:
            return Failure(CHILD_FAILED, f"run {child.run_id} failed: {child.reason}")
        case state:
            text = f"run {child.run_id} was {state.name.lower()}: {child.reason}"
            return Failure(CHILD_CANCELLED, text, True)


def _nobody(run: LiveRun, *_: Any) -> NoReturn:
    raise AssertionError("no desk has taken the children over")
