"""What happens by itself when time passes, and what a pause gives back of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.model.leases import Leases
from tests.model.tasks import WORKING, Run, Task
from tests.server.core.world import LEASE_US

from tenure_server.core.definitions.features import Approval, Timer
from tenure_server.core.leasing.timeouts import GRACE_US


@dataclass(frozen=True, slots=True)
class Due:
    """Something that happens by itself."""

    #: Leases that end without a word come first, then all by time.
    rank: int
    at_us: int
    tie: int
    happens: Callable[[], None]

    @property
    def order(self) -> tuple[int, int, int]:
        """What comes first."""
        return self.rank, self.at_us, self.tie


class Times(Leases):
    """The rules of time."""

    def next_due_us(self) -> int | None:
        """When the next thing happens by itself."""
        return min((due.at_us for due in self._dues()), default=None)

    def pass_time(self, now_us: int) -> None:
        """Time passes."""
        self.now_us = now_us
        while due := [one for one in self._dues() if one.at_us <= now_us]:
            min(due, key=lambda one: one.order).happens()

    def restart(self) -> None:
        """The coordinator starts anew: every lease gets its whole time."""
        self.opened_us = self.now_us
        for _, task in self.leases():
            task.accept_us, task.until_us = None, self.now_us + LEASE_US
            task.heard_us = self.now_us

    # -- pauses of workflows and tenants

    def pause_name(self, name: str) -> None:
        """Pauses a workflow, or the tenant."""
        self.paused.add(name)

    def resume_name(self, name: str) -> None:
        """Lets a workflow, or the tenant, go on."""
        if name not in self.paused:
            return
        self.paused.discard(name)
        for run in self.open_runs:
            if run.state in WORKING and name in ("", run.flow.name):
                self.queue_anew(run)

    def queue_anew(self, run: Run) -> None:
        """Ready tasks of what was paused have all their time in the queue again."""
        for task in run.tasks.values():
            span_us = task.node.queue_timeout_us
            if task.state == "READY" and not task.was_leased and span_us is not None:
                task.queue_by = self.now_us + span_us

    # -- what falls due

    def _dues(self) -> Iterator[Due]:
        for run in self.open_runs:
            yield from self._dues_of_run(run)
            for task in run.tasks.values():
                if task.live:
                    yield from self._dues_of_lease(run, task)
                elif not task.ended:
                    yield from self._dues_of_idle(run, task)
                if not task.ended and task.total_by is not None:
                    yield self._due(run, task, 2, task.total_by, -3, "TOTAL_TIMED_OUT")

    def _dues_of_run(self, run: Run) -> Iterator[Due]:
        over = run.has_expired or run.is_undoing or run.state == "CANCELLING"
        if run.deadline_us is not None and not over:
            yield Due(2, run.deadline_us, -6, lambda: self._expire(run))

    def _dues_of_lease(self, run: Run, task: Task) -> Iterator[Due]:
        node = task.node
        if task.accept_us is not None:
            yield Due(0, task.accept_us, 0, lambda: self.give_back(run, task))
        yield Due(1, task.until_us, 0, lambda: self.lose(run, task))
        if node.attempt_timeout_us is not None:
            at_us = task.lease_us + node.attempt_timeout_us + GRACE_US
            yield Due(2, at_us, 1, lambda: self._time_out(run, task, "TIMED_OUT"))
        if node.heartbeat_timeout_us is not None:
            at_us = task.heard_us + node.heartbeat_timeout_us + GRACE_US
            yield Due(2, at_us, -5, lambda: self._time_out(run, task, "HEARTBEAT_TIMED_OUT"))

    def _dues_of_idle(self, run: Run, task: Task) -> Iterator[Due]:
        rests = run.state == "PAUSED" or self.rests(run)
        if task.state == "RETRYING":
            yield Due(2, task.retry_us, 0, lambda: self._try_again(run, task))
        if task.state == "READY":
            if task.queue_by is not None and not task.was_leased and not rests:
                yield self._due(run, task, 2, task.queue_by, -2, "QUEUE_TIMED_OUT")
            if task.attempts_by is not None:
                yield self._due(run, task, 2, task.attempts_by, -4, "RETRY_TIMED_OUT")
        if task.state == "ACTIVE":
            if task.due_us is not None:
                yield Due(2, task.due_us, -1, lambda: self._waited(run, task))
            if task.escalate_us is not None and not task.escalated:
                yield Due(2, task.escalate_us, -1, lambda: self._escalate(task))

    def _due(self, run: Run, task: Task, rank: int, at_us: int, tie: int, code: str) -> Due:
        def happens() -> None:
            # However late somebody looks; of two at once the time of the whole task counts first.
            over = task.total_by is not None and task.total_by <= at_us
            why = "TOTAL_TIMED_OUT" if over else code
            if task.live:
                self._time_out(run, task, why)
            else:
                self.give_up(task, why)
                self.settle_down(run)

        return Due(rank, at_us, tie, happens)

    def _try_again(self, run: Run, task: Task) -> None:
        self.go(run, task)
        self.settle_down(run)

    def _waited(self, run: Run, task: Task) -> None:
        match task.node.wait:
            case Timer():
                self.succeed(task, None)
            case Approval():
                self.fail(run, task, "APPROVAL_EXPIRED", for_good=True)
            case _:
                self.fail(run, task, "WAIT_TIMED_OUT", for_good=True)
        self.settle_down(run)

    def _escalate(self, task: Task) -> None:
        task.escalated = True

    def _expire(self, run: Run) -> None:
        """Its time is up: it ends as cancelled runs do, but it fails."""
        run.has_expired = run.expired = True
        self.end_early(run)
