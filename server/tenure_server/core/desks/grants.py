"""Which leases are granted: what is ready passes its limits, is chosen, and is written down."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tenure_server.core.definitions.definition import Payload
from tenure_server.core.definitions.features import Strategy
from tenure_server.core.desks import pauses
from tenure_server.core.desks.law import denial
from tenure_server.core.expressions.evaluation import Budget
from tenure_server.core.leasing import timeouts
from tenure_server.core.leasing.buckets import Bucket
from tenure_server.core.leasing.leases import AgentSlots, Draw, Lease, tokens
from tenure_server.core.ledger import lifecycle
from tenure_server.core.ledger.lifecycle import Failure, TaskState
from tenure_server.core.progress.consequences import DISPLACED
from tenure_server.core.runs import history, run_data
from tenure_server.core.runs.gates import TENANT_HOLD, Gate, Hold
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.desks.desk import Desk

#: The most bytes that a lease carries from the tasks before it.
UPSTREAM_BYTES_MAX = 16 << 20
#: What working out inputs may cost in one turn, in nanoseconds; some 50 ms.
TURN_NS_MAX = 50_000_000
#: How long a desk rests that has spent it.
REST_US = 1_000


class Grants:
    """Makes them for one desk."""

    def __init__(self, desk: Desk, *, draw: Draw, lease_us: int, accept_us: int) -> None:
        self._desk = desk
        self._ready = desk.ready
        self._limits = desk.limits
        self._placing = desk.placing
        self._leases = desk.leases
        self._consequences = desk.consequences
        self._lease_us = lease_us
        self._accept_us = accept_us
        self._tokens = tokens(draw)
        self._tenant_hold_max = 0
        #: Whether nothing is leased until time has passed, so that others get their turn.
        self.resting = False
        #: What was spent on working out inputs in the turn of that time.
        self._turn_us, self._turn_ns = 0, 0.0

    @property
    def has_arrivals(self) -> bool:
        """Whether something has become ready, or was let in, that `admit` has not seen."""
        return bool(self._ready.arrivals) or self._consequences.run_limits.is_due

    def admit(self, now_us: int) -> None:
        """Takes what has become ready since it was last called. To be called before leases are
        granted, and at the end of each turn, for a new task may cancel what an agent has.
        """
        while self.has_arrivals:
            self._consequences.run_limits.take_turns(now_us)
            for run, index, first in self._ready.take_arrivals():
                if run.state in lifecycle.RUN_WORKING and run.states[index] == TaskState.READY:
                    self._admit(run, index, now_us, first=first)
        self._ready.date(now_us)
        if self._tenant_hold_max and self._desk.tenant.max_leases > self._tenant_hold_max:
            self._tenant_hold_max = 0
            self._ready.unpark_all(TENANT_HOLD)

    def _admit(self, run: LiveRun, index: int, now_us: int, *, first: bool) -> None:
        gate = self._limits.gate_of(run, index)
        if isinstance(gate, Failure):
            facts = run.facts[index] = run.facts.get(index) or TaskFacts()
            self._consequences.fail(run, index, facts, gate, now_us)
        elif pauses.rests(self._desk, run):
            # It would be leased to nobody now, so nobody is stopped for it, nor is it turned away.
            self._ready.put(run, index, gate, first=first)
        elif gate.strategy is Strategy.CANCEL_NEWEST and self._limits.is_full(gate):
            self._turn_away(run, index, gate, now_us)
        else:
            self._displace_for(gate, now_us)
            self._ready.put(run, index, gate, first=first)

    def _turn_away(self, run: LiveRun, index: int, gate: Gate, now_us: int) -> None:
        facts = run.facts.get(index) or TaskFacts()
        why = f"{gate.limit} tasks of its key were leased"
        self._consequences.cancel_alone(run, index, facts, why, now_us)

    def _displace_for(self, gate: Gate, now_us: int) -> None:
        """Tells the oldest lease of a key to stop when a newer task is to have its place."""
        lease = self._limits.to_displace(gate)
        if lease is None:
            return
        run, index = lease.run, lease.index
        facts = run.facts[index]
        lease.cancelling = "a newer task of its key takes its place"
        facts.detail = {**(facts.detail or {}), DISPLACED: lease.cancelling}
        write_task(run, self._consequences.under(), index, facts)
        self._desk.cancelling.append(lease)

    def next_for(self, agent: AgentSlots, now_us: int) -> Bucket | None:
        """Where the next lease for this agent would come from, or None."""
        ready = self._ready
        if not ready.size or self.resting:
            return None
        suits = None
        if ready.has_special:
            suits = lambda lane: self._placing.suits(lane, agent)  # noqa: E731 - rarely needed
        while (bucket := ready.best(agent.kinds, now_us, suits)) is not None:
            hold = self.obstacle(bucket, now_us)
            if hold is None:
                room = self._desk.tenant.max_leases - len(self._leases) - len(self._leases.extra)
                return bucket if self._placing.has_room(bucket, agent, room) else None
            gate = bucket.gate
            if gate is not None and hold == gate.key_hold:
                if gate.strategy is Strategy.CANCEL_NEWEST:
                    self._turn_away(bucket.run, ready.take(bucket), gate, now_us)
                    continue
                self._displace_for(gate, now_us)
            elif hold == TENANT_HOLD:
                self._tenant_hold_max = self._desk.tenant.max_leases
            ready.park(bucket, hold)
        return None

    def obstacle(self, bucket: Bucket, now_us: int) -> Hold | None:
        """What the tasks of a bucket wait for whichever agent asks, or None."""
        gate, limit = bucket.gate, bucket.run.definition.max_leases
        if self._desk.pauses and bucket.run.workflow in self._desk.pauses:
            return pauses.hold_of(bucket.run.workflow)
        if gate is not None:
            if hold := self._limits.obstacle(gate, now_us):
                return hold
            if gate.weight > self._desk.tenant.max_leases:
                return TENANT_HOLD
        if limit:
            workflow = bucket.run.workflow
            used = self._leases.slots_of(workflow)
            if used + bucket.weight > limit or (used and self._ready.heavier_waits(bucket)):
                return workflow
        return None

    def grant(self, bucket: Bucket, agent: AgentSlots, now_us: int) -> Lease | None:
        """Leases the first task of a bucket that `next_for` gave.

        None when the task turns out to be impossible and has failed instead.
        """
        woken_from = bucket.woken_from
        lease = self._grant(bucket, self._ready.take(bucket), agent, now_us)
        if lease is None and woken_from is not None:
            # The place that it was woken for is still free, and others may wait for it.
            self._ready.unpark(woken_from)
        return lease

    def _grant(self, bucket: Bucket, index: int, agent: AgentSlots, now_us: int) -> Lease | None:
        run = bucket.run
        facts = run.facts.get(index)
        if facts is None:
            facts = run.facts[index] = TaskFacts()
        elif facts.detail is not None and (failure := timeouts.failure(facts, now_us)):
            self._consequences.give_up(run, index, facts, failure, now_us)
            return None
        upstream = run.upstream_outputs(index) if run.outputs else {}
        facts.attempt += 1
        facts.result_hash = b""
        own: Payload | Failure | None = run.tasks[index].input
        if run_data.has_own_data(run, index):
            own = self._work_out(run, index, facts, now_us)
        if isinstance(own, Failure):
            self._consequences.fail(run, index, facts, own, now_us)
            return None
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
        if lease.task.retry.total_timeout_us is not None and timeouts.attempted(
            lease.task, facts, now_us
        ):
            timeouts.set_alarms(run, index, facts, self._desk.set_alarm)
        lease.input = own
        gate = lease.gate = bucket.gate
        agent.credits -= 1
        journal = self._consequences.under()
        run.move(index, TaskState.LEASED)
        self._leases.hold(lease, now_us, now_us)
        self._leases.unaccepted[lease.key] = now_us + self._accept_us
        if run.start_us is None:
            run.start_us = now_us
            journal.run_changed(run.run_id, run)
            self._ready.run_started(run)
        lease.event = len(journal.events)
        history.note_lease(run, journal, now_us, index, facts, lease.input, upstream)
        lease.grant_us, lease.grant_sequence = now_us, run.sequence
        write_task(run, journal, index, facts)
        if run.graph.limited:
            self._follow_lease(lease, gate, now_us)
        return lease

    def _work_out(
        self, run: LiveRun, index: int, facts: TaskFacts, now_us: int
    ) -> Payload | Failure | None:
        """The own input of a task. After some of that in one turn, the others come first."""
        if now_us != self._turn_us:
            self._turn_us, self._turn_ns = now_us, 0.0
        budget = Budget()
        own = run_data.handler_input(run, index, facts, budget)
        self._turn_ns += budget.spent
        self.resting = self._turn_ns > TURN_NS_MAX
        return own

    def _follow_lease(self, lease: Lease, gate: Gate | None, now_us: int) -> None:
        """Draws what follows from a lease where limits are declared."""
        run = lease.run
        if run.last_agent != lease.agent.key:
            run.last_agent = lease.agent.key
            self._ready.run_moved(run)
        if gate is None:
            return
        self._placing.placed(lease)
        self._limits.begin(gate, now_us)
        free_us = self._limits.free_us(gate)
        if free_us is not None and self._ready.is_awaited(gate.rate_hold):
            if free_us <= now_us:
                self._ready.unpark(gate.rate_hold)
            else:
                self._limits.wake(gate, free_us)
        # What waits for its key may be of a kind to take its place.
        for bucket in self._ready.waiting(gate.key_hold):
            if bucket.gate is not None and not pauses.rests(self._desk, bucket.run):
                self._displace_for(bucket.gate, now_us)

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
        objections = self._desk.law.on_lease(run, index, facts, agent, now_us)
        if not objections:
            return None
        self._consequences.under().object(self._desk.tenant.tenant_id, objections)
        return denial(objections)

    # -- rest

    @property
    def rested_us(self) -> int | None:
        """When it has rested, or None: it does not rest."""
        return self._turn_us + REST_US if self.resting else None
