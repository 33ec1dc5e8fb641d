"""DBOS, with SQLite or PostgreSQL."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading

import harness
import sqlalchemy
from dbos import DBOS, DBOSClient

QUEUE = "bench"
_ENQUEUE_AT_ONCE = 500


@DBOS.workflow(name="task")
def task(batch: int, number: int) -> int:
    """An independent task: a workflow that does its work itself, so that one record is enough."""
    return harness.execute(batch, number, 0)


@DBOS.step(name="step")
def step(batch: int, number: int, at: int) -> int:
    """A step, whose result is recorded before the next begins."""
    return harness.execute(batch, number, at)


@DBOS.workflow(name="chain")
def chain(batch: int, number: int) -> int:
    """A chain: a workflow of steps."""
    at = 0
    for _ in range(harness.LENGTH):
        at = step(batch, number, at)
    return at


class Client(harness.Client):
    """Enqueues many in one transaction."""

    def __init__(self) -> None:
        self._client = DBOSClient(system_database_url=harness.URL)
        self._engine = self._client._sys_db.engine

    def submit_tasks(self, batch: int, count: int) -> None:
        self._enqueue("task", batch, count)

    def submit_chains(self, batch: int, count: int) -> None:
        self._enqueue("chain", batch, count)

    def settled(self, batch: int, count: int, steps: int) -> bool:
        table = "workflow_status" if harness.URL.startswith("sqlite") else "dbos.workflow_status"
        query = (
            f"SELECT status, count(*) FROM {table} WHERE workflow_uuid LIKE :name GROUP BY status"
        )
        with self._engine.connect() as connection:
            rows = connection.execute(sqlalchemy.text(query), {"name": f"{batch}-%"}).all()
        found = {str(status): int(number) for status, number in rows}
        if wrong := found.keys() - {"SUCCESS", "PENDING", "ENQUEUED"}:
            raise harness.WrongHistoryError(f"workflows are {', '.join(sorted(wrong))}")
        return found == {"SUCCESS": count}

    def _enqueue(self, workflow: str, batch: int, count: int) -> None:
        for place in range(0, count, _ENQUEUE_AT_ONCE):
            with self._engine.begin() as connection:
                for number in range(place, min(count, place + _ENQUEUE_AT_ONCE)):
                    options = {
                        "queue_name": QUEUE,
                        "workflow_name": workflow,
                        "workflow_id": f"{batch}-{number}",
                    }
                    self._client.enqueue_in_transaction(connection, options, batch, number)


def launch() -> None:
    """Opens the store, makes its schema where it is missing, and listens to the queue."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": harness.URL,
            "application_version": "1",
            "executor_id": f"worker-{os.getpid()}",
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    # 0.1 s where 1 s is the default: it sets how soon queued work begins, and what idling costs.
    DBOS.register_queue(QUEUE, polling_interval_sec=0.1)


if __name__ == "__main__":
    role = sys.argv[1]
    if role == "drive":
        harness.drive(Client())
    elif role == "prepare":
        if harness.URL.startswith("sqlite"):
            # As shipped it keeps a rollback journal; with WAL it does 1.5 times as much.
            connection = sqlite3.connect(harness.URL.removeprefix("sqlite:///"))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.close()
        launch()
        DBOS.destroy()
    else:
        launch()
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        ended.wait()
        DBOS.destroy()
