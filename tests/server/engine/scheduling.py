"""A house in which schedules fire, and that can be closed and reopened at any step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from tests import logbook
from tests.server.core.world import START_US, task
from tests.server.engine.conftest import TENANT, House, soon

from tenure_server.core.leasing.leases import Lease, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Failure
from tenure_server.core.scheduling.fire_times import FireTimes, Interval
from tenure_server.core.scheduling.schedules import (
    LABEL_SCHEDULE,
    Author,
    FireLine,
    Outcome,
    Overlap,
    Schedule,
    Standing,
)
from tenure_server.engine.schedule_views import Seen
from tenure_server.engine.sessions import AgentSession
from tenure_server.store.reads import TenantReads

SECOND = 1_000_000
MINUTE = 60 * SECOND
#: The last full minute before the tests begin.
ZERO_US = START_US - START_US % MINUTE
NAME = "minutely"
OWNER = Author("key-0", ("submitter",))


def minutely(**changes: Any) -> Schedule:
    """A schedule that fires every minute."""
    plain = Schedule(
        name=NAME,
        workflow="flow",
        times=FireTimes(intervals=(Interval(MINUTE),)),
        author=OWNER,
        create_us=START_US,
        created_by=OWNER.api_key_id,
        update_us=START_US,
    )
    return replace(plain, **changes)


@dataclass
class Scheduled:
    """What a test does with a house and its schedules."""

    house: House

    async def furnish(self) -> None:
        """A tenant and a workflow of one task."""
        await self.house.open()
        await self.house.furnish()
        self.house.clock.at_us = ZERO_US
        await self.house.register(task("a"))

    async def reopen(self) -> None:
        """Throws all memory away, as the end of the process does."""
        await self.house.close()
        await self.house.open()
        await self.settled()

    async def create(self, schedule: Schedule, **standing: Any) -> None:
        """Makes a schedule."""
        now_us = self.house.clock.at_us
        await self.house.engine.schedules.create(
            self.house.origin,
            schedule,
            Standing(cursor_us=now_us, **standing),
            None,
            lambda _: b"",
        )
        await self.settled()

    async def at(self, minute: float) -> None:
        """Lets the time come to so many minutes after the beginning, and what is due happen."""
        self.house.clock.at_us = ZERO_US + round(minute * MINUTE)
        self.house.engine._floor.pass_time()
        # What ended meanwhile is known before a schedule is looked at, as when time passes slowly.
        await self.house.engine._floor.flushed()
        self.house.engine._firing.pass_time()
        await self.settled()

    async def settled(self) -> None:
        """Waits until nothing is under way any more."""
        firing, floor = self.house.engine._firing, self.house.engine._floor
        while True:
            while firing._attending:
                await asyncio.wait(floor.beside(), return_when=asyncio.FIRST_COMPLETED)
            await floor.flushed()
            await floor.commits.settled()
            if not firing._attending:
                return

    async def seen(self, name: str = NAME) -> Seen:
        """A schedule and where it stands."""
        return await self.house.engine.schedule_views.get(TENANT, name)

    async def lines(self, name: str = NAME) -> list[FireLine]:
        """The history of a schedule, the oldest line first."""
        return (await self.house.engine.schedule_views.lines(TENANT, name, None, 1000))[::-1]

    async def story(self, name: str = NAME) -> list[tuple[int, str]]:
        """The history in short: which minute, and what became of it."""
        return [
            ((line.nominal_us - ZERO_US) // MINUTE, line.outcome.name.lower())
            for line in await self.lines(name)
        ]

    async def runs(self) -> list[records.Run]:
        """All runs, the oldest first."""
        reads = TenantReads(self.house.store, TENANT)
        return (await self.house.engine.read(reads.runs, None, [], None, 1000))[::-1]

    def agent(self) -> AgentSession:
        """Puts an agent on the line that takes everything."""
        session = self.house.session(slots=100)
        session.add_credits(100)
        return session

    async def take(self, session: AgentSession) -> Lease:
        """Lets an agent take the next task."""
        [lease] = (await soon(session)).leases
        session.accept(lease.run.run_id, "a", lease.term, lease.token)
        return lease

    async def end(self, session: AgentSession, lease: Lease, failure: str = "") -> None:
        """Lets an agent report."""
        end = Failure(failure) if failure else Success()
        session.settle(lease.run.run_id, "a", lease.term, lease.token, end)
        session.add_credits(1)
        await self.settled()

    def entries(self, kind: str = "schedule.fire") -> list[dict[str, Any]]:
        """What the tenant's log says of one kind of act; and the log is whole."""
        logs = logbook.read(self.house.store)
        logs.check()
        return [entry for entry in logs.of(TENANT) if entry["kind"] == kind]

    async def check(self) -> None:
        """What holds at any time, whatever was done before."""
        runs = {run.run_id: run for run in await self.runs()}
        lines = await self.lines()
        started = [line for line in lines if line.outcome is Outcome.STARTED]
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))
        # Each start has its run, each run its line, and both one entry.
        assert sorted(line.run_id or "" for line in started) == sorted(runs)
        assert len({(line.cause, line.nominal_us) for line in started}) == len(started)
        told = [entry["subject"] for entry in self.entries() + self.entries("schedule.trigger")]
        assert sorted(one["run"] for one in told if "run" in one) == sorted(runs)
        assert len(told) == len(lines)
        for run in runs.values():
            assert run.labels[LABEL_SCHEDULE] == NAME


__all__ = ["NAME", "Overlap", "Scheduled", "minutely"]
