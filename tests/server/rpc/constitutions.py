"""Acts and articles in few words, for the tests of the service Constitution."""

from __future__ import annotations

from typing import Any

import orjson
from google.protobuf.json_format import ParseDict
from tests.conftest import LiveCoordinator

from tenure.v1 import agents_pb2, constitution_pb2, runs_pb2, workflows_pb2
from tenure_constitution.laws import Point, VerdictResult

POINTS = {int(point): point.word for point in Point}
DENY, WARN, ALLOW = (int(VerdictResult[word]) for word in ("DENY", "WARN", "ALLOW"))


def article(point: str, expression: str, *, name: str = "", effect: str = "deny") -> dict[str, str]:
    """An article in few words."""
    return {
        "id": name or f"at-{point}",
        "law": "precedence",
        "perspective": "resource_constraint",
        "point": point,
        "effect": effect,
        "expression": expression,
        "message": f"not so at {point}",
    }


def text(*articles: dict[str, str], description: str = "") -> str:
    """A constitution as JSON."""
    return orjson.dumps({"description": description, "articles": articles}).decode()


async def put(
    live: LiveCoordinator, *articles: dict[str, str], tenant: str = "alpha", **more: Any
) -> constitution_pb2.SetConstitutionResponse:
    """Puts articles into force."""
    request = constitution_pb2.SetConstitutionRequest(text=text(*articles), **more)
    response = await live.calls(f"{tenant}/admin").constitution.SetConstitution(request)
    assert isinstance(response, constitution_pb2.SetConstitutionResponse)
    return response


async def register(
    live: LiveCoordinator, name: str = "w", tenant: str = "alpha", **more: Any
) -> Any:
    """Registers a workflow of one task."""
    content = {"name": name, "description": "Works.", "tasks": [{"key": "a", "kind": "k"}], **more}
    definition = ParseDict(content, workflows_pb2.WorkflowDefinition())
    return await live.calls(f"{tenant}/submitter").workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )


async def start(live: LiveCoordinator, tenant: str = "alpha", **more: Any) -> Any:
    """Starts a run of it."""
    return await live.calls(f"{tenant}/submitter").runs.StartRun(
        runs_pb2.StartRunRequest(workflow="w", **more)
    )


async def work_off(live: LiveCoordinator, tenant: str = "alpha", **result: Any) -> int:
    """Leases one task and reports on it; gives what became of the result, 0 without a lease."""
    agents = live.calls(f"{tenant}/agent").agents
    found = await agents.LeaseTasks(agents_pb2.LeaseTasksRequest(agent="host", kinds=["k"]))
    if not found.batch.leases:
        return 0
    ref = ref_of(found.batch.leases[0])
    end = result or {"success": agents_pb2.Success()}
    settled = await agents.SettleTasks(
        agents_pb2.SettleTasksRequest(results=[agents_pb2.Result(lease=ref, **end)])
    )
    return int(settled.outcomes[0].verdict)


def ref_of(lease: agents_pb2.Lease) -> agents_pb2.LeaseRef:
    names = ("run_id", "task_key", "term", "token")
    return agents_pb2.LeaseRef(**{name: getattr(lease, name) for name in names})


async def tried(
    live: LiveCoordinator, *articles: dict[str, str], **more: Any
) -> tuple[list[constitution_pb2.ChangedDecision], list[tuple[int, int]]]:
    """Tries a candidate: what would change, and how it went."""
    changes: list[constitution_pb2.ChangedDecision] = []
    steps = []
    call = live.calls("admin").constitution.TryConstitution(
        constitution_pb2.TryConstitutionRequest(text=text(*articles), **more)
    )
    async for step in call:
        changes += step.changes
        steps.append((step.judged, step.total))
    return changes, steps
