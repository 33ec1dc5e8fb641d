"""Whatever happens to a desk, in whatever order, it does what the reference does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.server.core.reference import Reference, Run, Task
from tests.server.core.world import ACCEPT_US, LEASE_US, SECOND, World, flow, json_payload, portrait

from tenure_evidence import canonical
from tenure_server.core import journal, lifecycle, view
from tenure_server.core.definition import Payload, RetryPolicy, WorkflowTask
from tenure_server.core.leases import STOPPED, Lease, Success
from tenure_server.core.lifecycle import (
    TASK_TRANSITIONS,
    EventKind,
    Failure,
    Standing,
    TaskState,
    Verdict,
)
from tenure_server.core.runs import LiveRun

AGENTS = [("key-1", "one", 2), ("key-1", "two", 3), ("key-2", "one", 2)]
ENDS = st.sampled_from(
    [
        Success(),
        Success(json_payload("output")),
        Success(Payload(b"{")),
        Failure("BOOM"),
        Failure("BAD", "for good", True),
        STOPPED,
    ]
)
NODES = st.lists(
    st.fixed_dictionaries(
        {
            "upstream": st.sets(st.integers(0, 4), max_size=2),
            "kind": st.sampled_from(["work", "work", "play"]),
            "priority": st.integers(-1, 1),
            "attempts": st.integers(1, 3),
            "wait": st.sampled_from([0, SECOND]),
            "timeout": st.sampled_from([None, None, SECOND, 2 * LEASE_US]),
        }
    ),
    min_size=2,
    max_size=5,
)
#: Spans that fall before, on and after everything that has its time.
SPANS = st.sampled_from([1, SECOND, 2 * SECOND, ACCEPT_US, LEASE_US // 2, LEASE_US])


def nodes_of(drawn: list[dict[str, Any]]) -> list[WorkflowTask]:
    """Tasks of a workflow."""
    return [
        WorkflowTask(
            key=f"t{number}",
            kind=one["kind"],
            depends_on=tuple(f"t{up}" for up in sorted(one["upstream"]) if up < number),
            priority=one["priority"],
            retry=RetryPolicy(
                max_attempts=one["attempts"], initial_delay_us=one["wait"], multiplier=1, jitter=0
            ),
            attempt_timeout_us=one["timeout"],
        )
        for number, one in enumerate(drawn)
    ]


#: Events after which a task may have a result of its own.
REPORTED = (EventKind.TASK_SUCCEEDED, EventKind.TASK_FAILED, EventKind.TASK_RETRYING)


def check_items(changes: journal.Changes) -> None:
    """Wants an item beside each event that says the same, with the digest of each result."""
    tasks = [dict(zip(journal.TASK_COLUMNS, row, strict=True)) for row in changes.tasks]
    results = {(task["run_id"], task["task_key"]): task["result_hash"] for task in tasks}
    for row, raw in zip(changes.events, changes.items, strict=True):
        event = dict(zip(journal.EVENT_COLUMNS[:-1], row, strict=True))
        item = canonical.read(raw)
        kind = EventKind(event["kind"])
        assert item["run"] == event["run_id"]
        assert (item["seq"], item["at"]) == (event["sequence"], event["at_us"])
        assert item["kind"] == kind.name.lower().replace("_", ".", 1)
        for word, column in (("task", "task_key"), ("agent", "agent"), ("code", "code")):
            assert item.get(word, "") == event[column]
        for word in ("attempt", "term"):
            assert item.get(word, 0) == event[word]
        assert ("result" in item) <= (kind in REPORTED)
        if kind in (EventKind.TASK_SUCCEEDED, EventKind.TASK_FAILED):
            # The task has ended: its row has the result that counted, if one did.
            digest = results[event["run_id"], event["task_key"]]
            assert item.get("result") == (f"sha256:{digest.hex()}" if digest else None)
            assert digest or kind is EventKind.TASK_FAILED, "a success without a result"


class DeskMachine(RuleBasedStateMachine):
    """A desk beside the reference. Every step ends with a commit."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(max_leases=4)
        self.model = Reference(4, self.world.now_us)
        self.live_runs: dict[str, LiveRun] = {}
        #: Every lease there ever was.
        self.granted: list[Lease] = []
        #: How many results were applied under each task and term.
        self.applied: dict[tuple[str, str, int], int] = {}
        self.terms: dict[tuple[str, int], int] = {}
        self._hire()

    def _hire(self) -> None:
        for holder, name, slots in AGENTS:
            kinds = ["work", "play"] if holder == "key-1" else ["work"]
            self.world.agent(name, slots=slots, holder=holder, kinds=kinds)

    # -- what happens

    @initialize(drawn=st.lists(NODES, min_size=1, max_size=3), accept=st.booleans())
    def begin(self, drawn: list[list[dict[str, Any]]], accept: bool) -> None:
        """Begins with some work under way, so that few steps lead far."""
        for nodes in drawn:
            self.start(nodes, "wide", 0)
        self.grant(AGENTS[0], 10)
        self.grant(AGENTS[1], 10)
        for run, task in list(self.model.live()) if accept else ():
            self._accept(run, task)

    @rule(
        drawn=NODES,
        workflow=st.sampled_from(["wide", "narrow", "single"]),
        priority=st.integers(0, 1),
    )
    def start(self, drawn: list[dict[str, Any]], workflow: str, priority: int) -> None:
        """A run starts."""
        limit = {"wide": 0, "narrow": 2, "single": 1}[workflow]
        definition = flow(*nodes_of(drawn), name=workflow, max_leases=limit)
        live = self.world.start_flow(definition, priority=priority)
        tasks = {node.key: Task(node) for node in definition.tasks}
        self.model.start(Run(live.run_id, workflow, limit, tasks))
        self.live_runs[live.run_id] = live

    @rule(agent=st.sampled_from(AGENTS), at_most=st.sampled_from([1, 10, 10]))
    def grant(self, agent: tuple[str, str, int], at_most: int) -> None:
        """An agent asks, and gets all that it may."""
        slots = self.world.slots_of(agent[0], agent[1])
        slots.credits = slots.slots
        room = min(at_most, slots.free)
        leases = self.world.grant(slots, at_most=at_most)
        assert len(leases) <= room
        for lease in leases:
            assert lease.task.kind in slots.kinds
            self.model.lease(lease)
            self.granted.append(lease)
        if len(leases) < room:
            for run in self.model.runs.values():
                for task in run.tasks.values():
                    wanted = task.node.kind in slots.kinds and self.model.may_be_leased(run, task)
                    assert not wanted, "left idle"

    def _ref(self, run: Run, task: Task) -> Lease:
        """The live lease that the agent names."""
        words = (run.run_id, task.node.key, task.term, task.token, task.holder)
        lease = self.world.desk.find(*words)
        assert lease is not None
        return lease

    @precondition(lambda self: any(self.model.live()))
    @rule(data=st.data(), checkpoint=st.sampled_from([None, None, json_payload("checkpoint")]))
    def renew(self, data: st.DataObject, checkpoint: Payload | None) -> None:
        """A live lease is renewed."""
        run, task = data.draw(st.sampled_from(list(self.model.live())))
        standing = self.world.desk.renew(self._ref(run, task), checkpoint, self.world.now_us)
        assert standing is (Standing.CANCELLING if run.state == "CANCELLING" else Standing.HELD)
        self.model.renew(task, checkpoint)

    @precondition(lambda self: any(self.model.live()))
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        """A live lease is accepted."""
        self._accept(*data.draw(st.sampled_from(list(self.model.live()))))

    def _accept(self, run: Run, task: Task) -> None:
        self.world.desk.accept(self._ref(run, task))
        task.accept_us = None

    @precondition(lambda self: any(self.model.live()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """A live lease comes back."""
        run, task = data.draw(st.sampled_from(list(self.model.live())))
        self.world.desk.give_back(self._ref(run, task), self.world.now_us)
        self.model.give_back(run, task)

    @precondition(lambda self: any(self.model.live()))
    @rule(data=st.data(), end=ENDS)
    def settle(self, data: st.DataObject, end: Any) -> None:
        """The result of a live lease comes."""
        _, task = data.draw(st.sampled_from(list(self.model.live())))
        lease = next(one for one in self.granted if one.token == task.token)
        assert self._settle(lease, end) in (Verdict.APPLIED, Verdict.OUTPUT_REFUSED)

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), end=ENDS)
    def settle_any(self, data: st.DataObject, end: Any) -> None:
        """A result of any lease there ever was comes, perhaps late, perhaps once more."""
        self._settle(data.draw(st.sampled_from(self.granted)), end)

    @precondition(lambda self: self.granted)
    @rule(
        data=st.data(),
        end=ENDS,
        words=st.sampled_from(
            [
                {"token": b"forged"},
                {"holder": "key-3"},
                {"term": 1},
                {"term": 99},
                {"task_key": "t0"},
            ]
        ),
    )
    def settle_forged(self, data: st.DataObject, end: Any, words: dict[str, Any]) -> None:
        """A result comes that somebody made up."""
        self._settle(data.draw(st.sampled_from(self.granted)), end, **words)

    def _settle(self, lease: Lease, end: Any, **words: Any) -> Verdict:
        said: dict[str, Any] = {
            "run_id": lease.run.run_id,
            "task_key": lease.task.key,
            "term": lease.term,
            "token": lease.token,
            "holder": lease.agent.holder,
            **words,
        }
        key = said.pop("task_key")
        expected = self.model.settle(**said, key=key, end=end)
        verdict = self.world.verdict(lease, end, **words)
        assert verdict is expected
        if verdict in (Verdict.APPLIED, Verdict.OUTPUT_REFUSED):
            applied = said["run_id"], key, said["term"]
            self.applied[applied] = self.applied.get(applied, 0) + 1
            assert self.applied[applied] == 1, "two results for one term"
        return verdict

    @precondition(lambda self: self.world.desk.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A run is cancelled."""
        run_id = data.draw(st.sampled_from(list(self.world.desk.runs)))
        self.world.desk.cancel_run(self.world.desk.runs[run_id], "enough", self.world.now_us)
        self.model.cancel(self.model.runs[run_id])

    @rule(limit=st.sampled_from([0, 2, 4, 4, 6]))
    def change_limit(self, limit: int) -> None:
        """The tenant's limit changes; leases above it stay."""
        self.world.limit(limit)
        self.model.limit = limit

    @rule(span=SPANS)
    def wait(self, span: int) -> None:
        """Time passes."""
        self.world.wait(span)
        self.model.pass_time(self.world.now_us)

    @rule()
    def restart(self) -> None:
        """Memory is thrown away and read back, and is what it was."""
        self.wait(0)
        before = portrait(self.world.desk)
        self.world.reopen()
        # What fell due and left no row falls due again.
        self.world.wait(0)
        assert portrait(self.world.desk) == before
        self.live_runs.update(self.world.desk.runs)
        self.model.restart()
        self._hire()

    # -- what is always true

    @invariant()
    def tasks_stand_where_the_reference_has_them(self) -> None:
        """Also those of runs that have ended."""
        for run_id, run in self.model.runs.items():
            live = self.live_runs[run_id]
            assert self.world.states(live) == {key: one.state for key, one in run.tasks.items()}
            assert live.state.name == run.state
            assert run.ended == (run_id not in self.world.desk.runs)
            assert run.ended == (live.open_tasks == 0)
            states = list(live.states)
            assert live.tallies == [states.count(state) for state in range(len(live.tallies))]
            assert live.counts() == view.counts([TaskState(state) for state in states])

    @invariant()
    def slots_in_use_are_live_leases(self) -> None:
        """By tenant, workflow and agent."""
        desk = self.world.desk
        model = {
            (run.run_id, int(task.node.key[1:])): (run, task) for run, task in self.model.live()
        }
        assert set(desk.leases) == set(model)
        by_workflow: dict[str, set[tuple[str, int]]] = {}
        for key, (run, _) in model.items():
            by_workflow.setdefault(run.workflow, set()).add(key)
        assert desk.workflow_leases == by_workflow
        for (holder, name), agent in self.world.agents.items():
            mine = {
                key for key, (_, one) in model.items() if (one.holder, one.agent) == (holder, name)
            }
            assert set(agent.leases) == mine
            assert len(mine) <= agent.slots
        leased = [
            (run_id, index)
            for run_id, live in desk.runs.items()
            for index, state in enumerate(live.states)
            if state == TaskState.LEASED
        ]
        assert sorted(leased) == sorted(model)

    @invariant()
    def what_falls_due_is_known(self) -> None:
        """So that whoever sets the alarm clock sets it in time."""
        due_us = self.model.first_due_us()
        if due_us is not None:
            known_us = self.world.desk.next_due_us()
            assert known_us is not None
            assert known_us <= due_us

    @invariant()
    def the_tables_say_what_memory_says(self) -> None:
        """After each commit, whose rows are asserted to follow from those before."""
        changes = self.world.commit()
        check_items(changes)
        for row in changes.tasks:
            key, term = (row[1], row[2]), row[6]
            assert self.terms.get(key, 0) <= term
            self.terms[key] = term
        tables = self.world.tables
        for run_id, run in self.model.runs.items():
            live = self.live_runs[run_id]
            stored = tables.tasks_of(run_id)
            rows = {index: one.state for index, one in stored.items()}
            states = [state.name for state in view.task_states(live.graph, rows)]
            for task, state in zip(run.tasks.values(), states, strict=True):
                due = task.state == "READY" and task.retry_us <= self.world.now_us
                assert task.state == state or (due and state == "RETRYING")
            for index, one in stored.items():
                task = run.tasks[f"t{index}"]
                assert (one.term, one.attempt, one.lost) == (task.term, task.attempt, task.lost)
            record = tables.run(run_id)
            assert record.state.name == run.state
            assert run.ended == (record.end_us is not None)
            if run.ended:
                ended = [states.count(one) for one in ("SUCCEEDED", "FAILED")]
                assert [record.succeeded, record.failed] == ended

    def teardown(self) -> None:
        """Whatever was left undone can be brought to its end, and the logs are whole."""
        self.change_limit(100)
        for _ in range(200):
            if not self.world.desk.runs:
                break
            for agent in AGENTS[:2]:
                self.grant(agent, 10)
            for _, task in list(self.model.live()):
                lease = next(one for one in self.granted if one.token == task.token)
                self._settle(lease, Success())
            self.wait(SECOND)
            self.tasks_stand_where_the_reference_has_them()
        assert not self.world.desk.runs
        assert not self.world.desk.leases
        self.the_tables_say_what_memory_says()
        for run_id, run in self.model.runs.items():
            kinds = self.world.tables.kinds(run_id)
            assert kinds[0] is EventKind.RUN_STARTED
            assert kinds[-1] is EventKind[f"RUN_{run.state}"]
            self._check_order(run)

    def _check_order(self, run: Run) -> None:
        """No task was leased before what it depends on was done."""
        done: set[str] = set()
        for event in self.world.tables.events[run.run_id]:
            if event["kind"] == EventKind.TASK_LEASED:
                assert set(run.tasks[event["task_key"]].node.depends_on) <= done
            elif event["kind"] == EventKind.TASK_SUCCEEDED:
                done.add(event["task_key"])


@contextlib.contextmanager
def watched_transitions() -> Iterator[None]:
    """Fails at a move that is not in the table, and lets few lost leases be enough."""
    move, restore = LiveRun.move, LiveRun.restore

    def watched_move(run: LiveRun, index: int, state: TaskState) -> None:
        before = TaskState(run.states[index])
        assert before == state or (before, state) in TASK_TRANSITIONS
        move(run, index, state)

    def unwatched_restore(run: LiveRun, *args: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(LiveRun, "move", move)
            restore(run, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveRun, "move", watched_move)
        patch.setattr(LiveRun, "restore", unwatched_restore)
        patch.setattr(lifecycle, "LOST_LEASES_MAX", 2)
        yield


def test_a_desk_does_what_the_reference_does() -> None:
    budget = settings(max_examples=settings().max_examples, stateful_step_count=40)
    with watched_transitions():
        run_state_machine_as_test(DeskMachine, settings=budget)
