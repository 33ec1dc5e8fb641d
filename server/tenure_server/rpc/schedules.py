"""The service Schedules: when runs are started by themselves, and what became of it."""

from __future__ import annotations

from dataclasses import replace

from tenure.v1 import schedules_pb2, schedules_pb2_grpc
from tenure_server.core.ledger import records
from tenure_server.core.scheduling.schedules import (
    Author,
    FireLine,
    Overlap,
    Pause,
    Schedule,
    Standing,
)
from tenure_server.engine.engine import Engine
from tenure_server.engine.schedule_views import Seen
from tenure_server.rpc import access, convert, pages, sizes
from tenure_server.rpc import schedule_messages as messages
from tenure_server.rpc.doorway import Context
from tenure_server.rpc.requests import repeatable


class Schedules(schedules_pb2_grpc.SchedulesServicer):
    """Converts, asks, converts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._schedules = engine.schedules
        self._views = engine.schedule_views

    async def CreateSchedule(
        self, request: schedules_pb2.CreateScheduleRequest, context: Context
    ) -> schedules_pb2.CreateScheduleResponse:
        """Makes a schedule."""
        caller, now_us = access.caller(), self._engine.now_us()

        def work() -> tuple[Schedule, records.Request | None]:
            asked = repeatable(request, caller.rule.method)
            author = _author(caller)
            return messages.schedule(request.name, request.spec, author, now_us), asked

        schedule, asked = await sizes.beside_the_loop(sizes.is_large(request), work)
        pause = None
        if request.pause_reason:
            pause = Pause(now_us, caller.key.api_key_id, request.pause_reason)
        standing = Standing(
            cursor_us=now_us, pause=pause, remaining=messages.remaining(request.spec)
        )

        def respond(seen: Seen) -> bytes:
            message = messages.schedule_message(seen)
            return schedules_pb2.CreateScheduleResponse(schedule=message).SerializeToString()

        answer = await self._schedules.create(caller.origin, schedule, standing, asked, respond)
        return schedules_pb2.CreateScheduleResponse.FromString(answer)

    async def GetSchedule(
        self, request: schedules_pb2.GetScheduleRequest, context: Context
    ) -> schedules_pb2.GetScheduleResponse:
        """Shows a schedule with its input."""
        seen = await self._views.get(access.caller().tenant_id, request.name)
        message = messages.schedule_message(seen, with_input=True)
        return schedules_pb2.GetScheduleResponse(schedule=message)

    async def ListSchedules(
        self, request: schedules_pb2.ListSchedulesRequest, context: Context
    ) -> schedules_pb2.ListSchedulesResponse:
        """Lists schedules by name."""
        caller = access.caller()
        limit = pages.limit(request)
        (after,) = pages.read(caller, request) or ("",)
        found = await self._views.page(caller.tenant_id, request.workflow, after, limit + 1)
        response = schedules_pb2.ListSchedulesResponse(
            schedules=[messages.schedule_message(seen) for seen in found[:limit]]
        )
        if len(found) > limit:
            last = found[limit - 1].schedule.name
            response.next_page_token = pages.issue(caller, request, [last])
        return response

    async def UpdateSchedule(
        self, request: schedules_pb2.UpdateScheduleRequest, context: Context
    ) -> schedules_pb2.UpdateScheduleResponse:
        """Changes what the mask names."""
        caller, now_us = access.caller(), self._engine.now_us()
        mask, wanted = request.update_mask, request.spec
        messages.check_mask(mask)
        remaining = messages.remaining(wanted) if "remaining_runs" in mask.paths else None

        def revise(before: Schedule) -> Schedule:
            message = messages.merged(before, wanted, mask)
            return messages.schedule(before.name, message, _author(caller), now_us, before)

        def restate(standing: Standing) -> Standing:
            if "remaining_runs" not in mask.paths:
                return standing
            return replace(standing, remaining=remaining)

        def respond(seen: Seen) -> bytes:
            message = messages.schedule_message(seen)
            return schedules_pb2.UpdateScheduleResponse(schedule=message).SerializeToString()

        answer = await self._schedules.update(
            caller.origin,
            request.name,
            revise,
            restate,
            request.reason,
            repeatable(request, caller.rule.method),
            respond,
        )
        return schedules_pb2.UpdateScheduleResponse.FromString(answer)

    async def DeleteSchedule(
        self, request: schedules_pb2.DeleteScheduleRequest, context: Context
    ) -> schedules_pb2.DeleteScheduleResponse:
        """Deletes a schedule with its history."""
        caller = access.caller()
        asked = repeatable(request, caller.rule.method)
        await self._schedules.delete(caller.origin, request.name, request.reason, asked, b"")
        return schedules_pb2.DeleteScheduleResponse()

    async def PauseSchedule(
        self, request: schedules_pb2.PauseScheduleRequest, context: Context
    ) -> schedules_pb2.PauseScheduleResponse:
        """Pauses a schedule."""
        caller = access.caller()

        def respond(seen: Seen) -> bytes:
            message = messages.schedule_message(seen)
            return schedules_pb2.PauseScheduleResponse(schedule=message).SerializeToString()

        asked = repeatable(request, caller.rule.method)
        answer = await self._schedules.pause(
            caller.origin, request.name, request.reason, asked, respond
        )
        return schedules_pb2.PauseScheduleResponse.FromString(answer)

    async def ResumeSchedule(
        self, request: schedules_pb2.ResumeScheduleRequest, context: Context
    ) -> schedules_pb2.ResumeScheduleResponse:
        """Lets a schedule go on."""
        caller = access.caller()

        def respond(seen: Seen) -> bytes:
            message = messages.schedule_message(seen)
            return schedules_pb2.ResumeScheduleResponse(schedule=message).SerializeToString()

        asked = repeatable(request, caller.rule.method)
        answer = await self._schedules.resume(
            caller.origin, request.name, request.reason, asked, respond
        )
        return schedules_pb2.ResumeScheduleResponse.FromString(answer)

    async def TriggerSchedule(
        self, request: schedules_pb2.TriggerScheduleRequest, context: Context
    ) -> schedules_pb2.TriggerScheduleResponse:
        """Fires now."""
        caller = access.caller()

        def respond(line: FireLine) -> bytes:
            message = messages.fire_message(line)
            return schedules_pb2.TriggerScheduleResponse(fire=message).SerializeToString()

        answer = await self._schedules.trigger(
            caller.origin,
            request.name,
            messages.overlap(request.overlap),
            request.reason,
            repeatable(request, caller.rule.method),
            respond,
        )
        return schedules_pb2.TriggerScheduleResponse.FromString(answer)

    async def BackfillSchedule(
        self, request: schedules_pb2.BackfillScheduleRequest, context: Context
    ) -> schedules_pb2.BackfillScheduleResponse:
        """Fires the times of a past period."""
        caller = access.caller()

        def respond(seen: Seen, count: int) -> bytes:
            return schedules_pb2.BackfillScheduleResponse(
                count=count, schedule=messages.schedule_message(seen)
            ).SerializeToString()

        answer = await self._schedules.backfill(
            caller.origin,
            request.name,
            convert.timestamp_us(request.start_time, "start_time"),
            convert.timestamp_us(request.end_time, "end_time"),
            messages.overlap(request.overlap) or Overlap.BUFFER_ALL,
            request.reason,
            repeatable(request, caller.rule.method),
            respond,
        )
        return schedules_pb2.BackfillScheduleResponse.FromString(answer)

    async def ListScheduleFires(
        self, request: schedules_pb2.ListScheduleFiresRequest, context: Context
    ) -> schedules_pb2.ListScheduleFiresResponse:
        """Lists what became of the fires, the newest first."""
        caller = access.caller()
        limit = pages.limit(request)
        (before,) = pages.read(caller, request) or (None,)
        found = await self._views.lines(caller.tenant_id, request.name, before, limit + 1)
        response = schedules_pb2.ListScheduleFiresResponse(
            fires=[messages.fire_message(line) for line in found[:limit]]
        )
        if len(found) > limit:
            last = found[limit - 1].number
            response.next_page_token = pages.issue(caller, request, [last])
        return response

    async def ListUpcomingFires(
        self, request: schedules_pb2.ListUpcomingFiresRequest, context: Context
    ) -> schedules_pb2.ListUpcomingFiresResponse:
        """Lists when the schedule will fire."""
        caller = access.caller()
        limit = pages.limit(request)
        (after_us,) = pages.read(caller, request) or (None,)
        found = await self._views.upcoming(caller.tenant_id, request.name, after_us, limit + 1)
        response = schedules_pb2.ListUpcomingFiresResponse()
        for nominal_us, due_us in found[:limit]:
            response.fires.add(
                nominal_time=convert.timestamp(nominal_us), due_time=convert.timestamp(due_us)
            )
        if len(found) > limit:
            last = found[limit - 1][0]
            response.next_page_token = pages.issue(caller, request, [last])
        return response


def _author(caller: access.Caller) -> Author:
    return Author(caller.key.api_key_id, caller.act.roles)
