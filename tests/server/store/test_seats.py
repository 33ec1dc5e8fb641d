"""A tenant has one coordinator at a time that decides for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.server.store import world
from tests.server.store.world import NOW, OTHER, SECOND, TENANT

from tenure_server.core.ledger.records import Seat
from tenure_server.store import postgresql, tables
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.errors import SeatLost, StoreFailed
from tenure_server.store.reads import Reads
from tenure_server.store.seats import Seats

SEAT_US = 10 * SECOND


def terms(seats: list[Seat]) -> dict[str, int]:
    """The terms of seats by tenant."""
    return {seat.tenant_id: seat.term for seat in seats}


def test_a_new_tenant_comes_with_its_makers_seat(store: Store) -> None:
    world.settle(store)
    with store.reading():
        seat = Reads(store).seat(TENANT)
        assert Reads(store).seat(OTHER) is None
    assert seat is not None
    assert (seat.holder, seat.address, seat.term) == ("first", "first:7233", 1)
    assert terms(Seats(store).held()) == {TENANT: 1}
    assert Seats(store).take(NOW, SEAT_US) == []


def test_a_released_seat_is_taken_under_a_higher_term(store: Store) -> None:
    world.settle(store)
    seats = Seats(store)
    seats.release()
    assert seats.held() == []
    with store.reading():
        seat = Reads(store).seat(TENANT)
    assert seat is not None
    assert (seat.holder, seat.address, seat.until_us, seat.term) == ("", "", 0, 1)
    with pytest.raises(SeatLost):
        store.writer().commit(world.changes(term=1))
    taken = seats.take(NOW, SEAT_US)
    assert terms(taken) == {TENANT: 2}
    assert taken == seats.held()
    assert taken[0].address == "first:7233"
    store.writer().commit(world.changes(term=2))


def test_a_tenant_without_a_seat_row_gets_one(store: Store) -> None:
    world.settle(store)
    delete = tables.Seat.delete()
    store.writer().act({}, lambda _: store.backend.writing.execute(delete))
    assert terms(Seats(store).take(NOW, SEAT_US)) == {TENANT: 1}


def test_hundreds_of_seats_are_taken_at_once(store: Store) -> None:
    names = [f"tenant-{number:03}" for number in range(300)]

    def make(acts: Acts) -> None:
        for name in names:
            acts.create_tenant(world.tenant(name))

    store.writer().act({}, make)
    seats = Seats(store)
    seats.release()
    assert terms(seats.take(NOW, SEAT_US)) == dict.fromkeys(names, 2)
    assert terms(seats.renew(NOW, SEAT_US)) == dict.fromkeys(names, 2)


def test_renewing_keeps_the_term(store: Store) -> None:
    world.settle(store)
    [seat] = Seats(store).renew(NOW, SEAT_US)
    assert (seat.tenant_id, seat.term) == (TENANT, 1)
    store.writer().commit(world.changes(term=1))


def test_reclaiming_shuts_out_what_was_sent_under_the_term_before(store: Store) -> None:
    world.settle(store)
    Seats(store).reclaim()
    assert terms(Seats(store).held()) == {TENANT: 2}
    with pytest.raises(SeatLost):
        store.writer().commit(world.changes(term=1))
    store.writer().commit(world.changes(term=2))


def test_the_next_coordinator_of_a_file_takes_every_seat(
    sqlite_url: str, opening: Callable[..., Store]
) -> None:
    first = opening(sqlite_url)
    world.settle(first)
    world.settle(first, OTHER)
    first.close()
    second = opening(sqlite_url, "second")
    # The seats' time is not over, but the file's lock tells that nobody holds them.
    assert terms(Seats(second).take(NOW, SEAT_US)) == {TENANT: 2, OTHER: 2}
    with pytest.raises(SeatLost):
        second.writer().commit(world.changes(term=1))


def test_coordinators_leave_each_others_seats_alone(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    first, second = opening(postgres_url), opening(postgres_url, "second")
    world.settle(first)
    world.settle(second, OTHER)
    assert Seats(first).take(NOW, SEAT_US) == []
    assert Seats(second).take(NOW, SEAT_US) == []
    assert terms(Seats(first).held()) == {TENANT: 1}
    assert terms(Seats(second).held()) == {OTHER: 1}
    with pytest.raises(SeatLost) as lost:
        second.writer().commit(world.changes(term=1))
    assert lost.value.tenant_ids == {TENANT}


def test_an_expired_seat_is_taken_over_and_its_old_holder_can_write_no_more(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    first, second = opening(postgres_url), opening(postgres_url, "second")
    reads = world.settle(first)
    run_id = world.new_id(1)
    first.writer().commit(world.changes(runs=[world.run_row(run_id)]))
    # By the server's clock it is over at once.
    assert terms(Seats(first).renew(NOW, 0)) == {TENANT: 1}
    taken = Seats(second).take(NOW, SEAT_US)
    assert terms(taken) == {TENANT: 2}
    with pytest.raises(SeatLost) as lost:
        first.writer().commit(world.changes(events=[world.event_row(run_id, 1)]))
    assert lost.value.tenant_ids == {TENANT}
    with pytest.raises(SeatLost):
        first.writer().act({TENANT: 1}, lambda acts: acts.update_tenant(world.tenant(weight=9)))
    assert Seats(first).renew(NOW, SEAT_US) == []
    assert Seats(first).take(NOW, SEAT_US) == []
    second.writer().commit(world.changes(term=2, events=[world.event_row(run_id, 1)]))
    with first.reading():
        assert reads.last_sequence(run_id) == 1
        seat = Reads(first).seat(TENANT)
    assert seat is not None
    assert (seat.holder, seat.address, seat.term) == ("second", "second:7233", 2)


def test_a_seat_of_before_the_servers_clock_was_set_back_keeps_nobody_waiting(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    first, second = opening(postgres_url), opening(postgres_url, "second")
    world.settle(first)
    world.settle(first, OTHER)
    # By a clock that was three hours ahead. The holder died before it could renew.
    set_back = "UPDATE seats SET until_us = until_us + %s WHERE tenant_id = %s"
    first.writer().act({}, lambda acts: _run(first, set_back, 3 * 3600 * SECOND, TENANT))
    assert terms(Seats(second).take(NOW, SEAT_US)) == {TENANT: 2}
    with pytest.raises(SeatLost):
        first.writer().commit(world.changes(term=1))


def _run(store: Store, sql: str, *values: object) -> None:
    store.backend.writing.execute_sql(sql, values)


def test_an_expired_seat_that_nobody_took_can_be_renewed(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    first, second = opening(postgres_url), opening(postgres_url, "second")
    world.settle(first)
    Seats(first).renew(NOW, 0)
    assert terms(Seats(first).renew(NOW, SEAT_US)) == {TENANT: 1}
    assert Seats(second).take(NOW, SEAT_US) == []


def test_a_seat_cannot_move_while_its_holder_commits(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    first, second = opening(postgres_url), opening(postgres_url, "second")
    world.settle(first)
    Seats(first).renew(NOW, 0)
    # The taker neither gets it nor waits: other tenants' work goes on.
    taken = first.writer().act({TENANT: 1}, lambda _: Seats(second).take(NOW, SEAT_US))
    assert taken == []
    assert terms(Seats(second).take(NOW, SEAT_US)) == {TENANT: 2}


def test_a_holder_that_stands_still_in_a_commit_loses_its_seat_all_the_same(
    postgres_url: str, opening: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgresql._WRITING, "idle_in_transaction_session_timeout", "1s")
    first, second = opening(postgres_url), opening(postgres_url, "second")
    world.settle(first)
    Seats(first).renew(NOW, 0)
    deadline = time.monotonic() + 30

    def stand_still(acts: Acts) -> None:
        # Each round asks the server, which ends the first one's transaction in the meantime.
        while not Seats(second).take(NOW, SEAT_US):
            assert time.monotonic() < deadline
        acts.update_tenant(world.tenant(weight=9))

    with pytest.raises(StoreFailed):
        first.writer().act({TENANT: 1}, stand_still)
    with pytest.raises(SeatLost):
        first.writer().act({TENANT: 1}, lambda acts: acts.update_tenant(world.tenant(weight=9)))
    with second.reading():
        assert Reads(second).tenant(TENANT) == world.tenant()


def test_a_clean_stop_hands_the_seats_over_at_once(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    first, second = opening(postgres_url), opening(postgres_url, "second")
    world.settle(first)
    Seats(first).release()
    assert terms(Seats(second).take(NOW, SEAT_US)) == {TENANT: 2}


def test_a_seat_lasts_by_the_servers_clock(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    first, second = opening(postgres_url), opening(postgres_url, "second")
    world.settle(first)
    # Two coordinators whose clocks are years apart see the same seat.
    [seat] = Seats(first).renew(0, SEAT_US)
    assert seat.until_us > NOW
    assert Seats(second).take(NOW * 2, SEAT_US) == []


def test_the_writing_connection_waits_for_no_statement_for_ever(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    writing = opening(postgres_url).backend.writing
    assert writing.execute_sql("SHOW statement_timeout").fetchone() == ("10s",)
    assert writing.execute_sql("SHOW lock_timeout").fetchone() == ("10s",)
