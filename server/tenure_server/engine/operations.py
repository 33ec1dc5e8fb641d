"""What is asked of runs once they are there: cancel, pause, resume, close, reopen, skip, settle.

Each is decided in memory by whoever holds the tenant's seat, leaves one act, and answers after the
commit; the same request id gets the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tenure_server.core import errors
from tenure_server.core.definitions.definition import Payload, payload_problem
from tenure_server.core.desks.desk import Desk, End
from tenure_server.core.desks.interventions import needed_outputs, to_reopen
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState
from tenure_server.core.progress.approvals import Decider
from tenure_server.core.runs import restoring
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine.alone import changed
from tenure_server.engine.answers import Answers, commit_answer
from tenure_server.engine.floor import Floor
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.engine.restore import read_run
from tenure_server.engine.settings import Settings
from tenure_server.engine.starting import check_quota
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

T = TypeVar("T")
#: Does something to an open run and gives a number to answer with.
Change = Callable[[Desk, LiveRun, int], int]


@dataclass(frozen=True, slots=True)
class _Reopening:
    """What the store has of a run of which tasks are to be executed again."""

    known: KnownWorkflow
    run: LiveRun
    tasks: dict[int, records.Task]
    chosen: list[int]
    #: The tasks in question, and what they are given of others.
    again: list[int]
    outputs: dict[int, Payload]

    def agrees_with(self, run: LiveRun) -> bool:
        """Whether the rows of these tasks are still how they stand, in a run that is open."""
        stored = self.run.states
        return to_reopen(run, self.chosen) == self.again and all(
            run.states[index] == stored[index] for index in self.again
        )


class Read(Protocol):
    """Runs work on a read-only connection in a reader thread."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Gives what the work gives."""


class Operations:
    """Everything raises NotFound, RequestIdReused, SeatElsewhere and StoreUnavailable.

    And RunClosed or RunStands where the run or the task is not in a state that allows it.
    """

    def __init__(
        self,
        floor: Floor,
        store: Store,
        answers: Answers,
        settings: Settings,
        read: Read,
    ) -> None:
        self._floor = floor
        self._store = store
        self._answers = answers
        self._settings = settings
        self._read = read

    async def cancel(
        self,
        origin: records.Origin,
        run_id: str,
        reason: str,
        request: records.Request | None,
    ) -> RunState:
        """Cancels a run. Cancelling twice is the same as once."""

        def change(desk: Desk, run: LiveRun, now_us: int) -> int:
            desk.cancel_run(run, reason, now_us)
            return int(run.state)

        ended = RunState.CANCELLED
        return RunState(await self._change(origin, "run.cancel", run_id, request, change, ended))

    async def pause(
        self, origin: records.Origin, run_id: str, reason: str, request: records.Request | None
    ) -> None:
        """Leases nothing more of a run."""

        def change(desk: Desk, run: LiveRun, now_us: int) -> int:
            desk.interventions.pause(run, reason, now_us)
            return 0

        await self._change(origin, "run.pause", run_id, request, change)

    async def resume(
        self, origin: records.Origin, run_id: str, reason: str, request: records.Request | None
    ) -> None:
        """Lets a paused run go on."""

        def change(desk: Desk, run: LiveRun, now_us: int) -> int:
            desk.interventions.resume(run, reason, now_us)
            return 0

        await self._change(origin, "run.resume", run_id, request, change)

    async def close(
        self, origin: records.Origin, run_id: str, reason: str, request: records.Request | None
    ) -> None:
        """Ends a run at once."""

        def change(desk: Desk, run: LiveRun, now_us: int) -> int:
            desk.interventions.close(run, reason, now_us)
            return 0

        await self._change(origin, "run.close", run_id, request, change, RunState.CLOSED)

    async def skip(
        self,
        origin: records.Origin,
        run_id: str,
        task_key: str,
        reason: str,
        request: records.Request | None,
    ) -> None:
        """Ends a task as skipped."""

        def change(desk: Desk, run: LiveRun, now_us: int) -> int:
            desk.interventions.skip(run, _index(run, task_key), reason, now_us)
            return 0

        await self._change(origin, "task.skip", run_id, request, change)

    async def settle(
        self,
        origin: records.Origin,
        run_id: str,
        task_key: str,
        end: End,
        reason: str,
        request: records.Request | None,
    ) -> None:
        """Ends a task by hand. Raises FieldsInvalid for an output that breaks its rules."""
        if isinstance(end, Success) and end.output and (problem := payload_problem(end.output)):
            raise errors.FieldsInvalid([("output", problem)])

        def change(desk: Desk, run: LiveRun, now_us: int) -> int:
            desk.interventions.settle(run, _index(run, task_key), end, reason, now_us)
            return 0

        await self._change(origin, "task.settle", run_id, request, change)

    async def signal(
        self,
        origin: records.Origin,
        run_id: str,
        name: str,
        payload: Payload | None,
        request: records.Request | None,
    ) -> bool:
        """Gives a signal to a run; says whether a task waited for it. Raises QuotaExceeded too."""

        def change(desk: Desk, run: LiveRun, now_us: int) -> int:
            return int(desk.consequences.signals.signal(run, name, payload, now_us))

        return bool(await self._change(origin, "run.signal", run_id, request, change))

    async def decide(
        self,
        origin: records.Origin,
        run_id: str,
        task_key: str,
        decider: Decider,
        consents: bool,
        reason: str,
        request: records.Request | None,
    ) -> None:
        """Takes somebody's decision on what a task asks. Raises NotApprover too."""

        def change(desk: Desk, run: LiveRun, now_us: int) -> int:
            approvals, index = desk.consequences.approvals, _index(run, task_key)
            approvals.decide(run, index, decider, consents, reason, now_us)
            return 0

        await self._change(origin, "task.decide", run_id, request, change)

    async def reopen(
        self,
        origin: records.Origin,
        run_id: str,
        task_keys: Sequence[str],
        *,
        paused: bool,
        reason: str,
        request: records.Request | None,
    ) -> int:
        """Executes tasks of a run again, and gives their number. Raises QuotaExceeded too."""
        tenant_id = origin.tenant_id

        async def decide() -> bytes:
            with self._floor.alone.holding(run_id):
                # What is read below must hold all that memory has decided.
                await self._floor.flushed()
                desk = self._floor.desk(tenant_id)
                stored = await self._stored(tenant_id, run_id, task_keys)
                self._floor.check_desk(desk)
                run = desk.runs.get(run_id)
                if run is None and stored.run.ended:
                    check_quota(desk, [stored.known], self._settings)
                    run = stored.run
                elif run is None or not stored.agrees_with(run):
                    # It has ended, or gone on, while it was read.
                    raise changed(run_id)
                since, now_us = self._floor.mark(), self._floor.now_us()
                for index, output in stored.outputs.items():
                    run.keep_output(index, output, also=stored.again)
                desk.interventions.reopen(
                    run, stored.again, stored.tasks, paused=paused, reason=reason, now_us=now_us
                )
            self._floor.close_act(origin.acting("run.reopen"), since, [tenant_id])
            answer = str(len(stored.again)).encode()
            return await commit_answer(self._floor, self._answers, desk, request, answer)

        return int(await self._answers.once(tenant_id, request, decide))

    async def _stored(self, tenant_id: str, run_id: str, task_keys: Sequence[str]) -> _Reopening:
        reads = TenantReads(self._store, tenant_id)

        def read() -> _Reopening:
            record = reads.run(run_id)
            if record is None:
                raise errors.NotFound("run", run_id)
            if reads.is_pruned(run_id):
                message = f"run {run_id}: its payloads were pruned; start a new run instead"
                raise errors.RunClosed(message, state=record.state.name)
            known, run, tasks = read_run(reads, record)
            restoring.restore(run, tasks, {})
            chosen = [_index(run, key) for key in task_keys]
            again = to_reopen(run, chosen)
            outputs = reads.outputs(run_id, needed_outputs(run, again))
            return _Reopening(known, run, tasks, chosen, again, outputs)

        return await self._read(read)

    async def _change(
        self,
        origin: records.Origin,
        kind: str,
        run_id: str,
        request: records.Request | None,
        change: Change,
        same: RunState | None = None,
    ) -> int:
        """Changes an open run. `same` is the state that a run which has ended may have."""
        tenant_id = origin.tenant_id

        async def decide() -> bytes:
            desk = self._floor.desk(tenant_id)
            run = desk.runs.get(run_id)
            if run is None:
                state = await self._state_of_ended(tenant_id, run_id, same)
                return str(int(state)).encode()
            since = self._floor.mark()
            answer = str(change(desk, run, self._floor.now_us())).encode()
            self._floor.close_act(origin.acting(kind), since, [tenant_id])
            return await commit_answer(self._floor, self._answers, desk, request, answer)

        return int(await self._answers.once(tenant_id, request, decide))

    async def _state_of_ended(self, tenant_id: str, run_id: str, same: RunState | None) -> RunState:
        await self._floor.flushed()
        record = await self._read(lambda: TenantReads(self._store, tenant_id).run(run_id))
        if record is None:
            raise errors.NotFound("run", run_id)
        if record.state is not same or record.state not in RUN_ENDED:
            message = f"run {run_id} has {record.state.name.lower()}"
            raise errors.RunClosed(message, state=record.state.name)
        return same


def _index(run: LiveRun, task_key: str) -> int:
    index = run.graph.index.get(task_key)
    if index is None:
        raise errors.NotFound("task", task_key)
    return index
