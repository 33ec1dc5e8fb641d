"""An event loop whose time passes by itself, and a disk whose commits take as long as chance says.

Nothing here waits: when nobody has anything to do, the clock jumps to the next moment at which
somebody has. What other loops do in threads happens inside of this one, so that one seed gives
one course of things.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import Any

Work = Callable[[], None]
#: How long a transaction and a read take.
_WRITE_SECONDS = (0.0005, 0.02)
_READ_SECONDS = (0.0001, 0.005)
#: So many of them take long, before or after they have looked.
_LONG_READS = 0.03
_LONG_READ_SECONDS = (0.1, 1.0)
#: How long it takes until what a thread has done is heard of on the loop.
_HANDED_SECONDS = 0.003


class Idle(Exception):  # noqa: N818 - the end of a story
    """Nobody has anything to do, now or later: somebody waits for what never comes."""


class _Jumping(selectors.SelectSelector):
    """Instead of waiting it lets the time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Idle
        self.now += max(0.0, timeout)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """The loop. `chance` decides how long work in threads takes."""

    def __init__(self, chance: random.Random) -> None:
        self._jumping = _Jumping()
        self._chance = chance
        self._handed_at = 0.0
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._jumping.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Does the work on the loop, after a while."""
        future: asyncio.Future[Any] = self.create_future()

        def run() -> None:
            if future.done():
                return
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                self.call_later(self._read_seconds(), _tell, future, future.set_exception, error)
            else:
                # By now it may be something that was.
                self.call_later(self._read_seconds(), _tell, future, future.set_result, result)

        self.call_later(self._read_seconds(), run)
        return future

    def _read_seconds(self) -> float:
        long = self._chance.random() < _LONG_READS
        return self._chance.uniform(*(_LONG_READ_SECONDS if long else _READ_SECONDS))

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Tells the loop of what a thread has done, a little later and in order."""
        took = self._chance.uniform(0.0, _HANDED_SECONDS)
        self._handed_at = max(self.time(), self._handed_at) + took
        return self.call_at(self._handed_at, callback, *args, context=context)


def _tell(future: asyncio.Future[Any], tell: Callable[[Any], None], outcome: object) -> None:
    if not future.done():
        tell(outcome)


class Disk:
    """Stands in for the writer's thread and its queue: one piece of work after the other."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, after: Work) -> None:
        self._loop = loop
        self._chance = chance
        #: Called after each piece of work.
        self._after = after
        self._free_at = 0.0
        self._waiting: list[Work] = []
        self.gone = False

    def put(self, work: Work | None) -> None:
        """Takes work, to be done after all that came before."""
        if work is None or self.gone:
            return
        took = self._chance.uniform(*_WRITE_SECONDS)
        self._free_at = max(self._loop.time(), self._free_at) + took
        self._waiting.append(work)
        self._loop.call_at(self._free_at, self._do)

    def _do(self) -> None:
        if not self.gone and self._waiting:
            self._waiting.pop(0)()
            self._after()

    def crash(self) -> list[Work]:
        """Ends, and gives what was being done and what waited."""
        self.gone = True
        waiting, self._waiting = self._waiting, []
        return waiting


class NoThread:
    """Stands in for the thread, which has nothing to do."""

    def __init__(self, **_: Any) -> None: ...

    def start(self) -> None:
        """Does nothing."""

    def join(self, *_: Any) -> None:
        """Does nothing."""

    def is_alive(self) -> bool:
        """Never."""
        return False
