"""The workflows that are run: nothing but graph, so that only Tenure's own work is measured."""

from __future__ import annotations

from tenure.v1 import workflows_pb2
from tenure_client.builder import Workflow
from tenure_client.declarations import ForEach

KIND = "tenure.noop"
ECHO = "tenure.echo"
JOIN = "bench.join"
LIST = "each"


def fan_out(tasks: int) -> workflows_pb2.WorkflowDefinition:
    """Independent tasks that do nothing."""
    workflow = Workflow(f"fan-out-{tasks}")
    for number in range(tasks):
        workflow.task(f"task-{number}", kind=KIND)
    return workflow.definition()


def for_each() -> workflows_pb2.WorkflowDefinition:
    """A task that does nothing for each item of the run's input."""
    workflow = Workflow("for-each")
    workflow.task(LIST, kind=KIND, for_each=ForEach(items="run.input"))
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


def fan_in(tasks: int) -> workflows_pb2.WorkflowDefinition:
    """Tasks that each give their input as their output, and one at the end that is given them all.

    No agent knows the kind of the last one: who measures takes it, to see what it is given.
    """
    workflow = Workflow(f"fan-in-{tasks}")
    first = workflow.task("first", kind=KIND)
    middle = [
        workflow.task(f"task-{number}", kind=ECHO, after=[first], input=value_of(number))
        for number in range(tasks)
    ]
    workflow.task("join", kind=JOIN, after=middle)
    return workflow.definition()


def value_of(number: int) -> dict[str, object]:
    """What a task of a fan-in is given, and gives; about 100 bytes."""
    return {"number": number, "text": f"{number:08x}" * 10}
