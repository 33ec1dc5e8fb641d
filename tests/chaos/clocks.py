"""Times that coordinators told, as if nobody had set their clocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tests.chaos.history import Happening

#: By multiples of this are clocks set, and between two events of a log far less time passes.
STEP_SECONDS = 3600.0


def nearest(at: float, to: float) -> float:
    """A time by a clock that may have been set, as it was by one that was not."""
    return at - STEP_SECONDS * round((at - to) / STEP_SECONDS)


def evenly(log: Iterable[Happening]) -> Iterator[Happening]:
    """Gives what happened in a log, in its order, by a clock that goes on as it began."""
    before: float | None = None
    for item in log:
        before = item.at if before is None else nearest(item.at, before)
        yield item if before == item.at else replace(item, at=before)
