"""Ready tasks come out by priority, then started runs first, then age, then order."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.server.core.world import World, flow, task

from tenure_server.core.leasing.buckets import Rank
from tenure_server.core.leasing.leases import Lease
from tenure_server.core.leasing.ready import ReadyQueue
from tenure_server.core.ledger.lifecycle import TaskState
from tenure_server.core.runs.live import LiveRun

KINDS = ("work", "play")


def keys(leases: list[Lease]) -> list[str]:
    """The keys of leased tasks in the order of their leases."""
    return [lease.task_key for lease in leases]


def test_priority_goes_before_age_and_age_before_order() -> None:
    world = World()
    world.start(task("old-low", priority=-1), task("old-1"), task("old-2"))
    world.start(task("new-1"), task("new-2"))
    world.start(task("urgent"), priority=5)
    assert keys(world.grant()) == ["urgent", "old-1", "old-2", "new-1", "new-2", "old-low"]


def test_the_priority_of_a_run_is_added_to_those_of_its_tasks() -> None:
    world = World()
    world.start(task("five", priority=5), priority=0)
    world.start(task("six", priority=4), priority=2)
    world.start(task("four", priority=14), priority=-10)
    assert keys(world.grant()) == ["six", "five", "four"]


def test_a_run_that_was_leased_from_goes_before_an_older_one_that_was_not() -> None:
    world = World()
    older = world.start(task("older", kind="play"), task("older-work"))
    world.start(task("newer", kind="walk"), task("newer-work"))
    world.grant(world.agent("walker", kinds=["walk"]))
    assert older.start_us is None
    assert keys(world.grant()) == ["newer-work", "older-work"]


def test_an_agent_gets_only_kinds_that_it_has() -> None:
    world = World()
    world.start(task("a", kind="play"), task("b"), task("c", kind="walk"))
    assert keys(world.grant(world.agent(kinds=["walk", "swim"]))) == ["c"]
    assert keys(world.grant(world.agent("other", kinds=["play", "work"]))) == ["a", "b"]


def test_a_task_that_was_ready_before_goes_to_the_head_of_its_run() -> None:
    world = World()
    world.start(task("a"), task("b"), task("c"))
    first = world.grant_one()
    world.desk.give_back(first, world.now_us)
    assert keys(world.grant()) == ["a", "b", "c"]


@pytest.mark.parametrize(("kind", "other"), [KINDS, KINDS[::-1]])
def test_one_that_is_woken_while_the_next_is_looked_for_goes_where_it_belongs(
    kind: str, other: str
) -> None:
    """In whatever order the kinds of an agent are gone through."""
    world = World()
    asleep = world.start(task("a", kind=other), name="narrow", max_leases=1)
    world.start(task("b", kind=other), name="wide")
    gone = world.start(task("c", kind=kind), name="narrow", max_leases=1)
    queue = world.desk.ready
    bucket = queue.best(frozenset({other}))
    assert bucket is not None
    queue.park(bucket, "narrow")
    # Nothing of its bucket is ready any more, and that is found out when it is looked at.
    gone.move(0, TaskState.WAITING)
    found = queue.best(frozenset(KINDS))
    assert found is not None
    assert found.run is asleep
    queue.park(found, "narrow")
    left = queue.best(frozenset(KINDS))
    assert left is not None
    assert left.run.workflow == "wide"


def test_runs_that_ended_are_not_kept_for_kinds_that_nobody_has() -> None:
    world = World()
    for number in range(200):
        run = world.start(task("a", kind=f"ghost-{number % 7}"), name="ghost")
        world.desk.cancel_run(run, "", world.now_us)
    world.commit()
    del run
    gc.collect()
    everything = gc.get_objects()
    assert sum(isinstance(one, LiveRun) and one.workflow == "ghost" for one in everything) < 100
    assert world.desk.ready.size == 0


def test_each_lease_that_ends_lets_one_run_of_a_full_workflow_go_on() -> None:
    world = World()
    for number in range(4):
        world.start_flow(flow(task(f"r{number}"), name="full", max_leases=2))
    first = world.grant()
    assert keys(first) == ["r0", "r1"]
    assert world.grant() == []
    world.settle(first[0])
    assert keys(world.grant()) == ["r2"]
    world.settle(first[1])
    assert keys(world.grant()) == ["r3"]


def test_versions_of_a_workflow_wait_each_under_its_own_limit() -> None:
    world = World()
    world.start_flow(flow(task("narrow-1"), task("narrow-2"), name="both", max_leases=1))
    world.start_flow(flow(*[task(f"wide-{n}") for n in range(4)], name="both", max_leases=3))
    leases = world.grant()
    assert keys(leases) == ["narrow-1", "wide-0", "wide-1"]
    world.settle(leases[0])
    assert keys(world.grant()) == ["wide-2"], "two are live: too many for the narrow one"


def test_a_place_is_not_kept_for_a_kind_that_nobody_asks_for() -> None:
    world = World()
    world.start_flow(flow(task("a"), name="full", max_leases=1))
    world.start_flow(flow(task("b", kind="play"), task("c"), name="full", max_leases=1))
    lease = world.grant_one()
    assert world.grant(world.agent("all", kinds=["work", "play"])) == []
    world.settle(lease)
    assert keys(world.grant()) == ["c"]


def test_the_place_of_a_cancelled_run_goes_to_the_next_of_its_workflow() -> None:
    world = World()
    runs = [world.start_flow(flow(task(f"r{n}"), name="full", max_leases=1)) for n in range(3)]
    lease = world.grant_one()
    assert world.grant() == []
    world.settle(lease)
    world.desk.cancel_run(runs[1], "not wanted", world.now_us)
    assert keys(world.grant()) == ["r2"]


def test_a_full_workflow_costs_the_same_with_many_runs_waiting() -> None:
    def pushes(runs: int) -> int:
        world = World()
        for _ in range(runs):
            world.start_flow(flow(task("a"), name="full", max_leases=2))
        leases = world.grant()
        before = world.desk.ready._pushes
        for lease in leases:
            world.settle(lease)
            assert len(world.grant()) == 1
        return world.desk.ready._pushes - before

    assert pushes(400) == pushes(10)


class ReadyMachine(RuleBasedStateMachine):
    """The queue beside a plain list that is sorted at each question."""

    @initialize()
    def begin(self) -> None:
        """Starts with an empty queue."""
        self.world = World()
        self.queue = ReadyQueue()
        self.runs: list[LiveRun] = []
        self.waiting: list[tuple[LiveRun, int]] = []
        self.taken: list[tuple[LiveRun, int]] = []

    @rule(
        tasks=st.lists(
            st.tuples(st.sampled_from(KINDS), st.integers(-1, 1)), min_size=1, max_size=4
        ),
        priority=st.integers(-1, 1),
        workflow=st.sampled_from(["one", "two"]),
    )
    def add_run(self, tasks: list[tuple[str, int]], priority: int, workflow: str) -> None:
        """A run whose tasks are all ready."""
        nodes = [task(f"t{n}", kind=kind, priority=one) for n, (kind, one) in enumerate(tasks)]
        run = self.world.start_flow(flow(*nodes, name=workflow), priority=priority)
        self.runs.append(run)
        for index in range(len(nodes)):
            self.queue.add(run, index)
            self.waiting.append((run, index))

    @rule(kinds=st.sets(st.sampled_from([*KINDS, "walk"]), min_size=1))
    def take(self, kinds: set[str]) -> None:
        """The next task for an agent, as the list has it."""
        bucket = self.queue.best(frozenset(kinds))
        expected = self._best(kinds)
        assert (bucket is None) == (expected is None)
        if bucket is None or expected is None:
            return
        run, index = bucket.run, self.queue.take(bucket)
        assert (run.run_id, index) == (expected[0].run_id, expected[1])
        self.waiting.remove((run, index))
        self.taken.append((run, index))
        run.move(index, TaskState.LEASED)
        if run.start_us is None:
            run.start_us = self.world.now_us
            self.queue.run_started(run)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """A task that was taken is ready again, before the others of its bucket."""
        one = data.draw(st.sampled_from(self.taken))
        self.taken.remove(one)
        one[0].move(one[1], TaskState.READY)
        self.queue.add(*one, first=True)
        self.waiting.insert(0, one)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def end_task(self, data: st.DataObject) -> None:
        """A ready task ends without having been taken, as when its run is cancelled."""
        if not self.waiting:
            return
        one = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(one)
        one[0].move(one[1], TaskState.CANCELLED)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """A run ends."""
        run = data.draw(st.sampled_from(self.runs))
        self.runs.remove(run)
        self.queue.drop(run)
        self.waiting = [one for one in self.waiting if one[0] is not run]
        self.taken = [one for one in self.taken if one[0] is not run]

    @invariant()
    def counts_no_less_than_there_is(self) -> None:
        """The size counts every ready task, and stale ones until they are met."""
        if hasattr(self, "queue"):
            assert self.queue.size >= len(self.waiting)

    def teardown(self) -> None:
        """When everything is taken, nothing is left over."""
        if not hasattr(self, "queue"):
            return
        for _ in range(len(self.waiting) + 1):
            self.take(set(KINDS))
        assert self.queue.size == 0
        assert not self.waiting

    def _best(self, kinds: set[str]) -> tuple[LiveRun, int] | None:
        def rank(one: tuple[LiveRun, int]) -> Rank:
            run, index = one
            priority = run.priority + run.definition.tasks[index].priority
            return -priority, run.start_us is None, run.order

        candidates = [one for one in self.waiting if one[0].definition.tasks[one[1]].kind in kinds]
        if not candidates:
            return None
        best = min(map(rank, candidates))
        first = next(one for one in candidates if rank(one) == best)
        # Between kinds of one run and rank the queue may choose.
        bucket = self.queue.best(frozenset(kinds))
        assert bucket is not None
        same = [one for one in candidates if rank(one) == best]
        assert bucket.run is first[0]
        return next(one for one in same if first[0].definition.tasks[one[1]].kind == bucket.kind)


TestReady = ReadyMachine.TestCase
TestReady.settings = settings(
    max_examples=settings().max_examples // 2, stateful_step_count=25, deadline=None
)
