"""Who is at work: so many calls of one tenant at once, so many more that wait, so many streams.

Without it one tenant's burst of thousands of calls would all be at work together, and a call of
another tenant would get its share of the loop after them. So calls stand in a line of their tenant;
only the first of each line are served, which costs them nothing: commits are shared anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from tenure_server.core import errors

#: How many calls of one tenant are served at once. Waiting for a shared commit, these fill it.
AT_ONCE = 16
#: How many more may wait. What they ask is held in memory meanwhile.
WAITING_MAX = 10_000
#: And how large all of that may be together.
WAITING_BYTES_MAX = 256 << 20
#: How many streams one tenant may have open.
STREAMS_MAX = 5_000


@dataclass(slots=True)
class _Line:
    """The calls of one tenant."""

    served: int = 0
    #: Each is resolved when its turn has come.
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    waiting_bytes: int = 0


class Turns:
    """The lines of all tenants. Raises Overloaded where a line or a door is full."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._streams: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def turn(self, owner: str, size: int) -> AsyncIterator[None]:
        """Waits until a call of so many bytes may be served, and serves it inside."""
        line = self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = _Line()
        if line.served < AT_ONCE:
            line.served += 1
        else:
            await self._wait(line, size)
        try:
            yield
        finally:
            self._leave(owner, line)

    @contextlib.contextmanager
    def stream(self, owner: str) -> Iterator[None]:
        """Counts a stream while it is open."""
        count = self._streams.get(owner, 0)
        if count >= STREAMS_MAX:
            raise errors.Overloaded(f"{STREAMS_MAX} streams are open already", subject="streams")
        self._streams[owner] = count + 1
        try:
            yield
        finally:
            self._streams[owner] -= 1
            if not self._streams[owner]:
                del self._streams[owner]

    async def _wait(self, line: _Line, size: int) -> None:
        if len(line.waiting) >= WAITING_MAX or line.waiting_bytes + size > WAITING_BYTES_MAX:
            raise errors.Overloaded("too many calls wait already", subject="calls")
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.append(mine)
        line.waiting_bytes += size
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                # Its turn had come already: it is the next one's.
                self._pass_on(line)
            raise
        finally:
            line.waiting_bytes -= size

    def _leave(self, owner: str, line: _Line) -> None:
        self._pass_on(line)
        if not line.served and self._lines.get(owner) is line:
            del self._lines[owner]

    @staticmethod
    def _pass_on(line: _Line) -> None:
        while line.waiting:
            following = line.waiting.popleft()
            # One that went away is cancelled, and passed over.
            if not following.done():
                following.set_result(None)
                return
        line.served -= 1
