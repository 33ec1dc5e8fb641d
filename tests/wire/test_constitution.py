"""Articles at all five points, on a real coordinator with a real agent: one sentence everywhere."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests import logbook
from tests.wire.installation import Agent, Installation

from tenure.v1 import runs_pb2, workflows_pb2
from tenure_client.builder import Workflow
from tenure_client.client import Client
from tenure_client.errors import TenureError
from tenure_evidence.canonical import digest_text


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant of a test's own, with its admin and an agent."""

    house: Installation
    tenant_id: str
    client: Client
    agent: Agent


@pytest.fixture
async def place(either_house: Installation, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    name = f"judged-{zlib.crc32(request.node.name.encode()):08x}"
    await either_house.add_tenant(name)
    async with (
        either_house.passing_agent(name, tenants=(name,)) as agent,
        either_house.client("admin", name) as client,
    ):
        yield Place(either_house, name, client, agent)


#: What must hold at each point, and what the tests do otherwise.
RULES = {
    "call": "rpc.method != 'ListWorkflows'",
    "register": "workflow.name != 'wrong'",
    "start": "run.priority < 7",
    "lease": "task.key != 'unleased'",
    "settle": "task.key != 'unsettled'",
}


def constitution(effect: str) -> str:
    """An article at each point."""
    articles = [
        {
            "id": f"at-{point}",
            "law": "integrity",
            "perspective": "security_boundary",
            "point": point,
            "effect": effect,
            "expression": expression,
            "message": f"not so at {point}",
        }
        for point, expression in RULES.items()
    ]
    return json.dumps({"articles": articles})


def sentence(point: str, verb: str) -> str:
    """What people are told."""
    return f"article at-{point} (law of integrity, security boundary) {verb}: not so at {point}"


def definition(name: str) -> workflows_pb2.WorkflowDefinition:
    """A workflow whose tasks break the rules of the work, and one that breaks none."""
    workflow = Workflow(name, description="Breaks rules.")
    for key in ("plain", "unleased", "unsettled"):
        workflow.task(key, kind="add-up", input=1)
    return workflow.definition()


def breaking(client: Client) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Acts that each break the rule of one point."""

    async def call() -> None:
        async for _ in client.list_workflows():
            pass

    return {
        "call": call,
        "register": lambda: client.register_workflow(definition("wrong")),
        "start": lambda: client.start_run("w", priority=8),
    }


async def test_a_denial_is_the_same_sentence_in_status_log_and_evidence(place: Place) -> None:
    """Refused acts name their decision; denied work fails with the code DENIED."""
    client, coordinator = place.client, place.house.coordinator
    await client.register_workflow(definition("w"))
    await client.constitution.put(constitution("deny"))
    refused: dict[str, TenureError] = {}
    for point, act in breaking(client).items():
        with pytest.raises(TenureError) as raised:
            await act()
        refused[point] = raised.value
    run_id = (await client.start_run("w")).run_id
    run = await client.wait_run(run_id)
    assert run.state == runs_pb2.RUN_STATE_FAILED
    assert (run.tasks.succeeded, run.tasks.failed) == (1, 2)
    events = [event async for event in client.list_run_events(run_id)]
    logs = logbook.read_url(place.house.store)
    logs.check()
    lines = coordinator.logged("call refused", tenant=place.tenant_id)
    for point, error in refused.items():
        assert str(error.message) == sentence(point, "denies")
        [line] = [line for line in lines if line["detail"] == sentence(point, "denies")]
        assert line["reason"] == error.reason
        log, index = error.metadata["decision"].split("/")
        entry = logs.of(log)[int(index)]
        assert (log, entry["refusal"]) == (place.tenant_id, error.reason)
        assert entry["verdict"] == "deny"
        assert [one["id"] for one in entry["articles"]] == [f"at-{point}"]
    items = [item for entry in logs.entries[place.tenant_id] for item in entry.events]
    for point, key in (("lease", "unleased"), ("settle", "unsettled")):
        [failed] = [event for event in events if event.task_key == key and event.code]
        assert failed.code == "DENIED"
        assert failed.message.startswith(sentence(point, "denies"))
        [item] = [item for item in items if (item["run"], item["seq"]) == (run_id, failed.sequence)]
        assert item["text"] == digest_text(failed.message.encode())
        told = sentence(point, "denies")
        assert coordinator.logged("the constitution denies", detail=told, tenant=place.tenant_id)
    assert place.agent.child.poll() is None


async def test_a_warning_is_told_and_kept_and_nothing_is_stopped(place: Place) -> None:
    """The run succeeds; each warning stands in evidence, those of acts in the log too."""
    client, coordinator = place.client, place.house.coordinator
    await client.register_workflow(definition("w"))
    await client.constitution.put(constitution("warn"))
    done = {point: await act() for point, act in breaking(client).items()}
    for point in ("register", "start"):
        assert [one.message for one in done[point].warnings] == [f"not so at {point}"]
    run = await client.wait_run(done["start"].run_id)
    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED
    logs = logbook.read_url(place.house.store)
    logs.check()
    entries = logs.of(place.tenant_id)
    warned = {
        one["id"] for entry in entries if entry["verdict"] == "warn" for one in entry["articles"]
    }
    assert warned == {f"at-{point}" for point in RULES}
    assert not any("refusal" in entry for entry in entries)
    for point in ("call", "register", "start"):
        told = sentence(point, "warns")
        assert coordinator.logged("the constitution warns", detail=told, tenant=place.tenant_id)
