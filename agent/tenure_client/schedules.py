"""Schedules through the wire, as methods of `Client.schedules`.

    async with Client("127.0.0.1:7233", key, tenant="dev") as client:
        nightly = schedule_file.read(Path("nightly.yaml"))
        await client.schedules.create(nightly.name, nightly.spec)
        await client.schedules.trigger("nightly")

All methods raise TenureError as those of the client do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from datetime import datetime

from google.protobuf import field_mask_pb2

from tenure.v1 import schedules_pb2
from tenure_client.connection import Connection
from tenure_client.requests import PAGE_SIZE, new_request_id, timestamp

Overlap = schedules_pb2.OverlapPolicy


class Schedules:
    """What a client can do with its tenant's schedules."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(
        self, name: str, spec: schedules_pb2.ScheduleSpec, *, pause_reason: str = ""
    ) -> schedules_pb2.Schedule:
        """Makes a schedule; with a reason, it begins paused."""
        request = schedules_pb2.CreateScheduleRequest(
            name=name, spec=spec, pause_reason=pause_reason, request_id=new_request_id()
        )
        answer = await self._connection.call(lambda to: to.schedules.CreateSchedule, request)
        return answer.schedule

    async def get(self, name: str) -> schedules_pb2.Schedule:
        """Shows a schedule with its input."""
        request = schedules_pb2.GetScheduleRequest(name=name)
        return (await self._connection.call(lambda to: to.schedules.GetSchedule, request)).schedule

    async def list(self, *, workflow: str = "") -> AsyncGenerator[schedules_pb2.Schedule, None]:
        """Gives schedules by name, without their inputs; only those of a workflow, if named."""
        request = schedules_pb2.ListSchedulesRequest(workflow=workflow, page_size=PAGE_SIZE)
        async for page in self._connection.pages(lambda to: to.schedules.ListSchedules, request):
            for schedule in page.schedules:
                yield schedule

    async def update(
        self,
        name: str,
        spec: schedules_pb2.ScheduleSpec,
        paths: Iterable[str],
        *,
        reason: str = "",
    ) -> schedules_pb2.Schedule:
        """Changes the fields that `paths` names, such as ``start.input``, and leaves the rest."""
        request = schedules_pb2.UpdateScheduleRequest(
            name=name,
            spec=spec,
            update_mask=field_mask_pb2.FieldMask(paths=list(paths)),
            reason=reason,
            request_id=new_request_id(),
        )
        answer = await self._connection.call(lambda to: to.schedules.UpdateSchedule, request)
        return answer.schedule

    async def delete(self, name: str, *, reason: str = "") -> None:
        """Deletes a schedule with its history; its runs go on."""
        request = schedules_pb2.DeleteScheduleRequest(
            name=name, reason=reason, request_id=new_request_id()
        )
        await self._connection.call(lambda to: to.schedules.DeleteSchedule, request)

    async def pause(self, name: str, *, reason: str = "") -> schedules_pb2.Schedule:
        """Lets no time of a schedule fire until `resume`."""
        request = schedules_pb2.PauseScheduleRequest(
            name=name, reason=reason, request_id=new_request_id()
        )
        answer = await self._connection.call(lambda to: to.schedules.PauseSchedule, request)
        return answer.schedule

    async def resume(self, name: str, *, reason: str = "") -> schedules_pb2.Schedule:
        """Lets a schedule go on from now."""
        request = schedules_pb2.ResumeScheduleRequest(
            name=name, reason=reason, request_id=new_request_id()
        )
        answer = await self._connection.call(lambda to: to.schedules.ResumeSchedule, request)
        return answer.schedule

    async def trigger(
        self,
        name: str,
        *,
        overlap: Overlap.ValueType = schedules_pb2.OVERLAP_POLICY_UNSPECIFIED,
        reason: str = "",
    ) -> schedules_pb2.ScheduleFire:
        """Fires a schedule now, and tells what became of it."""
        request = schedules_pb2.TriggerScheduleRequest(
            name=name, overlap=overlap, reason=reason, request_id=new_request_id()
        )
        return (await self._connection.call(lambda to: to.schedules.TriggerSchedule, request)).fire

    async def backfill(
        self,
        name: str,
        start: datetime,
        end: datetime,
        *,
        overlap: Overlap.ValueType = schedules_pb2.OVERLAP_POLICY_UNSPECIFIED,
        reason: str = "",
    ) -> schedules_pb2.BackfillScheduleResponse:
        """Fires the times of a past period, from `start` on and before `end`."""
        request = schedules_pb2.BackfillScheduleRequest(
            name=name,
            start_time=timestamp(start),
            end_time=timestamp(end),
            overlap=overlap,
            reason=reason,
            request_id=new_request_id(),
        )
        return await self._connection.call(lambda to: to.schedules.BackfillSchedule, request)

    async def fires(
        self, name: str, *, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[schedules_pb2.ScheduleFire, None]:
        """Gives what became of the fires of a schedule, the newest first."""
        request = schedules_pb2.ListScheduleFiresRequest(name=name, page_size=page_size)
        async for page in self._connection.pages(
            lambda to: to.schedules.ListScheduleFires, request
        ):
            for fire in page.fires:
                yield fire

    async def upcoming(
        self, name: str, *, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[schedules_pb2.UpcomingFire, None]:
        """Gives when a schedule will fire, in order; most never end."""
        request = schedules_pb2.ListUpcomingFiresRequest(name=name, page_size=page_size)
        async for page in self._connection.pages(
            lambda to: to.schedules.ListUpcomingFires, request
        ):
            for fire in page.fires:
                yield fire
