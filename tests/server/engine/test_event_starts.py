"""Events start runs, once each and together with what waits for them; on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from tests.server.core.world import LEASE_US, json_payload, task
from tests.server.engine.conftest import TENANT, House
from tests.server.engine.test_lists import again, check_record, taken
from tests.server.engine.test_offspring import change_rest

from tenure_server.core import errors
from tenure_server.core.definitions.features import EventTrigger, EventWait
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, RunState

PAID = EventTrigger(
    name="paid", when="event.payload.sum > 10", bindings={"order": "event.key", "by": "event.name"}
)
ONCE = records.Request(request_id="r", method="PublishEvent", digest=b"")


@pytest.fixture
def house(either: House) -> House:
    """A house on either database."""
    return either


async def publish(
    house: House, value: Any = None, key: str = "o-1", request: records.Request | None = None
) -> tuple[int, list[str]]:
    """Says that something was paid: how many tasks had waited, and the runs it started."""
    told = json_payload({"sum": 20} if value is None else value)
    served, started = await house.engine.publishing.publish(
        house.origin, "paid", key, told, request
    )
    return served, list(started)


async def given(house: House, run_id: str) -> Any:
    """The input of a run."""
    payload = (await house.run(run_id)).input
    return payload and orjson.loads(payload.data)


async def test_an_event_starts_a_run_of_each_workflow_that_wants_it(house: House) -> None:
    await house.register(task("a"), name="bound", events=(PAID,))
    await house.register(task("a"), name="plain", events=(EventTrigger(name="paid"),))
    await house.register(task("a"), name="other", events=(EventTrigger(name="lost"),))
    await house.register(
        task("a"), name="unsure", events=(EventTrigger(name="paid", when="event.payload.no.such"),)
    )
    served, started = await publish(house)
    assert served == 0
    runs = {(await house.run(run_id)).workflow: run_id for run_id in started}
    assert runs.keys() == {"bound", "plain"}, "what cannot be told does not hold"
    assert await given(house, runs["bound"]) == {"order": "o-1", "by": "paid"}
    assert await given(house, runs["plain"]) == {"sum": 20}
    _, started = await publish(house, {"sum": 1})
    assert [(await house.run(run_id)).workflow for run_id in started] == ["plain"]


async def test_it_starts_the_newest_version_and_what_that_wants_counts(house: House) -> None:
    await house.register(task("a"), name="w", events=(EventTrigger(name="paid"),))
    await house.register(task("a"), task("b"), name="w", events=(PAID,))
    [run_id] = (await publish(house))[1]
    assert (await house.run(run_id)).workflow_version == 2
    await house.register(task("c"), name="w")
    assert (await publish(house))[1] == []


async def test_what_it_starts_and_what_waits_for_it_are_one_act(house: House) -> None:
    waiting = task("w", kind="", wait=EventWait(name="paid", key="'o-1'"))
    await house.register(waiting, name="waits")
    await house.register(task("a"), name="starts", events=(PAID,))
    run_id = await house.start("waits")
    commits = house.engine.commit_count
    served, [started] = await publish(house)
    assert (served, house.engine.commit_count) == (1, commits + 1)
    assert (await house.run(run_id)).state is RunState.SUCCEEDED
    assert await house.kinds(started) == [EventKind.RUN_STARTED]


async def test_a_repeated_event_is_one_also_after_a_restart(house: House) -> None:
    await house.register(task("a"), name="w", events=(PAID,))
    first = await publish(house, request=ONCE)
    assert await publish(house, request=ONCE) == first
    await again(house)
    assert await publish(house, request=ONCE) == first
    assert list(house.engine._floor.desks[TENANT].runs) == first[1]
    session = house.session()
    [lease] = await taken(session, 1)
    assert lease.run.run_id == first[1][0]
    await house.engine._floor.flushed()
    await check_record(house, first[1][0])


@pytest.mark.parametrize("trick", ["before", "after"])
async def test_an_event_whose_commit_failed_is_done_once(house: House, trick: str) -> None:
    await house.register(task("a"), name="w", events=(PAID,))
    house.store.tricky.breaks.append(trick)
    with pytest.raises(errors.StoreUnavailable):
        await publish(house, request=ONCE)
    await house.serving()
    _, started = await publish(house, request=ONCE)
    assert list(house.engine._floor.desks[TENANT].runs) == started
    assert len(started) == 1


@pytest.mark.parametrize("what", ["workflow", "tenant"])
async def test_while_they_rest_runs_are_started_and_wait(house: House, what: str) -> None:
    await house.register(task("a"), name="parent", events=(PAID,))
    await change_rest(house, "", what, pause=True)
    [run_id] = (await publish(house))[1]
    session = house.session()
    session.add_credits(1)
    await house.engine._floor.flushed()
    assert await house.kinds(run_id) == [EventKind.RUN_STARTED]
    await change_rest(house, "", what, pause=False)
    [lease] = await taken(session, 1)
    assert lease.run.run_id == run_id


async def test_an_event_that_would_start_too_much_does_nothing(house: House) -> None:
    waiting = task("w", kind="", wait=EventWait(name="paid"))
    await house.register(waiting, name="waits")
    await house.register(task("a"), name="w", events=(PAID,))
    run_id = await house.start("waits")
    await house.close()
    house.settings = replace(house.settings, open_runs_max=1)
    await house.open()
    with pytest.raises(errors.QuotaExceeded):
        await publish(house)
    assert (await house.run(run_id)).state is RunState.RUNNING
    assert list(house.engine._floor.desks[TENANT].runs) == [run_id]


async def test_runs_of_events_are_cancelled_and_retried_as_others(house: House) -> None:
    await house.register(task("a"), name="w", events=(PAID,))
    [run_id] = (await publish(house))[1]
    operations, origin = house.engine.operations, house.origin
    assert await operations.cancel(origin, run_id, "no", None) is RunState.CANCELLED
    count = await operations.reopen(origin, run_id, [], paused=False, reason="", request=None)
    assert count == 1
    session = house.session()
    [lost] = await taken(session, 1)
    await house.pass_time(LEASE_US)
    [lease] = await taken(session, 1)
    assert (lease.run.run_id, lease.attempt) == (run_id, lost.attempt)
