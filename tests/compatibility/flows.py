"""What frozen stores hold: a workflow for each state in which work can be, left there on purpose.

`fill` does this with an older version of Tenure, and nothing here may need more than that one has.
A flow has a workflow of its name, and its tasks are of that kind, unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import ParseDict
from tests.wire.by_hand import STOPPED, HandAgent, hand_agent, ref, success
from tests.wire.installation import Installation

from tenure.v1 import agents_pb2, workflows_pb2
from tenure_client.client import Client

_LONG_RETRY = {"maxAttempts": 3, "initialDelay": "3600s", "jitter": 0}


@dataclass(slots=True)
class Filling:
    """A tenant of an installation that is being filled."""

    client: Client
    agent: HandAgent
    #: The runs by the names of their flows.
    runs: dict[str, str] = field(default_factory=dict)
    #: Leases that live on, by flow: whoever has them may come back after the migration.
    leases: dict[str, agents_pb2.Lease] = field(default_factory=dict)

    async def start(self, flow: str, *tasks: dict[str, Any], **definition: Any) -> str:
        """Registers the workflow of a flow and starts a run of it."""
        content = {"name": flow, "tasks": [_whole(task, flow) for task in tasks], **definition}
        await self.register(content)
        started = await self.client.start_run(flow, input={"flow": flow}, labels={"flow": flow})
        self.runs[flow] = started.run_id
        return started.run_id

    async def register(self, content: dict[str, Any]) -> None:
        """Registers any workflow."""
        definition = ParseDict(content, workflows_pb2.WorkflowDefinition())
        await self.client.register_workflow(definition)

    async def lease(self, flow: str, most: int = 1) -> list[agents_pb2.Lease]:
        """Takes leases of a flow."""
        return await self.agent.lease(flow, most=most)

    async def succeed(self, flow: str) -> None:
        """Does the next task of a flow."""
        (lease,) = await self.lease(flow)
        await self.agent.settle(ref(lease), success(b'{"of":"%s"}' % lease.task_key.encode()))

    async def fail(self, flow: str, code: str = "Unlucky") -> None:
        """Lets the next task of a flow fail."""
        (lease,) = await self.lease(flow)
        await self.agent.renew(ref(lease), b'{"half":true}')
        await self.agent.settle(ref(lease), code)

    async def hold(self, flow: str) -> None:
        """Takes a lease and keeps it."""
        (self.leases[flow],) = await self.lease(flow)


@asynccontextmanager
async def filling(installation: Installation, tenant: str) -> AsyncIterator[Filling]:
    """Opens a tenant for filling."""
    async with (
        installation.client("admin", tenant) as client,
        hand_agent(installation, tenant=tenant) as agent,
    ):
        yield Filling(client, agent)


def _whole(task: dict[str, Any], flow: str) -> dict[str, Any]:
    waits = {"timer", "signal", "event", "approval", "workflow"} & task.keys()
    return task if waits else {"kind": flow, **task}


async def few(to: Filling) -> None:
    """A run that has ended and one that has not begun."""
    a, b = {"key": "a"}, {"key": "b", "dependsOn": ["a"]}
    await to.start("done", a, b, {"key": "c", "dependsOn": ["a", "b"]}, maxLeases=2)
    for _ in range(3):
        await to.succeed("done")
    await to.start("fresh", a, b)


async def plain(to: Filling) -> None:
    """What else the first version could do already."""
    a, b = {"key": "a"}, {"key": "b", "dependsOn": ["a"]}
    await to.start("failed", a, b)
    await to.fail("failed")
    await to.start("cancelled", a)
    await to.client.cancel_run(to.runs["cancelled"], reason="no longer needed")
    await to.start("halfway", a, b, {"key": "c", "dependsOn": ["a"]})
    await to.succeed("halfway")
    await to.hold("halfway")
    await to.start("retrying", {**a, "retry": _LONG_RETRY}, b)
    await to.fail("retrying")
    await to.start("returned", a)
    (lease,) = await to.lease("returned")
    await to.agent.settle(ref(lease), STOPPED)
    await to.start("cancelling", a)
    await to.hold("cancelling")
    await to.client.cancel_run(to.runs["cancelling"], reason="while it is leased")


async def waits(to: Filling) -> None:
    """What waits for times, people and other runs."""
    after = {"key": "b", "dependsOn": ["a"]}
    await to.start("timer", {"key": "a", "timer": {"delay": "86400s"}}, after)
    await to.start("signal", {"key": "a", "signal": {"name": "go"}}, after)
    await to.start("event", {"key": "a", "event": {"name": "pushed", "key": "'main'"}}, after)
    await to.start("approval", {"key": "a", "approval": {"question": "Go on?"}}, after)
    await to.register({"name": "child", "tasks": [{"key": "a", "kind": "child"}]})
    await to.start("parent", {"key": "a", "workflow": {"name": "child"}}, after)
    await to.start("late", {"key": "a"}, totalTimeout="86400s")
    await to.start("paused", {"key": "a"})
    await to.client.operations.pause(to.runs["paused"], reason="look first")


async def graphs(to: Filling) -> None:
    """What is not decided when a run begins, or is undone at its end."""
    items = {"key": "a", "forEach": {"items": "[1, 2, 3]", "parallelism": 2}}
    await to.start(
        "items", {**items, "bindings": {"item": "item"}}, {"key": "b", "dependsOn": ["a"]}
    )
    await to.succeed("items")
    await to.hold("items")
    skipped = {"key": "b", "when": "tasks.a.output.of == 'z'", "dependsOn": ["a"]}
    last = {"key": "c", "dependsOn": ["b"], "trigger": "TRIGGER_RULE_ALL_DONE"}
    await to.start("branch", {"key": "a"}, skipped, last)
    await to.succeed("branch")
    undone = {"key": "a", "compensation": {"kind": "undoing", "bindings": {"it": "output.of"}}}
    told = {"kind": "undoing"}
    await to.start("undoing", undone, {"key": "b", "dependsOn": ["a"]}, onFailure=told)
    await to.succeed("undoing")
    await to.fail("undoing")
    await to.start("queued", {"key": "a"}, concurrency={"limit": 1})
    await to.hold("queued")
    second = await to.client.start_run("queued")
    to.runs["queued-behind"] = second.run_id


#: What each frozen version had, in the order in which they were.
FLOWS: dict[str, tuple[Callable[[Filling], Awaitable[None]], ...]] = {
    "foundation": (few, plain),
    "evidence": (few, plain),
    "semantics": (few, plain, waits, graphs),
}
#: What a second tenant has.
FLOWS_BESIDE = (few,)
