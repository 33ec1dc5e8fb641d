"""Agents on the line: what they say is applied at once, what they are told waits for its commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tenure_server.core import errors, ids
from tenure_server.core.definitions.definition import Payload
from tenure_server.core.desks.desk import Desk, End
from tenure_server.core.evidence import Act
from tenure_server.core.leasing.leases import AgentSlots, Lease
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Standing, Verdict

#: How many outcomes and standings may be due to an agent before it is heard again.
DUE_MAX = 10_000

#: Run id, task key, term and token: the words that name a lease.
Ref = tuple[str, str, int, bytes]
#: Run id, task key, term, and what became of the result.
Outcome = tuple[str, str, int, Verdict]
#: Run id, task key, term, how the lease stands, and until when.
LeaseStanding = tuple[str, str, int, Standing, int]
#: Run id, task key, term, and why the attempt is to be stopped.
Cancellation = tuple[str, str, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """How an agent introduces itself; see the contract's message."""

    agent: str
    instance: str
    kinds: frozenset[str]
    slots: int
    labels: dict[str, str] = field(default_factory=dict)
    held: Sequence[Ref] = ()
    #: Whether it keeps a stream to each coordinator that holds seats of its tenants.
    several: bool = False
    #: Whether its grants are signed, because it checks them.
    wants_mandates: bool = True


@dataclass(frozen=True, slots=True)
class Renewal:
    """A sign of life for one lease."""

    ref: Ref
    progress: float | None = None
    message: str = ""
    checkpoint: Payload | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The end of one attempt."""

    ref: Ref
    end: End


@dataclass(slots=True)
class Outbound:
    """What is due to an agent."""

    outcomes: list[Outcome] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    standings: list[LeaseStanding] = field(default_factory=list)
    cancellations: list[Cancellation] = field(default_factory=list)
    draining: bool = False
    #: How many credits were taken back. None: it was not asked for.
    withdrawn: int | None = None
    #: How many more credits could be used now, and the weight of the tenants that wait.
    wanted: tuple[int, float] | None = None

    def add(self, later: Outbound) -> None:
        """Appends what became due later."""
        self.outcomes += later.outcomes
        self.leases += later.leases
        self.standings += later.standings
        self.cancellations += later.cancellations
        self.draining |= later.draining
        if later.withdrawn is not None:
            self.withdrawn = (self.withdrawn or 0) + later.withdrawn
        self.wanted = later.wanted or self.wanted

    def __bool__(self) -> bool:
        return bool(
            self.outcomes
            or self.leases
            or self.standings
            or self.cancellations
            or self.draining
            or self.withdrawn is not None
            or self.wanted
        )


class Host(Protocol):
    """What a session needs of the engine."""

    def now_us(self) -> int:
        """The time."""

    def check_seat(self, tenant_id: str) -> None:
        """Raises unless this coordinator decides for the tenant now."""

    def mark(self) -> int:
        """Where an act begins."""

    def close_act(self, act: Act, since: int, tenant_ids: Iterable[str] = ()) -> None:
        """Writes an act down that began at a mark."""

    def desks_of(self, tenant_ids: Sequence[str]) -> Sequence[Desk]:
        """The desks of these tenants that are held here."""

    def stir(self, desk: Desk | None = None) -> None:
        """Something changed: commit, and grant what has become possible."""

    def owe(self, session: AgentSession) -> None:
        """The session has something pending that goes out after the commit."""

    def recall(self, session: AgentSession, report: Report) -> None:
        """Only the store can judge this result; the outcome follows."""

    def left(self, session: AgentSession) -> None:
        """The session is over."""


class AgentSession:
    """One agent's stream, or one waiting unary call."""

    def __init__(
        self,
        host: Host,
        key: records.ApiKey,
        tenant_ids: Sequence[str],
        hello: Hello,
        agent: AgentSlots,
        agent_id: str,
        act: Act | None = None,
        *,
        elsewhere: Sequence[str] = (),
    ) -> None:
        """`elsewhere` are tenants of the agent that it is not served here."""
        self.key = key
        #: The call that the agent speaks through.
        self.act = act or Act(kind="lease.work", principal=key.api_key_id)
        self.tenant_ids = tuple(tenant_ids)
        self.elsewhere = tuple(elsewhere)
        #: Leases of the agent that its hello did not name.
        self.unnamed: list[LeaseStanding] = []
        #: Whether it was told, since its last credits, that tasks wait for more of them.
        self.wants = False
        self.hello = hello
        self.agent = agent
        self.agent_id = agent_id
        self.connect_us = self.seen_us = host.now_us()
        self.draining = False
        #: Why the session is over. None while it is not, and when the agent left by itself.
        self.ended: errors.Refusal | None = None
        #: What goes out after the next commit.
        self.pending = Outbound()
        #: Whether it is a single call instead of a stream.
        self._is_call = not agent_id
        self._is_acting = False
        self._host = host
        self._due = Outbound()
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._over = False

    # -- what it does, as acts

    def granting(self) -> Act:
        """The act of granting leases to it: the call itself where it asks for nothing else."""
        return self.act if self._is_call and not self.act.taken else self.act.again("lease.grant")

    @contextlib.contextmanager
    def acting(self, kind: str, named: Sequence[str] = ()) -> Iterator[None]:
        """Writes down what is said inside as one act, if anything follows from it.

        `named` has the tenants in whose logs it stands in any case. Inside of another act it is
        part of that one. Raises SeatElsewhere before anything is said, when one is not held here.
        """
        if self._is_acting:
            yield
            return
        for tenant_id in named:
            self._host.check_seat(tenant_id)
        since = self._host.mark()
        self._is_acting = True
        try:
            yield
        finally:
            self._is_acting = False
        if named or self._host.mark() > since:
            act = self.act.again(kind, objected=True)
            if self.hello.labels:
                act.keep(agent=self.agent.facts)
            self._host.close_act(act, since, named)

    # -- what the agent says

    def add_credits(self, more: int) -> None:
        """Allows that many more leases to be sent."""
        self.seen_us = self._host.now_us()
        self.wants = False
        if not self.draining and not self._over:
            self.agent.credits = min(self.agent.credits + more, self.hello.slots)
            self._host.stir()

    def withdraw(self, credits_given: int) -> None:
        """Takes back credits that no lease was granted for yet, and says how many."""
        taken = min(credits_given, self.agent.credits)
        self.agent.credits -= taken
        self.pending.withdrawn = (self.pending.withdrawn or 0) + taken
        self._host.owe(self)

    def accept(self, run_id: str, task_key: str, term: int, token: bytes) -> None:
        """Notes that the execution of a lease has begun."""
        desk, lease = self._find(run_id, task_key, term, token)
        if desk is not None and lease is not None:
            desk.accept(lease)
        else:
            self._tell_lost(run_id, task_key, term)

    def renew(self, renewal: Renewal) -> None:
        """Renews a lease and answers how it stands."""
        with self.acting("lease.renew"):
            self.pending.standings.append(self.standing_after(renewal))
        self._host.owe(self)

    def standing_after(self, renewal: Renewal) -> LeaseStanding:
        """Renews a lease and says how it stands."""
        self.seen_us = now_us = self._host.now_us()
        run_id, task_key, term, token = renewal.ref
        desk, lease = self._find(run_id, task_key, term, token)
        if desk is None or lease is None:
            return (run_id, task_key, term, self._absent(run_id), now_us)
        progress = None if renewal.progress is None else (renewal.progress, renewal.message)
        standing = desk.renew(lease, renewal.checkpoint, now_us, progress=progress)
        self._host.stir(desk)
        return (run_id, task_key, term, standing, lease.until_us)

    def settle(self, run_id: str, task_key: str, term: int, token: bytes, end: End) -> None:
        """Takes the end of an attempt; the outcome goes out after its commit."""
        self.settle_all([Report((run_id, task_key, term, token), end)])

    def settle_all(self, reports: Sequence[Report]) -> None:
        """Takes the ends of attempts, as one act; their outcomes go out after its commit."""
        with self.acting("lease.settle"):
            verdicts = self.verdicts_on(reports)
        outcomes = self.pending.outcomes
        for report, verdict in zip(reports, verdicts, strict=True):
            if verdict is None:
                self._host.recall(self, report)
            else:
                run_id, task_key, term, _ = report.ref
                outcomes.append((run_id, task_key, term, verdict))
        self._host.owe(self)

    def verdicts_on(self, reports: Sequence[Report]) -> list[Verdict | None]:
        """Takes the ends of attempts. None: only the store can judge it."""
        self.seen_us = now_us = self._host.now_us()
        desks = self._host.desks_of(self.tenant_ids)
        holder = self.key.api_key_id
        touched: dict[Desk, None] = {}
        verdicts: list[Verdict | None] = []
        for report in reports:
            run_id, task_key, term, token = report.ref
            verdict = None
            for desk in desks:
                if run_id in desk.runs:
                    touched[desk] = None
                    verdict = desk.settle(run_id, task_key, term, token, report.end, holder, now_us)
                    break
            if verdict is None and self.elsewhere and self._lies_elsewhere(run_id):
                verdict = Verdict.ELSEWHERE
            verdicts.append(verdict)
        for desk in touched:
            self._host.stir(desk)
        return verdicts

    def give_back(self, run_id: str, task_key: str, term: int, token: bytes) -> None:
        """Takes back a lease that will not be executed."""
        desk, lease = self._find(run_id, task_key, term, token)
        if desk is not None and lease is not None:
            with self.acting("lease.return"):
                desk.give_back(lease, self._host.now_us())
            self._host.stir(desk)
        if self.hello.several:
            # Elsewhere its slot may be used from then on.
            self._tell_lost(run_id, task_key, term)

    def drain(self) -> None:
        """Sends nothing more; what the agent holds it finishes."""
        self.draining = True
        self.agent.credits = 0

    # -- what the agent is told

    async def outbound(self) -> Outbound | None:
        """Waits for what is due. None: the session is over, and `ended` may say why."""
        while not self._due:
            if self._over:
                return None
            await self._wake.wait()
            self._wake.clear()
        due, self._due = self._due, Outbound()
        self._taken.set()
        return due

    async def room(self) -> None:
        """Waits while too much is due that the agent has not read: it is not heard before.

        Otherwise one that asks and never reads would make memory grow without end.
        """
        while not self._over and self._unread() > DUE_MAX:
            self._taken.clear()
            await self._taken.wait()

    def _unread(self) -> int:
        return sum(len(it.outcomes) + len(it.standings) for it in (self._due, self.pending))

    async def outbound_within(self, seconds: float) -> Outbound | None:
        """Waits at most so long for what is due."""
        try:
            async with asyncio.timeout(seconds):
                return await self.outbound()
        except TimeoutError:
            return None

    def deliver(self, outbound: Outbound) -> None:
        """Makes due what a commit has made true."""
        if self._over:
            return
        self._due.add(outbound)
        self._wake.set()

    def delivery(self) -> Callable[[], None]:
        """Takes what is pending, and gives what makes it due."""
        pending, self.pending = self.pending, Outbound()
        return lambda: self.deliver(pending)

    def end(self, refusal: errors.Refusal | None) -> None:
        """Ends the session from this side."""
        if not self._over:
            self.ended = refusal
            self.close()

    def close(self) -> None:
        """Ends the session; its leases stay until they expire."""
        if self._over:
            return
        self._over = True
        self._wake.set()
        self._taken.set()
        self._host.left(self)

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self._over

    def _find(
        self, run_id: str, task_key: str, term: int, token: bytes
    ) -> tuple[Desk | None, Lease | None]:
        for desk in self._host.desks_of(self.tenant_ids):
            lease = desk.find(run_id, task_key, term, token, self.key.api_key_id)
            if lease is not None:
                return desk, lease
        return None, None

    def _tell_lost(self, run_id: str, task_key: str, term: int) -> None:
        standing = self._absent(run_id)
        self.pending.standings.append((run_id, task_key, term, standing, self._host.now_us()))
        self._host.owe(self)

    def _absent(self, run_id: str) -> Standing:
        """How a lease stands that is not found here."""
        return Standing.ELSEWHERE if self._lies_elsewhere(run_id) else Standing.LOST

    def _lies_elsewhere(self, run_id: str) -> bool:
        return any(ids.belongs(run_id, tenant_id) for tenant_id in self.elsewhere)
