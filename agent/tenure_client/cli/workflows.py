"""`tenure workflow`: definitions in files and in the coordinator."""

from __future__ import annotations

from pathlib import Path

import click

from tenure.v1 import workflows_pb2
from tenure_client import articles, canonical, graph, wholeness, workflow_file
from tenure_client.cli import objections, options, output, pauses, plain, session
from tenure_client.client import Client
from tenure_evidence.shown import clean

FILE = click.Path(path_type=Path)
DEFAULT_SECONDS = click.option(
    "--default-seconds",
    type=click.FloatRange(min=0),
    help="Run time of traced tasks for which none was recorded.",
)


@click.group(cls=options.Group)
def workflow() -> None:
    """Register, validate, list, show and pause workflows.

    A FILE is YAML or JSON, or a WfCommons trace (WfFormat 1.3 to 1.5).
    """


@workflow.command()
@click.argument("file", type=FILE)
@DEFAULT_SECONDS
@click.pass_context
def register(context: click.Context, file: Path, default_seconds: float | None) -> None:
    """Register the workflow in FILE; the same content again is the same version."""
    definition = workflow_file.read(file, default_seconds=default_seconds)

    async def act(client: Client) -> workflows_pb2.RegisterWorkflowResponse:
        return await client.register_workflow(definition)

    answer = session.of(context).run(act)
    if session.wants_json(context):
        output.document(answer)
        return
    objections.warn(answer.warnings)
    output.details(
        (
            *_facts(answer.workflow),
            ("new", "yes" if answer.created else "no"),
            ("dimensions", objections.dimensions_line(answer.dimensions)),
        )
    )


@workflow.command()
@click.argument("file", type=FILE)
@DEFAULT_SECONDS
@click.option("--offline", is_flag=True, help="Check the file alone; needs no coordinator.")
@click.pass_context
def validate(
    context: click.Context, file: Path, default_seconds: float | None, offline: bool
) -> int:
    """Judge the workflow in FILE as registering would, and keep nothing.

    Exit 1 when the constitution would deny it. Offline, `tenure constitution check` tells that.
    """
    definition = workflow_file.read(file, default_seconds=default_seconds)

    async def act(client: Client) -> workflows_pb2.ValidateWorkflowResponse:
        return await client.validate_workflow(definition)

    answer = _offline(definition) if offline else session.of(context).run(act)
    denied = objections.denies(answer.objections)
    if session.wants_json(context):
        output.document(answer)
        return 1 if denied else 0
    output.details(
        (
            ("valid", "no: the constitution denies it" if denied else _valid(offline=offline)),
            ("name", definition.name),
            ("digest", answer.digest),
            ("tasks", answer.task_count),
            ("dependencies", answer.dependency_count),
            ("depth", answer.depth),
            ("dimensions", objections.dimensions_line(answer.dimensions)),
        )
    )
    for objection in answer.objections:
        click.echo(clean(articles.sentence(objection)))
    return 1 if denied else 0


@workflow.command(name="list")
@click.argument("name", required=False, default="")
@click.pass_context
def list_(context: click.Context, name: str) -> None:
    """List the newest version of every workflow, or all versions of NAME."""

    async def act(client: Client) -> list[workflows_pb2.Workflow]:
        return [each async for each in client.list_workflows(name)]

    found = session.of(context).run(act)
    if session.wants_json(context):
        output.document(found)
        return
    output.table(
        ("WORKFLOW", "VERSION#", "TASKS#", "DEPENDENCIES#", "REGISTERED", "DIGEST"),
        (
            (
                each.name,
                each.version,
                each.task_count,
                each.dependency_count,
                plain.local_time(each.create_time),
                each.digest[:19],
            )
            for each in found
        ),
        empty=f"no versions of {name}" if name else "no workflows",
    )


@workflow.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), help="Default: the newest.")
@click.pass_context
def show(context: click.Context, name: str, version: int | None) -> None:
    """Show a version of a workflow with its tasks."""

    async def act(client: Client) -> workflows_pb2.Workflow:
        return await client.get_workflow(name, version or 0)

    found = session.of(context).run(act)
    if session.wants_json(context):
        output.document(found)
        return
    definition = found.definition
    output.details(
        (
            *_facts(found),
            ("description", definition.description),
            ("max leases", definition.max_leases or "no limit"),
            ("labels", output.words(definition.labels)),
            ("registered", plain.local_time(found.create_time)),
            ("paused", pauses.said(found)),
        )
    )
    output.table(
        ("TASK", "KIND", "DEPENDS ON", "ATTEMPTS#", "PRIORITY#"),
        (
            (
                task.key,
                task.kind or wholeness.waits_for(task),
                ", ".join(task.depends_on),
                max(1, task.retry.max_attempts),
                task.priority,
            )
            for task in definition.tasks
        ),
        empty="no tasks",
    )


workflow.add_command(pauses.pause_workflow, "pause")
workflow.add_command(pauses.resume_workflow, "resume")


def _facts(found: workflows_pb2.Workflow) -> list[tuple[str, object]]:
    return [
        ("workflow", found.name),
        ("version", found.version),
        ("digest", found.digest),
        ("tasks", found.task_count),
        ("dependencies", found.dependency_count),
    ]


def _valid(*, offline: bool) -> str:
    return "as far as the file can tell" if offline else "yes"


def _offline(
    definition: workflows_pb2.WorkflowDefinition,
) -> workflows_pb2.ValidateWorkflowResponse:
    """Measures a definition here."""
    upstream = graph.upstream_of([(task.key, task.depends_on) for task in definition.tasks])
    return workflows_pb2.ValidateWorkflowResponse(
        digest=canonical.digest(definition),
        task_count=len(upstream),
        dependency_count=sum(map(len, upstream)),
        depth=int(graph.longest_path(upstream, [1.0] * len(upstream))),
    )
