"""The service Schedules over gRPC: fields, masks, pages, refusals. Roles are the matrix's."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused

from tenure.v1 import constitution_pb2, payload_pb2, schedules_pb2, workflows_pb2

HOURLY = schedules_pb2.FireTimes(crons=[schedules_pb2.CronTimes(expression="@hourly")])
RULES = """
articles:
  - id: by-hand
    law: provenance
    perspective: security_boundary
    point: start
    effect: deny
    expression: "!('tenure.schedule' in run.labels)"
    message: runs are started by hand here
"""


def schedule(name: str = "hourly", **fields: Any) -> schedules_pb2.CreateScheduleRequest:
    """A schedule to make, in few words."""
    start = fields.pop("start", schedules_pb2.ScheduledStart(workflow="known"))
    spec = schedules_pb2.ScheduleSpec(**{"times": HOURLY, "start": start, **fields})
    return schedules_pb2.CreateScheduleRequest(name=name, spec=spec)


async def create(live: LiveCoordinator, *made: schedules_pb2.CreateScheduleRequest) -> None:
    """Registers a workflow, and makes schedules of it."""
    calls = live.calls("submitter")
    task = workflows_pb2.WorkflowTask(key="a", kind="k")
    definition = workflows_pb2.WorkflowDefinition(name="known", tasks=[task])
    await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    for one in made:
        await calls.schedules.CreateSchedule(one)


async def update(
    live: LiveCoordinator, *paths: str, **fields: Any
) -> schedules_pb2.UpdateScheduleResponse:
    """Changes a schedule."""
    answer: schedules_pb2.UpdateScheduleResponse = await live.calls(
        "submitter"
    ).schedules.UpdateSchedule(
        schedules_pb2.UpdateScheduleRequest(
            name="hourly",
            spec=schedules_pb2.ScheduleSpec(**fields),
            update_mask=FieldMask(paths=paths),
        )
    )
    return answer


async def get(live: LiveCoordinator, name: str = "hourly") -> schedules_pb2.Schedule:
    """Shows a schedule."""
    request = schedules_pb2.GetScheduleRequest(name=name)
    found: schedules_pb2.GetScheduleResponse = await live.calls("viewer").schedules.GetSchedule(
        request
    )
    return found.schedule


async def test_a_schedule_is_shown_with_its_defaults(on_either: LiveCoordinator) -> None:
    await create(on_either, schedule())
    found = await get(on_either)
    assert found.tenant_id == "alpha"
    assert found.spec.overlap == schedules_pb2.OVERLAP_POLICY_SKIP
    assert found.spec.catchup_window == Duration(seconds=3600)
    assert found.state == schedules_pb2.SCHEDULE_STATE_ACTIVE
    assert found.spec.times.crons[0].time_zone == "UTC"
    assert found.acts_for == found.created_by != ""
    assert found.HasField("next_fire_time")
    assert not found.spec.HasField("remaining_runs")


async def test_a_mask_changes_what_it_names_and_nothing_else(coordinator: LiveCoordinator) -> None:
    start = schedules_pb2.ScheduledStart(
        workflow="known", input=payload_pb2.Payload(data=b"[1]"), labels={"a": "b"}, priority=3
    )
    await create(coordinator, schedule(start=start, remaining_runs=5, notes="n"))
    wanted = schedules_pb2.ScheduledStart(input=payload_pb2.Payload(data=b"[2]"))
    await update(coordinator, "start.input", "notes", start=wanted, notes="m")
    found = await get(coordinator)
    assert (found.spec.start.input.data, found.spec.start.priority, found.spec.notes) == (
        b"[2]",
        3,
        "m",
    )
    assert dict(found.spec.start.labels) == {"a": "b"}
    assert found.spec.remaining_runs == 5
    await update(coordinator, "start.labels", "remaining_runs", "catchup_window")
    found = await get(coordinator)
    assert not found.spec.start.labels
    assert not found.spec.HasField("remaining_runs")
    await update(coordinator, "times.jitter", times={"jitter": Duration(seconds=60)})
    found = await get(coordinator)
    assert found.spec.times.jitter == Duration(seconds=60)
    assert [one.expression for one in found.spec.times.crons] == ["@hourly"]


@pytest.mark.parametrize(
    ("paths", "fields", "field"),
    [
        ((), {}, "update_mask"),
        (("name",), {}, "update_mask"),
        (("state",), {}, "update_mask"),
        (("start.input.data",), {}, "update_mask"),
        (("times",), {}, "spec.times"),
        (("start",), {}, "spec.start.workflow"),
        (("remaining_runs",), {"remaining_runs": 0}, "spec.remaining_runs"),
        (
            ("times.crons",),
            {"times": {"crons": [schedules_pb2.CronTimes(expression="x")]}},
            "spec.times.crons[0].expression",
        ),
        (
            ("times",),
            {"times": {"fire_time": [Timestamp(seconds=1)]}},
            "spec.times",
        ),
        (
            ("start.labels",),
            {"start": {"labels": {"tenure.schedule": "x"}}},
            "spec.start.labels['tenure.schedule']",
        ),
    ],
)
async def test_what_cannot_be_is_named_and_changes_nothing(
    coordinator: LiveCoordinator,
    refused: Refused,
    paths: tuple[str, ...],
    fields: dict[str, Any],
    field: str,
) -> None:
    await create(coordinator, schedule())
    before = await get(coordinator)
    refusal = await refused(update(coordinator, *paths, **fields))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.fields) == [field]
    assert await get(coordinator) == before


async def test_lists_come_in_pages(coordinator: LiveCoordinator) -> None:
    await create(coordinator, *(schedule(f"s-{number}") for number in range(5)))
    calls = coordinator.calls("viewer")
    request = schedules_pb2.ListSchedulesRequest(page_size=2)
    names = []
    while True:
        page = await calls.schedules.ListSchedules(request)
        names += [one.name for one in page.schedules]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == [f"s-{number}" for number in range(5)]
    other = schedules_pb2.ListSchedulesRequest(workflow="another")
    assert not (await calls.schedules.ListSchedules(other)).schedules
    coming = schedules_pb2.ListUpcomingFiresRequest(name="s-0", page_size=3)
    first = await calls.schedules.ListUpcomingFires(coming)
    coming.page_token = first.next_page_token
    second = await calls.schedules.ListUpcomingFires(coming)
    times = [one.nominal_time.seconds for one in (*first.fires, *second.fires)]
    assert [after - before for before, after in pairwise(times)] == [3600] * 5
    for _ in range(3):
        fire = schedules_pb2.TriggerScheduleRequest(
            name="s-0", overlap=schedules_pb2.OVERLAP_POLICY_ALLOW_ALL
        )
        await coordinator.calls("submitter").schedules.TriggerSchedule(fire)
    history = schedules_pb2.ListScheduleFiresRequest(name="s-0", page_size=2)
    first = await calls.schedules.ListScheduleFires(history)
    history.page_token = first.next_page_token
    second = await calls.schedules.ListScheduleFires(history)
    assert [one.number for one in (*first.fires, *second.fires)] == [3, 2, 1]


async def test_a_trigger_that_is_denied_is_refused_as_a_start_is(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    await create(coordinator, schedule())
    await coordinator.calls("admin").constitution.SetConstitution(
        constitution_pb2.SetConstitutionRequest(text=RULES)
    )
    calls = coordinator.calls("submitter")
    trigger = schedules_pb2.TriggerScheduleRequest(name="hourly")
    refusal = await refused(calls.schedules.TriggerSchedule(trigger))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ACT_DENIED")
    [(law, subject, _)] = refusal.preconditions
    assert (law, subject) == ("provenance", "article by-hand (security_boundary)")
    assert (await get(coordinator)).tally.refused == 0


async def test_a_name_that_is_taken_and_one_that_is_not_there(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    await create(coordinator, schedule())
    calls = coordinator.calls("submitter")
    assert (await refused(calls.schedules.CreateSchedule(schedule()))).reason == "ALREADY_EXISTS"
    request = schedules_pb2.GetScheduleRequest(name="none")
    assert (await refused(calls.schedules.GetSchedule(request))).message == "no such schedule: none"
    # Another tenant's has the same words.
    request.name = "hourly"
    refusal = await refused(coordinator.calls("beta/viewer").schedules.GetSchedule(request))
    assert refusal.message == "no such schedule: hourly"
