"""An upgrade as it happens: both coordinators come back newer, and callers have been waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.chaos.site import free_port
from tests.compatibility.frozen import Frozen
from tests.wire.installation import Agent, Installation

from tenure.v1 import runs_pb2
from tenure_client.builder import Workflow
from tenure_client.client import Client
from tenure_evidence.signing import SigningKeys
from tenure_server.audit import audit_store
from tenure_server.store.database import open_store

#: Runs that are started while the coordinators migrate.
RUNS = 20


@asynccontextmanager
async def _upgraded(frozen: Frozen, url: str, folder: Path) -> AsyncIterator[list[str]]:
    """Two coordinators and an agent that begin at one moment; gives the coordinators' addresses."""
    frozen.signing_key(folder)
    installation = Installation(folder, url)
    agent = Agent("host", folder / "host")
    installation.agents.append(agent)
    try:
        for _ in range(2):
            installation.add_coordinator().address = f"127.0.0.1:{free_port()}"
        addresses = [each.address for each in installation.coordinators]
        agent.configure(addresses, frozen.secrets["alpha/agent"], {})
        for coordinator in installation.coordinators:
            coordinator.launch()
        agent.launch()
        yield addresses
        for process in (agent, *installation.coordinators):
            process.terminate()
            assert await process.ended() == 0, process.log_tail()
    finally:
        installation.close()


async def test_coordinators_that_migrate_together_serve_those_who_waited(
    restored: Callable[[Frozen], str], tmp_path: Path
) -> None:
    """One of them migrates, and every start that was tried meanwhile is one run that ends."""
    frozen = Frozen("evidence", "postgresql")
    url = restored(frozen)
    async with (
        _upgraded(frozen, url, tmp_path) as addresses,
        Client(addresses, frozen.secrets["alpha/admin"], retry_seconds=60.0) as client,
    ):
        with Workflow("new") as workflow:
            first = workflow.task("a", kind="tenure.trace", input={"seconds": 0.0})
            workflow.task("b", kind="tenure.trace", input={"seconds": 0.0}, after=[first])
        await client.register_workflow(workflow.definition())

        async def start(number: int) -> str:
            return (await client.start_run("new", request_id=f"start-{number}")).run_id

        twice = [*range(RUNS), *range(RUNS)]
        started = await asyncio.gather(*map(start, twice))
        assert started[:RUNS] == started[RUNS:]
        ended = await asyncio.gather(*map(client.wait_run, started[:RUNS]))
        assert {run.state for run in ended} == {runs_pb2.RUN_STATE_SUCCEEDED}
        there = {run.run_id async for run in client.list_runs()}
        then = {seen.run_id for seen in frozen.seen("alpha").values()}
        assert there == then | set(started)
    store = open_store(url, holder="audit", address="audit:1")
    try:
        keys = SigningKeys.load(tmp_path / "signing-key.json")
        assert audit_store(store, keys.chain()) == []
    finally:
        store.close()
