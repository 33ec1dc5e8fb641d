"""Huey with SQLite."""

from __future__ import annotations

import sys

import harness
from huey import SqliteHuey

# WAL and synchronous FULL: what was enqueued survives a power loss.
queue = SqliteHuey(
    "bench", filename=str(harness.FOLDER / "huey.db"), fsync=True, journal_mode="wal", timeout=30
)


@queue.task()
def step(batch: int, number: int, at: int) -> int:
    """A task, or a step of a chain: its place is what the one before it gave, which comes last."""
    return harness.execute(batch, number, at)


class Client(harness.Client):
    """Enqueues one by one: it has no batch."""

    def submit_tasks(self, batch: int, count: int) -> None:
        for number in range(count):
            queue.enqueue(step.s(batch, number, 0))

    def submit_chains(self, batch: int, count: int) -> None:
        for number in range(count):
            chain = step.s(batch, number, 0)
            for _ in range(harness.LENGTH - 1):
                chain = chain.then(step, batch, number)
            queue.enqueue(chain)

    def settled(self, batch: int, count: int, steps: int) -> bool:
        if queue.pending_count() or queue.result_count() < count * steps:
            return False
        # A result is kept until it is taken; those of this batch are not to be counted again.
        queue.storage.flush_results()
        return True


if __name__ == "__main__":
    role = sys.argv[1]
    if role == "drive":
        harness.drive(Client())
    elif role == "work":
        queue.create_consumer(
            workers=2, initial_delay=0.01, max_delay=0.1, periodic=False, check_worker_health=False
        ).run()
