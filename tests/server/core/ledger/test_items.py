"""The items of evidence: canonical, whichever way they were made."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenure_evidence import rows
from tenure_evidence.canonical import canonical, hash_text, read
from tenure_evidence.items import events_of
from tenure_server.core.ledger.items import ITEM_KINDS, Said, items_of
from tenure_server.core.ledger.lifecycle import (
    RUN_ENDED,
    RUN_ENDS,
    TASK_ENDED,
    EventKind,
    RunState,
)

RESULT = bytes(range(32))
AGENT = 'agent \u00e9 "one"'
LEASE: Said = ("sha256:00", "sha256:01", "kind", RESULT)
KINDS = (EventKind.TASK_LEASED, EventKind.TASK_SUCCEEDED, EventKind.RUN_FAILED)
Row = tuple[Any, ...]


def row(seq: int, kind: EventKind, task: str = "", run: str = "run-1", at_us: int = 5) -> Row:
    who = (2, 3, AGENT) if task else (0, 0, "")
    return ("acme", run, seq, at_us, int(kind), task, *who, "", "")


def said_by(rows: list[Row], said: list[Said]) -> list[dict[str, Any]]:
    """Read by the verifier's own reader, which takes no other spelling."""
    return [read(item) for item in items_of(rows, said).written]


def test_a_success_is_written_the_same_the_quick_way_and_the_long_way() -> None:
    rows = [row(7, EventKind.TASK_SUCCEEDED, "a"), row(8, EventKind.TASK_SUCCEEDED, "b")]
    for count in (1, 2):
        quick = items_of(rows[:count], [RESULT] * count)
        long = items_of(rows[:count], [{"result": hash_text(RESULT)}] * count)
        assert quick == long


def test_every_item_is_canonical_and_says_what_its_event_has() -> None:
    rows = [
        row(1, EventKind.RUN_STARTED),
        row(2, EventKind.TASK_LEASED, "a"),
        row(3, EventKind.TASK_FAILED, "a"),
        row(1, EventKind.TASK_LEASED, "a", run="run-2"),
    ]
    who = {"agent": AGENT, "attempt": 2, "term": 3, "task": "a", "at": 5}
    lease = {"definition": "sha256:00", "constitution": "sha256:01", "handler": "kind"}
    lease |= {"input": hash_text(RESULT), "kind": "task.leased"}
    assert said_by(rows, [{"definition": "d"}, LEASE, {"code": "E", "text": "t"}, LEASE]) == [
        {"run": "run-1", "seq": 1, "at": 5, "kind": "run.started", "definition": "d"},
        {"run": "run-1", "seq": 2, **who, **lease},
        {"run": "run-1", "seq": 3, "kind": "task.failed", "code": "E", "text": "t", **who},
        {"run": "run-2", "seq": 1, **who, **lease},
    ]


def test_tasks_alike_that_follow_one_another_share_an_item() -> None:
    rows = [row(seq, EventKind.TASK_LEASED, f"t{seq}") for seq in range(4, 7)]
    items = items_of(rows, [LEASE] * 3)
    [item] = [read(one) for one in items.written]
    assert (item["seq"], item["tasks"]) == (4, ["t4", "t5", "t6"])
    assert "task" not in item
    assert items.tasks == [["t4", "t5", "t6"]]


def test_what_differs_in_more_than_its_task_has_an_item_to_itself() -> None:
    first = row(4, EventKind.TASK_LEASED, "a")
    other: Said = ("sha256:00", "sha256:01", "another", RESULT)
    for second, said in (
        (row(5, EventKind.TASK_LEASED, "b"), other),
        (row(6, EventKind.TASK_LEASED, "b"), LEASE),
        (row(5, EventKind.TASK_LEASED, "b", run="run-2"), LEASE),
        (row(5, EventKind.TASK_LEASED, "b", at_us=6), LEASE),
        ((*first[:2], 5, *first[3:5], "b", 3, *first[7:]), LEASE),
        ((*first[:2], 5, *first[3:5], "b", 2, 4, *first[8:]), LEASE),
        (row(5, EventKind.TASK_SUCCEEDED, "b"), RESULT),
    ):
        assert len(said_by([first, second], [LEASE, said])) == 2, second
    ends = [row(5, EventKind.RUN_CANCELLING), row(6, EventKind.RUN_CANCELLING)]
    assert len(said_by(ends, [{}, {}])) == 2, "an item of the run is about no tasks"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run-1", "run-2"]),
            st.sampled_from(KINDS),
            st.text(min_size=1, max_size=3),
            st.integers(5, 6),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_whatever_happened_the_items_say_each_event_once_and_in_order(drawn: list[Any]) -> None:
    seqs = {"run-1": 0, "run-2": 0}
    rows: list[Row] = []
    said: list[Said] = []
    for run, kind, task, at_us, plain in drawn:
        seqs[run] += 1
        of_run = kind is EventKind.RUN_FAILED
        rows.append(row(seqs[run], kind, "" if of_run else task, run, at_us))
        quick = LEASE if kind is EventKind.TASK_LEASED else RESULT
        said.append({"text": "t"} if of_run or plain else quick)
    items = items_of(rows, said)
    read_back = [read(item) for item in items.written]
    assert [canonical(item) for item in read_back] == items.written
    told = [
        (event["run"], event["seq"], event["kind"], event.get("task", ""), event["at"])
        for item in read_back
        for event in events_of(item)
    ]
    assert told == [(r[1], r[2], ITEM_KINDS[EventKind(r[4])], r[5], r[3]) for r in rows]
    assert [task for tasks in items.tasks for task in tasks] == [r[5] for r in rows]


def test_audits_read_kinds_and_states_as_they_are_written() -> None:
    assert tuple(ITEM_KINDS[kind] for kind in sorted(EventKind)) == rows.KINDS
    assert {int(state): ITEM_KINDS[kind] for state, kind in RUN_ENDS.items()} == rows.RUN_ENDS
    standing = {state for states in rows.RUN_STANDS.values() for state in states}
    assert standing == {int(state) for state in RunState} - {int(state) for state in RUN_ENDED}
    assert {f"task.{state.name.lower()}" for state in TASK_ENDED} == rows.TASK_ENDS.keys()
