"""Which runs are wanted: the filter of lists and counts, and what a page of them is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState
from tenure_server.core.ledger.terms import key_term, pair_term, words

TIME_MAX = (1 << 63) - 1
#: The most words that a search may have.
WORDS_ASKED_MAX = 8
#: From so many characters on a text may be the beginning of a run's id.
PREFIX_CHARACTERS_MIN = 6

_HYPHENS = (8, 13, 18, 23)
_ID_CHARACTERS = 36
#: So many digits of an id are its time in milliseconds; see `ids`.
_TIME_DIGITS = 12

#: Where a page ends: `create_us` and id of a run. Lists are ordered by both.
Place = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Span:
    """Times from one on until before another, in microseconds."""

    from_us: int = 0
    until_us: int = TIME_MAX


EVER = Span()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Runs of which all of this is true. What is empty is true of any."""

    workflow: str = ""
    states: frozenset[RunState] = frozenset()
    #: Labels with these values, all of them.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Labels with any value, all of them.
    label_keys: frozenset[str] = frozenset()
    created: Span = EVER
    #: Anything but `EVER` leaves out what has not ended.
    ended: Span = EVER
    #: All words of it stand in labels, reason or the workflow's name; or it is the beginning of the
    #: run's id; or the correlation id of the call that started it.
    text: str = ""
    #: Started for a task of this run.
    parent_run_id: str = ""

    @property
    def by_end(self) -> bool:
        """Whether it matters when the runs ended."""
        return self.ended != EVER

    def wanted_states(self) -> list[RunState]:
        """The states of runs that can be meant. None: nothing is."""
        states = self.states or frozenset(RunState)
        return sorted(states & RUN_ENDED if self.by_end else states)

    def terms(self) -> list[str]:
        """The terms that a run must have, those of the text aside."""
        pairs = [pair_term(key, value) for key, value in sorted(self.labels.items())]
        return pairs + [key_term(key) for key in sorted(self.label_keys - self.labels.keys())]

    def words(self) -> list[str]:
        """The words of the text."""
        return words(self.text)


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, and behind which place the next page begins. None: there is none."""

    runs: list[records.Run]
    next_after: Place | None


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many runs are in a state; with `more`, at least so many."""

    state: RunState
    count: int
    more: bool


@dataclass(frozen=True, slots=True)
class IdRange:
    """The ids that begin alike: from one on until before another, and when they were made."""

    from_id: str
    until_id: str
    made: Span


def ids_beginning_with(text: str) -> IdRange | None:
    """The ids that a text is the beginning of; None when it is none, or a short one."""
    text = text.lower()
    if not PREFIX_CHARACTERS_MIN <= len(text) <= _ID_CHARACTERS:
        return None
    if not all(
        sign == "-" if place in _HYPHENS else re.fullmatch("[0-9a-f]", sign)
        for place, sign in enumerate(text)
    ):
        return None
    digits = text.replace("-", "")[:_TIME_DIGITS]
    begin_ms = int(digits.ljust(_TIME_DIGITS, "0"), 16)
    end_ms = begin_ms + 16 ** (_TIME_DIGITS - len(digits))
    # "g" comes behind all digits of an id, and "-" before them.
    return IdRange(text, f"{text}g", Span(begin_ms * 1000, end_ms * 1000))
