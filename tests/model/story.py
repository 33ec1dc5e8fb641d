"""One story: an installation of few workflows, and everything that can happen, step by step.

It is told twice with the same choices: once with a restart now and then, and once with memory
thrown away and read back after each step. Both must say the same, as long as the same of several
ready tasks were leased first.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.model.acts import (
    ACTS,
    FULL,
    Act,
    consent,
    give,
    grant,
    publish_to,
    renew_all,
    report,
    send,
)
from tests.model.bench import AGENTS
from tests.model.choices import Choices, Pages
from tests.model.course import Course
from tests.model.definitions import PEOPLE, definitions
from tests.model.invariants import Watch, check_end
from tests.model.operators import VERBS, let_go_on, let_name_go_on
from tests.server.core.world import SECOND

from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.features import Approval, EventWait, SignalWait, Strategy
from tenure_server.core.desks import poison
from tenure_server.core.ledger import lifecycle
from tenure_server.core.ledger.lifecycle import TASK_TRANSITIONS, TaskState
from tenure_server.core.runs import restoring
from tenure_server.core.runs.live import LiveRun
from tenure_server.store import sqlite
from tenure_server.store.database import Store, open_store

STEPS = 40
#: So many rounds must do to bring everything to its end, with every agent at work.
_ROUNDS_MAX = 300

#: The states of all runs and tasks after a step.
State = tuple[Any, ...]


@dataclass
class Told:
    """What there is to tell."""

    pages: Pages
    steps: int = 0
    #: What was wrong. Empty: nothing.
    wrong: str = ""
    lines: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    #: The steps in which agents asked for leases.
    asked: set[int] = field(default_factory=set)
    #: Whether all agents renew their leases after each step, as a restart does it for them.
    calm: bool = False
    #: How many steps were the same in both ways.
    compared: int = 0


class Library:
    """A store for one story after the other, each of a tenant of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tenure.db"
        self.store: Store = open_store(f"sqlite://{self.path}", holder="model", address="here:1")
        self._tenants = 0

    def new_tenant(self) -> str:
        """The name of a tenant that there is not yet."""
        self._tenants += 1
        return f"tenant-{self._tenants}"


@contextlib.contextmanager
def library(folder: Path) -> Iterator[Library]:
    """Opens a store in an empty folder, and has few lost leases be enough."""
    move, restore = LiveRun.move, restoring.restore

    def watched_move(run: LiveRun, index: int, state: TaskState) -> None:
        before = TaskState(run.states[index])
        assert before == state or (before, state) in TASK_TRANSITIONS or _is_again(before, state)
        move(run, index, state)

    def unwatched_restore(run: LiveRun, *args: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(LiveRun, "move", move)
            restore(run, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "WAL_BYTES", 0)
        patch.setattr(LiveRun, "move", watched_move)
        patch.setattr(restoring, "restore", unwatched_restore)
        patch.setattr(lifecycle, "LOST_LEASES_MAX", 2)
        patch.setattr(poison, "LOSSES_MAX", 3)
        shelf = Library(folder)
        try:
            with shelf.store.reading():
                yield shelf
        finally:
            shelf.store.close()


def _is_again(before: TaskState, state: TaskState) -> bool:
    """Opened again: out of any end."""
    return state is TaskState.WAITING and before in lifecycle.TASK_ENDED


def tell(
    shelf: Library,
    seed: int | str | None,
    *,
    steps: int = STEPS,
    pages: Sequence[Sequence[int]] | None = None,
    reopening: bool = False,
) -> Told:
    """Tells a story by a seed, or by the pages of one."""
    choices = Choices(seed, pages)
    told = Told(choices.pages)
    try:
        _Teller(shelf, choices, told, reopening).tell(steps)
    except Exception as error:  # noqa: BLE001 - whatever it is, the story went wrong
        told.wrong = _named(error)
    return told


def tell_twice(
    shelf: Library,
    seed: int | str | None,
    *,
    steps: int = STEPS,
    pages: Sequence[Sequence[int]] | None = None,
) -> Told:
    """Tells it once as it comes, and once with memory thrown away after every step."""
    first = tell(shelf, seed, steps=steps, pages=pages)
    if first.wrong:
        return first
    second = tell(shelf, None, steps=steps, pages=first.pages, reopening=True)
    if second.wrong:
        second.wrong = f"opened again after each step: {second.wrong}"
        return second
    if not first.calm:
        return first
    for at, (one, other) in enumerate(zip(first.states, second.states, strict=True)):
        if one == other:
            first.compared += 1
        elif at in first.asked:
            # Another one of those that might be leased was: from here on they differ.
            break
        else:
            first.wrong = f"opened again after each step it is otherwise after step {at}"
            first.lines += ["", *_differing(one, other)]
            break
    return first


class _Teller:
    def __init__(self, shelf: Library, choices: Choices, told: Told, reopening: bool) -> None:
        self._shelf = shelf
        self._choices = choices
        self._told = told
        self._reopening = reopening
        choices.turn_page()
        flows = definitions(choices)
        self._verbs = choices.happens(70)
        # What tasks that wait do to others of their key once somebody looks at them, they do at
        # once after a restart.
        told.calm = choices.happens(60) and not any(map(_cancels, flows))
        self._course = Course(shelf.store, shelf.new_tenant(), choices)
        self._watch = Watch(self._course)
        for flow in flows:
            self._course.bench.register(flow)
            told.lines.append(flow.canonical().decode())

    def tell(self, steps: int) -> None:
        acts = [*ACTS, *VERBS] if self._verbs else list(ACTS)
        while self._told.steps < steps and self._choices.turn_page():
            self._step(acts)
        self._finish()

    def _step(self, acts: list[tuple[int, Act]]) -> None:
        self._told.lines.append("(nothing yet)")
        for _ in range(5):
            act = self._choices.weighted(acts)
            self._told.lines[-1] = f"{act.__name__} …"
            line = act(self._course)
            if line is not None:
                break
        self._told.lines[-1] = line or "nothing"
        self._check()
        if self._reopening:
            self._course.reopen()
            self._check()
        elif self._told.calm:
            renew_all(self._course)
        if act is grant:
            self._told.asked.add(self._told.steps)
        self._told.states.append(_state(self._course))
        self._told.steps += 1

    def _check(self) -> None:
        self._course.end_turn()
        # What is due at once is not waited for.
        self._course.wait(0)
        changes = self._course.bench.commit()
        self._course.commit()
        self._watch.check(changes)

    # -- the end

    def _finish(self) -> None:
        """Whatever was left undone can be brought to its end, and the records are whole."""
        course = self._course
        course.model.limit = 100
        course.bench.limit(100)
        for name in sorted(course.model.paused):
            let_name_go_on(course, name)
        for _ in range(_ROUNDS_MAX):
            if not course.model.open_runs:
                break
            self._work()
        left = [run.number for run in course.model.open_runs]
        assert not left, f"runs {left} do not come to their end"
        assert not course.bench.desk.leases
        assert not course.bench.desk.consequences.children.wanted
        check_end(course)
        self._watch.audit(self._shelf.path)

    def _work(self) -> None:
        """One round in which everybody does what there is to do."""
        course = self._course
        for run in course.model.open_runs:
            if run.state == "PAUSED":
                let_go_on(course, run)
                self._check()
        for agent in (*AGENTS, *AGENTS):
            give(course, agent, 10)
            self._check()
        for _, task in course.model.leases():
            if task.live:
                lease = next(one for one in course.granted if one.token == task.token)
                report(course, lease, FULL)
                self._check()
        for run, task in list(course.model.tasks()):
            if task.state != "ACTIVE":
                continue
            match task.node.wait:
                case SignalWait(name=name):
                    send(course, run, name, None)
                case EventWait(name=name):
                    publish_to(course, name, task.event_key)
                case Approval():
                    for who in PEOPLE:
                        consent(course, run, task, who, True)
            self._check()
        course.wait(60 * SECOND)
        self._check()


def _cancels(flow: WorkflowDefinition) -> bool:
    limits = [task.concurrency for task in flow.tasks if task.concurrency is not None]
    return any(limit.strategy is not Strategy.QUEUE for limit in limits)


def _state(course: Course) -> State:
    return tuple(
        (run.number, run.state, tuple((key, task.state) for key, task in sorted(run.tasks.items())))
        for run in course.model.runs
    )


def _differing(one: State, other: State) -> list[str]:
    pairs = zip(one, other, strict=False)
    return [f"{first}\n{second}" for first, second in pairs if first != second]


def _named(error: Exception) -> str:
    """The error and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{Path(one.filename).name}:{one.lineno}" for one in frames[-3:]]
    return f"{type(error).__name__}: {error} ({', '.join(where)})"
