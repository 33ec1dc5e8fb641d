"""Whether the turn of a task has come: its trigger rule, and how what it depends on has ended."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from tenure_server.core.definitions.features import TriggerRule
from tenure_server.core.ledger.lifecycle import TASK_ENDED, TASK_LOST, TaskState


class Turn(enum.Enum):
    """What the ends of its dependencies mean for a task."""

    #: Nothing yet.
    WAIT = "wait"
    #: Its turn has come.
    COME = "come"
    #: It is skipped.
    SKIP = "skip"
    #: It fails with what it depends on.
    DOOM = "doom"


def turn(rule: TriggerRule, upstream: Iterable[int]) -> Turn:
    """Decides by the states of what a task depends on, in whatever order they came to be.

    A failure is acted on at once; that a dependency was skipped only when all have ended, so that
    a failure which comes later has the same effect as one that came before.
    """
    open_, lost, skipped = False, False, False
    for state in upstream:
        if state not in TASK_ENDED:
            open_ = True
        elif state in TASK_LOST:
            lost = True
        elif state == TaskState.SKIPPED:
            skipped = True
    match rule:
        case TriggerRule.ALL_DONE:
            return Turn.WAIT if open_ else Turn.COME
        case TriggerRule.ANY_FAILED:
            if lost:
                return Turn.COME
            return Turn.WAIT if open_ else Turn.SKIP
        case TriggerRule.NONE_FAILED:
            if lost:
                return Turn.DOOM
            return Turn.WAIT if open_ else Turn.COME
        case _:
            if lost:
                return Turn.DOOM
            if open_:
                return Turn.WAIT
            return Turn.SKIP if skipped else Turn.COME
