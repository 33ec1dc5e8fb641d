"""The workflows that are run: nothing but graph, so that only Tenure's own work is measured."""

from __future__ import annotations

from tenure.v1 import workflows_pb2
from tenure_client.builder import Workflow

KIND = "tenure.noop"


def fan_out(tasks: int) -> workflows_pb2.WorkflowDefinition:
    """Independent tasks that do nothing."""
    workflow = Workflow(f"fan-out-{tasks}")
    for number in range(tasks):
        workflow.task(f"task-{number}", kind=KIND)
    return workflow.definition()


def chain(tasks: int) -> workflows_pb2.WorkflowDefinition:
    """Tasks that do nothing, one after another."""
    workflow = Workflow(f"chain-{tasks}")
    before: list[str] = []
    for number in range(tasks):
        key = f"task-{number}"
        workflow.task(key, kind=KIND, after=before)
        before = [key]
    return workflow.definition()
