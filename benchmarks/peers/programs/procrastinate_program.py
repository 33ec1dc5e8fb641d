"""Procrastinate with PostgreSQL."""

from __future__ import annotations

import asyncio
import sys

import harness
import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

_DEFER_AT_ONCE = 1000
_UNDONE = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
_FAILED = (
    "SELECT count(*) FROM procrastinate_jobs WHERE status NOT IN ('todo', 'doing', 'succeeded')"
)

# The client is not asynchronous: it has one thing to do at a time.
_connector = SyncPsycopgConnector if sys.argv[1] == "drive" else PsycopgConnector
app = App(connector=_connector(conninfo=harness.URL))


@app.task(name="step")
async def step(batch: int, number: int) -> None:
    """An independent task."""
    harness.execute(batch, number, 0)


@app.task(name="link")
async def link(batch: int, number: int, at: int) -> None:
    """A step of a chain: it defers the next, for there are no workflows."""
    if harness.execute(batch, number, at) < harness.LENGTH:
        await link.defer_async(batch=batch, number=number, at=at + 1)


class Client(harness.Client):
    """Defers many with one statement."""

    def __init__(self) -> None:
        app.open()
        self._reader = psycopg.connect(harness.URL, autocommit=True)

    def submit_tasks(self, batch: int, count: int) -> None:
        jobs = [{"batch": batch, "number": number} for number in range(count)]
        self._defer("step", jobs)

    def submit_chains(self, batch: int, count: int) -> None:
        self._defer("link", [{"batch": batch, "number": it, "at": 0} for it in range(count)])

    def settled(self, batch: int, count: int, steps: int) -> bool:
        if self._count(_UNDONE):
            return False
        if failed := self._count(_FAILED):
            raise harness.WrongHistoryError(f"{failed} jobs failed")
        return True

    def _defer(self, name: str, jobs: list[dict[str, int]]) -> None:
        task = app.configure_task(name)
        for place in range(0, len(jobs), _DEFER_AT_ONCE):
            task.batch_defer(*jobs[place : place + _DEFER_AT_ONCE])

    def _count(self, query: str) -> int:
        row = self._reader.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0


async def prepare() -> None:
    """Makes the tables."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work() -> None:
    """Ten jobs at a time; LISTEN and NOTIFY wake it."""
    async with app.open_async():
        await app.run_worker_async(concurrency=10, listen_notify=True)


if __name__ == "__main__":
    role = sys.argv[1]
    if role == "drive":
        harness.drive(Client())
    else:
        asyncio.run(work() if role == "work" else prepare())
