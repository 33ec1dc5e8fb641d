"""Who watches a run sees each event once, in order, and is told when there is no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tests.server.core.world import START_US, task
from tests.server.engine.conftest import TENANT, House, soon

from tenure_server.core import errors, ids
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Row
from tenure_server.core.ledger.lifecycle import EventKind
from tenure_server.engine import watch
from tenure_server.engine.lanes import Lanes

#: How many tasks are leased in one commit.
TOGETHER = 7


async def sequences(house: House, run_id: str, after: int = 0, run_only: bool = False) -> list[int]:
    """The numbers of all events that a watcher sees until the run's end."""
    seen = []
    async for events in house.engine.watch(TENANT, run_id, after, run_only):
        assert events
        seen += [event.sequence for event in events]
    return seen


async def work_off(house: House, count: int) -> None:
    """Executes tasks, a few at a time."""
    session = house.session(slots=TOGETHER)
    session.add_credits(TOGETHER)
    done = 0
    while done < count:
        for lease in (await soon(session)).leases:
            words = (lease.run.run_id, lease.task.key, lease.term, lease.token)
            session.settle(*words, Success())
            done += 1
            session.add_credits(1)


@pytest.mark.parametrize("backlog", [4096, 3], ids=["keeping up", "lagging"])
async def test_a_watcher_sees_every_event_once_in_order(
    house: House, backlog: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BACKLOG_MAX", backlog)
    monkeypatch.setattr(watch, "PAGE", 10)
    await house.register(*[task(f"t{number}") for number in range(60)])
    run_id = await house.start()
    early = [asyncio.create_task(sequences(house, run_id)) for _ in range(3)]
    late = asyncio.create_task(sequences(house, run_id, 50))
    await work_off(house, 60)
    total = 2 + 2 * 60
    for watcher in early:
        assert await asyncio.wait_for(watcher, 60) == list(range(1, total + 1))
    assert await asyncio.wait_for(late, 60) == list(range(51, total + 1))
    assert await sequences(house, run_id, 7) == list(range(8, total + 1))


async def test_a_slow_watcher_reads_what_it_missed_and_makes_no_memory_grow(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BACKLOG_MAX", 3)
    await house.register(*[task(f"t{number}") for number in range(20)])
    run_id = await house.start()
    watching = house.engine.watch(TENANT, run_id, 0, False)
    seen = [event.sequence for event in await anext(watching)]
    [watcher] = house.engine._floor.watchers._by_run[run_id]
    await work_off(house, 20)
    assert len(watcher.take()) <= 3
    watcher.lost_track = True
    async for events in watching:
        seen += [event.sequence for event in events]
    assert seen == list(range(1, 43))
    assert not house.engine._floor.watchers._by_run


async def test_a_watcher_of_the_run_alone_sees_its_begin_and_end(house: House) -> None:
    await house.register(task("a"), task("b", "a"))
    run_id = await house.start()
    watching = asyncio.create_task(sequences(house, run_id, run_only=True))
    await work_off(house, 2)
    assert await asyncio.wait_for(watching, 60) == [1, 6]
    assert await sequences(house, run_id, run_only=True) == [1, 6]


async def test_a_run_that_is_not_there_or_not_ours_cannot_be_watched(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    await house.add_tenant("other")
    for tenant_id, name in (
        (TENANT, ids.new_id(TENANT, START_US, b"nobody")),
        ("other", run_id),
    ):
        with pytest.raises(errors.NotFound) as refused:
            await anext(house.engine.watch(tenant_id, name, 0, False))
        assert refused.value.message == f"no such run: {name}"


async def test_watchers_of_a_tenant_read_one_after_the_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, others find a thread that reads for them."""
    await house.register(task("a"))
    run_id = await house.start()
    read, reading, most = house.engine.read, 0, 0

    async def counted(*asked: Any) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        try:
            return await read(*asked)
        finally:
            reading -= 1

    monkeypatch.setattr(house.engine, "read", counted)
    watching = [asyncio.create_task(sequences(house, run_id)) for _ in range(20)]
    await work_off(house, 1)
    for watcher in watching:
        assert await asyncio.wait_for(watcher, 10) == [1, 2, 3, 4]
    assert most == 1


async def test_watchers_of_a_tenant_go_on_one_after_the_other() -> None:
    """Also those for whom all was read before: others have their turns between them."""
    lanes, turn, went_on = Lanes(), 0, list[int]()

    async def follow() -> None:
        async with lanes.lane(TENANT):
            pass
        went_on.append(turn)

    following = [asyncio.create_task(follow()) for _ in range(5)]
    while len(went_on) < len(following):
        turn += 1
        await asyncio.sleep(0)
    assert len(set(went_on)) == len(following)


async def test_what_is_committed_together_is_handed_over_together(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to each watcher, and each event is made once for all of them."""
    await house.register(*[task(f"t{number}") for number in range(TOGETHER)])
    run_id = await house.start()
    offer, event_of, publish = watch.Watcher.offer, watch.event_of, watch.Watchers.publish
    #: Of the present commit: who was handed something, and which events were made.
    handed, made = Counter[watch.Watcher](), Counter[int]()
    #: Of all commits: how many events, handed over how often, and made how often.
    largest = most_handed = most_made = 0

    def noted_offer(watcher: watch.Watcher, events: Sequence[records.Event]) -> None:
        handed[watcher] += 1
        offer(watcher, events)

    def noted_event_of(row: Row) -> records.Event:
        made[row[2]] += 1
        return event_of(row)

    def noted_publish(watchers: watch.Watchers, rows: Sequence[Row]) -> None:
        nonlocal largest, most_handed, most_made
        handed.clear()
        made.clear()
        publish(watchers, rows)
        largest = max(largest, len(made))
        most_handed = max(most_handed, *handed.values(), 0)
        most_made = max(most_made, *made.values(), 0)

    monkeypatch.setattr(watch.Watcher, "offer", noted_offer)
    monkeypatch.setattr(watch, "event_of", noted_event_of)
    monkeypatch.setattr(watch.Watchers, "publish", noted_publish)
    watching = [house.engine.watch(TENANT, run_id, 0, False) for _ in range(20)]
    for watcher in watching:
        assert [event.sequence for event in await anext(watcher)] == [1]
    await work_off(house, TOGETHER)
    for watcher in watching:
        seen = [event.sequence async for events in watcher for event in events]
        assert seen == list(range(2, 2 * TOGETHER + 3))
    assert largest >= TOGETHER
    assert most_handed == 1
    # What concerns the run is made once more, for those who want nothing else.
    assert most_made <= 2


async def test_watchers_are_told_when_the_coordinator_cannot_follow(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    watching = house.engine.watch(TENANT, run_id, 0, False)
    await anext(watching)
    house.store.tricky.breaks.append("after")
    with pytest.raises(errors.StoreUnavailable):
        await house.start()
    with pytest.raises(errors.Stopping):
        await anext(watching)
    await house.serving()
    again = house.engine.watch(TENANT, run_id, 1, False)
    following = asyncio.create_task(sequences(house, run_id, 1))
    await work_off(house, 2)
    assert await asyncio.wait_for(following, 60) == [2, 3, 4]
    assert EventKind.TASK_LEASED in await house.kinds(run_id)
    await again.aclose()  # type: ignore[attr-defined]


async def test_a_watch_from_beyond_the_last_event_ends_with_the_run(house: House) -> None:
    await house.register(task("a"))
    run_id = await house.start()
    watching = asyncio.create_task(sequences(house, run_id, 1000))
    await work_off(house, 1)
    assert await asyncio.wait_for(watching, 60) == []


async def test_a_watch_that_the_coordinator_lost_leaves_no_gap(house: House) -> None:
    """A commit that failed may have been kept. What is committed after it must not be told by a
    watch from before it, which may be reading still.
    """
    await house.register(task("a"), task("b", "a"))
    run_id = await house.start()
    watching = house.engine.watch(TENANT, run_id, 0, False)
    assert [event.sequence for event in await anext(watching)] == [1]
    [watcher] = house.engine._floor.watchers._by_run[run_id]
    house.engine._floor.watchers.end_all()
    await work_off(house, 2)
    assert list(watcher.take()) == []
    seen = [1]
    # It ends as lost, or with the run when its next page holds the run's last event already.
    with contextlib.suppress(errors.Stopping):
        async for events in watching:
            seen.extend(event.sequence for event in events)
    assert seen == list(range(1, len(seen) + 1))
