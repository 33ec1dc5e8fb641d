"""Reading one log of evidence, inside `Store.reading`: a tenant's, or the installation's own.

Like `reads.TenantReads` it hands its tenant to every query by itself. What is complete in a log
never changes, so whoever reads the log's size first sees one state of it in all that follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson
from peewee import Node

from tenure_evidence import tree
from tenure_evidence.canonical import canonical
from tenure_evidence.packing import unpacked
from tenure_server.core.ledger import records
from tenure_server.store import evidence_queries as queries
from tenure_server.store import evidence_tables, statements
from tenure_server.store.database import Store

#: How many entries are read at once where all of a log or of a run are wanted.
PAGE = 500
#: How many nodes are compared at once where all are.
NODES = 4096
_INDEX_MAX = (1 << 53) - 1

_HEAD = evidence_tables.EvidenceHead
_HEADS = _HEAD.select(_HEAD.tenant_id, _HEAD.size).order_by(_HEAD.tenant_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries are wanted. Empty: of any."""

    kind: str = ""
    principal: str = ""
    correlation_id: str = ""
    run_id: str = ""
    refused_only: bool = False
    with_items: bool = False


ALL = Wanted()
WHOLE = Wanted(with_items=True)


def heads(store: Store) -> dict[str, int]:
    """The size of every log, by tenant; the installation's own under the empty name."""
    found = store.rows(_HEADS, {})
    return {row[0]: row[1] for row in found}


class EvidenceReads:
    """Reads one log. Raises StoreFailed through `Store.reading`."""

    def __init__(self, store: Store, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self._store = store

    def size(self) -> int:
        """How many entries the log has."""
        found = self._rows(queries.HEAD)
        return int(found[0][0]) if found else 0

    def entry(self, index: int) -> records.LogEntry | None:
        """One entry with its items."""
        found = self._rows(queries.ENTRY, index=index)
        return _entry(found[0]) if found else None

    def last_entries(self, below: int, limit: int) -> list[records.LogEntry]:
        """The last entries below a number, the newest first, with their items."""
        return [_entry(row) for row in self._rows(queries.LAST_ENTRIES, below=below, limit=limit)]

    def entries(
        self, index: int, limit: int, wanted: Wanted = ALL, below: int = _INDEX_MAX
    ) -> list[records.LogEntry]:
        """Entries from a number on, by number."""
        query = queries.entries(
            kind=bool(wanted.kind),
            principal=bool(wanted.principal),
            correlation=bool(wanted.correlation_id),
            refused=wanted.refused_only,
            run=bool(wanted.run_id),
            items=wanted.with_items,
        )
        found = self._rows(
            query,
            index=index,
            below=below,
            limit=limit,
            kind=wanted.kind,
            principal=wanted.principal,
            correlation_id=wanted.correlation_id,
            run_id=wanted.run_id,
        )
        return [_entry(row) for row in found]

    def all_entries(self, below: int = _INDEX_MAX) -> Iterator[records.LogEntry]:
        """All entries below a number with their items, a page at a time."""
        index = 0
        while found := self.entries(index, PAGE, WHOLE, below):
            yield from found
            index = found[-1].index + 1

    def entries_of_run(self, run_id: str, below: int) -> Iterator[records.LogEntry]:
        """The entries below a number by which something happened to a run, by number."""
        numbers = [
            index for (index,) in self._rows(queries.NUMBERS_OF_RUN, run_id=run_id, below=below)
        ]
        for piece in statements.pieces(numbers):
            yield from map(_entry, self._rows(queries.numbered(len(piece)), numbers=piece))

    def nodes(self, places: Sequence[tree.Place]) -> dict[tree.Place, bytes]:
        """The nodes at these places, as far as they are there."""
        found: dict[tree.Place, bytes] = {}
        for piece in statements.pieces(places):
            levels, positions = zip(*piece, strict=True)
            for level, position, value in self._rows(
                queries.nodes(len(piece)), levels=levels, positions=positions
            ):
                found[level, position] = bytes(value)
        return found

    def leaves(self, start: int, end: int) -> dict[int, bytes]:
        """The hashes of the entries of a stretch."""
        return self._level(0, start, end)

    def _level(self, level: int, start: int, end: int) -> dict[int, bytes]:
        found = self._rows(queries.NODES_OF_LEVEL, level=level, position=start, end=end)
        return {position: bytes(value) for position, value in found}

    def root(self, size: int) -> bytes:
        """The root of the log at a size. Raises KeyError for a node that is missing."""
        return tree.Frontier.restore(size, self.nodes(tree.frontier_nodes(size))).root()

    def checkpoints(self, below: int, limit: int) -> list[records.Checkpoint]:
        """Checkpoints below a size, the newest first."""
        return [
            records.Checkpoint(tenant_id=row[0], size=row[1], note=row[2], create_us=row[3])
            for row in self._rows(queries.CHECKPOINTS, below=below, limit=limit)
        ]

    def newest_checkpoint(self) -> records.Checkpoint | None:
        """The checkpoint of the greatest size."""
        found = self.checkpoints(_INDEX_MAX, 1)
        return found[0] if found else None

    def definitions_in_use(self) -> list[tuple[str, bytes]]:
        """The digests of the definitions that open runs use, and the definitions."""
        return [(digest, bytes(text)) for digest, text in self._rows(queries.DEFINITIONS_IN_USE)]

    def definitions_started(self, from_us: int, until_us: int) -> list[tuple[str, bytes]]:
        """The digests of the definitions of runs started in a span, and the definitions."""
        found = self._rows(queries.DEFINITIONS_STARTED, from_us=from_us, until_us=until_us)
        return [(digest, bytes(text)) for digest, text in found]

    def definitions(self) -> list[tuple[str, int, str, bytes]]:
        """Every registered definition: name, version, digest, and the definition."""
        found = self._rows(queries.DEFINITIONS)
        return [(row[0], row[1], row[2], bytes(row[3])) for row in found]

    def registration(self, digest: str) -> int | None:
        """The entry by which a definition was registered, None when there is none any more."""
        wanted, index = Wanted(kind="workflow.register"), 0
        while found := self.entries(index, PAGE, wanted):
            for entry in found:
                if digest.encode() in entry.entry:
                    return entry.index
            index = found[-1].index + 1
        return None

    def events_of_run(self, run_id: str, after: int, limit: int) -> list[dict[str, Any]]:
        """Events of a run with what ties them to the log, from behind a sequence number on."""
        found = self._rows(queries.EVENTS, run_id=run_id, after_sequence=after, limit=limit)
        return [_event(row) for row in found]

    def input_digest(self, run_id: str) -> str:
        """The digest of a run's input, as its start has it; empty for none, and without evidence.

        It stays when the input itself is forgotten.
        """
        for event in self.events_of_run(run_id, 0, 1):
            entry = None if event["entry"] is None else self.entry(event["entry"])
            for item in (entry and entry.items) or ():
                said = orjson.loads(item)
                if (said["run"], said["seq"]) == (run_id, event["sequence"]):
                    return str(said.get("input", ""))
        return ""

    def wrong_nodes(self, size: int, bad: Set[int]) -> Iterator[tuple[int, int, str]]:
        """The nodes above the leaves that are not what the two below them give, with what it is.

        Not those above a node or a leaf (`bad`) that is wrong itself.
        """
        wrong, level = set(bad), 1
        while size >> level:
            above_wrong, wrong = {position >> 1 for position in wrong}, set()
            for start in range(0, size >> level, NODES):
                end = min(start + NODES, size >> level)
                above = self._level(level, start, end)
                below = self._level(level - 1, 2 * start, 2 * end)
                for position in range(start, end):
                    if position in above_wrong:
                        continue
                    left, right = below.get(2 * position, b""), below.get(2 * position + 1, b"")
                    if above.get(position) == tree.node_hash(left, right):
                        continue
                    wrong.add(position)
                    missing = position not in above
                    yield level, position, "is missing" if missing else "is not what is below it"
            level += 1

    def constitution(self, digest: str) -> bytes:
        """The tenant's constitution with this digest; empty where there is none."""
        found = self._rows(queries.CONSTITUTION, digest=digest)
        return bytes(found[0][0]) if found else b""

    def _rows(self, query: Node, **values: Any) -> list[tuple[Any, ...]]:
        whole: Mapping[str, Any] = {**values, "tenant_id": self.tenant_id}
        return self._store.rows(query, whole, needs="tenant_id")


def _entry(row: tuple[Any, ...]) -> records.LogEntry:
    stored = row[2] if len(row) > 2 else None
    items = None if stored is None else _items(bytes(stored))
    return records.LogEntry(index=row[0], entry=bytes(row[1]), items=items)


def _event(row: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "sequence": row[0],
        "at_us": row[1],
        "kind": row[2],
        "task": row[3],
        "attempt": row[4],
        "term": row[5],
        "agent": row[6],
        "code": row[7],
        "message": row[8],
        "entry": row[9],
    }


def _items(stored: bytes) -> tuple[bytes, ...]:
    """The items out of the array that they are stored in.

    What is no array as we write it is given as one item, which no entry was written with: whoever
    checks it finds that, and people can still look at it.
    """
    try:
        array = unpacked(stored)
        items = tuple(canonical(item) for item in orjson.loads(array))
    except (ValueError, TypeError):
        return (stored,)
    return items if b"[" + b",".join(items) + b"]" == array else (stored,)
