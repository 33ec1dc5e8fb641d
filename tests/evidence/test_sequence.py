"""What may follow what in a run with trigger rules and lists, judged from its events alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tenure_evidence.plan import plan_of
from tenure_evidence.sequence import Sequence

TASKS: list[dict[str, Any]] = [
    {"key": "a", "kind": "work", "depends_on": []},
    {"key": "each", "kind": "work", "depends_on": ["a"], "for_each": {"items": "run.input"}},
    {"key": "z", "kind": "work", "depends_on": ["each"]},
]
Step = tuple[str, str, dict[str, Any]]
START: Step = ("run.started", "", {})
LIST: Step = ("task.activated", "each", {"term": 0})


def leased(task: str, term: int = 1) -> Step:
    return ("task.leased", task, {"term": term, "handler": "work", "definition": "d"})


def ended(task: str, how: str = "succeeded", term: int = 1, result: str = "r") -> Step:
    said = {"result": f"{result}-{task}-{term}"} if result else {}
    return (f"task.{how}", task, {"term": term} | said)


def problem(*steps: Step, tasks: list[dict[str, Any]] = TASKS) -> str:
    """What is wrong with these events behind the start, the first that is wrong."""
    definition = json.dumps({"name": "flow", "tasks": tasks}, separators=(",", ":"), sort_keys=True)
    events = Sequence(plan_of(definition.encode()))
    for seq, (kind, task, said) in enumerate((START, *steps), start=1):
        item = {"seq": seq, "kind": kind} | ({"task": task} if task else {"definition": "d"}) | said
        if found := events.take(item):
            return found
    return ""


LIST_DONE = ended("each", term=0, result="")
DONE: tuple[Step, ...] = (
    leased("a"),
    ended("a"),
    LIST,
    leased("each[0]"),
    leased("each[1]"),
    ended("each[1]"),
    ended("each[0]", "failed"),
    LIST_DONE,
    leased("z"),
    ended("z"),
    ("run.succeeded", "", {}),
)


def test_a_list_and_its_items_are_good() -> None:
    assert problem(*DONE) == ""


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ((leased("a"), ended("a"), leased("each[0]")), "while 'each' is not active"),
        ((leased("a"), ended("a"), LIST, leased("each")), "though only its items can be"),
        ((*DONE[:5], LIST_DONE), "succeeds before its item 'each[0]' ended"),
        ((*DONE[:8], leased("each[2]")), "while 'each' is not active"),
        ((*DONE[:7], leased("each[0]", 2)), "leased after it ended"),
        ((leased("a"), ended("a"), LIST, leased("a[0]")), "which the definition has not"),
        ((leased("a"), ended("a"), LIST, leased("each[01]")), "which the definition has not"),
        ((*DONE[:7], leased("z")), "leased before 'each' succeeded"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(steps: tuple[Step, ...], text: str) -> None:
    assert text in problem(*steps)


@pytest.mark.parametrize(
    ("trigger", "ends", "good"),
    [
        ("all_done", ("failed", "skipped"), True),
        ("all_done", ("failed",), False),
        ("none_failed", ("succeeded", "skipped"), True),
        ("none_failed", ("succeeded", "failed"), False),
        ("any_failed", ("cancelled",), True),
        ("any_failed", ("succeeded", "skipped"), False),
        ("all_succeeded", ("succeeded", "skipped"), False),
    ],
)
def test_a_lease_is_judged_by_the_trigger_rule(
    trigger: str, ends: tuple[str, ...], good: bool
) -> None:
    tasks = [
        {"key": "x", "kind": "work", "depends_on": []},
        {"key": "y", "kind": "work", "depends_on": []},
        {"key": "z", "kind": "work", "depends_on": ["x", "y"], "trigger": trigger},
    ]
    steps = [ended(key, how, term=0, result="") for key, how in zip("xy", ends, strict=False)]
    assert (problem(*steps, leased("z"), tasks=tasks) == "") is good


def test_a_run_succeeds_with_skipped_tasks_and_not_with_open_ones() -> None:
    tasks = [TASKS[0], {"key": "b", "kind": "work", "depends_on": ["a"]}]
    begun = leased("a"), ended("a")
    over: Step = ("run.succeeded", "", {})
    assert problem(*begun, ended("b", "skipped", 0), over, tasks=tasks) == ""
    assert "task 'b' has not succeeded" in problem(*begun, over, tasks=tasks)


def test_what_was_opened_again_may_be_leased_and_may_succeed_again() -> None:
    again: tuple[Step, ...] = (
        ("run.reopened", "", {}),
        ("task.reopened", "z", {"term": 2}),
        leased("z", 3),
        ended("z", term=3),
        ("run.succeeded", "", {}),
    )
    assert problem(*DONE, *again) == ""
    assert "comes after the end" in problem(*DONE, *again[1:])
    assert "leased after it succeeded" in problem(*DONE, again[0], again[2])


def test_an_attempt_that_never_began_fails_under_the_term_before() -> None:
    assert problem(ended("a", "failed", 0, "")) == ""
    assert "not its last lease" in problem(ended("a", "failed", 1, ""))
