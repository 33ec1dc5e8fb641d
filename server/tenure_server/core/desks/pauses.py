"""Workflows and tenants that are paused: of none of their runs is anything new leased.

Runs may start meanwhile, and wait; what is leased, timers and waits go on. The runs themselves know
nothing of it, so that one that is paused by itself stays so when its workflow is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_WORKING, RunState, TaskState
from tenure_server.core.runs.gates import Hold
from tenure_server.core.runs.live import LiveRun

if TYPE_CHECKING:
    from tenure_server.core.desks.desk import Desk

#: Stands for the whole tenant among the names of workflows.
TENANT = ""


def hold_of(workflow: str) -> Hold:
    """What the ready tasks of a paused workflow wait for."""
    return ("paused", workflow)


def of(desk: Desk, run: LiveRun) -> list[records.Pause]:
    """What holds a run: the pause of its tenant, of its workflow, both, or nothing."""
    found = (desk.pauses.get(name) for name in (TENANT, run.workflow))
    return [pause for pause in found if pause is not None]


def rests(desk: Desk, run: LiveRun) -> bool:
    """Whether nothing is leased of a run because somebody paused it, its workflow or its tenant."""
    return run.state is RunState.PAUSED or bool(desk.pauses and of(desk, run))


def take(desk: Desk, pauses: Mapping[str, records.Pause], now_us: int) -> None:
    """Has a desk go by what is paused now, and lets go on at once what is not any more."""
    ended = desk.pauses.keys() - pauses.keys()
    desk.pauses = pauses
    for name in ended:
        if name != TENANT:
            desk.ready.unpark_all(hold_of(name))
    if ended:
        for run in desk.runs.values():
            if run.facts and (TENANT in ended or run.workflow in ended):
                _let_wait_anew(desk, run, now_us)
                desk.consequences.children.go_on(run)


def _let_wait_anew(desk: Desk, run: LiveRun, now_us: int) -> None:
    """Gives ready tasks all their time in the queue again, as after the pause of a run."""
    if run.state not in RUN_WORKING:
        return
    for index in list(run.facts):
        if run.states[index] == TaskState.READY:
            desk.interventions.queue_anew(run, index, now_us)
