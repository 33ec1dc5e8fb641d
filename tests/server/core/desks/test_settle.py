"""Each result is told what became of it, and counts at most once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import LEASE_US, SECOND, World, json_payload, task

from tenure_server.core.definitions.definition import Payload, RetryPolicy
from tenure_server.core.definitions.payloads import PAYLOAD_BYTES_MAX
from tenure_server.core.desks.desk import End, result_digest
from tenure_server.core.leasing.leases import STOPPED, Success
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState, Verdict

ONE = Success(json_payload(1))
TWO = Success(json_payload(2))
BOOM = Failure("BOOM", "it broke")
PATIENT = RetryPolicy(max_attempts=3, initial_delay_us=SECOND, jitter=0)

#: Ends, and the state of a task that may not be tried again after each.
ENDS = [
    (Success(), TaskState.SUCCEEDED),
    (ONE, TaskState.SUCCEEDED),
    (Success(Payload(b"\xff", "image/png")), TaskState.SUCCEEDED),
    (BOOM, TaskState.FAILED),
    (STOPPED, TaskState.READY),
]


@pytest.mark.parametrize(("end", "state"), ENDS)
def test_the_result_of_a_live_lease_is_applied(end: End, state: TaskState) -> None:
    world = World()
    run = world.start(task("a"))
    assert world.verdict(world.grant_one(), end) is Verdict.APPLIED
    assert world.state(run, "a") is state
    assert not world.desk.leases


@pytest.mark.parametrize(("end", "state"), ENDS)
def test_a_result_after_the_lease_was_lost_still_counts(end: End, state: TaskState) -> None:
    world = World()
    run = world.start(task("a"))
    lease = world.hold_one()
    world.wait(LEASE_US)
    assert world.state(run, "a") is TaskState.READY
    assert world.verdict(lease, end) is Verdict.APPLIED
    assert world.state(run, "a") is state
    world.commit()
    assert world.tables.task(run.run_id, 0).attempt == (0 if state is TaskState.READY else 1)
    assert len(world.grant()) == (state is TaskState.READY)


@pytest.mark.parametrize("end", [end for end, _ in ENDS])
@pytest.mark.parametrize("others", [0, 1], ids=["the run ends", "the run goes on"])
@pytest.mark.parametrize("reopen", [False, True], ids=["", "after a restart"])
def test_a_repeated_result_was_already_applied(end: End, others: int, reopen: bool) -> None:
    world = World()
    world.start(task("a"), *[task("b", kind="play")] * others)
    lease = world.grant_one()
    world.verdict(lease, end)
    before = world.commit()
    assert before
    if reopen:
        world.reopen()
    for _ in range(3):
        assert world.verdict(lease, end) is Verdict.ALREADY_APPLIED
    assert not world.commit()


@pytest.mark.parametrize(
    ("first", "second"), [(ONE, TWO), (ONE, Success()), (ONE, BOOM), (BOOM, ONE), (STOPPED, ONE)]
)
@pytest.mark.parametrize("others", [0, 1], ids=["the run ends", "the run goes on"])
def test_another_result_under_the_same_term_is_refused(
    first: End, second: End, others: int
) -> None:
    world = World()
    run = world.start(task("a"), *[task("b", kind="play")] * others)
    lease = world.grant_one()
    world.verdict(lease, first)
    world.commit()
    closed = run.run_id not in world.desk.runs
    expected = Verdict.RUN_CLOSED if closed else Verdict.SUPERSEDED
    assert world.verdict(lease, second) is expected
    assert not world.commit()


def test_a_result_under_an_older_term_is_superseded() -> None:
    world = World()
    run = world.start(task("a"))
    old = world.hold_one()
    world.wait(LEASE_US)
    new = world.grant_one(world.agent("other"))
    assert new.term == old.term + 1
    assert world.verdict(old, ONE) is Verdict.SUPERSEDED
    assert world.state(run, "a") is TaskState.LEASED
    assert world.verdict(new, TWO) is Verdict.APPLIED
    assert world.verdict(old, ONE) is Verdict.SUPERSEDED
    assert world.tables.task(run.run_id, 0).output == TWO.output


FORGED: list[dict[str, Any]] = [
    {"token": b"x" * 16},
    {"token": b""},
    {"holder": "key-2"},
    {"term": 2},
    {"task_key": "no-such"},
    {"task_key": "waiting"},
    {"task_key": "ready"},
    {"run_id": "no-such"},
]


@pytest.mark.parametrize("words", FORGED, ids=str)
@pytest.mark.parametrize("ended", [False, True], ids=["while leased", "after the end"])
def test_who_cannot_prove_the_lease_learns_nothing(words: dict[str, Any], ended: bool) -> None:
    world = World()
    run = world.start(task("a"), task("waiting", "ready"), task("ready", kind="play"))
    lease = world.grant_one()
    if ended:
        world.settle(lease)
    before = world.states(run)
    world.commit()
    assert world.verdict(lease, **words) is Verdict.UNKNOWN
    assert world.states(run) == before
    assert not world.commit()
    assert ended or world.verdict(lease) is Verdict.APPLIED


@pytest.mark.parametrize(
    "output",
    [Payload(b"{"), Payload(b""), Payload(b"x" * ((1 << 20) + 1), "text/plain")],
    ids=["no json", "empty", "large"],
)
def test_a_bad_output_is_refused_and_fails_the_attempt(output: Payload) -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT), task("b", "a"))
    lease = world.grant_one()
    assert world.verdict(lease, Success(output)) is Verdict.OUTPUT_REFUSED
    world.commit()
    stored = world.tables.task(run.run_id, 0)
    assert stored.state is TaskState.RETRYING
    assert stored.failure is not None
    assert stored.failure.code == "OUTPUT_INVALID"
    assert world.verdict(lease, Success(output)) is Verdict.ALREADY_APPLIED


@pytest.mark.parametrize("trouble", ["restart", "pause", "lost", "cancel"])
def test_an_output_is_judged_alike_whatever_became_of_its_lease(trouble: str) -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT))
    lease = world.hold_one()
    if trouble == "restart":
        world.reopen()
    elif trouble == "pause":
        world.desk.interventions.pause(run, "a walk", world.now_us)
    elif trouble == "lost":
        world.wait(LEASE_US)
    else:
        world.desk.cancel_run(run, "enough", world.now_us)
    large = Payload(b'"' + b"x" * PAYLOAD_BYTES_MAX + b'"')
    assert world.verdict(lease, Success(large)) is Verdict.OUTPUT_REFUSED
    world.commit()
    stored = world.tables.task(run.run_id, 0)
    expected = TaskState.CANCELLED if trouble == "cancel" else TaskState.RETRYING
    assert (stored.state, stored.output) == (expected, None)


def test_a_result_for_a_cancelled_run_is_told_that_it_is_closed() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"))
    lease = world.hold_one()
    world.wait(LEASE_US)
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.run_state(run) is RunState.CANCELLED
    assert world.verdict(lease, ONE) is Verdict.RUN_CLOSED
    assert world.verdict(lease, ONE, task_key="b") is Verdict.UNKNOWN


def test_a_result_for_a_task_of_a_run_that_is_being_cancelled() -> None:
    world = World()
    run = world.start(task("lost"), task("live"))
    lost, live = world.grant()
    world.desk.accept(lost)
    world.desk.accept(live)
    world.wait(LEASE_US - SECOND)
    world.desk.renew(live, None, world.now_us)
    world.wait(SECOND)
    assert (lost.task.key, live.task.key) == ("lost", "live")
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.run_state(run) is RunState.CANCELLING
    assert world.verdict(lost, ONE) is Verdict.SUPERSEDED
    assert world.verdict(live, ONE) is Verdict.APPLIED
    assert world.run_state(run) is RunState.CANCELLED
    assert world.states(run) == {"lost": "CANCELLED", "live": "SUCCEEDED"}


def test_a_success_takes_away_what_earlier_attempts_left() -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT))
    lease = world.grant_one()
    world.desk.renew(lease, json_payload("half way"), world.now_us)
    world.settle(lease, BOOM)
    world.commit()
    stored = world.tables.task(run.run_id, 0)
    assert (stored.failure, stored.checkpoint) == (BOOM, json_payload("half way"))
    world.wait(SECOND)
    world.settle(world.grant_one(), ONE)
    world.commit()
    stored = world.tables.task(run.run_id, 0)
    assert (stored.failure, stored.checkpoint, stored.output) == (None, None, ONE.output)
    assert (stored.attempt, stored.term) == (2, 2)


def test_what_happened_to_a_task_is_told_in_order() -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT), task("b", "a"))
    world.settle(world.grant_one(), BOOM)
    world.wait(SECOND)
    world.settle(world.grant_one(), ONE)
    world.settle(world.grant_one(), STOPPED)
    world.settle(world.grant_one(), Failure("BAD", "", True))
    assert world.kinds(run) == [
        EventKind.RUN_STARTED,
        EventKind.TASK_LEASED,
        EventKind.TASK_RETRYING,
        EventKind.TASK_LEASED,
        EventKind.TASK_SUCCEEDED,
        EventKind.TASK_LEASED,
        EventKind.TASK_LEASE_RETURNED,
        EventKind.TASK_LEASED,
        EventKind.TASK_FAILED,
        EventKind.RUN_FAILED,
    ]
    log = world.tables.events[run.run_id]
    assert [event["attempt"] for event in log] == [0, 1, 1, 2, 2, 1, 0, 1, 1, 0]
    assert [event["term"] for event in log] == [0, 1, 1, 2, 2, 1, 1, 2, 2, 0]
    assert log[2]["code"] == "BOOM"
    assert log[8]["message"] == "the failure is not retryable"
    assert world.tables.run(run.run_id).reason == "task b failed: BAD"


def test_the_digests_of_ends_tell_them_apart() -> None:
    ends: list[End] = [
        Success(),
        Success(Payload(b"")),
        Success(Payload(b"a", "b")),
        Success(Payload(b"ab")),
        Failure("a", "b"),
        Failure("ab"),
        Failure("", "ab"),
        STOPPED,
    ]
    assert len({result_digest(end) for end in ends}) == len(ends)
    assert result_digest(Failure("a", "b")) == result_digest(Failure("a", "b", True))
