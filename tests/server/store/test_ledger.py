"""The logs of evidence grow by one entry an act, without a gap, with the act or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest
from tests import logbook
from tests.server.store import world
from tests.server.store.world import NOW, OTHER, TENANT

from tenure_evidence import canonical, tree
from tenure_server.core import errors
from tenure_server.core.evidence import INSTALLATION, Act, Draft
from tenure_server.core.ledger.journal import Changes
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.errors import SeatLost, StoreConflict
from tenure_server.store.seats import Seats
from tenure_server.store.writer import Writer

RUN = world.new_id(1)
SECOND_RUN = world.new_id(2)


@pytest.fixture
def settled(store: Store) -> Store:
    """A store with a tenant, a run, and a log of one entry."""
    world.settle(store)
    store.writer().commit(started(RUN))
    return store


def draft(
    tenant_id: str = TENANT, kind: str = "lease.grant", events: Sequence[int] = (), **act: Any
) -> Draft:
    """An act in a tenant's log."""
    return Draft(Act(kind=kind, **act), tenant_id, NOW, events=events)


def started(run_id: str, term: int = 1) -> Changes:
    """The start of a run, with its first event."""
    return world.changes(
        term,
        runs=[world.run_row(run_id)],
        events=[world.event_row(run_id, 1)],
        said=[{}],
        drafts=[draft(kind="run.start", events=[0])],
    )


def more(*sequences: int, term: int = 1, acts: Sequence[Sequence[int]] = ()) -> Changes:
    """Events of the run; `acts` says which of them follow from which act, all from one if empty."""
    return world.changes(
        term,
        events=[world.event_row(RUN, sequence) for sequence in sequences],
        said=[{} for _ in sequences],
        drafts=[draft(events=events) for events in acts or [range(len(sequences))]],
    )


def note(store: Store, tenant_id: str = TENANT, term: int = 1) -> Draft:
    """Writes down an act by which nothing happened."""
    noted = draft(tenant_id, kind="run.read")
    seats = {} if tenant_id == INSTALLATION else {tenant_id: term}
    store.writer().act(seats, lambda _: None, [noted])
    return noted


def test_entries_have_numbers_without_gap_over_commits_and_acts(settled: Store) -> None:
    """Several acts of one commit too, each with the events that follow from it."""
    settled.writer().commit(more(2, 3, 4, acts=[[0, 2], [], [1]]))
    assert note(settled).index == 4
    settled.writer().commit(more(5))
    assert note(settled, INSTALLATION).index == 0
    logs = logbook.read(settled)
    logs.check()
    assert [entry["index"] for entry in logs.of(TENANT)] == list(range(6))
    assert [len(entry.items) for entry in logs.entries[TENANT]] == [1, 2, 0, 1, 0, 1]
    assert [event["entry_index"] for event in logs.events] == [0, 1, 3, 1, 5]


@pytest.mark.parametrize("count", [1, 2, 3, 127, 128, 255, 256, 257, 700])
def test_any_number_of_acts_in_one_commit_makes_the_tree_of_all_of_them(
    settled: Store, count: int
) -> None:
    """The nodes are those of RFC 6962 over the entries, recomputed from nothing but their bytes."""
    settled.writer().commit(world.changes(drafts=[draft(principal=f"k-{n}") for n in range(count)]))
    settled.writer().commit(more(2))
    logs = logbook.read(settled)
    logs.check()
    leaves = [tree.leaf_hash(entry.raw) for entry in logs.entries[TENANT]]
    edge = tree.Frontier.restore(len(leaves), logs.nodes[TENANT])
    assert (len(leaves), edge.root()) == (count + 2, tree.root(leaves))


def test_a_draft_knows_its_entry_once_it_is_written(settled: Store) -> None:
    """The number, the bytes, and the hashes of its items: what a mandate is made of."""
    changes = more(2, 3)
    settled.writer().commit(changes)
    [written] = changes.drafts
    [stored] = [it for it in logbook.read(settled).entries[TENANT] if it.raw == written.entry]
    assert written.index == stored.says["index"] == 1
    assert written.decision_id == f"{TENANT}/1"
    items = [canonical.canonical(it) for it in stored.items]
    assert written.leaf_hashes == [tree.leaf_hash(it) for it in items]
    assert written.item_tasks == [["task-0"], ["task-0"]]
    assert stored.says["items"]["root"] == tree.root(list(written.leaf_hashes)).hex()


def test_tasks_that_are_leased_alike_share_an_item(settled: Store) -> None:
    """One statement and one hash in the entry; each event still is in the entry of its act."""
    rows = [world.event_row(RUN, 2 + n, at_us=NOW, task_key=f"task-{n}") for n in range(5)]
    drafts = [draft(events=range(3)), draft(events=range(3, 5))]
    settled.writer().commit(world.changes(events=rows, said=[{}] * 5, drafts=drafts))
    logs = logbook.read(settled)
    logs.check()
    told = [[it["tasks"] for it in entry.items] for entry in logs.entries[TENANT][1:]]
    assert told == [[["task-0", "task-1", "task-2"]], [["task-3", "task-4"]]]
    assert [len(one.leaf_hashes) for one in drafts] == [1, 1]


def test_only_grants_are_signed(url: str, opening: Callable[..., Store]) -> None:
    """Once for the whole batch, over the bytes that are stored."""
    store = opening(url)
    world.settle(store)
    signed: list[bytes] = []

    def sign(entry: bytes) -> tuple[bytes, bytes]:
        signed.append(entry)
        return b"key1", b"signature"

    writer = Writer(store.backend, store.holder, store.address, sign)
    grant, other = draft(), draft(kind="run.read")
    grant.mandate = True
    writer.commit(world.changes(drafts=[grant, other]))
    assert signed == [grant.entry]
    assert (grant.signature, other.signature) == (b"signature", b"")
    assert (grant.key_hash, other.key_hash) == (b"key1", b"")


def test_a_commit_that_fails_leaves_no_entry_and_the_next_one_takes_its_number(
    settled: Store,
) -> None:
    """Whether its rows conflict or its seat is lost; in none of its logs."""
    before = logbook.read(settled)
    bad = more(2)
    bad.tasks.append(world.task_row(RUN, 0, term=1))
    bad.runs.append(world.run_row(RUN))
    with pytest.raises(StoreConflict):
        settled.writer().commit(bad)
    with pytest.raises(SeatLost):
        settled.writer().commit(more(2, term=9))
    assert logbook.read(settled) == before
    good = more(2)
    settled.writer().commit(good)
    assert good.drafts[0].index == 1
    logbook.read(settled).check()


def test_an_act_that_fails_leaves_no_entry_and_the_next_one_takes_its_number(
    settled: Store,
) -> None:
    """Neither with the tenant nor with the installation."""
    before = logbook.read(settled)

    def refuse(_: Acts) -> None:
        raise errors.AlreadyExists("there is one already")

    for seats, tenant_id in (({TENANT: 1}, TENANT), ({}, INSTALLATION)):
        with pytest.raises(errors.AlreadyExists):
            settled.writer().act(seats, refuse, [draft(tenant_id)])
    with pytest.raises(SeatLost):
        settled.writer().act({TENANT: 2}, lambda _: None, [draft()])
    assert logbook.read(settled) == before
    assert (note(settled).index, note(settled, INSTALLATION).index) == (1, 0)
    logbook.read(settled).check()


def test_what_an_act_names_may_be_said_by_its_work(settled: Store) -> None:
    """The entry is made after it, in the same transaction."""
    act = Act(kind="workflow.register")

    def work(_: Acts) -> None:
        act.subject["version"] = "3"

    settled.writer().act({TENANT: 1}, work, [Draft(act, TENANT, NOW)])
    assert logbook.read(settled).of(TENANT)[-1]["subject"] == {"version": "3"}


def test_an_event_that_follows_from_no_act_is_a_mistake(settled: Store) -> None:
    """Nothing of its transaction is written."""
    before = logbook.read(settled)
    with pytest.raises(LookupError, match="event 1 follows from no act"):
        settled.writer().commit(more(2, 3, acts=[[0]]))
    assert logbook.read(settled) == before


def test_without_evidence_events_belong_to_no_entry(settled: Store) -> None:
    """Nobody has to keep it."""
    sizes = logbook.sizes(settled)
    settled.writer().commit(world.changes(events=[world.event_row(RUN, 2)]))
    logs = logbook.read(settled)
    assert (logs.sizes(), logs.events[-1]["entry_index"]) == (sizes, None)


def test_a_writer_with_a_stale_end_of_a_log_writes_nothing_and_then_reads_it_anew(
    settled: Store,
) -> None:
    """The heads move by compare-and-set, although no seat was lost."""
    first, second = settled.writer(), Writer(settled.backend, settled.holder, settled.address)

    def commit(writer: Writer, sequence: int) -> None:
        writer.commit(more(sequence))

    def act(writer: Writer, _: int) -> None:
        writer.act({TENANT: 1}, lambda _: None, [draft()])

    # Both know where the log ends, and then only one does.
    second.commit(more(2))
    first._ledger.forget()
    first.commit(more(3))
    for stale, ahead, sequence, write in ((second, first, 4, commit), (first, second, 6, act)):
        ahead.commit(more(sequence))
        before = logbook.read(settled)
        with pytest.raises(StoreConflict):
            write(stale, sequence + 1)
        assert logbook.read(settled) == before
        stale.commit(more(sequence + 1))
        logbook.read(settled).check()


def test_under_another_term_the_end_of_the_log_is_read_anew(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    """The seat goes away, others write, and it comes back: the log goes on where it ends."""
    first, second = opening(postgres_url), opening(postgres_url, "second")
    world.settle(first)
    first.writer().commit(started(RUN))
    Seats(first).release()
    assert [seat.term for seat in Seats(second).take(NOW, world.SECOND)] == [2]
    second.writer().commit(more(2, 3, term=2, acts=[[0], [1]]))
    # Not that the log has grown, which is found on the same pipeline.
    with pytest.raises(SeatLost):
        first.writer().commit(more(4))
    Seats(second).release()
    assert [seat.term for seat in Seats(first).take(NOW, 10 * world.SECOND)] == [3]
    first.writer().commit(more(4, term=3))
    logs = logbook.read(first)
    logs.check()
    assert [entry["term"] for entry in logs.of(TENANT)] == [1, 2, 2, 3]


def test_one_tenants_log_says_nothing_of_another(settled: Store) -> None:
    """An act that concerns both stands in both, with the items of each alone."""
    world.settle(settled, OTHER)
    theirs = world.new_id(9, OTHER)
    act = Act(kind="time.pass")
    settled.writer().commit(
        Changes(
            seats={TENANT: 1, OTHER: 1},
            runs=[world.run_row(theirs, OTHER)],
            events=[world.event_row(theirs, 1, OTHER), world.event_row(RUN, 2)],
            said=[{}, {}],
            drafts=[
                Draft(act, TENANT, NOW, events=[1]),
                Draft(act, OTHER, NOW, events=[0]),
            ],
        )
    )
    logs = logbook.read(settled)
    logs.check()
    assert logs.sizes() == {TENANT: 2, OTHER: 1}
    assert [it["run"] for it in logs.entries[OTHER][0].items] == [theirs]


def test_coordinators_append_to_the_installations_log_at_once_without_conflict_or_gap(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    """It has no seat: its end is read under a lock."""
    stores = [opening(postgres_url, f"holder-{number}") for number in range(2)]
    each = 40

    def write(store: Store) -> list[int]:
        found = []
        for number in range(each):
            drafts = [draft(INSTALLATION), draft(INSTALLATION)]
            if number % 2:
                store.writer().act({}, lambda _: None, drafts)
            else:
                store.writer().commit(Changes(drafts=drafts))
            found += [one.index for one in drafts]
        return found

    with ThreadPoolExecutor(len(stores)) as threads:
        found = list(threads.map(write, stores))
    assert sorted(chain.from_iterable(found)) == list(range(2 * each * len(stores)))
    logs = logbook.read(stores[0])
    logs.check()
    assert logs.sizes() == {INSTALLATION: 2 * each * len(stores)}


def test_coordinators_that_begin_the_installations_log_at_once_make_one(
    postgres_url: str, opening: Callable[..., Store]
) -> None:
    """The row that they lock is there before the first entry is."""
    stores = [opening(postgres_url, f"holder-{number}") for number in range(4)]
    with ThreadPoolExecutor(len(stores)) as threads:
        written = list(threads.map(lambda store: note(store, INSTALLATION), stores))
    assert sorted(one.index for one in written) == list(range(len(stores)))
    logbook.read(stores[0]).check()
