"""The floor: the desks of all tenants held here, and the loop that commits and grants.

One turn of the loop: commands change desks; a flush grants what has become possible, collects what
the agents are to be told, seals the journal and commits it; then what was held back goes out. A
chain hop, from a result to the lease of the next task, is one turn.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from tenure_evidence.keys import Chain
from tenure_server.core import errors, records
from tenure_server.core.desk import LAWLESS, Desk
from tenure_server.core.evidence import INSTALLATION, Act, Draft
from tenure_server.core.journal import Journal
from tenure_server.core.law import Law
from tenure_server.engine import chronicle, keeping
from tenure_server.engine.commits import Abandon, Batch, Commits, Effect
from tenure_server.engine.dispatch import Dispatch
from tenure_server.engine.pruning import Pruning
from tenure_server.engine.seating import Seating
from tenure_server.engine.sessions import AgentSession, Report
from tenure_server.engine.settings import Clock, Settings
from tenure_server.engine.watch import Watchers
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.errors import SeatLost, StoreConflict, StoreFailed

T = TypeVar("T")

log = structlog.get_logger()


class Floor:
    """Holds the desks. Everything but `start`, `stop` and `flushed` is immediate."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        *,
        dispatch: Dispatch,
        judge: Callable[[AgentSession, Report], Awaitable[None]],
        opened: Callable[[str], None],
        closed: Callable[[str], None],
        law_of: Callable[[str], Law] = lambda _: LAWLESS,
        learn: Callable[[str], None] = lambda _: None,
        chain: Chain | None = None,
    ) -> None:
        self.serving = False
        self.stopping = False
        self.desks: dict[str, Desk] = {}
        self.dispatch = dispatch
        self.watchers = Watchers()
        self.commits: Commits
        self.seating: Seating
        self.pruning = Pruning(store, settings)
        self._laws: Callable[[str], Law] = law_of
        self._learn = learn
        self._chain = chain
        self.journal = self._new_journal(settings)
        self._store = store
        self._settings = settings
        self._clock = clock
        self._judge = judge
        self._opened = opened
        self._closed = closed
        self._dirty: set[Desk] = set()
        self._owing: dict[AgentSession, None] = {}
        self._effects: list[Effect] = []
        self._abandons: list[Abandon] = []
        self._listeners: list[Callable[[bool], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._taking = asyncio.Lock()
        #: Tenants whose desks stay closed although their seats are held.
        self.erasing: set[str] = set()
        #: How often memory was thrown away.
        self._failures = 0
        self._recovering = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_us = 0

    # -- life

    async def start(self) -> None:
        """Takes the free seats and reads their open work back."""
        self.commits = Commits(
            self._store.writer(), seal=self._seal, committed=self._committed, failed=self.fail
        )
        self.seating = Seating(
            self._store,
            self.commits,
            now_us=self.now_us,
            seat_us=self._settings.seat_us,
            new_desk=self._new_desk,
            learn=self._learn,
            slots_of=self.dispatch.slots_of,
            chain=self._chain,
        )
        if self.seating.shared:
            # From here on: opening the desks may take longer than a seat holds.
            self.spawn(keeping.renew(self, self._settings))
        await self.take_seats()
        self._set_serving(True)
        self.spawn(keeping.keep(self, self._settings))

    async def stop(self) -> None:
        """Tells the agents, lets what is under way commit, and gives the seats back."""
        self.stopping = True
        self._set_serving(False)
        for session in self.dispatch.sessions():
            session.drain()
            session.pending.draining = True
            self.owe(session)
        await keeping.step(self.flushed(), "commit")
        for session in self.dispatch.sessions():
            session.end(errors.Stopping("the coordinator is stopping"))
        self.watchers.end_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._alarm is not None:
            self._alarm.cancel()
        await keeping.step(self.commits.settled(), "settle")
        await keeping.step(self.seating.release(), "release the seats")
        await self.commits.close(keeping.STOP_SECONDS)

    def on_serving(self, callback: Callable[[bool], None]) -> None:
        """Wants to be told when commits begin or cease to be possible."""
        self._listeners.append(callback)
        callback(self.serving)

    def check_seat(self, tenant_id: str) -> None:
        """Raises unless this coordinator decides for the tenant now."""
        if self.stopping:
            raise errors.Stopping("the coordinator is stopping")
        if tenant_id not in self.desks:
            if not self.serving:
                raise errors.StoreUnavailable("the store cannot commit now; nothing was changed")
            if reason := self.quarantine_of(tenant_id):
                raise errors.Quarantined(tenant_id, reason)
            raise errors.SeatElsewhere(tenant_id, self.seating.holder_of(tenant_id))
        if not self.seating.trusted:
            raise errors.StoreUnavailable(keeping.UNTRUSTED)

    def quarantine_of(self, tenant_id: str) -> str:
        """Why a tenant whose seat is held here is stopped; empty when it is not."""
        return "" if tenant_id in self.desks else self.seating.quarantine_of(tenant_id)

    def desk(self, tenant_id: str) -> Desk:
        """The desk of a tenant. Raises as `check_seat`."""
        self.check_seat(tenant_id)
        return self.desks[tenant_id]

    async def take_seats(self, *, reclaim: bool = False) -> None:
        """Takes every free seat and opens its desk. Raises StoreFailed, StoreUnavailable."""
        # Two at once would open the same desk twice, and the later one would forget the earlier.
        async with self._taking:
            failures = self._failures
            for seat in await self.seating.take(reclaim=reclaim):
                if seat.tenant_id in self.desks or seat.tenant_id in self.erasing:
                    continue
                stored = await self.seating.read(seat)
                if failures != self._failures:
                    raise errors.StoreUnavailable("a commit failed while the work was read back")
                if stored is None or seat.tenant_id in self.erasing:
                    continue
                desk = self.seating.open(seat, stored)
                if desk is not None:
                    self.desks[desk.tenant.tenant_id] = desk
                    self._opened(desk.tenant.tenant_id)
                    self.stir(desk)

    # -- what sessions need (sessions.Host)

    def now_us(self) -> int:
        """The time, in microseconds since the Unix epoch."""
        return self._clock.now_us()

    def mark(self) -> int:
        """Where an act begins: everything that happens from here on follows from it."""
        return len(self.journal.events)

    def close_act(self, act: Act, since: int, tenant_ids: Iterable[str] = ()) -> None:
        """Writes an act down that began at a mark, in the logs where something happened and in
        those of the tenants named.
        """
        for tenant_id in tenant_ids:
            self._under(tenant_id)
        self.journal.act(act, since, self.now_us(), tenant_ids)
        self.commits.ask()

    def note(self, act: Act, tenant_ids: Iterable[str]) -> list[Draft]:
        """Writes an act down by which nothing happened."""
        happened: dict[str, Sequence[int]] = {}
        for tenant_id in tenant_ids:
            self._under(tenant_id)
            happened[tenant_id] = ()
        self.commits.ask()
        return self.journal.draft(act, happened, self.now_us())

    def _under(self, tenant_id: str) -> None:
        if tenant_id != INSTALLATION:
            self.journal.under(tenant_id, self.desk(tenant_id).term)

    def desks_of(self, tenant_ids: Sequence[str]) -> Sequence[Desk]:
        """The desks of these tenants that are held here."""
        keeping.check_trust(self)
        desks = self.desks
        return [desks[tenant_id] for tenant_id in tenant_ids if tenant_id in desks]

    def stir(self, desk: Desk | None = None) -> None:
        """Something changed: commit, and grant what has become possible."""
        if desk is not None:
            self._dirty.add(desk)
        self.commits.ask()

    def owe(self, session: AgentSession) -> None:
        """The session has something pending that goes out after the commit."""
        self._owing[session] = None
        self.commits.ask()

    def recall(self, session: AgentSession, report: Report) -> None:
        """Only the store can judge this result; the outcome follows."""

        async def judge_and_tell() -> None:
            await self._judge(session, report)

        self.spawn(judge_and_tell())

    def left(self, session: AgentSession) -> None:
        """The session is over."""
        self.dispatch.leave(session)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Runs work beside the loop until it ends or the floor stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def flush(self) -> asyncio.Future[None]:
        """Asks for a commit of everything that was decided up to now.

        The future fails with StoreUnavailable when the commit did: then nothing of it was kept.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._effects.append(lambda: None if future.done() else future.set_result(None))
        self._abandons.append(
            lambda error: None if future.done() else future.set_exception(_unavailable(error))
        )
        self.commits.ask()
        return future

    async def flushed(self) -> None:
        """Waits for `flush`."""
        await self.flush()

    async def act(
        self,
        seats: Mapping[str, int],
        work: Callable[[Acts], T],
        act: Act | None = None,
        logs: Sequence[str] = (),
    ) -> T:
        """Runs a cold-path mutation in a transaction of its own, which is the act's own too: it
        stands in these logs; when none is named in those of the seats' tenants, or in the
        installation's where there are none.

        Raises StoreUnavailable, and whatever refusal `work` raises.
        """
        drafts: list[Draft] = []
        if act is not None and self._settings.evidence:
            now_us = self.now_us()
            drafts = [
                Draft(act, tenant_id, now_us, self._laws(tenant_id).digest)
                for tenant_id in logs or seats or (INSTALLATION,)
            ]
        try:
            result = await self.commits.act(seats, work, drafts)
            self.watchers.logs.publish(draft.tenant_id for draft in drafts)
            if act is not None:
                act.taken = True
            return result
        except (StoreFailed, StoreConflict, SeatLost) as error:
            raise _unavailable(error) from error

    # -- the turn

    def _seal(self) -> Batch:
        now_us = self.now_us()
        owing, self._owing = self._owing, {}
        for session in self.dispatch.grant(self.desks, self.journal, now_us):
            owing[session] = None
            # A desk that only granted has something to watch over as well: that the leases end.
            granting = {lease.run.tenant_id for lease in session.pending.leases}
            self._dirty.update(self.desks[tenant_id] for tenant_id in granting)
        for desk in self._dirty:
            if desk.ended or desk.cancelling:
                owing |= dict.fromkeys(self.dispatch.tell(desk))
        self._set_alarm(self._dirty)
        self._dirty = set()
        deliveries = [session.delivery() for session in owing]
        changes = self.journal.seal()
        told = chronicle.lines(changes, self.desks)
        # Last: if anything above fails, `fail` still finds those who wait.
        effects, self._effects = self._effects + deliveries, []
        abandons, self._abandons = self._abandons, []
        if told:
            effects.append(lambda: chronicle.tell(told))
        return Batch(changes, effects, abandons)

    def _committed(self, batch: Batch) -> None:
        self.watchers.publish(batch.changes.events)
        self.watchers.logs.publish(draft.tenant_id for draft in batch.changes.drafts)

    def _set_alarm(self, desks: Iterable[Desk]) -> None:
        due_us = min((due for desk in desks if (due := desk.next_due_us())), default=None)
        if due_us is None or (self._alarm is not None and self._alarm_us <= due_us):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_us = due_us
        wait_seconds = max(0.0, (due_us - self.now_us()) / 1e6)
        self._alarm = asyncio.get_running_loop().call_later(wait_seconds, self.pass_time)

    def pass_time(self) -> None:
        """Does what has fallen due on every desk."""
        self._alarm = None
        now_us = self.now_us()
        try:
            for desk in self.desks.values():
                since = self.mark()
                desk.pass_time(now_us)
                if self.mark() > since:
                    self.close_act(Act(kind="time.pass"), since)
                if desk.ended or desk.ready.size:
                    self.stir(desk)
            self._set_alarm(self.desks.values())
        except Exception as error:  # noqa: BLE001 - a half-made turn must not be gone on with
            self.fail(error)

    # -- when a commit fails

    def fail(self, error: BaseException) -> None:
        """Throws memory away and reads it back: what the store has is the truth."""
        known = isinstance(error, (StoreFailed, StoreConflict, SeatLost))
        log.error(
            "the store could not commit",
            error=str(error),
            kind=type(error).__name__,
            exc_info=None if known else error,
        )
        self._failures += 1
        self._set_serving(False)
        abandons, self._abandons = self._abandons, []
        for abandon in abandons:
            abandon(error)
        self._effects.clear()
        self._owing.clear()
        self._dirty.clear()
        # Not sealed: a row that cannot be made may be what failed.
        self.journal = self._new_journal(self._settings)
        for tenant_id in self.desks:
            self._closed(tenant_id)
        self.desks.clear()
        refusal = _unavailable(error)
        for session in self.dispatch.sessions():
            session.end(refusal)
        # After the sessions have left, so that none keeps slots that nobody else knows.
        self.dispatch.forget_leases()
        self.watchers.end_all()
        if not self.stopping and not self._recovering:
            self._recovering = True
            self.spawn(self._recover())

    async def _recover(self) -> None:
        retrying = AsyncRetrying(
            wait=wait_exponential(0.1, max=5), retry=retry_if_exception_type(Exception)
        )
        async for attempt in retrying:
            with attempt:
                # What failed may still be under way: only what is read after it is the truth.
                await self.take_seats(reclaim=not self.desks)
        self._recovering = False
        log.info("the store commits again")
        self._set_serving(True)

    def lose_seat(self, tenant_id: str) -> None:
        """Lets go of a tenant that another coordinator decides for now."""
        log.warning("another coordinator took the seat", tenant=tenant_id)
        self.let_go(tenant_id)

    def let_go(self, tenant_id: str) -> None:
        """Closes a desk, and ends what goes on for its tenant."""
        desk = self.desks.pop(tenant_id, None)
        if desk is None:
            return  # memory was thrown away meanwhile, or there was none
        self._dirty.discard(desk)
        for lease in desk.leases.values():
            lease.agent.leases.pop(lease.key, None)
        self._closed(tenant_id)
        refusal = errors.SeatElsewhere(tenant_id, self.seating.holder_of(tenant_id))
        for session in self.dispatch.sessions():
            if tenant_id in session.tenant_ids:
                session.end(refusal)
        self.watchers.end_all(tenant_id)

    def _new_desk(self, tenant: records.Tenant, term: int) -> Desk:
        return Desk(
            tenant,
            term=term,
            journal=self.journal,
            draw=os.urandom,
            lease_us=self._settings.lease_us,
            accept_us=self._settings.accept_us,
            law=self._laws(tenant.tenant_id),
        )

    def _new_journal(self, settings: Settings) -> Journal:
        return Journal(
            lambda tenant_id: self._laws(tenant_id).digest, keeps_evidence=settings.evidence
        )

    def _set_serving(self, serving: bool) -> None:
        self.serving = serving
        for listener in self._listeners:
            listener(serving)


def _unavailable(error: BaseException) -> errors.StoreUnavailable:
    if isinstance(error, errors.StoreUnavailable):
        return error
    return errors.StoreUnavailable("the store could not commit; nothing was acknowledged")
