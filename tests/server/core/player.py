"""Plays a feature of `tests/server/features.py` on a desk, one thing after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
from tests.server.core.progress.test_children import birth
from tests.server.core.world import LEASE_US, World, json_payload
from tests.server.features import DECIDERS, KINDS, LABELS, SLOTS, TWICE, Feature

from tenure_server.core import errors
from tenure_server.core.definitions.definition import Payload, WorkflowDefinition
from tenure_server.core.definitions.features import Approval, EventWait, SignalWait
from tenure_server.core.leasing.leases import STOPPED, AgentSlots, Lease, Success
from tenure_server.core.ledger.lifecycle import (
    RUN_ENDED,
    EventKind,
    Failure,
    TaskState,
    Verdict,
)
from tenure_server.core.progress.approvals import Decider
from tenure_server.core.runs.live import LiveRun

STEPS_MAX = 400
FLAKY = Failure("FLAKY")


class Player:
    """Plays a feature to its end, one thing after the other, always in the same order."""

    def __init__(self, feature: Feature, *, lossy: bool = False, flaky: bool = False) -> None:
        self.feature = (
            replace(
                feature,
                definition=once_more(feature.definition),
                children=tuple(map(once_more, feature.children)),
            )
            if flaky
            else feature
        )
        self.world = World()
        self.hands: list[Lease] = []
        self.inputs: dict[str, Any] = {}
        self.found: dict[str, list[Any]] = {}
        self._lossy, self._flaky = lossy, flaky
        self._lost: set[tuple[str, str, int]] = set()
        self._failed: set[tuple[str, str]] = set()
        self._ended: dict[tuple[str, str], int] = {}
        self.runs = [
            self.world.start_flow(self.feature.definition, given=feature.given).run_id
            for _ in range(feature.runs)
        ]
        for name in feature.early:
            for run_id in self.runs:
                self._signal(self.world.desk.runs[run_id], name)

    # -- what happens

    def step(self) -> bool:
        """Does the next thing; False when there is nothing left to do."""
        acts = (self.bear, self.settle, self.take, self.speak, self._wait)
        done = any(act() for act in acts)
        assert self.feature.always(self.world.desk)
        return done

    def play(self, disturb: Callable[[], None] = lambda: None, *, at: int = -1) -> int:
        """Plays to the end, and says in how many steps. `disturb` comes before step `at`."""
        steps = 0
        while True:
            assert steps < STEPS_MAX, "it never ends"
            if steps == at:
                disturb()
            if not self.step():
                break
            steps += 1
        self.world.commit()
        return steps

    def reopen(self) -> None:
        """Throws memory away, and does what had fallen due."""
        self.world.reopen()
        self.world.wait(0)

    def open_runs(self) -> list[str]:
        """The runs of the feature that have not ended."""
        return [run_id for run_id in self.runs if run_id in self.world.desk.runs]

    def ended(self) -> LiveRun:
        """The first run, which has ended, as it was when it was opened: for `execute_again`."""
        record = self.world.tables.run(self.runs[0])
        definition = self.world.tables.definitions[record.workflow_digest]
        return LiveRun(record, definition, definition.check(), order=0)

    def agent(self) -> AgentSlots:
        """The one agent, with as many credits as it has slots free."""
        agent = self.world.agent(slots=SLOTS, kinds=KINDS)
        agent.introduce(LABELS)
        return agent

    def bear(self) -> bool:
        """Starts the runs that tasks wait for."""
        children = self.world.desk.consequences.children
        wanted = [one for one in children.wanted if children.still_wanted(one)]
        children.wanted.clear()
        for one in wanted:
            definition = {flow.name: flow for flow in self.feature.children}[one.workflow.name]
            birth(self.world, one, definition)
        return bool(wanted)

    def take(self) -> bool:
        """Lets the agent take what it can."""
        leases = self.world.grant(self.agent())
        for lease in leases:
            self.world.desk.accept(lease)
            self.inputs[lease.task_key] = None if lease.input is None else _value(lease.input)
            self.found.setdefault(lease.task_key, []).append(lease.checkpoint)
        self.hands += leases
        return bool(leases)

    def settle(self) -> bool:
        """Ends the attempt that was leased first, in the way that is its due."""
        if not self.hands:
            return False
        key, run_id = self.hands[0].task_key, self.hands[0].run.run_id
        saved = self.feature.saves.get(key)
        if saved is not None and (lease := self.world.desk.leases.get(self.hands[0].key)):
            self.world.desk.renew(lease, json_payload(saved), self.world.now_us)
        attempt = (run_id, key, self.hands[0].attempt)
        if self._lossy and attempt not in self._lost:
            # Whoever holds the others is lost with it.
            self._lost |= {(one.run.run_id, one.task_key, one.attempt) for one in self.hands}
            self.hands.clear()
            self.world.wait(LEASE_US)
            return True
        lease = self.hands.pop(0)
        live = self.world.desk.leases.get(lease.key)
        assert live is not None
        verdict = self.world.verdict(lease, self._end_of(live))
        assert verdict in (Verdict.APPLIED, Verdict.OUTPUT_REFUSED)
        return True

    def _end_of(self, lease: Lease) -> Any:
        if lease.cancelling:
            return STOPPED
        task = lease.run.run_id, lease.task_key
        if self._flaky and task not in self._failed:
            self._failed.add(task)
            return FLAKY
        number = self._ended[task] = self._ended.get(task, -1) + 1
        ends = self.feature.ends.get(lease.task_key, ())
        return ends[number] if number < len(ends) else Success(json_payload({"by": task[1]}))

    def speak(self) -> bool:
        """The world says what is waited for, one thing at a time."""
        for run in self.world.desk.runs.values():
            for index, state in enumerate(run.states):
                if state == TaskState.ACTIVE and self._answer(run, index):
                    return True
        return False

    def _answer(self, run: LiveRun, index: int) -> bool:
        consequences, now_us = self.world.desk.consequences, self.world.now_us
        match run.tasks[index].wait:
            case SignalWait(name=name) if name != "never-sent":
                self._signal(run, name)
                return True
            case EventWait(name=name):
                key = (run.facts[index].detail or {})["key"]
                told = json_payload({"event": name})
                assert consequences.events.publish(name, "of another", told, now_us) == (not key)
                if key:
                    consequences.events.publish(name, key, told, now_us)
                return True
            case Approval():
                decided = {one["name"] for one in (run.facts[index].detail or {})["decisions"]}
                for name in sorted(set(DECIDERS) - decided):
                    try:
                        decider = Decider(f"key-{name}", name)
                        consequences.approvals.decide(run, index, decider, True, "", now_us)
                    except errors.NotApprover:
                        continue
                    return True
        return False

    def _signal(self, run: LiveRun, name: str) -> None:
        told = json_payload({"signal": name})
        self.world.desk.consequences.signals.signal(run, name, told, self.world.now_us)

    def _wait(self) -> bool:
        desk = self.world.desk
        desk.grants.admit(self.world.now_us)
        desk.dues.forget_idle()
        due_us = desk.dues.next_us()
        if due_us is None:
            return False
        self.world.wait(max(0, due_us - self.world.now_us))
        return True

    # -- how it came out

    def outcome(self) -> list[dict[str, Any]]:
        """Everything that can be seen of the runs, but for times."""
        tables, known = self.world.tables, list(self.world.tables.runs)
        return [
            {
                "workflow": run.workflow,
                "parent": known.index(run.parent_run_id) if run.parent_run_id else None,
                "state": run.state.name,
                "reason": run.reason,
                "output": json_of(run.output),
                "tasks": {one.task_key: _end(one) for one in tables.tasks_of(run.run_id).values()},
            }
            for run in map(tables.run, known)
        ]

    def kinds(self) -> list[EventKind]:
        """What happened in all runs."""
        return [
            kind for run_id in self.world.tables.runs for kind in self.world.tables.kinds(run_id)
        ]

    def begun(self) -> list[tuple[str, int]]:
        """The leases of all runs, by key and time, in their order."""
        leased = int(EventKind.TASK_LEASED)
        events = [one for log in self.world.tables.events.values() for one in log]
        return [(one["task_key"], one["at_us"]) for one in events if one["kind"] == leased]

    def check_nothing_is_left(self) -> None:
        """All runs have ended, and nothing of them lies about in memory."""
        desk = self.world.desk
        assert all(self.world.tables.run(run_id).state in RUN_ENDED for run_id in self.runs)
        assert not desk.runs
        assert not desk.leases
        assert (desk.open_tasks, desk.leases.extra, desk.limits.leases) == (0, set(), {})
        assert not desk.consequences.run_limits.inside
        assert not desk.consequences.signals._waiting
        assert not desk.consequences.events._waiting
        assert self.world.grant(self.agent()) == []


def once_more(definition: WorkflowDefinition) -> WorkflowDefinition:
    """The same, with one more attempt for each handler."""
    tasks = []
    for task in definition.tasks:
        more = {"retry": _with_one_more(task.retry)} if task.kind else {}
        if task.compensation is not None:
            undo = replace(task.compensation, retry=_with_one_more(task.compensation.retry))
            more["compensation"] = undo
        tasks.append(replace(task, **more))
    told = definition.on_failure
    if told is not None:
        told = replace(told, retry=_with_one_more(told.retry))
    return replace(definition, tasks=tuple(tasks), on_failure=told)


def _with_one_more(retry: Any) -> Any:
    if retry.max_attempts == 1:
        return TWICE
    return replace(retry, max_attempts=retry.max_attempts + 1)


def json_of(data: Any) -> Any:
    """What a column of a run's row holds."""
    return None if data is None else orjson.loads(data)


def _value(payload: Payload) -> Any:
    return orjson.loads(payload.data)


def _end(task: Any) -> tuple[Any, ...]:
    output = None if task.output is None else _value(task.output)
    if isinstance(output, dict) and "decisions" in output:
        output = [(one["name"], one["consent"]) for one in output["decisions"]]
    return task.state.name, task.attempt, task.failure and task.failure.code, output
