"""The desk of one tenant: everything that is decided for it, in memory, by whoever holds its seat.

Commands come in with the time and random bytes; decisions change the runs and leave as rows of a
journal. Nothing here waits or asks: the whole desk can be driven by a test or a simulation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from tenure_server.core import history, lifecycle, records
from tenure_server.core.alarms import Alarm, Alarms
from tenure_server.core.consequences import Consequences
from tenure_server.core.definition import Payload, payload_problem
from tenure_server.core.journal import Journal
from tenure_server.core.law import Law, Lawless, denial
from tenure_server.core.leases import (
    STOPPED,
    AgentSlots,
    Draw,
    Lease,
    LeaseKey,
    Success,
    proves,
    tokens,
)
from tenure_server.core.leases import End as End
from tenure_server.core.leases import result_digest as result_digest
from tenure_server.core.lifecycle import EventKind, Failure, RunState, Standing, TaskState, Verdict
from tenure_server.core.ready import Bucket, ReadyQueue
from tenure_server.core.runs import LiveRun, TaskFacts

LAWLESS = Lawless()

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
        law: Law = LAWLESS,
    ) -> None:
        self.tenant = tenant
        #: The constitution in force.
        self.law = law
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
        self._alarms = Alarms(self._matters)
        #: Leases that ended from this side, for the agents to be told: the lease and why.
        self.ended: list[tuple[Lease, str]] = []
        #: Leases whose attempts are to be stopped, for the agents to be told.
        self.cancelling: list[Lease] = []
        #: How often the tenant was served, for a fair turn among tenants that hold equally much.
        self.served = 0
        self._consequences = Consequences(
            tenant.tenant_id,
            term=term,
            runs=self.runs,
            ready=self.ready,
            journal=journal,
            draw=draw,
            alarm=self._alarms.set,
        )
        self._tokens = tokens(draw)
        self._lease_us = lease_us
        self._accept_us = accept_us
        self._orders = 0

    @property
    def open_tasks(self) -> int:
        """How many tasks the open runs have, those that ended included."""
        return self._consequences.open_tasks

    # -- runs

    def open_run(self, run: LiveRun, now_us: int) -> None:
        """Takes a new run: writes it down and readies the tasks that depend on nothing."""
        self._adopt(run)
        journal = self._consequences.under()
        journal.run_started(run.run_id, run)
        history.note_run(run, journal, EventKind.RUN_STARTED, now_us)
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
                self._alarms.set(run.facts[index].retry_us or now_us, 0, run.run_id, index)

    def cancel_run(self, run: LiveRun, reason: str, now_us: int) -> None:
        """Cancels a run: tasks without a lease now, the others when their leases end."""
        # Also where nothing changes: the caller may note what was answered.
        journal = self._consequences.under()
        if run.state is RunState.CANCELLING:
            return
        run.reason = reason or "cancelled"
        run.state = RunState.CANCELLING
        journal.run_changed(run.run_id, run)
        for index, state in enumerate(run.states):
            if state in (TaskState.WAITING, TaskState.READY, TaskState.RETRYING):
                facts = run.facts.pop(index, None) or TaskFacts()
                run.move(index, TaskState.CANCELLED)
                run.write_task(journal, index, facts, end_us=now_us)
                history.note_task(run, journal, EventKind.TASK_CANCELLED, now_us, index, facts)
                run.release_upstream(index)
            elif state == TaskState.LEASED:
                lease = self.leases[run.run_id, index]
                lease.cancelling = run.reason
                self.cancelling.append(lease)
        if run.live_leases:
            history.note_run(run, journal, EventKind.RUN_CANCELLING, now_us, run.reason)
        self._consequences.close_if_done(run, now_us)

    # -- leases

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
        facts.attempt += 1
        facts.result_hash = b""
        if failure := self._impossible(run, index, facts, agent, upstream, now_us):
            self._consequences.fail(run, index, facts, failure, now_us)
            return None
        token = next(self._tokens)
        facts.term += 1
        facts.agent = agent.name
        facts.holder = agent.holder
        facts.token_hash = hashlib.sha256(token).digest()
        facts.lease_us = now_us
        facts.retry_us = None
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
        journal = self._consequences.under()
        run.move(index, TaskState.LEASED)
        self._hold(lease, now_us)
        self._unaccepted[lease.key] = now_us + self._accept_us
        if run.start_us is None:
            run.start_us = now_us
            journal.run_changed(run.run_id, run)
            self.ready.run_started(run)
        lease.event = len(journal.events)
        history.note_lease(run, journal, now_us, index, facts, upstream)
        lease.grant_us, lease.grant_sequence = now_us, run.sequence
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
        return lease if proves(run.facts[index], token, holder) else None

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
            journal = self._consequences.under()
            run.write_task(journal, lease.index, facts)
            history.note_task(run, journal, EventKind.TASK_CHECKPOINTED, now_us, lease.index, facts)
        return Standing.CANCELLING if lease.cancelling else Standing.HELD

    def give_back(self, lease: Lease, now_us: int, message: str = "given back") -> None:
        """Ends a lease that will not be executed; the task is ready again, no attempt consumed."""
        self._release(lease)
        run, index, kind = lease.run, lease.index, EventKind.TASK_LEASE_RETURNED
        self._consequences.stop(run, index, run.facts[index], kind, message, now_us)

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
        if not proves(facts, token, holder):
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
        if end is not STOPPED and (failure := self._denied(run, index, facts, end, now_us)):
            self._consequences.fail(run, index, facts, failure, now_us)
            return Verdict.DENIED
        return self._consequences.apply(run, index, facts, end, now_us)

    def _impossible(
        self,
        run: LiveRun,
        index: int,
        facts: TaskFacts,
        agent: AgentSlots,
        upstream: Mapping[str, Payload],
        now_us: int,
    ) -> Failure | None:
        """Why an attempt fails before it begins, or None."""
        if upstream and sum(len(one.data) for one in upstream.values()) > UPSTREAM_BYTES_MAX:
            message = f"the outputs it depends on exceed {UPSTREAM_BYTES_MAX} bytes"
            return Failure("INPUT_TOO_LARGE", message, True)
        objections = self.law.on_lease(run, index, facts, agent, now_us)
        if not objections:
            return None
        self._consequences.under().object(self.tenant.tenant_id, objections)
        return denial(objections)

    def _denied(
        self, run: LiveRun, index: int, facts: TaskFacts, end: Success | Failure, now_us: int
    ) -> Failure | None:
        """Why a result does not count though its holder reported it, or None."""
        objections = self.law.on_result(run, index, facts, end, now_us)
        if not objections:
            return None
        self._consequences.under().object(self.tenant.tenant_id, objections)
        # What failed has failed: only a success can be denied.
        return denial(objections) if isinstance(end, Success) else None

    # -- time

    def next_due_us(self) -> int | None:
        """When `pass_time` next has something to do, or None."""
        dues = []
        if self.leases:
            dues.append(next(iter(self.leases.values())).until_us)
        if self._unaccepted:
            dues.append(next(iter(self._unaccepted.values())))
        if (alarm_us := self._alarms.next_us) is not None:
            dues.append(alarm_us)
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
        for alarm in self._alarms.due(now_us):
            if not self._matters(alarm):
                continue
            _, term, run_id, index = alarm
            run = self.runs[run_id]
            if term:
                self._time_out(self.leases[run_id, index], now_us)
            else:
                run.move(index, TaskState.READY)
                self.ready.add(run, index)

    # -- leases that end from this side

    def _lose(self, lease: Lease, now_us: int) -> None:
        self._release(lease)
        run, index = lease.run, lease.index
        facts = run.facts[index]
        facts.lost += 1
        message = f"agent {lease.agent.name} did not renew"
        self._consequences.stop(run, index, facts, EventKind.TASK_LEASE_LOST, message, now_us)
        self.ended.append((lease, "the lease expired"))

    def _time_out(self, lease: Lease, now_us: int) -> None:
        self._release(lease)
        run, index = lease.run, lease.index
        facts = run.facts[index]
        failure = Failure("TIMED_OUT", "the attempt took longer than attempt_timeout")
        facts.result_hash = result_digest(failure)
        self._consequences.fail(run, index, facts, failure, now_us)
        self.ended.append((lease, "the attempt's time is up"))

    # -- bookkeeping

    def _adopt(self, run: LiveRun) -> None:
        self.runs[run.run_id] = run
        self._consequences.open_tasks += len(run.states)

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
            self._alarms.set(at_us, lease.term, lease.run.run_id, lease.index)

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

    def _matters(self, alarm: Alarm) -> bool:
        """Whether the attempt still runs, or the retry still waits, that an alarm was set for."""
        _, term, run_id, index = alarm
        if term:
            lease = self.leases.get((run_id, index))
            return lease is not None and lease.term == term
        run = self.runs.get(run_id)
        return run is not None and run.states[index] == TaskState.RETRYING
