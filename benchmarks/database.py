"""What PostgreSQL says that it does meanwhile: transactions, rows, waits; and who has the cores."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

#: How often it is looked at what its backends wait for.
_LOOK_SECONDS = 0.02
#: A backend adds its counts to the shared ones with its first transaction after so long.
_SETTLE_SECONDS = 1.2
_SHARE_SECONDS = 0.2
_COUNTS = b"""SELECT xact_commit, xact_rollback, tup_inserted, tup_updated, deadlocks
    FROM pg_stat_database WHERE datname = current_database()"""
_WAITS = b"""SELECT wait_event_type, wait_event FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'"""
_WAL = b"SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"
_NAMES = ("commits", "rollbacks", "rows inserted", "rows updated", "deadlocks")


@dataclass(slots=True)
class Doings:
    """What happened between two moments."""

    seconds: float = 0.0
    #: By the names above, and `WAL bytes`.
    counts: dict[str, float] = field(default_factory=dict)
    #: How often a backend was seen active, by what it waited for; empty: for nothing.
    seen: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    #: The part of all processors' time that somebody used, 0 to 1.
    busy: float = 0.0

    def rate(self, name: str) -> float:
        """How many a second."""
        return self.counts[name] / self.seconds

    def waiting(self, kind: str) -> float:
        """How many backends, on the average, waited for a kind of event such as `Lock`."""
        seen = sum(times for name, times in self.seen.items() if name.startswith(kind))
        return seen / max(1, self.looks)


@contextlib.asynccontextmanager
async def watched(
    url: str, write_a_little: Callable[[], Awaitable[object]]
) -> AsyncIterator[Doings]:
    """Watches a database; what is given is complete afterwards. `write_a_little` has each writer
    commit something: what it counted before is shared then.
    """
    doings = Doings()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as database:
        await asyncio.sleep(_SETTLE_SECONDS)
        await write_a_little()
        await asyncio.sleep(_SHARE_SECONDS)
        before, cores = await _counts(database), _cores()
        begin = time.perf_counter()
        looking = asyncio.create_task(_look(database, doings))
        try:
            yield doings
        finally:
            doings.seconds = time.perf_counter() - begin
            doings.busy = _busy(cores, _cores())
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        await asyncio.sleep(_SETTLE_SECONDS)
        await write_a_little()
        await asyncio.sleep(_SHARE_SECONDS)
        after = await _counts(database)
        doings.counts = {name: after[name] - before[name] for name in after}
        # Our own looks are transactions too.
        doings.counts["commits"] -= doings.looks


async def transactions(url: str) -> float:
    """How many transactions there were so far, all but those of the last second, this one too."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as database:
        counts = await _counts(database)
    return counts["commits"] + counts["rollbacks"]


async def _look(database: psycopg.AsyncConnection[Any], doings: Doings) -> None:
    while True:
        for kind, event in await (await database.execute(_WAITS)).fetchall():
            doings.seen["" if kind is None else f"{kind} {event}"] += 1
        doings.looks += 1
        await asyncio.sleep(_LOOK_SECONDS)


async def _counts(database: psycopg.AsyncConnection[Any]) -> dict[str, float]:
    row = await (await database.execute(_COUNTS)).fetchone()
    wal = await (await database.execute(_WAL)).fetchone()
    assert row is not None
    assert wal is not None
    return {**dict(zip(_NAMES, map(float, row), strict=True)), "WAL bytes": float(wal[0])}


def _cores() -> tuple[float, float]:
    """The processors' time that was used and all of it, in ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _busy(before: tuple[float, float], after: tuple[float, float]) -> float:
    used, everything = (later - earlier for earlier, later in zip(before, after, strict=True))
    return used / max(1.0, everything)
