"""Much to judge at once: others are served in between, and nothing slips through meanwhile."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import orjson
import pytest
from tests.server.core.world import task
from tests.server.engine.conftest import TENANT, House, start_of
from tests.server.engine.test_constitutions import article

from tenure_constitution.article import Constitution
from tenure_constitution.laws import Point
from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.engine import starting
from tenure_server.engine.trials import SLICE_SECONDS, Trial

MANY = 300
#: New for each run, so that no verdict is remembered.
COSTLY = (
    "run.id != 'x' && run.labels.all(k, !run.labels[k].matches('(a|b)*a[ab][ab][ab][ab][ab]c'))"
)
LABELS = {f"label-{number}": "abaabbab" * 16 for number in range(30)}


def costly_start() -> records.StartRun:
    """The wish to start a run that takes long to judge."""
    return replace(start_of(), labels=LABELS)


def text(expression: str) -> str:
    """A constitution of one article at the start."""
    one = article(Point.START, expression)
    content = Constitution(articles=(one,)).canonical()
    members = orjson.loads(content)
    return orjson.dumps({"articles": members["articles"]}).decode()


async def planned(house: House) -> starting.Plan:
    """A batch that is to be started."""
    plan = starting.Plan(house.origin, {}, house.clock.now_us(), os.urandom)
    known = await house.engine.workflows.known(TENANT, "flow", 0)
    for _ in range(MANY):
        plan.add(costly_start(), known)
    return plan


async def test_a_batch_of_costly_starts_lets_others_be_served(house: House) -> None:
    await house.register(task("a"))
    await house.engine.legislature.enact(house.origin, text(COSTLY), None)
    plan = await planned(house)
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(another())
    act = house.origin.acting("run.start")
    warnings = await house.engine.court.starts(house.origin, act, plan.planned)
    other.cancel()
    assert warnings == [()] * MANY
    assert turns >= 2


async def test_a_law_that_changes_amid_a_batch_judges_all_of_it(house: House) -> None:
    await house.register(task("a"))
    await house.engine.legislature.enact(house.origin, text(COSTLY), None)
    plan = await planned(house)
    laws = house.engine.constitutions
    act = house.origin.acting("run.start")
    judging = asyncio.ensure_future(house.engine.court.starts(house.origin, act, plan.planned))
    await asyncio.sleep(0)
    assert not judging.done()
    before = laws.of(TENANT)
    laws.forget(TENANT)
    assert laws.of(TENANT) is not before
    assert await judging == [()] * MANY
    await house.engine.legislature.enact(house.origin, text("false"), None)
    with pytest.raises(errors.ActDenied):
        await house.engine.court.starts(house.origin, act, plan.planned)


async def test_two_batches_side_by_side_are_held_against_each_other(house: House) -> None:
    await house.register(task("a"))
    limit = f"tenant.open_runs < {MANY} && {COSTLY}"
    await house.engine.legislature.enact(house.origin, text(limit), None)
    starts = [costly_start() for _ in range(MANY * 2 // 3)]
    found = await asyncio.gather(
        *(house.engine.start_runs(house.origin, starts) for _ in range(2)), return_exceptions=True
    )
    assert [type(one) for one in found] == [list, errors.ActDenied]


async def test_a_slice_of_a_trial_ends_amid_a_decision(house: House) -> None:
    """One decision of many starts is judged in many slices, and each is judged once."""
    await house.register(task("a"))
    await house.engine.start_runs(house.origin, [costly_start() for _ in range(MANY)])
    at = 0.0

    def monotonic() -> float:
        nonlocal at
        at += SLICE_SECONDS / 5
        return at

    trial = Trial(
        house.store,
        TENANT,
        house.engine.constitutions,
        Constitution(articles=(article(Point.START, "false"),)),
        rpc_of=lambda method: None,
        decisions_max=0,
        monotonic=monotonic,
    )
    await house.engine.read(trial.begin)
    steps = 0
    while await house.engine.read(trial.step):
        steps += 1
        assert len(trial.progress.changes) <= steps * 5
    assert steps >= MANY / 5
    assert len(trial.progress.changes) == MANY
    assert trial.progress.judged == trial.progress.total
