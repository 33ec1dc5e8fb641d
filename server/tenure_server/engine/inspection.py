"""Looks at the end of a log before anything is added to it, and names the first bad entry.

Not at all of it: whoever wants to know about every entry audits the log. Here it is asked whether
the log ends as it was left, so that nothing is ever written behind a break: the last entries, the
tree over them, the newest checkpoint, and the definitions that open runs go by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tenure_evidence import keys, tree
from tenure_evidence.canonical import NotCanonical, digest_text, read
from tenure_evidence.notes import Checkpoint, NoteInvalid, origin_of
from tenure_server.core.ledger import records
from tenure_server.store.evidence_reads import PAGE, WHOLE, EvidenceReads

_NAMED = re.compile(r"\bentry ([0-9]+)")
#: How many of the last entries are looked at.
TAIL_ENTRIES = 64
#: How many are looked at where somebody asks how a log stands.
RECENT_ENTRIES = 2000


class LogBroken(Exception):  # noqa: N818 - a finding about data, not an error of the program
    """A log, or a definition that its runs go by, is not as it was written. One sentence."""

    @property
    def index(self) -> int | None:
        """The first entry that the sentence names."""
        named = _NAMED.search(str(self))
        return None if named is None else int(named[1])


def inspect(reads: EvidenceReads, chain: keys.Chain | None) -> None:
    """Looks at the end of a log, inside `Store.reading`. Raises LogBroken.

    `chain` has the keys that may have signed its checkpoints; without one they are not looked at.
    """
    size = reads.size()
    entries = reads.last_entries(below=1 << 53, limit=TAIL_ENTRIES)[::-1]
    start = max(0, size - TAIL_ENTRIES)
    _check_numbers(entries, start, size)
    leaves = reads.leaves(start, size)
    for entry in entries:
        _check_entry(entry, reads.tenant_id, leaves.get(entry.index))
    _check_tree(reads, start, [leaves[number] for number in range(start, size)])
    if chain is not None:
        _check_checkpoint(reads, chain, size, reads.newest_checkpoint())
    for digest, canonical in reads.definitions_in_use():
        if digest_text(canonical) != digest:
            raise LogBroken(f"definition {digest} of an open run is not what was registered")


def inspect_recent(
    reads: EvidenceReads, chain: keys.Chain | None, from_us: int, until_us: int
) -> tuple[int, int]:
    """Looks at the newest entries of a log that may grow meanwhile, inside `Store.reading`, and at
    the definitions of the runs that were started in a span of time.

    Gives how many entries were looked at, and of how many. Raises LogBroken.
    """
    # What is signed is there already: so the checkpoint is asked for before the size, and nothing
    # that the log has got since is looked at.
    newest = reads.newest_checkpoint()
    size = reads.size()
    start = max(0, size - RECENT_ENTRIES)
    stored = reads.leaves(start, size)
    leaves = []
    for first in range(start, size, PAGE):
        end = min(first + PAGE, size)
        entries = reads.entries(first, PAGE, WHOLE, end)
        _check_numbers(entries, first, end)
        for entry in entries:
            _check_entry(entry, reads.tenant_id, stored.get(entry.index))
            leaves.append(stored[entry.index])
    _check_tree(reads, start, leaves)
    if chain is not None:
        _check_checkpoint(reads, chain, size, newest)
    for digest, canonical in reads.definitions_started(from_us, until_us):
        if digest_text(canonical) != digest:
            raise LogBroken(f"definition {digest} is not what was registered")
    return size - start, size


def _check_numbers(entries: Sequence[records.LogEntry], start: int, size: int) -> None:
    found = {entry.index for entry in entries}
    for number in range(start, size):
        if number not in found:
            raise LogBroken(f"entry {number} is missing: the log is said to have {size} entries")
    behind = sorted(number for number in found if number >= size)
    if behind:
        raise LogBroken(f"entry {behind[0]} is there: the log is said to have {size} entries")


def _check_entry(stored: records.LogEntry, tenant_id: str, leaf: bytes | None) -> None:
    name = f"entry {stored.index}"
    if leaf is None:
        raise LogBroken(f"{name}: its hash is missing")
    if tree.leaf_hash(stored.entry) != leaf:
        raise LogBroken(f"{name} is not what was written: the stored hash differs")
    try:
        value = read(stored.entry)
    except NotCanonical as error:
        raise LogBroken(f"{name} {error}") from None
    if value.get("index") != stored.index or value.get("log") != tenant_id:
        raise LogBroken(
            f"{name} calls itself entry {value.get('index')} of the log {value.get('log')!r}"
        )
    if value.get("items") != _items(stored.items):
        raise LogBroken(f"{name}: its items are not those it was written with")


def _items(stored: Sequence[bytes] | None) -> dict[str, Any] | None:
    if not stored:
        return None
    leaves = [tree.leaf_hash(item) for item in stored]
    return {"count": len(leaves), "root": tree.root(leaves).hex()}


def _check_tree(reads: EvidenceReads, start: int, leaves: Sequence[bytes]) -> None:
    """Adds the last entries to what is before them, and wants the nodes that are stored."""
    try:
        frontier = tree.Frontier.restore(start, reads.nodes(tree.frontier_nodes(start)))
    except KeyError as error:
        level, position = error.args[0]
        first = position << level
        raise LogBroken(f"entry {first}: node {position} of level {level} is missing") from None
    expected = {
        (level, position): value
        for leaf in leaves
        for level, position, value in frontier.append(leaf)
        if level
    }
    found = reads.nodes(sorted(expected))
    for level, position in sorted(expected, key=lambda place: place[1] << place[0]):
        if found.get((level, position)) != expected[level, position]:
            raise LogBroken(
                f"entry {position << level}: node {position} of level {level} over it and what "
                "follows is not what they give"
            )


def _check_checkpoint(
    reads: EvidenceReads, chain: keys.Chain, size: int, newest: records.Checkpoint | None
) -> None:
    if newest is None:
        return
    if newest.size > size:
        raise LogBroken(
            f"entry {size} is missing: a checkpoint of {newest.size} entries was signed, and the "
            f"log has {size}; it was cut off or rolled back"
        )
    name = f"the checkpoint of {newest.size} entries"
    try:
        checkpoint = Checkpoint.parse(chain.open(newest.note))
    except NoteInvalid as error:
        raise LogBroken(f"{name} {error}") from None
    if checkpoint.origin != origin_of(chain.installation, reads.tenant_id):
        raise LogBroken(f"{name} is of the log {checkpoint.origin!r}")
    if checkpoint.size != newest.size:
        raise LogBroken(f"{name} was signed for {checkpoint.size}")
    try:
        root = reads.root(newest.size)
    except KeyError as error:
        level, position = error.args[0]
        first = position << level
        raise LogBroken(f"entry {first}: node {position} of level {level} is missing") from None
    if root != checkpoint.root:
        before = reads.checkpoints(newest.size, 1)
        first = before[0].size if before else 0
        raise LogBroken(
            f"entry {first} or one up to {newest.size - 1} is not the one that was signed for"
        )
