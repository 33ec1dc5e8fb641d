"""A run that was moved to another definition: judged by each while it was under it."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.evidence import synthetic
from tests.evidence.test_order import definition, done, lost, step, undo
from tests.evidence.test_tampering import KEY, VERIFIER

from tenure_evidence import bundle, plan
from tenure_evidence.canonical import canonical, digest_text, read
from tenure_evidence.sequence import Sequence
from tenure_evidence.verify import verify

OLD = definition(step("a"), step("b", "a"), step("c", "b", **undo("c")))
MORE = definition(step("a", **undo("a")), step("x", "a"), step("b", "a"), step("d", "x", "b"))
BEFORE = definition(step("a", "x"), step("x"), step("b", "a"), step("c", "b"))
FEWER = definition(step("b"), step("c", "b"))
OTHER = definition({**step("a"), "kind": "do.other"}, step("b", "a"), step("c", "b"))
ALONE = definition(step("a"), step("b"), step("c"))
UNDOING = definition(step("a", **undo("a")), step("b", "a", **undo("b")), step("c", "b"))
TEXTS = {
    "old": OLD,
    "more": MORE,
    "before": BEFORE,
    "fewer": FEWER,
    "other": OTHER,
    "alone": ALONE,
    "undoing": UNDOING,
}


def problem(*words: str) -> str:
    """The first thing that is wrong with a run under OLD, in short words; `moved` names a text."""
    later = {digest_text(text): plan.plan_of(text) for text in TEXTS.values()}
    events, under = Sequence(plan.plan_of(OLD), later), OLD
    terms: dict[str, int] = {}
    for seq, word in enumerate(("run started", *words), start=1):
        what, name = word.split(" ")
        event: dict[str, Any] = {"seq": seq, "kind": f"run.{name}"}
        if what == "moved":
            event = {"seq": seq, "kind": "run.moved", "previous": digest_text(under)}
            under = TEXTS[name]
            event["definition"] = digest_text(under)
        elif word == "run started":
            event["definition"] = digest_text(OLD)
        elif what != "run":
            event = {"seq": seq, "kind": f"task.{what}", "task": name}
            if what in ("leased", "reopened"):
                terms[name] = terms.get(name, 0) + 1
            if what == "leased":
                handler = later[digest_text(under)].place(name)
                event |= {"handler": handler.handler if handler else ""}
                event["definition"] = digest_text(under)
            elif what in ("succeeded", "failed", "retrying"):
                event["result"] = f"{name}-{terms[name]}"
            event["term"] = terms.get(name, 0)
        if found := events.take(event):
            assert word == words[-1], f"{word}: {found}"
            return found
    return ""


FAILED = [*done("a"), *lost("b"), "upstream_failed c", "run failed"]
OPENED = [*FAILED, "run reopened", "reopened b", "reopened c"]

GOOD = [
    ["run paused", "moved more", "run resumed", *done("a", "x", "b", "d"), "run succeeded"],
    [*done("a"), "moved more", *done("x", "b", "d"), "run succeeded"],
    [*done("a"), "moved more", *lost("x"), "upstream_failed d", *done("b"), *done("a~undo")],
    [*done("a", "b"), "moved undoing", *lost("c"), *done("b~undo", "a~undo"), "run failed"],
    [*OPENED, "moved more", *done("x", "b", "d"), "run succeeded"],
    ["leased a", "lease_lost a", "moved fewer", *done("b", "c"), "run succeeded"],
    ["leased a", "retrying a", "moved more", *done("a"), "moved alone"],
    [*lost("a"), "upstream_failed b", "upstream_failed c", "moved undoing", "run failed"],
]
BAD = [
    ([*done("a"), "moved fewer"], "has no task 'a'"),
    ([*done("a"), "moved before"], "in which task 'a' began before 'x' succeeded"),
    ([*done("a"), "moved other"], "task 'a' has another handler"),
    (["leased a", "moved more"], "while task 'a' is leased"),
    ([*done("a"), "leased b", "moved more"], "while task 'b' is leased"),
    ([*lost("a"), "upstream_failed b", "moved alone"], "task 'b' would not have failed"),
    (["moved more", "leased c"], "of task 'c', which the definition has not"),
    ([*done("a"), "moved more", "leased d"], "leased before 'x' succeeded"),
    ([*done("a"), "moved more", *done("b", "x"), "run succeeded"], "'d' has not succeeded"),
]


def _finished(words: list[str]) -> list[str]:
    # What is undone begins with an event of its own.
    at = next((n for n, word in enumerate(words) if word.endswith("~undo")), None)
    return words if at is None else [*words[:at], "run compensating", *words[at:]]


@pytest.mark.parametrize("words", GOOD, ids=" ".join)
def test_a_run_goes_on_under_the_definition_that_it_was_moved_to(words: list[str]) -> None:
    assert problem(*_finished(words)) == ""


@pytest.mark.parametrize(("words", "text"), BAD)
def test_a_move_that_breaks_the_order_is_found(words: list[str], text: str) -> None:
    assert text in problem(*words)


def test_a_move_from_another_definition_than_the_runs_own_is_found() -> None:
    events = Sequence(plan.plan_of(OLD), {digest_text(MORE): plan.plan_of(MORE)})
    assert events.take({"seq": 1, "kind": "run.started", "definition": digest_text(OLD)}) == ""
    move = {"seq": 2, "kind": "run.moved", "definition": digest_text(MORE)}
    assert "from another definition" in events.take({**move, "previous": digest_text(FEWER)})


# -- bundles


Tasks = dict[str, tuple[str, ...]]
WIDER: Tasks = {
    "extract": (),
    "left": ("extract",),
    "check": ("extract",),
    "load": ("left", "check"),
}
LAST: Tasks = {**WIDER, "tell": ("load",)}


@functools.cache
def moved_bundle() -> bundle.Bundle:
    """A run through the diamond that is moved twice on its way."""
    texts = [synthetic.definition_of(tasks) for tasks in (synthetic.DIAMOND, WIDER, LAST)]
    log, run = synthetic.Log(), synthetic.Run("run-1", texts[0])
    subject = {"workflow": "etl", "version": "3", "run": "run-1"}
    log.append("run.start", [run.started()], subject=subject, method="/tenure.v1.Runs/StartRun")
    log.append("lease.grant", [run.leased("extract")])
    log.append("task.report", [run.ended("extract", 1), run.item("run.paused")])
    for text in texts[1:]:
        before, run.digest = run.digest, digest_text(text)
        log.append("run.move", [run.item("run.moved", previous=before, definition=run.digest)])
    log.append("run.resume", [run.item("run.resumed")])
    for task in ("left", "check", "load", "tell"):
        log.append("lease.grant", [run.leased(task)])
        log.append("task.report", [run.ended(task, 1)])
    log.append("time.pass", [run.item("run.succeeded")])
    return replace(synthetic.content_of(log, definition=texts[0]), moved_to=tuple(texts[1:]))


def second_verdict(data: bytes, folder: Path) -> bool:
    """What the second verifier says of a bundle."""
    file = folder / "moved.bundle.json"
    file.write_bytes(data)
    command = ["node", str(VERIFIER), str(file), KEY]
    said = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    return bool(said["ok"])


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here")


def test_the_bundle_of_a_moved_run_is_good_and_is_what_it_was_made_of() -> None:
    data = synthetic.built(moved_bundle())
    report = verify(data, KEY)
    assert report.ok, report.findings
    assert report.end == "run.succeeded"
    assert replace(bundle.parse(data), subjects=()) == moved_bundle()


def changed_bundles() -> dict[str, bundle.Bundle]:
    good = moved_bundle()
    wider, last = good.moved_to
    other = wider.replace(b"kind.check", b"kind.chock")
    return {
        "left out": replace(good, moved_to=()),
        "one too few": replace(good, moved_to=(wider,)),
        "one too many": replace(good, moved_to=(wider, last, wider)),
        "the other way round": replace(good, moved_to=(last, wider)),
        "changed": replace(good, moved_to=(other, last)),
        "no definition": replace(good, moved_to=(b"[]", last)),
        "started under the last": replace(good, definition=last),
    }


@pytest.mark.parametrize("name", changed_bundles())
@needs_node
def test_other_definitions_than_those_of_the_events_are_found(name: str, tmp_path: Path) -> None:
    data = synthetic.built(changed_bundles()[name])
    assert not verify(data, KEY).ok
    assert not second_verdict(data, tmp_path)


@needs_node
def test_the_second_verifier_takes_a_moved_run(tmp_path: Path) -> None:
    assert second_verdict(synthetic.built(moved_bundle()), tmp_path)


@pytest.mark.parametrize("value", [[], "text", [1], None])
def test_definitions_that_are_none_are_named(value: Any) -> None:
    statement = read(bundle.open_envelope(synthetic.built(moved_bundle())).payload)
    statement["predicate"]["moved_to"] = value
    report = verify(bundle.sealed(_bytes(statement), synthetic.NEWEST), KEY)
    assert not report.ok


def _bytes(statement: Any) -> bytes:
    if statement["predicate"]["moved_to"] is None:
        return json.dumps(statement, separators=(",", ":"), sort_keys=True).encode()
    return canonical(statement)


NEWER: dict[str, Tasks] = {
    "that has no task 'extract'": {"left": ()},
    "in which task 'extract' began before 'right' succeeded": {"extract": ("right",), "right": ()},
    "moves the run while task 'left' is leased": synthetic.DIAMOND,
}


@pytest.mark.parametrize("said", NEWER)
@needs_node
def test_a_move_that_does_not_fit_is_blamed_on_its_entry(said: str, tmp_path: Path) -> None:
    """Signed and all: the coordinator itself has broken the order."""
    newer = {**NEWER[said], "new": ()}
    texts = [synthetic.definition_of(tasks) for tasks in (synthetic.DIAMOND, newer)]
    log, run = synthetic.Log(), synthetic.Run("run-1", texts[0])
    subject = {"workflow": "etl", "version": "3", "run": "run-1"}
    log.append("run.start", [run.started()], subject=subject)
    items = [run.leased("extract"), run.ended("extract", 1)]
    if "leased" in said:
        items.append(run.leased("left"))
    log.append("lease.grant", items)
    move = run.item("run.moved", previous=run.digest, definition=digest_text(texts[1]))
    log.append("run.move", [move])
    content = replace(synthetic.content_of(log, definition=texts[0]), moved_to=(texts[1],))
    data = synthetic.built(content)
    report = verify(data, KEY)
    assert report.first_bad is not None
    assert report.first_bad.position == 2
    assert said in report.first_bad.reason
    assert not second_verdict(data, tmp_path)
