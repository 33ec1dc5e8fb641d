"""What may be done to schedules: make, change, pause, fire. Answers after the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, takewhile

from tenure_server.core import errors
from tenure_server.core.definitions.definition import digest_of
from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records
from tenure_server.core.scheduling import schedules
from tenure_server.core.scheduling.schedules import (
    Author,
    Backfill,
    Cause,
    Fire,
    FireLine,
    Overlap,
    Pause,
    Schedule,
    ScheduleChange,
    Source,
    Standing,
    Start,
    decide,
)
from tenure_server.core.scheduling.timetable import Entry, Timetable
from tenure_server.engine.answers import Answers, commit_answer
from tenure_server.engine.firing import Firing, Stale
from tenure_server.engine.floor import Floor
from tenure_server.engine.schedule_views import Seen, seen_of
from tenure_server.engine.settings import Settings
from tenure_server.engine.workflows import Workflows
from tenure_server.store.schedule_rows import content_of

#: Makes the answer of a mutation, which is kept for its repetition.
Respond = Callable[[Seen], bytes]
#: What is asked for instead of what was, and how it stands with that.
Revise = Callable[[Schedule], Schedule]
Restate = Callable[[Standing], Standing]


class Schedules:
    """The schedules of every tenant whose seat is held here."""

    def __init__(
        self,
        floor: Floor,
        firing: Firing,
        answers: Answers,
        workflows: Workflows,
        settings: Settings,
    ) -> None:
        self._floor = floor
        self._firing = firing
        self._answers = answers
        self._workflows = workflows
        self._settings = settings

    async def create(
        self,
        origin: records.Origin,
        schedule: Schedule,
        standing: Standing,
        request: records.Request | None,
        respond: Respond,
    ) -> bytes:
        """Makes a schedule. Raises AlreadyExists, NotFound, FieldsInvalid, QuotaExceeded, …"""
        tenant_id, name = origin.tenant_id, schedule.name

        async def decide() -> bytes:
            await self._workflows.known(tenant_id, schedule.workflow, schedule.version)
            timetable = self._firing.timetable(tenant_id)
            if name in timetable.entries:
                raise errors.AlreadyExists(f"there is a schedule {name} already", name=name)
            self._check_room(timetable, schedule, None)
            _check_has_time(schedule, standing)
            entry = timetable.put(schedule, standing)
            self._firing.adopt(tenant_id, entry)
            seen = self._note(origin, "schedule.create", entry, changed=True)
            return await self._commit(origin, request, respond(seen))

        return await self._answers.once(origin.tenant_id, request, decide)

    async def update(
        self,
        origin: records.Origin,
        name: str,
        revise: Revise,
        restate: Restate,
        reason: str,
        request: records.Request | None,
        respond: Respond,
    ) -> bytes:
        """Changes what was asked for. Raises NotFound, FieldsInvalid, QuotaExceeded, …"""
        tenant_id = origin.tenant_id

        async def decide() -> bytes:
            while True:
                entry = self._firing.entry(tenant_id, name)
                before = entry.schedule
                schedule = revise(before)
                await self._workflows.known(tenant_id, schedule.workflow, schedule.version)
                # Others may have changed it meanwhile.
                if self._firing.entry(tenant_id, name) is entry and entry.schedule is before:
                    break
            standing = restate(entry.standing)
            if schedule.times != before.times:
                now_us = self._floor.now_us()
                standing = replace(standing, cursor_us=max(standing.cursor_us, now_us))
                _check_has_time(schedule, standing)
            timetable = self._firing.timetable(tenant_id)
            self._check_room(timetable, schedule, entry)
            timetable.put(schedule, standing)
            seen = self._note(origin, "schedule.update", entry, changed=True, reason=reason)
            return await self._commit(origin, request, respond(seen))

        return await self._answers.once(origin.tenant_id, request, decide)

    async def delete(
        self,
        origin: records.Origin,
        name: str,
        reason: str,
        request: records.Request | None,
        answer: bytes,
    ) -> bytes:
        """Deletes a schedule with its history. Raises NotFound, …"""

        async def decide() -> bytes:
            entry = self._firing.entry(origin.tenant_id, name)
            self._firing.timetable(origin.tenant_id).remove(name)
            self._note(origin, "schedule.delete", entry, gone=True, reason=reason)
            return await self._commit(origin, request, answer)

        return await self._answers.once(origin.tenant_id, request, decide)

    async def pause(
        self,
        origin: records.Origin,
        name: str,
        reason: str,
        request: records.Request | None,
        respond: Respond,
    ) -> bytes:
        """Pauses a schedule; twice is the same as once. Raises NotFound, …"""

        async def decide() -> bytes:
            entry = self._firing.entry(origin.tenant_id, name)
            if entry.standing.pause is None:
                pause = Pause(self._floor.now_us(), origin.api_key_id, reason)
                entry.standing = replace(entry.standing, pause=pause)
            seen = self._note(origin, "schedule.pause", entry, reason=reason)
            return await self._commit(origin, request, respond(seen))

        return await self._answers.once(origin.tenant_id, request, decide)

    async def resume(
        self,
        origin: records.Origin,
        name: str,
        reason: str,
        request: records.Request | None,
        respond: Respond,
    ) -> bytes:
        """Lets a schedule go on; twice is the same as once. Raises NotFound, …"""

        async def decide() -> bytes:
            entry = self._firing.entry(origin.tenant_id, name)
            if entry.standing.pause is not None:
                entry.standing = schedules.resumed(entry.standing, self._floor.now_us())
            seen = self._note(origin, "schedule.resume", entry, reason=reason)
            return await self._commit(origin, request, respond(seen))

        return await self._answers.once(origin.tenant_id, request, decide)

    async def backfill(
        self,
        origin: records.Origin,
        name: str,
        start_us: int,
        end_us: int,
        overlap: Overlap,
        reason: str,
        request: records.Request | None,
        respond: Callable[[Seen, int], bytes],
    ) -> bytes:
        """Fires the times of a past period, in order. Raises NotFound, FieldsInvalid, …"""

        async def decide() -> bytes:
            if end_us > self._floor.now_us():
                raise errors.FieldsInvalid([("end_time", "must not lie in the future")])
            times = self._firing.entry(origin.tenant_id, name).schedule.times
            count = await asyncio.to_thread(_count, times.from_on(start_us - 1), end_us)
            entry = self._firing.entry(origin.tenant_id, name)
            if entry.schedule.times is not times:
                raise errors.StoreUnavailable("the schedule was changed; nothing was done")
            under_way = entry.standing.backfills
            if len(under_way) >= schedules.BACKFILLS_MAX:
                limit = schedules.BACKFILLS_MAX
                message = f"{limit} backfills of schedule {name} are under way"
                raise errors.QuotaExceeded("backfills", limit, message)
            author = _author(origin, origin.acting("schedule.backfill"))
            more = Backfill(start_us - 1, end_us, overlap, author)
            entry.standing = replace(entry.standing, backfills=(*under_way, more))
            seen = self._note(origin, "schedule.backfill", entry, reason=reason, count=str(count))
            return await self._commit(origin, request, respond(seen, count))

        return await self._answers.once(origin.tenant_id, request, decide)

    async def trigger(
        self,
        origin: records.Origin,
        name: str,
        overlap: Overlap | None,
        reason: str,
        request: records.Request | None,
        respond: Callable[[FireLine], bytes],
    ) -> bytes:
        """Fires now, also while the schedule is paused.

        Raises NotFound, QuotaExceeded, ActDenied, DefinitionChanged, …
        """
        tenant_id = origin.tenant_id

        async def decide() -> bytes:
            act = origin.acting("schedule.trigger")
            if reason:
                act.subject["reason"] = reason
            while True:
                entry = self._firing.entry(tenant_id, name)
                try:
                    line = await self._fire(origin, entry, overlap, act)
                    break
                except Stale:
                    continue
            self._firing.timetable(tenant_id).look_again(entry, self._floor.now_us())
            return await self._commit(origin, request, respond(line))

        return await self._answers.once(origin.tenant_id, request, decide)

    async def _fire(
        self, origin: records.Origin, entry: Entry, overlap: Overlap | None, act: Act
    ) -> FireLine:
        tenant_id = origin.tenant_id
        fire = Fire(self._floor.now_us(), Cause.TRIGGER, _author(origin, act))

        def decided() -> schedules.Decision:
            policy = overlap or entry.schedule.overlap
            return decide(policy, len(entry.running), entry.standing.waiting, fire, Source.CALL)

        step, schedule = decided(), entry.schedule
        if not isinstance(step, Start):
            return self._firing.settle(tenant_id, entry, step, act)

        def holds() -> bool:
            return entry.schedule is schedule and decided() == step and self._is(tenant_id, entry)

        return await self._firing.launch(origin, entry, step, act, holds)

    # -- parts

    def _is(self, tenant_id: str, entry: Entry) -> bool:
        return self._firing.timetable(tenant_id).entries.get(entry.schedule.name) is entry

    def _check_room(self, timetable: Timetable, schedule: Schedule, before: Entry | None) -> None:
        limit = self._settings.schedules_max
        if before is None and len(timetable.entries) >= limit:
            message = f"the tenant has {limit} schedules or more"
            raise errors.QuotaExceeded("schedules", limit, message)
        new = 0 if schedule.input is None else len(schedule.input.data)
        old = 0 if before is None else before.input_bytes
        limit = self._settings.schedule_bytes_max
        if new > old and timetable.input_bytes - old + new > limit:
            message = f"the inputs of the tenant's schedules would have more than {limit} bytes"
            raise errors.QuotaExceeded("schedule_bytes", limit, message)

    def _note(
        self,
        origin: records.Origin,
        kind: str,
        entry: Entry,
        *,
        changed: bool = False,
        gone: bool = False,
        **subject: str,
    ) -> Seen:
        """Writes down what was done to a schedule, and looks when it fires next."""
        tenant_id, schedule = origin.tenant_id, entry.schedule
        act = origin.acting(kind)
        act.subject = {"schedule": schedule.name, "workflow": schedule.workflow}
        act.subject |= {word: text for word, text in subject.items() if text}
        if changed:
            act.subject["digest"] = digest_of(content_of(schedule))
        change = ScheduleChange(
            tenant_id=tenant_id,
            name=schedule.name,
            schedule=schedule if changed else None,
            standing=None if gone else entry.standing,
        )
        self._floor.journal.schedule(change)
        self._floor.close_act(act, self._floor.mark(), [tenant_id])
        if not gone:
            self._firing.timetable(tenant_id).look_again(entry, self._floor.now_us())
        return seen_of(tenant_id, entry)

    async def _commit(
        self, origin: records.Origin, request: records.Request | None, response: bytes
    ) -> bytes:
        """Gives the answer once everything is committed, and keeps it for a repetition."""
        self._firing.stir(origin.tenant_id)
        desk = self._floor.desks[origin.tenant_id]
        return await commit_answer(self._floor, self._answers, desk, request, response)


def _author(origin: records.Origin, act: Act) -> Author:
    return Author(origin.api_key_id, act.roles)


def _check_has_time(schedule: Schedule, standing: Standing) -> None:
    if schedule.times.after(standing.cursor_us) is None:
        raise errors.FieldsInvalid([("spec.times", "has no time in the future")])


def _count(times: Iterator[int], end_us: int) -> int:
    """How many times a backfill fires. Raises FieldsInvalid."""
    most = schedules.BACKFILL_TIMES_MAX
    count = sum(1 for _ in takewhile(lambda one: one < end_us, islice(times, most + 1)))
    if not count:
        raise errors.FieldsInvalid([("end_time", "no time of the schedule lies in between")])
    if count > most:
        reason = f"more than {most} times of the schedule lie in between"
        raise errors.FieldsInvalid([("end_time", reason)])
    return count
