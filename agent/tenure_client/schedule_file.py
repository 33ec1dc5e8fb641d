"""Schedule files: YAML or JSON, read strictly.

name: nightly
workflow: etl
input: {source: sales}
cron: ["30 2 * * *"]
time_zone: Europe/Vienna
overlap: buffer-one
catchup_window: 6h
pause_on_failure: true
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from tenure.v1 import schedules_pb2
from tenure_client import duration, payload, workflow_file
from tenure_client.graph import DefinitionError, Path, did_you_mean
from tenure_client.payload import ABSENT
from tenure_client.tables import Table, is_span, text

#: The keys of a schedule file.
KEYS = (
    "name",
    "workflow",
    "version",
    "input",
    "labels",
    "priority",
    "cron",
    "time_zone",
    "every",
    "at",
    "start",
    "end",
    "jitter",
    "overlap",
    "catchup_window",
    "pause_on_failure",
    "remaining_runs",
    "notes",
)
#: Which fields of the contract each key sets.
FIELDS = {
    "workflow": "start.workflow",
    "version": "start.workflow_version",
    "input": "start.input",
    "labels": "start.labels",
    "priority": "start.priority",
    "cron": "times",
    "time_zone": "times",
    "every": "times",
    "at": "times",
    "start": "times",
    "end": "times",
    "jitter": "times",
}
OVERLAPS = {
    value.name.removeprefix("OVERLAP_POLICY_").lower().replace("_", "-"): value.number
    for value in schedules_pb2.OverlapPolicy.DESCRIPTOR.values
    if value.number
}


def read(path: FilePath) -> schedules_pb2.CreateScheduleRequest:
    """Reads a schedule file: its name and spec. Raises WorkflowFileError."""
    return workflow_file.read_as(path, request_of, what="a schedule file")


def request_of(value: Any) -> schedules_pb2.CreateScheduleRequest:
    """Turns the plain value of a schedule file into name and spec. Raises DefinitionError."""
    table = Table(value, (), KEYS, required=("name", "workflow"))
    spec = schedules_pb2.ScheduleSpec(
        pause_on_failure=table.flag("pause_on_failure"),
        notes=table.text("notes"),
        overlap=_overlap(table),
    )
    _fill_start(spec.start, table)
    _fill_times(spec.times, table)
    if "catchup_window" in table:
        spec.catchup_window.CopyFrom(_span(table.value("catchup_window"), ("catchup_window",)))
    if "remaining_runs" in table:
        spec.remaining_runs = _bounded(table, "remaining_runs")
    return schedules_pb2.CreateScheduleRequest(name=table.text("name"), spec=spec)


def _fill_start(start: schedules_pb2.ScheduledStart, table: Table) -> None:
    start.workflow = table.text("workflow")
    start.workflow_version = _bounded(table, "version")
    start.priority = _bounded(table, "priority")
    start.labels.update(table.words("labels"))
    if (content := table.value("input")) is not ABSENT:
        try:
            start.input.data = payload.canonical(content)
        except payload.PayloadError as error:
            raise DefinitionError(("input", *_inside(error.path)), error.reason) from error


def _fill_times(times: schedules_pb2.FireTimes, table: Table) -> None:
    for item, path in _one_or_more(table, "cron"):
        times.crons.append(_cron(item, path, table.text("time_zone")))
    for item, path in _one_or_more(table, "every"):
        times.intervals.append(_interval(item, path))
    for item, path in _one_or_more(table, "at"):
        times.fire_time.append(_time(item, path))
    if "start" in table:
        times.start_time.CopyFrom(_time(table.value("start"), ("start",)))
    if "end" in table:
        times.end_time.CopyFrom(_time(table.value("end"), ("end",)))
    if "jitter" in table:
        times.jitter.CopyFrom(_span(table.value("jitter"), ("jitter",)))


def _cron(item: Any, path: Path, zone: str) -> schedules_pb2.CronTimes:
    if isinstance(item, str):
        return schedules_pb2.CronTimes(expression=item, time_zone=zone)
    table = Table(item, path, ("expression", "time_zone"), required=("expression",))
    own = table.text("time_zone") if "time_zone" in table else zone
    return schedules_pb2.CronTimes(expression=table.text("expression"), time_zone=own)


def _interval(item: Any, path: Path) -> schedules_pb2.IntervalTimes:
    if is_span(item):
        return schedules_pb2.IntervalTimes(every=_span(item, path))
    table = Table(item, path, ("every", "anchor"), required=("every",))
    interval = schedules_pb2.IntervalTimes(every=_span(table.value("every"), (*path, "every")))
    if "anchor" in table:
        interval.anchor_time.CopyFrom(_time(table.value("anchor"), (*path, "anchor")))
    return interval


def _one_or_more(table: Table, key: str) -> Iterator[tuple[Any, Path]]:
    """The items of a list, or the one thing that stands in its place."""
    value = table.value(key)
    if value is ABSENT or isinstance(value, list):
        return table.items(key)
    return iter([(value, (key,))])


def _overlap(table: Table) -> schedules_pb2.OverlapPolicy.ValueType:
    word = table.text("overlap")
    if not word:
        return schedules_pb2.OVERLAP_POLICY_UNSPECIFIED
    number = OVERLAPS.get(word.replace("_", "-").lower())
    if number is None:
        hint = did_you_mean(word, OVERLAPS)
        raise DefinitionError(("overlap",), f"must be one of {', '.join(OVERLAPS)}{hint}")
    return schedules_pb2.OverlapPolicy.ValueType(number)


def _bounded(table: Table, key: str) -> int:
    number = table.whole(key)
    if not -(2**31) <= number < 2**31:
        raise DefinitionError((key,), f"{number} is too large")
    return number


def _span(value: Any, path: Path) -> Any:
    if not is_span(value):
        raise DefinitionError(path, "must be a span of time such as 30s, 2m or 1h30m")
    try:
        return duration.parse(value)
    except duration.DurationError as error:
        raise DefinitionError(path, str(error)) from error


def _time(value: Any, path: Path) -> Timestamp:
    """A time such as ``2026-07-14T02:30:00+02:00``; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text(value, path))
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        if isinstance(error, DefinitionError):
            raise
        reason = f"must be a time such as 2026-07-14T02:30:00Z, is {value!r}"
        raise DefinitionError(path, reason) from error
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _inside(path: str) -> Path:
    return (path,) if path else ()
