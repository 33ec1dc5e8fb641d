"""The service Workflows: versions, digests, and what is wrong with a definition."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from tests import everything, logbook
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused

from tenure.v1 import workflows_pb2
from tenure_client import canonical


def _definition(name: str = "w", **fields: Any) -> workflows_pb2.WorkflowDefinition:
    content = {"name": name, "tasks": [{"key": "a", "kind": "k"}], **fields}
    return ParseDict(content, workflows_pb2.WorkflowDefinition())


def _register(
    definition: workflows_pb2.WorkflowDefinition, request_id: str = ""
) -> workflows_pb2.RegisterWorkflowRequest:
    return workflows_pb2.RegisterWorkflowRequest(definition=definition, request_id=request_id)


async def test_the_same_content_is_the_same_version(coordinator: LiveCoordinator) -> None:
    """Other content under the name is the next one; beta's versions are its own."""
    workflows = coordinator.calls("submitter").workflows
    first = await workflows.RegisterWorkflow(_register(_definition()))
    again = await workflows.RegisterWorkflow(_register(_definition()))
    other = await workflows.RegisterWorkflow(_register(_definition(description="new")))
    assert (first.created, again.created, other.created) == (True, False, True)
    assert (first.workflow.version, again.workflow.version, other.workflow.version) == (1, 1, 2)
    assert first.workflow.digest == again.workflow.digest != other.workflow.digest
    theirs = await coordinator.calls("beta/submitter").workflows.RegisterWorkflow(
        _register(_definition())
    )
    assert (theirs.workflow.version, theirs.created) == (1, True)
    assert theirs.workflow.digest == first.workflow.digest


async def test_a_repeated_registration_gets_the_same_answer(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """Also the word that it was new; other content under the id is refused."""
    workflows = coordinator.calls("submitter").workflows
    first = await workflows.RegisterWorkflow(_register(_definition(), "r1"))
    assert first == await workflows.RegisterWorkflow(_register(_definition(), "r1"))
    refusal = await refused(
        workflows.RegisterWorkflow(_register(_definition(description="x"), "r1"))
    )
    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS
    assert refusal.reason == "REQUEST_ID_REUSED"


async def test_a_version_comes_back_with_its_definition(coordinator: LiveCoordinator) -> None:
    """Everything its author said, and what can be counted in it."""
    workflows = coordinator.calls("submitter").workflows
    definition = _definition(
        description="adds",
        max_leases=3,
        labels={"owner": "ann"},
        tasks=[
            {"key": "a", "kind": "k", "input": {"value": {"n": 1}}, "attempt_timeout": "1.5s"},
            {
                "key": "b",
                "kind": "k",
                "depends_on": ["a"],
                "priority": -2,
                "retry": {"max_attempts": 3, "non_retryable_codes": ["E"]},
            },
        ],
    )
    registered = await workflows.RegisterWorkflow(_register(definition))
    found = await coordinator.calls("viewer").workflows.GetWorkflow(
        workflows_pb2.GetWorkflowRequest(name="w")
    )
    workflow = found.workflow
    assert (workflow.task_count, workflow.dependency_count) == (2, 1)
    assert workflow.digest == registered.workflow.digest
    assert workflow.definition.labels == {"owner": "ann"}
    first, second = workflow.definition.tasks
    assert first.input.data == b'{"n":1}'
    assert first.attempt_timeout.ToMilliseconds() == 1500
    assert (second.retry.max_attempts, second.retry.multiplier) == (3, 2.0)
    again = await workflows.RegisterWorkflow(_register(workflow.definition))
    assert not again.created


async def test_everything_that_can_be_declared_comes_back(coordinator: LiveCoordinator) -> None:
    """With the digest that the file has without a coordinator."""
    workflows = coordinator.calls("submitter").workflows
    registered = await workflows.RegisterWorkflow(_register(everything.built()))
    assert registered.workflow.digest == everything.DIGEST
    found = await workflows.GetWorkflow(workflows_pb2.GetWorkflowRequest(name="release"))
    assert canonical.digest(found.workflow.definition) == everything.DIGEST
    assert found.workflow.definition.tasks[7].approval.escalate_to == ["chief"]
    again = await workflows.RegisterWorkflow(_register(found.workflow.definition))
    assert not again.created


async def test_the_evidence_of_a_registration_names_the_workflow_and_not_those_it_runs(
    coordinator: LiveCoordinator,
) -> None:
    """They lie deeper in the request."""
    calls = coordinator.calls("admin")
    await calls.workflows.RegisterWorkflow(_register(everything.built()))
    entries = logbook.read(coordinator.server.store).of("alpha")
    [entry] = [entry for entry in entries if entry["kind"] == "workflow.register"]
    assert entry["subject"]["workflow"] == "release"


async def test_validating_tells_and_keeps_nothing(
    coordinator: LiveCoordinator, refused: Refused
) -> None:
    """The digest is the one that registering would give."""
    workflows = coordinator.calls("viewer").workflows
    tasks = [{"key": f"t{n}", "kind": "k"} for n in range(300)]
    for n in range(1, 5):
        tasks[n]["depends_on"] = [f"t{n - 1}"]  # type: ignore[assignment]
    definition = _definition(tasks=tasks)
    judged = await workflows.ValidateWorkflow(
        workflows_pb2.ValidateWorkflowRequest(definition=definition)
    )
    assert (judged.task_count, judged.dependency_count, judged.depth) == (300, 4, 5)
    missing = await refused(workflows.GetWorkflow(workflows_pb2.GetWorkflowRequest(name="w")))
    assert missing.code is grpc.StatusCode.NOT_FOUND
    registered = await coordinator.calls("submitter").workflows.RegisterWorkflow(
        _register(definition)
    )
    assert registered.workflow.digest == judged.digest


BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "unknown dependency": (
        {"tasks": [{"key": "a", "kind": "k", "depends_on": ["z"]}]},
        "GRAPH_INVALID",
        "definition.tasks[0].depends_on",
        "'z', which is not in the workflow",
    ),
    "duplicate key": (
        {"tasks": [{"key": "a", "kind": "k"}, {"key": "a", "kind": "k"}]},
        "GRAPH_INVALID",
        "definition.tasks[1].key",
        "duplicate",
    ),
    "cycle": (
        {
            "tasks": [
                {"key": "a", "kind": "k", "depends_on": ["b"]},
                {"key": "b", "kind": "k", "depends_on": ["a"]},
            ]
        },
        "GRAPH_INVALID",
        "definition.tasks[",
        "cycle: ",
    ),
    "no tasks": ({"tasks": []}, "FIELD_INVALID", "definition.tasks", "empty"),
    "bad name": ({"name": "a b"}, "FIELD_INVALID", "definition.name", "match"),
    "blank key": (
        {"tasks": [{"key": "a b", "kind": "k"}]},
        "FIELD_INVALID",
        "definition.tasks[0].key",
        "printable",
    ),
    "no kind": (
        {"tasks": [{"key": "a"}]},
        "FIELD_INVALID",
        "definition.tasks[0].kind",
        "letters",
    ),
    "timeout of nothing": (
        {"tasks": [{"key": "a", "kind": "k", "attempt_timeout": "0s"}]},
        "FIELD_INVALID",
        "definition.tasks[0].attempt_timeout",
        "millisecond",
    ),
    "backward timeout": (
        {"tasks": [{"key": "a", "kind": "k", "attempt_timeout": "-1s"}]},
        "FIELD_INVALID",
        "definition.tasks[0].attempt_timeout",
        "not negative",
    ),
    "input of 10 MB": (
        {"tasks": [{"key": "a", "kind": "k", "input": {"value": "x" * 10_000_000}}]},
        "FIELD_INVALID",
        "definition.tasks[0].input",
        "at most 1048576",
    ),
    "retry for ever": (
        {"tasks": [{"key": "a", "kind": "k", "retry": {"max_attempts": 1000}}]},
        "FIELD_INVALID",
        "definition.tasks[0].retry.max_attempts",
        "100",
    ),
    "100,000 tasks": (
        {"tasks": [{"key": "a", "kind": "k"}] * 100_000},
        "FIELD_INVALID",
        "definition.tasks",
        "has 100000 tasks, at most 20000",
    ),
}


@pytest.mark.parametrize("bad", list(BAD))
async def test_a_bad_definition_is_told_what_is_wrong(
    coordinator: LiveCoordinator, refused: Refused, bad: str
) -> None:
    """By field and reason, the same for registering and for judging; nothing is kept."""
    fields, reason, path, words = BAD[bad]
    definition = _definition(**fields)
    calls = coordinator.calls("submitter").workflows
    for call in (
        calls.RegisterWorkflow(_register(definition)),
        calls.ValidateWorkflow(workflows_pb2.ValidateWorkflowRequest(definition=definition)),
    ):
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.reason == reason
        [(found, why)] = refusal.fields.items()
        assert found.startswith(path)
        assert words in why
    page = await calls.ListWorkflows(workflows_pb2.ListWorkflowsRequest())
    assert not page.workflows


async def test_workflows_and_versions_are_listed_page_by_page(
    coordinator: LiveCoordinator,
) -> None:
    """The newest version of each by name, or all of one, newest first; without definitions."""
    calls = coordinator.calls("submitter").workflows
    for name in ("c", "a", "b"):
        for n in range(3):
            await calls.RegisterWorkflow(_register(_definition(name, description=str(n))))
    for filter_name, expected in (
        ("", [("a", 3), ("b", 3), ("c", 3)]),
        ("b", [("b", 3), ("b", 2), ("b", 1)]),
    ):
        seen, token = [], ""
        while True:
            page = await calls.ListWorkflows(
                workflows_pb2.ListWorkflowsRequest(name=filter_name, page_size=2, page_token=token)
            )
            seen += [(it.name, it.version) for it in page.workflows]
            assert not any(it.HasField("definition") for it in page.workflows)
            token = page.next_page_token
            if not token:
                break
        assert seen == expected
