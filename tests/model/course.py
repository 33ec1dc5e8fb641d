"""A desk beside its reference: what is done to one is done to the other, and then compared."""

from __future__ import annotations

from collections.abc import Sequence

from tests.model.bench import AGENTS, Bench
from tests.model.choices import Choices
from tests.model.reference import Reference
from tests.model.tasks import Run, Task

from tenure_server.core import errors
from tenure_server.core.definitions.features import Strategy
from tenure_server.core.leasing.leases import AgentSlots, Lease
from tenure_server.core.ledger.lifecycle import EventKind
from tenure_server.core.progress.children import WantedChild
from tenure_server.core.progress.consequences import DISPLACED
from tenure_server.core.runs.live import LiveRun
from tenure_server.store.database import Store

#: How many leases the tenant may hold at first.
LIMIT = 6


class Course:
    """How a story goes on. Every act on it ends with `end_turn`."""

    def __init__(self, store: Store, tenant_id: str, choices: Choices) -> None:
        self.choices = choices
        self.bench = Bench(store, tenant_id, LIMIT)
        self.model = Reference(LIMIT, self.bench.now_us)
        #: The runs as they are in memory, or were when they ended.
        self.live: dict[str, LiveRun] = {}
        #: Every lease there ever was.
        self.granted: list[Lease] = []
        #: How many events were heard of.
        self._heard = 0

    @property
    def now_us(self) -> int:
        """The time."""
        return self.bench.now_us

    # -- what happened in the desk

    def hear(self) -> None:
        """Tells the reference what stands in the log by now."""
        events = self.bench.journal.events[self._heard :]
        self._heard += len(events)
        self.model.hear((row[1], row[5], EventKind(row[4]).name) for row in events)

    def begun(self, live: LiveRun, parent: tuple[Run, Task] | None = None) -> Run:
        """The reference's own of a run that has begun."""
        self.live[live.run_id] = live
        self.hear()
        return Run(
            len(self.model.runs) + 1,
            live.run_id,
            self.bench.known[live.workflow].definition,
            live.input,
            live.priority,
            live.create_us,
            self._deadline_of(live, parent),
            parent,
        )

    def _deadline_of(self, live: LiveRun, parent: tuple[Run, Task] | None) -> int | None:
        """Runs within a run end no later than that one."""
        own = live.definition.total_timeout_us
        ends = [] if own is None else [self.now_us + own]
        if parent is not None and parent[0].deadline_us is not None and not parent[0].has_expired:
            ends.append(parent[0].deadline_us)
        return min(ends, default=None)

    def end_turn(self) -> None:
        """Draws in the desk what is drawn at the end of each turn, and follows it."""
        self.hear()
        before = -1
        while before != len(self.bench.journal.events):
            before = since = len(self.bench.journal.events)
            self.bench.desk.grants.admit(self.now_us)
            self.hear()
            self._follow_admission(since)
            for wanted, run in self.bench.births():
                self._follow_birth(wanted, run)

    def _follow_admission(self, since: int) -> None:
        left = list(self.bench.journal.events[since:])
        before = -1
        while before != len(left):
            before = len(left)
            self.model.take_turns()
            left = [row for row in left if not self._follow(row)]
        self.follow_displaced()

    def _follow(self, row: Sequence[object]) -> bool:
        """Follows an event that is no consequence of another one, but decided by the desk."""
        run_id, kind, key, code = str(row[1]), row[4], str(row[5]), str(row[9])
        run = self.model.run(run_id)
        task = run.tasks.get(key)
        if task is None or task.state != "READY":
            return False
        if kind == EventKind.TASK_FAILED:
            self.model.impossible(run, task, code)
            return True
        limit = task.node.concurrency
        newest = limit is not None and limit.strategy is Strategy.CANCEL_NEWEST
        if kind == EventKind.TASK_CANCELLED and newest and self.model.is_full(run, task):
            self.model.turn_away(run, task)
            return True
        return False

    def follow_displaced(self) -> None:
        """Follows which leases were told to stop for others of their key."""
        for lease in self.bench.desk.leases.values():
            detail = lease.run.facts[lease.index].detail or {}
            run = self.model.run(lease.run.run_id)
            task = run.tasks[lease.task_key]
            if DISPLACED in detail and not task.displaced:
                self.model.displace(run, task)

    def _follow_birth(self, wanted: WantedChild, live: LiveRun | None) -> None:
        parent = self.model.run(wanted.run.run_id)
        task = parent.tasks[wanted.run.graph.keys[wanted.index]]
        if live is None:
            self.hear()
            self.model.refused(parent, task)
        else:
            self.model.born(parent, task, self.begun(live, (parent, task)))

    # -- agents

    def agents(self) -> list[AgentSlots]:
        """Those on the line."""
        return [self.bench.agents[name] for name in AGENTS]

    def follow_grant(self, since: int, leases: Sequence[Lease]) -> None:
        """Follows what an agent was granted, event by event."""
        self.hear()
        of = {(lease.run.run_id, lease.task_key): lease for lease in leases}
        for row in list(self.bench.journal.events[since:]):
            if row[4] == EventKind.TASK_LEASED:
                self.model.lease(of[row[1], row[5]])
            elif self._follow(row):
                # What it was for may be open for others.
                self.model.take_turns()
        self.granted += leases
        self.follow_displaced()

    # -- time

    def wait(self, us: int, *, late: bool = False) -> None:
        """Lets time pass: to each moment at which something falls due, or `late` all at once."""
        target_us = self.now_us + us
        while not late:
            due_us = self.model.next_due_us()
            if due_us is None or due_us > target_us:
                break
            self._be_at(max(due_us, self.now_us))
        self._be_at(target_us)

    def _be_at(self, now_us: int) -> None:
        self.bench.now_us = now_us
        self.bench.desk.dues.pass_time(now_us)
        self.hear()
        self.model.pass_time(now_us)
        self.end_turn()

    def commit(self) -> None:
        """Nothing that was heard is heard again."""
        self._heard = 0

    def reopen(self) -> None:
        """Memory is thrown away and read back."""
        self.bench.reopen()
        self.live.update(self.bench.desk.runs)
        self.model.restart()
        # What fell due and left no row falls due again.
        self._be_at(self.now_us)

    # -- what is refused

    def refuses(self, act: object, *kinds: type[errors.Refusal]) -> None:
        """Wants the desk to refuse something, and to do nothing then."""
        assert callable(act)
        before = len(self.bench.journal.events)
        try:
            act()
        except kinds:
            assert len(self.bench.journal.events) == before, "what was refused left something"
        else:
            raise AssertionError("the desk did what it must refuse")
