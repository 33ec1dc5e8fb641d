"""What follows from the end of an attempt: in its task, in the tasks behind it, and in its run."""

from __future__ import annotations

from collections.abc import Callable

from tenure_server.core import history, lifecycle
from tenure_server.core.definition import Payload, payload_problem
from tenure_server.core.journal import Journal
from tenure_server.core.leases import STOPPED, Draw, End, Success
from tenure_server.core.lifecycle import EventKind, Failure, RunState, TaskState, Verdict
from tenure_server.core.ready import ReadyQueue
from tenure_server.core.runs import LiveRun, TaskFacts, run_state_after

#: Asks for attention: time, 0 for a retry, run id, task number.
SetAlarm = Callable[[int, int, str, int], None]


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
    ) -> None:
        #: How many tasks the open runs have, those that ended included.
        self.open_tasks = 0
        self._tenant_id = tenant_id
        self._term = term
        self._runs = runs
        self._ready = ready
        self._journal = journal
        self._draw = draw
        self._alarm = alarm

    def under(self) -> Journal:
        """The journal, which is told under which seat the decisions are made."""
        self._journal.under(self._tenant_id, self._term)
        return self._journal

    def apply(self, run: LiveRun, index: int, facts: TaskFacts, end: End, now_us: int) -> Verdict:
        """Applies what the holder reported."""
        if isinstance(end, Success):
            problem = None if end.output is None else payload_problem(end.output)
            if problem is None:
                self._succeed(run, index, facts, end.output, now_us)
                return Verdict.APPLIED
            self.fail(run, index, facts, Failure("OUTPUT_INVALID", f"output {problem}"), now_us)
            return Verdict.OUTPUT_REFUSED
        if end is STOPPED:
            self.stop(run, index, facts, EventKind.TASK_LEASE_RETURNED, "stopped", now_us)
            return Verdict.APPLIED
        self.fail(run, index, facts, end, now_us)
        return Verdict.APPLIED

    def _succeed(
        self, run: LiveRun, index: int, facts: TaskFacts, output: Payload | None, now_us: int
    ) -> None:
        journal = self.under()
        facts.failure = None
        facts.checkpoint = None
        run.move(index, TaskState.SUCCEEDED)
        run.write_task(journal, index, facts, end_us=now_us, output=output)
        history.note_task(
            run,
            journal,
            EventKind.TASK_SUCCEEDED,
            now_us,
            index,
            facts,
            result=facts.result_hash,
            output=output,
        )
        del run.facts[index]
        if output is not None:
            run.keep_output(index, output)
        run.release_upstream(index)
        for down in run.succeed_upstream_of(index):
            run.move(down, TaskState.READY)
            self._ready.add(run, down)
        self.close_if_done(run, now_us)

    def fail(
        self, run: LiveRun, index: int, facts: TaskFacts, failure: Failure, now_us: int
    ) -> None:
        """Ends a failed attempt: another one later, or the task and what depends on it."""
        if run.state is RunState.CANCELLING:
            self._cancel_task(run, index, facts, now_us)
            return
        facts.failure = failure
        decision = lifecycle.after_failure(
            run.definition.tasks[index].retry,
            attempt=facts.attempt,
            failure=failure,
            now_us=now_us,
            random=int.from_bytes(self._draw(4), "big") / (1 << 32),
        )
        journal = self.under()
        match decision:
            case lifecycle.Retry(at_us):
                facts.lost = 0
                facts.retry_us = at_us
                run.move(index, TaskState.RETRYING)
                run.write_task(journal, index, facts)
                kind = EventKind.TASK_RETRYING
                history.note_task(
                    run,
                    journal,
                    kind,
                    now_us,
                    index,
                    facts,
                    code=failure.code,
                    message=failure.message,
                    result=facts.result_hash or None,
                )
                self._alarm(at_us, 0, run.run_id, index)
            case lifecycle.Fail(reason):
                run.move(index, TaskState.FAILED)
                run.write_task(journal, index, facts, end_us=now_us)
                message = f"{failure.message} ({reason})" if failure.message else reason
                kind = EventKind.TASK_FAILED
                history.note_task(
                    run,
                    journal,
                    kind,
                    now_us,
                    index,
                    facts,
                    code=failure.code,
                    message=message,
                    result=facts.result_hash or None,
                )
                del run.facts[index]
                self._doom(run, index, now_us)
                run.release_upstream(index)
                if not run.reason:
                    run.reason = f"task {run.graph.keys[index]} failed: {failure.code}"
                    # Now, not at the end: until then there may be a restart.
                    journal.run_changed(run.run_id, run)
                self.close_if_done(run, now_us)

    def _doom(self, run: LiveRun, index: int, now_us: int) -> None:
        journal = self.under()
        cause = f"task {run.graph.keys[index]} did not succeed"
        for down in list(run.doomed_by(index)):
            facts = TaskFacts()
            run.move(down, TaskState.UPSTREAM_FAILED)
            run.write_task(journal, down, facts, end_us=now_us)
            kind = EventKind.TASK_UPSTREAM_FAILED
            history.note_task(run, journal, kind, now_us, down, facts, message=cause)
            run.release_upstream(down)

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
        if run.state is RunState.CANCELLING:
            self._cancel_task(run, index, facts, now_us)
            return
        if facts.lost > lifecycle.LOST_LEASES_MAX:
            text = f"{facts.lost} leases ended without a result"
            self.fail(run, index, facts, Failure("LEASE_LOST", text, True), now_us)
            return
        journal = self.under()
        facts.attempt -= 1
        was_ready = run.states[index] == TaskState.READY
        run.move(index, TaskState.READY)
        history.note_task(run, journal, kind, now_us, index, facts, message=message)
        run.write_task(journal, index, facts)
        if not was_ready:
            self._ready.add(run, index, first=True)

    def _cancel_task(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        journal = self.under()
        run.move(index, TaskState.CANCELLED)
        run.write_task(journal, index, facts, end_us=now_us)
        history.note_task(run, journal, EventKind.TASK_CANCELLED, now_us, index, facts)
        del run.facts[index]
        run.release_upstream(index)
        self.close_if_done(run, now_us)

    def close_if_done(self, run: LiveRun, now_us: int) -> None:
        """Ends a run when all its tasks have ended."""
        if run.open_tasks:
            return
        journal = self.under()
        run.state = run_state_after(run)
        run.end_us = now_us
        if run.state is RunState.SUCCEEDED:
            run.reason = ""
        history.note_run(run, journal, EventKind[f"RUN_{run.state.name}"], now_us, run.reason)
        journal.run_changed(run.run_id, run)
        del self._runs[run.run_id]
        self.open_tasks -= len(run.states)
        self._ready.drop(run)
