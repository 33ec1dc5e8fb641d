"""Seats: which tenants this coordinator decides for.

A seat is a lease: holder, term, until. Each taking raises the term, and every transaction asserts
it, so whoever lost a seat without noticing can do no harm. On SQLite the file's lock has decided
already, and all seats are taken at once; on PostgreSQL a seat is free when its time, by the
server's clock, is over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from peewee import JOIN, Node, Value

from tenure_server.core.ledger import records
from tenure_server.store import rows, statements, tables
from tenure_server.store.backend import SEAT_US_MAX
from tenure_server.store.database import Store

_SEAT = tables.Seat
_slot = statements.slot

_HELD = _SEAT.select(*rows.SEAT).where(_SEAT.holder == _slot("holder")).order_by(_SEAT.tenant_id)
_MISSING = tables.Seat.insert_from(
    tables.Tenant.select(tables.Tenant.tenant_id, Value(""), Value(""), Value(0), Value(0))
    .join(_SEAT, JOIN.LEFT_OUTER, on=(_SEAT.tenant_id == tables.Tenant.tenant_id))
    .where(_SEAT.tenant_id.is_null()),
    list(rows.SEAT),
).on_conflict_ignore()
# A seat that a commit of its holder has locked is left alone: the holder is alive, and the next
# round comes soon.
_FREE = _SEAT.select(*rows.SEAT).where(_SEAT.holder != _slot("holder")).order_by(_SEAT.tenant_id)
# One that says that it holds for longer than any is held was written before the server's clock was
# set back. Its holder may live, and comes to know it by the term as any holder does.
_EXPIRED = _FREE.where(
    (_SEAT.until_us <= _slot("now_us")) | (_SEAT.until_us > _slot("latest_us"))
).for_update(skip_locked=True)
_TAKE = [
    _SEAT.update(
        {
            _SEAT.holder: _slot("holder"),
            _SEAT.address: _slot("address"),
            _SEAT.term: _SEAT.term + 1,
            _SEAT.until_us: _slot("until_us"),
        }
    ).where(_SEAT.tenant_id.in_(statements.slots("tenant_ids", 1 << power)))
    for power in range(statements.LIST_MAX.bit_length())
]
_RENEW = _SEAT.update({_SEAT.until_us: _slot("until_us")}).where(_SEAT.holder == _slot("holder"))
_RECLAIM = _SEAT.update({_SEAT.term: _SEAT.term + 1}).where(_SEAT.holder == _slot("holder"))
_RELEASE = _SEAT.update(
    {_SEAT.holder: Value(""), _SEAT.address: Value(""), _SEAT.until_us: Value(0)}
).where(_SEAT.holder == _slot("holder"))


class Seats:
    """Takes and keeps this coordinator's seats. To be used on the writer's thread.

    All methods raise StoreFailed when the database cannot do it. `until_us` of a seat is by the
    database's clock; who wants to know how long it may be trusted counts from when it called.
    """

    def __init__(self, store: Store) -> None:
        self._backend = store.backend
        self._writer = store.writer()
        self._holder = store.holder
        self._address = store.address
        self._statements = statements.Statements(store.backend.writing)

    def take(self, now_us: int, seat_us: int) -> list[records.Seat]:
        """Takes every seat that is free or whose time is over, and gives those that it took."""
        with self._writer.transaction():
            now_us = self._backend.clock_us(now_us)
            self._statements.run(_MISSING, {})
            free = _EXPIRED if self._backend.shared else _FREE
            found = self._rows(free, now_us=now_us, latest_us=now_us + SEAT_US_MAX)
            for piece in statements.pieces([seat.tenant_id for seat in found]):
                self._run(
                    _TAKE[len(piece).bit_length() - 1],
                    tenant_ids=piece,
                    address=self._address,
                    until_us=now_us + seat_us,
                )
        return [
            replace(
                seat,
                holder=self._holder,
                address=self._address,
                term=seat.term + 1,
                until_us=now_us + seat_us,
            )
            for seat in found
        ]

    def renew(self, now_us: int, seat_us: int) -> list[records.Seat]:
        """Holds the seats for longer and gives those that are still held."""
        with self._writer.transaction():
            if self._backend.shared:
                now_us = self._backend.clock_us(now_us)
                self._run(_RENEW, until_us=now_us + seat_us)
            found = self._rows(_HELD)
        # On SQLite nobody else looks, so nothing is written.
        return [replace(seat, until_us=now_us + seat_us) for seat in found]

    def reclaim(self) -> None:
        """Raises the term of every seat that is held.

        What this coordinator sent before and does not know the outcome of has ended then: a
        transaction that is under way is waited for, and one that comes later is refused.
        """
        with self._writer.transaction():
            self._run(_RECLAIM)

    def release(self) -> None:
        """Gives up all seats, so that others can take them at once."""
        with self._writer.transaction():
            self._run(_RELEASE)

    def held(self) -> list[records.Seat]:
        """The seats that this coordinator has."""
        with self._writer.transaction():
            return self._rows(_HELD)

    def _rows(self, query: Node, **values: Any) -> list[records.Seat]:
        found = self._statements.rows(query, {"holder": self._holder, **values})
        return [rows.seat(row) for row in found]

    def _run(self, query: Node, **values: Any) -> int:
        return self._statements.run(query, {"holder": self._holder, **values})
