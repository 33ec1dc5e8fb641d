"""When the turn of a task comes: what it begins with, and which others an end gives their turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenure_server.core.expressions.evaluation import EvaluationFailed
from tenure_server.core.leasing import timeouts
from tenure_server.core.ledger.lifecycle import Failure, TaskState
from tenure_server.core.runs import data_flow, run_data
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task
from tenure_server.core.runs.tasks import TaskFacts
from tenure_server.core.runs.triggers import Turn

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences


class Turns:
    """Gives them to the tasks of one tenant's runs; what an end means is for `Consequences`."""

    def __init__(self, consequences: Consequences) -> None:
        self._consequences = consequences
        #: Ends from which it is still to be drawn what follows.
        self._ends: list[tuple[LiveRun, int]] = []
        self._following = False

    def arrive(self, run: LiveRun, index: int, now_us: int) -> None:
        """Begins a waiting task whose turn has come; in a run that is held, once it is let in."""
        if run.held and index in run.graph.special:
            return
        task = run.tasks[index]
        if task.when and not self._is_wanted(run, index, task.when, now_us):
            return
        # A task that is executed again has facts already.
        facts = run.facts.get(index) or TaskFacts()
        bounded = timeouts.begin(task, facts, now_us)
        if task.wait is not None or task.for_each is not None:
            run.facts[index] = facts
            if bounded:
                timeouts.set_alarms(run, index, facts, self._consequences.alarm)
            self.begin(run, index, facts, now_us)
            return
        if bounded:
            run.facts[index] = facts
        self._consequences.ready(run, index)
        if bounded:
            # Not before it is ready: among many, an alarm that does not matter yet is swept out.
            timeouts.set_alarms(run, index, facts, self._consequences.alarm)
            write_task(run, self._consequences.under(), index, facts)

    def _is_wanted(self, run: LiveRun, index: int, condition: str, now_us: int) -> bool:
        """Whether the condition of a task holds; the task ends where it does not."""
        shown = data_flow.shown(condition)
        try:
            if data_flow.holds(condition, run_data.names_of(run, index)):
                return True
        except EvaluationFailed as error:
            message = f"when: {shown}: {error}"[: run_data.MESSAGE_CHARACTERS_MAX]
            facts = run.facts.setdefault(index, TaskFacts())
            self._consequences.fail(
                run, index, facts, Failure(data_flow.CONDITION_FAILED, message, True), now_us
            )
            return False
        why = f"its condition does not hold: {shown}"
        self.end_unbegun(run, index, TaskState.SKIPPED, why, now_us)
        self.follow(run, index, now_us)
        return False

    def begin(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Begins an attempt of a task that no agent executes."""
        facts.attempt += 1
        task = run.tasks[index]
        if task.retry.total_timeout_us is not None and timeouts.attempted(task, facts, now_us):
            timeouts.set_alarms(run, index, facts, self._consequences.alarm)
        run.move(index, TaskState.ACTIVE)
        self._consequences.activity_of(run, index).begin(run, index, facts, now_us)

    def follow(self, run: LiveRun, index: int, now_us: int) -> None:
        """Draws what follows from the end of a task, whatever it was, in those behind it."""
        self._ends.append((run, index))
        # What begins may end at once: a long chain of such tasks must not lie in the calls.
        if self._following:
            return
        self._following = True
        others: dict[str, LiveRun] = {}
        try:
            while self._ends:
                ended = self._ends.pop()
                if ended[0] is not run:
                    others[ended[0].run_id] = ended[0]
                self._follow(*ended, now_us)
        finally:
            self._following = False
            self._ends.clear()
        # Such as that of a task whose run has ended meanwhile. Its own run is for the caller.
        for other in others.values():
            self._consequences.close_if_done(other, now_us)

    def _follow(self, run: LiveRun, index: int, now_us: int) -> None:
        if index < run.planned < len(run.states) and run.tasks[index].for_each is not None:
            # It may have ended before its turn, opened again and with items of its earlier turn.
            self._consequences.expansion.abandon(run, index, now_us)
        run.release_upstream(index)
        run.count_end(index)
        for down in run.graph.downstream[index]:
            if run.states[down] == TaskState.WAITING and self._weigh(run, down, index, now_us):
                self._ends.append((run, down))

    def consider(self, run: LiveRun, index: int, now_us: int) -> None:
        """Decides anew about a waiting task, and draws what follows."""
        cause = next(iter(run.graph.upstream[index]), index)
        if self._weigh(run, index, cause, now_us):
            self.follow(run, index, now_us)

    def _weigh(self, run: LiveRun, index: int, after: int, now_us: int) -> bool:
        """Decides about a waiting task after the end of another; says whether it ended unbegun."""
        match run.turn_of(index):
            case Turn.COME:
                self.arrive(run, index, now_us)
                return False
            case Turn.SKIP:
                cause = f"its trigger rule did not hold after {run.graph.keys[after]}"
                self.end_unbegun(run, index, TaskState.SKIPPED, cause, now_us)
                return True
            case Turn.DOOM:
                cause = f"task {run.graph.keys[after]} did not succeed"
                self.end_unbegun(run, index, TaskState.UPSTREAM_FAILED, cause, now_us)
                return True
            case _:
                return False

    def end_unbegun(
        self, run: LiveRun, index: int, state: TaskState, cause: str, now_us: int
    ) -> None:
        """Ends a task whose turn never came, without what follows."""
        self._consequences.end(
            run, index, run.facts.get(index) or TaskFacts(), state, cause, now_us
        )
