"""Fires schedules: whoever holds a tenant's seat looks at its timetable and does what is due.

What is decided of a fire, the run that it starts, and the one entry of evidence are one
transaction, under the term of the seat. So there is no fire that was done and is not known to be,
and none is done twice: whoever reads the standing back goes on behind it. Memory is thrown away
with the desk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from tenure_server.core import errors
from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.scheduling import schedules
from tenure_server.core.scheduling.schedules import (
    Finish,
    FireLine,
    Idle,
    Miss,
    Outcome,
    Pause,
    ScheduleChange,
    Skip,
    Standing,
    Start,
    Wait,
)
from tenure_server.core.scheduling.timetable import Entry, Timetable
from tenure_server.engine import fires, starting
from tenure_server.engine.alarm import Alarm
from tenure_server.engine.chance import draw
from tenure_server.engine.court import Court
from tenure_server.engine.floor import Floor
from tenure_server.engine.settings import Settings
from tenure_server.engine.workflows import Workflows
from tenure_server.store.database import Store
from tenure_server.store.schedule_reads import ScheduleReads

#: So many fires are decided before their commits are waited for.
STEPS_AHEAD = 50
#: How long a tenant is left alone when its schedules could not be looked at.
SULK_US = 5_000_000

log = structlog.get_logger()


class Stale(Exception):  # noqa: N818 - nothing is wrong: it is looked at again
    """What was decided is not so any more."""


class Firing:
    """The timetables of the tenants whose seats are held here."""

    def __init__(
        self, floor: Floor, store: Store, court: Court, workflows: Workflows, settings: Settings
    ) -> None:
        self._floor = floor
        self._store = store
        self._court = court
        self._workflows = workflows
        self._settings = settings
        self._held: dict[str, Timetable] = {}
        #: Read back, by tenant, until the desk is open.
        self._read: dict[str, Timetable] = {}
        #: Tenants of which the end of some run matters.
        self._watching: set[str] = set()
        self._attending: set[Timetable] = set()
        self._sulking: dict[str, int] = {}
        self._alarm = Alarm(floor.now_us, self.pass_time)

    # -- with the desk

    def learn(self, tenant_id: str) -> None:
        """Reads the schedules of a tenant whose desk is about to open. In a reader's thread."""
        timetable, now_us = Timetable(), self._floor.now_us()
        for schedule, standing in ScheduleReads(self._store, tenant_id).schedules():
            # As if no run were open: whoever is looked at too early is looked at again.
            timetable.look_again(timetable.put(schedule, standing), now_us)
        self._read[tenant_id] = timetable

    def opened(self, tenant_id: str) -> None:
        """The desk is open: what is due is done."""
        timetable = self._held[tenant_id] = self._read.pop(tenant_id)
        if timetable.entries:
            for run in self._floor.desks[tenant_id].runs.values():
                self._opened_run(tenant_id, run)
            self.stir(tenant_id)

    def closed(self, tenant_id: str) -> None:
        """The desk is closed, and its memory thrown away."""
        self._held.pop(tenant_id, None)
        self._watching.discard(tenant_id)

    def adopt(self, tenant_id: str, entry: Entry) -> None:
        """Notes the open runs of an earlier schedule of the same name."""
        for run in self._floor.desk(tenant_id).runs.values():
            if run.labels.get(schedules.LABEL_SCHEDULE) == entry.schedule.name:
                self._opened_run(tenant_id, run)

    def timetable(self, tenant_id: str) -> Timetable:
        """The timetable of a tenant. Raises as `Floor.desk`."""
        self._floor.check_seat(tenant_id)
        return self._held[tenant_id]

    def entry(self, tenant_id: str, name: str) -> Entry:
        """One schedule of a tenant. Raises NotFound, and as `Floor.desk`."""
        entry = self.timetable(tenant_id).entries.get(name)
        if entry is None:
            raise errors.NotFound("schedule", name)
        return entry

    def stop(self) -> None:
        """Sets no further alarm."""
        self._alarm.clear()

    # -- time

    def stir(self, tenant_id: str) -> None:
        """Something changed: does what is due, and sets the alarm for what is not."""
        timetable = self._held.get(tenant_id)
        next_us = None if timetable is None else timetable.next_us()
        if timetable is None or next_us is None or self._floor.stopping:
            return
        next_us = max(next_us, self._sulking.get(tenant_id, 0))
        if next_us > self._floor.now_us():
            self._alarm.set(next_us)
        elif timetable not in self._attending:
            self._attending.add(timetable)
            self._floor.spawn(self._attend(tenant_id, timetable))

    def pass_time(self) -> None:
        """Does what has fallen due."""
        self._alarm.clear()
        for tenant_id in list(self._held):
            self.stir(tenant_id)

    async def _attend(self, tenant_id: str, timetable: Timetable) -> None:
        try:
            for number in range(1, 1 << 62):
                if self._held.get(tenant_id) is not timetable:
                    return
                entry = timetable.due(self._floor.now_us())
                if entry is None:
                    break
                await self._do(tenant_id, timetable, entry)
                if number % STEPS_AHEAD:
                    await asyncio.sleep(0)
                else:
                    await self._floor.flushed()
        except errors.Refusal as refusal:
            self._sulk(tenant_id)
            log.warning("schedules cannot be looked at now", tenant=tenant_id, reason=str(refusal))
        except Exception as error:  # noqa: BLE001 - a half-made turn must not be gone on with
            self._sulk(tenant_id)
            self._floor.fail(error)
        finally:
            self._attending.discard(timetable)
        self.stir(tenant_id)

    def _sulk(self, tenant_id: str) -> None:
        self._sulking[tenant_id] = self._floor.now_us() + SULK_US

    # -- one step

    async def _do(self, tenant_id: str, timetable: Timetable, entry: Entry) -> None:
        """Does the next step of one schedule. Raises as `Floor.desk`, and nothing has changed."""
        desk = self._floor.desk(tenant_id)
        now_us = self._floor.now_us()
        step = entry.step(now_us)
        match step:
            case Idle():
                pass
            case Finish():
                # No act: its last fire was one, and is written down.
                self._floor.journal.under(tenant_id, desk.term)
                self.write(tenant_id, entry, schedules.after(entry.standing, step))
                self._floor.stir(desk)
            case Start():
                await self._start(tenant_id, timetable, entry, step)
            case Miss() | Skip() | Wait():
                author = entry.schedule.author if isinstance(step, Miss) else step.fire.author
                act = fires.act_for(author)
                self.settle(tenant_id, entry, step, act)
        timetable.look_again(entry, self._floor.now_us())

    async def _start(self, tenant_id: str, timetable: Timetable, entry: Entry, step: Start) -> None:
        act = fires.act_for(step.fire.author)
        origin = records.Origin(
            tenant_id=tenant_id, api_key_id=act.principal, correlation_id=act.correlation_id
        )
        schedule = entry.schedule

        def holds() -> bool:
            return (
                self._held.get(tenant_id) is timetable
                and timetable.entries.get(schedule.name) is entry
                and entry.schedule is schedule
                and entry.step(self._floor.now_us()) == step
            )

        try:
            await self.launch(origin, entry, step, act, holds)
        except Stale:
            return
        except tuple(starting.DECIDING) as refusal:
            if holds():
                self._floor.check_seat(tenant_id)
                self._refuse(tenant_id, entry, step, act, refusal)

    async def launch(
        self,
        origin: records.Origin,
        entry: Entry,
        step: Start,
        act: Act,
        holds: Callable[[], bool],
    ) -> FireLine:
        """Starts the run of a fire, judged as any other start, and writes both down as one act.

        Raises Stale when `holds` says so once it was judged, and whatever refuses a start.
        """
        tenant_id, schedule = origin.tenant_id, entry.schedule
        desk = self._floor.desk(tenant_id)
        known = await self._workflows.known(tenant_id, schedule.workflow, schedule.version)
        plan = starting.Plan(origin, {}, self._floor.now_us(), draw)
        start = fires.start_of(schedule, step.fire)
        starting.check_inputs([start], [known])
        started = plan.add(start, known)
        starting.check_quota(desk, plan.new, self._settings)

        def still() -> None:
            if self._floor.desk(tenant_id) is not desk or not holds():
                raise Stale

        async with self._court.turn(tenant_id):
            await starting.judged(self._court, plan, act, desk, self._settings, still)
            since = self._floor.mark()
            for run in plan.runs(desk):
                desk.open_run(run, plan.now_us)
                self._opened_run(tenant_id, run)
            line = fires.line_of(
                entry, step.fire, Outcome.STARTED, self._floor.now_us(), run_id=started.run_id
            )
            self.write(tenant_id, entry, schedules.after(entry.standing, step), [line])
            act.subject |= fires.subject_of(schedule, line)
            self._floor.close_act(act, since, [tenant_id])
        self._floor.stir(desk)
        return line

    def settle(self, tenant_id: str, entry: Entry, step: Skip | Wait | Miss, act: Act) -> FireLine:
        """Writes down what became of a fire that starts nothing now."""
        since = self._floor.mark()
        lines = list(fires.lines_of(entry, step, self._floor.now_us()))
        if isinstance(step, Wait) and step.cancels:
            self._cancel_running(tenant_id, entry)
        self.write(tenant_id, entry, schedules.after(entry.standing, step), lines)
        act.subject |= fires.subject_of(entry.schedule, lines[-1])
        self._floor.close_act(act, since, [tenant_id])
        return lines[-1]

    def _refuse(
        self, tenant_id: str, entry: Entry, step: Start, act: Act, refusal: errors.Refusal
    ) -> None:
        since = self._floor.mark()
        code = starting.DECIDING[type(refusal)]
        line = fires.line_of(
            entry,
            step.fire,
            Outcome.REFUSED,
            self._floor.now_us(),
            code=code,
            message=refusal.message,
        )
        standing = schedules.refused(entry.standing, step)
        act.refusal, act.subject = code, fires.subject_of(entry.schedule, line)
        if entry.schedule.pause_on_failure:
            reason = f"the run of {fires.time_text(step.fire.nominal_us)} was refused: {code}"
            standing = replace(standing, pause=Pause(self._floor.now_us(), "", reason))
            act.subject["paused"] = "true"
        self.write(tenant_id, entry, standing, [line])
        self._floor.close_act(act, since, [tenant_id])
        log.warning(
            "a schedule could not start a run",
            tenant=tenant_id,
            schedule=entry.schedule.name,
            reason=refusal.message,
        )

    def _cancel_running(self, tenant_id: str, entry: Entry) -> None:
        desk = self._floor.desk(tenant_id)
        for run_id in sorted(entry.running):
            run = desk.runs.get(run_id)
            if run is not None and run.state in (RunState.RUNNING, RunState.PAUSED):
                reason = f"schedule {entry.schedule.name} fires again"
                desk.cancel_run(run, reason, self._floor.now_us())
        self._floor.stir(desk)

    def write(
        self, tenant_id: str, entry: Entry, standing: Standing, lines: Sequence[FireLine] = ()
    ) -> None:
        """Changes a standing; an act has to follow, or its seat be asserted."""
        entry.standing = standing
        change = ScheduleChange(
            tenant_id=tenant_id, name=entry.schedule.name, standing=standing, lines=tuple(lines)
        )
        self._floor.journal.schedule(change)

    # -- runs that end

    def before_seal(self) -> None:
        """Hears of the runs that ended, in the transaction of their ends; and of those reopened."""
        for tenant_id, run_id in self._floor.journal.reopened():
            again = self._floor.desks[tenant_id].runs.get(run_id)
            if again is not None:
                self._opened_run(tenant_id, again)
        if not self._watching:
            return
        for run_id, run in list(self._floor.journal.touched()):
            if run.tenant_id not in self._watching or run.state not in RUN_ENDED:
                continue
            timetable = self._held[run.tenant_id]
            if (entry := timetable.ended(run_id)) is not None:
                self._ended(run.tenant_id, entry, run_id, run.state)
                timetable.look_again(entry, self._floor.now_us())
                self.stir(run.tenant_id)
                if not timetable.watches_runs:
                    self._watching.discard(run.tenant_id)

    def _opened_run(self, tenant_id: str, run: LiveRun) -> None:
        timetable = self._held[tenant_id]
        timetable.opened(run.run_id, run.labels)
        if timetable.watches_runs:
            self._watching.add(tenant_id)

    def _ended(self, tenant_id: str, entry: Entry, run_id: str, state: RunState) -> None:
        if state is not RunState.FAILED:
            return
        standing = schedules.failed(entry.standing)
        journal = self._floor.journal
        journal.under(tenant_id, self._floor.desks[tenant_id].term)
        if entry.schedule.pause_on_failure and standing.pause is None:
            now_us = self._floor.now_us()
            standing = replace(standing, pause=Pause(now_us, "", f"run {run_id} failed"))
            act = Act(
                kind="schedule.pause", subject={"schedule": entry.schedule.name, "run": run_id}
            )
            journal.draft(act, {tenant_id: ()}, now_us)
            log.warning("a schedule is paused", tenant=tenant_id, schedule=entry.schedule.name)
        self.write(tenant_id, entry, standing)
