"""One at a time: runs are taken up again, moved or forgotten by what was read, and that takes time.

An open run tells by its events that it has gone on meanwhile. One that has ended is not in memory:
it could be opened again and end once more, and what was read would be an older story. So whoever
does this holds the run from before the commit that is read until it is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tenure_server.core import errors


class Alone:
    """The runs that are held."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @contextmanager
    def holding_free(self, run_ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """Holds those of these runs that nobody else holds, and gives them."""
        free = tuple(run_id for run_id in run_ids if run_id not in self._held)
        self._held.update(free)
        try:
            yield free
        finally:
            self._held.difference_update(free)

    @contextmanager
    def holding(self, run_id: str) -> Iterator[None]:
        """Holds a run. Raises RunChanged when somebody else does."""
        with self.holding_free((run_id,)) as free:
            if not free:
                raise changed(run_id)
            yield


def changed(run_id: str) -> errors.RunChanged:
    """The run went on, or is about to."""
    return errors.RunChanged(f"run {run_id} has changed meanwhile; nothing was done")
