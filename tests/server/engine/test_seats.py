"""A coordinator believes in its seats only while it may, and one tenant does not stop others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.core.world import START_US, task
from tests.server.engine.conftest import PATIENCE_SECONDS, TENANT, House

from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.engine import keeping, restore
from tenure_server.engine.settings import Settings
from tenure_server.store.acts import Acts
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import TenantReads
from tenure_server.store.seats import Seats

SEAT_US = Settings().seat_us
#: Seats of this length are renewed every ten milliseconds.
SHORT_SEAT_US = 30_000


def gone(*_: object) -> None:
    """What the store says when it cannot be reached."""
    raise StoreFailed("the database is gone, says the test")


@pytest.fixture
async def shared(tmp_path: Path, postgres_url: str) -> AsyncIterator[House]:
    """A house on a store that others may share."""
    house = House(tmp_path, url=postgres_url)
    await house.open()
    await house.furnish()
    yield house
    await house.close()


async def test_a_seat_past_its_time_is_not_served_under(
    shared: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is cut off from the store steps back by itself, and comes back with the store."""
    session = shared.session()
    with monkeypatch.context() as patch:
        for method in ("take", "renew"):
            patch.setattr(Seats, method, gone)
        shared.clock.at_us += SEAT_US - 1
        shared.engine.check_seat(TENANT)
        shared.clock.at_us += 1
        with pytest.raises(errors.StoreUnavailable):
            shared.engine.check_seat(TENANT)
        session.accept("run", "a", 1, b"")
        assert isinstance(session.ended, errors.StoreUnavailable)
        assert not shared.engine.serving
    await shared.serving()
    shared.engine.check_seat(TENANT)


async def test_sessions_end_when_the_seats_could_not_be_renewed_in_time(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, Settings(seat_us=SHORT_SEAT_US), url=postgres_url)
    await house.open()
    await house.furnish()
    session = house.session()
    with monkeypatch.context() as patch:
        for method in ("take", "renew"):
            patch.setattr(Seats, method, gone)
        house.clock.at_us += SHORT_SEAT_US
        assert await asyncio.wait_for(session.outbound(), PATIENCE_SECONDS) is None
        assert isinstance(session.ended, errors.StoreUnavailable)
    await house.serving()
    await house.close()


async def test_on_a_file_that_nobody_shares_seats_have_no_end(house: House) -> None:
    house.clock.at_us += 10 * SEAT_US
    house.engine.check_seat(TENANT)


async def test_seats_are_renewed_while_open_work_is_read_back(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = House(tmp_path, url=postgres_url)
    await first.open()
    await first.furnish()
    await first.register(task("a"))
    run_id = await first.start()
    await first.close()
    second = House(tmp_path, Settings(seat_us=SHORT_SEAT_US), url=postgres_url)
    renewed = threading.Semaphore(0)
    in_time = []
    renew, read = Seats.renew, restore.read_open_runs

    def renew_and_tell(self: Seats, now_us: int, seat_us: int) -> list[records.Seat]:
        renewed.release()
        return renew(self, now_us, seat_us)

    def read_slowly(reads: TenantReads) -> list[restore.StoredRun]:
        # The first one belongs to the taking.
        in_time.append(all(renewed.acquire(timeout=PATIENCE_SECONDS) for _ in range(4)))
        return read(reads)

    monkeypatch.setattr(Seats, "renew", renew_and_tell)
    monkeypatch.setattr(restore, "read_open_runs", read_slowly)
    await second.open()
    assert in_time == [True]
    assert set(second.engine._floor.desks[TENANT].runs) == {run_id}
    await second.close()


async def test_recovery_shuts_out_what_was_sent_before_it(house: House) -> None:
    """A commit whose outcome is not known cannot come true after the work was read back."""
    await house.register(task("a"))
    before = house.engine._floor.desks[TENANT].term
    house.store.tricky.breaks.append("before")
    with pytest.raises(errors.StoreUnavailable):
        await house.start()
    await house.serving()
    assert house.engine._floor.desks[TENANT].term == before + 1


async def test_a_tenant_whose_open_work_is_broken_keeps_no_other_from_being_served(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.add_tenant("other")
    await house.register(task("a"))
    await house.start()
    read = restore.read_open_runs

    def read_broken(reads: TenantReads) -> list[restore.StoredRun]:
        runs = read(reads)
        if runs:
            raise LookupError("a definition is missing, says the test")
        return runs

    monkeypatch.setattr(restore, "read_open_runs", read_broken)
    house.engine._floor.fail(StoreFailed("says the test"))
    await house.serving()
    house.engine.check_seat("other")
    with pytest.raises(errors.Quarantined, match="a definition is missing"):
        house.engine.check_seat(TENANT)


async def test_a_desk_that_was_read_before_a_failure_is_not_opened_after_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = house.engine._floor
    read = office.seating.read
    seen: list[restore.StoredTenant | None] = []

    async def read_and_fail(seat: records.Seat) -> restore.StoredTenant | None:
        stored = await read(seat)
        seen.append(stored)
        if len(seen) == 1:
            office.fail(StoreFailed("again, says the test"))
        return stored

    monkeypatch.setattr(office.seating, "read", read_and_fail)
    office.fail(StoreFailed("says the test"))
    await house.serving()
    assert len(seen) == 2
    assert list(office.desks) == [TENANT]
    assert seen[1] is not None
    assert office.desks[TENANT].tenant is seen[1].tenant


async def test_a_tenant_whose_maker_went_away_is_served_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "CLEAR_SECONDS", 0.01)
    house = House(tmp_path)
    await house.open()
    opened: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(house.engine._floor, "_opened", opened.put_nowait)
    tenant = records.Tenant(
        tenant_id="late", display_name="", max_leases=1, weight=1, create_us=START_US
    )
    await house.act(lambda acts: Acts.create_tenant(acts, tenant))
    assert await asyncio.wait_for(opened.get(), PATIENCE_SECONDS) == "late"
    house.engine.check_seat("late")
    await house.close()
