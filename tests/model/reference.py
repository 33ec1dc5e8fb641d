"""What a desk should do, said a second time: every act on it, and what the docs say becomes of it.

Which ready task is leased it is told, and only checks that it was allowed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from tests.model import expressions as cel
from tests.model.bench import STARTER
from tests.model.leases import refusal, written
from tests.model.tasks import LOST, WORKING, Run, Task
from tests.model.times import Times

from tenure_server.core.definitions.definition import Payload
from tenure_server.core.definitions.features import Approval, EventWait, SignalWait
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import Failure


class Reference(Times):
    """A tenant."""

    def __init__(self, limit: int, now_us: int) -> None:
        super().__init__(limit, now_us)
        #: The events of each run, task and kind, as far as the story got.
        self.logs: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)

    def hear(self, events: Iterable[tuple[str, str, str]]) -> None:
        """Takes note of events: run, task and kind."""
        for run_id, key, kind in events:
            self.logs[run_id].append((key, kind))

    # -- runs

    def start(self, run: Run) -> None:
        """A run is there."""
        run.log = self.logs[run.run_id]
        run.tasks = {node.key: Task(node.key, node) for node in run.flow.tasks}
        self.runs.append(run)
        self.enter(run)
        self.settle_down(run)

    def born(self, parent: Run, task: Task, run: Run) -> None:
        """What a task wanted has begun."""
        assert task.wants_child, f"nobody wants a run for {task.key}"
        assert cel.said(run.input) == cel.said(self.wanted_input(parent, task))
        task.child, task.wants_child = run, False
        self.start(run)

    def refused(self, parent: Run, task: Task) -> None:
        """What a task wanted may not begin."""
        assert task.wants_child, f"nobody wants a run for {task.key}"
        self.fail(parent, task, "RUN_REFUSED")
        self.settle_down(parent)

    def pause(self, run: Run) -> bool:
        """Whether a run is paused then: it may not be."""
        if run.state in WORKING:
            run.state = "PAUSED"
        return run.state == "PAUSED"

    def resume(self, run: Run) -> None:
        """Lets a run go on."""
        if run.state == "PAUSED":
            self.go_on(run)

    def go_on(self, run: Run) -> None:
        """A paused run is at work again."""
        run.state = "COMPENSATING" if run.is_undoing else "RUNNING"
        run.losses, run.loss_us = 0, None
        self.queue_anew(run)
        self.settle_down(run)

    def close(self, run: Run) -> None:
        """Ends a run at once."""
        run.state = "CLOSED"
        for task in list(run.tasks.values()):
            if not task.ended:
                self.cancel_task(run, task)
        self.end(run, "CLOSED")

    # -- tasks by hand

    def may_skip(self, run: Run, task: Task) -> bool:
        """Whether a task may be skipped."""
        return run.state in ("RUNNING", "PAUSED") and not task.live and not task.ended

    def skip(self, run: Run, task: Task) -> None:
        """A task is skipped."""
        task.state = "SKIPPED"
        self.let_go(task)
        self.settle_down(run)

    def may_settle(self, run: Run, task: Task, end: Success | Failure) -> str:
        """``done``, or why a task must not be settled by hand: ``stands`` or ``unfit``."""
        if run.state not in ("RUNNING", "PAUSED") or task.ended or task.state == "WAITING":
            return "stands"
        if isinstance(end, Success) and refusal(task, end.output):
            return "unfit"
        return "done"

    def settle_by_hand(self, run: Run, task: Task, end: Success | Failure) -> None:
        """A task is settled by hand."""
        task.live, task.token, task.result = False, b"", None
        if isinstance(end, Success):
            self.let_go(task)
            self.succeed(task, end.output)
        else:
            self.fail(run, task, "SETTLED_BY_HAND", for_good=True)
        self.settle_down(run)

    def again(self, run: Run, keys: Sequence[str]) -> list[Task]:
        """The tasks that would be executed again. Nothing: it must not be."""
        if run.undone or run.is_undoing or run.state in ("CANCELLING", "COMPENSATING"):
            return []
        chosen = [run.tasks[key] for key in keys]
        begin = chosen or [task for task in run.plan if task.state in LOST]
        first = dict.fromkeys([*begin, *(task.of for task in begin if task.of is not None)])
        behind = dict.fromkeys(_behind(run, first))
        found = dict.fromkeys([*first, *behind])
        for task in list(found):
            whole = task in behind or task in chosen
            found |= dict.fromkeys(part for part in task.parts if whole or part.state in LOST)
        if any(not task.ended and task.state != "WAITING" for task in found):
            return []
        return list(found) if any(task.ended for task in found) else []

    def open_again(self, run: Run, again: Sequence[Task], *, paused: bool) -> None:
        """Executes tasks again."""
        if run.ended:
            run.state, run.held = "RUNNING", False
            self.enter(run)
        run.output, run.losses, run.loss_us = None, 0, None
        if run.deadline_us is not None and run.deadline_us <= self.now_us:
            run.has_expired, run.expired = True, False
        for task in again:
            task.begin_anew(keep_list=not set(task.parts) <= set(again))
        was_paused = run.state == "PAUSED"
        run.state = "PAUSED" if paused else "RUNNING"
        if was_paused and not paused:
            self.queue_anew(run)
        self.settle_down(run)

    # -- the world

    def signal(self, run: Run, name: str, payload: Payload | None) -> bool:
        """A signal comes; whether somebody waited for it."""
        waiting = [
            task
            for task in run.tasks.values()
            if task.state == "ACTIVE"
            and isinstance(task.node.wait, SignalWait)
            and task.node.wait.name == name
        ]
        if not waiting:
            run.signals.setdefault(name, []).append(payload)
            return False
        self.succeed(min(waiting, key=run.activated_at), payload)
        self.settle_down(run)
        return True

    def publish(self, name: str, key: str, payload: Payload | None) -> int:
        """An event comes; how many waited for it."""
        served = [
            (run, task)
            for run, task in self.tasks()
            if task.state == "ACTIVE"
            and isinstance(task.node.wait, EventWait)
            and task.node.wait.name == name
            and task.event_key in ("", key)
        ]
        for _, task in served:
            self.succeed(task, payload)
        for run, _ in served:
            self.settle_down(run)
        return len(served)

    def would_decide(self, task: Task, who: str, consents: bool) -> str:
        """``done``, or why somebody must not decide: ``stands`` or ``not theirs``."""
        asked = task.node.wait
        if not isinstance(asked, Approval) or task.state != "ACTIVE":
            return "stands"
        named = asked.approvers + (asked.escalate_to if task.escalated else ())
        if who not in named and (asked.approvers or who == STARTER):
            return "not theirs"
        otherwise = [
            one for one in task.decisions if one["by"] == who and one["consent"] != consents
        ]
        return "stands" if otherwise else "done"

    def decide(self, run: Run, task: Task, who: str, consents: bool) -> None:
        """Somebody decides. The same twice is the same as once."""
        asked = task.node.wait
        assert isinstance(asked, Approval)
        if who in [one["by"] for one in task.decisions]:
            return
        told = {"by": who, "name": who, "consent": consents, "reason": "", "at_us": self.now_us}
        task.decisions.append(told)
        if not consents:
            self.fail(run, task, "REJECTED", for_good=True)
        elif sum(one["consent"] for one in task.decisions) >= asked.quorum:
            self.succeed(task, written({"decisions": task.decisions}))
        self.settle_down(run)


def _behind(run: Run, first: Iterable[Task]) -> Iterator[Task]:
    """The tasks that depend on these, directly or not."""
    left = [task.key for task in first]
    while left:
        key = left.pop()
        for task in run.plan:
            if key in task.node.depends_on:
                yield task
                left.append(task.key)
