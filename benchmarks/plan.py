"""How a session measures: on which store, how often, how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.installation import NewStore
from benchmarks.results import Target

_QUICK_SHRINK = 10
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all scenarios of a session share."""

    store: str
    new_store: NewStore
    #: Shows that everything works, in short; its figures mean little.
    quick: bool
    #: Where the WfCommons traces lie. None: nowhere.
    traces: Path | None

    @property
    def rounds(self) -> int:
        """How often each measurement is repeated; the median counts."""
        return 1 if self.quick else _ROUNDS

    def count(self, full: int) -> int:
        """How many of something, given how many it is in a full session."""
        return full // _QUICK_SHRINK if self.quick else full

    def target(self, sqlite: Target, postgresql: Target | None = None) -> Target | None:
        """The target on this session's store. Most are set for SQLite only."""
        return sqlite if self.store == "sqlite" else postgresql
