"""The service Runs: executions of workflows, their tasks, and what happened to them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from tenure.v1 import runs_pb2, runs_pb2_grpc
from tenure_server.core import errors, records, view
from tenure_server.core.lifecycle import RUN_ENDED, RunState, TaskState
from tenure_server.engine.engine import Engine
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.rpc import access, convert, pages, sizes, verdicts
from tenure_server.rpc.doorway import Context
from tenure_server.rpc.requests import repeatable
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

#: Starting one run means the same alone and in a batch: a request id is good for both.
START_METHOD = "/tenure.v1.Runs/StartRun"
#: The most events in one message of a watched run.
WATCH_EVENTS_MAX = 1000
_ROWS_AT_ONCE = 5000


class _RunTasks(NamedTuple):
    """A run with what is known of its tasks."""

    run: records.Run
    known: KnownWorkflow
    #: The tasks that have a row, by number.
    rows: dict[int, records.Task]
    states: Sequence[TaskState]


class Runs(runs_pb2_grpc.RunsServicer):
    """Converts, asks, converts."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store

    async def StartRun(
        self, request: runs_pb2.StartRunRequest, context: Context
    ) -> runs_pb2.StartRunResponse:
        """Starts a run."""
        work = partial(_start, request, "input")
        start = await sizes.beside_the_loop(sizes.is_large(request), work)
        [started] = await self._engine.start_runs(access.caller().origin, [start])
        return _started_message(started)

    async def BatchStartRuns(
        self, request: runs_pb2.BatchStartRunsRequest, context: Context
    ) -> runs_pb2.BatchStartRunsResponse:
        """Starts many runs in one commit, or none."""
        starts = await sizes.beside_the_loop(sizes.is_large(request), partial(_starts, request))
        started = await self._engine.start_runs(access.caller().origin, starts)
        return runs_pb2.BatchStartRunsResponse(
            responses=[_started_message(item) for item in started]
        )

    async def GetRun(
        self, request: runs_pb2.GetRunRequest, context: Context
    ) -> runs_pb2.GetRunResponse:
        """Shows a run."""
        tenant_id = access.caller().tenant_id
        run = await self._run(tenant_id, request.run_id)
        [(run, counts)] = await self._counted(tenant_id, [run])
        return runs_pb2.GetRunResponse(run=convert.run_message(run, counts, with_input=True))

    async def ListRuns(
        self, request: runs_pb2.ListRunsRequest, context: Context
    ) -> runs_pb2.ListRunsResponse:
        """Lists runs, the newest first."""
        caller = access.caller()
        limit = pages.limit(request)
        cursor = pages.read(caller, request)
        before = None if cursor is None else (int(cursor[0]), str(cursor[1]))
        states = [RunState(state) for state in request.states]
        reads = TenantReads(self._store, caller.tenant_id)
        found = await self._engine.read(
            lambda: reads.runs(request.workflow or None, states, before, limit + 1)
        )
        response = runs_pb2.ListRunsResponse()
        if any(run.state not in RUN_ENDED for run in found):
            # Only the seat's holder counts the tasks of many open runs without reading them all.
            self._engine.check_seat(caller.tenant_id)
        for run, counts in await self._counted(caller.tenant_id, found[:limit]):
            response.runs.append(convert.run_message(run, counts))
        if len(found) > limit:
            last = found[limit - 1]
            token = pages.issue(caller, request, [last.create_us, last.run_id])
            response.next_page_token = token
        return response

    async def GetTask(
        self, request: runs_pb2.GetTaskRequest, context: Context
    ) -> runs_pb2.GetTaskResponse:
        """Shows a task with its output."""
        tenant_id = access.caller().tenant_id
        reads = TenantReads(self._store, tenant_id)
        run = await self._run(tenant_id, request.run_id)
        known = await self._engine.workflows.by_digest(tenant_id, run.workflow_digest)
        index = known.graph.index.get(request.task_key)
        if index is None:
            raise errors.NotFound("task", request.task_key)
        upstream = known.graph.upstream[index]

        def read() -> tuple[records.Task | None, TaskState]:
            row = reads.task(run.run_id, index)
            if row is not None:
                return row, row.state
            done = all(
                (before := reads.task(run.run_id, number)) is not None
                and before.state is TaskState.SUCCEEDED
                for number in upstream
            )
            return None, TaskState.READY if done else TaskState.WAITING

        row, state = await self._engine.read(read)
        node = known.definition.tasks[index]
        progress = self._engine.work.progress(tenant_id, run.run_id, index)
        task = convert.task_message(
            run.run_id, node, state, row, progress=progress, with_output=True
        )
        return runs_pb2.GetTaskResponse(task=task)

    async def ListTasks(
        self, request: runs_pb2.ListTasksRequest, context: Context
    ) -> runs_pb2.ListTasksResponse:
        """Lists the tasks of a run in the order of its definition."""
        caller = access.caller()
        limit = pages.limit(request)
        (after,) = pages.read(caller, request) or (-1,)
        found = await self._run_tasks(caller.tenant_id, request.run_id)
        wanted = frozenset(TaskState(state) for state in request.states)
        chosen = [
            index
            for index in range(after + 1, len(found.states))
            if not wanted or found.states[index] in wanted
        ]
        response = runs_pb2.ListTasksResponse()
        for index in chosen[:limit]:
            node, state = found.known.definition.tasks[index], found.states[index]
            row = found.rows.get(index)
            progress = self._engine.work.progress(caller.tenant_id, found.run.run_id, index)
            message = convert.task_message(found.run.run_id, node, state, row, progress=progress)
            response.tasks.append(message)
        if len(chosen) > limit:
            response.next_page_token = pages.issue(caller, request, [chosen[limit - 1]])
        return response

    async def ListRunEvents(
        self, request: runs_pb2.ListRunEventsRequest, context: Context
    ) -> runs_pb2.ListRunEventsResponse:
        """Lists what happened in a run, in order."""
        tenant_id = access.caller().tenant_id
        await self._run(tenant_id, request.run_id)
        limit = pages.limit(request)
        reads = TenantReads(self._store, tenant_id)
        found = await self._engine.read(
            lambda: reads.events(request.run_id, request.after_sequence, limit + 1)
        )
        response = runs_pb2.ListRunEventsResponse(
            events=[convert.event_message(event) for event in found[:limit]]
        )
        if len(found) > limit:
            response.next_after_sequence = found[limit - 1].sequence
        return response

    async def WatchRun(
        self, request: runs_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[runs_pb2.WatchRunResponse]:
        """Streams what happens in a run until its last event."""
        tenant_id = access.caller().tenant_id
        steps: Any = self._engine.watch(
            tenant_id, request.run_id, request.after_sequence, request.run_events_only
        )
        async with contextlib.aclosing(steps):
            async for events in steps:
                for begin in range(0, len(events), WATCH_EVENTS_MAX):
                    piece = events[begin : begin + WATCH_EVENTS_MAX]
                    yield runs_pb2.WatchRunResponse(
                        events=[convert.event_message(event) for event in piece]
                    )

    async def CancelRun(
        self, request: runs_pb2.CancelRunRequest, context: Context
    ) -> runs_pb2.CancelRunResponse:
        """Cancels a run."""
        caller = access.caller()
        state = await self._engine.cancel_run(
            caller.origin,
            request.run_id,
            request.reason,
            repeatable(request, caller.rule.method),
        )
        return runs_pb2.CancelRunResponse(state=convert.run_state(state))

    async def _run(self, tenant_id: str, run_id: str) -> records.Run:
        run = await self._engine.read(lambda: TenantReads(self._store, tenant_id).run(run_id))
        if run is None:
            raise errors.NotFound("run", run_id)
        return run

    async def _counted(
        self, tenant_id: str, runs: Sequence[records.Run]
    ) -> list[tuple[records.Run, records.Counts]]:
        """Runs with their tasks counted, read again where one ended in between."""
        counted = []
        for run in runs:
            if run.state in RUN_ENDED:
                counted.append((run, _final_counts(run)))
            elif (counts := self._engine.counts(tenant_id, run.run_id)) is not None:
                counted.append((run, counts))
            else:
                # Not open here: it ended in between, or another coordinator has it.
                found = await self._run_tasks(tenant_id, run.run_id)
                counted.append((found.run, view.counts(found.states)))
        if any(run.state not in RUN_ENDED for run in runs):
            # What memory counts may not be committed yet, and nothing else may be told.
            await self._engine.committed()
        return counted

    async def _run_tasks(self, tenant_id: str, run_id: str) -> _RunTasks:
        """Everything about a run's tasks but their outputs. Raises NotFound."""
        reads = TenantReads(self._store, tenant_id)

        def read() -> tuple[records.Run | None, dict[int, records.Task]]:
            # The run is read after its tasks: of one that has ended all tasks must show.
            rows: dict[int, records.Task] = {}
            after = -1
            while piece := reads.tasks(run_id, after, _ROWS_AT_ONCE):
                rows.update((task.task_index, task) for task in piece)
                after = piece[-1].task_index
            return reads.run(run_id), rows

        run, rows = await self._engine.read(read)
        if run is None:
            raise errors.NotFound("run", run_id)
        known = await self._engine.workflows.by_digest(tenant_id, run.workflow_digest)
        states = view.task_states(known.graph, {index: task.state for index, task in rows.items()})
        return _RunTasks(run, known, rows, states)


def _starts(message: runs_pb2.BatchStartRunsRequest) -> list[records.StartRun]:
    return [_start(item, f"requests[{index}].input") for index, item in enumerate(message.requests)]


def _start(message: runs_pb2.StartRunRequest, path: str) -> records.StartRun:
    return records.StartRun(
        workflow=message.workflow,
        version=message.workflow_version,
        input=convert.payload(message.input, path) if message.HasField("input") else None,
        priority=message.priority,
        labels=dict(message.labels),
        request=repeatable(message, START_METHOD),
        input_path=path,
    )


def _started_message(started: records.StartedRun) -> runs_pb2.StartRunResponse:
    return runs_pb2.StartRunResponse(
        run_id=started.run_id,
        workflow_version=started.version,
        workflow_digest=started.digest,
        warnings=verdicts.warning_messages(started.warnings),
    )


def _final_counts(run: records.Run) -> records.Counts:
    """The counts of a run that has ended: its row has them all."""
    return records.Counts(
        total=run.task_count,
        waiting=0,
        ready=0,
        leased=0,
        retrying=0,
        succeeded=run.succeeded,
        failed=run.failed,
        upstream_failed=run.upstream_failed,
        cancelled=run.cancelled,
    )
