"""Schedules on their tables: back as they were written, apart by tenant, fenced by term."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.server.store import world
from tests.server.store.world import OTHER, TENANT

from tenure_server.core.definitions.definition import Payload
from tenure_server.core.scheduling.fire_times import FireTimes, Interval
from tenure_server.core.scheduling.schedules import (
    Author,
    Backfill,
    Cause,
    Fire,
    FireLine,
    Outcome,
    Overlap,
    Pause,
    Schedule,
    ScheduleChange,
    Standing,
    Tally,
)
from tenure_server.core.scheduling.wall_clock import Cron
from tenure_server.store import schedule_tables
from tenure_server.store.database import Store
from tenure_server.store.errors import StoreConflict
from tenure_server.store.schedule_reads import ScheduleReads

AUTHOR = Author("key-1", ("submitter", "viewer"))
SCHEDULE = Schedule(
    name="nightly",
    workflow="count",
    version=3,
    input=Payload(b"\x00\xff", "application/octet-stream"),
    labels={"a": "b", "ä": "ö"},
    priority=-7,
    times=FireTimes(
        crons=(Cron("0 0 * * *", "Europe/Vienna"), Cron("@daily")),
        intervals=(Interval(5_000_000, 17),),
        times_us=(1, 2),
        start_us=0,
        end_us=10**15,
        jitter_us=9,
    ),
    overlap=Overlap.CANCEL_RUNNING,
    catchup_us=12,
    pause_on_failure=True,
    notes="x",
    author=AUTHOR,
    create_us=1,
    created_by="key-0",
    update_us=2,
)
STANDING = Standing(
    cursor_us=5,
    number=2,
    pause=Pause(4, "key-1", "why"),
    remaining=3,
    waiting=(Fire(1, Cause.TRIGGER, AUTHOR), Fire(2, Cause.TIME, AUTHOR)),
    backfills=(Backfill(1, 2, Overlap.BUFFER_ALL, AUTHOR),),
    tally=Tally(started=1, skipped=2, missed=3, refused=4, failed_runs=5),
)
LINES = (
    FireLine(number=1, nominal_us=3, at_us=4, cause=Cause.TIME, outcome=Outcome.MISSED, times=9),
    FireLine(
        number=2,
        nominal_us=5,
        at_us=6,
        cause=Cause.BACKFILL,
        outcome=Outcome.REFUSED,
        run_id=world.new_id(1),
        code="ACT_DENIED",
        message="no",
    ),
)
PLAIN = Schedule(
    name="plain",
    workflow="count",
    times=FireTimes(intervals=(Interval(1_000_000),)),
    author=Author("key-0"),
    create_us=1,
    created_by="key-0",
    update_us=1,
)


def change(of: Schedule, tenant_id: str = TENANT, **words: Any) -> ScheduleChange:
    """A change that writes a schedule."""
    said = {"schedule": of, "standing": Standing(cursor_us=1), **words}
    return ScheduleChange(tenant_id=tenant_id, name=of.name, **said)


def write(store: Store, *changes: ScheduleChange, tenant_id: str = TENANT) -> None:
    """Writes changes in one transaction."""
    store.writer().commit(world.changes(tenant_id=tenant_id, schedules=list(changes)))


def read(store: Store, tenant_id: str = TENANT) -> dict[str, tuple[Schedule, Standing]]:
    """All schedules of a tenant, by name."""
    with store.reading():
        found = ScheduleReads(store, tenant_id).schedules()
    return {schedule.name: (schedule, standing) for schedule, standing in found}


def lines(store: Store, name: str, tenant_id: str = TENANT) -> list[FireLine]:
    """The history of a schedule, the newest line first."""
    with store.reading():
        return ScheduleReads(store, tenant_id).lines(name, None, 100)


def test_a_schedule_comes_back_as_it_was_written(store: Store) -> None:
    world.settle(store)
    write(store, change(SCHEDULE, standing=STANDING, lines=LINES), change(PLAIN))
    assert read(store) == {
        "nightly": (SCHEDULE, STANDING),
        "plain": (PLAIN, Standing(cursor_us=1)),
    }
    assert lines(store, "nightly") == [LINES[1], LINES[0]]
    with store.reading():
        assert ScheduleReads(store, TENANT).lines("nightly", 2, 100) == [LINES[0]]


def test_the_last_word_of_a_transaction_counts_and_every_line_is_kept(store: Store) -> None:
    world.settle(store)
    write(store, change(SCHEDULE))
    renamed = replace(SCHEDULE, notes="y", update_us=9)
    write(
        store,
        change(SCHEDULE, schedule=None, lines=LINES[:1]),
        change(renamed, lines=LINES[1:]),
        change(SCHEDULE, schedule=None, standing=STANDING),
    )
    assert read(store) == {"nightly": (renamed, STANDING)}
    assert len(lines(store, "nightly")) == 2


def test_what_is_deleted_is_gone_and_its_name_free_in_the_same_transaction(store: Store) -> None:
    world.settle(store)
    write(store, change(SCHEDULE, standing=STANDING, lines=LINES), change(PLAIN))
    gone = change(SCHEDULE, schedule=None, standing=None)
    write(store, change(SCHEDULE, schedule=None, lines=()), gone)
    assert list(read(store)) == ["plain"]
    assert lines(store, "nightly") == []
    again = replace(PLAIN, name="nightly")
    write(store, change(SCHEDULE), gone, change(again, lines=LINES[:1]))
    assert read(store)["nightly"] == (again, Standing(cursor_us=1))
    assert lines(store, "nightly") == [LINES[0]]


def test_a_line_is_written_once(store: Store) -> None:
    world.settle(store)
    write(store, change(PLAIN, lines=LINES[:1]))
    with pytest.raises(StoreConflict):
        write(store, change(PLAIN, standing=STANDING, lines=LINES[:1]))
    assert read(store) == {"plain": (PLAIN, Standing(cursor_us=1))}


def test_a_standing_of_a_later_term_is_left_alone(store: Store) -> None:
    world.settle(store)
    write(store, change(PLAIN))
    table = schedule_tables.ScheduleStanding
    with store.writer().transaction() as database:
        database.execute(table.update(term=99))
    with pytest.raises(StoreConflict, match="later term"):
        write(store, change(PLAIN, schedule=None, standing=STANDING))
    assert read(store) == {"plain": (PLAIN, Standing(cursor_us=1))}


def test_a_change_without_its_tenants_seat_is_not_written(store: Store) -> None:
    world.settle(store)
    with pytest.raises(LookupError, match=OTHER):
        write(store, change(PLAIN, tenant_id=OTHER))


def test_tenants_see_their_own_only(store: Store) -> None:
    for tenant_id, word in ((TENANT, "mine"), (OTHER, "theirs")):
        world.settle(store, tenant_id)
        line = replace(LINES[0], message=word)
        own = change(replace(PLAIN, notes=word), tenant_id, lines=(line,))
        write(store, own, tenant_id=tenant_id)
    write(store, change(SCHEDULE, OTHER), tenant_id=OTHER)
    assert [schedule.notes for schedule, _ in read(store).values()] == ["mine"]
    assert [line.message for line in lines(store, "plain")] == ["mine"]
    assert lines(store, "nightly") == []
    assert read(store, "nobody") == {}
