"""What operators do to runs: pause and resume, close by force, skip, settle by hand, reopen.

Each either does all of it or raises RunStands, with the reason, and does nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from tenure_server.core import errors
from tenure_server.core.definitions.graph import NO_NEEDS
from tenure_server.core.desks import poison
from tenure_server.core.leasing import timeouts
from tenure_server.core.leasing.leases import End, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import (
    RUN_ENDED,
    RUN_WORKING,
    TASK_ENDED,
    TASK_LOST,
    EventKind,
    Failure,
    RunState,
    TaskState,
)
from tenure_server.core.progress import aftermath
from tenure_server.core.progress.expansion import output_failure
from tenure_server.core.runs import extensions, history, run_data
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.desks.desk import Desk

#: The failure code of a task that somebody declared failed.
BY_HAND = "SETTLED_BY_HAND"


class Interventions:
    """Carries them out on the runs of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def pause(self, run: LiveRun, reason: str, now_us: int) -> None:
        """Leases nothing more of a run. Twice is the same as once."""
        journal = self._desk.consequences.under()
        if run.state is RunState.PAUSED:
            return
        if run.state not in RUN_WORKING:
            raise _stands(run, f"the run is {run.state.name.lower()}, only a running one is paused")
        run.state = RunState.PAUSED
        self._desk.ready.drop(run)
        journal.run_changed(run.run_id, run)
        history.note_run(run, journal, EventKind.RUN_PAUSED, now_us, reason)

    def resume(self, run: LiveRun, reason: str, now_us: int) -> None:
        """Lets a paused run go on; changes nothing in one that is not paused."""
        journal = self._desk.consequences.under()
        if run.state is not RunState.PAUSED:
            return
        run.state = RunState.COMPENSATING if aftermath.is_under_way(run) else RunState.RUNNING
        # Whoever lets it go on gives it all its chances again.
        poison.forgive(run)
        journal.run_changed(run.run_id, run)
        history.note_run(run, journal, EventKind.RUN_RESUMED, now_us, reason)
        self._line_up(run, now_us)
        # It may have failed meanwhile, with something to undo.
        self._desk.consequences.close_if_done(run, now_us)

    def _line_up(self, run: LiveRun, now_us: int) -> None:
        """Lets what is ready be leased again, after a pause."""
        for index, state in enumerate(run.states):
            if state == TaskState.READY:
                self._desk.ready.add(run, index)
                self.queue_anew(run, index, now_us)
        self._desk.consequences.children.go_on(run)

    def queue_anew(self, run: LiveRun, index: int, now_us: int) -> None:
        """Gives a ready task all its time in the queue again."""
        facts = run.facts.get(index)
        if facts is not None and timeouts.requeue(run.tasks[index], facts, now_us):
            timeouts.set_alarms(run, index, facts, self._desk.set_alarm)
            write_task(run, self._desk.consequences.under(), index, facts)

    def cancel(self, run: LiveRun, reason: str, now_us: int) -> None:
        """Cancels a run: tasks without a lease now, the others when their leases end."""
        # Also where nothing changes: the caller may note what was answered.
        self._desk.consequences.under()
        if run.state is RunState.CANCELLING:
            return
        if run.expired:
            # What undoes it is cancelled: then it does not end because its time was up.
            run.keep(expired=False)
        self._end_early(run, reason or "cancelled", now_us)

    def expire(self, run: LiveRun, now_us: int) -> None:
        """Ends a run whose time is up as a cancel does, but it fails. What undoes it has time."""
        if run.state is RunState.CANCELLING or run.has_expired or aftermath.is_under_way(run):
            return
        run.keep(expired=True)
        before = f"; {run.reason}" if run.reason else ""
        self._end_early(run, f"it took longer than it may{before}", now_us)

    def _end_early(self, run: LiveRun, reason: str, now_us: int) -> None:
        desk, journal = self._desk, self._desk.consequences.under()
        run.reason = reason
        run.state = RunState.CANCELLING
        journal.run_changed(run.run_id, run)
        for index, state in enumerate(bytes(run.states)):
            if state == TaskState.LEASED:
                desk.stop_attempt(run, index, run.reason)
            elif state not in TASK_ENDED:
                desk.consequences.cancel(run, index, now_us)
        if run.live_leases:
            history.note_run(run, journal, EventKind.RUN_CANCELLING, now_us, run.reason)
        desk.consequences.close_if_done(run, now_us)

    def close(self, run: LiveRun, reason: str, now_us: int) -> None:
        """Ends a run at once, its leases too."""
        desk = self._desk
        run.reason = reason
        run.state = RunState.CLOSED
        for index, state in enumerate(bytes(run.states)):
            if state == TaskState.LEASED:
                desk.end_attempt(run, index, f"the run was closed: {reason}")
            if state not in TASK_ENDED:
                desk.consequences.cancel(run, index, now_us)
        desk.consequences.close_if_done(run, now_us)

    def skip(self, run: LiveRun, index: int, reason: str, now_us: int) -> None:
        """Ends a task that no agent has as skipped."""
        self._check_at_work(run)
        state = TaskState(run.states[index])
        key = run.graph.keys[index]
        if state is TaskState.LEASED or state in TASK_ENDED:
            raise _stands(run, f"task {key} {_is(state)}", task=key)
        consequences = self._desk.consequences
        facts = run.facts.pop(index, None) or TaskFacts()
        if state is TaskState.ACTIVE:
            consequences.activity_of(run, index).cancel(run, index, facts, now_us)
        consequences.end(run, index, facts, TaskState.SKIPPED, reason, now_us)
        consequences.after(run, index, now_us)

    def settle(self, run: LiveRun, index: int, end: End, reason: str, now_us: int) -> None:
        """Ends a task whose turn has come as its agent could have."""
        self._check_at_work(run)
        desk, state = self._desk, TaskState(run.states[index])
        key = run.graph.keys[index]
        if state is TaskState.WAITING or state in TASK_ENDED:
            raise _stands(run, f"task {key} {_is(state)}", task=key)
        if isinstance(end, Success) and (unfit := output_failure(run, index, end.output)):
            raise errors.FieldsInvalid([("output", unfit.message)])
        if isinstance(end, Success) and run.definition.schemas:
            problem = run_data.output_problem(run, index, end.output)
            if problem is not None:
                raise errors.FieldsInvalid([("output", problem)])
        facts = run.facts.setdefault(index, TaskFacts())
        if state is TaskState.LEASED:
            desk.end_attempt(run, index, f"the task was settled by hand: {reason}")
        elif state is TaskState.ACTIVE:
            desk.consequences.activity_of(run, index).cancel(run, index, facts, now_us)
        # Whatever an agent still reports under its last lease comes too late.
        facts.token_hash, facts.result_hash = b"", b""
        if isinstance(end, Success):
            desk.consequences.succeed(run, index, facts, end.output, now_us, message=reason)
        else:
            failure = Failure(BY_HAND, reason, non_retryable=True)
            desk.consequences.fail(run, index, facts, failure, now_us)

    def reopen(
        self,
        run: LiveRun,
        again: Sequence[int],
        stored: Mapping[int, records.Task],
        *,
        paused: bool,
        reason: str,
        now_us: int,
    ) -> None:
        """Executes tasks again, which `to_reopen` gave; `stored` has the rows of those that ended.

        The run may have ended, and was then read back for this.
        """
        desk, was_paused = self._desk, run.state is RunState.PAUSED
        if run.ended:
            desk.adopt(run)
            if run.definition.concurrency is not None:
                desk.consequences.run_limits.enter(run)
        self.open_again(run, again, stored, paused=paused, reason=reason, now_us=now_us)
        if paused:
            desk.ready.drop(run)
        elif was_paused:
            # Opening it again lets all of it go on, also what was ready before.
            self._line_up(run, now_us)
        for index in again:
            # Items are woken by the task that they belong to.
            if index < run.planned and run.states[index] == TaskState.WAITING:
                desk.consequences.turns.consider(run, index, now_us)
        desk.consequences.close_if_done(run, now_us)

    def open_again(
        self,
        run: LiveRun,
        again: Sequence[int],
        stored: Mapping[int, records.Task],
        *,
        paused: bool,
        reason: str,
        now_us: int,
    ) -> None:
        """Lets tasks wait again as if they had never begun; nothing is decided about them yet."""
        had_ended = run.ended
        run.state = RunState.PAUSED if paused else RunState.RUNNING
        run.reason, run.end_us, run.output = "", None, None
        if run.deadline_us is not None and run.deadline_us <= now_us:
            # Its time has been up already; it would end again at once.
            run.keep(expired=False)
        poison.forgive(run)
        journal = self._desk.consequences.under()
        if had_ended:
            journal.run_reopened(run.run_id, run)
        else:
            journal.run_changed(run.run_id, run)
        history.note_run(run, journal, EventKind.RUN_REOPENED, now_us, reason)
        for index in again:
            row = stored.get(index)
            if row is None:
                # It waits already, and has never been anything else.
                continue
            # A term of its own, so that whatever is known of the one before proves nothing now.
            facts = run.facts[index] = TaskFacts(term=row.term + 1)
            facts.detail = _kept_of_list(run, index, row, again)
            run.forget_end(index)
            run.move(index, TaskState.WAITING)
            write_task(run, journal, index, facts)
            history.note_task(run, journal, EventKind.TASK_REOPENED, now_us, index, facts)
        run.recount()

    def _check_at_work(self, run: LiveRun) -> None:
        if run.state not in (RunState.RUNNING, RunState.PAUSED):
            raise _stands(run, f"the run is {run.state.name.lower()}")


def to_reopen(run: LiveRun, chosen: Collection[int], *, some: bool = True) -> list[int]:
    """The tasks that would be executed again, in the order of the definition.

    Raises RunClosed or RunStands where it cannot be; and where there are none, but `some` must be.
    """
    if any(one.kind == extensions.UNDO for one in run.extensions):
        raise _stands(run, "what its tasks had done was undone; start a new run instead")
    if run.state in (RunState.CANCELLING, RunState.COMPENSATING):
        raise _stands(run, f"the run is {run.state.name.lower()}; wait for its end")
    if aftermath.is_under_way(run):
        raise _stands(run, "what follows from its failure is under way; resume it, and wait")
    for index in set(chosen).intersection(run.aftermath):
        key = run.graph.keys[index]
        raise _stands(run, f"task {key} follows from a failure alone", task=key)
    begin = set(chosen) or {index for index in range(run.planned) if run.states[index] in TASK_LOST}
    again = begin | {of for index in begin if (of := _list_of(run, index)) is not None}
    behind: set[int] = set()
    stack = list(again)
    while stack:
        for down in run.graph.downstream[stack.pop()]:
            if down not in behind:
                behind.add(down)
                stack.append(down)
    again |= behind
    whole = behind | set(chosen)
    for index in [index for index in again if index < run.planned]:
        if run.tasks[index].for_each is not None:
            parts = run.parts_of(index)
            again.update(
                parts
                if index in whole
                else (part for part in parts if run.states[part] in TASK_LOST)
            )
    for index in sorted(again):
        state, key = TaskState(run.states[index]), run.graph.keys[index]
        if state not in TASK_ENDED and state is not TaskState.WAITING:
            raise _stands(run, f"task {key} {_is(state)}", task=key)
    if some and not any(run.states[index] in TASK_ENDED for index in again):
        raise _stands(run, "no task has ended otherwise than well")
    return sorted(again)


def _list_of(run: LiveRun, index: int) -> int | None:
    """The task whose item a task is, or None."""
    if index < run.planned:
        return None
    extension, _ = run.extension_of(index)
    return extension.of if extension.kind == extensions.ITEMS else None


def _kept_of_list(
    run: LiveRun, index: int, row: records.Task, again: Collection[int]
) -> dict[str, Any] | None:
    """The list of a task of which only some items are executed again: it stays what it was."""
    if index >= run.planned or run.tasks[index].for_each is None or row.detail is None:
        return None
    if set(run.parts_of(index)) <= set(again):
        return None
    items = orjson.loads(row.detail).get("items")
    return None if items is None else {"items": items}


def needed_outputs(run: LiveRun, again: Collection[int]) -> list[int]:
    """The tasks whose outputs are needed by tasks that are executed again, or at the end."""
    tasks = set(again)
    graph = run.graph
    needed = {up for index in tasks for up in graph.upstream[index]}
    if graph.needs is not NO_NEEDS:
        needed |= {up for index in tasks for up in graph.needs.before.get(index, ())}
    needed |= {index for index in range(len(run.states)) if run.needed_at_end(index)}
    for index in tasks:
        if index < run.planned and run.tasks[index].for_each is not None:
            # What they put out goes into the list that the others add to.
            needed.update(run.parts_of(index))
    return sorted(needed - tasks)


def _stands(run: LiveRun, why: str, **facts: str) -> errors.Refusal:
    state = run.state.name
    kind = errors.RunClosed if run.state in RUN_ENDED else errors.RunStands
    return kind(f"run {run.run_id}: {why}", state=state, **facts)


def _is(state: TaskState) -> str:
    if state in TASK_ENDED:
        return f"has ended as {state.name.lower()}"
    return "waits for others" if state is TaskState.WAITING else f"is {state.name.lower()}"
