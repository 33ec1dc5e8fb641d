"""Decides from a history and the store's record whether the promises were kept: one rule each.

Pure: no clock, no I/O. Where an observer cannot know, a rule gives the benefit of the doubt; what
it calls wrong is wrong for certain. The rules are in `rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.history import Observations, Record
from tests.chaos.rules.evidence import evidence_is_whole, nothing_foreign_is_shown
from tests.chaos.rules.families import runs_within_runs
from tests.chaos.rules.healing import every_run_ends_or_waits
from tests.chaos.rules.kept import (
    a_request_is_one_run,
    acknowledged_is_kept,
    one_result_per_term,
    what_was_asked_is_done_once,
)
from tests.chaos.rules.limits import keys_hold, limits_hold, run_keys_hold
from tests.chaos.rules.lists import items_are_bounded
from tests.chaos.rules.order import graphs_are_followed
from tests.chaos.rules.schedules import each_time_fires_once, overlaps_are_kept
from tests.chaos.rules.spans import limits_hold_as_seen
from tests.chaos.rules.undoing import undone_in_reverse
from tests.chaos.rules.waits import (
    consent_counts_once,
    events_come_once,
    nothing_comes_early,
    signals_come_once,
)

Rule = Callable[[Observations, Record], Iterator[str]]

_RULES: tuple[Rule, ...] = (
    acknowledged_is_kept,
    a_request_is_one_run,
    one_result_per_term,
    what_was_asked_is_done_once,
    limits_hold,
    limits_hold_as_seen,
    keys_hold,
    run_keys_hold,
    graphs_are_followed,
    items_are_bounded,
    undone_in_reverse,
    runs_within_runs,
    signals_come_once,
    events_come_once,
    consent_counts_once,
    nothing_comes_early,
    each_time_fires_once,
    overlaps_are_kept,
    evidence_is_whole,
    nothing_foreign_is_shown,
    every_run_ends_or_waits,
)
RULES: dict[str, Rule] = {rule.__name__: rule for rule in _RULES}


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    rule: str
    what: str


def check(observations: Observations, record: Record) -> list[Violation]:
    """Gives everything that is wrong; nothing when all promises were kept."""
    return [
        Violation(name, what) for name, rule in RULES.items() for what in rule(observations, record)
    ]
