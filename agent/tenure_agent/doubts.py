"""Has room given back that leases may have had of which nobody knows, once they cannot live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tenure.v1 import agents_pb2
from tenure_agent.alarm import Alarm
from tenure_agent.lines import Line
from tenure_agent.slots import Slots

#: How long a coordinator may grant leases on a stream that has ended, and they may then live.
DEAF_SECONDS = 50.0


class Doubts:
    """Tells the slots of lines that come and go, and when what they left is over."""

    def __init__(
        self, slots: Slots, loop: asyncio.AbstractEventLoop, over: Callable[[], None]
    ) -> None:
        """`over` is called when there may be more room than before."""
        self._slots = slots
        self._loop = loop
        self._over = over
        self._alarm = Alarm(loop, self._ring)

    def welcomed(self, welcome: agents_pb2.Welcome, line: Line) -> None:
        """Notes which leases may live, by what a coordinator says of them."""
        self._slots.ledger.welcome(
            welcome.tenant_ids,
            [seat.tenant_id for seat in welcome.elsewhere if not seat.stopped],
            [(one.run_id, one.task_key, one.term) for one in welcome.unnamed],
            stopped=[seat.tenant_id for seat in welcome.elsewhere if seat.stopped],
            now=self._loop.time(),
            lease_seconds=line.lease_seconds,
            unsure_seconds=line.lease_seconds + DEAF_SECONDS,
        )
        self._watch()

    def cut(self, line: Line) -> None:
        """A stream is gone: what was promised on it may have become leases."""
        self._slots.cut(line.share, self._loop.time(), line.lease_seconds + DEAF_SECONDS)
        self._watch()

    def close(self) -> None:
        """Watches no longer."""
        self._alarm.clear()

    def _watch(self) -> None:
        self._alarm.clear()
        self._alarm.set(self._slots.ledger.next_due())

    def _ring(self, _at: float, now: float) -> None:
        self._slots.ledger.pass_time(now)
        self._watch()
        self._over()
