"""The engine: the one face of everything that is decided, for `rpc` to talk to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import structlog

from tenure_constitution.article import Constitution
from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.engine import starting
from tenure_server.engine.answers import Answers, read_back
from tenure_server.engine.bulk import Bulk
from tenure_server.engine.chance import draw
from tenure_server.engine.closing import closed_for_good
from tenure_server.engine.compliance import Compliance
from tenure_server.engine.constitutions import Constitutions
from tenure_server.engine.court import Court
from tenure_server.engine.dispatch import Dispatch
from tenure_server.engine.explaining import Explaining
from tenure_server.engine.firing import Firing
from tenure_server.engine.floor import Floor
from tenure_server.engine.keys import Keys
from tenure_server.engine.legislature import Legislature
from tenure_server.engine.logbook import Logbook
from tenure_server.engine.moves import Moves
from tenure_server.engine.mutations import Mutations
from tenure_server.engine.notary import Notary
from tenure_server.engine.offspring import Offspring
from tenure_server.engine.operations import Operations
from tenure_server.engine.pausing import Pausing
from tenure_server.engine.publishing import Publishing
from tenure_server.engine.readers import Readers
from tenure_server.engine.schedule_views import ScheduleViews
from tenure_server.engine.schedules import Schedules
from tenure_server.engine.sessions import AgentSession, Report
from tenure_server.engine.settings import Clock, Settings
from tenure_server.engine.standstill import StandingClock, Standstill
from tenure_server.engine.timekeeping import Followed, Timekeeper
from tenure_server.engine.watch import follow
from tenure_server.engine.work import Work
from tenure_server.engine.workflows import Workflows
from tenure_server.store.database import Store
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import Reads, TenantReads

#: From so many bytes of input on they are checked beside the loop.
BESIDE_THE_LOOP_BYTES = 256 << 10

log = structlog.get_logger()


class Engine:
    """Everything runs on the event loop; async methods answer after the commit."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        notary: Notary | None = None,
        *,
        platform: Constitution | None = None,
    ) -> None:
        """`platform` is the platform's constitution, which must have been admitted."""
        self.settings = settings
        self._store = store
        self._clock = clock
        self._readers = Readers(store)
        #: Runs work on a read-only connection in a reader thread; see `Readers`.
        self.read, self.read_long = self._readers.read, self._readers.read_long
        self._keys = Keys(Reads(store), self.read, self.now_us, settings.key_us)
        self._answers = Answers(
            lambda keys: self.read(Reads(store).answers, keys),
            self.now_us,
            settings.answer_memory_us,
        )
        self._changing_tenants = asyncio.Lock()
        dispatch = Dispatch()
        self.constitutions = Constitutions(platform or Constitution(), dispatch.facts_of)
        self._floor = Floor(
            store,
            settings,
            clock,
            dispatch=dispatch,
            judge=self._judge,
            opened=self._opened,
            closed=self._closed,
            law_of=self.constitutions.of,
            learn=self._learn,
            chain=None if notary is None else notary.chain,
        )
        self._mutations = Mutations(self._floor, self._answers)
        #: Does a cold-path mutation once; see `Mutations.mutate`.
        self.mutate = self._mutations.mutate
        self._lay_down_the_law(store, notary)
        #: What can be asked of the logs.
        self.logbook = Logbook(self._floor, store, self.read, notary)
        #: Writes down an act by which nothing changed, and says where a call stands that chose no
        #: tenant; see `Logbook`.
        self.record, self.log_of = self.logbook.record, self.logbook.log_of
        #: Closes a tenant's desk while it is erased; see `closing`.
        self.closed_for_good = partial(closed_for_good, self._floor)
        self._keep_time(store)
        self._attend_to_runs(store)

    def _lay_down_the_law(self, store: Store, notary: Notary | None) -> None:
        """Makes what judges, what may change by what it judges, and what tells how it was kept."""
        self.court = Court(
            self.constitutions, lambda: self._floor.desks, self.now_us, self._floor.note
        )
        #: Judges a call, or a message of a stream; see `Court.call`.
        self.judge_call = self.court.call
        #: What is registered.
        self.workflows = Workflows(
            store,
            self.court,
            read=self.read,
            mutate=self.mutate,
            now_us=self.now_us,
            decided_here=lambda tenant_id: tenant_id in self._floor.desks,
        )
        #: What may change what is in force, and tells how it was kept.
        self.legislature = Legislature(
            store,
            self.constitutions,
            read=self.read,
            mutate=self.mutate,
            desks=lambda: self._floor.desks,
            fail=self._floor.fail,
            now_us=self.now_us,
        )
        self.compliance = Compliance(
            store,
            self.constitutions,
            self.workflows,
            read=self.read,
            now_us=self.now_us,
            chain=None if notary is None else notary.chain,
        )

    def _keep_time(self, store: Store) -> None:
        """Makes what starts runs by itself: schedules, and runs that belong to others."""
        self._firing = Firing(self._floor, store, self.court, self.workflows, self.settings)
        self._floor.before_seal = self._firing.before_seal
        offspring = Offspring(self._floor, self.court, self.workflows, self.settings)
        self._floor.wanted = offspring.stir
        #: What may be done to schedules, and what can be seen of them.
        self.schedules = Schedules(
            self._floor, self._firing, self._answers, self.workflows, self.settings
        )
        self.schedule_views = ScheduleViews(self._floor, store, self._firing, read=self.read)

    def _attend_to_runs(self, store: Store) -> None:
        """Makes what people, agents and events do to runs that are there."""
        #: What may be asked of runs that are there.
        self.operations = Operations(self._floor, store, self._answers, self.settings, self.read)
        #: Moves runs to newer versions of their workflows.
        self.moves = Moves(
            self._floor, store, self._answers, self.court, self.workflows, self.settings, self.read
        )
        #: The same to many runs.
        self.bulk = Bulk(self.operations, self.moves, store, read=self.read, now_us=self.now_us)
        #: Pauses workflows and tenants.
        self.pausing = Pausing(self._floor, store, read=self.read, mutate=self.mutate)
        #: Says why tasks do not run.
        self.explain = Explaining(self._floor, store, self.read).explain
        #: Publishes events.
        self.publishing = Publishing(
            self._floor,
            store,
            self._answers,
            self.court,
            self.workflows,
            self.settings,
            self.read,
        )
        #: What agents may ask.
        self.work = Work(
            self._floor, store, read=self.read, workflow_by_digest=self.workflows.by_digest
        )

    async def start(self) -> None:
        """Takes the free seats and reads their open work back."""
        await self._floor.start()
        self.logbook.start()

    def standstill(self, clock: StandingClock) -> Standstill:
        """What lets time pass in jumps. For an engine that was made with this clock."""
        return Standstill(clock, self._floor, self._firing)

    def keep_time(self, clock: Followed) -> None:
        """Follows the machine's clock from now on. For an engine that was made with this clock."""
        self._floor.spawn(Timekeeper(clock, self._floor, self._firing).run())

    async def stop(self) -> None:
        """Tells the agents, lets what is under way commit, and gives the seats back."""
        await self._mutations.settled()
        self.logbook.stop()
        self._firing.stop()
        await self._floor.stop()
        await self._keys.stop()
        self._readers.close()

    @property
    def serving(self) -> bool:
        """Whether commits are possible."""
        return self._floor.serving

    @property
    def commit_count(self) -> int:
        """How many transactions the hot path has committed."""
        return self._floor.commits.count

    def on_serving(self, callback: Callable[[bool], None]) -> None:
        """Wants to be told when commits begin or cease to be possible."""
        self._floor.on_serving(callback)

    def now_us(self) -> int:
        """The time, in microseconds since the Unix epoch."""
        return self._clock.now_us()

    def check_seat(self, tenant_id: str) -> None:
        """Raises unless this coordinator decides for the tenant now."""
        self._floor.check_seat(tenant_id)

    # -- keys and cold changes

    def quarantine_of(self, tenant_id: str) -> str:
        """Why a tenant is stopped, in a sentence; empty when it is not, or not held here."""
        return self._floor.quarantine_of(tenant_id)

    async def principal(self, secret_hash: bytes) -> records.ApiKey | None:
        """The key with this hash, valid or not, or None. At most `key_us` old."""
        return await self._keys.by_hash(secret_hash)

    def still_valid(self, api_key_id: str) -> bool:
        """Whether a key that was valid once still is, as far as is known here."""
        return self._keys.still_valid(api_key_id)

    async def after_revoke(self, key: records.ApiKey) -> None:
        """Notes that a key was revoked, and ends its streams."""
        self._keys.learn([key], self.now_us())
        for session in self._floor.dispatch.sessions():
            if session.key.api_key_id == key.api_key_id:
                session.end(errors.CredentialInvalid("the key was revoked"))

    async def after_tenant_change(self, tenant_id: str) -> None:
        """Lets a new tenant or new limits take effect."""
        # One after the other, so that what was read first is not applied last.
        async with self._changing_tenants:
            tenant = await self.read(Reads(self._store).tenant, tenant_id)
            desk = self._floor.desks.get(tenant_id)
            if desk is not None and tenant is not None:
                desk.tenant = tenant
                self._floor.stir(desk)
            elif tenant is not None:
                await self._floor.take_seats()

    def forget_erased(self, tenant_id: str) -> None:
        """Forgets all that is remembered of a tenant that is gone."""
        self.workflows.erase(tenant_id)
        self._answers.erase(tenant_id)
        self.logbook.notary.forget(tenant_id)

    # -- runs

    async def start_runs(
        self, origin: records.Origin, starts: Sequence[records.StartRun]
    ) -> list[records.StartedRun]:
        """Starts runs, all or none, and answers after the commit.

        Raises NotFound, FieldsInvalid, QuotaExceeded, ActDenied, RequestIdReused, SeatElsewhere,
        StoreUnavailable.
        """
        if sum(len(start.input.data) for start in starts if start.input) > BESIDE_THE_LOOP_BYTES:
            await asyncio.to_thread(starting.check_payloads, starts)
        else:
            starting.check_payloads(starts)
        starting.check_labels(starts)
        tenant_id = origin.tenant_id
        workflows = [
            await self.workflows.known(tenant_id, start.workflow, start.version) for start in starts
        ]
        starting.check_inputs(starts, workflows)
        async with self._answers.claim(tenant_id, [start.request for start in starts]) as found:
            desk = self._floor.desk(tenant_id)
            plan = starting.Plan(origin, found, self.now_us(), draw)
            started = [
                plan.add(start, known) for start, known in zip(starts, workflows, strict=True)
            ]
            starting.check_quota(desk, plan.new, self.settings)
            if not plan.new:
                return started
            act = origin.acting("run.start")
            still = partial(self._floor.check_desk, desk)
            async with self.court.turn(tenant_id):
                warnings = await starting.judged(self.court, plan, act, desk, self.settings, still)
                since = self._floor.mark()
                for run in plan.runs(desk):
                    desk.open_run(run, plan.now_us)
                self._floor.close_act(act, since, [tenant_id])
            for row in plan.request_rows:
                self._floor.journal.request(row)
            self._floor.stir(desk)
            commit = self._floor.flush()
            if plan.answers:
                self._answers.keep(tenant_id, commit, plan.answers)
                # Whoever asks again waits for it as well, also when this caller has gone.
                await asyncio.shield(commit)
            else:
                await commit
            return plan.warned(started, warnings)

    def counts(self, tenant_id: str, run_id: str) -> records.Counts | None:
        """How many tasks of an open run are in each state, or None when it is not open here.

        Tell nobody before `committed`.
        """
        desk = self._floor.desks.get(tenant_id)
        run = None if desk is None else desk.runs.get(run_id)
        return None if run is None else run.counts()

    async def committed(self) -> None:
        """Waits until all that is in memory now is committed. Raises StoreUnavailable."""
        await self._floor.flushed()

    def watch(
        self, tenant_id: str, run_id: str, after_sequence: int, run_events_only: bool
    ) -> AsyncIterator[Sequence[records.Event]]:
        """Yields what happens in a run after a sequence number, until the run's last event.

        Raises NotFound at the first step, Stopping when the coordinator stops.
        """
        return follow(
            self._floor.watchers,
            TenantReads(self._store, tenant_id),
            self.read,
            tenant_id,
            run_id,
            after_sequence=after_sequence,
            run_events_only=run_events_only,
            decided_here=lambda: tenant_id in self._floor.desks,
        )

    # -- parts

    async def _judge(self, session: AgentSession, report: Report) -> None:
        try:
            await self.work.judge_and_tell(session, report)
        except StoreFailed as error:
            log.warning("a result could not be judged", error=str(error), run_id=report.ref[0])
            # Without an answer the agent would wait for ever; so it reports again.
            session.end(errors.StoreUnavailable("the store cannot be read now"))

    def _learn(self, tenant_id: str) -> None:
        """A desk is about to be opened: what it needs is read. Runs in a reader's thread."""
        self._firing.learn(tenant_id)
        version = TenantReads(self._store, tenant_id).constitution()
        if version is not None:
            self.constitutions.enforce(self.constitutions.law_under(version))

    def _opened(self, tenant_id: str) -> None:
        """A desk was opened: its request ids are read, and until then each is looked up."""
        seen, reads = self._answers.open(tenant_id), TenantReads(self._store, tenant_id)
        self._floor.spawn(read_back(self._answers, tenant_id, seen, reads, self.read))
        self._firing.opened(tenant_id)

    def _closed(self, tenant_id: str) -> None:
        self._firing.closed(tenant_id)
        self.workflows.forget(tenant_id)
        self.constitutions.forget(tenant_id)
        self._answers.close(tenant_id)
