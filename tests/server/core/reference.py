"""What the desk should do, said a second time and as simply as can be: lists, sets and loops.

It knows no queue, no journal and no order of leases; which ready task is leased it is told, and
only checks that it was allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.server.core.world import ACCEPT_US, LEASE_US

from tenure_server.core.definitions.definition import Payload, WorkflowTask, payload_problem
from tenure_server.core.desks.desk import End, result_digest
from tenure_server.core.leasing.leases import STOPPED, Lease, Success
from tenure_server.core.leasing.timeouts import GRACE_US
from tenure_server.core.ledger import lifecycle
from tenure_server.core.ledger.lifecycle import Failure, Verdict

ENDED = {"SUCCEEDED", "FAILED", "UPSTREAM_FAILED", "CANCELLED"}


@dataclass(eq=False)
class Task:
    """One task, and everything that was ever decided about it."""

    node: WorkflowTask
    state: str = "WAITING"
    term: int = 0
    attempt: int = 0
    lost: int = 0
    #: The last lease.
    token: bytes = b""
    holder: str = ""
    agent: str = ""
    #: Whether that lease is live, and its times.
    live: bool = False
    accept_us: int | None = None
    until_us: int = 0
    deadline_us: int | None = None
    retry_us: int = 0
    #: The result that counted under this term.
    result: End | None = None
    output: Payload | None = None
    checkpoint: Payload | None = None


@dataclass(eq=False)
class Run:
    """One run."""

    run_id: str
    workflow: str
    workflow_limit: int
    tasks: dict[str, Task]
    state: str = "RUNNING"

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state not in ("RUNNING", "CANCELLING")


@dataclass(eq=False)
class Reference:
    """A tenant."""

    limit: int
    now_us: int
    runs: dict[str, Run] = field(default_factory=dict)

    # -- what is asked

    def live(self) -> Iterator[tuple[Run, Task]]:
        """The live leases."""
        for run in self.runs.values():
            for task in run.tasks.values():
                if task.live:
                    yield run, task

    def may_be_leased(self, run: Run, task: Task) -> bool:
        """Whether a task may be leased as far as the tenant and its workflow go."""
        live = list(self.live())
        same = sum(one.workflow == run.workflow for one, _ in live)
        narrow = run.workflow_limit and same >= run.workflow_limit
        return task.state == "READY" and len(live) < self.limit and not narrow

    def first_due_us(self) -> int | None:
        """When the next thing happens by itself."""
        dues = []
        for _, task in self.live():
            dues.append(task.until_us)
            if task.accept_us is not None:
                dues.append(task.accept_us)
            if task.deadline_us is not None:
                dues.append(task.deadline_us + GRACE_US)
        for run in self.runs.values():
            dues += [task.retry_us for task in run.tasks.values() if task.state == "RETRYING"]
        return min(dues, default=None)

    # -- what is done

    def start(self, run: Run) -> None:
        """A run is there."""
        self.runs[run.run_id] = run
        self._settle_down(run)

    def lease(self, lease: Lease) -> None:
        """A lease was granted: checks that it was right."""
        run = self.runs[lease.run.run_id]
        task = run.tasks[lease.task_key]
        assert self.may_be_leased(run, task), "leased against a limit or out of turn"
        task.state, task.live, task.result = "LEASED", True, None
        task.term += 1
        task.attempt += 1
        task.token, task.holder, task.agent = lease.token, lease.agent.holder, lease.agent.name
        task.accept_us, task.until_us = self.now_us + ACCEPT_US, self.now_us + LEASE_US
        timeout_us = task.node.attempt_timeout_us
        task.deadline_us = None if timeout_us is None else self.now_us + timeout_us
        upstream = {key: run.tasks[key].output for key in task.node.depends_on}
        assert lease.upstream == {key: one for key, one in upstream.items() if one is not None}
        assert (lease.term, lease.attempt) == (task.term, task.attempt)
        assert lease.checkpoint == task.checkpoint

    def renew(self, task: Task, checkpoint: Payload | None) -> None:
        """A lease is renewed."""
        task.accept_us, task.until_us = None, self.now_us + LEASE_US
        task.checkpoint = checkpoint or task.checkpoint

    def settle(
        self, run_id: str, key: str, term: int, token: bytes, holder: str, end: End
    ) -> Verdict:
        """A result comes."""
        run = self.runs[run_id]
        task = run.tasks[key]
        if term != task.term:
            return Verdict.SUPERSEDED if term < task.term else Verdict.UNKNOWN
        if (token, holder) != (task.token, task.holder):
            return Verdict.UNKNOWN
        if task.result is not None and result_digest(task.result) == result_digest(end):
            return Verdict.ALREADY_APPLIED
        if task.result is not None or task.state in ENDED:
            return Verdict.RUN_CLOSED if run.ended else Verdict.SUPERSEDED
        if not task.live:
            task.attempt += 1
        task.live, task.result = False, end
        verdict = Verdict.APPLIED
        match end:
            case Success(output=Payload() as output) if payload_problem(output):
                self._fail(run, task, Failure("OUTPUT_INVALID"))
                verdict = Verdict.OUTPUT_REFUSED
            case Success(output=output):
                task.state, task.output, task.checkpoint = "SUCCEEDED", output, None
            case Failure():
                self._fail(run, task, end)
            case _:
                assert end is STOPPED
                self._stop(run, task)
        self._settle_down(run)
        return verdict

    def give_back(self, run: Run, task: Task) -> None:
        """A lease comes back."""
        task.live = False
        self._stop(run, task)
        self._settle_down(run)

    def cancel(self, run: Run) -> None:
        """A run is cancelled."""
        run.state = "CANCELLING"
        for task in run.tasks.values():
            if task.state in ("WAITING", "READY", "RETRYING"):
                task.state = "CANCELLED"
        self._settle_down(run)

    def pass_time(self, now_us: int) -> None:
        """Time passes."""
        self.now_us = now_us
        for run, task in list(self.live()):
            if task.accept_us is not None and task.accept_us <= now_us:
                task.live = False
                self._stop(run, task)
            elif task.until_us <= now_us:
                task.live = False
                task.lost += 1
                self._stop(run, task)
            elif task.deadline_us is not None and task.deadline_us + GRACE_US <= now_us:
                task.live = False
                failure = Failure("TIMED_OUT", "the attempt took longer than attempt_timeout")
                task.result = failure
                self._fail(run, task, failure)
        for run in self.runs.values():
            for task in run.tasks.values():
                if task.state == "RETRYING" and task.retry_us <= now_us:
                    task.state = "READY"
            self._settle_down(run)

    def restart(self) -> None:
        """The coordinator starts anew: every lease gets its whole time."""
        for _, task in self.live():
            task.accept_us, task.until_us = None, self.now_us + LEASE_US

    # -- what follows

    def _fail(self, run: Run, task: Task, failure: Failure) -> None:
        policy = task.node.retry
        if run.state == "CANCELLING":
            task.state = "CANCELLED"
        elif failure.non_retryable or task.attempt >= policy.max_attempts:
            task.state = "FAILED"
        else:
            task.state, task.retry_us = "RETRYING", self.now_us + policy.initial_delay_us
            task.lost = 0

    def _stop(self, run: Run, task: Task) -> None:
        if run.state == "CANCELLING":
            task.state = "CANCELLED"
        elif task.lost > lifecycle.LOST_LEASES_MAX:
            task.state = "FAILED"
        else:
            task.attempt -= 1
            task.state = "READY"

    def _settle_down(self, run: Run) -> None:
        """Repeats what follows from what until nothing does."""
        before = None
        while before != (states := [task.state for task in run.tasks.values()]):
            before = states
            for task in run.tasks.values():
                upstream = [run.tasks[key].state for key in task.node.depends_on]
                if task.state == "WAITING" and {"FAILED", "UPSTREAM_FAILED"} & set(upstream):
                    task.state = "UPSTREAM_FAILED"
                if task.state == "WAITING" and set(upstream) <= {"SUCCEEDED"}:
                    task.state = "READY"
        if not run.ended and set(states) <= ENDED:
            failed = "FAILED" if "FAILED" in states else "SUCCEEDED"
            run.state = "CANCELLED" if run.state == "CANCELLING" else failed
