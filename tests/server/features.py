"""Each feature of workflows as a small workflow: what happens in it, and how it must come out.

The tests of the core and those of the engine play each of them and disturb it: by retries, cancels,
pauses, restarts of the coordinator, and agents that are lost. `docs/semantics.md` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.server.core.world import SECOND

from tenure_server.core.definitions.definition import (
    RetryPolicy,
    WorkflowDefinition,
)
from tenure_server.core.desks.desk import Desk
from tenure_server.core.leasing.leases import End
from tenure_server.core.ledger.lifecycle import Failure, RunState

MINUTE = 60 * SECOND
KINDS = frozenset({"work", "undo", "tell"})
#: What agents say of their host.
LABELS = {"gpu": "yes"}
SLOTS = 6
#: The people who decide; two of them must consent.
DECIDERS = ("ann", "bob")
BROKEN = Failure("BROKEN", "for good", True)
TWICE = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A workflow that uses one feature."""

    name: str
    definition: WorkflowDefinition
    #: How often it is started, each time with this input.
    runs: int = 1
    given: Any = None
    #: Workflows that it runs.
    children: tuple[WorkflowDefinition, ...] = ()
    #: How the first attempts of a task end; all others end with the task's key, under ``by``.
    ends: Mapping[str, Sequence[End]] = field(default_factory=dict)
    #: Signals that are sent before anything else happens.
    early: tuple[str, ...] = ()
    #: What each attempt of a task saves before it ends.
    saves: Mapping[str, Any] = field(default_factory=dict)

    #: How each run ends.
    state: RunState = RunState.SUCCEEDED
    reason: str = ""
    #: How its tasks end; those that are not named succeed.
    states: Mapping[str, str] = field(default_factory=dict)
    #: What the last attempt of a task was given as its own input.
    inputs: Mapping[str, Any] = field(default_factory=dict)
    #: What tasks put out.
    outputs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    #: In which order tasks are leased for the first time.
    order: tuple[str, ...] = ()
    #: How many leases begin at most within a span of time, in microseconds.
    rate: tuple[int, int] | None = None
    #: What must hold of the desk at any time.
    always: Callable[[Desk], bool] = lambda _: True
