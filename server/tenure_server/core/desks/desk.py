"""The desk of one tenant: everything that is decided for it, in memory, by whoever holds its seat.

Commands come in with the time and random bytes; decisions change the runs and leave as rows of a
journal. Nothing here waits or asks: the whole desk can be driven by a test or a simulation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from tenure_server.core.definitions.definition import Payload, payload_problem
from tenure_server.core.desks import pauses
from tenure_server.core.desks.dues import Dues
from tenure_server.core.desks.grants import Grants
from tenure_server.core.desks.interventions import Interventions
from tenure_server.core.desks.law import Law, Lawless, denial
from tenure_server.core.leasing import timeouts
from tenure_server.core.leasing.alarms import (
    DEADLINE,
    RETRY,
)
from tenure_server.core.leasing.leases import (
    STOPPED,
    AgentSlots,
    Draw,
    Lease,
    Success,
    proves,
)
from tenure_server.core.leasing.leases import End as End
from tenure_server.core.leasing.leases import result_digest as result_digest
from tenure_server.core.leasing.limits import Limits
from tenure_server.core.leasing.live_leases import LiveLeases
from tenure_server.core.leasing.placing import Placing
from tenure_server.core.leasing.ready import ReadyQueue
from tenure_server.core.ledger import lifecycle, records
from tenure_server.core.ledger.journal import Journal
from tenure_server.core.ledger.lifecycle import (
    EventKind,
    Failure,
    RunState,
    Standing,
    TaskState,
    Verdict,
)
from tenure_server.core.progress import aftermath
from tenure_server.core.progress.consequences import DISPLACED, Consequences
from tenure_server.core.runs import history, restoring
from tenure_server.core.runs.gates import Gate
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task
from tenure_server.core.runs.tasks import TaskFacts

LAWLESS = Lawless()


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
        #: Limits by key.
        self.limits = Limits()
        #: Which of the agents on the line a task is for.
        self.placing = Placing()
        #: What is paused: workflows by name, under an empty one the whole tenant. See `pauses`.
        self.pauses: Mapping[str, records.Pause] = {}
        #: What time brings.
        self.dues = Dues(self, lease_us=lease_us)
        #: Asks for attention, see `alarms`.
        self.set_alarm = self.dues.set_alarm
        #: Live leases, the one renewed longest ago first.
        self.leases = LiveLeases(self.ready, self.limits, self.set_alarm)
        #: Leases that ended from this side, for the agents to be told: the lease and why.
        self.ended: list[tuple[Lease, str]] = []
        #: Leases whose attempts are to be stopped, for the agents to be told.
        self.cancelling: list[Lease] = []
        #: How often the tenant was served, for a fair turn among tenants that hold equally much.
        self.served = 0
        #: What follows from the ends of tasks.
        self.consequences = Consequences(
            tenant.tenant_id,
            term=term,
            runs=self.runs,
            ready=self.ready,
            journal=journal,
            draw=draw,
            alarm=self.set_alarm,
            attempts=self,
        )
        self.consequences.children.cancel_run = self.cancel_run
        self.consequences.children.rests = partial(pauses.rests, self)
        #: What operators may do.
        self.interventions = Interventions(self)
        #: What agents are given to do.
        self.grants = Grants(self, draw=draw, lease_us=lease_us, accept_us=accept_us)
        self._lease_us = lease_us
        self._orders = 0

    @property
    def open_tasks(self) -> int:
        """How many tasks the open runs have, those that ended included."""
        return self.consequences.open_tasks

    # -- runs

    def open_run(self, run: LiveRun, now_us: int) -> None:
        """Takes a new run: writes it down and readies the tasks that depend on nothing."""
        self.adopt(run)
        if run.definition.concurrency is not None:
            self.consequences.run_limits.enter(run)
        journal = self.consequences.under()
        journal.run_started(run.run_id, run)
        history.note_run(run, journal, EventKind.RUN_STARTED, now_us)
        roots = [index for index, missing in enumerate(run.missing) if not missing]
        for index in roots:
            if index in run.graph.special:
                if run.held:
                    continue
                self.consequences.turns.arrive(run, index, now_us)
            else:
                run.move(index, TaskState.READY)
                self.ready.add(run, index)
        if run.graph.special:
            self.consequences.close_if_done(run, now_us)

    def next_order(self) -> int:
        """The number to give to the next run, see `LiveRun.order`."""
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
        restoring.restore(run, tasks, outputs)
        aftermath.restore(run)
        self.adopt(run)
        self.limits.resume(now_us)
        if run.definition.concurrency is not None:
            self.consequences.run_limits.restore(run)
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
            elif facts.detail is not None:
                lease.cancelling = facts.detail.get(DISPLACED, "")
            if run.graph.limited and lease.task.is_limited:
                gate = self.limits.gate_of(run, index)
                lease.gate = gate if isinstance(gate, Gate) else None
            self.leases.hold(lease, facts.lease_us or now_us, now_us)
        self.take_up(run, now_us)

    def take_up(self, run: LiveRun, now_us: int) -> None:
        """Goes on with the tasks of a run that was read back: alarms, queue, activities."""
        for index, facts in run.facts.items():
            timeouts.set_alarms(run, index, facts, self.set_alarm)
        # Activities may wake tasks of their own, behind those that were ready before.
        active = []
        for index, state in enumerate(run.states):
            if state == TaskState.READY:
                if run.state in lifecycle.RUN_WORKING:
                    self.ready.add(run, index)
            elif state == TaskState.RETRYING:
                self._await_retry(run, index, now_us)
            elif state == TaskState.ACTIVE:
                active.append(index)
        for index in active:
            activity = self.consequences.activity_of(run, index)
            activity.restore(run, index, run.facts[index], now_us)

    def _await_retry(self, run: LiveRun, index: int, now_us: int) -> None:
        facts = run.facts[index]
        # A clock that was set back since must not make it longer than any retry has to wait.
        latest_us = now_us + run.tasks[index].retry.max_delay_us
        facts.retry_us = min(facts.retry_us or now_us, latest_us)
        self.set_alarm(facts.retry_us, RETRY, run.run_id, index)

    def cancel_run(self, run: LiveRun, reason: str, now_us: int) -> None:
        """Cancels a run: tasks without a lease now, the others when their leases end."""
        self.interventions.cancel(run, reason, now_us)

    # -- leases

    @property
    def has_room(self) -> bool:
        """Whether the tenant may hold one more lease."""
        # Asked before each lease: without a call more.
        held = len(self.leases) + len(self.leases.extra)
        return held < self.tenant.max_leases and "" not in self.pauses

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
            self.leases.unaccepted.pop(lease.key, None)

    def renew(
        self,
        lease: Lease,
        checkpoint: Payload | None,
        now_us: int,
        *,
        progress: tuple[float, str] | None = None,
    ) -> Standing:
        """Renews a lease, and keeps what the next attempt shall find."""
        self.accept(lease)
        if progress is not None:
            lease.progress = progress
        if progress is not None or checkpoint is not None:
            lease.heard_us = now_us
        lease.until_us = now_us + self._lease_us
        # Back to the end: the first of the dictionary is the next one to expire.
        self.leases[lease.key] = self.leases.pop(lease.key)
        if checkpoint is not None and payload_problem(checkpoint) is None:
            run, facts = lease.run, lease.run.facts[lease.index]
            facts.checkpoint = checkpoint
            journal = self.consequences.under()
            write_task(run, journal, lease.index, facts)
            history.note_task(run, journal, EventKind.TASK_CHECKPOINTED, now_us, lease.index, facts)
        return Standing.CANCELLING if lease.cancelling else Standing.HELD

    def give_back(self, lease: Lease, now_us: int, message: str = "given back") -> None:
        """Ends a lease that will not be executed; the task is ready again, no attempt consumed."""
        self.leases.release(lease)
        run, index, kind = lease.run, lease.index, EventKind.TASK_LEASE_RETURNED
        self.consequences.stop(run, index, run.facts[index], kind, message, now_us)

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
            self.leases.release(lease)
        else:
            # The lease was lost, and with it the attempt; the result brings it back.
            facts.attempt += 1
        if end is not STOPPED and (failure := self._denied(run, index, facts, end, now_us)):
            self.consequences.fail(run, index, facts, failure, now_us)
            return Verdict.DENIED
        return self.consequences.apply(run, index, facts, end, now_us)

    def _denied(
        self, run: LiveRun, index: int, facts: TaskFacts, end: Success | Failure, now_us: int
    ) -> Failure | None:
        """Why a result does not count though its holder reported it, or None."""
        objections = self.law.on_result(run, index, facts, end, now_us)
        if not objections:
            return None
        self.consequences.under().object(self.tenant.tenant_id, objections)
        # What failed has failed: only a success can be denied.
        return denial(objections) if isinstance(end, Success) else None

    # -- leases that end from this side

    def stop_attempt(self, run: LiveRun, index: int, why: str) -> None:
        """Has the agent of a leased task told to stop; the lease goes on until it has."""
        lease = self.leases[run.run_id, index]
        if not lease.cancelling:
            self.cancelling.append(lease)
        lease.cancelling = why

    def end_attempt(self, run: LiveRun, index: int, why: str) -> None:
        """Ends the lease of a task at once; what becomes of the task is for the caller to say."""
        lease = self.leases[run.run_id, index]
        self.leases.release(lease)
        self.ended.append((lease, why))

    # -- bookkeeping

    def adopt(self, run: LiveRun) -> None:
        """Counts a run among the open ones."""
        self.runs[run.run_id] = run
        self.consequences.open_tasks += len(run.states)
        if run.deadline_us is not None:
            self.set_alarm(run.deadline_us, DEADLINE, run.run_id, 0)

    def leave(self, run: LiveRun) -> None:
        """Takes a run without leases off the desk, as if it had never been read."""
        for index, facts in run.facts.items():
            if run.states[index] == TaskState.ACTIVE:
                self.consequences.activity_of(run, index).leave(run, index, facts)
        del self.runs[run.run_id]
        self.consequences.open_tasks -= len(run.states)
        self.ready.drop(run)
        self.dues.forget(run)
