"""What follows from the end of an attempt: in its task, in the tasks behind it, and in its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tenure_server.core.definitions.definition import Payload, payload_problem
from tenure_server.core.leasing import timeouts
from tenure_server.core.leasing.alarms import RETRY, SetAlarm
from tenure_server.core.leasing.leases import STOPPED, Draw, End, Success
from tenure_server.core.leasing.ready import ReadyQueue
from tenure_server.core.ledger import lifecycle
from tenure_server.core.ledger.journal import Journal
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState, Verdict
from tenure_server.core.progress import activities, aftermath
from tenure_server.core.progress.activities import Activity
from tenure_server.core.progress.approvals import Approvals
from tenure_server.core.progress.children import Children
from tenure_server.core.progress.expansion import Expansion, output_failure
from tenure_server.core.progress.run_limits import RunLimits
from tenure_server.core.progress.turns import Turns
from tenure_server.core.progress.waits import Events, Signals
from tenure_server.core.runs import extensions, history, run_data
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task
from tenure_server.core.runs.tasks import TaskFacts

#: In a task's detail: why it ends as cancelled when its attempt ends otherwise than well.
DISPLACED = "displaced"


class Attempts(Protocol):
    """The leases of the tasks, which `Desk` holds."""

    def stop_attempt(self, run: LiveRun, index: int, why: str) -> None:
        """Has the agent of a leased task told to stop; the lease goes on until it has."""

    def end_attempt(self, run: LiveRun, index: int, why: str) -> None:
        """Ends the lease of a task at once."""


class Consequences:
    """Draws them for one tenant, in the runs and the queue that `Desk` shares with it."""

    def __init__(
        self,
        tenant_id: str,
        *,
        term: int,
        runs: dict[str, LiveRun],
        ready: ReadyQueue,
        journal: Journal,
        draw: Draw,
        alarm: SetAlarm,
        attempts: Attempts,
    ) -> None:
        #: How many tasks the open runs have, those that ended included.
        self.open_tasks = 0
        self.runs = runs
        self.alarm = alarm
        self.attempts = attempts
        #: Which tasks may begin, and what they begin with.
        self.turns = Turns(self)
        #: The tasks that are made of items.
        self.expansion = Expansion(self)
        #: The runs that tasks wait for.
        self.children = Children(self)
        #: How many runs of a key are open at once.
        self.run_limits = RunLimits(self)
        #: The tasks that wait for the world.
        self.signals = Signals(self)
        self.events = Events(self)
        self.approvals = Approvals(self)
        #: What no agent executes, by what declares it.
        self.activities: Mapping[type, Activity] = activities.all_of(self)
        self._tenant_id = tenant_id
        self._term = term
        self._ready = ready
        self._journal = journal
        self._draw = draw

    def under(self) -> Journal:
        """The journal, which is told under which seat the decisions are made."""
        self._journal.under(self._tenant_id, self._term)
        return self._journal

    # -- tasks

    def ready(self, run: LiveRun, index: int, *, first: bool = False) -> None:
        """Readies a task for an agent."""
        run.move(index, TaskState.READY)
        if run.state in lifecycle.RUN_WORKING:
            self._ready.add(run, index, first=first)

    def activity_of(self, run: LiveRun, index: int) -> Activity:
        """What knows how such a task goes on."""
        task = run.tasks[index]
        return self.activities[type(task.wait if task.for_each is None else task.for_each)]

    def end(
        self,
        run: LiveRun,
        index: int,
        facts: TaskFacts,
        state: TaskState,
        cause: str,
        now_us: int,
    ) -> None:
        """Ends a task that comes to nothing, without what follows."""
        run.move(index, state)
        kind = EventKind[f"TASK_{state.name}"]
        self.note(run, index, facts, kind, cause, now_us, end_us=now_us)
        run.facts.pop(index, None)

    def note(
        self,
        run: LiveRun,
        index: int,
        facts: TaskFacts,
        kind: EventKind,
        message: str,
        now_us: int,
        *,
        end_us: int | None = None,
    ) -> None:
        """Writes a task's row as it stands, and the event that says why."""
        journal = self.under()
        write_task(run, journal, index, facts, end_us=end_us)
        history.note_task(run, journal, kind, now_us, index, facts, message=message)

    # -- when an attempt has ended

    def apply(self, run: LiveRun, index: int, facts: TaskFacts, end: End, now_us: int) -> Verdict:
        """Applies what the holder reported."""
        if isinstance(end, Success):
            problem = None if end.output is None else payload_problem(end.output)
            if problem is None and run.definition.schemas:
                problem = run_data.output_problem(run, index, end.output)
            if problem is None and (failure := output_failure(run, index, end.output)):
                self.fail(run, index, facts, failure, now_us)
                return Verdict.OUTPUT_REFUSED
            if problem is None:
                self.succeed(run, index, facts, end.output, now_us)
                return Verdict.APPLIED
            self.fail(run, index, facts, Failure("OUTPUT_INVALID", f"output {problem}"), now_us)
            return Verdict.OUTPUT_REFUSED
        if end is STOPPED:
            self.stop(run, index, facts, EventKind.TASK_LEASE_RETURNED, "stopped", now_us)
            return Verdict.APPLIED
        self.fail(run, index, facts, end, now_us)
        return Verdict.APPLIED

    def succeed(
        self,
        run: LiveRun,
        index: int,
        facts: TaskFacts,
        output: Payload | None,
        now_us: int,
        *,
        message: str = "",
    ) -> None:
        """Ends a task that has done its work."""
        journal = self.under()
        facts.failure = None
        facts.checkpoint = None
        plain = run.is_plain
        if not plain:
            aftermath.note_success(run, index, facts)
        run.move(index, TaskState.SUCCEEDED)
        write_task(run, journal, index, facts, end_us=now_us, output=output)
        history.note_task(
            run,
            journal,
            EventKind.TASK_SUCCEEDED,
            now_us,
            index,
            facts,
            message=message,
            result=facts.result_hash or None,
            output=output,
        )
        del run.facts[index]
        if output is not None:
            run.keep_output(index, output)
        if plain:
            # As most are: nothing but a success has ended anything, and each is simply leased next.
            run.release_upstream(index)
            for down in run.end_upstream_of(index):
                run.move(down, TaskState.READY)
                self._ready.add(run, down)
            self.close_if_done(run, now_us)
        else:
            self.after(run, index, now_us)

    def fail(
        self, run: LiveRun, index: int, facts: TaskFacts, failure: Failure, now_us: int
    ) -> None:
        """Ends a failed attempt: another one later, or the task and what depends on it."""
        if self._cancels(run, index, facts, now_us):
            return
        facts.failure = failure
        decision = lifecycle.after_failure(
            run.tasks[index].retry,
            attempt=facts.attempt,
            failure=failure,
            now_us=now_us,
            random=int.from_bytes(self._draw(4), "big") / (1 << 32),
            until_us=timeouts.attempts_by(facts),
        )
        match decision:
            case lifecycle.Retry(at_us):
                self._retry_later(run, index, facts, failure, at_us, now_us)
            case lifecycle.Fail(reason):
                message = f"{failure.message} ({reason})" if failure.message else reason
                self._fail_for_good(run, index, facts, failure, message, now_us)

    def give_up(
        self, run: LiveRun, index: int, facts: TaskFacts, failure: Failure, now_us: int
    ) -> None:
        """Fails a task that no agent has, whatever its policy says."""
        if run.states[index] == TaskState.ACTIVE:
            self.activity_of(run, index).cancel(run, index, facts, now_us)
        # What its last attempt came to was told, and is not why it ends.
        facts.result_hash = b""
        facts.failure = failure
        self._fail_for_good(run, index, facts, failure, failure.message, now_us)

    def _retry_later(
        self,
        run: LiveRun,
        index: int,
        facts: TaskFacts,
        failure: Failure,
        at_us: int,
        now_us: int,
    ) -> None:
        journal = self.under()
        facts.lost = 0
        facts.retry_us = at_us
        run.move(index, TaskState.RETRYING)
        write_task(run, journal, index, facts)
        history.note_task(
            run,
            journal,
            EventKind.TASK_RETRYING,
            now_us,
            index,
            facts,
            code=failure.code,
            message=failure.message,
            result=facts.result_hash or None,
        )
        self.alarm(at_us, RETRY, run.run_id, index)

    def _fail_for_good(
        self,
        run: LiveRun,
        index: int,
        facts: TaskFacts,
        failure: Failure,
        message: str,
        now_us: int,
    ) -> None:
        journal = self.under()
        run.move(index, TaskState.FAILED)
        write_task(run, journal, index, facts, end_us=now_us)
        history.note_task(
            run,
            journal,
            EventKind.TASK_FAILED,
            now_us,
            index,
            facts,
            code=failure.code,
            message=message,
            result=facts.result_hash or None,
        )
        run.facts.pop(index, None)
        run.note_failure(index, failure)
        if not run.reason and index < run.planned:
            run.reason = f"task {run.graph.keys[index]} failed: {failure.code}"
            # Now, not at the end: until then there may be a restart.
            journal.run_changed(run.run_id, run)
        self.after(run, index, now_us)

    def after(self, run: LiveRun, index: int, now_us: int) -> None:
        """Draws what follows from the end of a task in all others and in its run."""
        if index < run.planned:
            self.turns.follow(run, index, now_us)
        else:
            # Nothing depends on it.
            extension, _ = run.extension_of(index)
            if extension.kind != extensions.ITEMS:
                aftermath.go_on(self, run, now_us)
            elif run.states[extension.of] == TaskState.ACTIVE:
                self.activity_of(run, extension.of).part_ended(run, extension.of, index, now_us)
        self.close_if_done(run, now_us)

    def stop(
        self,
        run: LiveRun,
        index: int,
        facts: TaskFacts,
        kind: EventKind,
        message: str,
        now_us: int,
    ) -> None:
        """Readies a task whose attempt ended without its fault, unless that was too often."""
        if self._cancels(run, index, facts, now_us):
            return
        if facts.lost > lifecycle.LOST_LEASES_MAX:
            text = f"{facts.lost} leases ended without a result"
            self.fail(run, index, facts, Failure("LEASE_LOST", text, True), now_us)
            return
        journal = self.under()
        facts.attempt -= 1
        if run.states[index] != TaskState.READY:
            self.ready(run, index, first=True)
        history.note_task(run, journal, kind, now_us, index, facts, message=message)
        write_task(run, journal, index, facts)
        if facts.detail is not None and (failure := timeouts.failure(facts, now_us, paused=True)):
            self.give_up(run, index, facts, failure, now_us)

    def cancel(self, run: LiveRun, index: int, now_us: int) -> None:
        """Cancels a task that no agent has, without what follows: all of its run is cancelled."""
        facts = run.facts.pop(index, None) or TaskFacts()
        if run.states[index] == TaskState.ACTIVE:
            self.activity_of(run, index).cancel(run, index, facts, now_us)
        self.end(run, index, facts, TaskState.CANCELLED, "", now_us)
        run.release_upstream(index)
        run.count_end(index)

    def cancel_alone(
        self, run: LiveRun, index: int, facts: TaskFacts, why: str, now_us: int
    ) -> None:
        """Cancels a task of a run that goes on: for those behind it, it is lost."""
        self.end(run, index, facts, TaskState.CANCELLED, why, now_us)
        if not run.reason and index < run.planned:
            run.reason = f"task {run.graph.keys[index]} was cancelled: {why}"
            self.under().run_changed(run.run_id, run)
        self.after(run, index, now_us)

    def _cancels(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> bool:
        """Cancels a task for good whose attempt has ended otherwise than well, if it is to be."""
        if run.state is RunState.CANCELLING:
            self.end(run, index, facts, TaskState.CANCELLED, "", now_us)
            run.release_upstream(index)
            run.count_end(index)
            self.close_if_done(run, now_us)
        elif index >= run.planned and self.expansion.is_stopping(run, index):
            self.end(run, index, facts, TaskState.CANCELLED, "", now_us)
            self.after(run, index, now_us)
        elif facts.detail is not None and (why := facts.detail.get(DISPLACED)):
            self.cancel_alone(run, index, facts, why, now_us)
        else:
            return False
        return True

    def close_if_done(self, run: LiveRun, now_us: int) -> None:
        """Ends a run when all its tasks have ended."""
        if run.open_tasks or run.end_us is not None:
            return
        journal = self.under()
        state = _state_after(run)
        if state is RunState.SUCCEEDED and (run.definition.output or run.parent_run_id):
            failed = run_data.conclude(run)
            if failed is not None:
                state, run.reason = RunState.FAILED, failed
        if state is RunState.FAILED and aftermath.begin(self, run, now_us):
            return
        run.state = state
        run.end_us = now_us
        run.reason = "" if state is RunState.SUCCEEDED else run.reason + aftermath.shortfall(run)
        history.note_run(run, journal, lifecycle.RUN_ENDS[run.state], now_us, run.reason)
        journal.run_changed(run.run_id, run)
        del self.runs[run.run_id]
        self.open_tasks -= len(run.states)
        self._ready.drop(run)
        if run.definition.concurrency is not None:
            self.run_limits.ended(run)
        if run.parent_run_id:
            self.children.ended(run, now_us)


def _state_after(run: LiveRun) -> RunState:
    """The state in which a run ends whose tasks have all ended."""
    if run.state is RunState.CLOSED:
        return RunState.CLOSED
    if run.expired or run.state is RunState.COMPENSATING:
        return RunState.FAILED
    if run.state is RunState.CANCELLING:
        return RunState.CANCELLED
    return RunState.FAILED if run.has_failed else RunState.SUCCEEDED
