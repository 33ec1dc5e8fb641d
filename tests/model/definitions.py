"""Random definitions: few tasks each, and every feature that there is, mixed.

Which features a definition uses is chosen first, and then for each task anew. So some are plain
but for one thing, and others mix many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.model import expressions as cel
from tests.model.choices import Choices
from tests.server.core.world import LEASE_US, SECOND, START_US, json_payload

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
    Strategy,
    SubWorkflow,
    Timer,
    TriggerRule,
    Wait,
)

TASKS_MAX = 7
KINDS = ("work", "work", "play")
#: Its input must be an object, its output an object with ``n``.
STRICT = "strict"
UNDO = "undo"
#: What no definition is named.
NOBODY = "nobody"
SIGNALS = ("go", "stop")
EVENTS = ("paid", "sent")
PEOPLE = ("ann", "ben", "cleo")
#: What runs are started with.
INPUTS: tuple[Any, ...] = (
    {"n": 1, "k": "x", "list": [1, 2], "at": START_US // SECOND + 20},
    {"n": 3, "k": "y", "list": [], "at": START_US // SECOND + 300},
    {"n": 2, "k": "x", "list": [5, 6, 7]},
    {"k": "y", "list": {"no": "list"}},
    {"n": 2, "k": 7},
    None,
)
#: What a run's input must have where the definition asks for it.
INPUT_SCHEMA = {"type": "object", "required": ["k"]}

FEATURES = (
    "bind", "when", "trigger", "list", "retry", "timeout", "queue", "total", "heartbeat",
    "timer", "signal", "event", "approval", "workflow", "compensation", "strict",
    "concurrency", "weight", "rate", "placement", "priority",
)  # fmt: skip
WHOLE = ("output", "on_failure", "deadline", "max_leases", "concurrency", "input_schema")
_WAITS = ("timer", "signal", "event", "approval", "workflow")
_INPUT = "run.input"


def definitions(choices: Choices) -> list[WorkflowDefinition]:
    """Some definitions, of which each may be what tasks of those before it wait for."""
    names = [f"flow-{number}" for number in range(1 + choices.below(3))]
    return [_Author(choices, name, names[at + 1 :]).definition() for at, name in enumerate(names)]


class _Author:
    def __init__(self, choices: Choices, name: str, callees: Sequence[str]) -> None:
        self._choices = choices
        self._name = name
        self._callees = (*callees, *callees, NOBODY) if callees else (NOBODY,)
        self._features = choices.some(FEATURES, 7)
        self._tasks: list[WorkflowTask] = []

    def definition(self) -> WorkflowDefinition:
        for number in range(1 + self._choices.below(TASKS_MAX)):
            self._tasks.append(self._task(f"t{number}"))
        whole = self._choices.some(WHOLE, 3)
        keys = [one.key for one in self._tasks]
        options: dict[str, Any] = {}
        if "output" in whole:
            options["output"] = {"n": self._choices.one([*self._of(keys), cel.always("7", 7)])}
        if "on_failure" in whole:
            options["on_failure"] = self._handler("work", [*self._of(keys), *self._states(keys)])
        if "deadline" in whole:
            options["total_timeout_us"] = self._span(1)
        if "max_leases" in whole:
            heaviest = max(one.weight for one in self._tasks)
            options["max_leases"] = heaviest + self._choices.below(2)
        if "concurrency" in whole:
            options["concurrency"] = self._concurrency()
        if "input_schema" in whole:
            options["input_schema"] = json_payload(INPUT_SCHEMA)
        if any(one.kind == STRICT for one in self._tasks):
            options["schemas"] = {STRICT: _strict()}
        made = WorkflowDefinition(name=self._name, tasks=tuple(self._tasks), **options)
        made.check()
        return made

    def _uses(self, feature: str, percent: int = 60) -> bool:
        return feature in self._features and self._choices.happens(percent)

    # -- tasks

    def _task(self, key: str) -> WorkflowTask:
        before = [one.key for one in self._tasks]
        depends_on = self._choices.some(before, 2)
        trigger = TriggerRule.ALL_SUCCEEDED
        if depends_on and self._uses("trigger"):
            trigger = self._choices.one(list(TriggerRule))
        # What else may have ended in the same moment must not matter for what is asked then.
        seen = [] if trigger is TriggerRule.ANY_FAILED else depends_on
        options: dict[str, Any] = {"depends_on": tuple(depends_on), "trigger": trigger}
        if self._uses("when"):
            options["when"] = self._condition(seen)
        if self._uses("total", 40):
            options["total_timeout_us"] = self._span(2)
        if self._uses("compensation"):
            options["compensation"] = self._handler(UNDO, [cel.path("output")])
        if self._uses("priority"):
            options["priority"] = self._choices.below(3)
        waits = [feature for feature in _WAITS if feature in self._features]
        if waits and self._choices.happens(50):
            wait = self._wait(self._choices.one(waits), seen)
            if isinstance(wait, SubWorkflow):
                options |= self._call(wait, seen)
            return WorkflowTask(key=key, kind="", wait=wait, **options)
        return self._work(key, seen, options)

    def _work(self, key: str, seen: list[str], options: dict[str, Any]) -> WorkflowTask:
        kind = STRICT if self._uses("strict") else self._choices.one(KINDS)
        bound = self._of(self._all_before(options["depends_on"]))
        bound.append(cel.path("attempt"))
        if self._uses("list"):
            options["for_each"] = self._for_each(seen)
            bound = [cel.path("item"), cel.plus(cel.path("index"), 1), *bound]
        if self._uses("bind"):
            options["bindings"] = {"bound": self._choices.one(bound)}
        if self._choices.happens(20):
            options["input"] = json_payload({"own": 1})
        if self._uses("retry"):
            options["retry"] = self._retry()
        if self._uses("timeout"):
            options["attempt_timeout_us"] = self._span(3)
        if self._uses("queue"):
            options["queue_timeout_us"] = self._span(4)
        if self._uses("heartbeat"):
            options["heartbeat_timeout_us"] = self._span(5)
        if self._uses("weight"):
            options["weight"] = 1 + self._choices.below(2)
        if self._uses("concurrency"):
            options["concurrency"] = self._concurrency()
        if self._uses("rate"):
            count, per_us = 1 + self._choices.below(3), self._span(6)
            options["rate"] = Rate(count=count, per_us=per_us, key=self._key())
        if self._uses("placement"):
            options["placement"] = self._choices.one(
                [
                    Placement(sticky=True),
                    Placement(preferred={"zone": "b"}),
                    Placement(required={"zone": "b"}),
                ]
            )
        return WorkflowTask(key=key, kind=kind, **options)

    def _all_before(self, depends_on: Sequence[str]) -> list[str]:
        """What comes before, directly or not."""
        declared = {one.key: one for one in self._tasks}
        found, left = dict[str, None](), list(depends_on)
        while left:
            key = left.pop(0)
            found[key] = None
            left += declared[key].depends_on
        return list(found)

    def _for_each(self, seen: list[str]) -> ForEach:
        lists = [cel.always("[1, 2]", [1, 2]), cel.path(_INPUT, "list"), cel.always("[]", [])]
        lists += [cel.path(f"tasks.{key}.output", "list") for key in seen]
        lists.append(cel.longer(cel.path(_INPUT, "list")))
        return ForEach(
            items=self._choices.one(lists),
            parallelism=self._choices.below(3),
            failures_max=self._choices.one([0, 1, -1]),
            items_max=10 - 8 * self._choices.below(2),
        )

    # -- waits

    def _wait(self, what: str, seen: list[str]) -> Wait:
        choices = self._choices
        match what:
            case "timer":
                until = [cel.path(_INPUT, "at"), *self._of(seen)]
                return (
                    Timer(until=choices.one(until))
                    if choices.happens(40)
                    else Timer(delay_us=self._span(7))
                )
            case "signal":
                return SignalWait(name=choices.one(SIGNALS), timeout_us=self._maybe(8))
            case "event":
                keys = ["", "", cel.path(_INPUT, "k"), cel.written(cel.path(_INPUT, "n"))]
                return EventWait(
                    name=choices.one(EVENTS), key=choices.one(keys), timeout_us=self._maybe(9)
                )
            case "approval":
                return self._approval()
            case _:
                return self._sub_workflow()

    def _approval(self) -> Approval:
        choices = self._choices
        options: dict[str, Any] = {"quorum": 1 + choices.below(2), "timeout_us": self._maybe(10)}
        if choices.happens(40):
            options["approvers"] = PEOPLE[:2]
            if options["timeout_us"] is None and choices.happens(50):
                options |= {"escalate_after_us": self._span(11), "escalate_to": PEOPLE[2:]}
        return Approval(**options)

    def _sub_workflow(self) -> SubWorkflow:
        name = self._choices.one(self._callees)
        if not self._choices.happens(40):
            return SubWorkflow(name=name)
        until = self._choices.one(
            [
                cel.more_than(cel.path("iteration"), 1),
                cel.more_than(cel.path("output", "n"), 1),
                cel.always("false", False),
            ]
        )
        return SubWorkflow(name=name, until=until, repetitions_max=1 + self._choices.below(3))

    def _call(self, wait: SubWorkflow, seen: list[str]) -> dict[str, Any]:
        """What a task has beside the workflow that it runs."""
        options: dict[str, Any] = {}
        numbers = self._of(seen)
        if self._uses("list"):
            options["for_each"] = self._for_each(seen)
            numbers += [cel.path("item"), cel.path("index")]
        if self._uses("retry"):
            options["retry"] = self._retry()
        if self._choices.happens(80):
            options["bindings"] = {
                "k": self._choices.one([cel.path(_INPUT, "k"), cel.always("'x'", "x")]),
                "n": self._choices.one(numbers),
                "list": cel.always("[1, 2]", [1, 2]),
            }
        return options

    # -- parts

    def _of(self, keys: Sequence[str]) -> list[str]:
        """Numbers that may be there."""
        return [
            cel.path(_INPUT, "n"),
            *(cel.path(f"tasks.{key}.output", "n") for key in keys),
            *(cel.plus(cel.path(f"tasks.{key}.output", "n"), 1) for key in keys),
        ]

    def _states(self, keys: Sequence[str]) -> list[str]:
        return [cel.path(f"tasks.{key}.state") for key in keys]

    def _condition(self, seen: list[str]) -> str:
        found = [cel.always("true", True), cel.more_than(cel.path(_INPUT, "n"), 1)]
        found.append(cel.always("false", False))
        for key in seen:
            output = f"tasks.{key}.output"
            found += [
                cel.path(output, "ok"),
                cel.more_than(cel.path(output, "n"), 1),
                cel.is_text(cel.path(f"tasks.{key}.state"), "SUCCEEDED"),
                # It has no truth value.
                cel.path(output, "n"),
            ]
        return self._choices.one(found)

    def _handler(self, kind: str, bound: list[str]) -> Handler:
        return Handler(
            kind=kind,
            input=json_payload({"own": 2}) if self._choices.happens(30) else None,
            bindings={"bound": self._choices.one(bound)} if self._choices.happens(40) else {},
            retry=self._retry() if self._choices.happens(40) else RetryPolicy(),
            attempt_timeout_us=self._maybe(12),
        )

    def _retry(self) -> RetryPolicy:
        choices = self._choices
        return RetryPolicy(
            max_attempts=2 + choices.below(2),
            initial_delay_us=choices.one([SECOND + 13, 0, 5 * SECOND + 13]),
            max_delay_us=8 * SECOND + 13,
            jitter=0,
            backoff=choices.one(list(Backoff)),
            non_retryable_codes=("BAD",) if choices.happens(30) else (),
            total_timeout_us=self._maybe(14),
        )

    def _concurrency(self) -> Concurrency:
        limit, strategy = 1 + self._choices.below(2), self._choices.one(list(Strategy))
        return Concurrency(limit=limit, key=self._key(), strategy=strategy)

    def _key(self) -> str:
        return self._choices.one(["", cel.path(_INPUT, "k")])

    def _maybe(self, odd_us: int) -> int | None:
        return self._span(odd_us) if self._choices.happens(40) else None

    def _span(self, odd_us: int) -> int:
        """A span that no other of another kind has, so that hardly ever two ends coincide."""
        spans = (10 * SECOND, 2 * SECOND, LEASE_US, 2 * LEASE_US, 200 * SECOND)
        return self._choices.one(spans) + odd_us


def _strict() -> KindSchemas:
    return KindSchemas(
        input=json_payload({"type": "object"}),
        output=json_payload({"type": "object", "required": ["n"]}),
    )


def fits(payload: Payload | None, *fields: str) -> bool:
    """Whether a payload is an object with these fields, as the schemas here want."""
    try:
        found = cel.seen(payload)
    except cel.NoValue:
        return False
    return isinstance(found, dict) and all(field in found for field in fields)
