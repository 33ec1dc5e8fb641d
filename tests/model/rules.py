"""What follows from what, by `docs/workflow-format.md`, as simply as can be: look again until
nothing changes any more.

It knows no queue, no journal and no order in which ends are drawn. Where the log alone can tell an
order, of two successes in one moment, it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from tests.model import expressions as cel
from tests.model.definitions import STRICT, fits
from tests.model.tasks import (
    Run,
    Task,
    delay_us,
    on_failure_made,
    parts_made,
    turn,
    undo_made,
)

from tenure_server.core.definitions.definition import Payload
from tenure_server.core.definitions.features import (
    Approval,
    EventWait,
    SignalWait,
    SubWorkflow,
    Timer,
)


class Rules:
    """What follows, in the runs of a tenant."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us
        self.runs: list[Run] = []

    @property
    def open_runs(self) -> list[Run]:
        """Those that have not ended, in the order of their numbers."""
        return [run for run in self.runs if not run.ended]

    def tasks(self) -> Iterator[tuple[Run, Task]]:
        """The tasks of all open runs."""
        for run in self.open_runs:
            for task in list(run.tasks.values()):
                yield run, task

    def settle_down(self, run: Run) -> None:
        """Draws all that follows in a run."""
        while not run.ended and self._next(run):
            pass

    def _next(self, run: Run) -> bool:
        plan = run.plan
        return (
            any(self._take_turn(run, task) for task in plan)
            or any(
                self._tend_list(run, task) for task in plan if task.parts or task.items is not None
            )
            or self._come_to_the_end(run)
        )

    # -- turns

    def _take_turn(self, run: Run, task: Task) -> bool:
        if task.state != "WAITING":
            return False
        match self.turn_of(run, task):
            case "come" if not run.held:
                self.arrive(run, task)
            case "skip":
                task.state = "SKIPPED"
            case "doom":
                task.state = "UPSTREAM_FAILED"
            case _:
                return False
        return True

    def turn_of(self, run: Run, task: Task) -> str:
        """Whether the turn of a task has ``come``, or it is to ``skip``, ``doom`` or ``wait``."""
        return turn(task.node.trigger, [run.tasks[key].state for key in task.node.depends_on])

    def arrive(self, run: Run, task: Task) -> None:
        """The turn of a task has come."""
        node = task.node
        if node.when:
            try:
                if not cel.holds(node.when, run.look_of(task)):
                    task.state = "SKIPPED"
                    return
            except cel.NoValue:
                self.fail(run, task, "CONDITION_FAILED", for_good=True)
                return
        if node.queue_timeout_us is not None:
            task.queue_by = self.now_us + node.queue_timeout_us
        if node.total_timeout_us is not None:
            task.total_by = self.now_us + node.total_timeout_us
        self.go(run, task)

    def go(self, run: Run, task: Task) -> None:
        """An agent may have it, or what no agent does begins."""
        if task.node.for_each is None and task.node.wait is None:
            task.state = "READY"
            return
        task.state = "ACTIVE"
        task.attempt += 1
        if task.node.retry.total_timeout_us is not None and task.attempts_by is None:
            task.attempts_by = self.now_us + task.node.retry.total_timeout_us
        if task.node.for_each is not None:
            self._begin_list(run, task)
        else:
            self._begin_wait(run, task)

    # -- lists

    def _begin_list(self, run: Run, task: Task) -> None:
        declared = task.node.for_each
        assert declared is not None
        if task.items is None:
            try:
                items = cel.items(declared.items, run.look_of(task))
            except cel.NoValue:
                self.fail(run, task, "EXPANSION_FAILED", for_good=True)
                return
            if len(items) > declared.items_max:
                self.fail(run, task, "ITEMS_TOO_MANY", for_good=True)
                return
            task.items = items
        for part in list(parts_made(task, len(task.items))):
            task.parts.append(part)
            run.tasks[part.key] = part
        for part in task.parts[len(task.items) :]:
            if not part.ended:
                part.state = "SKIPPED"

    def _tend_list(self, run: Run, task: Task) -> bool:
        if task.ended and run.state not in ("CANCELLING", "CLOSED"):
            left = task.open_parts
            for part in left:
                self.cancel_task(run, part)
            return bool(left)
        declared = task.node.for_each
        if task.state != "ACTIVE" or declared is None:
            return False
        parts = task.known_parts
        failed = sum(part.state == "FAILED" for part in parts)
        if not task.stopping and 0 <= declared.failures_max < failed:
            task.stopping = "ITEMS_FAILED"
            for part in parts:
                if not part.ended and not part.live:
                    self.cancel_task(run, part)
            return True
        if all(part.ended for part in parts):
            self._finish_list(run, task)
            return True
        awake = sum(not part.ended and part.state != "WAITING" for part in parts)
        asleep = [part for part in parts if part.state == "WAITING"]
        if asleep and awake < (declared.parallelism or len(parts)):
            self.arrive(run, asleep[0])
            return True
        return False

    def _finish_list(self, run: Run, task: Task) -> None:
        if task.stopping:
            self.fail(run, task, task.stopping, for_good=True)
            return
        outputs = [cel.seen(part.output) for part in task.known_parts]
        self.succeed(task, Payload(orjson.dumps(outputs)))

    # -- waits

    def _begin_wait(self, run: Run, task: Task) -> None:
        look = run.look_of(task)
        try:
            match task.node.wait:
                case Timer(delay_us=int(delay)):
                    task.due_us = self.now_us + delay
                case Timer(until=until):
                    task.due_us = cel.value(until, look) * 1_000_000
                case SignalWait(name=name, timeout_us=timeout):
                    task.due_us = _after(timeout, self.now_us)
                    if kept := run.signals.get(name):
                        self.succeed(task, kept.pop(0))
                case EventWait(key=key, timeout_us=timeout):
                    task.event_key = cel.key(key, look) if key else ""
                    task.due_us = _after(timeout, self.now_us)
                case Approval() as asked:
                    task.due_us = _after(asked.timeout_us, self.now_us)
                    task.escalate_us = _after(asked.escalate_after_us, self.now_us)
                case SubWorkflow():
                    task.iteration = 1
                    self._given(run, task)
                    task.wants_child = True
        except cel.NoValue:
            code = {Timer: "UNTIL_FAILED", EventWait: "KEY_FAILED"}
            self.fail(run, task, code.get(type(task.node.wait), "BINDING_FAILED"), for_good=True)

    def _given(self, run: Run, task: Task) -> Payload | None:
        return cel.fields(task.node.bindings, task.node.input, run.look_of(task))

    def wanted_input(self, run: Run, task: Task) -> Payload | None:
        """What the run that a task wants is given."""
        given = self._given(run, task)
        if task.iteration == 1:
            return given
        value = {} if given is None else orjson.loads(given.data)
        value["previous"] = cel.said(task.previous)
        return Payload(orjson.dumps(value))

    def _child_ended(self, child: Run) -> None:
        if child.parent is None:
            return
        run, task = child.parent
        if run.ended or task.state != "ACTIVE" or task.child is not child:
            return
        if child.state == "SUCCEEDED":
            self._after_child(run, task, child.output)
        else:
            failed = child.state == "FAILED"
            self.fail(run, task, "RUN_FAILED" if failed else "RUN_CANCELLED", for_good=not failed)
        self.settle_down(run)

    def _after_child(self, run: Run, task: Task, output: Payload | None) -> None:
        wait = task.node.wait
        assert isinstance(wait, SubWorkflow)
        if not wait.until:
            self.succeed(task, output)
            return
        try:
            more = {"output": cel.seen(output), "iteration": task.iteration}
            if cel.holds(wait.until, run.look_of(task, **more)):
                self.succeed(task, output)
                return
        except cel.NoValue:
            self.fail(run, task, "CONDITION_FAILED", for_good=True)
            return
        if task.iteration >= wait.repetitions_max:
            self.fail(run, task, "REPETITIONS_EXHAUSTED", for_good=True)
            return
        task.iteration, task.previous, task.child, task.wants_child = (
            task.iteration + 1,
            output,
            None,
            True,
        )

    # -- ends of tasks

    def succeed(self, task: Task, output: Payload | None) -> None:
        """A task has done its work."""
        task.state, task.output, task.checkpoint, task.failure = "SUCCEEDED", output, None, ""

    def fail(self, run: Run, task: Task, code: str, *, for_good: bool = False) -> None:
        """An attempt has failed."""
        self.let_go(task)
        if self.is_cancelled_then(run, task):
            task.state = "CANCELLED"
            return
        task.failure = code
        policy = task.node.retry
        at_us = self.now_us + delay_us(policy, max(1, task.attempt))
        too_late = task.attempts_by is not None and at_us >= task.attempts_by
        used_up = task.attempt >= policy.max_attempts or code in policy.non_retryable_codes
        if for_good or used_up or too_late:
            task.state = "FAILED"
        else:
            task.state, task.retry_us, task.lost = "RETRYING", at_us, 0

    def give_up(self, task: Task, code: str) -> None:
        """A task that no agent has fails, whatever its policy says."""
        self.let_go(task)
        # What its last attempt came to was told, and is not why it ends.
        task.state, task.failure, task.result = "FAILED", code, None

    def is_cancelled_then(self, run: Run, task: Task) -> bool:
        """Whether a task is cancelled when its attempt ends otherwise than well."""
        in_stopped = task.place == "item" and task.of is not None and task.of.stopping != ""
        return run.state == "CANCELLING" or in_stopped or task.displaced

    def cancel_task(self, run: Run, task: Task) -> None:
        """Ends a task at once, its lease too."""
        task.state, task.live = "CANCELLED", False
        self.let_go(task)

    def let_go(self, task: Task) -> None:
        """The run that it waits for is not waited for any more."""
        child, task.child, task.wants_child = task.child, None, False
        if child is not None and not child.ended:
            self.cancel(child)

    # -- ends of runs

    def cancel(self, run: Run) -> None:
        """Cancels a run."""
        if run.state == "CANCELLING":
            return
        run.expired = False
        self.end_early(run)

    def end_early(self, run: Run) -> None:
        """Cancels what no agent has; the leased tasks are told to stop."""
        run.state = "CANCELLING"
        for task in list(run.tasks.values()):
            if not task.ended and not task.live:
                self.cancel_task(run, task)
        self.settle_down(run)

    def _come_to_the_end(self, run: Run) -> bool:
        left = run.open_tasks
        if left:
            return _begin_next_of(run, left)
        state = "FAILED" if run.has_failed else "SUCCEEDED"
        if run.state == "COMPENSATING" or run.expired:
            state = "FAILED"
        elif run.state == "CANCELLING":
            state = "CANCELLED"
        if state == "SUCCEEDED" and not self._conclude(run):
            state = "FAILED"
        if state == "FAILED" and (more := _still_to_do(run)):
            if run.state == "PAUSED":
                # Whoever paused it wants nothing to begin.
                return False
            run.state = "COMPENSATING"
            run.undone = run.undone or more[0].place == "undo"
            run.aftermath += more
            run.tasks |= {task.key: task for task in more}
            return True
        self.end(run, state)
        return True

    def end(self, run: Run, state: str) -> None:
        """A run is over."""
        run.state = state
        if state != "SUCCEEDED":
            run.output = None
        self.left(run)
        self._child_ended(run)

    def left(self, run: Run) -> None:
        """A run makes room for others of its key."""

    def _conclude(self, run: Run) -> bool:
        """Works out what a run came to; whether that was possible."""
        if run.flow.output:
            try:
                run.output = cel.fields(run.flow.output, None, run.look_of())
            except cel.NoValue:
                return False
        elif run.parent is not None:
            needed = {key for task in run.plan for key in task.node.depends_on}
            last = [task for task in run.plan if task.key not in needed and task.output is not None]
            value = {task.key: _json_or_null(task.output) for task in last}
            run.output = Payload(orjson.dumps(value))
        return True


def _still_to_do(run: Run) -> list[Task]:
    """What is to be done after a failure: undo the last success first, then tell of it."""
    more: list[Task] = []
    if not run.undone:
        done = [task for task in run.tasks.values() if _can_be_undone(task)]
        more = [undo_made(task) for task in sorted(done, key=run.succeeded_at, reverse=True)]
    if run.flow.on_failure is not None and not any(t.place == "on_failure" for t in run.aftermath):
        more.append(on_failure_made(run.flow.on_failure))
    return more


def _can_be_undone(task: Task) -> bool:
    of_it = task.place in ("plan", "item") and task.node.for_each is None
    return of_it and task.state == "SUCCEEDED" and task.node.compensation is not None


def _begin_next_of(run: Run, left: list[Task]) -> bool:
    """What follows after a failure is done one by one."""
    waiting = [task for task in run.aftermath if task.state == "WAITING"]
    if not waiting or any(task.state != "WAITING" for task in left):
        return False
    waiting[0].state = "READY"
    return True


def _json_or_null(output: Payload | None) -> object:
    return cel.said(output) if output is not None and output.is_json else None


def _after(span_us: int | None, now_us: int) -> int | None:
    return None if span_us is None else now_us + span_us


def strict_problem(task: Task, payload: Payload | None, *fields: str) -> bool:
    """Whether a payload breaks the schema of the task's kind."""
    return task.node.kind == STRICT and not fits(payload, *fields)
