"""Why a task does not run: what stands between it and a lease, or what it waits for itself.

Looks at a desk and changes nothing. Each hindrance has a kind and facts for programs, and says in a
sentence what it is.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tenure_server.core.definitions.features import (
    Approval,
    EventWait,
    SignalWait,
    SubWorkflow,
    Timer,
)
from tenure_server.core.desks import pauses
from tenure_server.core.desks.desk import Desk
from tenure_server.core.desks.law import DENIED
from tenure_server.core.leasing.leases import AgentSlots
from tenure_server.core.ledger.lifecycle import RUN_WORKING, TASK_ENDED, RunState, TaskState
from tenure_server.core.runs import extensions
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts
from tenure_server.core.seeing.ready_hindrances import Reason, Why, why_not

#: How many of the tasks that one waits for are named.
KEYS_NAMED_MAX = 20
_KEYS_SAID_MAX = 3


class Kind(enum.IntEnum):
    """Kinds of what stands in the way. Numbers as in the contract."""

    TASKS = 1
    RETRY = 2
    TIMER = 3
    SIGNAL = 4
    EVENT = 5
    APPROVAL = 6
    CHILD_RUN = 7
    ITEMS = 8
    RUN_PAUSED = 9
    AFTERMATH = 11
    WORKFLOW_PAUSED = 12
    TENANT_PAUSED = 13
    TENANT_LEASES = 14
    WORKFLOW_LEASES = 15
    NO_AGENT = 16
    AGENTS_BUSY = 17
    BEHIND_OTHERS = 18
    DENIED = 19
    NOTHING = 20
    RUN_LIMIT = 21
    KEY_LIMIT = 22
    RATE = 23
    PLACEMENT = 24
    TOO_HEAVY = 25
    KEY_FAILED = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """One thing that stands in the way. Of the facts those are given that its kind has."""

    kind: Kind
    #: For people: lower case, without a final period.
    sentence: str
    #: The first of the tasks that are waited for.
    task_keys: tuple[str, ...] = ()
    #: When it ends by itself, in microseconds. None: it does not.
    due_us: int | None = None
    #: Of the kind of task, signal, event, or workflow.
    name: str = ""
    #: Of the event, empty for any; or of the limit.
    key: str = ""
    child_run_id: str = ""
    #: How many there are, of how many; -1 where it is not known.
    count: int = -1
    limit: int = -1


@dataclass(frozen=True, slots=True)
class Explained:
    """A task and why it does not run; without hindrances where it runs or has ended."""

    index: int
    state: TaskState
    hindrances: tuple[Hindrance, ...]


def idle(run: LiveRun) -> list[int]:
    """The tasks of a run that have neither ended nor are leased, by number."""
    running = TASK_ENDED | {TaskState.LEASED}
    return [index for index, state in enumerate(run.states) if state not in running]


def explain(
    desk: Desk, run: LiveRun, chosen: Collection[int], agents: Sequence[AgentSlots], now_us: int
) -> list[Explained]:
    """Explains some tasks of an open run. `agents` are those of the tenant on the line."""
    ready = _Ready(desk, run, agents, now_us)
    explained = []
    for index in chosen:
        state = TaskState(run.states[index])
        if state in TASK_ENDED or state is TaskState.LEASED:
            found: list[Hindrance] = []
        elif state is TaskState.READY and run.state in RUN_WORKING:
            found = [_of_ready(ready.reason(index), run.tasks[index].kind)]
        else:
            found = _of_itself(desk, run, index, state, now_us) + _of_run(desk, run, index, now_us)
        explained.append(Explained(index, state, tuple(found)))
    return explained


def _of_itself(
    desk: Desk, run: LiveRun, index: int, state: TaskState, now_us: int
) -> list[Hindrance]:
    facts = run.facts.get(index) or TaskFacts()
    match state:
        case TaskState.READY:
            return []
        case TaskState.WAITING:
            return [] if run.held and not run.missing[index] else [_of_waiting(run, index)]
        case TaskState.RETRYING:
            return _of_retrying(facts, now_us)
        case _:
            return [_of_active(desk, run, index, facts)]


def _of_run(desk: Desk, run: LiveRun, index: int, now_us: int) -> list[Hindrance]:
    """What holds for all tasks of a run that no agent has.

    In one that is being cancelled there are none: a cancel ends them at once.
    """
    found = []
    if run.state is RunState.PAUSED:
        found.append(Hindrance(kind=Kind.RUN_PAUSED, sentence="the run is paused"))
    found += [_of_pause(one.workflow, one.reason) for one in pauses.of(desk, run)]
    if run.held:
        found.append(_of_ready(why_not(desk, run, index, (), now_us), ""))
    return found


def _of_waiting(run: LiveRun, index: int) -> Hindrance:
    if index >= run.planned:
        of, _ = run.extension_of(index)
        if of.kind == extensions.ITEMS:
            key = run.graph.keys[of.of]
            text = f"it is an item of {key}, whose turn has not come"
            return Hindrance(kind=Kind.ITEMS, sentence=text, task_keys=(key,))
        text = "what comes after a failure is done one by one, and others come first"
        return Hindrance(kind=Kind.AFTERMATH, sentence=text)
    states, keys = run.states, run.graph.keys
    waits = [keys[up] for up in run.graph.upstream[index] if states[up] not in TASK_ENDED]
    if not waits:
        text = "what it depends on has ended; its turn is about to come"
        return Hindrance(kind=Kind.NOTHING, sentence=text)
    text = f"it waits for {_listed(waits)}"
    named = tuple(waits[:KEYS_NAMED_MAX])
    return Hindrance(kind=Kind.TASKS, sentence=text, task_keys=named, count=len(waits))


def _of_retrying(facts: TaskFacts, now_us: int) -> list[Hindrance]:
    due_us = now_us if facts.retry_us is None else facts.retry_us
    failure = facts.failure
    said = f" after {failure.code}" if failure is not None else ""
    text = f"its next attempt{said} is due at {_time(due_us)}"
    reasons = [Hindrance(kind=Kind.RETRY, sentence=text, due_us=due_us, count=facts.attempt)]
    if failure is not None and failure.code == DENIED:
        text = f"the constitution denied its last attempt: {failure.message}"
        reasons.append(Hindrance(kind=Kind.DENIED, sentence=text))
    return reasons


# -- tasks that are active without a lease


def _of_active(desk: Desk, run: LiveRun, index: int, facts: TaskFacts) -> Hindrance:
    if run.tasks[index].for_each is not None:
        return _of_items(run, index)
    wait, detail = run.tasks[index].wait, facts.detail or {}
    due_us: int | None = detail.get("due")
    until = "" if due_us is None else f", until {_time(due_us)}"
    match wait:
        case Timer():
            text = f"its time comes at {_time(due_us or 0)}"
            return Hindrance(kind=Kind.TIMER, sentence=text, due_us=due_us)
        case SignalWait(name=name):
            text = f"it waits for the signal {name}{until}"
            return Hindrance(kind=Kind.SIGNAL, sentence=text, name=name, due_us=due_us)
        case EventWait(name=name):
            key = detail.get("key", "")
            of = f" with the key {key}" if key else ""
            text = f"it waits for the event {name}{of}{until}"
            return Hindrance(kind=Kind.EVENT, sentence=text, name=name, key=key, due_us=due_us)
        case Approval(quorum=quorum):
            consents = sum(one["consent"] for one in detail.get("decisions", ()))
            text = f"it waits for consent: {consents} of {quorum} given{until}"
            return Hindrance(
                kind=Kind.APPROVAL, sentence=text, due_us=due_us, count=consents, limit=quorum
            )
        case SubWorkflow(name=name):
            return _of_child(desk, name, detail)
    raise AssertionError(f"task {run.graph.keys[index]} is active, and waits for nothing")


def _of_child(desk: Desk, name: str, detail: Mapping[str, Any]) -> Hindrance:
    child_id = detail.get("child", "")
    if child_id:
        child = desk.runs.get(child_id)
        stands = "" if child is None else f", which is {child.state.name.lower()}"
        text = f"it waits for run {child_id} of workflow {name}{stands}"
    else:
        text = f"a run of workflow {name} is about to be started for it"
    return Hindrance(kind=Kind.CHILD_RUN, sentence=text, name=name, child_run_id=child_id)


def _of_items(run: LiveRun, index: int) -> Hindrance:
    items = run.parts_of(index)
    left = sum(run.states[item] not in TASK_ENDED for item in items)
    text = f"{left} of its {len(items)} items have not ended"
    return Hindrance(kind=Kind.ITEMS, sentence=text, count=left, limit=len(items))


# -- tasks that are ready to be leased


class _Ready:
    """Ready tasks of one run. Those of one kind and priority without limits of their own differ in
    who is first only, so a page of them asks once.
    """

    def __init__(self, desk: Desk, run: LiveRun, agents: Sequence[AgentSlots], now_us: int) -> None:
        self._desk = desk
        self._run = run
        self._agents = agents
        self._now_us = now_us
        self._known: dict[tuple[str, int], Reason] = {}

    def reason(self, index: int) -> Reason:
        """Why one of them is not leased now."""
        task, run = self._run.tasks[index], self._run
        alike = task.kind, task.priority
        reason = self._known.get(alike)
        if reason is not None and not task.is_limited:
            mine = reason.facts.get("run") == run.run_id
            if not mine or reason.facts.get("task") != run.graph.keys[index]:
                return reason
        reason = why_not(self._desk, run, index, self._agents, self._now_us)
        if reason.why is not Why.NEXT and not task.is_limited:
            self._known[alike] = reason
        return reason


def _of_ready(reason: Reason, kind: str) -> Hindrance:
    facts = reason.facts
    match reason.why:
        case Why.PAUSED:
            return _of_pause(facts["workflow"], facts["reason"])
        case Why.RUN_LIMIT:
            text = f"{facts['open']} of {facts['limit']} runs of its key{_key(facts)} are open"
            counts = {"count": facts["open"], "limit": facts["limit"]}
            return Hindrance(kind=Kind.RUN_LIMIT, sentence=text, key=facts["key"], **counts)
        case Why.KEY_FAILED:
            text = f"its key cannot be worked out, so it is about to fail: {facts['message']}"
            return Hindrance(kind=Kind.KEY_FAILED, sentence=text)
        case Why.KEY_LIMIT:
            text = f"{facts['live']} of {facts['limit']} tasks of its key{_key(facts)} are leased"
            counts = {"count": facts["live"], "limit": facts["limit"]}
            return Hindrance(kind=Kind.KEY_LIMIT, sentence=text, key=facts["key"], **counts)
        case Why.RATE:
            due_us, most = facts["free_us"], facts["count"]
            text = (
                f"{most} tasks of its key{_key(facts)} were begun of late; next at {_time(due_us)}"
            )
            key = facts["key"]
            return Hindrance(kind=Kind.RATE, sentence=text, key=key, due_us=due_us, limit=most)
        case Why.TOO_HEAVY:
            weight, most = facts["weight"], facts["max_leases"]
            text = f"it takes {weight} slots, and the tenant may hold {most}"
            return Hindrance(kind=Kind.TOO_HEAVY, sentence=text, count=weight, limit=most)
        case Why.WORKFLOW_LIMIT | Why.TENANT_LIMIT:
            return _of_leases(reason)
        case _:
            return _of_agents(reason, kind)


def _of_pause(workflow: str, reason: str) -> Hindrance:
    said = f": {reason}" if reason else ""
    if workflow:
        text = f"workflow {workflow} is paused{said}"
        return Hindrance(kind=Kind.WORKFLOW_PAUSED, sentence=text, name=workflow)
    return Hindrance(kind=Kind.TENANT_PAUSED, sentence=f"the tenant is paused{said}")


def _of_leases(reason: Reason) -> Hindrance:
    facts = reason.facts
    used, limit, name = facts["used"], facts["limit"], facts.get("workflow", "")
    whose = f"workflow {name}" if name else "the tenant"
    needs = f", and it takes {facts['weight']}" if facts["weight"] > 1 else ""
    text = f"{whose} holds {used} leases of at most {limit}{needs}"
    kind = Kind.WORKFLOW_LEASES if name else Kind.TENANT_LEASES
    return Hindrance(kind=kind, sentence=text, name=name, count=used, limit=limit)


def _of_agents(reason: Reason, kind: str) -> Hindrance:
    facts = reason.facts
    match reason.why:
        case Why.NO_AGENT:
            text = f"no agent is connected that executes {kind}"
            return Hindrance(kind=Kind.NO_AGENT, sentence=text, name=kind)
        case Why.PLACEMENT:
            labels = ", ".join(f"{word}={value}" for word, value in facts["required"].items())
            asked = [f"the labels {labels}"] if labels else []
            asked += [f"{facts['weight']} slots"] if facts["weight"] > 1 else []
            text = f"no agent that executes {kind} has {' and '.join(asked)}"
            return Hindrance(kind=Kind.PLACEMENT, sentence=text, name=kind)
        case Why.NO_SLOTS:
            agents = ", ".join(facts["agents"])
            needed = "a slot" if facts["weight"] == 1 else f"{facts['weight']} slots"
            text = f"no agent that could take it has {needed} free: {agents}"
            return Hindrance(kind=Kind.AGENTS_BUSY, sentence=text, name=kind)
        case Why.BEHIND:
            text = f"others go first, next one task {facts['task']} of run {facts['run']}"
            return Hindrance(kind=Kind.BEHIND_OTHERS, sentence=text, name=kind)
        case _:
            text = "nothing stands in its way; it is about to be leased"
            return Hindrance(kind=Kind.NOTHING, sentence=text)


# -- words


def _key(facts: Mapping[str, Any]) -> str:
    return f" {facts['key']}" if facts["key"] else ""


def _listed(keys: list[str]) -> str:
    if len(keys) == 1:
        return f"task {keys[0]}"
    more = len(keys) - _KEYS_SAID_MAX
    named = ", ".join(keys[:_KEYS_SAID_MAX])
    return f"tasks {named} and {more} more" if more > 0 else f"tasks {named}"


def _time(at_us: int) -> str:
    # Whole seconds: whoever needs more has the fact.
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
