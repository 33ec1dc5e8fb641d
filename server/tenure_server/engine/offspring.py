"""Starts the runs that tasks of other runs wait for.

A desk says which it wants. Their definitions are read where need be, their starts are judged like
all others, and they begin in one act for each parent, by whoever started that one. What cannot be
started ends the attempt of the task with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby

import structlog

from tenure_server.core import errors
from tenure_server.core.desks.desk import Desk
from tenure_server.core.ledger import records
from tenure_server.core.progress.children import WantedChild
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine import starting
from tenure_server.engine.chance import draw
from tenure_server.engine.court import Court
from tenure_server.engine.floor import Floor
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.engine.settings import Settings
from tenure_server.engine.workflows import Workflows

#: So many runs begin in one act.
BATCH_MAX = 256

log = structlog.get_logger()


class Offspring:
    """Attends to the desks that are held here, each by itself."""

    def __init__(
        self, floor: Floor, court: Court, workflows: Workflows, settings: Settings
    ) -> None:
        self._floor = floor
        self._court = court
        self._workflows = workflows
        self._settings = settings
        self._attending: set[Desk] = set()

    def stir(self, desk: Desk) -> None:
        """A desk wants runs to be started."""
        if desk not in self._attending:
            self._attending.add(desk)
            self._floor.spawn(self._attend(desk))

    async def _attend(self, desk: Desk) -> None:
        children = desk.consequences.children
        try:
            while children.wanted and self._holds(desk):
                batch, children.wanted[:] = children.wanted[:BATCH_MAX], children.wanted[BATCH_MAX:]
                for _, group in groupby(batch, key=lambda wanted: wanted.run.run_id):
                    await self._start_all(desk, list(group))
        except errors.Refusal as refusal:
            # The seat is lost or the store away: whoever opens the desk next wants them again.
            log.info("runs of runs cannot be started now", reason=str(refusal))
        except Exception as error:  # noqa: BLE001 - a half-made turn must not be gone on with
            self._floor.fail(error)
        finally:
            self._attending.discard(desk)

    def _holds(self, desk: Desk) -> bool:
        return self._floor.desks.get(desk.tenant.tenant_id) is desk

    async def _start_all(self, desk: Desk, wanted: Sequence[WantedChild]) -> None:
        """Starts the children of one parent; each alone where they are refused together."""
        try:
            await self._start(desk, wanted)
        except tuple(starting.DECIDING) as refusal:
            if len(wanted) == 1:
                self._refuse(desk, wanted[0], refusal)
                return
            for one in wanted:
                await self._start_all(desk, [one])

    async def _start(self, desk: Desk, wanted: Sequence[WantedChild]) -> None:
        tenant_id, parent = desk.tenant.tenant_id, wanted[0].run
        found: dict[tuple[str, int], KnownWorkflow] = {}
        for one in wanted:
            name = one.workflow.name, one.workflow.version
            if name not in found:
                found[name] = await self._workflows.known(tenant_id, *name)
        origin = _origin_of(parent)
        plan = starting.Plan(origin, {}, self._floor.now_us(), draw)
        starts = [_start_of(one) for one in wanted]
        workflows = [found[one.workflow.name, one.workflow.version] for one in wanted]
        starting.check_inputs(starts, workflows)
        for start, known in zip(starts, workflows, strict=True):
            plan.add(start, known)
        starting.check_quota(desk, plan.new, self._settings)
        act = origin.acting("run.start")
        still = partial(self._floor.check_desk, desk)
        async with self._court.turn(tenant_id):
            await starting.judged(self._court, plan, act, desk, self._settings, still)
            since, children = self._floor.mark(), desk.consequences.children
            for one, run in zip(wanted, plan.runs(desk), strict=True):
                if children.still_wanted(one):
                    children.started(one, run.run_id)
                    desk.open_run(run, plan.now_us)
            act.subject = {"run": parent.run_id}
            self._floor.close_act(act, since, [tenant_id])
        self._floor.stir(desk)

    def _refuse(self, desk: Desk, wanted: WantedChild, refusal: errors.Refusal) -> None:
        children = desk.consequences.children
        if not self._holds(desk) or not children.still_wanted(wanted):
            return
        parent = wanted.run
        act, since = _origin_of(parent).acting("run.start"), self._floor.mark()
        act.subject = {"run": parent.run_id}
        children.refused(wanted, refusal.message, self._floor.now_us())
        self._floor.close_act(act, since, [parent.tenant_id])
        self._floor.stir(desk)


def _origin_of(parent: LiveRun) -> records.Origin:
    """Who starts the children of a run: whoever started it, in the same chain of causes."""
    return records.Origin(
        tenant_id=parent.tenant_id,
        api_key_id=parent.started_by,
        correlation_id=parent.correlation_id,
    )


def _start_of(wanted: WantedChild) -> records.StartRun:
    parent = wanted.run
    return records.StartRun(
        workflow=wanted.workflow.name,
        version=wanted.workflow.version,
        input=wanted.input,
        priority=parent.priority,
        labels=parent.labels,
        input_path=f"tasks.{parent.graph.keys[wanted.index]}.input",
        parent=records.Parent(
            run_id=parent.run_id,
            task=parent.graph.keys[wanted.index],
            deadline_us=None if parent.has_expired else parent.deadline_us,
            detail=wanted.detail,
        ),
    )
