"""A run that was read back and verified, and what follows from its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import timestamp_pb2

from tenure.v1 import runs_pb2


@dataclass(frozen=True, slots=True)
class Record:
    """A run and everything that happened in it. Times are seconds since the Unix epoch."""

    run: runs_pb2.Run
    events: Sequence[runs_pb2.RunEvent]

    @property
    def begin_seconds(self) -> float:
        """When it was accepted."""
        return _seconds(self.run.create_time)

    @property
    def end_seconds(self) -> float:
        """When it ended."""
        return _seconds(self.run.end_time)

    @property
    def seconds(self) -> float:
        """From its acceptance to its end, by the coordinator's clock."""
        return self.end_seconds - self.begin_seconds

    def success_times(self, *, agent: str = "") -> list[float]:
        """When each task succeeded, in order. With `agent`: only those that it executed."""
        return [
            _seconds(event.time)
            for event in self.events
            if event.kind == runs_pb2.RUN_EVENT_KIND_TASK_SUCCEEDED and agent in ("", event.agent)
        ]

    def lease_times(self) -> list[float]:
        """When leases were granted, in order."""
        return [
            _seconds(event.time)
            for event in self.events
            if event.kind == runs_pb2.RUN_EVENT_KIND_TASK_LEASED
        ]


def _seconds(moment: timestamp_pb2.Timestamp) -> float:
    return moment.ToNanoseconds() / 1e9
