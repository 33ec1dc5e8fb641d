"""Two coordinators that each decide for one of an agent's tenants: the agent serves both."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.chaos import checker
from tests.chaos.proxy import Proxy
from tests.chaos.site import Fronted, free_port
from tests.chaos.stored import record_of
from tests.wire.installation import TENANT, Agent, Installation, until

from tenure.v1 import runs_pb2
from tenure_client.builder import Workflow
from tenure_client.client import Client

OTHER = "beta"


class Divided:
    """An installation, who holds the seats of its two tenants, and its clients."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = store
        flags = ("--seat-seconds", "1.5", "--lease-seconds", "6")
        self.installation = Installation(folder, store, flags)
        self.holders: dict[str, Fronted] = {}

    async def open(self) -> None:
        """Starts two coordinators; the second one makes the second tenant, and so has its seat."""
        for tenant in (TENANT, OTHER):
            port = free_port()
            proxy = Proxy(port)
            await proxy.start()
            flags = self.installation.flags
            coordinator = Fronted(f"holder-{tenant}", self.folder, self.store, flags, proxy, port)
            self.holders[tenant] = coordinator
            self.installation.coordinators.append(coordinator)
            await asyncio.to_thread(coordinator.start)
        address = self.holders[OTHER].address
        async with Client(address, self.installation.operator_secret()) as operator:
            await operator.create_tenant(OTHER)

    async def close(self) -> None:
        """Ends every process and every line."""
        self.installation.close()
        for coordinator in self.holders.values():
            await coordinator.proxy.close()

    async def agent(self, slots: int) -> Agent:
        """Starts an agent of both tenants."""
        return await self.installation.add_agent("both", tenants=(TENANT, OTHER), slots=slots)

    async def start(self, tenant: str, workflow: Workflow) -> str:
        """Registers a workflow and starts a run of it."""
        async with self.installation.client("admin", tenant) as client:
            await client.register_workflow(workflow.definition())
            return (await client.start_run(workflow.definition().name)).run_id

    async def succeeded(self, tenant: str, *run_ids: str) -> None:
        """Waits until runs have ended, which must be well."""
        async with self.installation.client("admin", tenant, retry_seconds=30) as client:
            async with asyncio.timeout(40):
                for run_id in run_ids:
                    run = await client.wait_run(run_id)
                    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, run

    def violations(self, slots: int) -> Sequence[checker.Violation]:
        """What is wrong with the record, the agent's slots at every instant included."""
        return checker.check([], record_of(self.store, {"both": slots}))


@pytest.fixture
async def divided(postgres_url: str, tmp_path: Path) -> AsyncIterator[Divided]:
    house = Divided(tmp_path, postgres_url)
    try:
        await house.open()
        yield house
    finally:
        await house.close()


def _fan(name: str, tasks: int, kind: str = "tenure.trace", **more: Any) -> Workflow:
    with Workflow(name) as workflow:
        for number in range(tasks):
            workflow.task(f"t{number}", kind=kind, **({"input": {"seconds": 0.02}} | more))
    return workflow


def _holding(folder: Path) -> Workflow:
    return _fan("hold", 1, kind="hold", input=str(folder))


async def test_an_agent_of_two_tenants_serves_both_wherever_their_seats_are(
    divided: Divided,
) -> None:
    """All of both is done, and never are more leases live than it has slots."""
    agent = await divided.agent(slots=3)
    run_ids = {tenant: await divided.start(tenant, _fan("fan", 60)) for tenant in divided.holders}
    for tenant, run_id in run_ids.items():
        await divided.succeeded(tenant, run_id)
    assert not divided.violations(slots=3)
    lines = agent.logged("agent is on the line")
    assert sorted(tuple(line["tenants"]) for line in lines) == [(TENANT,), (OTHER,)]


async def test_one_slot_goes_where_work_is(divided: Divided) -> None:
    """While both have work they take turns, and none waits for the other's last task."""
    await divided.agent(slots=1)
    for tenant in (TENANT, OTHER, TENANT):
        await divided.succeeded(tenant, await divided.start(tenant, _fan("one", 1)))
    run_ids = {tenant: await divided.start(tenant, _fan("fan", 20)) for tenant in divided.holders}
    for tenant, run_id in run_ids.items():
        await divided.succeeded(tenant, run_id)
    assert not divided.violations(slots=1)
    record = record_of(divided.store, {})
    turns = sorted(
        (item.at, tenant)
        for tenant, log in record.logs.items()
        for entry in log
        for item in entry.items
        if item.kind == "task.leased" and item.run_id in run_ids.values()
    )
    changes = sum(one[1] != next_one[1] for one, next_one in itertools.pairwise(turns))
    assert changes >= 10, turns


async def test_results_reach_whoever_has_taken_the_seat(divided: Divided, tmp_path: Path) -> None:
    """Finished while nobody held it, they wait in the spool, and the work is done once."""
    await divided.agent(slots=2)
    run_id = await divided.start(OTHER, _holding(tmp_path))
    await until((tmp_path / "t0.1.began").exists, "the task begins")
    divided.holders[OTHER].kill()
    (tmp_path / "go").touch()
    await divided.succeeded(OTHER, run_id)
    async with divided.installation.client("admin", OTHER) as client:
        kinds = [event.kind async for event in client.list_run_events(run_id)]
    assert kinds.count(runs_pb2.RUN_EVENT_KIND_TASK_LEASED) == 1
    await divided.succeeded(TENANT, await divided.start(TENANT, _fan("fan", 10)))
    assert not divided.violations(slots=2)


async def test_the_spool_of_a_killed_agent_finds_the_holders_of_both_seats(
    divided: Divided, tmp_path: Path
) -> None:
    """The next process knows of no result whose it is, and shows them to both."""
    agent = await divided.agent(slots=2)
    run_ids = {}
    for tenant in divided.holders:
        (tmp_path / tenant).mkdir()
        run_ids[tenant] = await divided.start(tenant, _holding(tmp_path / tenant))
        await until((tmp_path / tenant / "t0.1.began").exists, "the task begins")
    for coordinator in divided.holders.values():
        coordinator.proxy.set("hole")
    for tenant in run_ids:
        (tmp_path / tenant / "go").touch()

    def spooled() -> str:
        spool = agent.folder.joinpath("spool").rglob("*.spool")
        return "".join(path.read_bytes().decode(errors="replace") for path in spool)

    await until(
        lambda: all(run_id in spooled() for run_id in run_ids.values()), "the results are spooled"
    )
    agent.kill()
    for coordinator in divided.holders.values():
        coordinator.proxy.cut()
        coordinator.proxy.set("open")
    await asyncio.to_thread(agent.start)
    for tenant, run_id in run_ids.items():
        await divided.succeeded(tenant, run_id)
    agent.terminate()
    assert await agent.ended() == 0
    assert agent.logged("agent has drained", unacknowledged=0)
    assert not divided.violations(slots=2)
