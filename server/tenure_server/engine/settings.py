"""What can be set about the engine, with the defaults."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Spans in microseconds, limits in things."""

    #: How long a lease or a renewal holds.
    lease_us: int = 30_000_000
    #: How soon a lease that was sent has to be accepted.
    accept_us: int = 5_000_000
    #: How long a coordinator's seat holds without renewal.
    seat_us: int = 6_000_000
    #: How long what is known of a key may be used before it is read again.
    key_us: int = 5_000_000
    #: How long the answer to a `request_id` is remembered.
    answer_memory_us: int = 86_400_000_000
    #: How long an agent that left stays in the list.
    agent_memory_us: int = 600_000_000
    #: How long payloads of runs that have ended are kept, and the runs themselves. 0: for ever.
    keep_payloads_us: int = 0
    keep_runs_us: int = 0
    #: The most open runs of one tenant.
    open_runs_max: int = 200_000
    #: The most tasks in open runs of one tenant.
    open_tasks_max: int = 5_000_000
    #: The most schedules of one tenant, and the most bytes that their inputs have together.
    schedules_max: int = 10_000
    schedule_bytes_max: int = 64 << 20
    #: False only to measure what evidence costs.
    evidence: bool = True


class Clock(Protocol):
    """Where the time comes from. Handed in, so that tests own it."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch; never less than it said before."""


class SystemClock:
    """The machine's clock as it was at the start, kept from jumping; see `timekeeping`."""

    def __init__(self) -> None:
        self._base_us = time.time_ns() // 1000
        self._started_ns = time.monotonic_ns()

    def now_us(self) -> int:
        """Wall time at the start plus what the monotonic clock counted since."""
        # A wall clock that is set back must not shorten leases, nor one set forward end them all.
        return self._base_us + (time.monotonic_ns() - self._started_ns) // 1000

    def behind_us(self) -> int:
        """How far the machine's clock is ahead of this one; negative when it was set back."""
        return time.time_ns() // 1000 - self.now_us()

    def catch_up(self) -> None:
        """Goes forward to the machine's clock, in one step. Never goes back."""
        self._base_us += max(0, self.behind_us())
