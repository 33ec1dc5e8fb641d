"""What a task can be that no agent executes: each kind behind one interface.

Such a task is ACTIVE from its turn until its end. What its activity must remember lies in
`TaskFacts.detail`, which goes into the task's row, so that a coordinator that takes the work over
goes on where the last one stood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from tenure_server.core.definitions.features import (
    Approval,
    EventWait,
    ForEach,
    SignalWait,
    SubWorkflow,
    Timer,
)
from tenure_server.core.progress.timers import Timers
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences


class Activity(Protocol):
    """One kind of task without a lease. The task is ACTIVE in every call."""

    def begin(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """An attempt begins: writes the task's row and event, sets alarms; may end it at once."""

    def due(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """An alarm for it went off, perhaps one that matters no more."""

    def part_ended(self, run: LiveRun, index: int, part: int, now_us: int) -> None:
        """A task that belongs to this one has ended."""

    def cancel(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """It is about to be cancelled: lets go of what it has begun."""

    def leave(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Its run goes off the desk, to be read back: forgets it. Writes nothing."""

    def restore(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """It was read back from the store: sets its alarms anew. Writes nothing."""


def all_of(consequences: Consequences) -> Mapping[type, Activity]:
    """Every kind, by the type of what declares it."""
    return {
        Timer: Timers(consequences),
        ForEach: consequences.expansion,
        SubWorkflow: consequences.children,
        SignalWait: consequences.signals,
        EventWait: consequences.events,
        Approval: consequences.approvals,
    }
