"""`tenure run list|search|count|compare|explain`: which runs there are, how two differ, and why one
does not go on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import click

from tenure.v1 import runs_pb2
from tenure_client.cli import moments, options, output, plain, run_names, run_tables, session
from tenure_client.client import Client

F = TypeVar("F", bound=Callable[..., Any])

RUN_STATES = [
    plain.word(runs_pb2.RunState.DESCRIPTOR, number)
    for number in sorted(runs_pb2.RunState.values())
    if number
]
_WHEN = "A date, a time, or so long ago: 7d, 12h."
_PAGE_MAX = 1000


def filtered(command: F) -> F:
    """Adds the options that say which runs are meant."""
    for option in (
        click.option("--workflow", help="Only runs of this workflow."),
        click.option(
            "--state",
            "states",
            multiple=True,
            help="Only runs in this state; may come again.",
            type=click.Choice(RUN_STATES, case_sensitive=False),
        ),
        click.option(
            "--label",
            "labels",
            multiple=True,
            metavar="WORD[=TEXT]",
            help="Only runs with this label, and with TEXT as its value; may come again.",
        ),
        click.option("--parent", metavar="RUN", help="Only runs that were started for this one."),
        click.option("--created-since", help=f"Only runs created from then on. {_WHEN}"),
        click.option("--created-until", help=f"Only runs created before. {_WHEN}"),
        click.option("--ended-since", help=f"Only runs that ended from then on. {_WHEN}"),
        click.option("--ended-until", help=f"Only runs that ended before. {_WHEN}"),
    ):
        command = option(command)
    return command


def _order(command: F) -> F:
    """Adds the options of a list."""
    command = click.option("--oldest-first", is_flag=True, help="Default: the newest first.")(
        command
    )
    return click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)(
        command
    )


TEXT = click.option("--text", help="Only runs that `tenure run search` finds by this.")


@click.command(cls=options.Command)
@filtered
@TEXT
@_order
@click.pass_context
def list_(context: click.Context, /, limit: int, oldest_first: bool, **given: Any) -> None:
    """List runs, newest first."""
    _show(context, asked(context, **given), limit, oldest_first=oldest_first)


@click.command(cls=options.Command)
@click.argument("text")
@filtered
@_order
@click.pass_context
def search(context: click.Context, /, limit: int, oldest_first: bool, **given: Any) -> None:
    """List the runs that TEXT finds.

    Its words all stand in values of labels, in the workflow's name, or in the reason with which
    the run ended: whole words, small and capital letters alike. Or TEXT is the beginning of the
    run's id, 6 characters or more. Or it is the correlation id of the call that started the run.
    """
    _show(context, asked(context, **given), limit, oldest_first=oldest_first)


@click.command(cls=options.Command)
@filtered
@TEXT
@click.pass_context
def count(context: click.Context, /, **given: Any) -> None:
    """Count runs by state, up to ten thousand."""
    meant, json = asked(context, **given), session.wants_json(context)

    async def act(client: Client) -> runs_pb2.CountRunsResponse:
        return await client.count_runs(meant)

    found = session.of(context).run(act)
    if json:
        output.document(found)
        return
    rows = [
        (plain.word(runs_pb2.RunState.DESCRIPTOR, one.state), _number(one.count, one.more))
        for one in found.counts
        if one.count or one.more
    ]
    if rows:
        rows.append(("all", _number(found.total, found.more)))
    output.table(("STATE", "RUNS#"), rows, empty="no runs")


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("left", metavar="RUN")
@click.argument("right", metavar="RUN")
@click.option("--all", "everything", is_flag=True, help="Show tasks that do not differ as well.")
@click.pass_context
def compare(context: click.Context, left: str, right: str, everything: bool) -> None:
    """Lay two runs side by side and say where they first went apart.

    How long tasks took is shown, and is no difference.
    """

    async def act(client: Client) -> runs_pb2.CompareRunsResponse:
        ids = [await run_names.resolve(client, text) for text in (left, right)]
        return await client.compare_runs(ids[0], ids[1], differing_only=not everything)

    found = session.of(context).run(act)
    run_tables.show_comparison(found, json=session.wants_json(context))


@click.command(cls=options.Command, epilog=run_names.HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("task_keys", metavar="[TASK]...", nargs=-1)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.pass_context
def explain(context: click.Context, run_id: str, task_keys: tuple[str, ...], limit: int) -> None:
    """Say why tasks do not run: each that has not ended and that no agent has, or the chosen ones.

    A task may have several reasons; what concerns itself comes first.
    """

    async def act(client: Client) -> tuple[list[runs_pb2.TaskExplanation], bool]:
        full_id = await run_names.resolve(client, run_id)
        found: list[runs_pb2.TaskExplanation] = []
        async with aclosing(client.explain_run(full_id, task_keys)) as tasks:
            async for each in tasks:
                if len(found) == limit:
                    return found, True
                found.append(each)
        return found, False

    found, more = session.of(context).run(act)
    json = session.wants_json(context)
    run_tables.show_explanations(found, json=json)
    if more and not json:
        click.echo(f"and more tasks than these {limit}; see --limit", err=True)


def asked(context: click.Context, *, parent: str | None, **given: Any) -> runs_pb2.RunFilter:
    """Makes the filter of what was said, and finds the run that `--parent` means."""
    for name, text in {**given, "parent": parent}.items():
        # Such as a variable of a script that is not set: without it more runs would be meant.
        if text == "":
            raise click.UsageError(f"--{name.replace('_', '-')}: is empty")
    made = wanted(**given)
    if parent is not None:
        resolve = partial(run_names.resolve, text=parent)
        made.parent_run_id = session.of(context).run(resolve)
    return made


def wanted(
    *,
    workflow: str | None,
    states: tuple[str, ...],
    labels: tuple[str, ...],
    created_since: str | None,
    created_until: str | None,
    ended_since: str | None,
    ended_until: str | None,
    text: str | None,
) -> runs_pb2.RunFilter:
    """Makes the filter of what was said on the command line. Raises click.UsageError."""
    numbers = [runs_pb2.RunState.Value(f"RUN_STATE_{state.upper()}") for state in states]
    made = runs_pb2.RunFilter(workflow=workflow or "", states=numbers, text=text or "")
    for label in labels:
        word, separator, value = label.partition("=")
        if not word:
            raise click.UsageError(f"--label: must read WORD or WORD=TEXT, is {label!r}")
        if not separator:
            made.label_keys.append(word)
        elif made.labels.get(word, value) != value:
            raise click.UsageError(f"--label: no run has two values of {word!r}")
        else:
            made.labels[word] = value
    now = datetime.now(UTC)
    for name, since, until in (
        ("created", created_since, created_until),
        ("ended", ended_since, ended_until),
    ):
        times = getattr(made, name)
        if since is not None:
            times.from_time.FromDatetime(moments.read(f"--{name}-since", since, now=now))
        if until is not None:
            times.until_time.FromDatetime(moments.read(f"--{name}-until", until, now=now))
    return made


def _show(
    context: click.Context, asked: runs_pb2.RunFilter, limit: int, *, oldest_first: bool
) -> None:
    async def act(client: Client) -> list[runs_pb2.Run]:
        found: list[runs_pb2.Run] = []
        pages = client.list_runs(
            wanted=asked, oldest_first=oldest_first, page_size=min(limit, _PAGE_MAX)
        )
        async for each in pages:
            found.append(each)
            if len(found) == limit:
                break
        return found

    run_tables.show_runs(session.of(context).run(act), json=session.wants_json(context))


def _number(count: int, more: bool) -> str:
    return f"{count} or more" if more else str(count)
