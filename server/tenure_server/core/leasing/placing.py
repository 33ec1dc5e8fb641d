"""Which agent a task goes to that not every agent of its kind may, or should, take.

A task that weighs more than an agent has free keeps that agent's free slots until it fits, so that
lighter ones cannot pass it by for ever; one agent at a time, so that it does not idle all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tenure_server.core.leasing.buckets import Bucket
from tenure_server.core.leasing.leases import AgentSlots, Lease
from tenure_server.core.ledger.lifecycle import TaskState
from tenure_server.core.runs.gates import Lane

_READY = int(TaskState.READY)


class Placing:
    """Places the tasks of one tenant."""

    def __init__(self) -> None:
        #: The agents on the line that have free slots.
        self.line: Sequence[AgentSlots] = ()
        #: The agent that is kept for the tasks of each lane.
        self._kept: dict[Lane, AgentSlots] = {}
        #: What waits for the tenant's limit, and the agent that would take it.
        self._first: tuple[Bucket, AgentSlots] | None = None

    def suits(self, lane: Lane, agent: AgentSlots) -> bool:
        """Whether an agent is to have tasks of a lane now."""
        if not may_take(lane, agent):
            return False
        if lane.weight > agent.free_slots and self._kept_elsewhere(lane, agent):
            return False
        if self._is_passed_over(lane, agent):
            agent.passed_over = True
            return False
        return True

    def has_room(self, bucket: Bucket, agent: AgentSlots, room: int) -> bool:
        """Whether a lease fits an agent, and the tenant, which has room for so many slots.

        Where it does not, the agent, or the tenant's room, is kept for it.
        """
        if self._first is not None and not self._lets_pass(bucket, agent):
            return False
        if bucket.weight == 1:
            return True
        if bucket.weight > agent.free_slots:
            if isinstance(bucket.lane, Lane):
                self._kept[bucket.lane] = agent
            agent.kept = True
            return False
        if bucket.weight > room:
            self._first = bucket, agent
            return False
        return True

    def placed(self, lease: Lease) -> None:
        """Keeps nothing any more for a task that has its lease."""
        gate = lease.gate
        if gate is None or gate.weight == 1:
            return
        for lane in [one for one, agent in self._kept.items() if agent is lease.agent]:
            del self._kept[lane]
        if self._first is not None and self._first[0].gate is gate:
            self._first = None

    def _kept_elsewhere(self, lane: Lane, agent: AgentSlots) -> bool:
        other = self._kept.get(lane)
        if other is None or other is agent:
            return False
        # One that has left has no credits, and soon no leases.
        return bool(other.credits > 0 or other.leases) and may_take(lane, other)

    def _lets_pass(self, bucket: Bucket, asking: AgentSlots) -> bool:
        """Whether a bucket may be leased from before the one that the tenant's room is kept for."""
        assert self._first is not None
        first, agent = self._first
        # The agent itself is offered the first in line anyway, in whatever order that is.
        if asking is agent or bucket.rank <= first.rank:
            return True
        states = first.run.states
        waits = first.hold is None and any(states[one] == _READY for one in first.queue)
        if waits and agent.credits > 0 and agent.free_slots >= first.weight:
            return False
        self._first = None
        return True

    def _is_passed_over(self, lane: Lane, agent: AgentSlots) -> bool:
        if lane.sticky is not None:
            if lane.sticky == agent.key:
                return False
            if any(one.key == lane.sticky and _is_free(one, lane) for one in self.line):
                return True
        if not lane.preferred or lane.preferred <= agent.labels:
            return False
        return any(lane.preferred <= one.labels and _is_free(one, lane) for one in self.line)


def may_take(lane: Lane, agent: AgentSlots) -> bool:
    """Whether an agent comes into question at all."""
    return lane.kind in agent.kinds and lane.weight <= agent.slots and lane.required <= agent.labels


def _is_free(agent: AgentSlots, lane: Lane) -> bool:
    return (
        not agent.kept
        and agent.credits > 0
        and agent.free_slots >= lane.weight
        and may_take(lane, agent)
    )
