"""`tenure run bulk`: the same to all runs that a filter wants."""

from __future__ import annotations

from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tenure.v1 import runs_pb2
from tenure_client.cli import options, output, plain, seeing, session
from tenure_client.client import Client
from tenure_evidence.shown import clean

VERBS = plain.words(runs_pb2.RunVerb.DESCRIPTOR)
_REFUSALS_SHOWN = 20


@click.command(cls=options.Command)
@click.argument("verb", type=click.Choice([verb.lower() for verb in VERBS], case_sensitive=False))
@seeing.filtered
@seeing.TEXT
@click.option("--reason", default="", help="Why, for the log; needed to close.")
@click.option(
    "--rate", type=click.IntRange(1, 1000), default=50, show_default=True, help="Runs a second."
)
@click.option("--to", "version", type=click.IntRange(min=1), help="To move: to which version.")
@click.option("--resume", "goes_on", is_flag=True, help="To move: each goes on at once.")
@click.option("--request-id", help="The same id goes on where it was broken off.")
@click.option("--dry-run", is_flag=True, help="Only list the runs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def bulk(
    context: click.Context,
    /,
    verb: str,
    reason: str,
    rate: int,
    version: int | None,
    goes_on: bool,
    request_id: str | None,
    dry_run: bool,
    yes: bool,
    **given: Any,
) -> int:
    """Cancel, pause, resume, close, retry or move all runs that the options want, oldest first.

    Each is one act of its own. Runs that do not allow it are told and passed over; then exit 1.
    Ctrl-C stops it between two runs.
    """
    asked, json = seeing.asked(context, **given), session.wants_json(context)
    if asked == runs_pb2.RunFilter():
        raise click.UsageError("say which runs are meant: --workflow, --state, --label, …")
    caller = session.of(context)
    if not (yes or dry_run):
        if json:
            raise click.UsageError("--json does not ask: give --yes or --dry-run")
        _ask(caller.run(lambda client: client.count_runs(asked)), verb)
    change = _Change(verb, dry_run=dry_run, bar=not json)

    async def act(client: Client) -> None:
        steps = client.operations.change_runs(
            asked,
            runs_pb2.RunVerb.Value(f"RUN_VERB_{verb.upper()}"),
            reason=reason,
            rate=rate,
            dry_run=dry_run,
            version=version or 0,
            resume=goes_on,
            request_id=request_id,
        )
        with change.shown():
            async with aclosing(steps) as messages:
                async for message in messages:
                    change.take(message)

    caller.run(act)
    change.show(json=json)
    return 1 if change.refusals else 0


def _ask(counted: runs_pb2.CountRunsResponse, verb: str) -> None:
    number = f"{counted.total} or more" if counted.more else str(counted.total)
    click.confirm(f"{verb} {number} runs?", abort=True)


class _Change:
    """What has become of it so far."""

    def __init__(self, verb: str, *, dry_run: bool, bar: bool) -> None:
        self._dry_run = dry_run
        self._last = runs_pb2.ChangeRunsResponse()
        self._run_ids: list[str] = []
        self.refusals: list[runs_pb2.RunRefusal] = []
        self._bar = Progress(
            TextColumn(verb),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[refused]} refused"),
            TimeElapsedColumn(),
            console=output.console(stderr=True),
            transient=True,
        )
        self._shows = bar and self._bar.console.is_terminal
        self._task = self._bar.add_task(verb, total=None, refused=0)

    def shown(self) -> AbstractContextManager[object]:
        """Shows a bar on a terminal, for as long as it goes on."""
        return self._bar if self._shows else nullcontext()

    def take(self, message: runs_pb2.ChangeRunsResponse) -> None:
        """Notes how far it is."""
        self._last = message
        self._run_ids += message.run_ids
        self.refusals += message.refusals
        total = None if message.more else message.total
        self._bar.update(
            self._task, total=total, completed=message.matched, refused=message.refused
        )

    def show(self, *, json: bool) -> None:
        """Writes what has become of it in the end."""
        last = self._last
        if json:
            counts = {"matched": last.matched, "done": last.done, "refused": last.refused}
            output.document({**counts, "run_ids": self._run_ids, "refusals": self.refusals})
            return
        if self._dry_run:
            output.table(("RUN",), ((run_id,) for run_id in self._run_ids), empty="no runs")
            return
        for refusal in self.refusals[:_REFUSALS_SHOWN]:
            click.echo(clean(f"{refusal.reason}: {refusal.message}"), err=True)
        if (more := len(self.refusals) - _REFUSALS_SHOWN) > 0:
            click.echo(f"and {more} more refused", err=True)
        output.details(
            [("matched", last.matched), ("done", last.done), ("refused", last.refused or None)]
        )
