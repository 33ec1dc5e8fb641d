"""The desk of one tenant: everything that is decided for it, in memory, by whoever holds its seat.

Commands come in with the time and random bytes; decisions change the runs and leave as rows of a
journal. Nothing here waits or asks: the whole desk can be driven by a test or a simulation.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from hmac import compare_digest

from tenure_server.core import lifecycle, records
from tenure_server.core.definition import Payload, payload_problem
from tenure_server.core.journal import Journal
from tenure_server.core.leases import (
    STOPPED,
    TOKEN_BYTES,
    AgentSlots,
    Draw,
    Lease,
    LeaseKey,
    Stopped,
    Success,
)
from tenure_server.core.lifecycle import (
    EventKind,
    Failure,
    RunState,
    Standing,
    TaskState,
    Verdict,
)
from tenure_server.core.ready import Bucket, ReadyQueue
from tenure_server.core.runs import LiveRun, TaskFacts, hash_of, run_state_after

#: The end of one attempt.
End = Success | Failure | Stopped

#: The most bytes that a lease carries from the tasks before it.
UPSTREAM_BYTES_MAX = 16 << 20

#: How much later than the agent the coordinator ends an attempt whose time is up.
TIMEOUT_GRACE_US = 1_000_000


class Desk:
    """Decides for one tenant. Every method takes `now_us`, which never runs backwards."""

    def __init__(
        self,
        tenant: records.Tenant,
        *,
        term: int,
        journal: Journal,
        draw: Draw,
        lease_us: int,
        accept_us: int,
    ) -> None:
        self.tenant = tenant
        #: The seat's term: all rows are written under it.
        self.term = term
        self.runs: dict[str, LiveRun] = {}
        self.ready = ReadyQueue()
        #: Live leases, the one renewed longest ago first.
        self.leases: dict[LeaseKey, Lease] = {}
        #: Live leases of each workflow.
        self.workflow_leases: dict[str, set[LeaseKey]] = {}
        #: Leases that no agent has accepted yet, oldest first, and until when each may stay so.
        self._unaccepted: dict[LeaseKey, int] = {}
        #: When retries fall due and attempts run out of time: (time, lease term or 0, run id,
        #: index).
        self._alarms: list[tuple[int, int, str, int]] = []
        #: Leases that ended from this side, for the agents to be told: the lease and why.
        self.ended: list[tuple[Lease, str]] = []
        #: Leases whose attempts are to be stopped, for the agents to be told.
        self.cancelling: list[Lease] = []
        self._journal = journal
        self._draw = draw
        self._lease_us = lease_us
        self._accept_us = accept_us
        #: How many tasks the open runs have, those that ended included.
        self.open_tasks = 0
        self._orders = 0
        self._random: deque[bytes] = deque()
        # How often the tenant was served, for a fair turn among tenants that hold equally much.
        self.served = 0

    # -- runs -----------------------------------------------------------------------------------

    def open_run(self, run: LiveRun, now_us: int) -> None:
        """Takes a new run: writes it down and readies the tasks that depend on nothing."""
        self._adopt(run)
        journal = self._under()
        journal.run_started(run.run_id, run)
        run.log(journal, EventKind.RUN_STARTED, now_us)
        missing = run.missing
        for index in range(len(missing)):
            if not missing[index]:
                run.move(index, TaskState.READY)
                self.ready.add(run, index)

    def next_order(self) -> int:
        """The age to give to the next run."""
        self._orders += 1
        return self._orders

    def restore(
        self,
        run: LiveRun,
        tasks: Mapping[int, records.Task],
        outputs: Mapping[int, Payload],
        agents: Iterable[tuple[AgentSlots, int]],
        now_us: int,
    ) -> None:
        """Takes a stored run back. `agents` holds who has a lease on which task.

        Every lease gets its whole time anew: for how long it was renewed is not stored.
        """
        run.restore(tasks, outputs)
        self._adopt(run)
        for agent, index in agents:
            facts = run.facts[index]
            lease = Lease(
                run,
                index,
                agent,
                term=facts.term,
                attempt=facts.attempt,
                token=b"",
                until_us=now_us + self._lease_us,
                accepted=True,
            )
            if run.state is RunState.CANCELLING:
                lease.cancelling = run.reason or "the run is cancelled"
            self._hold(lease, facts.lease_us or now_us)
        for index, state in enumerate(run.states):
            if state == TaskState.READY:
                self.ready.add(run, index)
            elif state == TaskState.RETRYING:
                self._alarm(run.facts[index].retry_us or now_us, 0, run, index)

    def cancel_run(self, run: LiveRun, reason: str, now_us: int) -> None:
        """Cancels a run: tasks without a lease now, the others when their leases end."""
        if run.state is RunState.CANCELLING:
            return
        journal = self._under()
        run.reason = reason or "cancelled"
        run.state = RunState.CANCELLING
        journal.run_changed(run.run_id, run)
        for index, state in enumerate(run.states):
            if state in (TaskState.WAITING, TaskState.READY, TaskState.RETRYING):
                facts = run.facts.pop(index, None) or TaskFacts()
                run.move(index, TaskState.CANCELLED)
                run.write_task(journal, index, facts, end_us=now_us)
                run.log_task(journal, EventKind.TASK_CANCELLED, now_us, index, facts)
            elif state == TaskState.LEASED:
                lease = self.leases[run.run_id, index]
                lease.cancelling = run.reason
                self.cancelling.append(lease)
        if run.live_leases:
            run.log(journal, EventKind.RUN_CANCELLING, now_us, run.reason)
        self._close_if_done(run, now_us)

    # -- leases ---------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether the tenant may hold one more lease."""
        return len(self.leases) < self.tenant.max_leases

    def next_for(self, agent: AgentSlots) -> Bucket | None:
        """Where the next lease for this agent would come from, or None."""
        if not self.ready.size:
            return None
        while (bucket := self.ready.best(agent.kinds)) is not None:
            limit = bucket.run.definition.max_leases
            if not limit or len(self.workflow_leases.get(bucket.run.workflow, ())) < limit:
                return bucket
            self.ready.park(bucket)
        return None

    def grant(self, bucket: Bucket, agent: AgentSlots, now_us: int) -> Lease | None:
        """Leases the first task of a bucket that `next_for` gave.

        None when the task turns out to be impossible and has failed instead.
        """
        run = bucket.run
        index = self.ready.take(bucket)
        facts = run.facts.get(index)
        if facts is None:
            facts = run.facts[index] = TaskFacts()
        upstream = run.upstream_outputs(index) if run.outputs else {}
        if upstream and sum(len(one.data) for one in upstream.values()) > UPSTREAM_BYTES_MAX:
            message = f"the outputs it depends on exceed {UPSTREAM_BYTES_MAX} bytes"
            facts.attempt += 1
            self._fail(run, index, facts, Failure("INPUT_TOO_LARGE", message, True), now_us)
            return None
        token = self._token()
        facts.term += 1
        facts.attempt += 1
        facts.agent = agent.name
        facts.holder = agent.holder
        facts.token_hash = hashlib.sha256(token).digest()
        facts.lease_us = now_us
        facts.retry_us = None
        facts.result_hash = b""
        lease = Lease(
            run,
            index,
            agent,
            term=facts.term,
            attempt=facts.attempt,
            token=token,
            until_us=now_us + self._lease_us,
            accepted=False,
            checkpoint=facts.checkpoint,
            upstream=upstream,
        )
        agent.credits -= 1
        journal = self._under()
        run.move(index, TaskState.LEASED)
        self._hold(lease, now_us)
        self._unaccepted[lease.key] = now_us + self._accept_us
        if run.start_us is None:
            run.start_us = now_us
            journal.run_changed(run.run_id, run)
            self.ready.run_started(run)
        run.log_task(journal, EventKind.TASK_LEASED, now_us, index, facts)
        run.write_task(journal, index, facts)
        return lease

    def find(
        self, run_id: str, task_key: str, term: int, token: bytes, holder: str
    ) -> Lease | None:
        """The live lease that these words name, or None: unknown, over, or not this holder's."""
        run = self.runs.get(run_id)
        index = None if run is None else run.graph.index.get(task_key)
        if run is None or index is None:
            return None
        lease = self.leases.get((run_id, index))
        if lease is None or lease.term != term:
            return None
        return lease if _proves(run.facts[index], token, holder) else None

    def accept(self, lease: Lease) -> None:
        """Notes that the execution of a lease has begun."""
        if not lease.accepted:
            lease.accepted = True
            self._unaccepted.pop(lease.key, None)

    def renew(self, lease: Lease, checkpoint: Payload | None, now_us: int) -> Standing:
        """Renews a lease, and keeps what the next attempt shall find."""
        self.accept(lease)
        lease.until_us = now_us + self._lease_us
        # Back to the end: the first of the dictionary is the next one to expire.
        self.leases[lease.key] = self.leases.pop(lease.key)
        if checkpoint is not None and payload_problem(checkpoint) is None:
            run, facts = lease.run, lease.run.facts[lease.index]
            facts.checkpoint = checkpoint
            journal = self._under()
            run.write_task(journal, lease.index, facts)
            run.log_task(journal, EventKind.TASK_CHECKPOINTED, now_us, lease.index, facts)
        return Standing.CANCELLING if lease.cancelling else Standing.HELD

    def give_back(self, lease: Lease, now_us: int, message: str = "given back") -> None:
        """Ends a lease that will not be executed; the task is ready again, no attempt consumed."""
        self._release(lease)
        self._ready_again(lease, EventKind.TASK_LEASE_RETURNED, message, now_us)

    def settle(
        self,
        run_id: str,
        task_key: str,
        term: int,
        token: bytes,
        end: End,
        holder: str,
        now_us: int,
    ) -> Verdict | None:
        """Takes the end of an attempt. None: the task or run has ended, ask the store."""
        run = self.runs.get(run_id)
        if run is None:
            return None
        index = run.graph.index.get(task_key)
        if index is None:
            return Verdict.UNKNOWN
        facts = run.facts.get(index)
        if facts is None:
            ended = run.states[index] in lifecycle.TASK_ENDED
            return None if ended else Verdict.UNKNOWN
        if facts.term != term:
            return Verdict.SUPERSEDED if term < facts.term else Verdict.UNKNOWN
        if not _proves(facts, token, holder):
            return Verdict.UNKNOWN
        result_hash = result_digest(end)
        if facts.result_hash:
            same = facts.result_hash == result_hash
            return Verdict.ALREADY_APPLIED if same else Verdict.SUPERSEDED
        facts.result_hash = result_hash
        lease = self.leases.get((run_id, index))
        if lease is not None:
            self._release(lease)
        else:
            # The lease was lost, and with it the attempt; the result brings it back.
            facts.attempt += 1
        return self._apply(run, index, facts, end, now_us)

    # -- time -----------------------------------------------------------------------------------

    def next_due_us(self) -> int | None:
        """When `pass_time` next has something to do, or None."""
        dues = []
        if self.leases:
            dues.append(next(iter(self.leases.values())).until_us)
        if self._unaccepted:
            dues.append(next(iter(self._unaccepted.values())))
        if self._alarms:
            dues.append(self._alarms[0][0])
        return min(dues, default=None)

    def pass_time(self, now_us: int) -> None:
        """Does what is due: leases lost or not accepted, retries, attempts out of time."""
        while self._unaccepted:
            key, due_us = next(iter(self._unaccepted.items()))
            if due_us > now_us:
                break
            lease = self.leases[key]
            self.give_back(lease, now_us, "not accepted in time")
            self.ended.append((lease, "not accepted in time"))
        while self.leases:
            lease = next(iter(self.leases.values()))
            if lease.until_us > now_us:
                break
            self._lose(lease, now_us)
        while self._alarms and self._alarms[0][0] <= now_us:
            _, term, run_id, index = heapq.heappop(self._alarms)
            run = self.runs.get(run_id)
            if run is None:
                continue
            if term:
                self._time_out(run, index, term, now_us)
            elif run.states[index] == TaskState.RETRYING:
                run.move(index, TaskState.READY)
                self.ready.add(run, index)

    # -- what follows ---------------------------------------------------------------------------

    def _apply(self, run: LiveRun, index: int, facts: TaskFacts, end: End, now_us: int) -> Verdict:
        if isinstance(end, Success):
            problem = None if end.output is None else payload_problem(end.output)
            if problem is None:
                self._succeed(run, index, facts, end.output, now_us)
                return Verdict.APPLIED
            self._fail(run, index, facts, Failure("OUTPUT_INVALID", f"output {problem}"), now_us)
            return Verdict.OUTPUT_REFUSED
        if end is STOPPED:
            facts.lost += 1
            self._stop(run, index, facts, EventKind.TASK_LEASE_RETURNED, "stopped", now_us)
            return Verdict.APPLIED
        self._fail(run, index, facts, end, now_us)
        return Verdict.APPLIED

    def _succeed(
        self, run: LiveRun, index: int, facts: TaskFacts, output: Payload | None, now_us: int
    ) -> None:
        journal = self._under()
        facts.failure = None
        facts.checkpoint = None
        run.move(index, TaskState.SUCCEEDED)
        run.write_task(journal, index, facts, end_us=now_us, output=output)
        run.log_task(journal, EventKind.TASK_SUCCEEDED, now_us, index, facts)
        del run.facts[index]
        if output is not None:
            run.keep_output(index, output)
        run.release_upstream(index)
        for down in run.succeed_upstream_of(index):
            run.move(down, TaskState.READY)
            self.ready.add(run, down)
        self._close_if_done(run, now_us)

    def _fail(
        self, run: LiveRun, index: int, facts: TaskFacts, failure: Failure, now_us: int
    ) -> None:
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
        journal = self._under()
        match decision:
            case lifecycle.Retry(at_us):
                facts.retry_us = at_us
                run.move(index, TaskState.RETRYING)
                run.write_task(journal, index, facts)
                kind = EventKind.TASK_RETRYING
                run.log_task(
                    journal, kind, now_us, index, facts, code=failure.code, message=failure.message
                )
                self._alarm(at_us, 0, run, index)
            case lifecycle.Fail(reason):
                run.move(index, TaskState.FAILED)
                run.write_task(journal, index, facts, end_us=now_us)
                message = f"{failure.message} ({reason})" if failure.message else reason
                kind = EventKind.TASK_FAILED
                run.log_task(
                    journal, kind, now_us, index, facts, code=failure.code, message=message
                )
                del run.facts[index]
                self._doom(run, index, now_us)
                run.release_upstream(index)
                run.reason = run.reason or f"task {run.graph.keys[index]} failed: {failure.code}"
                self._close_if_done(run, now_us)

    def _doom(self, run: LiveRun, index: int, now_us: int) -> None:
        journal = self._under()
        cause = f"task {run.graph.keys[index]} did not succeed"
        for down in list(run.doomed_by(index)):
            facts = TaskFacts()
            run.move(down, TaskState.UPSTREAM_FAILED)
            run.write_task(journal, down, facts, end_us=now_us)
            kind = EventKind.TASK_UPSTREAM_FAILED
            run.log_task(journal, kind, now_us, down, facts, message=cause)
            run.release_upstream(down)

    def _stop(
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
            self._fail(run, index, facts, Failure("LEASE_LOST", text, True), now_us)
            return
        journal = self._under()
        facts.attempt -= 1
        was_ready = run.states[index] == TaskState.READY
        run.move(index, TaskState.READY)
        run.log_task(journal, kind, now_us, index, facts, message=message)
        run.write_task(journal, index, facts)
        if not was_ready:
            self.ready.add(run, index, first=True)

    def _cancel_task(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        journal = self._under()
        run.move(index, TaskState.CANCELLED)
        run.write_task(journal, index, facts, end_us=now_us)
        run.log_task(journal, EventKind.TASK_CANCELLED, now_us, index, facts)
        del run.facts[index]
        self._close_if_done(run, now_us)

    def _ready_again(self, lease: Lease, kind: EventKind, message: str, now_us: int) -> None:
        run, index = lease.run, lease.index
        self._stop(run, index, run.facts[index], kind, message, now_us)

    def _lose(self, lease: Lease, now_us: int) -> None:
        self._release(lease)
        lease.run.facts[lease.index].lost += 1
        message = f"agent {lease.agent.name} did not renew"
        self._ready_again(lease, EventKind.TASK_LEASE_LOST, message, now_us)
        self.ended.append((lease, "the lease expired"))

    def _time_out(self, run: LiveRun, index: int, term: int, now_us: int) -> None:
        lease = self.leases.get((run.run_id, index))
        if lease is None or lease.term != term:
            return
        self._release(lease)
        facts = run.facts[index]
        failure = Failure("TIMED_OUT", "the attempt took longer than attempt_timeout")
        facts.result_hash = result_digest(failure)
        self._fail(run, index, facts, failure, now_us)
        self.ended.append((lease, "the attempt's time is up"))

    def _close_if_done(self, run: LiveRun, now_us: int) -> None:
        if run.open_tasks:
            return
        journal = self._under()
        run.state = run_state_after(run)
        run.end_us = now_us
        if run.state is RunState.SUCCEEDED:
            run.reason = ""
        run.log(journal, EventKind[f"RUN_{run.state.name}"], now_us, run.reason)
        journal.run_changed(run.run_id, run)
        del self.runs[run.run_id]
        self.open_tasks -= len(run.states)
        self.ready.drop(run)

    # -- bookkeeping ----------------------------------------------------------------------------

    def _adopt(self, run: LiveRun) -> None:
        self.runs[run.run_id] = run
        self.open_tasks += len(run.states)

    def _under(self) -> Journal:
        self._journal.under(self.tenant.tenant_id, self.term)
        return self._journal

    def _hold(self, lease: Lease, from_us: int) -> None:
        self.leases[lease.key] = lease
        lease.agent.leases[lease.key] = lease
        workflow = self.workflow_leases.get(lease.run.workflow)
        if workflow is None:
            self.workflow_leases[lease.run.workflow] = {lease.key}
        else:
            workflow.add(lease.key)
        if lease.task.attempt_timeout_us is not None:
            lease.deadline_us = from_us + lease.task.attempt_timeout_us
            at_us = lease.deadline_us + TIMEOUT_GRACE_US
            self._alarm(at_us, lease.term, lease.run, lease.index)

    def _release(self, lease: Lease) -> None:
        del self.leases[lease.key]
        lease.agent.leases.pop(lease.key, None)
        self._unaccepted.pop(lease.key, None)
        name = lease.run.workflow
        workflow = self.workflow_leases[name]
        workflow.discard(lease.key)
        if not workflow:
            del self.workflow_leases[name]
        self.ready.unpark(name)

    def _alarm(self, at_us: int, term: int, run: LiveRun, index: int) -> None:
        heapq.heappush(self._alarms, (at_us, term, run.run_id, index))

    def _token(self) -> bytes:
        if not self._random:
            block = self._draw(TOKEN_BYTES * 64)
            starts = range(0, len(block), TOKEN_BYTES)
            self._random.extend(block[start : start + TOKEN_BYTES] for start in starts)
        return self._random.popleft()


def result_digest(end: End) -> bytes:
    """The digest by which a repeated result is told from another one."""
    match end:
        case Success(output=Payload() as output):
            return hash_of(b"success", output.data, output.content_type.encode())
        case Success():
            return hash_of(b"success")
        case Failure():
            return hash_of(b"failure", end.code.encode(), end.message.encode())
        case _:
            return hash_of(b"stopped")


def _proves(facts: TaskFacts, token: bytes, holder: str) -> bool:
    """Whether these words come from the holder of the last lease."""
    return facts.holder == holder and compare_digest(
        facts.token_hash, hashlib.sha256(token).digest()
    )
