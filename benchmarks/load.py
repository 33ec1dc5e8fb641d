"""The load generator: plain stubs on one channel, as light as a client can be.

It shares two cores with what it measures, so it waits on streams instead of asking again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import verification
from benchmarks.record import Record
from tenure.v1 import (
    agents_pb2,
    agents_pb2_grpc,
    evidence_pb2,
    evidence_pb2_grpc,
    payload_pb2,
    runs_pb2,
    runs_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)

Metadata = tuple[tuple[str, str], ...]

RUNS_AT_ONCE = 64
_PAGE = 1000
_POLL_SECONDS = 0.02
_OPEN = (runs_pb2.RUN_STATE_RUNNING, runs_pb2.RUN_STATE_CANCELLING)
_NOT_SUCCEEDED = [
    state
    for state in runs_pb2.TaskState.values()
    if state not in (runs_pb2.TASK_STATE_UNSPECIFIED, runs_pb2.TASK_STATE_SUCCEEDED)
]


class Load:
    """Calls of one caller over one channel."""

    def __init__(self, line: grpc.aio.Channel, metadata: Metadata) -> None:
        self._runs: Any = runs_pb2_grpc.RunsStub(line)
        self._workflows: Any = workflows_pb2_grpc.WorkflowsStub(line)
        self._agents: Any = agents_pb2_grpc.AgentsStub(line)
        self._evidence: Any = evidence_pb2_grpc.EvidenceStub(line)
        self._health: Any = health_pb2_grpc.HealthStub(line)
        self._metadata = metadata

    async def register(self, definition: workflows_pb2.WorkflowDefinition) -> str:
        """Registers a workflow and gives its name."""
        request = workflows_pb2.RegisterWorkflowRequest(definition=definition)
        await self._workflows.RegisterWorkflow(request, metadata=self._metadata)
        return definition.name

    async def start(self, workflow: str, content: payload_pb2.Payload | None = None) -> str:
        """Starts a run, and gives its id once that is committed."""
        request = runs_pb2.StartRunRequest(workflow=workflow, input=content)
        response = await self._runs.StartRun(request, metadata=self._metadata)
        run_id: str = response.run_id
        return run_id

    async def start_batch(self, workflow: str, count: int) -> list[str]:
        """Starts many runs with one call."""
        request = runs_pb2.BatchStartRunsRequest(
            requests=[runs_pb2.StartRunRequest(workflow=workflow)] * count
        )
        response = await self._runs.BatchStartRuns(request, metadata=self._metadata)
        return [started.run_id for started in response.responses]

    async def start_each(self, workflow: str, count: int) -> list[str]:
        """Starts many runs with a call each, so many at a time; in the order of the answers."""
        left = iter(range(count))
        started: list[str] = []

        async def caller() -> None:
            for _ in left:
                started.append(await self.start(workflow))

        await asyncio.gather(*(caller() for _ in range(RUNS_AT_ONCE)))
        return started

    async def ended(self, run_id: str) -> None:
        """Waits for a run's last event."""
        request = runs_pb2.WatchRunRequest(run_id=run_id, run_events_only=True)
        async for _ in self._runs.WatchRun(request, metadata=self._metadata):
            pass

    async def all_ended(self, run_ids: Sequence[str]) -> None:
        """Waits until no run is open. Watches the one started last, which mostly ends last."""
        await self.ended(run_ids[-1])
        request = runs_pb2.ListRunsRequest(states=_OPEN, page_size=1)
        while True:
            if not (await self._runs.ListRuns(request, metadata=self._metadata)).runs:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def run(self, run_id: str) -> runs_pb2.Run:
        """A run as it stands."""
        request = runs_pb2.GetRunRequest(run_id=run_id)
        response: runs_pb2.GetRunResponse = await self._runs.GetRun(
            request, metadata=self._metadata
        )
        return response.run

    async def events(self, run_id: str) -> list[runs_pb2.RunEvent]:
        """Everything that happened in a run."""
        found: list[runs_pb2.RunEvent] = []
        request = runs_pb2.ListRunEventsRequest(run_id=run_id, page_size=_PAGE)
        while True:
            page = await self._runs.ListRunEvents(request, metadata=self._metadata)
            found.extend(page.events)
            if not page.next_after_sequence:
                return found
            request.after_sequence = page.next_after_sequence

    async def verify(
        self,
        definition: workflows_pb2.WorkflowDefinition,
        run_id: str,
        *,
        items: int = 0,
        **how: bool,
    ) -> Record:
        """Reads back a run that has ended and checks it. Raises WrongHistoryError.

        `items` is how many each of its lists has.
        """
        lists = {task.key: items for task in definition.tasks if task.HasField("for_each")}
        upstream = verification.upstream_of(definition)
        request = runs_pb2.ListTasksRequest(run_id=run_id, states=_NOT_SUCCEEDED, page_size=10)
        run, events, unfinished = await asyncio.gather(
            self.run(run_id),
            self.events(run_id),
            self._runs.ListTasks(request, metadata=self._metadata),
        )
        verification.check_run(upstream, run, unfinished.tasks, events, lists=lists, **how)
        return Record(run, events)

    async def verify_all(
        self, definition: workflows_pb2.WorkflowDefinition, run_ids: Sequence[str], **how: bool
    ) -> AsyncIterator[Record]:
        """Checks many runs, one after another. Raises WrongHistoryError."""
        if len(set(run_ids)) != len(run_ids):
            raise verification.WrongHistoryError("two starts were given the same run")
        for run_id in run_ids:
            yield await self.verify(definition, run_id, **how)

    async def export(self, run_id: str) -> bytes:
        """The bundle of a run."""
        request = evidence_pb2.ExportRunRequest(run_id=run_id)
        pieces = self._evidence.ExportRun(request, metadata=self._metadata)
        return b"".join([piece.chunk async for piece in pieces])

    async def proven(self) -> bool:
        """Whether evidence of anything is kept in the tenant."""
        request = evidence_pb2.ListEntriesRequest(page_size=1)
        page = await self._evidence.ListEntries(request, metadata=self._metadata)
        return bool(page.entries)

    async def healthy(self) -> None:
        """Waits until the coordinator says that it serves."""
        async for answer in self._health.Watch(health_pb2.HealthCheckRequest()):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return

    async def lease(
        self, agent: str, kind: str, *, wait_seconds: int
    ) -> Sequence[agents_pb2.Lease]:
        """Takes one lease without a stream. Gives none when none came in time."""
        request = agents_pb2.LeaseTasksRequest(
            agent=agent,
            kinds=[kind],
            max_leases=1,
            wait=duration_pb2.Duration(seconds=wait_seconds),
        )
        answer: agents_pb2.LeaseTasksResponse = await self._agents.LeaseTasks(
            request, metadata=self._metadata
        )
        return answer.batch.leases

    async def settle(self, leases: Sequence[agents_pb2.Lease]) -> None:
        """Reports that tasks succeeded. Raises WrongHistoryError when that does not count."""
        results = [
            agents_pb2.Result(
                lease=agents_pb2.LeaseRef(
                    run_id=lease.run_id,
                    task_key=lease.task_key,
                    term=lease.term,
                    token=lease.token,
                ),
                success=agents_pb2.Success(),
            )
            for lease in leases
        ]
        request = agents_pb2.SettleTasksRequest(results=results)
        answer = await self._agents.SettleTasks(request, metadata=self._metadata)
        for outcome in answer.outcomes:
            if outcome.verdict != agents_pb2.VERDICT_APPLIED:
                verdict = agents_pb2.Verdict.Name(outcome.verdict)
                raise verification.WrongHistoryError(f"a success was not applied: {verdict}")
