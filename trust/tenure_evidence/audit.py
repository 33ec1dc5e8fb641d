"""Audits a whole log: every entry, and the tree at every checkpoint that somebody kept.

A log that its keeper rewrote from some entry on is consistent in itself. Only a checkpoint that was
kept elsewhere can tell: the roots differ from there on, or the log is shorter than it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tenure_evidence import keys, tree
from tenure_evidence.canonical import NotCanonical, read
from tenure_evidence.notes import Checkpoint, NoteInvalid, origin_of
from tenure_evidence.report import FINDINGS_MAX

#: A log that is longer, or older by its entries, has been signed for by an honest coordinator.
UNSIGNED_MAX = 1_000
UNSIGNED_US_MAX = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """An entry as the store has it."""

    #: The number under which it is stored.
    index: int
    entry: bytes
    #: All its items in order; None when they were pruned.
    items: Sequence[bytes] | None = None
    #: The stored hash of the leaf, where the tree is stored: tells a changed entry exactly.
    leaf: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with a log."""

    #: number, form, log, order, items, leaf; root, rollback, fork, checkpoint, unsigned.
    what: str
    reason: str
    #: The entry, or the first that it can be; None when no entry is concerned.
    index: int | None = None
    #: The last entry that it can be, when the fault lies in a range.
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What came of an audit."""

    #: As far as they are kept, in the order in which they were found.
    faults: tuple[Fault, ...]
    faults_left_out: int = 0
    #: What is strange, but may have an honest reason: a clock that was set back.
    remarks: tuple[Fault, ...] = ()
    #: How many entries were read, and the root over them; empty when their numbers have gaps.
    size: int = 0
    root: bytes = b""
    #: How many entries have had their items pruned, which leaves all proofs intact.
    pruned: int = 0
    #: How many checkpoints agree with the log.
    checkpoints: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    @property
    def first_bad(self) -> Fault | None:
        """The fault with the lowest number; a range only where no entry in it is named."""
        exact = {fault.index: fault for fault in reversed(self.faults) if fault.until is None}
        exact.pop(None, None)
        ranges = [
            fault
            for fault in self.faults
            if fault.index is not None
            and fault.until is not None
            and not any(fault.index <= (index or 0) <= fault.until for index in exact)
        ]
        return min((*exact.values(), *ranges), key=_number, default=None)


def audit(
    entries: Iterable[LogEntry],
    *,
    tenant: str,
    chain: keys.Chain,
    checkpoints: Sequence[str] = (),
) -> Audit:
    """Reads a log once, from its first entry on; keeps none of it in memory.

    `tenant` is empty for the installation's own log. The checkpoints are signed notes, in whatever
    order, from whomever.
    """
    auditor = _Auditor(tenant, origin_of(chain.installation, tenant))
    auditor.expect(checkpoints, chain)
    for entry in entries:
        auditor.take(entry)
    return auditor.result()


def _number(fault: Fault) -> int:
    return fault.index or 0


class _Auditor:
    """Where an audit stands."""

    def __init__(self, tenant: str, origin: str) -> None:
        self.tenant = tenant
        self.origin = origin
        self.faults: list[Fault] = []
        self.left_out = 0
        self.remarks: list[Fault] = []
        self.pruned = 0
        self.agreed = 0
        #: The size up to which a checkpoint vouched for the log.
        self.sound_size = 0
        #: Whether a checkpoint has another root than the log.
        self.differs = False
        #: None once a number was missing: no root can be made any more.
        self.frontier: tree.Frontier | None = tree.Frontier()
        self.next_index = 0
        self.term = 0
        self.at = 0
        self.first_at: int | None = None
        #: Whether there is any checkpoint of the log that is signed well and covers an entry.
        self.signed = False
        #: By size, the smallest last, so that the next one is popped.
        self.expected: list[Checkpoint] = []

    def expect(self, checkpoints: Sequence[str], chain: keys.Chain) -> None:
        """Reads the checkpoints, and finds those that contradict each other."""
        by_size: dict[int, Checkpoint] = {}
        for number, note in enumerate(checkpoints):
            try:
                checkpoint = Checkpoint.parse(chain.open(note))
            except NoteInvalid as error:
                self._fault("checkpoint", f"checkpoint {number} {error}")
                continue
            if checkpoint.origin != self.origin:
                reason = f"checkpoint {number} is of {checkpoint.origin!r}, not {self.origin!r}"
                self._fault("checkpoint", reason)
                continue
            self.signed = self.signed or checkpoint.size > 0
            known = by_size.setdefault(checkpoint.size, checkpoint)
            if known.root != checkpoint.root:
                reason = f"two logs were signed, both of {checkpoint.size} entries"
                self._fault("fork", reason)
        self.expected = sorted(by_size.values(), key=lambda each: each.size, reverse=True)
        self._compare()

    def take(self, stored: LogEntry) -> None:
        """Checks the next entry."""
        if stored.index != self.next_index:
            self._numbers_broken(stored.index)
        self.next_index = stored.index + 1
        leaf = tree.leaf_hash(stored.entry)
        if stored.leaf is not None and stored.leaf != leaf:
            reason = "it is not what was written: the stored hash differs"
            self._fault("leaf", reason, stored.index)
        if self.frontier is not None:
            # With the stored hash the tree can still be compared behind a changed entry.
            self.frontier.append(leaf if stored.leaf is None else stored.leaf)
        try:
            value = read(stored.entry)
        except NotCanonical as error:
            self._fault("form", f"it {error}", stored.index)
        else:
            self._says(stored.index, value)
            self._items(stored, value.get("items"))
        self._compare()

    def result(self) -> Audit:
        """Ends the audit: whatever is still expected should have been there."""
        if self.expected and self.frontier is not None:
            size, last = self.next_index, self.expected[0]
            reason = (
                f"the log has {size} entries, but had {last.size}: it was cut off or rolled back"
            )
            self._fault("rollback", reason, size)
        if self.next_index and not self.signed:
            self._unsigned()
        return Audit(
            faults=tuple(self.faults),
            faults_left_out=self.left_out,
            remarks=tuple(self.remarks),
            size=self.next_index,
            root=self.frontier.root() if self.frontier is not None else b"",
            pruned=self.pruned,
            checkpoints=self.agreed,
        )

    def _fault(
        self, what: str, reason: str, index: int | None = None, until: int | None = None
    ) -> None:
        if len(self.faults) >= FINDINGS_MAX:
            self.left_out += 1
            return
        self.faults.append(Fault(what=what, reason=reason, index=index, until=until))

    def _unsigned(self) -> None:
        """Tells that nobody vouches for the log; a young one may have an honest reason."""
        reason = "no checkpoint vouches for the log: it was never signed, or they were deleted"
        self.remarks.append(Fault(what="unsigned", reason=reason))
        age_us = self.at - (self.at if self.first_at is None else self.first_at)
        if self.next_index > UNSIGNED_MAX or age_us > UNSIGNED_US_MAX:
            self._fault("unsigned", reason)

    def _numbers_broken(self, index: int) -> None:
        if index > self.next_index:
            missing = self.next_index
            reason = f"entries {missing} to {index - 1} are missing"
            if index == missing + 1:
                reason = f"entry {missing} is missing"
            self._fault("number", reason, missing)
        else:
            self._fault("number", f"it stands behind number {self.next_index - 1}", index)
        self.frontier = None

    def _says(self, index: int, value: dict[str, Any]) -> None:
        if value.get("version") != 1 or value.get("index") != index:
            reason = f"it calls itself number {value.get('index')!r}"
            self._fault("number", reason, index)
        if value.get("log") != self.tenant:
            self._fault("log", f"it is of the log {value.get('log')!r}", index)
        term, at = value.get("term"), value.get("at")
        if type(term) is not int or type(at) is not int:
            self._fault("order", "it has no term or no time", index)
            return
        if self.first_at is None:
            self.first_at = at
        if term < self.term:
            # Somebody wrote who no longer held the seat.
            self._fault("order", f"term {term} comes after term {self.term}", index)
        if at < self.at and len(self.remarks) < FINDINGS_MAX:
            reason = f"it was decided {self.at - at} microseconds before the one before it"
            self.remarks.append(Fault(what="time", reason=reason, index=index))
        self.term, self.at = max(term, self.term), at

    def _items(self, stored: LogEntry, said: Any) -> None:
        if stored.items is None:
            self.pruned += said is not None
            return
        if not stored.items and said is None:
            return
        leaves = [tree.leaf_hash(item) for item in stored.items]
        if said != {"count": len(leaves), "root": tree.root(leaves).hex()}:
            self._fault("items", "its items are not those it was written with", stored.index)

    def _compare(self) -> None:
        """Compares the roots when the log has just the size of a checkpoint."""
        while self.expected and self.frontier and self.expected[-1].size == self.frontier.size:
            checkpoint = self.expected.pop()
            if self.differs:
                continue
            if self.frontier.root() == checkpoint.root:
                self.agreed += 1
                self.sound_size = checkpoint.size
                continue
            until = checkpoint.size - 1
            reason = (
                f"an entry from {self.sound_size} to {until} is not the one that was signed for"
            )
            self._fault("root", reason, self.sound_size, until)
            # All that follow differ as well, and say nothing new; but the last still tells
            # whether the log was cut off.
            self.differs = True
