"""What outlives a line: leases come in, handlers work, results go out.

The link hands in what a coordinator said and asks for the next message to it; in between the
workbench runs by itself, with lines or without. Leases, renewals and results go by their tenant to
the line on which the tenant is served by then. All of it lives on one loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Set

import structlog

from tenure.v1 import agents_pb2
from tenure_agent import functions, handlers, runner
from tenure_agent.alarm import Alarm
from tenure_agent.context import log_fields
from tenure_agent.doubts import Doubts
from tenure_agent.groups import Groups
from tenure_agent.holding import Holding, Holdings, Key
from tenure_agent.lines import Line
from tenure_agent.mandates import MANDATE_INVALID, Guard
from tenure_agent.outbox import UNKNOWN, Outbox, key_of
from tenure_agent.references import References
from tenure_agent.renewals import LastWords, renewal_of, tell_anew
from tenure_agent.runner import Attempt, Runner, StopCause
from tenure_agent.slots import Slots
from tenure_agent.spool import Spool

#: The most leases that a hello names.
HELD_MAX = 20_000
#: A loop that is later than this endangers leases.
LATE_SECONDS = 1.0

_QUIET_VERDICTS = (agents_pb2.VERDICT_APPLIED, agents_pb2.VERDICT_ALREADY_APPLIED)

log: structlog.stdlib.BoundLogger = structlog.get_logger("workbench")


class Workbench:
    """The work of one agent."""

    def __init__(
        self,
        table: Mapping[str, handlers.Handler],
        spool: Spool,
        *,
        loop: asyncio.AbstractEventLoop,
        slots: int,
        stop_seconds: float,
        spool_sync: bool,
        divided: bool = False,
        groups: Groups | None = None,
        guard: Guard | None = None,
        references: References | None = None,
    ) -> None:
        """With a `guard`, nothing is executed that was not signed. `divided`: there may be more
        than one line at a time.
        """
        self._loop = loop
        self._guard = guard
        self.slots = Slots(slots, divided=divided)
        self.outbox = Outbox(spool, loop=loop, sync=spool_sync, ready=self._wake)
        if divided:
            for result in self.outbox.strays():
                self.slots.ledger.take(key_of(result), UNKNOWN)
        self.runner = Runner(
            table,
            loop=loop,
            slots=slots,
            stop_seconds=stop_seconds,
            on_end=self._ended,
            on_free=self._freed,
            on_word=self._word,
            groups=groups,
            references=references,
        )
        self._draining = False
        #: By tenant: the leases that are worked on, and the line on which it is served.
        self._holdings = Holdings()
        self._serving: dict[str, Line] = {}
        self._lines: list[Line] = []
        self._last_words = LastWords()
        #: Leases that came before, by task, so that a newer term ends the work for an older one.
        self._terms: dict[tuple[str, str], Key] = {}
        self._alarm = Alarm(loop, self._ring)
        self._doubts = Doubts(self.slots, loop, self._wake)
        #: Called after every change that may have left nothing to do.
        self.changed: Callable[[], None] = lambda: None

    @property
    def idle(self) -> bool:
        """Whether no attempt runs."""
        return not self.runner.running

    @property
    def settled(self) -> bool:
        """Whether no attempt runs and every result has its verdict."""
        return self.idle and not self.outbox

    # --- What the link asks for -------------------------------------------------------------

    @property
    def served(self) -> Set[str]:
        """The tenants that are served on some line."""
        return self._serving.keys()

    def held(self) -> list[agents_pb2.LeaseRef]:
        """The leases to name in a hello: those worked on, then those with results. Not those of
        tenants that are served on another line.
        """
        running = self.runner.running
        working = [
            runner.ref(running[key].lease)
            for tenant, holding in self._holdings.items()
            if tenant not in self._serving
            for key in holding.leases
        ]
        return (working + self.outbox.leases(self._serving))[:HELD_MAX]

    def line_up(self, welcome: agents_pb2.Welcome) -> Line:
        """A stream was welcomed. Whatever another line had of its tenants is its own now."""
        now = self._loop.time()
        tenants = set(welcome.tenant_ids)
        line = Line(
            self.slots.open(tenants),
            lease_seconds=welcome.lease_duration.ToNanoseconds() / 1e9 or 30.0,
            accept_within_seconds=welcome.accept_within.ToNanoseconds() / 1e9 or 5.0,
        )
        self._lines.append(line)
        if self.slots.divided:
            self._doubts.welcomed(welcome, line)
        for tenant in tenants:
            self._serve(tenant, line, now)
        self.outbox.line_up(tenants)
        line.strays.extend(self.outbox.strays())
        line.renewals.extend(self._last_words.of(tenants))
        self._alarm.set(self._holdings.next_due())
        self._wake()
        return line

    def line_cut(self, line: Line) -> None:
        """A stream is gone. Work goes on as long as the leases can be trusted."""
        self._lines.remove(line)
        self._doubts.cut(line)
        for tenant in line.tenants:
            del self._serving[tenant]
        self._holdings.line_cut(line.tenants)
        tell_anew(self.runner.running.values(), line.tenants)
        self._alarm.set(self._holdings.next_due())
        self._wake()

    def receive(self, line: Line, message: agents_pb2.WorkResponse) -> None:
        """Takes what a coordinator said. Raises KeyMissing: only a new welcome helps."""
        if message.outcomes:
            self._take_outcomes(message.outcomes)
        for standing in message.standings:
            self._take_standing(standing)
        if message.HasField("batch"):
            self._take_batch(line, message.batch)
        for cancellation in message.cancellations:
            key = (cancellation.run_id, cancellation.task_key, cancellation.term)
            self.runner.stop(key, StopCause.CANCELLED)
        if message.draining:
            log.info("coordinator is about to stop")
        if message.HasField("withdrawn"):
            self.slots.withdrawn(line.share, message.withdrawn)
        if message.HasField("wanted"):
            line.share.wanted = message.wanted.credits
            line.share.weight = message.wanted.weight or 1.0
        if len(self._lines) > 1:
            # What one of them said may be the others' turn.
            self._wake()
        self._alarm.set(self._holdings.next_due())

    def next_message(self, line: Line) -> agents_pb2.WorkRequest | None:
        """Makes the next message out of what piled up; None when there is nothing to say.

        Whatever is in it counts as sent. Ask again: what does not fit goes into the next one.
        """
        said = agents_pb2.WorkRequest()
        if line.accepts:
            said.accepts.extend(line.accepts)
            line.accepts.clear()
        room = line.say_renewals(said)
        if self._draining and not line.draining_told:
            said.draining = line.draining_told = True
        if line.returns:
            said.returns.extend(line.returns)
            line.returns.clear()
        self._say_results(line, said, room)
        slots, share = self.slots, line.share
        if credits_due := slots.credits_due(share):
            slots.promise(share, credits_due)
            said.credits = credits_due
        elif slots.divided and (credits_back := slots.withdrawal_due(share)):
            slots.withdraw(share)
            said.withdraw = credits_back
        return said if said.ListFields() else None

    # --- What the daemon asks for -----------------------------------------------------------

    def drain(self) -> None:
        """Takes no more leases. What runs goes on."""
        self._draining = True
        self.slots.close()
        self._wake()

    async def close(self) -> None:
        """Writes what is left to the spool and lets go of everything. Attempts are stopped."""
        self._alarm.clear()
        self._doubts.close()
        await self.runner.close()
        await self.outbox.close()

    # --- Incoming -----------------------------------------------------------------------------

    def _take_batch(self, line: Line, batch: agents_pb2.LeaseBatch) -> None:
        runs = {run.run_id: run for run in batch.runs}
        guard = self._guard
        checked = None if guard is None else guard.batch(batch)
        slots, outbox, start = self.slots, self.outbox, self.runner.start
        share, divided = line.share, self.slots.divided
        for tenant in {run.tenant_id for run in batch.runs} - self._serving.keys():
            # Older coordinators do not say for whom they welcome.
            share.tenants.add(tenant)
            self._serve(tenant, line, self._loop.time())
        for lease in batch.leases:
            key = (lease.run_id, lease.task_key, lease.term)
            run = runs.get(lease.run_id)
            if key in self.runner.running or key in outbox:
                continue
            if divided:
                slots.ledger.take(key, UNKNOWN if run is None else run.tenant_id)
            if run is None or self._draining or not slots.take(share):
                self._return(line, lease, run)
                continue
            reason = "" if checked is None else checked.objection(lease, run)
            result = self._refuse(lease, run, reason) if reason else start(key, lease, run)
            if result is not None:
                slots.free()
                outbox.add(result, run.tenant_id)
            elif key in self.runner.running:
                self._hold(key, lease, run.tenant_id)

    def _hold(self, key: Key, lease: agents_pb2.Lease, tenant: str) -> None:
        """Notes a lease whose handler has begun. An older one of the same task is over."""
        holding = self._holdings.of(tenant)
        older = self._terms.get(key[:2])
        if older is not None and older[2] < key[2]:
            holding.drop(older)
            self.slots.ledger.end(older)
            self.runner.stop(older, StopCause.LOST)
        self._terms[key[:2]] = key
        holding.take(key, lease.token, self._loop.time())

    def _refuse(
        self, lease: agents_pb2.Lease, run: agents_pb2.RunContext, reason: str
    ) -> agents_pb2.Result:
        """Makes the result of a lease that nobody who counts has signed."""
        log.error("lease is refused", reason=reason, term=lease.term, **log_fields(lease, run))
        failure = functions.failure_in(MANDATE_INVALID, reason, non_retryable=False)
        return agents_pb2.Result(lease=runner.ref(lease), failure=failure)

    def _return(
        self, line: Line, lease: agents_pb2.Lease, run: agents_pb2.RunContext | None
    ) -> None:
        """Gives back a lease that came but will not be executed."""
        reason = "its run is not described" if run is None else "no free slot"
        if self._draining:
            reason = "the agent stops"
        log.info(
            "lease is returned",
            reason=reason,
            term=lease.term,
            **log_fields(lease, run or agents_pb2.RunContext(run_id=lease.run_id)),
        )
        line.returns.append(runner.ref(lease))
        self._wake()

    def _take_outcomes(self, outcomes: Iterable[agents_pb2.Outcome]) -> None:
        keys: list[Key] = []
        for outcome in outcomes:
            if outcome.verdict == agents_pb2.VERDICT_ELSEWHERE:
                continue  # it waits for whoever holds the seat
            keys.append((outcome.run_id, outcome.task_key, outcome.term))
            if outcome.verdict not in _QUIET_VERDICTS:
                log.warning(
                    "result does not count",
                    verdict=agents_pb2.Verdict.Name(outcome.verdict),
                    run_id=outcome.run_id,
                    task_key=outcome.task_key,
                    term=outcome.term,
                )
        self.outbox.acknowledge(keys)
        if self.slots.divided:
            for key in keys:
                self.slots.ledger.end(key)
        self._last_words.forget(keys)
        self.changed()

    def _take_standing(self, standing: agents_pb2.LeaseStanding) -> None:
        if standing.standing == agents_pb2.STANDING_ELSEWHERE:
            return  # whoever holds the seat will say
        key = (standing.run_id, standing.task_key, standing.term)
        holding = self._holding_of(key)
        if standing.standing == agents_pb2.STANDING_LOST:
            if holding is not None:
                holding.drop(key)
            self.slots.ledger.end(key)
            self.runner.stop(key, StopCause.LOST)
            return
        if holding is not None:
            holding.renewed(key, self._loop.time())
        if standing.standing == agents_pb2.STANDING_CANCELLING:
            self.runner.stop(key, StopCause.CANCELLED)

    # --- From the runner ----------------------------------------------------------------------

    def _ended(self, attempt: Attempt, result: agents_pb2.Result | None) -> None:
        """Takes the end of an attempt."""
        key, tenant = attempt.key, attempt.run.tenant_id
        self._holdings.of(tenant).drop(key)
        if self._terms.get(key[:2]) == key:
            del self._terms[key[:2]]
        if result is not None:
            if result.WhichOneof("end") != "success":
                renewal, line = self._last_words.keep(attempt), self._serving.get(tenant)
                if renewal is not None and line is not None:
                    line.renewals.append(renewal)
            self.outbox.add(result, tenant)
        self.changed()

    def _freed(self) -> None:
        self.slots.free()
        self._wake()

    def _word(self, key: Key, urgent: bool) -> None:
        if (holding := self._holding_of(key)) is not None:
            holding.speak(key, self._loop.time(), urgent=urgent)
            self._alarm.set(self._holdings.next_due())

    # --- Outgoing -----------------------------------------------------------------------------

    def _wake(self) -> None:
        for line in self._lines:
            line.wake.set()

    def _ring(self, due_at: float, now: float) -> None:
        """Collects what is due: leases to accept, to renew, to stop trusting."""
        late_seconds = now - due_at
        if late_seconds > LATE_SECONDS:
            reason = "an async handler blocks it, or the host is too busy"
            log.warning("loop is late", seconds=round(late_seconds, 1), reason=reason)
        running = self.runner.running
        for tenant, holding in self._holdings.items():
            due = holding.due(now)
            for held in due.lapsed:
                self.runner.stop(held.key, StopCause.LAPSED)
            line = self._serving.get(tenant)
            if line is not None and (due.accepts or due.renewals):
                line.accepts += [runner.ref(running[held.key].lease) for held in due.accepts]
                line.renewals += [renewal_of(running[held.key]) for held in due.renewals]
                line.wake.set()
        self._alarm.set(self._holdings.next_due())

    def _say_results(self, line: Line, said: agents_pb2.WorkRequest, room: int) -> None:
        """Puts results into a message as far as they fit."""
        room = line.say_strays(said, room, self.outbox.__contains__)
        if room > 0 and (results := self.outbox.take(line.tenants, room)):
            said.results.extend(results)
            if self.slots.divided:
                for result in results:
                    self.slots.ledger.tell(key_of(result))

    # --- Tenants and their lines ----------------------------------------------------------------

    def _serve(self, tenant: str, line: Line, now: float) -> None:
        """A tenant is served on a line from now on. Its leases are renewed there at once."""
        if tenant in self._serving:
            # Its seat has moved, and the line on which it was has not been cut yet.
            tell_anew(self.runner.running.values(), {tenant})
        self._serving[tenant] = line
        self._holdings.serve(
            tenant,
            now,
            lease_seconds=line.lease_seconds,
            accept_within_seconds=line.accept_within_seconds,
        )

    def _holding_of(self, key: Key) -> Holding | None:
        """Where a lease is held that is worked on."""
        attempt = self.runner.running.get(key)
        return None if attempt is None else self._holdings.of(attempt.run.tenant_id)
