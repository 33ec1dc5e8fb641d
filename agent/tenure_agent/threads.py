"""Threads for plain handlers.

Not a ThreadPoolExecutor: that one waits for its threads when the process ends, so a handler that
hangs would keep the agent from leaving, and it cannot replace a thread that was given up. How
many run at once is bounded by the agent's slots, not here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class HandlerThreads:
    """Runs calls in daemon threads; makes a thread only when none is idle."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._count = 0

    def submit(self, call: Callable[[], None]) -> None:
        """Runs the call in a thread. It must not raise."""
        with self._lock:
            reuse = self._idle > 0
            if reuse:
                self._idle -= 1
            else:
                self._count += 1
                name = f"handler-{self._count}"
        self._calls.put(call)
        if not reuse:
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def close(self) -> None:
        """Lets the idle threads end; those that are busy end with the process."""
        with self._lock:
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call
            with self._lock:
                self._idle += 1
