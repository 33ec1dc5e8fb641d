"""Operators pause, resume, close, skip, settle and reopen; restarts in between change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.server.core.world import SECOND, World, json_payload, task

from tenure_evidence.digests import given_digest
from tenure_server.core import errors
from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.definitions.features import Handler, Timer, TriggerRule
from tenure_server.core.desks.interventions import BY_HAND, to_reopen
from tenure_server.core.leasing.leases import Success
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState, Verdict
from tenure_server.core.runs import history
from tenure_server.core.runs.live import LiveRun

BOOM = Failure("BOOM")


def paused(world: World) -> LiveRun:
    """A run of two tasks after another, paused while the first is leased."""
    run = world.start(task("a"), task("b", "a"), task("c"))
    world.hold_one()
    world.desk.interventions.pause(run, "look first", world.now_us)
    return run


def reopen(world: World, run: LiveRun, *keys: str, pause: bool = False) -> LiveRun:
    """Reopens a run as the engine does: from the tables, when it has ended."""
    return world.execute_again(run, *keys, pause=pause)


def test_a_paused_run_leases_nothing_and_what_is_leased_goes_on() -> None:
    world = World()
    run = paused(world)
    [lease] = world.desk.leases.values()
    assert world.grant() == []
    assert world.settle(lease) is Verdict.APPLIED
    assert world.states(run) == {"a": "SUCCEEDED", "b": "READY", "c": "READY"}
    assert world.grant() == []
    world.desk.interventions.resume(run, "", world.now_us)
    assert [lease.task_key for lease in world.grant()] == ["b", "c"]


def test_a_run_stays_paused_through_a_restart() -> None:
    world = World()
    run = paused(world)
    world.reopen()
    again = world.desk.runs[run.run_id]
    assert world.run_state(again) is RunState.PAUSED
    assert world.grant() == []
    world.desk.interventions.resume(again, "", world.now_us)
    assert [lease.task_key for lease in world.grant()] == ["c"]


def test_pausing_and_resuming_twice_is_the_same_as_once() -> None:
    world = World()
    run = paused(world)
    world.desk.interventions.pause(run, "again", world.now_us)
    world.desk.interventions.resume(run, "", world.now_us)
    world.desk.interventions.resume(run, "", world.now_us)
    kinds = world.kinds(run)
    assert kinds.count(EventKind.RUN_PAUSED) == kinds.count(EventKind.RUN_RESUMED) == 1


def test_a_retry_that_falls_due_in_a_paused_run_waits_for_the_resume() -> None:
    world = World()
    run = world.start(task("a", retry=RetryPolicy(max_attempts=2, jitter=0)))
    world.settle(world.hold_one(), BOOM)
    world.desk.interventions.pause(run, "", world.now_us)
    world.wait(2 * SECOND)
    assert world.state(run, "a") is TaskState.READY
    assert world.grant() == []
    world.desk.interventions.resume(run, "", world.now_us)
    assert world.grant_one().attempt == 2


def test_a_paused_run_can_be_cancelled_and_can_end() -> None:
    world = World()
    run = paused(world)
    [lease] = world.desk.leases.values()
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.run_state(run) is RunState.CANCELLING
    world.settle(lease)
    assert world.run_state(run) is RunState.CANCELLED


def test_closing_ends_run_and_leases_at_once_and_results_come_too_late() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"), task("w", wait=Timer(delay_us=SECOND), kind=""))
    lease = world.hold_one()
    world.desk.interventions.close(run, "stuck", world.now_us)
    assert world.run_state(run) is RunState.CLOSED
    assert set(world.states(run).values()) == {"CANCELLED"}
    assert not world.desk.leases
    assert world.desk.ended == [(lease, "the run was closed: stuck")]
    assert world.verdict(lease) is Verdict.RUN_CLOSED
    assert world.kinds(run)[-1] is EventKind.RUN_CLOSED
    world.wait(2 * SECOND)
    assert world.tables.run(run.run_id).state is RunState.CLOSED


def test_a_skipped_task_takes_with_it_what_wants_success_and_nothing_else() -> None:
    world = World()
    run = world.start(
        task("a"),
        task("b", "a"),
        task("any", "a", trigger=TriggerRule.ALL_DONE),
        task("none", "a", trigger=TriggerRule.NONE_FAILED),
        task("other"),
    )
    world.desk.interventions.skip(run, 0, "not today", world.now_us)
    assert world.states(run) == {
        "a": "SKIPPED",
        "b": "SKIPPED",
        "any": "READY",
        "none": "READY",
        "other": "READY",
    }
    for lease in world.grant():
        world.settle(lease)
    assert world.run_state(run) is RunState.SUCCEEDED


def test_a_task_settled_by_hand_counts_like_a_result() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"))
    lease = world.hold_one()
    end = Success(json_payload({"by": "hand"}))
    world.desk.interventions.settle(run, 0, end, "done on the phone", world.now_us)
    assert world.desk.ended[0][0] is lease
    assert world.verdict(lease) is not Verdict.APPLIED
    follower = world.grant_one()
    assert follower.upstream["a"].data == b'{"by":"hand"}'


def test_a_task_declared_failed_fails_for_good_whatever_its_retry() -> None:
    world = World()
    run = world.start(task("a", retry=RetryPolicy(max_attempts=5)), task("b", "a"))
    world.desk.interventions.settle(run, 0, BOOM, "hopeless", world.now_us)
    assert world.states(run) == {"a": "FAILED", "b": "UPSTREAM_FAILED"}
    assert run.reason == f"task a failed: {BY_HAND}"


@pytest.mark.parametrize(
    "act",
    [
        lambda world, run: world.desk.interventions.settle(run, 1, Success(), "no", world.now_us),
        lambda world, run: world.desk.interventions.skip(run, 0, "no", world.now_us),
        lambda world, run: to_reopen(run, [0]),
        lambda world, run: to_reopen(run, []),
    ],
    ids=["settle what waits", "skip what is leased", "rerun what is leased", "retry nothing"],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    act: Callable[[World, LiveRun], None],
) -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"))
    world.hold_one()
    world.commit()
    before = world.states(run)
    with pytest.raises(errors.RunStands):
        act(world, run)
    assert world.states(run) == before
    assert not world.journal.events


@pytest.mark.parametrize("restart", [False, True])
def test_a_failed_run_is_retried_from_what_failed(restart: bool) -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"), task("c", "b"), task("d", "a"))
    world.settle(world.hold_one(), Success(json_payload(7)))
    leases = {lease.task_key: lease for lease in world.grant()}
    world.settle(leases["d"])
    world.settle(leases["b"], BOOM)
    assert world.run_state(run) is RunState.FAILED
    run = reopen(world, run)
    if restart:
        world.reopen()
        run = world.desk.runs[run.run_id]
    assert world.states(run) == {"a": "SUCCEEDED", "b": "READY", "c": "WAITING", "d": "SUCCEEDED"}
    lease = world.grant_one()
    assert (lease.task_key, lease.attempt, lease.term) == ("b", 1, 3)
    assert lease.upstream["a"].data == b"7"
    world.settle(lease)
    world.settle(world.grant_one())
    assert world.run_state(run) is RunState.SUCCEEDED
    world.commit()
    assert world.tables.run(run.run_id).succeeded == 4


def test_a_result_from_before_the_reopening_proves_nothing() -> None:
    world = World()
    run = world.start(task("a"))
    old = world.hold_one()
    world.settle(old, BOOM)
    reopen(world, run)
    assert world.settle(old) is not Verdict.APPLIED
    new = world.grant_one()
    assert world.settle(old) is Verdict.SUPERSEDED
    assert world.settle(new) is Verdict.APPLIED


def test_a_retry_from_before_the_reopening_hurries_none_after_it() -> None:
    """Each waits for all of its own time."""
    world = World()
    run = world.start(
        task("a", retry=RetryPolicy(max_attempts=2, initial_delay_us=5 * SECOND, jitter=0))
    )
    world.settle(world.hold_one(), BOOM)
    world.desk.cancel_run(run, "", world.now_us)
    world.wait(SECOND)
    run = reopen(world, run)
    world.settle(world.hold_one(), BOOM)
    world.wait(4 * SECOND)
    assert world.states(run) == {"a": "RETRYING"}
    world.wait(SECOND)
    assert world.states(run) == {"a": "READY"}


def test_a_run_that_succeeded_is_rerun_from_a_chosen_task() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"), task("c", "b"), task("d"))
    while leases := world.grant():
        for lease in leases:
            world.settle(lease)
    run = reopen(world, run, "b", pause=True)
    assert world.run_state(run) is RunState.PAUSED
    assert world.states(run) == {"a": "SUCCEEDED", "b": "READY", "c": "WAITING", "d": "SUCCEEDED"}
    assert world.grant() == []
    world.desk.interventions.resume(run, "", world.now_us)
    assert world.grant_one().task_key == "b"


def test_an_open_run_is_retried_from_what_failed_while_the_rest_goes_on() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"), task("c"))
    leases = {lease.task_key: lease for lease in world.grant()}
    world.settle(leases["a"], BOOM)
    reopen(world, run)
    assert world.states(run) == {"a": "READY", "b": "WAITING", "c": "LEASED"}


def half_failed(world: World) -> LiveRun:
    """An open run of which one task has failed, one is leased and two are ready."""
    run = world.start(task("a"), task("b"), task("c"), task("d"))
    world.settle(world.hold_one(), BOOM)
    world.hold_one()
    return run


def test_a_paused_run_that_is_opened_again_goes_on_with_all_of_it() -> None:
    """Also with what was ready when it was paused, or has become so since."""
    world = World()
    run = half_failed(world)
    world.desk.interventions.pause(run, "", world.now_us)
    reopen(world, run)
    assert world.run_state(run) is RunState.RUNNING
    assert sorted(lease.task_key for lease in world.grant()) == ["a", "c", "d"]


def test_a_running_run_that_is_opened_again_paused_begins_nothing() -> None:
    world = World()
    run = half_failed(world)
    reopen(world, run, pause=True)
    assert world.grant() == []
    world.desk.interventions.resume(run, "", world.now_us)
    assert [lease.task_key for lease in world.grant()] == ["a", "c", "d"]


def graph_at_work(world: World) -> LiveRun:
    """A run in which `b` was given the output of `a`, and `c` waits for more."""
    run = world.start(
        task("a"),
        task("slow"),
        task("b", "a"),
        task("c", "a", "slow"),
    )
    world.settle(world.hold_one(), Success(json_payload("before")))
    world.hold_one()
    world.settle(world.hold_one(), Success())
    return run


def test_what_is_executed_again_gives_others_what_came_of_it_this_time() -> None:
    """In what they are handed, and in the digest of it that is signed."""
    world = World()
    run = graph_at_work(world)
    reopen(world, run, "a")
    world.settle(world.hold_one(), Success(json_payload("since")))
    lease = world.hold_one()
    assert lease.task_key == "b"
    assert lease.upstream == {"a": json_payload("since")}
    given = history._given(run, None, lease.upstream, run.facts[lease.index])
    wanted = given_digest(None, run.input_digest(), [("a", json_payload("since").digest())], None)
    assert given == wanted


def test_what_is_executed_again_and_fails_gives_others_nothing() -> None:
    world = World()
    last = task("last", "a", "slow", trigger=TriggerRule.ALL_DONE)
    run = world.start(task("a"), task("slow"), last)
    world.settle(world.hold_one(), Success(json_payload("before")))
    slow = world.hold_one()
    reopen(world, run, "a")
    world.settle(world.hold_one(), BOOM)
    world.settle(slow, Success())
    lease = world.hold_one()
    assert (lease.task_key, lease.upstream) == ("last", {})


def test_a_paused_run_that_is_retried_goes_on_with_what_was_ready() -> None:
    world = World()
    run = world.start(task("a"), task("b", queue_timeout_us=60 * SECOND))
    lease = world.grant_one()
    assert lease.task_key == "a"
    world.desk.interventions.pause(run, "", world.now_us)
    world.settle(lease, BOOM)
    world.wait(100 * SECOND)
    run = reopen(world, run)
    assert sorted(one.task_key for one in world.grant()) == ["a", "b"]


def test_a_run_at_work_that_is_retried_paused_is_leased_nothing_more() -> None:
    world = World()
    run = world.start(task("a"), task("b"))
    world.settle(world.grant_one(), BOOM)
    run = reopen(world, run, pause=True)
    assert run.state is RunState.PAUSED
    assert world.grant() == []


def test_a_run_is_not_retried_while_on_failure_waits_in_a_pause() -> None:
    world = World()
    run = world.start(task("a"), on_failure=Handler(kind="work"))
    world.settle(world.hold_one(), BOOM)
    world.desk.interventions.pause(run, "", world.now_us)
    with pytest.raises(errors.RunStands):
        reopen(world, run)
    assert world.states(run) == {"a": "FAILED", "~on_failure": "READY"}
