"""Whatever a run has done, and whatever the newer version is: it is refused, or goes on in order.

What happened is judged by the verifier of evidence, which knows nothing of the desk: it follows the
run through both definitions.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.server.core.world import SECOND, World, flow, portrait, task

from tenure_evidence import canonical
from tenure_evidence.canonical import digest_text
from tenure_evidence.items import events_of
from tenure_evidence.plan import plan_of
from tenure_evidence.sequence import Sequence
from tenure_server.core import errors
from tenure_server.core.definitions.definition import RetryPolicy, WorkflowDefinition, WorkflowTask
from tenure_server.core.definitions.features import ForEach, Handler, SignalWait, Timer, TriggerRule
from tenure_server.core.leasing.leases import STOPPED, Success
from tenure_server.core.ledger.items import items_of
from tenure_server.core.ledger.lifecycle import (
    RUN_ENDED,
    RUN_WORKING,
    TASK_ENDED,
    Failure,
    RunState,
    TaskState,
)
from tenure_server.core.runs.live import LiveRun

KINDS = ("work", "play", "undo", "tell")
GIVEN = {"list": [1, 2, 3], "who": "ada"}
TASKS_MAX = 7
#: So many turns are enough for the longest run to end.
TURNS_MAX = 200


class Author:
    """Makes up definitions, and changes them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def definition(self) -> WorkflowDefinition:
        """A definition of a few tasks, in no particular order."""
        keys = [f"t{number}" for number in range(self._chance.randint(1, TASKS_MAX))]
        return self._flow([self._task(key, keys[:place]) for place, key in enumerate(keys)])

    def newer(self, old: WorkflowDefinition) -> WorkflowDefinition:
        """The same with a few changes: or, now and then, another one."""
        if self._chance.random() < 0.1:
            return self.definition()
        tasks = self._sorted(old)
        for _ in range(self._chance.randint(0, 3)):
            place = self._chance.randrange(len(tasks) + 1)
            # A key may have been made up twice.
            before = list(dict.fromkeys(one.key for one in tasks[:place]))
            what = self._chance.random()
            if what < 0.4:
                # Between the others: some may depend on it.
                key = f"n{self._chance.randrange(99)}"
                tasks.insert(place, self._task(key, [one for one in before if one != key]))
            elif what < 0.6 and len(tasks) > 1 and place < len(tasks):
                del tasks[place]
            elif place < len(tasks):
                tasks[place] = self._task(tasks[place].key, before)
        unique = {one.key: one for one in tasks}
        kept: list[WorkflowTask] = []
        for one in unique.values():
            known = sorted(it.key for it in kept)
            depends_on = [up for up in one.depends_on if up in known]
            if len(depends_on) == len(one.depends_on) and self._chance.random() < 0.8:
                kept.append(one)
                continue
            more = [key for key in known if self._chance.random() < 0.2]
            kept.append(self._again(one, sorted({*depends_on, *more})))
        return self._flow(kept, old.on_failure)

    def _again(self, one: WorkflowTask, depends_on: list[str]) -> WorkflowTask:
        trigger = one.trigger if depends_on else TriggerRule.ALL_SUCCEEDED
        options = {"for_each": one.for_each, "wait": one.wait, "when": one.when}
        return task(
            one.key,
            *depends_on,
            kind=one.kind,
            retry=one.retry,
            trigger=trigger,
            compensation=one.compensation,
            **options,
        )

    def _sorted(self, definition: WorkflowDefinition) -> list[WorkflowTask]:
        """Each behind what it depends on."""
        left, done = {one.key: one for one in definition.tasks}, list[WorkflowTask]()
        while left:
            known = {one.key for one in done}
            ready = [one for one in left.values() if known.issuperset(one.depends_on)]
            done += ready
            for one in ready:
                del left[one.key]
        return done

    def _flow(
        self, tasks: list[WorkflowTask], on_failure: Handler | None = None
    ) -> WorkflowDefinition:
        self._chance.shuffle(tasks)
        if self._chance.random() < 0.3:
            on_failure = Handler(kind="tell") if on_failure is None else None
        definition = flow(*tasks, on_failure=on_failure)
        definition.check()
        return definition

    def _task(self, key: str, before: list[str]) -> WorkflowTask:
        chance = self._chance
        depends_on = [up for up in before if chance.random() < 0.4]
        options: dict[str, Any] = {}
        if depends_on and chance.random() < 0.3:
            options["trigger"] = chance.choice(list(TriggerRule))
        if chance.random() < 0.2:
            options["when"] = chance.choice(["true", "false", "run.input.who == 'ada'"])
        if chance.random() < 0.2:
            options["compensation"] = Handler(kind="undo")
        what = chance.random()
        if what < 0.12:
            return task(key, *depends_on, kind="", wait=Timer(delay_us=SECOND), **options)
        if what < 0.24:
            return task(key, *depends_on, kind="", wait=SignalWait(name="go"), **options)
        if what < 0.4:
            options["for_each"] = ForEach(
                items="run.input.list",
                parallelism=chance.randint(0, 2),
                failures_max=chance.choice([0, 0, 1, -1]),
            )
        retry = RetryPolicy(max_attempts=chance.randint(1, 3), initial_delay_us=SECOND, jitter=0)
        return task(key, *depends_on, kind=chance.choice(KINDS[:2]), retry=retry, **options)


class Stage:
    """A run, what is done to it at random, and everything that was written down of it."""

    def __init__(self, chance: random.Random, definition: WorkflowDefinition) -> None:
        self._chance = chance
        self.world = World()
        self.definitions = [definition]
        self.run_id = self.world.start_flow(definition, given=GIVEN).run_id
        self._events: list[Any] = []

    @property
    def run(self) -> LiveRun | None:
        """The run while it is open."""
        return self.world.desk.runs.get(self.run_id)

    def turn(self, fails: float) -> None:
        """Something happens."""
        world, chance = self.world, self._chance
        what = chance.random()
        if what < 0.6:
            for lease in world.grant(world.agent(kinds=KINDS), at_most=chance.randint(1, 3)):
                end: Any = Success(None)
                if chance.random() < fails:
                    end = chance.choice([Failure("BOOM"), Failure("BAD", "", True), STOPPED])
                if chance.random() < 0.9:
                    world.settle(lease, end)
        elif what < 0.75:
            world.wait(2 * SECOND)
        elif what < 0.9 and self.run is not None:
            world.desk.consequences.signals.signal(self.run, "go", None, world.now_us)
        else:
            for lease in list(world.desk.leases.values()):
                world.settle(lease)
        self.commit()

    def commit(self) -> None:
        """Keeps what was written down."""
        changes = self.world.journal.seal()
        self.world.tables.commit(changes)
        said = map(canonical.read, items_of(changes.events, changes.said).written)
        self._events += [event for item in said for event in events_of(item)]

    def restart(self) -> None:
        """A restart finds nothing that was not there before."""
        self.commit()
        before = self._seen()
        self.world.reopen()
        # Retries that fell due are noted in no row; they fall due again at once.
        self.world.wait(0)
        assert self._seen() == before

    def _seen(self) -> dict[str, Any]:
        seen = portrait(self.world.desk)
        for run in seen["runs"].values():
            # A list that has not begun is empty, or not there.
            run["lists"] = {index: items for index, items in run["lists"].items() if items}
        return seen

    def move(self, to: WorkflowDefinition) -> str:
        """Moves the run; says what stands against it, or nothing."""
        self.commit()
        world, run = self.world, self.run or self.world.read_run(self.run_id)
        before = portrait(world.desk)
        try:
            world.move(run, to, len(self.definitions) + 1)
        except (errors.VersionsDiffer, errors.RunStands, errors.RunClosed) as refusal:
            assert portrait(world.desk) == before
            assert not world.journal.seal()
            return type(refusal).__name__
        self.definitions.append(to)
        self.commit()
        return ""

    def check(self) -> None:
        """Wants the whole story to be in order, and the rows to be what it says."""
        plans = [plan_of(one.canonical()) for one in self.definitions]
        digests = [digest_text(one.canonical()) for one in self.definitions]
        sequence = Sequence(plans[0], dict(zip(digests, plans, strict=True)))
        for event in self._events:
            assert sequence.take(event) == "", event
        assert sequence.moved_to == digests[1:]
        ends: dict[str, TaskState] = {}
        for event in self._events:
            if event["kind"] == "task.reopened":
                ends.pop(event["task"], None)
            name = event["kind"].removeprefix("task.").upper()
            if name in TaskState.__members__ and TaskState[name] in TASK_ENDED:
                ends[event["task"]] = TaskState[name]
        rows = self.world.tables.tasks_of(self.run_id).values()
        stored = {row.task_key: row.state for row in rows if row.state in TASK_ENDED}
        assert stored == ends
        record = self.world.tables.run(self.run_id)
        if record.state in RUN_ENDED:
            assert record.task_count == len(ends)
            assert record.succeeded == list(ends.values()).count(TaskState.SUCCEEDED)

    def finish(self) -> None:
        """Lets it go on until it ends, without leaving a lease behind."""
        for _ in range(TURNS_MAX):
            if self.run is None:
                return
            self.turn(0.1)
            for lease in list(self.world.desk.leases.values()):
                self.world.settle(lease)
            self.world.wait(2 * SECOND)
            if (run := self.run) is not None:
                self.world.desk.consequences.signals.signal(run, "go", None, self.world.now_us)
            self.commit()
        raise AssertionError("it does not end")


@given(st.randoms(use_true_random=True), st.integers(0, 12))
def test_a_version_that_differs_in_its_description_only_is_always_taken(
    chance: random.Random, turns: int
) -> None:
    stage = Stage(chance, Author(chance).definition())
    for _ in range(turns):
        stage.turn(0.3)
    for lease in list(stage.world.desk.leases.values()):
        stage.world.settle(lease)
    run = stage.run
    if run is None or run.state is not RunState.RUNNING:
        return
    stage.world.desk.interventions.pause(run, "", stage.world.now_us)
    states = stage.world.states(run)
    assert stage.move(replace(stage.definitions[0], description="told better")) == ""
    assert stage.run is not None
    assert stage.world.states(stage.run) == states
    stage.world.desk.interventions.resume(stage.run, "", stage.world.now_us)
    stage.finish()
    stage.check()


@given(st.randoms(use_true_random=True), st.integers(0, 12), st.sampled_from([0.0, 0.2, 0.6]))
def test_a_moved_run_keeps_the_order_of_both_versions(
    chance: random.Random, turns: int, fails: float
) -> None:
    author = Author(chance)
    stage = Stage(chance, author.definition())
    for _ in range(turns):
        stage.turn(fails)
    for _ in range(3):
        run = stage.run
        # Also while it is undone, or tells of its failure: then it is refused.
        if run is not None and run.state in RUN_WORKING:
            stage.world.desk.interventions.pause(run, "", stage.world.now_us)
        against = stage.move(author.newer(stage.definitions[-1]))
        stage.check()
        stage.restart()
        run = stage.run
        if run is not None and run.state is RunState.PAUSED and chance.random() < 0.7:
            stage.world.desk.interventions.resume(run, "", stage.world.now_us)
        if against == "":
            stage.turn(fails)
    if (run := stage.run) is not None:
        stage.world.desk.interventions.resume(run, "", stage.world.now_us)
        stage.finish()
    stage.check()
