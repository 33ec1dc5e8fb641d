"""What is worked out before runs and definitions are taken: checks, rows, answers to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import orjson

from tenure_constitution.judge import Objection
from tenure_server.core import errors, ids
from tenure_server.core.definitions.definition import WorkflowDefinition, digest_of, payload_problem
from tenure_server.core.definitions.graph import Graph
from tenure_server.core.desks.desk import Desk
from tenure_server.core.evidence import Act
from tenure_server.core.leasing import timeouts
from tenure_server.core.leasing.leases import Draw
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Row
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.core.runs import run_data
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.scheduling.schedules import RESERVED_LABELS
from tenure_server.engine.answers import answer_row, answer_to
from tenure_server.engine.court import Court, from_words
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.engine.settings import Settings
from tenure_server.store.acts import Acts


def check_labels(starts: Sequence[records.StartRun]) -> None:
    """Raises FieldsInvalid for labels that only the coordinator gives."""
    violations = [
        (
            f"{start.input_path.removesuffix('input')}labels[{word!r}]",
            f"begins with {RESERVED_LABELS!r}, as only labels of the coordinator do",
        )
        for start in starts
        for word in start.labels
        if word.startswith(RESERVED_LABELS)
    ]
    if violations:
        raise errors.FieldsInvalid(violations)


#: Refusals that decide a start which nobody waits for, with their reasons in the contract. After
#: others it is tried again.
DECIDING: Final[dict[type[errors.Refusal], str]] = {
    errors.ActDenied: "ACT_DENIED",
    errors.QuotaExceeded: "QUOTA_EXCEEDED",
    errors.NotFound: "NOT_FOUND",
    errors.DefinitionChanged: "DEFINITION_CHANGED",
    errors.FieldsInvalid: "FIELD_INVALID",
}


def check_payloads(starts: Sequence[records.StartRun]) -> None:
    """Raises FieldsInvalid for inputs that are too large or do not parse."""
    violations = [
        (start.input_path, problem)
        for start in starts
        if start.input is not None and (problem := payload_problem(start.input))
    ]
    if violations:
        raise errors.FieldsInvalid(violations)


def check_inputs(starts: Sequence[records.StartRun], workflows: Sequence[KnownWorkflow]) -> None:
    """Raises FieldsInvalid for inputs that break the schemas of their workflows."""
    violations = [
        (start.input_path, problem)
        for start, known in zip(starts, workflows, strict=True)
        if (problem := run_data.input_problem(known.definition, start.input))
    ]
    if violations:
        raise errors.FieldsInvalid(violations)


def check_quota(desk: Desk, workflows: Sequence[KnownWorkflow], settings: Settings) -> None:
    """Raises QuotaExceeded when these runs would be too many for the tenant."""
    if len(desk.runs) + len(workflows) > settings.open_runs_max:
        limit = settings.open_runs_max
        raise errors.QuotaExceeded("open_runs", limit, f"the tenant has {limit} open runs or more")
    check_open_tasks(desk, sum(len(known.graph.keys) for known in workflows), settings)


def check_open_tasks(desk: Desk, tasks: int, settings: Settings) -> None:
    """Raises QuotaExceeded when so many more tasks would be too many for the tenant."""
    if desk.open_tasks + tasks > settings.open_tasks_max:
        limit = settings.open_tasks_max
        message = f"the tenant would have more than {limit} open tasks"
        raise errors.QuotaExceeded("open_tasks", limit, message)


async def judged(
    court: Court,
    plan: Plan,
    act: Act,
    desk: Desk,
    settings: Settings,
    still: Callable[[], None],
) -> list[tuple[Objection, ...]]:
    """Has the starts of a plan judged, and gives what warns of each. Then its runs may be opened.

    To be called in the court's turn, which lasts until they are. Others are served meanwhile:
    `still` raises when what was planned holds no more. Raises ActDenied and QuotaExceeded too.
    """
    warnings = await court.starts(plan.origin, act, plan.planned) if plan.planned else []
    still()
    check_quota(desk, plan.new, settings)
    return warnings


class Plan:
    """The runs that a call starts, and what it answers."""

    def __init__(
        self,
        origin: records.Origin,
        found: Mapping[str, records.Answer],
        now_us: int,
        draw: Draw,
    ) -> None:
        self.origin = origin
        self.now_us = now_us
        #: Answers to keep, by request id.
        self.answers: dict[str, records.Answer] = {}
        self.request_rows: list[Row] = []
        self._found = found
        self._draw = draw
        #: The runs that are to be started.
        self.planned: list[tuple[records.Run, KnownWorkflow]] = []
        self._mine: dict[str, records.StartedRun] = {}

    @property
    def new(self) -> list[KnownWorkflow]:
        """The workflows of the runs that are to be started."""
        return [known for _, known in self.planned]

    def add(self, start: records.StartRun, known: KnownWorkflow) -> records.StartedRun:
        """Plans one run, or gives the one that its request id has started before."""
        request = start.request
        request_id = request.request_id if request is not None else ""
        if request_id in self._found:
            return _parse_started(self._found[request_id].response)
        if request_id and request_id in self._mine:
            if request is not None and self.answers[request_id].digest != request.digest:
                raise errors.RequestIdReused(
                    f"request_id {request_id!r} stands for two requests of one batch",
                    request_id=request_id,
                )
            return self._mine[request_id]
        run_id = ids.new_id(self.origin.tenant_id, self.now_us, self._draw(ids.RANDOM_BYTES))
        record = known.record
        started = records.StartedRun(run_id=run_id, version=record.version, digest=record.digest)
        self.planned.append((_run_record(run_id, start, known, self.origin, self.now_us), known))
        if request is not None and request_id:
            self._mine[request_id] = started
            response = orjson.dumps([run_id, record.version, record.digest])
            answer = self.answers[request_id] = answer_to(request, response)
            tenant_id = self.origin.tenant_id
            self.request_rows.append(answer_row(tenant_id, request_id, answer, self.now_us))
        return started

    def warned(
        self,
        started: Sequence[records.StartedRun],
        warnings: Sequence[tuple[Objection, ...]],
    ) -> list[records.StartedRun]:
        """The answers, with what warns of each run that is new."""
        if not any(warnings):
            return list(started)
        found = {run.run_id: of for (run, _), of in zip(self.planned, warnings, strict=True)}
        return [replace(one, warnings=found.get(one.run_id, ())) for one in started]

    def runs(self, desk: Desk) -> Iterable[LiveRun]:
        """The runs to open."""
        for record, known in self.planned:
            run = LiveRun(
                record,
                known.definition,
                known.graph,
                order=desk.next_order(),
                workflow_facts=known.facts,
            )
            # The law that judged it, which may be another one than when it was planned.
            run.constitution_digest = desk.law.digest
            yield run


def registration(
    origin: records.Origin,
    definition: WorkflowDefinition,
    graph: Graph,
    canonical: bytes,
    now_us: int,
    act: Act,
    warnings: Sequence[Mapping[str, str]],
) -> Callable[[Acts], bytes]:
    """The act that registers a definition; it gives the answer to keep.

    What is found to warn of it until it is done becomes part of the answer.
    """

    def work(acts: Acts) -> bytes:
        record, created = acts.register_workflow(
            origin.tenant_id,
            definition.name,
            digest_of(canonical),
            canonical,
            len(graph.keys),
            graph.dependency_count,
            origin.api_key_id,
            now_us,
            [trigger.name for trigger in definition.events],
        )
        act.definition = record.digest
        act.subject = {"workflow": record.name, "version": str(record.version)}
        return orjson.dumps([record.version, created, warnings])

    return work


def parse_registration(answer: bytes) -> tuple[int, bool, tuple[Objection, ...]]:
    """Version, whether it was new, and what warned of it."""
    # Answers from before there was a constitution have no warnings.
    version, created, *warnings = orjson.loads(answer)
    return version, created, tuple(map(from_words, warnings[0] if warnings else ()))


def _parse_started(response: bytes) -> records.StartedRun:
    run_id, version, digest = orjson.loads(response)
    return records.StartedRun(run_id=run_id, version=version, digest=digest)


def _run_record(
    run_id: str,
    start: records.StartRun,
    known: KnownWorkflow,
    origin: records.Origin,
    now_us: int,
) -> records.Run:
    parent = start.parent
    return records.Run(
        tenant_id=origin.tenant_id,
        run_id=run_id,
        workflow=known.record.name,
        workflow_version=known.record.version,
        workflow_digest=known.record.digest,
        state=RunState.RUNNING,
        priority=start.priority,
        labels=start.labels,
        input=start.input,
        correlation_id=origin.correlation_id,
        started_by=origin.api_key_id,
        reason="",
        task_count=len(known.graph.keys),
        succeeded=0,
        failed=0,
        upstream_failed=0,
        cancelled=0,
        create_us=now_us,
        start_us=None,
        end_us=None,
        parent_run_id="" if parent is None else parent.run_id,
        parent_task="" if parent is None else parent.task,
        deadline_us=timeouts.run_deadline_us(
            known.definition.total_timeout_us,
            now_us,
            None if parent is None else parent.deadline_us,
        ),
        detail=None if parent is None else orjson.dumps(parent.detail).decode(),
    )
