"""The features that are played: see `tests/server/features.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.server.core.world import SECOND, flow, json_payload, task
from tests.server.features import BROKEN, MINUTE, SLOTS, TWICE, Feature

from tenure_server.core.definitions.definition import (
    Payload,
    RetryPolicy,
    WorkflowDefinition,
    WorkflowTask,
)
from tenure_server.core.definitions.features import (
    Approval,
    Backoff,
    Concurrency,
    EventWait,
    ForEach,
    Handler,
    KindSchemas,
    Placement,
    Rate,
    SignalWait,
    SubWorkflow,
    Timer,
    TriggerRule,
)
from tenure_server.core.definitions.payloads import REFERENCE_TYPE
from tenure_server.core.desks.desk import Desk
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import Failure, RunState


def waits(key: str, *after: str, wait: Any, **options: Any) -> WorkflowTask:
    """A task that no agent executes."""
    return task(key, *after, kind="", wait=wait, **options)


def done(value: Any) -> Success:
    """A success with an output."""
    return Success(json_payload(value))


def _leases(most: int, workflow: str) -> Callable[[Desk], bool]:
    """So many live leases of a workflow at most."""
    return lambda desk: len(desk.leases.by_workflow.get(workflow, ())) <= most


def _slots(desk: Desk) -> bool:
    """No agent holds more than it has slots, by weight."""
    agents = {id(one.agent): one.agent for one in desk.leases.values()}
    return all(len(one.leases) + len(one.extra) <= SLOTS for one in agents.values())


def _one_run(desk: Desk) -> bool:
    """Leases of one run of the workflow at most."""
    runs = {run_id for run_id, _ in desk.leases.by_workflow.get("run-concurrency", ())}
    return len(runs) <= 1


def _feature(name: str, *tasks: WorkflowTask, **options: Any) -> Feature:
    """A feature whose workflow has its name; `declares` is what the workflow has besides tasks."""
    declares = options.pop("declares", {})
    return Feature(name=name, definition=flow(*tasks, name=name, **declares), **options)


def _counting(name: str) -> WorkflowDefinition:
    """A child that counts how often it was executed before."""
    count = "has(run.input.previous) ? run.input.previous.n + 1 : 1"
    return flow(
        task("x", bindings={"n": count}),
        name=name,
        output={"n": count},
    )


UNDO = Handler(kind="undo", bindings={"gave": "output.by"})
_STORED = {"uri": "store://somewhere/else", "sha256": "0" * 64, "bytes": 5}

FEATURES = [
    # -- data flow
    _feature(
        "bindings",
        task("a"),
        task("b", "a"),
        task("c", "b", bindings={"n": "tasks.a.output.n + 1", "who": "run.input.who"}),
        given={"who": "ada"},
        ends={"a": [done({"n": 2})]},
        inputs={"c": {"n": 3, "who": "ada"}},
    ),
    _feature(
        "schemas",
        task("a", retry=TWICE, bindings={"n": "run.input.n"}),
        given={"n": 7},
        ends={"a": [done("no object")]},
        declares={
            "schemas": {
                "work": KindSchemas(
                    input=json_payload({"type": "object", "required": ["n"]}),
                    output=json_payload({"type": "object"}),
                )
            },
            "input_schema": json_payload({"type": "object", "required": ["n"]}),
        },
        inputs={"a": {"n": 7}},
        outputs={"a": {"by": "a"}},
    ),
    _feature(
        "output",
        task("a"),
        task("b", "a"),
        task("c"),
        declares={"output": {"first": "tasks.a.output.by", "last": "tasks.b.output"}},
        output={"first": "a", "last": {"by": "b"}},
    ),
    _feature(
        "references",
        task("a"),
        task("b", "a"),
        ends={"a": [Success(Payload(json_payload(_STORED).data, REFERENCE_TYPE))]},
        outputs={"a": _STORED},
    ),
    # -- control flow
    _feature(
        "when",
        task("a"),
        task("yes", "a", when="tasks.a.output.n > 1"),
        task("no", "a", when="tasks.a.output.n > 2"),
        task("behind", "no"),
        task("after", "yes", "no", trigger=TriggerRule.NONE_FAILED),
        ends={"a": [done({"n": 2})]},
        states={"no": "SKIPPED", "behind": "SKIPPED"},
    ),
    _feature(
        "trigger",
        task("bad"),
        task("good"),
        task("all", "bad", "good"),
        task("done", "bad", "good", trigger=TriggerRule.ALL_DONE),
        task("failed", "bad", "good", trigger=TriggerRule.ANY_FAILED),
        task("none", "bad", "good", trigger=TriggerRule.NONE_FAILED),
        task("not-needed", "good", trigger=TriggerRule.ANY_FAILED),
        ends={"bad": [BROKEN]},
        state=RunState.FAILED,
        reason="task bad failed: BROKEN",
        states={
            "bad": "FAILED",
            "all": "UPSTREAM_FAILED",
            "none": "UPSTREAM_FAILED",
            "not-needed": "SKIPPED",
        },
    ),
    _feature(
        "for_each",
        task("list"),
        task(
            "each",
            "list",
            for_each=ForEach(items="tasks.list.output", parallelism=2, failures_max=1),
            bindings={"n": "item * 10", "place": "index"},
        ),
        task("sum", "each", bindings={"all": "tasks.each.output"}),
        ends={"list": [done([1, 2, 3, 4])], "each[1]": [BROKEN]},
        states={"each[1]": "FAILED"},
        inputs={
            "each[3]": {"n": 40, "place": 3},
            "sum": {"all": [{"by": "each[0]"}, None, {"by": "each[2]"}, {"by": "each[3]"}]},
        },
        always=_leases(2, "for_each"),
    ),
    _feature(
        "sub-workflow",
        task("a"),
        waits("call", "a", wait=SubWorkflow(name="sub"), bindings={"n": "tasks.a.output.n"}),
        task("z", "call", bindings={"x": "tasks.call.output.x.by"}),
        children=(flow(task("x", bindings={"n": "run.input.n"}), name="sub"),),
        ends={"a": [done({"n": 2})]},
        inputs={"x": {"n": 2}, "z": {"x": "x"}},
    ),
    _feature(
        "repetition",
        waits(
            "call",
            wait=SubWorkflow(name="again", until="output.n >= 3", repetitions_max=5),
            input=json_payload({}),
        ),
        children=(_counting("again"),),
        inputs={"x": {"n": 3}},
        outputs={"call": {"n": 3}},
    ),
    _feature(
        "timer",
        task("a"),
        waits("span", "a", wait=Timer(delay_us=10 * MINUTE)),
        waits("past", "a", wait=Timer(until="'2020-01-01T00:00:00Z'")),
        task("z", "span", "past"),
    ),
    # -- waiting for the world
    _feature(
        "signal",
        waits("first", wait=SignalWait(name="go", timeout_us=100 * MINUTE)),
        waits("second", "first", wait=SignalWait(name="go")),
        waits("never", wait=SignalWait(name="never-sent", timeout_us=90 * MINUTE)),
        task("z", "second", "never", trigger=TriggerRule.ALL_DONE),
        early=("go",),
        state=RunState.FAILED,
        reason="task never failed: WAIT_TIMED_OUT",
        states={"never": "FAILED"},
        outputs={"first": {"signal": "go"}, "second": {"signal": "go"}},
    ),
    _feature(
        "event",
        task("a"),
        waits("keyed", "a", wait=EventWait(name="paid", key="tasks.a.output.order")),
        waits("any", "keyed", wait=EventWait(name="paid", timeout_us=100 * MINUTE)),
        task("z", "any"),
        ends={"a": [done({"order": "o-1"})]},
        outputs={"keyed": {"event": "paid"}, "any": {"event": "paid"}},
    ),
    _feature(
        "approval",
        waits(
            "asked",
            wait=Approval(
                quorum=2,
                approvers=("ann", "cleo"),
                escalate_after_us=10 * MINUTE,
                escalate_to=("bob",),
                timeout_us=1000 * MINUTE,
            ),
        ),
        waits("late", wait=Approval(approvers=("cleo",), timeout_us=10 * MINUTE)),
        task("z", "asked"),
        state=RunState.FAILED,
        reason="task late failed: APPROVAL_EXPIRED",
        states={"late": "FAILED"},
    ),
    # -- failure
    _feature(
        "retry",
        task("a", retry=replace(TWICE, max_attempts=4, backoff=Backoff.LINEAR)),
        task("b", retry=RetryPolicy(max_attempts=4, non_retryable_codes=("NO",))),
        ends={"a": [Failure("BUSY"), Failure("BUSY")], "b": [Failure("NO")]},
        state=RunState.FAILED,
        reason="task b failed: NO",
        states={"b": "FAILED"},
    ),
    _feature(
        "checkpoint",
        task("a", retry=TWICE, heartbeat_timeout_us=10 * MINUTE, attempt_timeout_us=30 * MINUTE),
        ends={"a": [Failure("BUSY")]},
        saves={"a": {"step": 3}},
    ),
    _feature(
        "compensation",
        task("book", compensation=UNDO),
        task(
            "pay",
            "book",
            for_each=ForEach(items="['x', 'y']", parallelism=1),
            compensation=Handler(kind="undo", bindings={"was": "item", "place": "index"}),
        ),
        task("log", "pay"),
        task("ship", "log"),
        ends={"ship": [BROKEN]},
        state=RunState.FAILED,
        reason="task ship failed: BROKEN",
        states={"ship": "FAILED"},
        inputs={
            "pay[1]~undo": {"was": "y", "place": 1},
            "pay[0]~undo": {"was": "x", "place": 0},
            "book~undo": {"gave": "book"},
        },
        order=(
            "book",
            "pay[0]",
            "pay[1]",
            "log",
            "ship",
            "pay[1]~undo",
            "pay[0]~undo",
            "book~undo",
        ),
    ),
    _feature(
        "on_failure",
        task("a"),
        task("b", "a"),
        declares={
            "on_failure": Handler(
                kind="tell", bindings={"first": "failed[0].message", "why": "run.reason"}
            )
        },
        ends={"a": [BROKEN]},
        state=RunState.FAILED,
        reason="task a failed: BROKEN",
        states={"a": "FAILED", "b": "UPSTREAM_FAILED"},
        inputs={
            "~on_failure": {
                "failed": [{"task": "a", "code": "BROKEN", "message": "for good"}],
                "first": "for good",
                "why": "task a failed: BROKEN",
            }
        },
    ),
    _feature(
        "queue_timeout",
        task("a", kind="nobody", queue_timeout_us=10 * MINUTE),
        task("b", "a", trigger=TriggerRule.ANY_FAILED),
        state=RunState.FAILED,
        reason="task a failed: QUEUE_TIMED_OUT",
        states={"a": "FAILED"},
    ),
    _feature(
        "total_timeout",
        waits("a", wait=SignalWait(name="never-sent"), total_timeout_us=20 * MINUTE),
        task("b", "a", trigger=TriggerRule.ALL_DONE),
        state=RunState.FAILED,
        reason="task a failed: TOTAL_TIMED_OUT",
        states={"a": "FAILED"},
    ),
    _feature(
        "deadline",
        task("a", compensation=UNDO),
        waits("b", "a", wait=SignalWait(name="never-sent")),
        declares={"total_timeout_us": 60 * MINUTE},
        state=RunState.FAILED,
        reason="it took longer than it may",
        states={"b": "CANCELLED"},
        order=("a", "a~undo"),
    ),
    # -- limits and order
    _feature(
        "concurrency",
        *[task(f"t{n}", concurrency=Concurrency(limit=2, key="run.input.k")) for n in range(5)],
        given={"k": "x"},
        always=_leases(2, "concurrency"),
    ),
    _feature(
        "run-concurrency",
        task("a"),
        task("b", "a"),
        runs=3,
        given={"k": "y"},
        declares={"concurrency": Concurrency(limit=1, key="run.input.k")},
        always=_one_run,
    ),
    _feature(
        "max_leases",
        *[task(f"t{n}") for n in range(4)],
        declares={"max_leases": 2},
        always=_leases(2, "max_leases"),
    ),
    _feature(
        "weight",
        *[task(f"light{n}") for n in range(4)],
        task("heavy", weight=5),
        always=_slots,
    ),
    _feature(
        "rate",
        *[task(f"t{n}", rate=Rate(count=2, per_us=10 * SECOND, key="'one'")) for n in range(5)],
        rate=(2, 10 * SECOND),
    ),
    _feature(
        "placement",
        task("a", placement=Placement(required={"gpu": "yes"})),
        task("b", "a", placement=Placement(preferred={"zone": "z"}, sticky=True)),
    ),
    _feature(
        "priority",
        task("low"),
        task("high", priority=5),
        task("last", "low", "high"),
        order=("high", "low", "last"),
    ),
]
