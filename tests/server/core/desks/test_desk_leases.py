"""Leases are accepted, renewed, lost, returned and run out of time, and their tasks go on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import ACCEPT_US, LEASE_US, SECOND, World, json_payload, task

from tenure_server.core.definitions.definition import DAY_US, Payload, RetryPolicy
from tenure_server.core.leasing.leases import STOPPED, Success
from tenure_server.core.leasing.timeouts import GRACE_US
from tenure_server.core.ledger.lifecycle import (
    LOST_LEASES_MAX,
    EventKind,
    Failure,
    RunState,
    Standing,
    TaskState,
    Verdict,
)

BOOM = Failure("BOOM")
PATIENT = RetryPolicy(max_attempts=3, initial_delay_us=SECOND, multiplier=2, jitter=0)


def test_a_lease_that_nobody_accepts_goes_to_somebody_else() -> None:
    world = World()
    run = world.start(task("a"))
    first = world.grant_one(world.agent("deaf"))
    assert world.desk.dues.next_us() == world.now_us + ACCEPT_US
    world.wait(ACCEPT_US - 1)
    assert world.state(run, "a") is TaskState.LEASED
    world.wait(1)
    assert world.desk.ended == [(first, "not accepted in time")]
    second = world.grant_one(world.agent("other"))
    assert (second.term, second.attempt) == (2, 1)
    assert world.kinds(run).count(EventKind.TASK_LEASE_RETURNED) == 1


def test_an_accepted_lease_holds_for_its_time_and_is_then_lost() -> None:
    world = World()
    run = world.start(task("a"))
    lease = world.grant_one()
    world.desk.accept(lease)
    assert world.desk.dues.next_us() == world.now_us + LEASE_US
    world.wait(LEASE_US - 1)
    assert world.state(run, "a") is TaskState.LEASED
    world.wait(1)
    assert world.state(run, "a") is TaskState.READY
    assert world.desk.ended == [(lease, "the lease expired")]
    assert world.kinds(run)[-1] is EventKind.TASK_LEASE_LOST
    assert world.grant_one().attempt == 1


def test_a_renewal_counts_as_acceptance_and_holds_for_the_whole_time() -> None:
    world = World()
    run = world.start(task("a"), task("b"))
    kept, left = world.grant()
    for _ in range(5):
        world.wait(ACCEPT_US - 1)
        assert world.desk.renew(kept, None, world.now_us) is Standing.HELD
    assert kept.until_us == world.now_us + LEASE_US
    assert world.states(run) == {"a": "LEASED", "b": "READY"}
    assert left.key not in world.desk.leases
    # A renewal alone changes no row.
    world.commit()
    world.desk.renew(kept, None, world.now_us)
    assert not world.commit()


def test_leases_are_lost_in_the_order_of_their_renewals() -> None:
    world = World()
    world.start(*[task(key) for key in "abc"])
    a, b, c = world.grant()
    for lease, at in ((b, 1), (c, 2), (a, 3)):
        world.now_us += at
        world.desk.renew(lease, None, world.now_us)
    world.wait(LEASE_US)
    assert [lease.task_key for lease, _ in world.desk.ended] == ["b", "c", "a"]


def test_only_its_holder_finds_a_lease() -> None:
    world = World()
    run = world.start(task("a"))
    lease = world.grant_one()
    words = (run.run_id, "a", lease.term, lease.token, "key-1")
    assert world.desk.find(*words) is lease
    for number, wrong in enumerate(("no-such", "b", lease.term + 1, b"x" * 16, "key-2")):
        forged: Any = [*words[:number], wrong, *words[number + 1 :]]
        assert world.desk.find(*forged) is None
    world.wait(LEASE_US)
    assert world.desk.find(*words) is None


def test_a_checkpoint_reaches_the_next_attempt() -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT))
    lease = world.grant_one()
    assert lease.checkpoint is None
    world.desk.renew(lease, json_payload(1), world.now_us)
    world.desk.renew(lease, json_payload(2), world.now_us)
    world.desk.renew(lease, Payload(b"{"), world.now_us)
    world.desk.renew(lease, None, world.now_us)
    assert world.kinds(run).count(EventKind.TASK_CHECKPOINTED) == 2
    world.wait(LEASE_US)
    again = world.grant_one()
    assert again.checkpoint == json_payload(2)
    world.settle(again, BOOM)
    world.reopen()
    world.wait(SECOND)
    assert world.grant_one().checkpoint == json_payload(2)


def test_a_lease_given_back_consumes_no_attempt() -> None:
    world = World()
    run = world.start(task("a"))
    lease = world.grant_one()
    world.desk.give_back(lease, world.now_us)
    assert world.state(run, "a") is TaskState.READY
    assert not world.desk.leases
    assert not world.desk.ended
    assert world.grant_one().attempt == 1


def test_an_attempt_out_of_time_fails() -> None:
    world = World()
    run = world.start(task("a", attempt_timeout_us=SECOND, retry=PATIENT))
    lease = world.grant_one()
    assert lease.deadline_us == world.now_us + SECOND
    world.wait(SECOND + GRACE_US - 1)
    assert world.state(run, "a") is TaskState.LEASED
    world.wait(1)
    assert world.state(run, "a") is TaskState.RETRYING
    assert world.desk.ended == [(lease, "the attempt's time is up")]
    assert world.verdict(lease) is Verdict.SUPERSEDED
    world.wait(SECOND)
    again = world.grant_one()
    assert again.attempt == 2
    assert again.deadline_us == world.now_us + SECOND
    world.commit()
    failure = world.tables.task(run.run_id, 0).failure
    assert failure is not None
    assert failure.code == "TIMED_OUT"


def test_renewals_do_not_stretch_the_time_of_an_attempt() -> None:
    world = World()
    run = world.start(task("a", attempt_timeout_us=2 * LEASE_US))
    lease = world.hold_one()
    for _ in range(4):
        world.wait(LEASE_US // 2)
        world.desk.renew(lease, None, world.now_us)
    assert world.state(run, "a") is TaskState.LEASED
    world.wait(GRACE_US)
    assert world.state(run, "a") is TaskState.FAILED
    assert world.run_state(run) is RunState.FAILED


def test_the_time_of_an_attempt_goes_on_through_a_restart() -> None:
    world = World()
    run = world.start(task("a", attempt_timeout_us=2 * LEASE_US))
    world.grant_one()
    world.wait(ACCEPT_US - 1)
    world.reopen()
    [lease] = world.desk.leases.values()
    assert lease.deadline_us == world.now_us - ACCEPT_US + 1 + 2 * LEASE_US
    world.desk.renew(lease, None, world.now_us)
    world.wait(LEASE_US - 1)
    world.desk.renew(lease, None, world.now_us)
    world.wait(LEASE_US - ACCEPT_US)
    assert not world.desk.ended
    world.wait(GRACE_US + 2)
    assert [why for _, why in world.desk.ended] == ["the attempt's time is up"]
    assert world.run_state(lease.run) is RunState.FAILED
    assert lease.run.run_id == run.run_id


def test_failures_are_retried_after_their_waits_until_none_is_left() -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT), task("b", "a"))
    for attempt, wait_us in ((1, SECOND), (2, 2 * SECOND)):
        lease = world.grant_one()
        assert lease.attempt == attempt
        world.settle(lease, BOOM)
        assert world.state(run, "a") is TaskState.RETRYING
        assert world.desk.dues.next_us() == world.now_us + wait_us
        world.wait(wait_us - 1)
        assert not world.grant()
        world.wait(1)
    world.settle(world.grant_one(), BOOM)
    assert world.states(run) == {"a": "FAILED", "b": "UPSTREAM_FAILED"}
    assert world.run_state(run) is RunState.FAILED


@pytest.mark.parametrize("failure", [Failure("BAD"), Failure("BOOM", "", True)])
def test_what_is_not_retryable_is_not_retried(failure: Failure) -> None:
    world = World()
    policy = RetryPolicy(max_attempts=9, non_retryable_codes=("BAD",))
    run = world.start(task("a", retry=policy))
    world.settle(world.grant_one(), failure)
    assert world.state(run, "a") is TaskState.FAILED


def test_a_retry_without_a_wait_is_ready_at_once() -> None:
    world = World()
    run = world.start(task("a", retry=RetryPolicy(max_attempts=2, initial_delay_us=0)))
    world.settle(world.grant_one(), BOOM)
    world.wait(0)
    assert world.state(run, "a") is TaskState.READY


def test_leases_lost_without_the_tasks_fault_are_bounded() -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT))
    for _ in range(LOST_LEASES_MAX):
        assert world.hold_one().attempt == 1
        world.wait(LEASE_US)
        assert world.state(run, "a") is TaskState.READY
    world.hold_one()
    world.wait(LEASE_US)
    assert world.state(run, "a") is TaskState.FAILED
    world.commit()
    failure = world.tables.task(run.run_id, 0).failure
    assert failure == Failure("LEASE_LOST", f"{LOST_LEASES_MAX + 1} leases ended without a result")


@pytest.mark.parametrize("trouble", ["restart", "pause"])
def test_losses_are_counted_through_restarts_and_pauses(trouble: str) -> None:
    world = World()
    run = world.start(task("a"))
    for _ in range(LOST_LEASES_MAX + 1):
        world.hold_one()
        if trouble == "restart":
            world.reopen()
            run = world.again(run)
        else:
            world.desk.interventions.pause(run, "a walk", world.now_us)
        world.wait(LEASE_US)
        if run.state is RunState.PAUSED:
            world.desk.interventions.resume(run, "", world.now_us)
    assert world.failure(run, "a") == "LEASE_LOST"
    assert run.state is RunState.FAILED


def test_attempts_that_were_stopped_and_leases_given_back_are_no_losses() -> None:
    world = World()
    run = world.start(task("a"))
    for _ in range(LOST_LEASES_MAX + 1):
        world.settle(world.hold_one(), STOPPED)
        world.desk.give_back(world.grant_one(), world.now_us)
    assert world.state(run, "a") is TaskState.READY
    assert world.grant_one().attempt == 1


def test_a_new_attempt_begins_without_the_losses_of_the_one_before() -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT))
    for _ in range(LOST_LEASES_MAX):
        world.hold_one()
        world.wait(LEASE_US)
    world.settle(world.hold_one(), BOOM)
    world.wait(DAY_US)
    world.hold_one()
    world.wait(LEASE_US)
    assert world.state(run, "a") is TaskState.READY


def test_a_late_failure_of_a_task_that_is_ready_again_is_retried() -> None:
    world = World()
    run = world.start(task("a", retry=PATIENT))
    lease = world.hold_one()
    world.wait(LEASE_US)
    assert world.verdict(lease, BOOM) is Verdict.APPLIED
    assert world.state(run, "a") is TaskState.RETRYING
    assert not world.grant()
    world.wait(SECOND)
    again = world.grant()
    assert [(one.attempt, one.term) for one in again] == [(2, 2)]
    world.desk.give_back(again[0], world.now_us)
    assert len(world.grant()) == 1
    assert len(world.desk.leases) == 1


def test_a_late_stop_of_a_task_that_is_ready_again_changes_no_order() -> None:
    world = World()
    world.start(task("a"), task("b"))
    lease = world.hold_one()
    world.wait(LEASE_US)
    assert world.verdict(lease, STOPPED) is Verdict.APPLIED
    assert [one.task.key for one in world.grant()] == ["a", "b"]


def test_alarms_of_attempts_that_ended_early_do_not_pile_up() -> None:
    world = World()
    for _ in range(30):
        world.start(*[task(f"t{at}", attempt_timeout_us=3600 * SECOND) for at in range(100)])
        for lease in world.grant():
            world.settle(lease)
        world.commit()
    assert len(world.desk.dues._alarms) < 1100
    run = world.start(task("last", attempt_timeout_us=SECOND))
    world.desk.accept(world.grant_one())
    world.wait(SECOND + GRACE_US)
    assert world.state(run, "last") is TaskState.FAILED


def test_tokens_differ_and_only_their_hashes_are_stored() -> None:
    world = World()
    world.start(*[task(f"t{at}") for at in range(200)])
    leases = world.grant()
    assert len({lease.token for lease in leases}) == 200
    for row in world.commit().tasks:
        assert not {lease.token for lease in leases} & {
            one for one in row if isinstance(one, bytes)
        }


def test_a_success_of_a_lease_that_was_read_back_counts() -> None:
    world = World()
    run = world.start(task("a"))
    lease = world.grant_one()
    world.reopen()
    assert world.verdict(lease, Success(json_payload(1))) is Verdict.APPLIED
    world.commit()
    assert world.tables.run(run.run_id).state is RunState.SUCCEEDED
