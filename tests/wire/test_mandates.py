"""Agents that check mandates, against coordinators that sign them: real processes on both ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.wire.by_hand import HandAgent, hand_agent
from tests.wire.conftest import Install
from tests.wire.installation import Agent, Installation, until

from tenure.v1 import agents_pb2, runs_pb2, workflows_pb2
from tenure_agent.mandates import Guard
from tenure_client.builder import Retry, Workflow
from tenure_evidence.notes import VerifierKey
from tenure_evidence.signing import SigningKey

pytestmark = pytest.mark.timeout(120)

SUCCEEDED = runs_pb2.RUN_STATE_SUCCEEDED


def everything(name: str = "everything") -> workflows_pb2.WorkflowDefinition:
    """Inputs, outputs, checkpoints and further attempts: whatever a lease can bring."""
    again = Retry(max_attempts=3, initial_delay=0.01)
    with Workflow(name) as workflow:
        counted = workflow.task("counted", kind="count", input=5, retry=again)
        tried = workflow.task(
            "tried", kind="fail-until", input={"attempt": 3, "code": "NotYet"}, retry=again
        )
        parts = [workflow.task(f"part-{n}", kind="add-up", input=n) for n in range(40)]
        total = workflow.task("total", kind="add-up", input=1, after=parts)
        workflow.task("last", kind="tenure.noop", after=[counted, tried, total])
    return workflow.definition()


def refusals(agent: Agent) -> list[dict[str, Any]]:
    return agent.logged("lease is refused")


async def test_an_agent_that_checks_executes_what_its_coordinator_signs(
    either_house: Installation,
) -> None:
    """Inputs, checkpoints, upstream outputs and retries are the same on both ends of the wire."""
    agent = await either_house.agent_of_house()
    async with either_house.client() as admin:
        await admin.register_workflow(everything())
        started = [await admin.start_run("everything", input={"n": n}) for n in range(3)]
        started.append(await admin.start_run("everything"))
        for run in started:
            ended = await admin.wait_run(run.run_id)
            assert ended.state == SUCCEEDED
    assert not refusals(agent)
    assert len(agent.logged("leases are checked against their mandates")) == 1


async def test_mandates_hold_for_runs_that_a_coordinator_read_back(
    install: Install, tmp_path: Path
) -> None:
    """Killed between the tasks of a run, it signs for the rest of it when it is back."""
    installation = install("--lease-seconds", "2")
    agent = await installation.add_agent(public_key=installation.public_keys()[0])
    with Workflow("held") as workflow:
        first = workflow.task("first", kind="add-up", input=1)
        held = workflow.task("held", kind="hold", input=str(tmp_path), after=[first])
        workflow.task("last", kind="add-up", input=2, after=[first])
        workflow.task("end", kind="tenure.noop", after=[held])
    async with installation.client() as admin:
        await admin.register_workflow(workflow.definition())
        started = await admin.start_run("held", input=[1])
        await until((tmp_path / "held.1.began").exists, "the task has begun")
        installation.coordinator.kill()
        (tmp_path / "go").touch()
        await asyncio.to_thread(installation.coordinator.start)
        assert (await admin.wait_run(started.run_id)).state == SUCCEEDED
    assert not refusals(agent)


async def test_a_rotated_key_is_trusted_by_those_who_trust_the_one_before(
    install: Install,
) -> None:
    installation = install()
    (root,) = installation.public_keys()
    agent = await installation.add_agent(public_key=root)
    coordinator = installation.coordinator
    coordinator.terminate()
    await coordinator.ended()
    await asyncio.to_thread(_rotate, installation)
    _, second = installation.public_keys()
    await asyncio.to_thread(coordinator.start)
    newest = VerifierKey.parse(second).hash.hex()
    await until(
        lambda: agent.logged("leases are checked against their mandates", newest_key=newest),
        "the agent hears of the new key",
    )
    younger = await installation.add_agent(public_key=second)
    async with installation.client() as admin:
        await admin.register_workflow(everything())
        started = await admin.start_run("everything")
        assert (await admin.wait_run(started.run_id)).state == SUCCEEDED
    assert not refusals(agent)
    assert not refusals(younger)


async def test_an_agent_of_another_installation_refuses_the_coordinator(
    house: Installation,
) -> None:
    """And says so in its log, while the work goes to those who take it."""
    (key,) = house.public_keys()
    name = VerifierKey.parse(key).name
    strange = Agent("strange", house.folder / "strange")
    strange.configure(
        [house.coordinator.address],
        await house.secret("agent"),
        {"public_key": SigningKey(name, bytes(32)).verifier.text},
    )
    strange.launch()
    try:
        await until(lambda: strange.logged("agent refuses the coordinator"), "it refuses")
        await house.agent_of_house()
        async with house.client() as admin:
            await admin.register_workflow(everything())
            started = await admin.start_run("everything")
            assert (await admin.wait_run(started.run_id)).state == SUCCEEDED
        assert not strange.ready_file.exists()
        assert not strange.logged("agent is on the line")
    finally:
        strange.close()


async def test_leases_without_a_stream_have_mandates_too(house: Installation) -> None:
    """Made out to the agent that asked; simple agents need not look."""
    with Workflow("by-hand-mandates") as workflow:
        for number in range(3):
            workflow.task(f"t{number}", kind="signed-by-hand", input=number)
    async with house.client() as admin, hand_agent(house) as agent:
        await admin.register_workflow(workflow.definition())
        started = await admin.start_run("by-hand-mandates", input="x")
        batch = await _take(agent, "signed-by-hand")
        await admin.cancel_run(started.run_id)
    root = house.public_keys()[0]
    assert len(batch.leases) == 3
    # One for each act that granted some of them: where others wait for work too, all take turns.
    assert {lease.mandate for lease in batch.leases} == set(range(len(batch.mandates)))
    for name, passes in (("by-hand", True), ("another", False)):
        guard = Guard(VerifierKey.parse(root), agent=name)
        guard.welcome(agents_pb2.Welcome(root_key=root))
        checked = guard.batch(batch)
        found = [checked.objection(lease, batch.runs[0]) for lease in batch.leases]
        assert found == ([""] * 3 if passes else ["lease is not the one that was signed"] * 3)


async def _take(agent: HandAgent, kind: str) -> agents_pb2.LeaseBatch:
    request = agents_pb2.LeaseTasksRequest(agent=agent.name, kinds=[kind], max_leases=3)
    request.wait.seconds = 20
    answer = await agent.stub.LeaseTasks(request, metadata=agent.metadata)
    return answer.batch


def _rotate(installation: Installation) -> None:
    file = str(installation.coordinator.signing_key)
    command = [sys.executable, "-m", "tenure_server", "rotate-key", "--signing-key", file]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
