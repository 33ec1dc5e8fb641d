"""Tasks that wait for a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tenure_server.core.definitions.features import Timer
from tenure_server.core.expressions.evaluation import EvaluationFailed
from tenure_server.core.leasing.alarms import ACTIVITY
from tenure_server.core.ledger.lifecycle import EventKind, Failure
from tenure_server.core.runs import data_flow, run_data
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences

UNTIL_FAILED = "UNTIL_FAILED"


class Timers:
    """Ends each with success when its time has come.

    `detail` holds the time, ``due``, and of a run that was moved ``delay``, see `moved`.
    """

    def __init__(self, consequences: Consequences) -> None:
        self._consequences = consequences

    def begin(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Sets the time."""
        timer = run.tasks[index].wait
        assert isinstance(timer, Timer)
        due_us = now_us + (timer.delay_us or 0)
        if timer.until:
            try:
                names = run_data.names_of(run, index, facts.attempt)
                due_us = data_flow.moment_us(timer.until, names)
            except EvaluationFailed as error:
                failure = Failure(UNTIL_FAILED, f"until: {timer.until}: {error}", True)
                self._consequences.fail(run, index, facts, failure, now_us)
                return
        facts.keep(due=due_us)
        self._consequences.note(run, index, facts, EventKind.TASK_ACTIVATED, "timer", now_us)
        self._consequences.alarm(due_us, ACTIVITY, run.run_id, index)

    def due(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Ends it, unless the alarm was for an earlier attempt."""
        if facts.detail is not None and facts.detail.get("due", now_us + 1) <= now_us:
            self._consequences.succeed(run, index, facts, None, now_us)

    def part_ended(self, run: LiveRun, index: int, part: int, now_us: int) -> None:
        """It has no parts."""

    def cancel(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """There is nothing to let go of."""

    def leave(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Nothing is remembered of it."""

    def restore(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Sets the alarm."""
        if facts.detail is None or "due" not in facts.detail:
            return
        timer = run.tasks[index].wait
        assert isinstance(timer, Timer)
        delay_us = facts.detail.get("delay", timer.delay_us)
        if delay_us is not None:
            # A clock that was set back since must not make it longer than the whole timer.
            facts.keep(due=min(facts.detail["due"], now_us + delay_us))
        self._consequences.alarm(facts.detail["due"], ACTIVITY, run.run_id, index)


def moved(timer: Timer, detail: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is kept of a timer whose run is moved: it goes on as long as it began."""
    return {"delay": timer.delay_us, **(detail or {})}
