"""One at a time: runs are taken up again, or moved, by what was read of them, and that takes time.

An open run tells by its events that it has gone on meanwhile. One that has ended is not in memory:
it could be opened again and end once more, and what was read would be an older story. So whoever
does this holds the run from before the commit that is read until it is decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tenure_server.core import errors


class Alone:
    """The runs that are held."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @contextmanager
    def holding(self, run_id: str) -> Iterator[None]:
        """Holds a run. Raises RunChanged when somebody else does."""
        if run_id in self._held:
            raise changed(run_id)
        self._held.add(run_id)
        try:
            yield
        finally:
            self._held.discard(run_id)


def changed(run_id: str) -> errors.RunChanged:
    """The run went on, or is about to."""
    return errors.RunChanged(f"run {run_id} has changed meanwhile; nothing was done")
