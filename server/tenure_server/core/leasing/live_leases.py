"""The live leases of one tenant: of which workflow they are, and which slots they take."""

from __future__ import annotations

from tenure_server.core.leasing import timeouts
from tenure_server.core.leasing.alarms import HEARTBEAT, SetAlarm
from tenure_server.core.leasing.leases import ExtraSlot, Lease, LeaseKey, extra_slots
from tenure_server.core.leasing.limits import Limits
from tenure_server.core.leasing.ready import ReadyQueue
from tenure_server.core.runs.gates import Gate


class LiveLeases(dict[LeaseKey, Lease]):
    """By run and task, the one renewed longest ago first."""

    __slots__ = (
        "_alarm",
        "_limits",
        "_ready",
        "by_workflow",
        "extra",
        "extra_by_workflow",
        "unaccepted",
    )

    def __init__(self, ready: ReadyQueue, limits: Limits, alarm: SetAlarm) -> None:
        super().__init__()
        self.by_workflow: dict[str, set[LeaseKey]] = {}
        #: The slots that leases of more weight than one take beyond their first; by workflow, too.
        self.extra: set[ExtraSlot] = set()
        self.extra_by_workflow: dict[str, set[ExtraSlot]] = {}
        #: Those that no agent has accepted yet, oldest first, and until when each may stay so.
        self.unaccepted: dict[LeaseKey, int] = {}
        self._ready = ready
        self._limits = limits
        self._alarm = alarm

    @property
    def slots(self) -> int:
        """How many slots they take."""
        return len(self) + len(self.extra)

    def slots_of(self, workflow: str) -> int:
        """How many slots those of a workflow take."""
        used = len(self.by_workflow.get(workflow, ()))
        return used + len(self.extra_by_workflow.get(workflow, ()))

    def hold(self, lease: Lease, from_us: int, now_us: int) -> None:
        """Takes a new lease, whose attempt began at `from_us`, and sets its alarms."""
        self[lease.key] = lease
        lease.agent.leases[lease.key] = lease
        workflow = self.by_workflow.get(lease.run.workflow)
        if workflow is None:
            self.by_workflow[lease.run.workflow] = {lease.key}
        else:
            workflow.add(lease.key)
        if lease.gate is not None:
            self._limits.hold(lease)
            if lease.gate.weight > 1:
                slots = extra_slots(lease.key, lease.gate.weight)
                lease.agent.extra |= slots
                self.extra |= slots
                self.extra_by_workflow.setdefault(lease.run.workflow, set()).update(slots)
        task = lease.task
        if task.attempt_timeout_us is not None:
            lease.deadline_us = from_us + task.attempt_timeout_us
            at_us = lease.deadline_us + timeouts.GRACE_US
            self._alarm(at_us, lease.term, lease.run.run_id, lease.index)
        if task.heartbeat_timeout_us is not None:
            lease.heard_us = now_us
            self._alarm(timeouts.heard_by(lease), HEARTBEAT, lease.run.run_id, lease.index)

    def release(self, lease: Lease) -> None:
        """Ends a lease; what becomes of its task is for the caller to say."""
        del self[lease.key]
        lease.agent.leases.pop(lease.key, None)
        self.unaccepted.pop(lease.key, None)
        name = lease.run.workflow
        workflow = self.by_workflow[name]
        workflow.discard(lease.key)
        if not workflow:
            del self.by_workflow[name]
        if lease.gate is not None:
            self._release_gate(lease, lease.gate)
        self._ready.unpark(name)

    def _release_gate(self, lease: Lease, gate: Gate) -> None:
        if gate.weight > 1:
            slots = extra_slots(lease.key, gate.weight)
            lease.agent.extra -= slots
            self.extra -= slots
            workflow = self.extra_by_workflow[lease.run.workflow]
            workflow -= slots
            if not workflow:
                del self.extra_by_workflow[lease.run.workflow]
        hold = self._limits.release(lease)
        if hold is not None:
            self._ready.unpark(hold)
