"""Schedules: contract to core and back.

What a schedule asks for is judged here as far as the gates cannot: all violations at once, each
with the path of its field.
"""

from __future__ import annotations

from typing import cast

from google.protobuf.field_mask_pb2 import FieldMask

from tenure.v1 import schedules_pb2
from tenure_server.core import errors
from tenure_server.core.scheduling import schedules
from tenure_server.core.scheduling.fire_times import FireTimes, Interval
from tenure_server.core.scheduling.schedules import Author, FireLine, Overlap, Schedule
from tenure_server.core.scheduling.wall_clock import Cron
from tenure_server.engine.schedule_views import Seen
from tenure_server.rpc import convert

#: What a mask may name.
UPDATABLE = frozenset(schedules_pb2.ScheduleSpec.DESCRIPTOR.fields_by_name) | {
    f"{part}.{field.name}"
    for part, message in (
        ("times", schedules_pb2.FireTimes),
        ("start", schedules_pb2.ScheduledStart),
    )
    for field in message.DESCRIPTOR.fields
}

Spec = schedules_pb2.ScheduleSpec


def schedule(
    name: str, message: Spec, author: Author, now_us: int, before: Schedule | None = None
) -> Schedule:
    """What a message asks for, new or instead of what was. Raises FieldsInvalid."""
    start, times = message.start, _times(message.times)
    violations = [
        (f"spec.times.{path}" if path else "spec.times", reason)
        for path, reason in times.violations()
    ]
    if not start.workflow:
        violations.append(("spec.start.workflow", "is required"))
    violations += [
        (f"spec.start.labels[{word!r}]", f"must not begin with {schedules.RESERVED_LABELS!r}")
        for word in start.labels
        if word.startswith(schedules.RESERVED_LABELS)
    ]
    if violations:
        raise errors.FieldsInvalid(violations)
    catchup_us = schedules.CATCHUP_US
    if message.HasField("catchup_window"):
        catchup_us = convert.duration_us(message.catchup_window, "spec.catchup_window")
    payload = None
    if start.HasField("input"):
        payload = convert.checked_payload(start.input, "spec.start.input")
    return Schedule(
        name=name,
        workflow=start.workflow,
        version=start.workflow_version,
        input=payload,
        labels=dict(start.labels),
        priority=start.priority,
        times=times,
        overlap=overlap(message.overlap) or Overlap.SKIP,
        catchup_us=catchup_us,
        pause_on_failure=message.pause_on_failure,
        notes=message.notes,
        author=author,
        create_us=now_us if before is None else before.create_us,
        created_by=author.api_key_id if before is None else before.created_by,
        update_us=now_us,
    )


def remaining(message: Spec) -> int | None:
    """How many runs may still be started. Raises FieldsInvalid for none."""
    if not message.HasField("remaining_runs"):
        return None
    if not message.remaining_runs:
        raise errors.FieldsInvalid([("spec.remaining_runs", "must be at least 1")])
    return message.remaining_runs


def overlap(number: schedules_pb2.OverlapPolicy.ValueType) -> Overlap | None:
    """A policy of a request, None where it was left open."""
    return Overlap(number) if number else None


def check_mask(mask: FieldMask) -> None:
    """Raises FieldsInvalid for a mask that names nothing, or what cannot be changed."""
    violations = [
        ("update_mask", f"{path!r} is not a field that can be changed")
        for path in mask.paths
        if path not in UPDATABLE
    ]
    if not mask.paths:
        violations.append(("update_mask", "names no field"))
    if violations:
        raise errors.FieldsInvalid(violations)


def merged(before: Schedule, wanted: Spec, mask: FieldMask) -> Spec:
    """What is asked for after a change: what was, but for what a mask names."""
    message = Spec()
    _fill(message, before, with_input=True)
    source = Spec()
    source.CopyFrom(wanted)
    for path in mask.paths:
        part, _, inner = path.partition(".")
        if inner:
            # Without the part, what is named inside would be left as it is, not cleared.
            getattr(source, part).SetInParent()
    mask.MergeMessage(source, message, replace_message_field=True, replace_repeated_field=True)
    return message


def schedule_message(seen: Seen, *, with_input: bool = False) -> schedules_pb2.Schedule:
    """A schedule with where it stands."""
    value, standing = seen.schedule, seen.standing
    message = schedules_pb2.Schedule(
        name=value.name,
        tenant_id=seen.tenant_id,
        state=_state(seen),
        create_time=convert.timestamp(value.create_us),
        update_time=convert.timestamp(value.update_us),
        created_by=value.created_by,
        acts_for=value.author.api_key_id,
        tally=schedules_pb2.ScheduleTally(
            started=standing.tally.started,
            skipped=standing.tally.skipped,
            missed=standing.tally.missed,
            refused=standing.tally.refused,
            failed_runs=standing.tally.failed_runs,
        ),
        open_run_ids=seen.running,
    )
    _fill(message.spec, value, with_input=with_input)
    if standing.remaining is not None:
        message.spec.remaining_runs = standing.remaining
    if standing.pause is not None:
        message.pause.time.CopyFrom(convert.timestamp(standing.pause.at_us))
        message.pause.paused_by = standing.pause.by
        message.pause.reason = standing.pause.reason
    elif seen.next_due_us is not None:
        message.next_fire_time.CopyFrom(convert.timestamp(seen.next_due_us))
    for fire in standing.waiting:
        message.waiting.add(
            nominal_time=convert.timestamp(fire.nominal_us), cause=_cause(fire.cause)
        )
    for backfill in standing.backfills:
        message.backfills.add(
            next_time=convert.timestamp(backfill.cursor_us + 1),
            end_time=convert.timestamp(backfill.end_us),
            overlap=_overlap(backfill.overlap),
            asked_by=backfill.author.api_key_id,
        )
    return message


def fire_message(line: FireLine) -> schedules_pb2.ScheduleFire:
    """A line of a schedule's history."""
    return schedules_pb2.ScheduleFire(
        number=line.number,
        nominal_time=convert.timestamp(line.nominal_us),
        time=convert.timestamp(line.at_us),
        cause=_cause(line.cause),
        outcome=cast("schedules_pb2.FireOutcome.ValueType", int(line.outcome)),
        count=line.times,
        run_id=line.run_id or "",
        code=line.code,
        message=line.message,
    )


def _fill(message: Spec, value: Schedule, *, with_input: bool) -> None:
    """Writes what people set."""
    _fill_times(message.times, value.times)
    start = message.start
    start.workflow, start.workflow_version = value.workflow, value.version
    start.priority = value.priority
    start.labels.update(value.labels)
    if with_input and value.input is not None:
        convert.fill_payload(start.input, value.input)
    message.overlap = _overlap(value.overlap)
    message.catchup_window.CopyFrom(convert.duration(value.catchup_us))
    message.pause_on_failure = value.pause_on_failure
    message.notes = value.notes


def _times(message: schedules_pb2.FireTimes) -> FireTimes:
    path = "spec.times"
    times = {
        convert.timestamp_us(one, f"{path}.fire_time[{index}]")
        for index, one in enumerate(message.fire_time)
    }
    start_us = end_us = None
    if message.HasField("start_time"):
        start_us = convert.timestamp_us(message.start_time, f"{path}.start_time")
    if message.HasField("end_time"):
        end_us = convert.timestamp_us(message.end_time, f"{path}.end_time")
    return FireTimes(
        crons=tuple(Cron(one.expression, one.time_zone or "UTC") for one in message.crons),
        intervals=tuple(
            Interval(
                convert.duration_us(one.every, f"{path}.intervals[{index}].every"),
                convert.timestamp_us(one.anchor_time, f"{path}.intervals[{index}].anchor_time"),
            )
            for index, one in enumerate(message.intervals)
        ),
        times_us=tuple(sorted(times)),
        start_us=start_us,
        end_us=end_us,
        jitter_us=convert.duration_us(message.jitter, f"{path}.jitter"),
    )


def _fill_times(message: schedules_pb2.FireTimes, value: FireTimes) -> None:
    for cron in value.crons:
        message.crons.add(expression=cron.expression, time_zone=cron.zone)
    for interval in value.intervals:
        part = message.intervals.add(every=convert.duration(interval.every_us))
        if interval.anchor_us:
            part.anchor_time.CopyFrom(convert.timestamp(interval.anchor_us))
    message.fire_time.extend(convert.timestamp(one) for one in value.times_us)
    if value.start_us is not None:
        message.start_time.CopyFrom(convert.timestamp(value.start_us))
    if value.end_us is not None:
        message.end_time.CopyFrom(convert.timestamp(value.end_us))
    if value.jitter_us:
        message.jitter.CopyFrom(convert.duration(value.jitter_us))


def _state(seen: Seen) -> schedules_pb2.ScheduleState.ValueType:
    standing = seen.standing
    if standing.pause is not None:
        return schedules_pb2.SCHEDULE_STATE_PAUSED
    if seen.next_due_us is None and not (standing.waiting or standing.backfills):
        return schedules_pb2.SCHEDULE_STATE_FINISHED
    return schedules_pb2.SCHEDULE_STATE_ACTIVE


def _overlap(value: Overlap) -> schedules_pb2.OverlapPolicy.ValueType:
    return cast("schedules_pb2.OverlapPolicy.ValueType", int(value))


def _cause(value: schedules.Cause) -> schedules_pb2.FireCause.ValueType:
    return cast("schedules_pb2.FireCause.ValueType", int(value))
