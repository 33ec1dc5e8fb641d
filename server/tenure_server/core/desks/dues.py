"""What falls due: leases that nobody accepts or renews, retries, and whatever takes too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tenure_server.core.desks import pauses, poison
from tenure_server.core.leasing import timeouts
from tenure_server.core.leasing.alarms import (
    ACTIVITY,
    ATTEMPTS,
    DEADLINE,
    HEARTBEAT,
    QUEUE,
    RETRY,
    TOTAL,
    Alarm,
    Alarms,
)
from tenure_server.core.leasing.leases import Lease, result_digest
from tenure_server.core.ledger import lifecycle
from tenure_server.core.ledger.lifecycle import EventKind, Failure, TaskState
from tenure_server.core.runs.live import LiveRun

if TYPE_CHECKING:
    from tenure_server.core.desks.desk import Desk

_OPEN = tuple(state for state in TaskState if state not in lifecycle.TASK_ENDED)
#: The states in which a task must still be for an alarm to matter, by what it is for.
_ALARMED: Mapping[int, tuple[TaskState, ...]] = {
    RETRY: (TaskState.RETRYING,),
    ACTIVITY: (TaskState.ACTIVE,),
    QUEUE: (TaskState.READY,),
    TOTAL: _OPEN,
    # Also while it is leased: the lease may be lost, and then no other one may begin.
    ATTEMPTS: _OPEN,
    HEARTBEAT: (TaskState.LEASED,),
}


class Dues:
    """Does it for one desk."""

    def __init__(self, desk: Desk, *, lease_us: int) -> None:
        self._desk = desk
        self._lease_us = lease_us
        self._alarms = Alarms(self._matters)
        #: Asks for attention, see `alarms`.
        self.set_alarm = self._alarms.set

    def next_us(self) -> int | None:
        """When `pass_time` next has something to do, or None."""
        desk, dues = self._desk, []
        if desk.leases:
            dues.append(next(iter(desk.leases.values())).until_us)
        if desk.leases.unaccepted:
            dues.append(next(iter(desk.leases.unaccepted.values())))
        if (alarm_us := self._alarms.next_us) is not None:
            dues.append(alarm_us)
        if (rested_us := desk.grants.rested_us) is not None:
            dues.append(rested_us)
        if (free_us := desk.limits.next_us()) is not None:
            dues.append(free_us)
        return min(dues, default=None)

    def forget_idle(self) -> None:
        """Makes `next_us` name only times at which something will happen."""
        self._alarms.forget_idle()

    def forget(self, run: LiveRun) -> None:
        """Takes back all that was to fall due for a run: its tasks get other numbers."""
        self._alarms.forget(run.run_id)

    def pass_time(self, now_us: int) -> None:
        """Does what is due: leases lost or not accepted, retries, attempts out of time."""
        desk = self._desk
        desk.grants.resting = False
        while desk.leases.unaccepted:
            key, due_us = next(iter(desk.leases.unaccepted.items()))
            if due_us > now_us:
                break
            lease = desk.leases[key]
            desk.give_back(lease, now_us, "not accepted in time")
            desk.ended.append((lease, "not accepted in time"))
        while desk.leases:
            lease = next(iter(desk.leases.values()))
            if lease.until_us > now_us:
                break
            self._lose(lease, now_us)
        for hold in desk.limits.due(now_us):
            desk.ready.unpark(hold)
        for alarm in self._alarms.due(now_us):
            if not self._matters(alarm):
                continue
            at_us, what, run_id, index = alarm
            run = desk.runs[run_id]
            if what == RETRY:
                self._retry(run, index, now_us)
            elif what == ACTIVITY:
                activity = desk.consequences.activity_of(run, index)
                activity.due(run, index, run.facts[index], now_us)
            elif what == HEARTBEAT:
                self._listen(desk.leases[run_id, index], now_us)
            elif what == DEADLINE:
                desk.interventions.expire(run, now_us)
            elif what > 0:
                lease = desk.leases[run_id, index]
                self._time_out(lease, timeouts.ATTEMPT_FAILURE, "the attempt's time is up", now_us)
            else:
                self._give_up(run, index, at_us, now_us)

    def _retry(self, run: LiveRun, index: int, now_us: int) -> None:
        task = run.tasks[index]
        if task.wait is None and task.for_each is None:
            self._desk.consequences.ready(run, index)
        else:
            self._desk.consequences.turns.begin(run, index, run.facts[index], now_us)

    def _lose(self, lease: Lease, now_us: int) -> None:
        self._desk.leases.release(lease)
        run, index = lease.run, lease.index
        facts = run.facts[index]
        facts.lost += 1
        message = f"agent {lease.agent.name} did not renew"
        self._desk.consequences.stop(run, index, facts, EventKind.TASK_LEASE_LOST, message, now_us)
        self._desk.ended.append((lease, "the lease expired"))
        if run.state in lifecycle.RUN_WORKING and poison.count(run, now_us, self._lease_us):
            self._desk.consequences.under().run_changed(run.run_id, run)
            if reason := poison.problem(run):
                self._desk.interventions.pause(run, reason, now_us)

    def _time_out(self, lease: Lease, failure: Failure, why: str, now_us: int) -> None:
        self._desk.leases.release(lease)
        run, index = lease.run, lease.index
        facts = run.facts[index]
        facts.result_hash = result_digest(failure)
        self._desk.consequences.fail(run, index, facts, failure, now_us)
        self._desk.ended.append((lease, why))

    def _listen(self, lease: Lease, now_us: int) -> None:
        """Ends a silent attempt; of one that has spoken, asks again when its time would be up."""
        by_us = timeouts.heard_by(lease)
        if now_us >= by_us:
            self._time_out(lease, timeouts.SILENCE, "its handler was silent for too long", now_us)
        else:
            self.set_alarm(by_us, HEARTBEAT, lease.run.run_id, lease.index)

    def _give_up(self, run: LiveRun, index: int, at_us: int, now_us: int) -> None:
        """Fails a task that has taken too long by the time of its alarm.

        However late that is looked at, what fell due between it and now has its own turn.
        """
        facts, lease = run.facts[index], self._desk.leases.get((run.run_id, index))
        at_work = lease is not None or run.states[index] == TaskState.ACTIVE
        paused = pauses.rests(self._desk, run)
        failure = timeouts.failure(facts, at_us, at_work=at_work, paused=paused)
        if failure is None:
            return
        if lease is not None:
            self._time_out(lease, failure, "the task's time is up", now_us)
        else:
            self._desk.consequences.give_up(run, index, facts, failure, now_us)

    def _matters(self, alarm: Alarm) -> bool:
        """Whether the attempt still runs, or the retry still waits, that an alarm was set for."""
        at_us, what, run_id, index = alarm
        if what > 0:
            lease = self._desk.leases.get((run_id, index))
            return lease is not None and lease.term == what
        run = self._desk.runs.get(run_id)
        if run is None or what == DEADLINE:
            return run is not None and run.deadline_us == at_us
        facts = run.facts.get(index)
        if facts is None or run.states[index] not in _ALARMED[what]:
            return False
        # One that was set before its run was cancelled and opened again is for nothing any more.
        return what != RETRY or facts.retry_us == at_us
