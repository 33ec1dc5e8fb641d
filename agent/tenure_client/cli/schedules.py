"""`tenure schedule`: when runs are started by themselves, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from google.protobuf.field_mask_pb2 import FieldMask

from tenure.v1 import payload_pb2, schedules_pb2
from tenure_client import schedule_file
from tenure_client.cli import moments, options, schedule_tables, session, starting
from tenure_client.client import Client
from tenure_client.graph import DefinitionError
from tenure_client.payload import ABSENT

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_OVERLAP = click.Choice(list(schedule_file.OVERLAPS))
_REASON = click.option("--reason", default="", help="Why, for the log.")
#: What a file says that no option of the same name does.
_OTHERWISE_SAID = ("name", "input", "labels")


def _said(function: F) -> F:
    """Adds the options that say what a schedule is."""
    for option in reversed(
        (
            click.option("--workflow", help="What it starts."),
            click.option(
                "--version", type=click.IntRange(min=0), help="0: the newest at the time."
            ),
            starting.INPUT,
            click.option(
                "--label", "pairs", multiple=True, metavar="WORD=TEXT", help="May repeat."
            ),
            click.option("--priority", type=click.IntRange(-1000, 1000), help="Of its runs."),
            click.option("--cron", multiple=True, metavar="EXPRESSION", help="May come again."),
            click.option("--time-zone", help="Whose clock the expressions mean. Default: UTC."),
            click.option("--every", multiple=True, metavar="SPAN", help="Such as 15m, 6h."),
            click.option("--at", multiple=True, metavar="TIME", help="A single time."),
            click.option("--start", metavar="TIME", help="No time before."),
            click.option("--end", metavar="TIME", help="No time from here on."),
            click.option("--jitter", metavar="SPAN", help="Each fire comes up to so much later."),
            click.option("--overlap", type=_OVERLAP, help="While a run is open. Default: skip."),
            click.option("--catchup-window", metavar="SPAN", help="Later is missed. Default: 1h."),
            click.option("--pause-on-failure/--no-pause-on-failure", default=None),
            click.option("--remaining-runs", type=click.IntRange(min=1), help="And no more."),
            click.option("--notes", help="For people."),
        )
    ):
        function = option(function)
    return function


@click.group(cls=options.Group)
def schedule() -> None:
    """Start runs by themselves: by cron, interval or date.

    Times without an offset are UTC.
    """


@schedule.command()
@click.argument("name", required=False)
@click.option("--file", type=_FILE, help="A schedule file, YAML or JSON; options go before it.")
@click.option("--paused", default="", metavar="REASON", help="Begin paused, for this reason.")
@_said
@click.pass_context
def create(
    context: click.Context, /, name: str | None, file: Path | None, paused: str, **said: Any
) -> None:
    """Make the schedule NAME from a file, options, or both. A file may hold the name."""
    made, paths = _spec(name, file, said)
    if file is not None:
        whole = schedule_file.read(file)
        _merge(whole.spec, made, paths)
        name, made = name or whole.name, whole.spec

    async def act(client: Client) -> schedules_pb2.Schedule:
        return await client.schedules.create(name or "", made, pause_reason=paused)

    schedule_tables.show(session.of(context).run(act), json=session.wants_json(context))


@schedule.command(name="list")
@click.option("--workflow", default="", help="Only those that start this workflow.")
@click.pass_context
def list_(context: click.Context, workflow: str) -> None:
    """List schedules by name."""

    async def act(client: Client) -> list[schedules_pb2.Schedule]:
        return [one async for one in client.schedules.list(workflow=workflow)]

    schedule_tables.show_all(session.of(context).run(act), json=session.wants_json(context))


@schedule.command()
@click.argument("name")
@click.option("--fires", type=click.IntRange(0, 1000), default=5, show_default=True)
@click.pass_context
def show(context: click.Context, name: str, fires: int) -> None:
    """Show a schedule, what became of its last fires, and the next ones."""

    async def act(client: Client) -> schedule_tables.Whole:
        found = await client.schedules.get(name)
        past = client.schedules.fires(name, page_size=max(fires, 1))
        coming = client.schedules.upcoming(name, page_size=max(fires, 1))
        return schedule_tables.Whole(
            found,
            await schedule_tables.some(past, fires),
            await schedule_tables.some(coming, fires),
        )

    schedule_tables.show_whole(session.of(context).run(act), json=session.wants_json(context))


@schedule.command()
@click.argument("name", required=False)
@click.option("--file", type=_FILE, help="Takes everything from a schedule file instead.")
@_REASON
@_said
@click.pass_context
def update(
    context: click.Context, /, name: str | None, file: Path | None, reason: str, **said: Any
) -> None:
    """Change what is given and leave the rest.

    Times are one thing: give all of --cron, --every, --at, --time-zone, --start, --end and --jitter
    that shall hold. A file says everything: what it leaves out is cleared.
    """
    wanted, paths = _spec(name, file, said)
    if file is not None:
        if paths:
            raise click.UsageError("give either --file or what is to change, not both")
        whole = schedule_file.read(file)
        name, wanted, paths = name or whole.name, whole.spec, _ALL_PATHS
    if not paths:
        raise click.UsageError("say what is to change, or give a --file")

    async def act(client: Client) -> schedules_pb2.Schedule:
        return await client.schedules.update(name or "", wanted, paths, reason=reason)

    schedule_tables.show(session.of(context).run(act), json=session.wants_json(context))


@schedule.command()
@click.argument("name")
@_REASON
@click.pass_context
def pause(context: click.Context, name: str, reason: str) -> None:
    """Let nothing fire until `resume`."""

    async def act(client: Client) -> schedules_pb2.Schedule:
        return await client.schedules.pause(name, reason=reason)

    schedule_tables.show(session.of(context).run(act), json=session.wants_json(context))


@schedule.command()
@click.argument("name")
@_REASON
@click.pass_context
def resume(context: click.Context, name: str, reason: str) -> None:
    """Go on; what passed meanwhile is not made up for (`backfill` does that)."""

    async def act(client: Client) -> schedules_pb2.Schedule:
        return await client.schedules.resume(name, reason=reason)

    schedule_tables.show(session.of(context).run(act), json=session.wants_json(context))


@schedule.command()
@click.argument("name")
@click.option("--overlap", type=_OVERLAP, help="Default: as the schedule says.")
@_REASON
@click.pass_context
def trigger(context: click.Context, name: str, overlap: str | None, reason: str) -> None:
    """Fire now, also while it is paused."""

    async def act(client: Client) -> schedules_pb2.ScheduleFire:
        return await client.schedules.trigger(name, overlap=_number(overlap), reason=reason)

    schedule_tables.show_fire(session.of(context).run(act), json=session.wants_json(context))


@schedule.command()
@click.argument("name")
@click.option("--from", "start", required=True, metavar="TIME", help=moments.HELP)
@click.option("--until", "end", metavar="TIME", help="Not included. Default: now.")
@click.option("--overlap", type=_OVERLAP, help="Default: one run after the other.")
@_REASON
@click.pass_context
def backfill(
    context: click.Context,
    name: str,
    start: str,
    end: str | None,
    overlap: str | None,
    reason: str,
) -> None:
    """Fire the times of a past period, those that were fired already too."""
    now = datetime.now(UTC)
    first = moments.read("--from", start, now=now)
    last = now if end is None else moments.read("--until", end, now=now)

    async def act(client: Client) -> schedules_pb2.BackfillScheduleResponse:
        return await client.schedules.backfill(
            name, first, last, overlap=_number(overlap), reason=reason
        )

    schedule_tables.show_backfill(session.of(context).run(act), json=session.wants_json(context))


@schedule.command()
@click.argument("name")
@_REASON
@click.pass_context
def delete(context: click.Context, name: str, reason: str) -> None:
    """Delete a schedule with its history; its runs go on."""

    async def act(client: Client) -> None:
        await client.schedules.delete(name, reason=reason)

    session.of(context).run(act)
    schedule_tables.show_deleted(name, json=session.wants_json(context))


_ALL_PATHS = list(schedules_pb2.ScheduleSpec.DESCRIPTOR.fields_by_name)


def _spec(
    name: str | None, file: Path | None, said: Mapping[str, Any]
) -> tuple[schedules_pb2.ScheduleSpec, list[str]]:
    """What options say of a schedule, and the fields that they say. Raises click.UsageError."""
    if name is None and file is None:
        raise click.UsageError("give the NAME of the schedule, or a --file that holds it")
    value: dict[str, Any] = {}
    for key in schedule_file.KEYS:
        if key in _OTHERWISE_SAID:
            continue
        given = said[key]
        if given is not None and given != ():
            value[key] = list(given) if isinstance(given, tuple) else given
    if said["pairs"]:
        value["labels"] = starting.labels(said["pairs"])
    content = starting.run_input(said["input_text"], None)
    keys = [*value, *([] if content is ABSENT else ["input"])]
    try:
        made = schedule_file.request_of({"name": "", "workflow": "", **value}).spec
    except DefinitionError as error:
        option, _, rest = str(error).replace("_", "-", 1).partition(":")
        raise click.UsageError(f"--{option}:{rest}") from error
    if isinstance(content, payload_pb2.Payload):
        made.start.input.CopyFrom(content)
    return made, list(dict.fromkeys(schedule_file.FIELDS.get(key, key) for key in keys))


def _merge(
    whole: schedules_pb2.ScheduleSpec, given: schedules_pb2.ScheduleSpec, paths: list[str]
) -> None:
    """Puts what options say in the place of what a file says."""
    FieldMask(paths=paths).MergeMessage(
        given, whole, replace_message_field=True, replace_repeated_field=True
    )


def _number(word: str | None) -> schedules_pb2.OverlapPolicy.ValueType:
    if word is None:
        return schedules_pb2.OVERLAP_POLICY_UNSPECIFIED
    return schedules_pb2.OverlapPolicy.ValueType(schedule_file.OVERLAPS[word])
