"""Runs are opened again while they go on, end, or are opened again by somebody else."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.server.core.world import json_payload, task
from tests.server.engine.conftest import TENANT, House, soon

from tenure_server.core import errors
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import EventKind, RunState
from tenure_server.engine.pruning import Pruning
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import TenantReads


async def work_off(house: House, count: int) -> None:
    """Executes tasks."""
    session = house.session(slots=count)
    session.add_credits(count)
    done = 0
    while done < count:
        for lease in (await soon(session)).leases:
            words = lease.run.run_id, lease.task_key, lease.term, lease.token
            session.settle(*words, Success(json_payload(1)))
            done += 1
    await house.engine.committed()


async def again(house: House, run_id: str) -> int:
    """Opens a run again for its first task."""
    return await house.engine.operations.reopen(
        house.origin, run_id, ["a"], paused=False, reason="", request=None
    )


@pytest.fixture
async def one_left(house: House) -> str:
    """A run of which one task has succeeded and another is still to come."""
    await house.register(task("a"), task("b"))
    run_id = await house.start()
    await work_off(house, 1)
    return run_id


async def test_a_run_that_ends_while_it_is_read_is_not_opened_again_as_it_was(
    house: House, one_left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would tell events a second time, and every tenant's work would have to be read back."""
    read = house.engine.operations._read

    async def slowly(work: Callable[[], Any]) -> Any:
        found = await read(work)
        await work_off(house, 1)
        return found

    monkeypatch.setattr(house.engine.operations, "_read", slowly)
    with pytest.raises(errors.StoreUnavailable, match="has changed meanwhile"):
        await again(house, one_left)
    assert (await house.run(one_left)).state is RunState.SUCCEEDED
    assert house.engine.serving
    monkeypatch.undo()
    assert await again(house, one_left) == 1
    assert (await house.run(one_left)).state is RunState.RUNNING


async def test_of_two_who_open_a_run_again_at_once_one_is_told_to_look_again(
    house: House, one_left: str
) -> None:
    await work_off(house, 1)
    answers = await asyncio.gather(
        again(house, one_left), again(house, one_left), return_exceptions=True
    )
    assert answers[0] == 1
    assert isinstance(answers[1], errors.StoreUnavailable)
    assert (await house.kinds(one_left)).count(EventKind.RUN_REOPENED) == 1


async def test_a_run_that_is_opened_again_is_as_old_as_it_was(house: House) -> None:
    await house.register(task("a"), task("b", "a", kind="late"))
    runs = []
    for _ in range(3):
        runs.append(await house.start())
        house.clock.at_us += 1
    await work_off(house, 3)
    await house.engine.operations.cancel(house.origin, runs[1], "", None)
    await house.engine.operations.reopen(
        house.origin, runs[1], (), paused=False, reason="", request=None
    )
    leases = await house.engine.work.lease_tasks(
        house.keys["one"],
        [TENANT],
        agent="host",
        kinds=frozenset({"late"}),
        max_leases=3,
        wait_us=0,
    )
    assert [lease.run.run_id for lease in leases] == runs


class Slow(Pruning):
    """Something comes between what is found to be old and what is forgotten of it."""

    def __init__(self, house: House, between: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        settings = dataclasses.replace(
            house.engine.settings, keep_runs_us=1_000_000, keep_payloads_us=0
        )
        super().__init__(house.store, settings)
        self._between, self._loop = between, asyncio.get_running_loop()
        self._found = 0

    def _read(self, look: Callable[[], Any]) -> Any:
        old = super()._read(look)
        self._found += 1
        asyncio.run_coroutine_threadsafe(self._between(self._found), self._loop).result()
        return old


async def test_a_run_that_is_opened_again_is_not_forgotten_as_it_was_found(
    house: House, one_left: str
) -> None:
    """It ended long ago, and is open when it would be forgotten."""
    await work_off(house, 1)
    house.clock.at_us += 2_000_000

    async def between(found: int) -> None:
        if found == 1:
            assert await again(house, one_left) == 1

    await Slow(house, between).round(house.engine._floor)
    await work_off(house, 1)
    assert (await house.run(one_left)).state is RunState.SUCCEEDED
    assert house.engine.serving


async def test_a_run_that_is_being_forgotten_is_not_opened_again(
    house: House, one_left: str
) -> None:
    await work_off(house, 1)
    house.clock.at_us += 2_000_000
    told = []

    async def between(found: int) -> None:
        if found == 2:
            with pytest.raises(errors.RunChanged, match="has changed meanwhile") as refused:
                await again(house, one_left)
            told.append(refused.value)

    await Slow(house, between).round(house.engine._floor)
    assert told
    with pytest.raises(errors.NotFound):
        await again(house, one_left)
    assert house.engine.serving


@pytest.mark.parametrize(
    ("payloads_us", "runs_us"),
    [pytest.param(0, 1_000_000, id="run"), pytest.param(1_000_000, 0, id="payloads")],
)
async def test_a_run_is_not_forgotten_while_it_is_opened_again(
    house: House,
    one_left: str,
    payloads_us: int,
    runs_us: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though there is no other that could be forgotten."""
    await work_off(house, 1)
    house.clock.at_us += 2_000_000
    settings = dataclasses.replace(
        house.engine.settings, keep_payloads_us=payloads_us, keep_runs_us=runs_us
    )
    pruning, stored = Pruning(house.store, settings), house.engine.operations._stored

    async def slowly(*args: Any) -> Any:
        reopening = await stored(*args)
        await pruning.round(house.engine._floor)
        return reopening

    monkeypatch.setattr(house.engine.operations, "_stored", slowly)
    assert await again(house, one_left) == 1
    await work_off(house, 1)
    assert (await house.run(one_left)).state is RunState.SUCCEEDED
    assert not await house.engine.read(TenantReads(house.store, TENANT).is_pruned, one_left)
    assert house.engine.serving


async def test_a_run_is_not_forgotten_when_the_seat_was_another_ones_since_it_was_found(
    house: House, one_left: str
) -> None:
    """Who had it may have opened the run again, and knows nothing of who holds it here."""
    await work_off(house, 1)
    house.clock.at_us += 2_000_000
    floor = house.engine._floor

    async def between(found: int) -> None:
        if found == 2:
            floor.start_over(StoreFailed("the seat is lost, and taken again"))
            await house.serving()

    with pytest.raises(errors.StoreUnavailable):
        await Slow(house, between).round(floor)
    assert await again(house, one_left) == 1
