"""The floor: the desks of all tenants held here, and the loop that commits and grants.

One turn of the loop: commands change desks; a flush grants what has become possible, collects what
the agents are to be told, seals the journal and commits it; then what was held back goes out. A
chain hop, from a result to the lease of the next task, is one turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TypeVar

import structlog

from tenure_evidence.keys import Chain
from tenure_server.core import errors
from tenure_server.core.desks.desk import LAWLESS, Desk
from tenure_server.core.desks.law import Law
from tenure_server.core.evidence import INSTALLATION, Act, Draft
from tenure_server.core.ledger.journal import Journal
from tenure_server.engine import chronicle, keeping
from tenure_server.engine.alarm import Alarm
from tenure_server.engine.alone import Alone
from tenure_server.engine.cold import ColdPath, unavailable
from tenure_server.engine.commits import Abandon, Batch, Commits, Effect
from tenure_server.engine.dispatch import Dispatch
from tenure_server.engine.opening import Opening
from tenure_server.engine.pruning import Pruning
from tenure_server.engine.seating import Seating
from tenure_server.engine.sessions import AgentSession, Report
from tenure_server.engine.settings import Clock, Settings
from tenure_server.engine.watch import Watchers
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
        self.cold: ColdPath
        self.seating: Seating
        self.opening: Opening
        #: Who takes an ended run up again, moves it or forgets it.
        self.alone = Alone()
        self.pruning = Pruning(store, settings)
        self._laws: Callable[[str], Law] = law_of
        self._learn = learn
        #: Is told of desks that want runs to be started.
        self.wanted: Callable[[Desk], None] = lambda _: None
        self._chain = chain
        self._store = store
        self._settings = settings
        self.journal = self._new_journal()
        self._clock = clock
        self._judge = judge
        self._opened = opened
        self._closed = closed
        self._dirty: set[Desk] = set()
        self._owing: dict[AgentSession, None] = {}
        self._effects: list[Effect] = []
        self._abandons: list[Abandon] = []
        self._listeners: list[Callable[[bool], None]] = []
        #: Called when all is decided that goes into a commit, and may decide more.
        self.before_seal: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._recovering = False
        self._alarm = Alarm(self.now_us, self.pass_time)

    # -- life

    async def start(self) -> None:
        """Takes the free seats and reads their open work back."""
        self.commits = Commits(
            self._store.writer(), seal=self._seal, committed=self._committed, failed=self.fail
        )
        self.cold = ColdPath(
            self.commits,
            self.watchers,
            now_us=self.now_us,
            law_of=self._laws,
            keeps_evidence=self._settings.evidence,
        )
        self.seating = Seating(
            self._store,
            self.commits,
            self._settings,
            now_us=self.now_us,
            journal=lambda: self.journal,
            law_of=self._laws,
            learn=self._learn,
            slots_of=self.dispatch.slots_of,
            chain=self._chain,
        )
        self.opening = Opening(
            self.desks,
            self.seating,
            self.dispatch,
            self.watchers,
            opened=self._desk_opened,
            closed=self._desk_closed,
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
        self._alarm.clear()
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

    def check_desk(self, desk: Desk) -> None:
        """Raises unless this very desk still decides for its tenant: others were served since."""
        if self.desk(desk.tenant.tenant_id) is not desk:
            raise errors.StoreUnavailable("the work was read back; nothing was changed")

    async def take_seats(self) -> None:
        """Takes every free seat and opens its desk. Raises StoreFailed, StoreUnavailable."""
        await self.opening.take_seats()

    def lose_seat(self, tenant_id: str) -> None:
        """Lets go of a tenant that another coordinator decides for now."""
        log.warning("another coordinator took the seat", tenant=tenant_id)
        self.opening.close(tenant_id)

    def _desk_opened(self, desk: Desk) -> None:
        self._opened(desk.tenant.tenant_id)
        self.stir(desk)

    def _desk_closed(self, tenant_id: str) -> None:
        self._dirty = {desk for desk in self._dirty if desk.tenant.tenant_id != tenant_id}
        self._closed(tenant_id)

    # -- what sessions need (sessions.Host)

    def now_us(self) -> int:
        """The time, in microseconds since the Unix epoch."""
        return self._clock.now_us()

    def mark(self) -> int:
        """Where an act begins: everything that happens from here on follows from it."""
        return len(self.journal.events)

    def close_act(self, act: Act, since: int, tenant_ids: Iterable[str] = ()) -> None:
        """Writes an act down that began at a mark, in the logs where something happened and in
        those of the tenants named. Raises as `check_seat` when a desk of theirs is closed.
        """
        for tenant_id in tenant_ids:
            self._under(tenant_id)
        self.journal.act(act, since, self.now_us(), tenant_ids)
        self.commits.ask()

    def note(self, act: Act, tenant_ids: Iterable[str]) -> list[Draft]:
        """Writes an act down by which nothing happened. Raises as `check_seat`."""
        happened: dict[str, Sequence[int]] = {}
        for tenant_id in tenant_ids:
            if tenant_id != INSTALLATION:
                self.check_seat(tenant_id)
            self._under(tenant_id)
            happened[tenant_id] = ()
        self.commits.ask()
        return self.journal.draft(act, happened, self.now_us())

    def _under(self, tenant_id: str) -> None:
        if tenant_id == INSTALLATION:
            return
        if tenant_id not in self.desks:
            self.check_seat(tenant_id)
        # Whether the seat can still be trusted was asked before anything was changed. To refuse now
        # because time went on would leave half a turn; the commit asserts the seat in any case.
        self.journal.under(tenant_id, self.desks[tenant_id].term)

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

    def beside(self) -> frozenset[asyncio.Task[None]]:
        """What goes on beside the loop now."""
        return frozenset(self._tasks)

    def flush(self) -> asyncio.Future[None]:
        """Asks for a commit of everything that was decided up to now.

        The future fails with StoreUnavailable when the commit did: then nothing of it was kept.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._effects.append(lambda: None if future.done() else future.set_result(None))
        self._abandons.append(
            lambda error: None if future.done() else future.set_exception(unavailable(error))
        )
        self.commits.ask()
        return future

    async def flushed(self) -> None:
        """Waits for `flush`."""
        await self.flush()

    # -- the turn

    def _seal(self) -> Batch:
        now_us = self.now_us()
        owing, self._owing = self._owing, {}
        for desk in self.desks.values():
            since = self.mark()
            desk.grants.admit(now_us)
            if self.mark() > since:
                self.journal.act(Act(kind="time.pass"), since, now_us)
                self._dirty.add(desk)
        for session in self.dispatch.grant(self.desks, self.journal, now_us):
            owing[session] = None
        # A desk that only granted has something to watch over as well: that the leases end, or what
        # follows where an attempt failed before it began.
        self._dirty.update(self.desks[tenant_id] for tenant_id in self.dispatch.take_touched())
        for desk in self.desks.values():
            # A task that waits for its rate, or for its turn to be worked out, wants to be woken.
            if desk.grants.resting or desk.limits.next_us() is not None:
                self._dirty.add(desk)
        for desk in self._dirty:
            if desk.ended or desk.cancelling:
                owing |= dict.fromkeys(self.dispatch.tell(desk))
            if desk.consequences.children.wanted:
                self.wanted(desk)
        self.before_seal()
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
        due_us = min((due for desk in desks if (due := desk.dues.next_us())), default=None)
        if due_us is not None:
            self._alarm.set(due_us)

    def pass_time(self) -> None:
        """Does what has fallen due on every desk."""
        self._alarm.clear()
        now_us = self.now_us()
        try:
            for desk in self.desks.values():
                since = self.mark()
                desk.dues.pass_time(now_us)
                if self.mark() > since:
                    self.close_act(Act(kind="time.pass"), since)
                wanted = desk.consequences.children.wanted
                if desk.ended or desk.cancelling or desk.ready.size or wanted:
                    self.stir(desk)
            self._set_alarm(self.desks.values())
        except Exception as error:  # noqa: BLE001 - a half-made turn must not be gone on with
            self.fail(error)

    # -- when a commit fails

    def fail(self, error: BaseException) -> None:
        """Notes what went wrong, and starts over."""
        known = isinstance(error, (StoreFailed, StoreConflict, SeatLost))
        log.error(
            "the store could not commit",
            error=str(error),
            kind=type(error).__name__,
            exc_info=None if known else error,
        )
        self.start_over(error)

    def start_over(self, error: BaseException) -> None:
        """Throws memory away and reads it back: what the store has is the truth.

        Whoever waits is refused with the error, agents have to come again, and every lease has its
        whole time anew.
        """
        self._set_serving(False)
        abandons, self._abandons = self._abandons, []
        for abandon in abandons:
            abandon(error)
        self._effects.clear()
        self._owing.clear()
        self._dirty.clear()
        # Not sealed: a row that cannot be made may be what failed.
        self.journal = self._new_journal()
        self.opening.close_all(unavailable(error))
        if not self.stopping and not self._recovering:
            self._recovering = True
            self.spawn(self._recover())

    async def _recover(self) -> None:
        await self.opening.open_anew()
        self._recovering = False
        log.info("the store commits again")
        self._set_serving(True)

    def _new_journal(self) -> Journal:
        evidence = self._settings.evidence
        return Journal(lambda tenant_id: self._laws(tenant_id).digest, keeps_evidence=evidence)

    def _set_serving(self, serving: bool) -> None:
        self.serving = serving
        for listener in self._listeners:
            listener(serving)
