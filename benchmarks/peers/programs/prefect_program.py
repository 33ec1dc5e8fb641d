"""Prefect with a server of its own on SQLite. The flow runs in the client's process."""

from __future__ import annotations

import os
import sys

import harness

# Before the first import of it, which reads them. The server is the round's own.
os.environ |= {
    "PREFECT_API_URL": harness.URL,
    "PREFECT_HOME": str(harness.FOLDER),
    # Nobody reads them here, and their sending costs time.
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import get_run_context
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner


@task(persist_result=True, cache_policy=NO_CACHE)
def step(batch: int, number: int, at: int) -> int:
    """A task, or a step of a chain: its place is what the one before it gave."""
    return harness.execute(batch, number, at)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def flow_of(batch: int, count: int, steps: int) -> str:
    """Tasks side by side, or chains of them. Gives the id of the flow run."""
    last: list[PrefectFuture[int]] = []
    for number in range(count):
        one = step.submit(batch, number, 0)
        for _ in range(steps - 1):
            one = step.submit(batch, number, one)
        last.append(one)
    wait(last)
    return str(get_run_context().flow_run.id)


class Client(harness.Client):
    """Calls the flow, which ends when its tasks have; the server hears of them a little later."""

    def __init__(self) -> None:
        self._server = get_client(sync_client=True)
        self._flow_run_id = ""

    def submit_tasks(self, batch: int, count: int) -> None:
        self._flow_run_id = flow_of(batch, count, 1)

    def submit_chains(self, batch: int, count: int) -> None:
        self._flow_run_id = flow_of(batch, count, harness.LENGTH)

    def settled(self, batch: int, count: int, steps: int) -> bool:
        of_flow = {"flow_runs": {"id": {"any_": [self._flow_run_id]}}}
        done = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        found = self._server._client.post("/task_runs/count", json=of_flow | done).json()
        return int(found) == count * steps


if __name__ == "__main__":
    role = sys.argv[1]
    if role == "drive":
        harness.drive(Client())
