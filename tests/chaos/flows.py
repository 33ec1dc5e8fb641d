"""The workflows that people start while things go wrong: everything that can be declared.

All spans are multiples of a unit, so that the same workflows suit real time and simulated time.
A task whose input says `doom` fails for good; tasks fail by chance, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenure.v1 import workflows_pb2
from tenure_client.builder import (
    Concurrency,
    EventTrigger,
    ForEach,
    Handler,
    Placement,
    Rate,
    Retry,
    Workflow,
)

#: The code of a failure that no attempt mends.
DOOM = "DOOM"
#: The names of what runs wait for.
SIGNAL, STAY, EVENT = "go", "stay", "news"
#: Who may consent; keys of these names are needed.
APPROVERS = ("ann", "bob")
#: What schedules start, and what an event starts.
TICK, HEARD = "tick", "heard"
#: The keys that limits are held by.
KEYS = ("red", "blue")

_DOOM = {"doom": "has(run.input.doom) && run.input.doom"}


def input_of(workflow: str, choose: Callable[[int], int]) -> dict[str, Any]:
    """An input of a run; `choose(n)` gives a number below n."""
    given: dict[str, Any] = {"key": KEYS[choose(len(KEYS))], "doom": choose(4) == 0}
    match workflow:
        case "fork":
            given["left"] = choose(2) == 0
        case "list":
            given["items"] = [choose(5) == 0 for _ in range(choose(7))]
        case "parent":
            given["kids"] = [choose(2) == 0 for _ in range(choose(4))]
        case "patient":
            given["stay"] = choose(6) == 0
    return given


def flows(unit: float, kind: str) -> list[workflows_pb2.WorkflowDefinition]:
    """The workflows, for spans of so many seconds and agents of this kind of task."""
    again = Retry(
        max_attempts=3,
        initial_delay=unit / 4,
        max_delay=unit,
        strategy="linear",
        non_retryable_codes=[DOOM],
    )
    return [
        _fork(kind, again),
        _list(kind, again),
        _saga(unit, kind, again),
        _patient(unit, kind),
        _child(kind, again),
        _parent(kind, again),
        *(_keyed(name, strategy, kind, again) for name, strategy in _STRATEGIES.items()),
        _paced(unit, kind, again),
        _hasty(unit, kind, again),
        _heard(kind),
        _tick(kind),
    ]


#: Workflows of runs and tasks of one key, by what becomes of those too many.
_STRATEGIES = {"queued": "queue", "pushy": "cancel_running", "meek": "cancel_newest"}
#: Those that people start, some more often than others.
STARTED = ("fork", "list", "list", "saga", "saga", "patient", "patient", "parent", *_STRATEGIES)
STARTED = (*STARTED, "paced", "hasty", "hasty")


def _fork(kind: str, again: Retry) -> workflows_pb2.WorkflowDefinition:
    with Workflow("fork", output={"ends": "tasks.tidy.state"}) as fork:
        first = fork.task("first", kind=kind, retry=again)
        left = fork.task("left", kind=kind, after=[first], when="run.input.left", bind=_DOOM)
        right = fork.task("right", kind=kind, after=[first], retry=again)
        join = fork.task("join", kind=kind, after=[left, right], trigger="none_failed")
        rescue = fork.task("rescue", kind=kind, after=[left, right], trigger="any_failed")
        fork.task("tidy", kind=kind, after=[join, rescue], trigger="all_done")
    return fork.definition()


def _list(kind: str, again: Retry) -> workflows_pb2.WorkflowDefinition:
    with Workflow("list") as each:
        items = each.task(
            "each",
            kind=kind,
            for_each=ForEach(items="run.input.items", parallelism=2, failures_max=1, items_max=5),
            bind={"doom": "item"},
            retry=again,
            compensation=Handler(kind=kind, bind={"was": "output"}),
        )
        all_ = each.task("all", kind=kind, for_each=ForEach(items="[1, 2, 3]", failures_max=-1))
        each.task("sum", kind=kind, after=[items, all_], bind={"of": "tasks.each.output", **_DOOM})
    return each.definition()


def _saga(unit: float, kind: str, again: Retry) -> workflows_pb2.WorkflowDefinition:
    with Workflow("saga", total_timeout=40 * unit, on_failure=Handler(kind=kind)) as saga:
        undo = Handler(kind=kind, bind={"was": "output"}, retry=again)
        train = saga.task("train", kind=kind, retry=again, compensation=undo)
        hotel = saga.task("hotel", kind=kind, retry=again, compensation=undo)
        saga.task("aside", kind=kind, after=[train])
        flight = saga.task("flight", kind=kind, after=[train, hotel], compensation=undo)
        saga.task("pay", kind=kind, after=[flight], bind=_DOOM)
    return saga.definition()


def _patient(unit: float, kind: str) -> workflows_pb2.WorkflowDefinition:
    with Workflow("patient") as patient:
        nap = patient.timer("nap", unit / 2)
        go = patient.signal("go", SIGNAL, timeout=15 * unit, after=[nap])
        on = patient.signal("on", SIGNAL, timeout=15 * unit, after=[go])
        news = patient.event("news", EVENT, of="run.input.key", timeout=6 * unit, after=[nap])
        asked = patient.approval(
            "asked",
            "May it?",
            quorum=2,
            approvers=APPROVERS,
            timeout=15 * unit,
            escalate_after=5 * unit,
            escalate_to=["cleo"],
            after=[nap],
        )
        work = patient.task("work", kind=kind, after=[on, news, asked], trigger="all_done")
        patient.signal("stay", STAY, after=[work], when="run.input.stay")
    return patient.definition()


def _child(kind: str, again: Retry) -> workflows_pb2.WorkflowDefinition:
    with Workflow("child") as child:
        one = child.task("one", kind=kind, retry=again)
        child.task("two", kind=kind, after=[one], bind=_DOOM)
    return child.definition()


def _parent(kind: str, again: Retry) -> workflows_pb2.WorkflowDefinition:
    with Workflow("parent") as parent:
        kids = parent.call(
            "kids",
            "fork",
            for_each=ForEach(items="run.input.kids", parallelism=2, failures_max=-1),
            bind={"left": "item", "doom": "item && run.input.doom", "key": "run.input.key"},
        )
        lone = parent.call("lone", "child", bind=_DOOM, retry=again)
        looped = parent.call(
            "looped", "child", input={}, until="iteration >= 2", repetitions_max=3, after=[lone]
        )
        parent.task("last", kind=kind, after=[kids, looped], trigger="all_done")
    return parent.definition()


def _keyed(name: str, strategy: str, kind: str, again: Retry) -> workflows_pb2.WorkflowDefinition:
    of_runs = Concurrency(key="run.input.key", limit=2, strategy=strategy)
    with Workflow(name, concurrency=of_runs) as keyed:
        of_tasks = Concurrency(key="run.input.key", limit=1, strategy=strategy)
        first = keyed.task("first", kind=kind, concurrency=of_tasks, retry=again)
        keyed.timer("nap", 0.01)
        keyed.call("call", "child", input={})
        keyed.task("own", kind=kind, concurrency=Concurrency(limit=1), after=[first])
        keyed.task("last", kind=kind, after=[first], concurrency=of_tasks, trigger="all_done")
    return keyed.definition()


def _paced(unit: float, kind: str, again: Retry) -> workflows_pb2.WorkflowDefinition:
    with Workflow("paced", max_leases=3) as paced:
        paced.task("heavy", kind=kind, weight=2, retry=again, placement=Placement(sticky=True))
        for number in range(2):
            paced.task(
                f"paced-{number}",
                kind=kind,
                retry=again,
                rate=Rate(key="run.input.key", count=2, per=2 * unit),
                placement=Placement(preferred={"zone": "a"}),
            )
    return paced.definition()


def _hasty(unit: float, kind: str, again: Retry) -> workflows_pb2.WorkflowDefinition:
    with Workflow("hasty", total_timeout=60 * unit) as hasty:
        hasty.task("brief", kind=kind, timeout=2 * unit, retry=again)
        hasty.task("heard", kind=kind, heartbeat_timeout=2 * unit, retry=again)
        whole = hasty.task("whole", kind=kind, total_timeout=8 * unit, retry=again)
        hasty.task("wanted", kind=kind, queue_timeout=20 * unit, after=[whole], bind=_DOOM)
        bounded = Retry(max_attempts=5, initial_delay=unit / 4, total_timeout=4 * unit)
        hasty.task("tried", kind=kind, retry=bounded)
    return hasty.definition()


def _heard(kind: str) -> workflows_pb2.WorkflowDefinition:
    start = EventTrigger(name=EVENT, when="event.payload.start", bind={"event": "event.payload.id"})
    with Workflow(HEARD, events=[start]) as heard:
        heard.task("only", kind=kind)
    return heard.definition()


def _tick(kind: str) -> workflows_pb2.WorkflowDefinition:
    with Workflow(TICK) as tick:
        tick.task("only", kind=kind)
    return tick.definition()
