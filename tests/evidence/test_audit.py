"""An audit finds whatever was done to a whole log, and says where."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.evidence import synthetic

from tenure_evidence import keys, tree
from tenure_evidence.audit import Audit, LogEntry, audit
from tenure_evidence.canonical import checked, read

CHAIN = keys.Chain.read(synthetic.ROOT.verifier.text, synthetic.CERTIFICATES)
LOG = synthetic.diamond_log()
SIZE = LOG.frontier.size
KEPT = [LOG.checkpoint(size=size) for size in (0, 5, 12, SIZE)]


def stored(leaves: bool = True) -> list[LogEntry]:
    return [
        LogEntry(
            index=index,
            entry=row.entry,
            items=row.items,
            leaf=LOG.nodes[0, index] if leaves else None,
        )
        for index, row in enumerate(LOG.rows)
    ]


def audited(entries: list[LogEntry], checkpoints: list[str] | None = None) -> Audit:
    notes = KEPT if checkpoints is None else checkpoints
    return audit(iter(entries), tenant="acme", chain=CHAIN, checkpoints=notes)


def first(result: Audit) -> tuple[int | None, int | None] | None:
    return (result.first_bad.index, result.first_bad.until) if result.first_bad else None


def edited(row: LogEntry, **members: Any) -> LogEntry:
    return replace(row, entry=checked({**read(row.entry), **members}))


def test_a_good_log_is_good_with_and_without_items_and_hashes() -> None:
    for entries in (stored(), stored(leaves=False)):
        result = audited(entries)
        assert result.ok, result.faults
        assert (result.size, result.root, result.checkpoints) == (SIZE, LOG.frontier.root(), 4)
        assert result.pruned == 0
    pruned = audited([replace(row, items=None) for row in stored()])
    assert pruned.ok
    assert pruned.pruned == sum(1 for row in LOG.rows if row.items)
    assert audited([], []).root == tree.EMPTY_ROOT


def test_an_audit_keeps_no_log_in_memory() -> None:
    def long() -> Iterator[LogEntry]:
        for index in range(1_000):
            entry = checked({
                "version": 1, "log": "acme", "index": index, "at": index, "term": 1,
                "text": "x" * 20_000,
            })  # fmt: skip
            yield LogEntry(index=index, entry=entry)

    tracemalloc.start()
    result = audit(long(), tenant="acme", chain=CHAIN)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.ok
    assert peak_bytes < 1_000_000


@pytest.mark.parametrize("place", range(SIZE))
def test_a_changed_entry_is_named(place: int) -> None:
    entries = stored()
    entries[place] = edited(entries[place], verdict="warn" if place != 9 else "deny")
    assert first(audited(entries)) == (place, None)
    # Its hash was changed with it: between which checkpoints can still be told.
    entries[place] = replace(entries[place], leaf=None)
    result = audited(entries)
    bounds = next((a, b - 1) for a, b in ((0, 5), (5, 12), (12, SIZE)) if a <= place < b)
    assert first(result) == bounds
    assert [fault.what for fault in result.faults] == ["root"]


@pytest.mark.parametrize("place", range(SIZE))
def test_a_missing_added_moved_or_garbled_entry_is_named(place: int) -> None:
    entries = stored()
    del entries[place]
    assert first(audited(entries)) == (place, None)
    renumbered = [replace(row, index=n, leaf=None) for n, row in enumerate(entries)]
    assert first(audited(renumbered)) == (place, None)
    if place + 1 < SIZE:
        swapped = stored()
        swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
        assert first(audited(swapped)) == (place, None)
        swapped = [replace(row, index=n, leaf=None) for n, row in enumerate(swapped)]
        assert first(audited(swapped)) == (place, None)
    doubled = stored()
    doubled.insert(place, doubled[place])
    assert first(audited(doubled)) == (place, None)
    garbled = stored(leaves=False)
    garbled[place] = replace(garbled[place], entry=garbled[place].entry[:-1] + b" }")
    assert first(audited(garbled)) == (place, None)


def test_a_log_cut_off_or_rolled_back_is_shorter_than_what_was_signed() -> None:
    for size in range(SIZE):
        result = audited(stored()[:size])
        assert first(result) == (size, None)
        assert [fault.what for fault in result.faults] == ["rollback"]
        # Nobody kept anything later: then nobody can tell.
        assert audited(stored()[:size], [LOG.checkpoint(size=size)]).ok


def test_a_rewritten_end_is_found_by_a_checkpoint_that_was_kept() -> None:
    other = synthetic.Log()
    for row in LOG.rows[:14]:
        members = read(row.entry)
        for name in ("version", "log", "index", "items"):
            members.pop(name, None)
        other.append(members.pop("kind"), [read(item) for item in row.items], **members)
    assert other.frontier.root() == tree.Frontier.restore(14, LOG.nodes).root()
    for _ in range(9):
        other.append("tenant.get", verdict="allow")
    entries = [
        LogEntry(index=n, entry=row.entry, items=row.items, leaf=other.nodes[0, n])
        for n, row in enumerate(other.rows)
    ]
    assert audited(entries, [other.checkpoint()]).ok
    result = audited(entries, [*KEPT, other.checkpoint()])
    assert first(result) == (12, SIZE - 1)
    # Both were signed for the same number of entries: a fork, whatever the log says.
    forked = audited(stored(), [LOG.checkpoint(size=17), other.checkpoint(size=17)])
    assert "fork" in {fault.what for fault in forked.faults}


@pytest.mark.parametrize("place", [1, 3, 10, 13])
def test_changed_items_are_named_by_their_entry(place: int) -> None:
    good = stored()[place]
    items = list(good.items or ())
    for changed in (
        items[:-1],
        [*items, items[0]],
        [items[0].replace(b"run-", b"run_"), *items[1:]],
        items[1:] + items[:1],
    ):
        if changed == items:
            continue
        entries = stored()
        entries[place] = replace(good, items=changed)
        result = audited(entries)
        assert [(fault.what, fault.index) for fault in result.faults] == [("items", place)]


def test_what_an_entry_says_of_itself_must_fit() -> None:
    for members, what in (
        ({"index": 7}, "number"), ({"version": 2}, "number"), ({"log": "beta"}, "log"),
        ({"term": 2}, "order"), ({"at": "now"}, "order"),
    ):  # fmt: skip
        entries = stored(leaves=False)
        entries[6] = edited(entries[6], **members)
        result = audited(entries, [])
        assert [(fault.what, fault.index) for fault in result.faults] == [(what, 6)]


def test_a_clock_set_back_is_remarked_on_but_no_fault() -> None:
    entries = stored(leaves=False)
    entries[6] = edited(entries[6], at=5)
    result = audited(entries, [])
    assert result.ok
    assert ("time", 6) in [(remark.what, remark.index) for remark in result.remarks]


@pytest.mark.parametrize(
    ("size", "step_us", "good"), [(1_000, 1, True), (1_001, 1, False), (3, 2_000_000_000, False)]
)
def test_a_log_that_nobody_signed_is_remarked_on_and_bad_once_it_is_long_or_old(
    size: int, step_us: int, good: bool
) -> None:
    members = {"version": 1, "log": "acme", "term": 1}
    entries = [
        LogEntry(index=n, entry=checked({**members, "index": n, "at": n * step_us}))
        for n in range(size)
    ]
    result = audited(entries, [])
    assert result.ok is good
    assert [remark.what for remark in result.remarks] == ["unsigned"]
    assert {fault.what for fault in result.faults} == (set() if good else {"unsigned"})


def test_checkpoints_of_others_vouch_for_nothing() -> None:
    stranger = LOG.checkpoint(synthetic.signing_key(9))
    beta = synthetic.diamond_log(tenant="beta").checkpoint()
    result = audited(stored(), [stranger, beta, "x", *KEPT])
    assert [fault.what for fault in result.faults] == ["checkpoint"] * 3
    assert result.checkpoints == len(KEPT)
    assert result.first_bad is None


def test_a_log_that_is_bad_throughout_does_not_fill_the_memory() -> None:
    rows = [LogEntry(index=0, entry=b"x") for _ in range(1000)]
    result = audited(rows, [])
    assert len(result.faults) == 100
    assert result.faults_left_out > 800
