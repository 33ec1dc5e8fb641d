"""What is seen of a run is what it is, at every step of a life in which all went wrong once.

Its attempt fails, its agent is lost, people pause, cancel and retry it, and the coordinator ends
after each step; on both databases.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.server.core.world import LEASE_US, SECOND, task
from tests.server.engine.conftest import PATIENCE_SECONDS, TENANT, House
from tests.server.engine.test_lists import again, taken
from tests.server.engine.test_versions import settle

from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState
from tenure_server.core.seeing.filters import RunFilter
from tenure_server.store.run_search import RunSearch

TWICE = RetryPolicy(max_attempts=3, initial_delay_us=SECOND, jitter=0)


@pytest.fixture
def house(either: House) -> House:
    """A house on either database."""
    return either


class Looking:
    """Somebody who lists, counts, searches and watches after each step."""

    def __init__(self, house: House, run_id: str) -> None:
        self.house = house
        self.run_id = run_id
        self.seen: list[int] = []

    async def found(self, **wanted: object) -> list[str]:
        """The runs that fit a filter, by page and by count."""
        asked = RunFilter(**wanted)  # type: ignore[arg-type]
        search = RunSearch(self.house.store, TENANT)
        page = await self.house.engine.read(search.page, asked, None, 10)
        counts = await self.house.engine.read(search.count, asked)
        assert sum(one.count for one in counts) == len(page.runs)
        return [run.run_id for run in page.runs]

    async def step(self, state: RunState, words: str = "") -> None:
        """The run is found by its state and no other, and watched on from where that broke off."""
        await self.house.engine._floor.flushed()
        for one in RunState:
            wanted = [self.run_id] if one is state else []
            assert await self.found(states=frozenset([one])) == wanted, one
        if words:
            assert await self.found(text=words) == [self.run_id]
        await self._watch()
        await again(self.house)

    async def _watch(self) -> None:
        watching = self.house.engine.watch(TENANT, self.run_id, len(self.seen), False)
        events = await self.house.events(self.run_id)
        while len(self.seen) < len(events):
            async with asyncio.timeout(PATIENCE_SECONDS):
                self.seen += [event.sequence for event in await anext(watching)]
        assert self.seen == [event.sequence for event in events]


async def test_a_run_is_listed_counted_found_and_watched_whatever_happens_to_it(
    house: House,
) -> None:
    await house.register(task("a", retry=TWICE), task("b", "a"))
    run_id = await house.start()
    looking = Looking(house, run_id)
    await looking.step(RunState.RUNNING)
    session = house.session()
    [lease] = await taken(session, 1)
    settle(session, lease, Failure("BUSY"))
    await looking.step(RunState.RUNNING)
    await house.engine.operations.pause(house.origin, run_id, "a walk", None)
    await looking.step(RunState.PAUSED)
    await house.engine.operations.resume(house.origin, run_id, "", None)
    await house.pass_time(SECOND)
    session = house.session()
    await taken(session, 1)
    await house.pass_time(LEASE_US)
    await looking.step(RunState.RUNNING)
    session = house.session()
    [lease] = await taken(session, 1)
    await house.engine.operations.cancel(house.origin, run_id, "stopped by Ada", None)
    await looking.step(RunState.CANCELLING)
    session = house.session()
    settle(session, lease, Failure("STOPPED"))
    await looking.step(RunState.CANCELLED, "ada stopped")
    operations, origin = house.engine.operations, house.origin
    await operations.reopen(origin, run_id, [], paused=False, reason="go on", request=None)
    # Why it had ended before it was taken up again finds it still.
    await looking.step(RunState.RUNNING, "ada")
    session = house.session()
    for _ in "ab":
        [lease] = await taken(session, 1)
        settle(session, lease, Success())
    await looking.step(RunState.SUCCEEDED)
    kinds = await house.kinds(run_id)
    assert EventKind.TASK_LEASE_LOST in kinds
    assert looking.seen == list(range(1, len(kinds) + 1))
