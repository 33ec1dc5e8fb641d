"""A run of a test: what became of it and of its tasks, as far as the test has let time pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tenure.v1 import runs_pb2
from tenure_client import payload, watching
from tenure_client.client import Client
from tenure_client.payload import ABSENT
from tenure_client.testing.timeline import Timeline

_ENDED_TASKS = frozenset(
    {"SUCCEEDED", "FAILED", "UPSTREAM_FAILED", "CANCELLED", "SKIPPED"},
)


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task of a run stands. States are words such as `SUCCEEDED`."""

    key: str
    state: str
    attempts: int
    #: Its output, decoded; None where it has none.
    output: Any
    #: Code and message of its failure; empty where it did not fail.
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run. `kind` is a word such as `TASK_LEASED`."""

    kind: str
    task: str
    at: datetime
    attempt: int
    code: str
    message: str


class Run:
    """A run of the test. What is told of it is what was so when the test last waited for it."""

    def __init__(self, client: Client, timeline: Timeline, run_id: str) -> None:
        self._client = client
        self._timeline = timeline
        self._message = runs_pb2.Run()
        self._tasks: dict[str, TaskEnd] = {}
        self._last_sequence = 0
        self.run_id = run_id
        #: What happened, in order.
        self.events: list[Event] = []

    @property
    def state(self) -> str:
        """Such as `RUNNING` or `SUCCEEDED`."""
        return _word(runs_pb2.RunState.Name(self._message.state), "RUN_STATE_")

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._message.state in watching.ENDED_STATES

    @property
    def reason(self) -> str:
        """Why it ended as it did, where somebody said so."""
        return self._message.reason

    @property
    def result(self) -> Any:
        """What the run gives: its workflow's `output`, decoded. None where it has none."""
        return _decoded(self._message.output)

    @property
    def took(self) -> timedelta:
        """From its start to its end, or until now, in the time of the test."""
        end = self._timeline.now()
        if self._message.HasField("end_time"):
            end = _moment(self._message.end_time)
        return end - _moment(self._message.create_time)

    @property
    def tasks(self) -> Mapping[str, TaskEnd]:
        """Its tasks by key, in the order of the definition; items of a list are `key[0]`."""
        return self._tasks

    def task(self, key: str) -> TaskEnd:
        """One task. Raises KeyError, which names those that there are."""
        if key not in self._tasks:
            raise KeyError(f"no task {key!r}; there are {', '.join(self._tasks)}")
        return self._tasks[key]

    def output(self, key: str) -> Any:
        """The output of one task, decoded. Raises KeyError."""
        return self.task(key).output

    def order(self, kind: str = "TASK_LEASED") -> list[str]:
        """The tasks to which something happened, in order: to begin with, their leases."""
        return [event.task for event in self.events if event.kind == kind]

    async def wait(self) -> Run:
        """Lets time pass until it has ended. Raises Stuck."""
        return await self.until()

    async def until(
        self,
        *,
        task: str | None = None,
        state: str | None = None,
        condition: Callable[[Run], bool] | None = None,
    ) -> Run:
        """Lets time pass until it has ended, or a task of it is in a state or has ended, or a
        condition of it holds. Raises Stuck.
        """

        async def reached() -> bool:
            await self.refresh()
            if condition is not None and condition(self):
                return True
            if task is not None and task in self._tasks:
                found = self._tasks[task].state
                if found == state or (state is None and found in _ENDED_TASKS):
                    return True
            return self.ended and task is None and condition is None

        wanted = "its end" if task is None else f"task {task} to be {state or 'over'}"
        if condition is not None:
            wanted = "a condition of the test"
        await self._timeline.until(reached, lambda: self._told(wanted), ended=lambda: self.ended)
        return self

    async def refresh(self) -> Run:
        """Asks for everything again."""
        client = self._client
        self._message = await client.get_run(self.run_id)
        ends = {}
        async for brief in client.list_tasks(self.run_id):
            task = brief
            if brief.state == runs_pb2.TASK_STATE_SUCCEEDED:
                task = await client.get_task(self.run_id, brief.key)
            ends[task.key] = TaskEnd(
                task.key,
                _word(runs_pb2.TaskState.Name(task.state), "TASK_STATE_"),
                task.attempt,
                _decoded(task.output),
                task.failure.code,
                task.failure.message,
            )
        self._tasks = ends
        seen = self._last_sequence
        async for event in client.list_run_events(self.run_id, after_sequence=seen):
            self._last_sequence = event.sequence
            kind = _word(runs_pb2.RunEventKind.Name(event.kind), "RUN_EVENT_KIND_")
            self.events.append(
                Event(
                    kind,
                    event.task_key,
                    _moment(event.time),
                    event.attempt,
                    event.code,
                    event.message,
                )
            )
        return self

    def _told(self, wanted: str) -> str:
        states = [f"{it.key} is {it.state}" for it in self._tasks.values()]
        waiting = [text for text in states if text.rpartition(" ")[2] not in _ENDED_TASKS]
        told = "; ".join((waiting or states)[:20])
        return f"nothing more happens, and the test waits for {wanted}; run is {self.state}: {told}"


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix)


def _decoded(content: Any) -> Any:
    value = payload.decode(content)
    return None if value is ABSENT else value


def _moment(stamp: Any) -> datetime:
    moment: datetime = stamp.ToDatetime(tzinfo=UTC)
    return moment
