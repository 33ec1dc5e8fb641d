"""Who may be leased, and who waits for others of its key: as the docs say it."""

from __future__ import annotations

from tests.model import expressions as cel
from tests.model.rules import Rules
from tests.model.tasks import WORKING, Run, Task

from tenure_server.core.definitions.features import Concurrency, Rate, Strategy
from tenure_server.core.leasing.leases import AgentSlots


class Limits(Rules):
    """The rules, and what stands between a ready task and its lease."""

    def __init__(self, limit: int, now_us: int) -> None:
        super().__init__(now_us)
        self.limit = limit
        #: Names of workflows that are paused; an empty one stands for the tenant.
        self.paused: set[str] = set()
        #: When leases were begun, by key of their rate.
        self.rates: dict[tuple[str, ...], list[int]] = {}
        self.opened_us: int | None = None
        self.room_made: list[tuple[str, str]] = []
        self.newcomers: list[Run] = []

    def run(self, run_id: str) -> Run:
        """A run by its id."""
        return next(run for run in self.runs if run.run_id == run_id)

    # -- leases

    def leases(self) -> list[tuple[Run, Task]]:
        """The live leases."""
        return [(run, task) for run, task in self.tasks() if task.live]

    def obstacle(self, run: Run, task: Task) -> str:
        """Why a task may not be leased whoever asks. Empty: it may."""
        live = self.leases()
        weight = task.node.weight
        if task.state != "READY" or run.state not in WORKING or run.held:
            return "its turn has not come"
        if self.rests(run):
            return "it is paused"
        if sum(one.node.weight for _, one in live) + weight > self.limit:
            return "the tenant's limit"
        used = sum(one.node.weight for of, one in live if of.flow is run.flow)
        if run.flow.max_leases and used + weight > run.flow.max_leases:
            return "the workflow's limit"
        if self.is_full(run, task):
            return "its key's limit"
        return "its rate" if self.is_rated(run, task) else ""

    def check_lease(self, run: Run, task: Task, agent: AgentSlots) -> None:
        """Raises AssertionError for a lease that must not be."""
        assert not (why := self.obstacle(run, task)), f"{task.key} is leased against {why}"
        assert self.may_take(task, agent), f"{task.key} is not for {agent.name}"

    def may_take(self, task: Task, agent: AgentSlots) -> bool:
        """Whether an agent is one for a task, and has the slots that it takes."""
        mine = [one for _, one in self.leases() if (one.holder, one.agent) == agent.key]
        free = agent.slots - sum(one.node.weight for one in mine)
        placement = task.node.placement
        required = {} if placement is None else placement.required
        fits = set(required.items()) <= agent.labels
        return fits and task.node.kind in agent.kinds and task.node.weight <= free

    def rests(self, run: Run) -> bool:
        """Whether its workflow or its tenant is paused."""
        return not self.paused.isdisjoint({"", run.flow.name})

    # -- keys

    def key_of(self, run: Run, task: Task, declared: Concurrency | Rate) -> tuple[str, ...]:
        """What a limit is kept by. Raises NoValue."""
        if declared.key:
            return ("key", cel.key(declared.key, run.look_of()))
        of = task.of if task.place == "item" and task.of is not None else task
        return ("task", run.flow.name, of.key)

    def key_fails(self, run: Run, task: Task) -> bool:
        """Whether a key of a task cannot be worked out."""
        try:
            for declared in (task.node.concurrency, task.node.rate):
                if declared is not None:
                    self.key_of(run, task, declared)
        except cel.NoValue:
            return True
        return False

    def of_same_key(self, run: Run, task: Task) -> list[tuple[Run, Task]]:
        """The live leases of its key."""
        declared = task.node.concurrency
        if declared is None or self.key_fails(run, task):
            return []
        key = self.key_of(run, task, declared)
        return [
            (of, one)
            for of, one in self.leases()
            if one.node.concurrency is not None
            and self.key_of(of, one, one.node.concurrency) == key
        ]

    def is_full(self, run: Run, task: Task) -> bool:
        """Whether as many tasks of its key are leased as there may be."""
        declared = task.node.concurrency
        return declared is not None and len(self.of_same_key(run, task)) >= declared.limit

    def is_rated(self, run: Run, task: Task) -> bool:
        """Whether its rate is used up; what was begun before a restart is not known."""
        rate = task.node.rate
        if rate is None or self.key_fails(run, task):
            return False
        since_us = self.now_us - rate.per_us
        if self.opened_us is not None and self.opened_us > since_us:
            return True
        begun = self.rates.get(self.key_of(run, task, rate), [])
        return sum(at_us > since_us for at_us in begun) >= rate.count

    def begun(self, run: Run, task: Task) -> None:
        """A lease has begun."""
        if task.node.rate is not None:
            key = self.key_of(run, task, task.node.rate)
            self.rates.setdefault(key, []).append(self.now_us)

    def displace(self, run: Run, task: Task) -> None:
        """A lease was told to stop for another task of its key: checks that it had to."""
        wanting = [
            (of, one)
            for of, one in self.tasks()
            if one.state == "READY"
            and one.node.concurrency is not None
            and one.node.concurrency.strategy is Strategy.CANCEL_RUNNING
            and not self.key_fails(of, one)
            and (run, task) in self.of_same_key(of, one)
            and not self.rests(of)
            and of.state in WORKING
        ]
        assert wanting, f"nobody wants the place of {task.key}"
        assert any(
            len(self._staying(of, one)) >= _limit(one)
            and task.lease_us == min(each.lease_us for _, each in self._staying(of, one))
            for of, one in wanting
        ), f"{task.key} is not the one to go"
        task.displaced = True

    def _staying(self, run: Run, task: Task) -> list[tuple[Run, Task]]:
        same = self.of_same_key(run, task)
        return [(of, one) for of, one in same if not self.is_told(of, one)]

    def is_told(self, run: Run, task: Task) -> bool:
        """Whether the agent of a live lease is to end its attempt."""
        return self.is_cancelled_then(run, task)

    def turn_away(self, run: Run, task: Task) -> None:
        """A new task of a full key was cancelled: checks that it had to."""
        declared = task.node.concurrency
        assert declared is not None
        assert declared.strategy is Strategy.CANCEL_NEWEST
        assert self.is_full(run, task), f"{task.key} has room"
        task.state = "CANCELLED"
        self.settle_down(run)

    # -- runs of a key

    def enter(self, run: Run) -> None:
        """A run begins: it is let in, or waits for others of its key."""
        limit = run.flow.concurrency
        if limit is None:
            return
        try:
            run.key = cel.key(limit.key, run.look_of()) if limit.key else ""
        except cel.NoValue:
            run.key = None
        same = [one for one in self._of_key(run) if one is not run]
        if run.key is None or any(one.held for one in same) or len(same) >= limit.limit:
            run.held = True
            self.newcomers.append(run)

    def _of_key(self, run: Run) -> list[Run]:
        """The open runs of its key, itself among them."""
        return [
            one
            for one in self.open_runs
            if one.flow is run.flow and one.key == run.key and one.key is not None
        ]

    def left(self, run: Run) -> None:
        """A run makes room for others of its key."""
        if run.flow.concurrency is not None and run.key is not None:
            self.room_made.append((run.flow.name, run.key))

    def take_turns(self) -> None:
        """Decides what new runs mean for others, and lets in whom there is room for."""
        while self.newcomers or self.room_made:
            newcomers, self.newcomers = self.newcomers, []
            for run in newcomers:
                if run.held and not run.ended:
                    self._consider(run)
            for name, key in list(dict.fromkeys(self.room_made)):
                self.room_made = [one for one in self.room_made if one != (name, key)]
                self._let_in_from(name, key)

    def _consider(self, run: Run) -> None:
        limit = run.flow.concurrency
        assert limit is not None
        if run.key is None:
            self._fail_first(run)
            return
        inside = [one for one in self._of_key(run) if not one.held]
        if limit.strategy is Strategy.CANCEL_NEWEST and len(inside) >= limit.limit:
            self.cancel(run)
        elif limit.strategy is Strategy.CANCEL_RUNNING:
            self._displace_run(inside, limit.limit)
        self.room_made.append((run.flow.name, run.key))

    def _displace_run(self, inside: list[Run], limit: int) -> None:
        staying = [one for one in inside if one.state != "CANCELLING"]
        if len(staying) >= limit:
            self.cancel(min(staying, key=lambda one: (one.create_us, one.run_id)))

    def _let_in_from(self, name: str, key: str) -> None:
        while True:
            same = [one for one in self.open_runs if (one.flow.name, one.key) == (name, key)]
            waiting = [one for one in same if one.held and one.state != "CANCELLING"]
            if not waiting:
                return
            first = min(waiting, key=lambda one: (-one.priority, one.create_us, one.run_id))
            limit = first.flow.concurrency
            assert limit is not None
            inside = [one for one in same if not one.held]
            if len(inside) >= limit.limit:
                if limit.strategy is Strategy.CANCEL_RUNNING:
                    self._displace_run(inside, limit.limit)
                return
            first.held = False
            self.settle_down(first)

    def _fail_first(self, run: Run) -> None:
        """Fails what would have begun first."""
        run.held = False
        for task in [one for one in run.plan if not one.ended and self.turn_of(run, one) == "come"]:
            self.fail(run, task, "KEY_FAILED", for_good=True)
        self.settle_down(run)


def _limit(task: Task) -> int:
    assert task.node.concurrency is not None
    return task.node.concurrency.limit
