"""Who watches a run sees each event once, in order, and is told when there is no more."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from tests.server.core.world import START_US, task
from tests.server.engine.conftest import TENANT, House, soon

from tenure_server.core import errors, ids
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import EventKind
from tenure_server.engine import watch


async def sequences(house: House, run_id: str, after: int = 0, run_only: bool = False) -> list[int]:
    """The numbers of all events that a watcher sees until the run's end."""
    seen = []
    async for events in house.engine.watch(TENANT, run_id, after, run_only):
        assert events
        seen += [event.sequence for event in events]
    return seen


async def work_off(house: House, count: int) -> None:
    """Executes tasks, a few at a time."""
    session = house.session(slots=7)
    session.add_credits(7)
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
