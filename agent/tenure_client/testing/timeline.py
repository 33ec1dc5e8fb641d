"""The time of one test: it stands still, and jumps to what falls due next while the test waits."""

from __future__ import annotations

import heapq
import inspect
import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tenure_client import duration
from tenure_client.testing.coordinator import ClockLine, Quiet

#: So often the clock jumps within one wait. More is taken for a test that never ends.
JUMPS_MAX = 100_000


class Stuck(AssertionError):  # noqa: N818 - a word of tests
    """What is waited for will never come: nothing happens, and nothing falls due.

    The message says what every open task waits for.
    """


class Timeline:
    """Lets time pass, and does what the test wants done meanwhile."""

    def __init__(self, clock: ClockLine, ready: Callable[[], Awaitable[None]]) -> None:
        """`ready` is waited for before time passes: that whoever is to work can."""
        self._clock = clock
        self._ready = ready
        self._quiet = Quiet(0, None)
        self._appointments: list[tuple[int, int, Callable[[], Any]]] = []
        self._number = itertools.count()

    def now(self) -> datetime:
        """The time of the test, in UTC."""
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self._quiet.now_us)

    async def settle(self) -> None:
        """Waits until nothing happens any more without time passing."""
        self._quiet = await self._clock.settle()

    def at(self, span: duration.Span, act: Callable[[], Any]) -> None:
        """Has something done, plain or async, when so much time has passed from now on."""
        due_us = self._quiet.now_us + duration.parse(span).ToMicroseconds()
        heapq.heappush(self._appointments, (due_us, next(self._number), act))

    async def advance(self, span: duration.Span) -> None:
        """Lets so much time pass, and everything happen that falls due meanwhile."""
        reached: list[None] = []
        self.at(span, lambda: reached.append(None))

        async def done() -> bool:
            return bool(reached)

        await self.until(done, lambda: "the end of a span")
        await self.settle()

    async def until(
        self,
        reached: Callable[[], Awaitable[bool]],
        explain: Callable[[], str],
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """Lets time pass in jumps until something is reached.

        Raises Stuck with what `explain` says when nothing falls due any more, or when it has
        `ended` without being reached.
        """
        await self._ready()
        await self.settle()
        for _ in range(JUMPS_MAX):
            while self._appointments and self._appointments[0][0] <= self._quiet.now_us:
                done = heapq.heappop(self._appointments)[2]()
                if inspect.isawaitable(done):
                    await done
                await self.settle()
            if await reached():
                return
            if ended():
                raise Stuck(f"the run has ended: {explain()}")
            dues = [self._appointments[0][0]] if self._appointments else []
            if self._quiet.due_us is not None:
                dues.append(self._quiet.due_us)
            if not dues:
                raise Stuck(explain())
            self._quiet = await self._clock.jump(min(dues))
        raise Stuck(f"the clock has jumped {JUMPS_MAX:,} times: {explain()}")
