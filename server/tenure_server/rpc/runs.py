"""The service Runs: executions of workflows, their tasks, and what happened to them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tenure.v1 import runs_pb2, runs_pb2_grpc
from tenure_server.core import errors
from tenure_server.core.definitions.payloads import PAYLOAD_BYTES_MAX, Payload
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState, TaskState
from tenure_server.core.runs import extensions, run_data, view
from tenure_server.core.runs.extensions import Shape
from tenure_server.core.seeing.side_by_side import Side, compare
from tenure_server.engine.bulk import Verb
from tenure_server.engine.engine import Engine
from tenure_server.rpc import access, convert, pages, seeing, sizes, verdicts
from tenure_server.rpc.doorway import Context
from tenure_server.rpc.requests import repeatable
from tenure_server.rpc.run_changes import RunChanges
from tenure_server.rpc.run_waits import RunWaits
from tenure_server.store.database import Store
from tenure_server.store.evidence_reads import EvidenceReads
from tenure_server.store.reads import TenantReads
from tenure_server.store.run_search import RunSearch

#: Starting one run means the same alone and in a batch: a request id is good for both.
START_METHOD = "/tenure.v1.Runs/StartRun"
#: The most events in one message of a watched run.
WATCH_EVENTS_MAX = 1000
_ROWS_AT_ONCE = 5000
#: With more last tasks, a run has no output that nobody declared.
_ENDS_MAX = 64
#: Runs with more tasks are compared in a thread: it takes longer than others should wait.
_TASKS_BESIDE_THE_LOOP = 500
_MOVED = "the run was moved to another version while it was read; ask again"


class _RunTasks(NamedTuple):
    """A run with what is known of its tasks."""

    run: records.Run
    shape: Shape
    #: The tasks that have a row, by number.
    rows: dict[int, records.Task]
    states: Sequence[TaskState]


class Runs(RunChanges, RunWaits, runs_pb2_grpc.RunsServicer):
    """Converts, asks, converts."""

    def __init__(self, engine: Engine, store: Store) -> None:
        super().__init__(engine)
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
        if run.state is RunState.SUCCEEDED and run.output is None:
            run = replace(run, output=await self._output_of_ends(run))
        return runs_pb2.GetRunResponse(run=convert.run_message(run, counts, with_input=True))

    async def ListRuns(
        self, request: runs_pb2.ListRunsRequest, context: Context
    ) -> runs_pb2.ListRunsResponse:
        """Lists the runs that are wanted."""
        caller = access.caller()
        cursor = pages.read(caller, request)
        after = None if cursor is None else (int(cursor[0]), str(cursor[1]))
        wanted, limit = seeing.list_filter(request), pages.limit(request)
        response = runs_pb2.ListRunsResponse()
        if wanted is None:
            return response
        oldest_first = request.order == runs_pb2.RUN_ORDER_OLDEST_FIRST
        search = RunSearch(self._store, caller.tenant_id)
        found = await self._engine.read(
            lambda: search.page(wanted, after, limit, oldest_first=oldest_first)
        )
        if any(run.state not in RUN_ENDED for run in found.runs):
            # Only the seat's holder counts the tasks of many open runs without reading them all.
            self._engine.check_seat(caller.tenant_id)
        for run, counts in await self._counted(caller.tenant_id, found.runs):
            response.runs.append(convert.run_message(run, counts))
        if found.next_after is not None:
            response.next_page_token = pages.issue(caller, request, list(found.next_after))
        return response

    async def CountRuns(
        self, request: runs_pb2.CountRunsRequest, context: Context
    ) -> runs_pb2.CountRunsResponse:
        """Counts the runs that are wanted, by state."""
        wanted = seeing.run_filter(request.filter)
        search = RunSearch(self._store, access.caller().tenant_id)
        return seeing.count_message(await self._engine.read(lambda: search.count(wanted)))

    async def CompareRuns(
        self, request: runs_pb2.CompareRunsRequest, context: Context
    ) -> runs_pb2.CompareRunsResponse:
        """Lays two runs side by side."""
        tenant_id = access.caller().tenant_id
        left = await self._side(tenant_id, request.left_run_id)
        right = await self._side(tenant_id, request.right_run_id)

        def work() -> runs_pb2.CompareRunsResponse:
            found = compare(left, right)
            only = request.differing_only
            return seeing.comparison_message(found, left, right, differing_only=only)

        large = len(left.states) + len(right.states) > _TASKS_BESIDE_THE_LOOP
        response = await sizes.beside_the_loop(large, work)
        for side, message in ((left, response.left), (right, response.right)):
            message.CopyFrom(convert.run_message(side.run, view.counts(side.states)))
        return response

    async def ChangeRuns(
        self, request: runs_pb2.ChangeRunsRequest, context: Context
    ) -> AsyncIterator[runs_pb2.ChangeRunsResponse]:
        """Does the same to many runs, and tells how far it is."""
        caller = access.caller()
        wish = seeing.wish(request, repeatable(request, caller.rule.method))
        if wish.verb is Verb.CLOSE and records.Role.TENANT_ADMIN not in caller.key.roles:
            raise errors.RoleMissing("only a tenant admin closes runs", roles="tenant_admin")
        self._engine.check_seat(caller.tenant_id)
        steps: Any = self._engine.bulk.change(caller.origin, wish)
        async with contextlib.aclosing(steps):
            async for progress in steps:
                yield seeing.progress_message(progress)

    async def ExplainRun(
        self, request: runs_pb2.ExplainRunRequest, context: Context
    ) -> runs_pb2.ExplainRunResponse:
        """Says why tasks of a run do not run."""
        caller = access.caller()
        limit = pages.limit(request)
        (after,) = pages.read(caller, request) or (-1,)
        found = await self._engine.explain(
            caller.tenant_id, request.run_id, request.task_keys, int(after), limit
        )
        response = seeing.explanation_message(found)
        if found.next_after is not None:
            response.next_page_token = pages.issue(caller, request, [found.next_after])
        return response

    async def GetTask(
        self, request: runs_pb2.GetTaskRequest, context: Context
    ) -> runs_pb2.GetTaskResponse:
        """Shows a task with its output."""
        tenant_id = access.caller().tenant_id
        reads = TenantReads(self._store, tenant_id)
        run = await self._run(tenant_id, request.run_id)
        known = await self._engine.workflows.by_digest(tenant_id, run.workflow_digest)
        shape = extensions.shape_of(known.definition, known.graph, run.detail)
        index = shape.graph.index.get(request.task_key)
        if index is None:
            raise errors.NotFound("task", request.task_key)

        def read() -> tuple[records.Task | None, TaskState]:
            row = reads.task(run.run_id, index)
            rows = {} if row is None else {index: row.state}
            for number in shape.graph.upstream[index]:
                if (before := reads.task(run.run_id, number)) is not None:
                    rows[number] = before.state
            _check_unmoved(reads, run)
            return row, view.state_of(shape, index, rows)

        row, state = await self._engine.read(read)
        if index >= shape.planned:
            # Whether an item is ready depends on the others of its list.
            state = (await self._run_tasks(tenant_id, run.run_id)).states[index]
        node = convert.Node(request.task_key, shape.tasks[index])
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
            node = convert.Node(found.shape.graph.keys[index], found.shape.tasks[index])
            state = found.states[index]
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
        state = await self._engine.operations.cancel(
            caller.origin,
            request.run_id,
            request.reason,
            repeatable(request, caller.rule.method),
        )
        return runs_pb2.CancelRunResponse(state=convert.run_state(state))

    async def _side(self, tenant_id: str, run_id: str) -> Side:
        """A run to be laid beside another. Raises NotFound."""
        found = await self._run_tasks(tenant_id, run_id)
        given = found.run.input
        if given is not None:
            digest = f"sha256:{given.digest().hex()}"
        else:
            evidence = EvidenceReads(self._store, tenant_id)
            digest = await self._engine.read(lambda: evidence.input_digest(run_id))
        return Side(found.run, digest, found.shape, found.states, found.rows)

    async def _output_of_ends(self, run: records.Run) -> Payload | None:
        """The outputs of a run's last tasks, when its definition says nothing of an output."""
        known = await self._engine.workflows.by_digest(run.tenant_id, run.workflow_digest)
        definition, downstream = known.definition, known.graph.downstream
        ends = [] if definition.output else run_data.ends_of(definition, downstream)
        if not ends or len(ends) > _ENDS_MAX:
            return None
        reads = TenantReads(self._store, run.tenant_id)

        def read() -> Payload | None:
            outputs: dict[int, Payload] = {}
            size = 0
            for index in ends:
                outputs |= reads.outputs(run.run_id, [index])
                size += len(outputs[index].data) if index in outputs else 0
                if size > PAYLOAD_BYTES_MAX:
                    return None
            return run_data.output_of_ends(definition, downstream, outputs) if outputs else None

        return await self._engine.read(read)

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
        shape = extensions.shape_of(known.definition, known.graph, run.detail)
        keys = shape.graph.keys
        if any(number >= len(keys) or keys[number] != row.task_key for number, row in rows.items()):
            raise errors.RunChanged(_MOVED)
        states = view.task_states(shape, {index: task.state for index, task in rows.items()})
        return _RunTasks(run, shape, rows, states)


def _check_unmoved(reads: TenantReads, run: records.Run) -> None:
    """Raises RunChanged when a run was moved since it was read: its tasks are renumbered."""
    now = reads.run(run.run_id)
    if now is not None and now.workflow_digest != run.workflow_digest:
        raise errors.RunChanged(_MOVED)


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
        skipped=run.skipped,
        active=0,
    )
