"""A store that cannot be read beside the loop: nothing is lost by it, and somebody is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from tests.server.core.world import task
from tests.server.engine.conftest import TENANT, House

from tenure_server.core import errors, ids
from tenure_server.core.leasing.leases import Success
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import TenantReads


def broken(self: TenantReads, *args: Any) -> None:
    """A read that fails."""
    raise StoreFailed("the disk is away, says the test")


async def _settled(house: House) -> None:
    """Waits for the work beside the loop, but for the loop that keeps the seats."""
    beside = [
        one
        for one in house.engine._floor._tasks
        if "keep()" not in repr(one) and "coro=<keep" not in repr(one)
    ]
    if beside:
        await asyncio.wait(beside)


async def test_request_ids_that_cannot_be_read_are_looked_up_one_by_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.register(task("a"))
    run_id = await house.start(request_id="r")
    await _settled(house)
    house.engine._answers.close(TENANT)
    house.engine._answers._known._items.clear()
    monkeypatch.setattr(TenantReads, "request_ids", broken)
    with house.store.reading():
        house.engine._learn(TENANT)
    with structlog.testing.capture_logs() as lines:
        house.engine._opened(TENANT)
        await _settled(house)
    assert [line["event"] for line in lines] == ["request ids could not be read"]
    assert await house.start(request_id="r") == run_id


async def test_an_agent_whose_result_cannot_be_judged_now_reports_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = house.session()
    monkeypatch.setattr(TenantReads, "run", broken)
    run_id = ids.new_id(TENANT, house.clock.now_us(), b"random")
    with structlog.testing.capture_logs() as lines:
        session.settle(run_id, "a", 1, b"token", Success())
        await _settled(house)
    assert [line["event"] for line in lines] == ["a result could not be judged"]
    assert isinstance(session.ended, errors.StoreUnavailable)
