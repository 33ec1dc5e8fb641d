"""The events of a run may follow each other only as its definition says."""

from __future__ import annotations

from typing import Any

import pytest

from tenure_evidence import plan
from tenure_evidence.canonical import canonical
from tenure_evidence.sequence import Sequence

HASH = "sha256:00"


def step(key: str, *depends_on: str, **more: Any) -> dict[str, Any]:
    """A task in canonical form."""
    row = {"key": key, "kind": f"do.{key}", "depends_on": list(depends_on), "priority": 0}
    return row | {"attempt_timeout_us": None} | more


def undo(key: str) -> dict[str, Any]:
    """What undoes a task, in canonical form."""
    return {"compensation": {"kind": f"undo.{key}"}}


def definition(*rows: dict[str, Any], **more: Any) -> bytes:
    """A definition in canonical form."""
    value = {"name": "flow", "description": "", "max_leases": 0, "labels": {}, "tasks": rows}
    return canonical(value | more)


SAGA = definition(
    step("book", **undo("book")),
    step("pay", "book", **undo("pay")),
    step("ship", "pay"),
    on_failure={"kind": "tell"},
)
BRANCHES = definition(
    step("a"),
    step("b"),
    step("all", "a", "b"),
    step("done", "a", "b", trigger="all_done"),
    step("any", "a", "b", trigger="any_failed"),
    step("none", "a", "b", trigger="none_failed"),
)
LIST = definition(
    step("list"), step("each", "list", for_each={"items": "[1]"}, **undo("each")), step("end")
)
WAIT = definition({**step("nap"), "kind": "", "timer": {"delay_us": 1}}, step("up", "nap"))


class Story:
    """Events in their order, told in short words: `lease a`, `succeed a`, `run failed`."""

    def __init__(self, text: bytes) -> None:
        self._plan = plan.plan_of(text)
        self._terms: dict[str, int] = {}

    def problem(self, *words: str) -> str:
        """The first thing that is wrong, or nothing."""
        self._terms.clear()
        events = Sequence(self._plan)
        for seq, word in enumerate(("run started", *words), start=1):
            problem = events.take(self._event(seq, word))
            if problem:
                assert word == words[-1], f"{word}: {problem}"
                return problem
        return ""

    def _event(self, seq: int, word: str) -> dict[str, Any]:
        what, name = word.split(" ")
        if what == "run":
            return {"seq": seq, "kind": f"run.{name}", "definition": HASH}
        event: dict[str, Any] = {"seq": seq, "kind": f"task.{what}", "task": name, "agent": "x"}
        if what == "leased":
            self._terms[name] = self._terms.get(name, 0) + 1
            place = self._plan.place(name)
            event |= {"definition": HASH, "handler": place.handler if place else ""}
        if what == "decided-failed":
            event["kind"] = "task.failed"
        elif what in ("succeeded", "failed", "retrying") and self._terms.get(name):
            event["result"] = HASH
        return event | {"term": self._terms.get(name, 0)}


def done(*keys: str) -> list[str]:
    """Tasks that are executed well, one after the other."""
    return [word for key in keys for word in (f"leased {key}", f"succeeded {key}")]


def lost(key: str) -> list[str]:
    """A task that fails."""
    return [f"leased {key}", f"failed {key}"]


FAILED = [*done("book", "pay"), *lost("ship")]
UNDONE = done("pay~undo", "book~undo", "~on_failure")

GOOD = [
    (SAGA, [*done("book", "pay", "ship"), "run succeeded"]),
    (SAGA, [*FAILED, "run compensating", *UNDONE, "run failed"]),
    (SAGA, [*FAILED, "run compensating", *lost("pay~undo"), *UNDONE[2:], "run failed"]),
    (
        SAGA,
        [
            *FAILED,
            *("run compensating", "leased pay~undo", "run cancelling", "cancelled pay~undo"),
            *("cancelled book~undo", "cancelled ~on_failure", "run cancelled"),
        ],
    ),
    (SAGA, [*FAILED, "run compensating", "leased pay~undo", "lease_lost pay~undo"]),
    (SAGA, [*FAILED, "run compensating", "leased pay~undo", "run paused", "run resumed"]),
    (
        SAGA,
        [
            *(*lost("book"), "upstream_failed pay", "upstream_failed ship", "run compensating"),
            *(*done("~on_failure"), "run failed", "run reopened", "reopened book"),
            *("reopened pay", "reopened ship", *done("book"), *lost("pay")),
            *("upstream_failed ship", "run compensating", *done("book~undo"), "run failed"),
        ],
    ),
    (
        BRANCHES,
        [
            *(*lost("a"), "upstream_failed all", "upstream_failed none", *done("any", "b", "done")),
            "run failed",
        ],
    ),
    (BRANCHES, [*done("a", "b", "all", "done", "none"), "skipped any", "run succeeded"]),
    (
        BRANCHES,
        ["skipped a", *done("b", "none", "done"), "skipped all", "skipped any", "run succeeded"],
    ),
    # Nobody leased it in time, or its condition could not be told.
    (BRANCHES, ["decided-failed a", *done("any")]),
    (BRANCHES, ["leased a", "retrying a", "decided-failed a"]),
    (WAIT, ["activated nap", "succeeded nap", *done("up"), "run succeeded"]),
    (
        LIST,
        [
            *(*done("list"), "activated each", *done("each[0]", "each[1]"), "failed each"),
            *(*done("end"), "run compensating", *done("each[1]~undo", "each[0]~undo")),
            "run failed",
        ],
    ),
]


@pytest.mark.parametrize(("text", "words"), GOOD)
def test_what_a_coordinator_does_is_in_order(text: bytes, words: list[str]) -> None:
    assert Story(text).problem(*words) == ""


BAD = [
    # Compensation
    (SAGA, [*FAILED, "leased pay~undo"], "before the run has failed"),
    (SAGA, [*FAILED, "run compensating", "leased book~undo"], "before 'pay~undo' has ended"),
    (SAGA, [*FAILED, "run compensating", "leased ~on_failure"], "before 'pay~undo' has ended"),
    (
        SAGA,
        [*FAILED, "run compensating", "leased pay~undo", "leased book~undo"],
        "before 'pay~undo' has ended",
    ),
    (
        SAGA,
        [*FAILED, "run compensating", *UNDONE[:2], "leased ~on_failure"],
        "before 'book~undo' has ended",
    ),
    (SAGA, [*FAILED, "run failed"], "'pay~undo' was not done"),
    (SAGA, [*FAILED, "run compensating", *UNDONE[:2], "run failed"], "'book~undo' was not done"),
    (SAGA, [*FAILED, "run compensating", *UNDONE[:4], "run failed"], "'~on_failure' was not done"),
    (SAGA, [*FAILED, "run compensating", *UNDONE, "run succeeded"], "'ship' has not succeeded"),
    (SAGA, [*done("book"), *lost("pay"), "run compensating"], "'ship' has not ended"),
    (
        SAGA,
        [
            *(*done("book"), *lost("pay"), "upstream_failed ship", "run compensating"),
            "leased pay~undo",
        ],
        "before 'book~undo' has ended",
    ),
    (SAGA, ["leased ship~undo"], "which the definition has not"),
    (SAGA, ["leased book~undo~undo"], "which the definition has not"),
    (BRANCHES, ["leased ~on_failure"], "which the definition has not"),
    # Trigger rules
    (BRANCHES, [*done("a"), "leased all"], "before 'b' succeeded"),
    (BRANCHES, [*done("a"), "skipped b", "leased all"], "before 'b' succeeded"),
    (BRANCHES, [*done("a"), "leased done"], "before 'b' ended"),
    (BRANCHES, [*done("a"), "leased any"], "before any of a, b failed"),
    (BRANCHES, [*lost("a"), *done("b"), "leased none"], "though 'a' did not succeed"),
    (BRANCHES, [*done("a", "b"), "upstream_failed all"], "depends on has failed"),
    (BRANCHES, [*lost("a"), "upstream_failed done"], "depends on has failed"),
    (BRANCHES, [*done("a"), "decided-failed all"], "before 'b' succeeded"),
    (BRANCHES, [*done("a"), "succeeded all"], "before 'b' succeeded"),
    # What has ended
    (BRANCHES, [*done("a"), "leased a"], "leased after it succeeded"),
    (BRANCHES, [*lost("a"), "leased a"], "leased after it ended"),
    (BRANCHES, ["skipped a", "leased a"], "leased after it ended"),
    (BRANCHES, [*done("a"), "succeeded a"], "succeeds a second time"),
    (BRANCHES, [*lost("a"), "cancelled a"], "has ended"),
    (BRANCHES, [*lost("a"), "run failed"], "task 'all' has not ended"),
    # Waits and lists
    (WAIT, ["leased up"], "before 'nap' succeeded"),
    (WAIT, ["activated nap", "leased up"], "before 'nap' succeeded"),
    (LIST, ["activated each"], "before 'list' succeeded"),
    (LIST, [*done("list"), "leased each[0]"], "while 'each' is not active"),
    (LIST, [*done("list"), "activated each", "leased each[01]"], "which the definition has not"),
    (LIST, [*done("list"), "leased list[0]"], "which the definition has not"),
    (LIST, [*done("list"), "leased each~undo"], "which the definition has not"),
]


@pytest.mark.parametrize(("text", "words", "why"), BAD)
def test_what_is_out_of_order_is_found(text: bytes, words: list[str], why: str) -> None:
    assert why in Story(text).problem(*words)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (step("a", trigger="sometimes"), "strange depends_on or trigger"),
        (step("a", trigger=[]), "strange depends_on or trigger"),
        ({**step("a"), "depends_on": [1]}, "strange depends_on or trigger"),
        (step("a", compensation="undo"), "strange compensation"),
        ({"key": "a"}, "without key"),
    ],
)
def test_a_definition_that_nobody_could_have_registered_is_none(
    row: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        plan.plan_of(definition(row))
