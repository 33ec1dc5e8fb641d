"""Publishes events: ends the tasks that wait for them, and starts the runs that they start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import orjson

from tenure_server.core import errors
from tenure_server.core.definitions.features import EventTrigger
from tenure_server.core.definitions.payloads import Payload, payload_problem
from tenure_server.core.expressions.evaluation import EvaluationFailed
from tenure_server.core.ledger import records
from tenure_server.core.runs import data_flow
from tenure_server.engine import starting
from tenure_server.engine.answers import Answers, commit_answer
from tenure_server.engine.chance import draw
from tenure_server.engine.court import Court
from tenure_server.engine.floor import Floor
from tenure_server.engine.operations import Read
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.engine.settings import Settings
from tenure_server.engine.workflows import Workflows
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads


class Publishing:
    """Takes events of tenants whose seats are held here."""

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

    async def publish(
        self,
        origin: records.Origin,
        name: str,
        key: str,
        payload: Payload | None,
        request: records.Request | None,
    ) -> tuple[int, Sequence[str]]:
        """Gives how many tasks had waited for the event, and the runs that it started.

        Everything is one act: a start that is refused refuses the event. Raises FieldsInvalid,
        ActDenied, QuotaExceeded, RequestIdReused, SeatElsewhere, StoreUnavailable.
        """
        if payload is not None and (problem := payload_problem(payload)):
            raise errors.FieldsInvalid([("payload", problem)])
        tenant_id = origin.tenant_id

        async def decide() -> bytes:
            desk = self._floor.desk(tenant_id)
            plan = starting.Plan(origin, {}, self._floor.now_us(), draw)
            for start, known in await self._starts(tenant_id, name, key, payload):
                plan.add(start, known)
            starting.check_quota(desk, plan.new, self._settings)
            act = origin.acting("event.publish")
            still = partial(self._floor.check_desk, desk)
            async with self._court.turn(tenant_id):
                await starting.judged(self._court, plan, act, desk, self._settings, still)
                since, now_us = self._floor.mark(), self._floor.now_us()
                self._floor.journal.under(tenant_id, desk.term)
                count = desk.consequences.events.publish(name, key, payload, now_us)
                run_ids = []
                for run in plan.runs(desk):
                    desk.open_run(run, plan.now_us)
                    run_ids.append(run.run_id)
                act.subject = {"event": name, "key": key} if key else {"event": name}
                self._floor.close_act(act, since, [tenant_id])
            answer = orjson.dumps([count, run_ids])
            return await commit_answer(self._floor, self._answers, desk, request, answer)

        count, run_ids = orjson.loads(await self._answers.once(tenant_id, request, decide))
        return count, run_ids

    async def _starts(
        self, tenant_id: str, name: str, key: str, payload: Payload | None
    ) -> list[tuple[records.StartRun, KnownWorkflow]]:
        """The runs that an event starts. Raises FieldsInvalid for an input that breaks a schema.

        A condition that cannot be told does not hold: one workflow's fault is not the others'.
        """
        reads = TenantReads(self._store, tenant_id)
        found = await self._read(lambda: reads.event_triggers(name))
        event = {"name": name, "key": key, "payload": data_flow.given(payload)}
        starts = []
        for workflow, version in found:
            known = await self._workflows.known(tenant_id, workflow, version)
            triggers = [one for one in known.definition.events if one.name == name]
            for given in _inputs(triggers, event, payload):
                start = records.StartRun(workflow=workflow, version=version, labels={}, input=given)
                starts.append((start, known))
        plain = [start for start, _ in starts]
        starting.check_payloads(plain)
        starting.check_inputs(plain, [known for _, known in starts])
        return starts


def _inputs(
    triggers: Sequence[EventTrigger], event: dict[str, object], payload: Payload | None
) -> Iterator[Payload | None]:
    """The input of each run that these start."""
    names = {"event": event}
    for trigger in triggers:
        try:
            if trigger.when and not data_flow.holds(trigger.when, names):
                continue
            given = data_flow.fields(trigger.bindings, names) if trigger.bindings else payload
        except EvaluationFailed:
            continue
        yield given
