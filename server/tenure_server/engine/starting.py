"""What is worked out before runs and definitions are taken: checks, rows, answers to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import orjson

from tenure_constitution.judge import Objection
from tenure_server.core import errors, ids, records
from tenure_server.core.definition import WorkflowDefinition, digest_of, payload_problem
from tenure_server.core.desk import Desk
from tenure_server.core.evidence import Act
from tenure_server.core.graph import Graph
from tenure_server.core.journal import Row
from tenure_server.core.leases import Draw
from tenure_server.core.lifecycle import RunState
from tenure_server.core.runs import LiveRun
from tenure_server.engine.answers import answer_row, answer_to
from tenure_server.engine.court import from_words
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.engine.settings import Settings
from tenure_server.store.acts import Acts


def check_payloads(starts: Sequence[records.StartRun]) -> None:
    """Raises FieldsInvalid for inputs that are too large or do not parse."""
    violations = [
        (start.input_path, problem)
        for start in starts
        if start.input is not None and (problem := payload_problem(start.input))
    ]
    if violations:
        raise errors.FieldsInvalid(violations)


def check_quota(desk: Desk, workflows: Sequence[KnownWorkflow], settings: Settings) -> None:
    """Raises QuotaExceeded when these runs would be too many for the tenant."""
    if len(desk.runs) + len(workflows) > settings.open_runs_max:
        limit = settings.open_runs_max
        raise errors.QuotaExceeded("open_runs", limit, f"the tenant has {limit} open runs or more")
    tasks = sum(len(known.graph.keys) for known in workflows)
    if desk.open_tasks + tasks > settings.open_tasks_max:
        limit = settings.open_tasks_max
        message = f"the tenant would have more than {limit} open tasks"
        raise errors.QuotaExceeded("open_tasks", limit, message)


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
        found = {run.run_id: of for (run, _), of in zip(self.planned, warnings, strict=True)}
        return [replace(one, warnings=found.get(one.run_id, ())) for one in started]

    def runs(self, desk: Desk) -> Iterable[LiveRun]:
        """The runs to open."""
        for record, known in self.planned:
            under = replace(record, constitution_digest=desk.law.digest)
            yield LiveRun(
                under,
                known.definition,
                known.graph,
                order=desk.next_order(),
                workflow_facts=known.facts,
            )


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
    )
