"""The ledger: numbers acts in the logs that they concern, inside the transaction of the act.

Used by the one writer only. Who holds a tenant's seat is the only one who appends to its log, so
the end of the log is kept in memory under the seat's term; the installation's log has no seat, so
its end is read anew, under a lock, whenever there is something to append.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import orjson

from tenure_evidence import tree
from tenure_evidence.packing import packed
from tenure_server.core.evidence import INSTALLATION, Draft, entry_bytes
from tenure_server.core.ledger import journal
from tenure_server.core.ledger.items import NO_ITEMS, Items, items_of
from tenure_server.store import evidence_tables, statements
from tenure_server.store.backend import Backend

T = TypeVar("T")
#: Signs the entry of a grant for agents: the hash of the key that signs now, and its signature.
Sign = Callable[[bytes], tuple[bytes, bytes]]

_HEAD = evidence_tables.EvidenceHead
_NODE = evidence_tables.EvidenceNode
_END = _HEAD.select(_HEAD.size).where(_HEAD.tenant_id == statements.slot("tenant_id"))
_END_LOCKED = _END.clone().for_update()
_EDGE = _NODE.select(_NODE.level, _NODE.position, _NODE.hash).where(
    _NODE.tenant_id == statements.slot("tenant_id"),
    _NODE.level == statements.slot("level"),
    _NODE.position == statements.slot("position"),
)


def unsigned(entry: bytes) -> tuple[bytes, bytes]:
    """Gives no signature: agents that check mandates will refuse."""
    return b"", b""


@dataclass(slots=True)
class Pages:
    """What one transaction adds to the logs: rows of `hot_queries`' columns."""

    entries: list[journal.Row] = field(default_factory=list)
    nodes: list[journal.Row] = field(default_factory=list)
    heads: list[journal.Row] = field(default_factory=list)
    #: The events of the changes, with the number of the entry that each belongs to.
    events: list[journal.Row] = field(default_factory=list)
    #: The logs' new ends, which count from the commit on.
    ends: dict[str, tuple[int, tree.Frontier]] = field(default_factory=dict)


class Ledger:
    """Appends to the logs. Whatever it was told of a transaction that failed is forgotten."""

    def __init__(self, backend: Backend, sign: Sign) -> None:
        self._backend = backend
        self._sign = sign
        self._statements = statements.Statements(backend.writing)
        self._ends: dict[str, tuple[int, tree.Frontier]] = {}

    def pages(self, changes: journal.Changes) -> Pages:
        """Numbers the acts of some changes. Raises LookupError for an event without an act."""
        pages = Pages()
        if not changes.said:
            pages.events = [(*row, None) for row in changes.events]
        for draft in changes.drafts:
            events = _cut(changes.events, draft)
            items = items_of(events, _cut(changes.said, draft)) if events else NO_ITEMS
            self._append(pages, draft, items, changes.seats)
            index = draft.index
            pages.events += [(*row, index) for row in events]
        if len(pages.events) != len(changes.events):
            known = {number for draft in changes.drafts for number in draft.events}
            missing = set(range(len(changes.events))) - known
            raise LookupError(f"event {min(missing, default=0)} follows from no act")
        self._note_heads(pages)
        return pages

    def pages_of(self, drafts: Iterable[Draft], seats: Mapping[str, int]) -> Pages:
        """Numbers acts in which nothing happened to runs."""
        pages = Pages()
        for draft in drafts:
            self._append(pages, draft, NO_ITEMS, seats)
        self._note_heads(pages)
        return pages

    def keep(self, pages: Pages) -> None:
        """Notes that a transaction was committed."""
        self._ends.update(pages.ends)
        self._ends.pop(INSTALLATION, None)

    def forget(self) -> None:
        """Notes that a transaction failed: the ends are read anew."""
        self._ends.clear()

    def _append(self, pages: Pages, draft: Draft, items: Items, seats: Mapping[str, int]) -> None:
        tenant_id, act = draft.tenant_id, draft.act
        term = 0 if tenant_id == INSTALLATION else seats[tenant_id]
        known = pages.ends.get(tenant_id)
        if known is None:
            known = pages.ends[tenant_id] = (term, self._end(tenant_id, term))
        frontier = known[1]
        index = frontier.size
        hashes = tree.leaf_hashes(items.written)
        root = tree.root(hashes).hex() if hashes else ""
        entry = entry_bytes(draft, index=index, term=term, count=len(hashes), root=root)
        draft.index, draft.entry = index, entry
        draft.leaf_hashes, draft.item_tasks = hashes, items.tasks
        if draft.mandate:
            draft.key_hash, draft.signature = self._sign(entry)
        pages.nodes += [
            (tenant_id, level, position, value)
            for level, position, value in frontier.append(tree.leaf_hash(entry))
        ]
        pages.entries.append(
            (
                tenant_id,
                index,
                draft.at_us,
                act.kind,
                act.principal,
                act.correlation_id,
                _standing(draft),
                entry,
                packed(items.parts) if hashes else None,
                None if act.facts is None else orjson.dumps(act.facts),
            )
        )

    def _note_heads(self, pages: Pages) -> None:
        first: dict[str, int] = {}
        for row in pages.entries:
            first.setdefault(row[0], row[1])
        pages.heads = [
            (tenant_id, frontier.size, first[tenant_id], term)
            for tenant_id, (term, frontier) in pages.ends.items()
        ]

    def _end(self, tenant_id: str, term: int) -> tree.Frontier:
        known = self._ends.get(tenant_id)
        if known is not None and known[0] == term:
            return known[1].copy()
        locked = tenant_id == INSTALLATION and self._backend.shared
        query = _END_LOCKED if locked else _END
        found = self._statements.rows(query, {"tenant_id": tenant_id})
        size = found[0][0] if found else 0
        nodes: dict[tree.Place, bytes] = {}
        for level, position in tree.frontier_nodes(size):
            values = {"tenant_id": tenant_id, "level": level, "position": position}
            for row in self._statements.rows(_EDGE, values):
                nodes[row[0], row[1]] = bytes(row[2])
        return tree.Frontier.restore(size, nodes)


def _cut(rows: Sequence[T], draft: Draft) -> Sequence[T]:
    """What of a list an act's numbers name."""
    numbers = draft.events
    if isinstance(numbers, range):
        return rows[numbers.start : numbers.stop]
    return [rows[number] for number in numbers]


def _standing(draft: Draft) -> int:
    act = draft.act
    verdict = act.verdict_in(draft.tenant_id)
    if verdict == "deny":
        return 2
    if act.refusal:
        return 3
    return 1 if verdict == "warn" else 0
