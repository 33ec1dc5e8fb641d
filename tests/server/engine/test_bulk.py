"""What is done to many runs is done to each once, though it is broken off and asked for again.

The runs are as different as runs can be: one has an attempt to make again, one is paused, one has
lost its agent, one is leased, one is being cancelled; on both databases.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import LEASE_US, SECOND, task
from tests.server.engine.conftest import House
from tests.server.engine.test_lists import again, check_record, states, taken
from tests.server.engine.test_versions import settle

from tenure_server.core import errors
from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.definitions.features import SignalWait
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState
from tenure_server.core.seeing.filters import RunFilter
from tenure_server.engine import bulk
from tenure_server.engine.bulk import Bulk, Progress, Verb, Wish

TWICE = RetryPolicy(max_attempts=2, initial_delay_us=3600 * SECOND, jitter=0)
DONE = {
    Verb.CANCEL: EventKind.RUN_CANCELLED,
    Verb.CLOSE: EventKind.RUN_CLOSED,
    Verb.PAUSE: EventKind.RUN_PAUSED,
}


@pytest.fixture
def house(either: House) -> House:
    """A house on either database."""
    return either


async def runs_of_all_kinds(house: House) -> dict[str, str]:
    """Runs by what is the matter with them, the oldest first."""
    await house.register(task("a", retry=TWICE))
    session = house.session(slots=3)
    runs = {}
    for name in ("retrying", "lost", "paused"):
        runs[name] = await house.start()
        [lease] = await taken(session, 1)
        if name == "retrying":
            settle(session, lease, Failure("BUSY"))
        house.clock.at_us += 1
    await house.engine.operations.pause(house.origin, runs["paused"], "a walk", None)
    await house.pass_time(LEASE_US)
    for name in ("leased", "cancelling"):
        runs[name] = await house.start()
        house.clock.at_us += 1
    await taken(session, 3)
    await house.engine.operations.cancel(house.origin, runs["cancelling"], "before", None)
    found = await states(house, runs["retrying"])
    assert found["a"] is TaskState.RETRYING
    return runs


async def change(house: House, verb: Verb, *, stop_after: int = 0) -> Progress:
    """Asks for it under one id; leaves after so many runs."""

    async def at_once(seconds: float) -> None:
        """No test waits for a rate."""

    wish = Wish(
        wanted=RunFilter(workflow="flow"),
        verb=verb,
        reason="all of them",
        rate=1000,
        dry_run=False,
        request=records.Request(request_id="once", method="ChangeRuns", digest=b""),
    )
    engine = house.engine
    many = Bulk(
        engine.operations,
        engine.moves,
        house.store,
        read=engine.read,
        now_us=engine.now_us,
        sleep=at_once,
    )
    asked = many.change(house.origin, wish)
    last = await anext(asked)
    async for last in asked:
        if stop_after and last.matched >= stop_after:
            await asked.aclose()  # type: ignore[attr-defined]
    return last


@pytest.mark.parametrize("verb", list(DONE), ids=lambda verb: verb.name.lower())
async def test_it_is_done_once_to_each_though_it_is_broken_off(
    house: House, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "TOLD_RUNS", 1)
    runs = await runs_of_all_kinds(house)
    first = await change(house, verb, stop_after=2)
    assert first.matched == 2
    await again(house)
    last = await change(house, verb)
    refused = 1 if verb is Verb.PAUSE else 0
    assert (last.matched, last.done, last.refused) == (5, 5 - refused, refused)
    await house.engine._floor.flushed()
    # Leases that agents still had end with their time.
    await house.pass_time(LEASE_US)
    for name, run_id in runs.items():
        kinds = await house.kinds(run_id)
        if not (verb is Verb.PAUSE and name == "cancelling"):
            assert kinds.count(DONE[verb]) == 1, name
        run = await house.run(run_id)
        if verb is not Verb.PAUSE:
            assert run.state is (RunState.CLOSED if verb is Verb.CLOSE else RunState.CANCELLED), (
                name
            )
        await check_record(house, run_id)


async def test_a_run_that_changes_while_it_is_read_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again; one that never stands still is named and passed over."""
    wait = task("w", kind="", wait=SignalWait(name="go"))
    await house.register(task("a"), wait)
    runs = [await house.start() for _ in range(3)]
    for run_id in runs:
        await house.engine.operations.pause(house.origin, run_id, "", None)
    await house.register(wait, task("a"))
    changes = {runs[0]: 1, runs[1]: 99, runs[2]: 0}
    prepared = house.engine.moves._prepared

    async def slowly(tenant_id: str, stored: Any, *args: Any, **options: Any) -> Any:
        wish, run_id = await prepared(tenant_id, stored, *args, **options), stored.run.run_id
        if changes[run_id]:
            changes[run_id] -= 1
            await house.engine.operations.signal(house.origin, run_id, "other", None, None)
        return wish

    monkeypatch.setattr(house.engine.moves, "_prepared", slowly)
    last = await change(house, Verb.MOVE)
    assert (last.matched, last.done, last.refused) == (3, 2, 1)
    [(run_id, refusal)] = last.refusals
    assert (run_id, type(refusal)) == (runs[1], errors.RunChanged)
    versions = [(await house.run(run_id)).workflow_version for run_id in runs]
    assert versions == [2, 1, 2]
