"""Refusals of callers that nobody knows: each leaves evidence, but not without bound.

Anybody who reaches the port can be refused as often as he likes. So only so many of these refusals
a second get an entry of their own; how many more there were is one entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tenure_server.core.evidence import Act

#: How many refusals of unknown callers a second are written down one by one.
EACH_MAX = 100
WINDOW_SECONDS = 1.0
KIND = "refusals.more"


class Strangers:
    """Counts them. `note` writes an act into the installation's log."""

    def __init__(self, note: Callable[[Act], object]) -> None:
        self._note = note
        self._seen = 0
        self._more = 0
        self._window: asyncio.TimerHandle | None = None

    def admits(self) -> bool:
        """Whether one more refusal gets an entry of its own."""
        if self._window is None:
            loop = asyncio.get_running_loop()
            self._window = loop.call_later(WINDOW_SECONDS, self.close)
        self._seen += 1
        if self._seen <= EACH_MAX:
            return True
        self._more += 1
        return False

    def close(self) -> None:
        """Ends the second, and writes down what was only counted."""
        if self._window is not None:
            self._window.cancel()
        more = self._more
        self._seen = self._more = 0
        self._window = None
        if more:
            self._note(Act(kind=KIND, refusal="CREDENTIAL_INVALID", subject={"count": str(more)}))
