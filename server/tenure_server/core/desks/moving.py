"""Puts a run under a newer version of its workflow.

It goes off the desk, and comes back under the newer version as it would be read back from its rows;
what has neither begun nor ended is judged anew. So a restart of the coordinator afterwards finds
nothing that it would not make of the rows itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.desks.crossing import Crossing
from tenure_server.core.desks.interventions import to_reopen
from tenure_server.core.desks.versions import RUN_KEY, Obstacle, Version
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, RunState, TaskState
from tenure_server.core.runs import history
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task

if TYPE_CHECKING:
    from tenure_server.core.desks.desk import Desk


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What is asked, and what the tables have of the run."""

    to: Version
    #: Whether it goes on at once.
    resume: bool = False
    reason: str = ""
    #: The rows of its tasks, of which only those that have ended matter; and the outputs that it
    #: needs from now on, by their new numbers.
    stored: Mapping[int, records.Task] = field(default_factory=dict)
    outputs: Mapping[int, Payload] = field(default_factory=dict)
    #: See `Crossing.rows`.
    successes: Mapping[str, int] = field(default_factory=dict)


def to_open_again(run: LiveRun) -> list[int]:
    """The tasks that a move has executed again: of a failed run, what ended otherwise than well."""
    return to_reopen(run, (), some=False) if run.ended else []


def crossing_of(desk: Desk, run: LiveRun, to: Version, now_us: int) -> Crossing:
    """The run beside a newer version. Raises VersionsDiffer, and as `to_reopen`."""
    crossing = Crossing(
        run,
        to,
        again=to_open_again(run),
        reopened=run.ended,
        until_us=_until_us(desk, run),
        now_us=now_us,
    )
    why = desk.consequences.run_limits.obstacle(run, crossing.new)
    crossing.check([Obstacle(RUN_KEY, "", why)] if why else ())
    return crossing


def move(desk: Desk, run: LiveRun, wish: Move, now_us: int) -> int:
    """Moves a run that `versions.check_state` lets go, and gives how many tasks it opened again.

    The run may have ended, and was then read back for this. Raises VersionsDiffer, and as
    `to_reopen`; then nothing was changed.
    """
    crossing = crossing_of(desk, run, wish.to, now_us)
    limits, again, place = desk.consequences.run_limits, list[int](), None
    if run.ended:
        again = to_open_again(run)
        desk.interventions.open_again(
            run, again, wish.stored, paused=True, reason=wish.reason, now_us=now_us
        )
        until_us = _until_us(desk, run)
        crossing = Crossing(run, wish.to, reopened=True, until_us=until_us, now_us=now_us)
        # What was to fall due when it ended would be for others by their numbers now.
        desk.dues.forget(run)
    else:
        desk.leave(run)
        place = limits.leave(run)
    rows = crossing.rows(wish.stored, wish.successes)
    new = crossing.take(rows, wish.outputs)
    desk.adopt(new)
    limits.enter_again(new, place)
    _note(desk, crossing, rows, wish.reason, now_us)
    desk.take_up(new, now_us)
    _judge(desk, new, now_us)
    if wish.resume and new.state is RunState.PAUSED:
        desk.interventions.resume(new, wish.reason, now_us)
    return len(again)


def _note(
    desk: Desk,
    crossing: Crossing,
    rows: Mapping[int, records.Task],
    reason: str,
    now_us: int,
) -> None:
    """Writes down what has become of the run and of its rows."""
    old, new, journal = crossing.old, crossing.new, desk.consequences.under()
    was = [old.workflow_version, old.workflow_digest, new.sequence + 1, now_us]
    new.keep(moves=[*(new.detail or {}).get("moves", ()), was])
    journal.run_moved(new.run_id, new, crossing.kept_rows(rows))
    text = f"version {old.workflow_version} to {new.workflow_version}"
    text = f"{text}: {reason}" if reason else text
    history.note_run(new, journal, EventKind.RUN_MOVED, now_us, text)
    for index, facts in new.facts.items():
        write_task(new, journal, index, facts)


def _judge(desk: Desk, run: LiveRun, now_us: int) -> None:
    """Decides about the tasks that wait. What is special of a run that is held stays for later."""
    consequences = desk.consequences
    for index in range(run.planned):
        if run.states[index] == TaskState.WAITING and not (run.held and index in run.graph.special):
            consequences.turns.consider(run, index, now_us)
    consequences.close_if_done(run, now_us)


def _until_us(desk: Desk, run: LiveRun) -> int | None:
    """By when the run must have ended that this one was started for."""
    parent = desk.runs.get(run.parent_run_id)
    return None if parent is None or parent.has_expired else parent.deadline_us
