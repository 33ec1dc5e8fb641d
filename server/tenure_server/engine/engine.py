"""The engine: the one face of everything that is decided, for `rpc` to talk to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from tenure_constitution.article import Constitution
from tenure_server.core import errors, records
from tenure_server.core.evidence import Act
from tenure_server.core.lifecycle import RunState
from tenure_server.engine import starting
from tenure_server.engine.answers import Answers, answer_row, answer_to, read_back
from tenure_server.engine.closing import closed_for_good
from tenure_server.engine.compliance import Compliance
from tenure_server.engine.constitutions import Constitutions
from tenure_server.engine.court import Court
from tenure_server.engine.dispatch import Dispatch
from tenure_server.engine.floor import Floor
from tenure_server.engine.keys import Keys
from tenure_server.engine.legislature import Legislature
from tenure_server.engine.logbook import Logbook
from tenure_server.engine.notary import Notary
from tenure_server.engine.sessions import AgentSession, Report
from tenure_server.engine.settings import Clock, Settings
from tenure_server.engine.watch import follow
from tenure_server.engine.work import Work
from tenure_server.engine.workflows import Workflows
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import Reads, TenantReads

P = ParamSpec("P")
T = TypeVar("T")
#: What follows a mutation: it gets the answer, or None when its outcome is not known.
Afterwards = Callable[[bytes | None], Awaitable[None]]

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
        self._keys = Keys(Reads(store), self.read, self.now_us, settings.key_us)
        self._answers = Answers(
            lambda keys: self.read(Reads(store).answers, keys),
            self.now_us,
            settings.answer_memory_us,
        )
        self._readers = ThreadPoolExecutor(2, "reader")
        self._changing_tenants = asyncio.Lock()
        self._following: set[asyncio.Task[bytes]] = set()
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
        self._lay_down_the_law(store, notary)
        #: What can be asked of the logs.
        self.logbook = Logbook(self._floor, store, self.read, notary)
        #: Writes down an act by which nothing changed, and says where a call stands that chose no
        #: tenant; see `Logbook`.
        self.record, self.log_of = self.logbook.record, self.logbook.log_of
        #: Closes a tenant's desk while it is erased; see `closing`.
        self.closed_for_good = partial(closed_for_good, self._floor)
        #: What agents may ask.
        self.work = Work(
            self._floor, store, read=self.read, workflow_by_digest=self.workflows.by_digest
        )

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

    async def start(self) -> None:
        """Takes the free seats and reads their open work back."""
        await self._floor.start()
        self.logbook.start()

    async def stop(self) -> None:
        """Tells the agents, lets what is under way commit, and gives the seats back."""
        if self._following:
            await asyncio.wait(self._following)
        self.logbook.stop()
        await self._floor.stop()
        await self._keys.stop()
        self._readers.shutdown()

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

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs work on a read-only connection in a reader thread."""

        def run() -> T:
            with self._store.reading():
                return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def principal(self, secret_hash: bytes) -> records.ApiKey | None:
        """The key with this hash, valid or not, or None. At most `key_us` old."""
        return await self._keys.by_hash(secret_hash)

    def still_valid(self, api_key_id: str) -> bool:
        """Whether a key that was valid once still is, as far as is known here."""
        return self._keys.still_valid(api_key_id)

    async def mutate(
        self,
        *,
        tenants: Sequence[str] = (),
        seats: Mapping[str, int] | None = None,
        logs: Sequence[str] = (),
        remember_under: str,
        request: records.Request | None,
        work: Callable[[Acts], bytes],
        afterwards: Afterwards | None = None,
        act: Act | None = None,
        before: Callable[[], None] | None = None,
    ) -> bytes:
        """Does a cold-path mutation once: the same request id gets the same bytes.

        `before` may still refuse it; a repetition is not asked. What is in force changes with
        `afterwards` only.
        What lets it take effect here is done `afterwards`, even when the caller has gone: it gets
        the bytes, or None when nobody knows whether the mutation was committed.

        `seats` are those of tenants without a desk. `logs` are where it is written down, if not
        with the tenants.

        Raises SeatElsewhere, RequestIdReused, StoreUnavailable, and whatever refusal `work` raises.
        """
        if seats is None:
            seats = {tenant_id: self._floor.desk(tenant_id).term for tenant_id in tenants}
        do = partial(self._floor.act, seats, act=act, logs=logs)
        async with self._answers.claim(remember_under, [request]) as found:
            if request is not None and request.request_id in found:
                known = _resolved(found[request.request_id])
                return await self._followed(known, _response, afterwards)
            if before is not None:
                before()
            if request is None or not request.request_id:
                return await self._followed(do(work), bytes, afterwards)
            asked, now_us = request, self.now_us()

            def work_and_remember(acts: Acts) -> records.Answer:
                answer = answer_to(asked, work(acts))
                acts.remember(remember_under, asked.request_id, answer, now_us)
                return answer

            doing = asyncio.ensure_future(do(work_and_remember))
            self._answers.keep(remember_under, doing, {asked.request_id: None})
            return await self._followed(doing, _response, afterwards)

    async def _followed(
        self, doing: Awaitable[T], response: Callable[[T], bytes], afterwards: Afterwards | None
    ) -> bytes:
        """Waits for an act and does what follows it, in a task that its caller cannot cancel."""

        async def follow() -> bytes:
            try:
                answer = response(await doing)
            except errors.StoreUnavailable:
                if afterwards is not None:
                    await afterwards(None)
                raise
            if afterwards is not None:
                await afterwards(answer)
            return answer

        task = asyncio.create_task(follow())
        self._following.add(task)
        task.add_done_callback(self._followed_through)
        return await asyncio.shield(task)

    def _followed_through(self, task: asyncio.Task[bytes]) -> None:
        self._following.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, errors.Refusal):
            # The caller may have gone, and would not hear of it.
            log.warning("a change could not take effect", error=str(error))

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
        tenant_id = origin.tenant_id
        workflows = [
            await self.workflows.known(tenant_id, start.workflow, start.version) for start in starts
        ]
        async with self._answers.claim(tenant_id, [start.request for start in starts]) as found:
            desk = self._floor.desk(tenant_id)
            plan = starting.Plan(origin, found, self.now_us(), os.urandom)
            started = [
                plan.add(start, known) for start, known in zip(starts, workflows, strict=True)
            ]
            starting.check_quota(desk, plan.new, self.settings)
            if not plan.new:
                return started
            act = origin.acting("run.start")
            async with self.court.turn(tenant_id):
                warnings = await self.court.starts(origin, act, plan.planned)
                # Others were served meanwhile, and the seat may have been lost and taken again.
                if self._floor.desk(tenant_id) is not desk:
                    raise errors.StoreUnavailable("the work was read back; nothing was changed")
                starting.check_quota(desk, plan.new, self.settings)
                since = self._floor.mark()
                for run in plan.runs(desk):
                    desk.open_run(run, plan.now_us)
                self._floor.close_act(act, since, [tenant_id])
            for row in plan.request_rows:
                self._floor.journal.request(row)
            self._floor.stir(desk)
            commit = self._floor.flush()
            self._answers.keep(tenant_id, commit, plan.answers)
            await asyncio.shield(commit)
            return plan.warned(started, warnings)

    async def cancel_run(
        self,
        origin: records.Origin,
        run_id: str,
        reason: str,
        request: records.Request | None,
    ) -> RunState:
        """Cancels a run and answers after the commit. Cancelling twice is the same as once.

        Raises NotFound, RunClosed, RequestIdReused, SeatElsewhere, StoreUnavailable.
        """
        tenant_id = origin.tenant_id
        async with self._answers.claim(tenant_id, [request]) as found:
            if request is not None and request.request_id in found:
                return RunState(int(found[request.request_id].response))
            desk = self._floor.desk(tenant_id)
            run = desk.runs.get(run_id)
            if run is None:
                return await self._state_of_ended(tenant_id, run_id)
            since = self._floor.mark()
            desk.cancel_run(run, reason, self.now_us())
            self._floor.close_act(origin.acting("run.cancel"), since, [tenant_id])
            state = run.state
            self._floor.stir(desk)
            commit = self._floor.flush()
            if request is not None and request.request_id:
                answer = answer_to(request, str(int(state)).encode())
                row = answer_row(tenant_id, request.request_id, answer, self.now_us())
                self._floor.journal.request(row)
                self._answers.keep(tenant_id, commit, {request.request_id: answer})
            await asyncio.shield(commit)
            return state

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
        """A desk is about to be opened: its constitution is read. Runs in a reader's thread."""
        version = TenantReads(self._store, tenant_id).constitution()
        if version is not None:
            self.constitutions.enforce(self.constitutions.law_under(version))

    def _opened(self, tenant_id: str) -> None:
        """A desk was opened: its request ids are read, and until then each is looked up."""
        seen, reads = self._answers.open(tenant_id), TenantReads(self._store, tenant_id)
        self._floor.spawn(read_back(self._answers, tenant_id, seen, reads, self.read))

    def _closed(self, tenant_id: str) -> None:
        self.workflows.forget(tenant_id)
        self.constitutions.forget(tenant_id)
        self._answers.close(tenant_id)

    async def _state_of_ended(self, tenant_id: str, run_id: str) -> RunState:
        await self._floor.flushed()
        record = await self.read(lambda: TenantReads(self._store, tenant_id).run(run_id))
        if record is None:
            raise errors.NotFound("run", run_id)
        if record.state is not RunState.CANCELLED:
            message = f"run {run_id} has {record.state.name.lower()}"
            raise errors.RunClosed(message, state=record.state.name)
        return record.state


def _response(answer: records.Answer) -> bytes:
    return answer.response


async def _resolved(answer: records.Answer) -> records.Answer:
    return answer
