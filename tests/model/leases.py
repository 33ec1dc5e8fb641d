"""What becomes of leases: granted, renewed, settled, given back and lost."""

from __future__ import annotations

from typing import Any

import orjson
from tests.model import expressions as cel
from tests.model.limits import Limits
from tests.model.rules import strict_problem
from tests.model.tasks import WORKING, Run, Task
from tests.server.core.world import ACCEPT_US, LEASE_US

from tenure_server.core.definitions.definition import Payload, payload_problem
from tenure_server.core.desks import poison
from tenure_server.core.leasing.leases import STOPPED, End, Lease, Success, result_digest
from tenure_server.core.ledger import lifecycle
from tenure_server.core.ledger.lifecycle import Failure, Verdict


class Leases(Limits):
    """The rules of leases."""

    def lease(self, lease: Lease) -> None:
        """A lease was granted: checks that it was right."""
        run = self.run(lease.run.run_id)
        task = run.tasks[lease.task_key]
        agent = lease.agent
        self.check_lease(run, task, agent)
        task.attempt += 1
        task.state, task.live, task.result, task.was_leased = "LEASED", True, None, True
        assert lease.term > task.term, "a term that does not grow"
        task.term, task.token, task.holder, task.agent = (
            lease.term,
            lease.token,
            agent.holder,
            agent.name,
        )
        task.lease_us = task.heard_us = self.now_us
        task.accept_us, task.until_us = self.now_us + ACCEPT_US, self.now_us + LEASE_US
        if task.node.retry.total_timeout_us is not None and task.attempts_by is None:
            task.attempts_by = self.now_us + task.node.retry.total_timeout_us
        run.has_started = True
        self.begun(run, task)
        assert lease.attempt == task.attempt
        assert lease.checkpoint == task.checkpoint
        given = {key: cel.said(one) for key, one in lease.upstream.items()}
        assert given == {key: cel.said(one) for key, one in run.upstream(task).items()}
        own = _without_messages(cel.said(self.own_input(run, task)))
        assert _without_messages(cel.said(lease.input)) == own, "another input"

    def own_input(self, run: Run, task: Task) -> Payload | None:
        """What a handler is given as its task's own. Raises NoValue."""
        own = task.node.input
        if task.place == "on_failure":
            value = {} if own is None else dict(cel.said(own))
            failed = [one for one in run.tasks.values() if one.state == "FAILED"]
            value["failed"] = [{"task": one.key, "code": one.failure} for one in failed]
            own = written(value)
        return cel.fields(task.node.bindings, own, run.look_of(task))

    def impossible(self, run: Run, task: Task, code: str) -> None:
        """A ready task failed instead of being leased: checks that it had to."""
        if code == "KEY_FAILED":
            assert self.key_fails(run, task), f"{task.key} has a key"
        else:
            task.attempt, task.result = task.attempt + 1, None
            try:
                own = self.own_input(run, task)
                assert (code, strict_problem(task, own)) == ("INPUT_INVALID", True), code
            except cel.NoValue:
                assert code == "BINDING_FAILED", code
        self.fail(run, task, code, for_good=True)
        self.settle_down(run)

    def renew(self, task: Task, checkpoint: Payload | None, *, progress: bool) -> None:
        """A lease is renewed."""
        task.accept_us, task.until_us = None, self.now_us + LEASE_US
        if progress or checkpoint is not None:
            task.heard_us = self.now_us
        task.checkpoint = checkpoint or task.checkpoint

    def settle(
        self, run_id: str, key: str, term: int, token: bytes, holder: str, end: End
    ) -> Verdict:
        """A result comes."""
        run = self.run(run_id)
        task = run.tasks.get(key)
        if task is None:
            return Verdict.UNKNOWN
        if term != task.term:
            return Verdict.SUPERSEDED if term < task.term else Verdict.UNKNOWN
        if not task.token or (token, holder) != (task.token, task.holder):
            return Verdict.UNKNOWN
        if task.result is not None and result_digest(task.result) == result_digest(end):
            return Verdict.ALREADY_APPLIED
        if task.result is not None or task.ended:
            return Verdict.RUN_CLOSED if run.ended else Verdict.SUPERSEDED
        if not task.live:
            # The lease was lost, and with it the attempt; the result brings it back.
            task.attempt += 1
        task.live, task.result = False, end
        verdict = Verdict.APPLIED
        match end:
            case Success(output=output) if code := refusal(task, output):
                self.fail(run, task, code, for_good=code == "OUTPUT_NOT_JSON")
                verdict = Verdict.OUTPUT_REFUSED
            case Success(output=output):
                self.succeed(task, output)
            case Failure():
                self.fail(run, task, end.code, for_good=end.non_retryable)
            case _:
                assert end is STOPPED
                self.stop(run, task)
        self.settle_down(run)
        return verdict

    def _time_out(self, run: Run, task: Task, code: str) -> None:
        """The time of an attempt, or of its task, is up."""
        task.live, task.result = False, timeout_failure(code)
        self.fail(run, task, code, for_good=code == "TOTAL_TIMED_OUT")
        self.settle_down(run)

    def give_back(self, run: Run, task: Task) -> None:
        """A lease comes back."""
        task.live = False
        self.stop(run, task)
        self.settle_down(run)

    def lose(self, run: Run, task: Task) -> None:
        """Nobody renewed a lease."""
        task.live = False
        task.lost += 1
        self.stop(run, task)
        self.settle_down(run)
        again = run.loss_us is None or self.now_us >= run.loss_us + LEASE_US
        if run.state in WORKING and again:
            run.losses, run.loss_us = run.losses + 1, self.now_us
            done = sum(one.state == "SUCCEEDED" for one in run.tasks.values())
            if run.losses > poison.LOSSES_MAX + done // 10:
                run.state = "PAUSED"

    def stop(self, run: Run, task: Task) -> None:
        """An attempt ended without its fault: the task is ready again."""
        if self.is_cancelled_then(run, task):
            task.state = "CANCELLED"
        elif task.lost > lifecycle.LOST_LEASES_MAX:
            self.fail(run, task, "LEASE_LOST", for_good=True)
        else:
            task.attempt -= 1
            task.state = "READY"
            if task.total_by is not None and task.total_by <= self.now_us:
                self.give_up(task, "TOTAL_TIMED_OUT")
            elif task.attempts_by is not None and task.attempts_by <= self.now_us:
                self.give_up(task, "RETRY_TIMED_OUT")


def refusal(task: Task, output: Payload | None) -> str:
    """The code with which a result fails whose output cannot be taken. Empty: it can."""
    if output is not None and payload_problem(output):
        return "OUTPUT_INVALID"
    if strict_problem(task, output, "n"):
        return "OUTPUT_INVALID"
    if task.place == "item" and output is not None and not output.is_json:
        return "OUTPUT_NOT_JSON"
    return ""


def _without_messages(value: Any) -> Any:
    """An input without the sentences in which `failed` says more, and in any order of them."""
    if not isinstance(value, dict) or "failed" not in value:
        return value
    return value | {"failed": sorted((one["task"], one["code"]) for one in value["failed"])}


def timeout_failure(code: str) -> Failure:
    """What the coordinator settles an attempt with that took too long: nobody can report it."""
    return Failure(code, "the coordinator said so")


def written(value: object) -> Payload:
    """A value as JSON."""
    return Payload(orjson.dumps(value))
