"""Moves runs to newer versions of their workflows.

What is needed of a run is read in a reader's thread, where it is laid beside the newer definition;
whether all that still holds is asked at the moment of the move, which is one decision and one act.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import orjson

from tenure_constitution.judge import Objection
from tenure_server.core import errors
from tenure_server.core.definitions.definition import Payload
from tenure_server.core.desks import moving, versions
from tenure_server.core.desks.crossing import Crossing
from tenure_server.core.desks.desk import Desk
from tenure_server.core.desks.versions import Version
from tenure_server.core.evidence import Act
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind
from tenure_server.core.runs import restoring
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine.alone import changed
from tenure_server.engine.answers import Answers, commit_answer
from tenure_server.engine.court import Court
from tenure_server.engine.floor import Floor
from tenure_server.engine.operations import Read
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.engine.restore import read_run
from tenure_server.engine.settings import Settings
from tenure_server.engine.starting import check_open_tasks, check_quota
from tenure_server.engine.workflows import Workflows
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

#: How many events are read at once.
_EVENTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of it."""

    version: int
    digest: str
    #: How many tasks that had ended are to be executed again.
    reopened: int
    #: Articles that warn of it; of a repeated request they are told once.
    warnings: tuple[Objection, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the store has of a run."""

    record: records.Run
    run: LiveRun
    tasks: dict[int, records.Task]


class Moves:
    """Everything raises as `Operations` does, and VersionsDiffer and ActDenied."""

    def __init__(
        self,
        floor: Floor,
        store: Store,
        answers: Answers,
        court: Court,
        workflows: Workflows,
        settings: Settings,
        read: Read,
    ) -> None:
        self._floor = floor
        self._store = store
        self._answers = answers
        self._court = court
        self._workflows = workflows
        self._settings = settings
        self._read = read

    async def move(
        self,
        origin: records.Origin,
        run_id: str,
        version: int,
        *,
        resume: bool,
        reason: str,
        request: records.Request | None,
    ) -> Moved:
        """Puts a run under a newer version of its workflow, the newest for 0."""
        tenant_id = origin.tenant_id
        async with self._answers.claim(tenant_id, [request]) as found:
            if request is not None and request.request_id in found:
                return Moved(*orjson.loads(found[request.request_id].response))
            with self._floor.alone.holding(run_id):
                # What is read below must hold all that memory has decided.
                await self._floor.flushed()
                desk = self._floor.desk(tenant_id)
                moved = await self._moved(origin, desk, run_id, version, resume, reason)
            answer = orjson.dumps([moved.version, moved.digest, moved.reopened])
            await commit_answer(self._floor, self._answers, desk, request, answer)
            return moved

    async def _moved(
        self,
        origin: records.Origin,
        desk: Desk,
        run_id: str,
        version: int,
        resume: bool,
        reason: str,
    ) -> Moved:
        """Reads what is needed of a run, and decides."""
        tenant_id = origin.tenant_id
        stored = await self._stored(tenant_id, run_id)
        known = await self._workflows.known(tenant_id, stored.record.workflow, version)
        to = _version_of(known)
        act = origin.acting("run.move")
        if not versions.check_state(stored.run, to):
            run, since = self._still(desk, stored), self._floor.mark()
            if resume:
                desk.interventions.resume(run, reason, self._floor.now_us())
            self._floor.close_act(act, since, [tenant_id])
            return Moved(to.number, to.digest, 0)
        wish = await self._prepared(tenant_id, stored, to, resume=resume, reason=reason)
        async with self._court.turn(tenant_id):
            warnings = await self._judged(origin, act, stored.record, known)
            run = self._still(desk, stored)
            self._check_quota(desk, run, known)
            since, now_us = self._floor.mark(), self._floor.now_us()
            reopened = moving.move(desk, run, wish, now_us)
            self._floor.close_act(act, since, [tenant_id])
        return Moved(to.number, to.digest, reopened, warnings)

    # -- before

    async def _stored(self, tenant_id: str, run_id: str) -> _Stored:
        reads = TenantReads(self._store, tenant_id)

        def read() -> _Stored:
            sequence = reads.last_sequence(run_id)
            record = reads.run(run_id)
            if record is None:
                raise errors.NotFound("run", run_id)
            if reads.is_pruned(run_id):
                message = f"run {run_id}: its payloads were pruned; start a new run instead"
                raise errors.RunClosed(message, state=record.state.name)
            _, run, tasks = read_run(reads, record)
            if run.sequence != sequence:
                raise changed(run_id)
            restoring.restore(run, tasks, {})
            return _Stored(record, run, tasks)

        return await self._read(read)

    async def _prepared(
        self, tenant_id: str, stored: _Stored, to: Version, *, resume: bool, reason: str
    ) -> moving.Move:
        """Lays a run beside a newer version, and reads what it needs there. Raises VersionsDiffer,
        as far as the run by itself decides that.
        """
        reads, run = TenantReads(self._store, tenant_id), stored.run
        again = moving.to_open_again(run)
        now_us = self._floor.now_us()

        def read() -> moving.Move:
            crossing = Crossing(run, to, again=again, reopened=run.ended, now_us=now_us)
            crossing.check()
            return moving.Move(
                to=to,
                resume=resume,
                reason=reason,
                stored=stored.tasks,
                outputs=_outputs(reads, crossing),
                successes=_successes(reads, run.run_id, crossing.unnoted()),
            )

        return await self._read(read)

    async def _judged(
        self, origin: records.Origin, act: Act, record: records.Run, known: KnownWorkflow
    ) -> tuple[Objection, ...]:
        """Has the move judged as if the run were started under the newer version."""
        try:
            [warnings] = await self._court.starts(origin, act, [(record, known)])
        except errors.ActDenied:
            if origin.act is None:
                # It is one of many, and no gate writes down that it was refused.
                act.refusal = "ACT_DENIED"
                self._floor.note(act, [record.tenant_id])
            raise
        return warnings

    # -- at the moment of the move

    def _still(self, desk: Desk, stored: _Stored) -> LiveRun:
        """The run as it is now. Raises RunChanged unless it is what was read."""
        self._floor.check_desk(desk)
        run = desk.runs.get(stored.run.run_id)
        if run is None and stored.run.ended:
            return stored.run
        if run is None or run.sequence != stored.run.sequence:
            raise changed(stored.run.run_id)
        return run

    def _check_quota(self, desk: Desk, run: LiveRun, known: KnownWorkflow) -> None:
        more = len(known.graph.keys) - run.planned
        if run.ended:
            check_quota(desk, [known], self._settings)
        elif more > 0:
            check_open_tasks(desk, more, self._settings)


def _version_of(known: KnownWorkflow) -> Version:
    record = known.record
    return Version(
        number=record.version,
        digest=record.digest,
        definition=known.definition,
        graph=known.graph,
        facts=known.facts,
    )


def _outputs(reads: TenantReads, crossing: Crossing) -> dict[int, Payload]:
    """The outputs that are needed under the newer version, by their numbers there."""
    found = reads.outputs(crossing.old.run_id, crossing.needed_outputs())
    return {crossing.numbers[index]: output for index, output in found.items()}


def _successes(reads: TenantReads, run_id: str, keys: Collection[str]) -> dict[str, int]:
    """By which event tasks have succeeded last."""
    found: dict[str, int] = {}
    after = 0
    while keys and (page := reads.events(run_id, after, _EVENTS_AT_ONCE)):
        for event in page:
            if event.kind is EventKind.TASK_SUCCEEDED and event.task_key in keys:
                found[event.task_key] = event.sequence
        after = page[-1].sequence
    return found
