"""Answers why the tasks of a run do not run, from the desk of the tenant."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tenure_server.core import errors
from tenure_server.core.ledger.lifecycle import TaskState
from tenure_server.core.runs import restoring
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.seeing.hindrances import Explained, explain, idle
from tenure_server.engine.floor import Floor
from tenure_server.engine.operations import Read
from tenure_server.engine.restore import read_run
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads


@dataclass(frozen=True, slots=True)
class ExplainedRun:
    """A page of the tasks of a run."""

    run: LiveRun
    tasks: Sequence[Explained]
    #: How many tasks do not run and have not ended, on all pages.
    idle: int
    #: Behind which task the next page begins. None: there is none.
    next_after: int | None


class Explaining:
    """Looks, and changes nothing."""

    def __init__(self, floor: Floor, store: Store, read: Read) -> None:
        self._floor = floor
        self._store = store
        self._read = read

    async def explain(
        self, tenant_id: str, run_id: str, task_keys: Collection[str], after: int, limit: int
    ) -> ExplainedRun:
        """Explains the tasks behind number `after`, at most so many, or chosen ones of these.

        Answers when all that it saw is committed. Raises NotFound, SeatElsewhere and
        StoreUnavailable.
        """
        desk = self._floor.desk(tenant_id)
        run = desk.runs.get(run_id)
        if run is None:
            await self._floor.flushed()
            run = await self._ended(tenant_id, run_id)
        waiting = idle(run)
        chosen = sorted({_index(run, key) for key in task_keys}) if task_keys else waiting
        chosen = [index for index in chosen if index > after]
        page = chosen[:limit]
        if run.ended:
            tasks = [Explained(index, TaskState(run.states[index]), ()) for index in page]
        else:
            agents = self._floor.dispatch.serving(tenant_id)
            tasks = explain(desk, run, page, agents, self._floor.now_us())
            # What memory has decided may not be committed yet, and nothing else may be told.
            await self._floor.flushed()
        return ExplainedRun(run, tasks, len(waiting), page[-1] if len(chosen) > limit else None)

    async def _ended(self, tenant_id: str, run_id: str) -> LiveRun:
        reads = TenantReads(self._store, tenant_id)

        def read() -> LiveRun:
            record = reads.run(run_id)
            if record is None:
                raise errors.NotFound("run", run_id)
            _, run, tasks = read_run(reads, record)
            restoring.restore(run, tasks, {})
            return run

        return await self._read(read)


def _index(run: LiveRun, task_key: str) -> int:
    index = run.graph.index.get(task_key)
    if index is None:
        raise errors.NotFound("task", task_key)
    return index
