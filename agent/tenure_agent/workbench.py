"""What outlives a line: leases come in, handlers work, results go out.

The link hands in what the coordinator said and asks for the next message; in between the
workbench runs by itself, with a line or without. All of it lives on one loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import structlog

from tenure.v1 import agents_pb2
from tenure_agent import functions, handlers, runner
from tenure_agent.context import log_fields
from tenure_agent.groups import Groups
from tenure_agent.holding import Holding, Key
from tenure_agent.mandates import MANDATE_INVALID, Guard
from tenure_agent.outbox import Outbox
from tenure_agent.runner import Attempt, Runner, StopCause
from tenure_agent.slots import Slots
from tenure_agent.spool import Spool

#: The size at which a message is closed and the rest goes into the next one. One element more may
#: come on top, of at most 1 MiB and a little.
MESSAGE_BYTES = 3 * 1024 * 1024
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
        groups: Groups | None = None,
        guard: Guard | None = None,
    ) -> None:
        """With a `guard`, nothing is executed that was not signed."""
        self._loop = loop
        self._guard = guard
        self.slots = Slots(slots)
        self.holding = Holding()
        self.outbox = Outbox(spool, loop=loop, sync=spool_sync, ready=self._wake)
        self.runner = Runner(
            table,
            loop=loop,
            slots=slots,
            stop_seconds=stop_seconds,
            on_end=self._ended,
            on_free=self._freed,
            on_word=self._word,
            groups=groups,
        )
        self._on_line = False
        self._draining = False
        self._draining_told = False
        self._returns: list[agents_pb2.LeaseRef] = []
        self._accepts: list[agents_pb2.LeaseRef] = []
        self._renewals: deque[agents_pb2.Renewal] = deque()
        #: Renewals that bring the last checkpoint of an attempt that has ended, until its outcome.
        self._last_words: dict[Key, agents_pb2.Renewal] = {}
        #: Leases that came before, by task, so that a newer term ends the work for an older one.
        self._terms: dict[tuple[str, str], Key] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")
        #: Set when there may be something to say.
        self.wake = asyncio.Event()
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

    def held(self) -> list[agents_pb2.LeaseRef]:
        """The leases to name in a hello: those worked on, then those with results."""
        working = [runner.ref(self.runner.running[key].lease) for key in self.holding.leases]
        return (working + self.outbox.leases())[:HELD_MAX]

    def line_up(self, *, lease_seconds: float, accept_within_seconds: float) -> None:
        """A stream was welcomed."""
        self._on_line = True
        self._draining_told = False
        self.holding.line_up(
            self._loop.time(),
            lease_seconds=lease_seconds,
            accept_within_seconds=accept_within_seconds,
        )
        self._renewals.extend(self._last_words.values())
        self._set_alarm()
        self._wake()

    def line_cut(self) -> None:
        """The stream is gone. Work goes on as long as the leases can be trusted."""
        self._on_line = False
        self.slots.line_cut()
        self.holding.line_cut()
        self.outbox.line_cut()
        self._returns.clear()
        self._accepts.clear()
        self._renewals.clear()
        for attempt in self.runner.running.values():
            attempt.progress_sent = attempt.checkpoint_sent = None
        self._set_alarm()

    def receive(self, message: agents_pb2.WorkResponse) -> None:
        """Takes what the coordinator said. Raises KeyMissing: only a new welcome helps."""
        if message.outcomes:
            self._take_outcomes(message.outcomes)
        for standing in message.standings:
            self._take_standing(standing)
        if message.HasField("batch"):
            self._take_batch(message.batch)
        for cancellation in message.cancellations:
            key = (cancellation.run_id, cancellation.task_key, cancellation.term)
            self.runner.stop(key, StopCause.CANCELLED)
        if message.draining:
            log.info("coordinator is about to stop")
        self._set_alarm()

    def next_message(self) -> agents_pb2.WorkRequest | None:
        """Makes the next message out of what piled up; None when there is nothing to say.

        Whatever is in it counts as sent. Ask again: what does not fit goes into the next one.
        """
        said = agents_pb2.WorkRequest()
        if self._accepts:
            said.accepts.extend(self._accepts)
            self._accepts.clear()
        room = self._say_renewals(said)
        if self._draining and not self._draining_told:
            said.draining = self._draining_told = True
        if self._returns:
            said.returns.extend(self._returns)
            self._returns.clear()
        if room > 0 and (results := self.outbox.take(room)):
            said.results.extend(results)
        if credits_due := self.slots.credits_due():
            self.slots.promise(credits_due)
            said.credits = credits_due
        return said if said.ListFields() else None

    # --- What the daemon asks for -----------------------------------------------------------

    def drain(self) -> None:
        """Takes no more leases. What runs goes on."""
        self._draining = True
        self.slots.close()
        self._wake()

    async def close(self) -> None:
        """Writes what is left to the spool and lets go of everything. Attempts are stopped."""
        if self._alarm is not None:
            self._alarm.cancel()
        await self.runner.close()
        await self.outbox.close()

    # --- Incoming -----------------------------------------------------------------------------

    def _take_batch(self, batch: agents_pb2.LeaseBatch) -> None:
        runs = {run.run_id: run for run in batch.runs}
        guard = self._guard
        checked = None if guard is None else guard.batch(batch)
        slots, outbox, start = self.slots, self.outbox, self.runner.start
        for lease in batch.leases:
            key = (lease.run_id, lease.task_key, lease.term)
            run = runs.get(lease.run_id)
            if key in self.runner.running or key in outbox:
                continue
            if run is None or self._draining or not slots.take():
                self._return(lease, run)
                continue
            reason = "" if checked is None else checked.objection(lease, run)
            result = self._refuse(lease, run, reason) if reason else start(key, lease, run)
            if result is not None:
                slots.free()
                outbox.add(result)
            elif key in self.runner.running:
                self._hold(key, lease)

    def _hold(self, key: Key, lease: agents_pb2.Lease) -> None:
        """Notes a lease whose handler has begun. An older one of the same task is over."""
        older = self._terms.get(key[:2])
        if older is not None and older[2] < key[2]:
            self.holding.drop(older)
            self.runner.stop(older, StopCause.LOST)
        self._terms[key[:2]] = key
        self.holding.take(key, lease.token, self._loop.time())

    def _refuse(
        self, lease: agents_pb2.Lease, run: agents_pb2.RunContext, reason: str
    ) -> agents_pb2.Result:
        """Makes the result of a lease that nobody who counts has signed."""
        log.error("lease is refused", reason=reason, term=lease.term, **log_fields(lease, run))
        failure = functions.failure_in(MANDATE_INVALID, reason, non_retryable=False)
        return agents_pb2.Result(lease=runner.ref(lease), failure=failure)

    def _return(self, lease: agents_pb2.Lease, run: agents_pb2.RunContext | None) -> None:
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
        self._returns.append(runner.ref(lease))
        self._wake()

    def _take_outcomes(self, outcomes: Iterable[agents_pb2.Outcome]) -> None:
        keys: list[Key] = []
        for outcome in outcomes:
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
        if self._last_words:
            for key in keys:
                self._last_words.pop(key, None)
        self.changed()

    def _take_standing(self, standing: agents_pb2.LeaseStanding) -> None:
        key = (standing.run_id, standing.task_key, standing.term)
        if standing.standing == agents_pb2.STANDING_LOST:
            self.holding.drop(key)
            self.runner.stop(key, StopCause.LOST)
            return
        self.holding.renewed(key, self._loop.time())
        if standing.standing == agents_pb2.STANDING_CANCELLING:
            self.runner.stop(key, StopCause.CANCELLED)

    # --- From the runner ----------------------------------------------------------------------

    def _ended(self, attempt: Attempt, result: agents_pb2.Result | None) -> None:
        """Takes the end of an attempt."""
        key = attempt.key
        self.holding.drop(key)
        if self._terms.get(key[:2]) == key:
            del self._terms[key[:2]]
        if result is not None:
            if result.WhichOneof("end") != "success" and _has_unsent_checkpoint(attempt):
                # The next attempt wants it, so it must reach the coordinator before the result.
                self._last_words[key] = self._renewal(attempt)
                self._renewals.append(self._last_words[key])
            self.outbox.add(result)
        self.changed()

    def _freed(self) -> None:
        self.slots.free()
        self._wake()

    def _word(self, key: Key, urgent: bool) -> None:
        self.holding.speak(key, self._loop.time(), urgent=urgent)
        self._set_alarm()

    # --- Outgoing -----------------------------------------------------------------------------

    def _wake(self) -> None:
        self.wake.set()

    def _set_alarm(self) -> None:
        """Has `_ring` called when the next lease wants something."""
        when = self.holding.next_due()
        if when is None or when >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = when
        self._alarm = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        """Collects what is due: leases to accept, to renew, to stop trusting."""
        now = max(self._loop.time(), self._alarm_at)
        late_seconds = now - self._alarm_at
        if late_seconds > LATE_SECONDS:
            reason = "an async handler blocks it, or the host is too busy"
            log.warning("loop is late", seconds=round(late_seconds, 1), reason=reason)
        self._alarm, self._alarm_at = None, float("inf")
        due = self.holding.due(now)
        for held in due.lapsed:
            self.runner.stop(held.key, StopCause.LAPSED)
        running = self.runner.running
        self._accepts += [runner.ref(running[held.key].lease) for held in due.accepts]
        self._renewals += [self._renewal(running[held.key]) for held in due.renewals]
        if self._on_line and (due.accepts or due.renewals):
            self._wake()
        self._set_alarm()

    def _renewal(self, attempt: Attempt) -> agents_pb2.Renewal:
        """A sign of life, with what the handler said since the last one."""
        renewal = agents_pb2.Renewal(lease=runner.ref(attempt.lease))
        words = attempt.words
        progress = words.progress
        if progress is not None and progress is not attempt.progress_sent:
            attempt.progress_sent = progress
            renewal.progress, renewal.message = progress
        checkpoint = words.checkpoint
        if checkpoint is not None and checkpoint is not attempt.checkpoint_sent:
            attempt.checkpoint_sent = checkpoint
            renewal.checkpoint.CopyFrom(checkpoint)
        return renewal

    def _say_renewals(self, said: agents_pb2.WorkRequest) -> int:
        """Puts renewals into a message as far as they fit. Gives the room that is left."""
        room = MESSAGE_BYTES
        while self._renewals and room > 0:
            renewal = self._renewals.popleft()
            room -= renewal.ByteSize()
            said.renewals.append(renewal)
        return room


def _has_unsent_checkpoint(attempt: Attempt) -> bool:
    checkpoint = attempt.words.checkpoint
    return checkpoint is not None and checkpoint is not attempt.checkpoint_sent
