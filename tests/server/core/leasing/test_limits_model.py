"""Whatever happens, in whatever order: no limit is exceeded at any instant, and none leaks."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.server.core.world import ACCEPT_US, LEASE_US, SECOND, World, task

from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.features import Concurrency, Placement, Rate, Strategy
from tenure_server.core.leasing.leases import STOPPED, AgentSlots, Lease, Success, extra_slots
from tenure_server.core.ledger.lifecycle import Failure, RunState
from tenure_server.core.runs.live import LiveRun

AGENTS = {"one": (3, {"zone": "a"}), "two": (4, {"zone": "b"})}
TENANT_MAX, WORKFLOW_MAX, KEY_MAX, RUNS_MAX = 6, 5, 2, 2
RATE = Rate(count=3, per_us=10 * SECOND, key="run.input.k")
STRATEGIES = st.sampled_from(Strategy)
TASKS = st.lists(
    st.fixed_dictionaries(
        {
            "weight": st.sampled_from([1, 1, 2, 3]),
            "keyed": st.booleans(),
            "rated": st.booleans(),
            "placed": st.sampled_from(["", "", "required", "preferred", "sticky"]),
            "after": st.booleans(),
            "priority": st.integers(-1, 1),
        }
    ),
    min_size=1,
    max_size=4,
)
ENDS = st.sampled_from([Success(), Success(), Failure("BOOM"), STOPPED])


def placement_of(placed: str) -> Placement | None:
    """Where a task may go."""
    match placed:
        case "":
            return None
        case "sticky":
            return Placement(sticky=True)
        case "required":
            return Placement(required={"zone": "b"})
        case _:
            return Placement(preferred={"zone": "b"})


class LimitsMachine(RuleBasedStateMachine):
    """A desk under every kind of limit; what is live is looked up in its leases."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(max_leases=TENANT_MAX)
        #: When leases that count against the rate began, by key.
        self.begun: dict[str, list[int]] = {}
        self._hire()

    def _hire(self) -> None:
        for name, (slots, labels) in AGENTS.items():
            agent = self.world.agent(name, slots=slots)
            agent.introduce(labels)
            agent.credits = agent.free_slots

    @rule(
        drawn=TASKS,
        key=st.sampled_from("xy"),
        strategy=STRATEGIES,
        narrow=st.none() | STRATEGIES,
        full=st.booleans(),
    )
    def start(
        self,
        drawn: list[dict[str, Any]],
        key: str,
        strategy: Strategy,
        narrow: Strategy | None,
        full: bool,
    ) -> None:
        """A run begins."""
        keyed = Concurrency(limit=KEY_MAX, key="run.input.k", strategy=strategy)
        tasks = [
            task(
                f"t{number}",
                *([f"t{number - 1}"] if one["after"] and number else []),
                weight=one["weight"],
                concurrency=keyed if one["keyed"] else None,
                rate=RATE if one["rated"] else None,
                placement=placement_of(one["placed"]),
                priority=one["priority"],
            )
            for number, one in enumerate(drawn)
        ]
        definition = WorkflowDefinition(
            name="full" if full else "wide",
            tasks=tuple(tasks),
            max_leases=WORKFLOW_MAX if full else 0,
            concurrency=None
            if narrow is None
            else Concurrency(limit=RUNS_MAX, key="run.input.k", strategy=narrow),
        )
        self.world.start_flow(definition, given={"k": key})
        self.world.desk.grants.admit(self.world.now_us)

    @rule(name=st.sampled_from(sorted(AGENTS)), at_most=st.integers(1, 5))
    def grant(self, name: str, at_most: int) -> None:
        """An agent is granted what it can take."""
        agent = self.world.agents["key-1", name]
        agents = self.world.agents.values()
        self.world.desk.placing.line = [one for one in agents if one.free > 0]
        leases = self.world.grant(agent, at_most=at_most)
        for lease in leases:
            if lease.task.rate is not None:
                key = self._key(lease.run)
                self.begun.setdefault(key, []).append(self.world.now_us)

    def _live(self) -> list[Lease]:
        return list(self.world.desk.leases.values())

    @precondition(lambda self: self.world.desk.leases)
    @rule(data=st.data(), end=ENDS)
    def settle(self, data: st.DataObject, end: Any) -> None:
        """An attempt ends."""
        self._end(data.draw(st.sampled_from(self._live())), end)

    def _end(self, lease: Lease, end: Any) -> None:
        # As after a restart nobody here knows the token, an operator's word is as good.
        agent = lease.agent
        if end is STOPPED:
            self.world.desk.give_back(lease, self.world.now_us)
        elif lease.token:
            self.world.settle(lease, end)
        elif lease.run.state in (RunState.RUNNING, RunState.PAUSED):
            settle = self.world.desk.interventions.settle
            settle(lease.run, lease.index, end, "by hand", self.world.now_us)
        else:
            self.world.desk.give_back(lease, self.world.now_us)
        agent.credits = agent.free_slots

    @precondition(lambda self: self.world.desk.runs)
    @rule(data=st.data(), verb=st.sampled_from(["pause", "resume", "cancel", "close"]))
    def intervene(self, data: st.DataObject, verb: str) -> None:
        """An operator does something to a run."""
        run = data.draw(st.sampled_from(list(self.world.desk.runs.values())))
        acts, now_us = self.world.desk.interventions, self.world.now_us
        match verb:
            case "pause" if run.state is RunState.RUNNING:
                acts.pause(run, "", now_us)
            case "resume":
                acts.resume(run, "", now_us)
            case "cancel":
                self.world.desk.cancel_run(run, "", now_us)
            case "close":
                acts.close(run, "closed", now_us)

    @rule(us=st.sampled_from([1, SECOND, ACCEPT_US, RATE.per_us, LEASE_US]))
    def wait(self, us: int) -> None:
        """Time passes; leases are lost with their agents."""
        self.world.wait(us)
        for agent in self.world.agents.values():
            agent.credits = agent.free_slots

    @rule()
    def restart(self) -> None:
        """The coordinator starts anew."""
        known = len(self.world.desk.runs)
        self.world.reopen()
        if not known:
            # As under a later term: what was begun before is not known.
            self.world.desk.limits.resume(self.world.now_us)
        self._hire()

    @staticmethod
    def _key(run: LiveRun) -> str:
        assert run.input is not None
        return run.input.data.decode()

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        """By weight for slots, by number for keys and runs, by time for rates."""
        live = self._live()
        assert sum(one.task.weight for one in live) <= TENANT_MAX
        full = [one for one in live if one.run.definition.max_leases]
        # Leases of versions without a limit count as well, but are never refused.
        assert sum(one.task.weight for one in full) <= WORKFLOW_MAX
        for (_, name), agent in self.world.agents.items():
            mine = [one for one in live if one.agent is agent]
            assert set(agent.leases) == {one.key for one in mine}
            assert sum(one.task.weight for one in mine) <= AGENTS[name][0]
        for key in {self._key(one.run) for one in live}:
            of_key = [one for one in live if self._key(one.run) == key]
            assert sum(one.task.concurrency is not None for one in of_key) <= KEY_MAX
            for name in ("full", "wide"):
                runs = {
                    one.run.run_id
                    for one in of_key
                    if one.run.definition.concurrency is not None and one.run.workflow == name
                }
                assert len(runs) <= RUNS_MAX
        for times in self.begun.values():
            for first, last in zip(times, times[RATE.count :], strict=False):
                assert last - first >= RATE.per_us
        assert not any(one.run.held for one in live)
        for one in live:
            placement = one.task.placement
            assert placement is None or not placement.required or one.agent.name == "two"

    @invariant()
    def the_books_say_what_the_leases_say(self) -> None:
        """So nothing can have leaked. Asked at the end of a turn."""
        desk, live = self.world.desk, self._live()
        desk.grants.admit(self.world.now_us)
        extra = {slot for one in live for slot in extra_slots(one.key, one.task.weight)}
        assert desk.leases.extra == extra
        assert set().union(*desk.leases.extra_by_workflow.values()) == extra
        keyed = {one.key for one in live if one.task.concurrency is not None}
        assert set().union(*desk.limits.leases.values()) == keyed
        inside = desk.consequences.run_limits.inside
        of_key = {run_id for runs in inside.values() for run_id in runs}
        narrow = [one for one in desk.runs.values() if one.definition.concurrency is not None]
        assert of_key == {one.run_id for one in narrow if not one.held}
        assert all(inside.values())

    def teardown(self) -> None:
        """Whatever waits comes to its turn: no slot is lost, nobody waits for ever."""
        for run in list(self.world.desk.runs.values()):
            self.world.desk.interventions.resume(run, "", self.world.now_us)
        for _ in range(200):
            self.world.desk.grants.admit(self.world.now_us)
            if not self.world.desk.runs:
                break
            for lease in self._live():
                self._end(lease, Success())
            for name in (*AGENTS, *AGENTS):
                self.grant(name, 5)
                self.no_limit_is_exceeded()
            self.world.wait(SECOND)
        assert not self.world.desk.runs
        assert not self.world.desk.leases
        self.the_books_say_what_the_leases_say()
        assert not self.world.desk.ready.size
        assert not any(agent.extra for agent in self._agents())

    def _agents(self) -> list[AgentSlots]:
        return list(self.world.agents.values())


TestLimits = LimitsMachine.TestCase
TestLimits.settings = settings(
    max_examples=settings().max_examples, stateful_step_count=30, deadline=None
)
