"""Tasks, attempts and runs that take too long end, by the same clock before and after a restart."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import LEASE_US, SECOND, World, flow, json_payload, task

from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.definitions.features import SubWorkflow, Timer
from tenure_server.core.desks import poison
from tenure_server.core.leasing.leases import STOPPED, Success
from tenure_server.core.leasing.timeouts import GRACE_US, run_deadline_us
from tenure_server.core.ledger.lifecycle import (
    LOST_LEASES_MAX,
    EventKind,
    Failure,
    RunState,
    Standing,
    TaskState,
    Verdict,
)
from tenure_server.core.runs.live import LiveRun

BOOM = Failure("BOOM")
MINUTE = 60 * SECOND
PATIENT = RetryPolicy(max_attempts=10, initial_delay_us=10 * SECOND, max_delay_us=MINUTE, jitter=0)

both = pytest.mark.parametrize("restart", [False, True], ids=["in memory", "after a restart"])


def go_on(world: World, run: LiveRun, restart: bool) -> LiveRun:
    """Throws memory away, where that is asked for."""
    if restart:
        world.reopen()
        world.agent()
    return world.again(run)


# -- queue_timeout


@both
def test_a_task_that_nobody_leases_in_time_fails(restart: bool) -> None:
    world = World()
    run = world.start(task("a", queue_timeout_us=MINUTE), task("b", "a"), task("c", kind="play"))
    run = go_on(world, run, restart)
    world.wait(MINUTE - 1)
    assert world.states(run) == {"a": "READY", "b": "WAITING", "c": "READY"}
    world.wait(1)
    assert world.states(run) == {"a": "FAILED", "b": "UPSTREAM_FAILED", "c": "READY"}
    assert world.failure(run, "a") == "QUEUE_TIMED_OUT"
    assert run.reason == "task a failed: QUEUE_TIMED_OUT"


def test_the_queue_time_begins_with_the_turn_of_a_task() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a", kind="play", queue_timeout_us=MINUTE))
    lease = world.hold_one()
    for _ in range(10):
        world.wait(20 * SECOND)
        world.desk.renew(lease, None, world.now_us)
    assert world.state(run, "b") is TaskState.WAITING
    world.settle(lease)
    world.wait(MINUTE - 1)
    assert world.state(run, "b") is TaskState.READY
    world.wait(1)
    assert world.state(run, "b") is TaskState.FAILED


@both
def test_what_was_leased_once_is_never_too_long_in_the_queue(restart: bool) -> None:
    world = World()
    run = world.start(task("a", queue_timeout_us=MINUTE))
    world.settle(world.hold_one(), STOPPED)
    assert world.state(run, "a") is TaskState.READY
    run = go_on(world, run, restart)
    world.wait(10 * MINUTE)
    assert world.state(run, "a") is TaskState.READY
    assert world.settle(world.hold_one()) is Verdict.APPLIED


def test_nothing_is_leased_at_the_moment_its_queue_time_ends() -> None:
    world = World()
    run = world.start(task("a", queue_timeout_us=MINUTE))
    # As when the clock is asked before what is due was done.
    world.now_us += MINUTE
    assert world.grant() == []
    assert world.failure(run, "a") == "QUEUE_TIMED_OUT"
    assert run.state is RunState.FAILED


def test_only_tasks_that_declare_such_times_have_rows_before_their_lease() -> None:
    world = World()
    world.start(
        task("a"),
        task("b", attempt_timeout_us=SECOND, heartbeat_timeout_us=SECOND, retry=PATIENT),
        task("c", queue_timeout_us=SECOND),
        task("d", total_timeout_us=SECOND),
    )
    assert [row[3] for row in world.commit().tasks] == ["c", "d"]


def test_a_paused_run_keeps_its_place_in_the_queue() -> None:
    world = World()
    run = world.start(task("a", queue_timeout_us=MINUTE))
    world.desk.interventions.pause(run, "to look at it", world.now_us)
    world.wait(10 * MINUTE)
    assert world.state(run, "a") is TaskState.READY
    world.desk.interventions.resume(run, "", world.now_us)
    world.wait(MINUTE - 1)
    assert world.state(run, "a") is TaskState.READY
    world.reopen()
    run = world.again(run)
    world.wait(1)
    assert world.failure(run, "a") == "QUEUE_TIMED_OUT"


@both
def test_a_task_that_is_executed_again_has_its_time_in_the_queue_again(restart: bool) -> None:
    world = World()
    run = world.start(task("a", queue_timeout_us=MINUTE))
    world.settle(world.hold_one(), BOOM)
    run = go_on(world, world.execute_again(run), restart)
    world.wait(MINUTE - 1)
    assert world.state(run, "a") is TaskState.READY
    world.wait(1)
    assert world.failure(run, "a") == "QUEUE_TIMED_OUT"


# -- total_timeout of a task


@both
@pytest.mark.parametrize("where", ["READY", "RETRYING", "LEASED"])
def test_a_task_that_takes_too_long_in_all_fails_wherever_it_stands(
    where: str, restart: bool
) -> None:
    world = World()
    run = world.start(task("a", total_timeout_us=25 * SECOND, retry=PATIENT), task("b", "a"))
    if where != "READY":
        lease = world.hold_one()
    if where == "RETRYING":
        world.wait(20 * SECOND)
        world.settle(lease, BOOM)
        world.wait(5 * SECOND - 1)
    else:
        world.wait(25 * SECOND - 1)
    run = go_on(world, run, restart)
    assert world.state(run, "a").name == where
    world.wait(1)
    assert world.states(run) == {"a": "FAILED", "b": "UPSTREAM_FAILED"}
    assert world.failure(run, "a") == "TOTAL_TIMED_OUT"
    assert run.state is RunState.FAILED
    if where == "LEASED":
        assert [why for _, why in world.desk.ended] == ["the task's time is up"]
        assert not world.desk.leases
        # Who comes too late is told so.
        assert world.verdict(lease, Success()) is Verdict.RUN_CLOSED


@both
def test_the_time_of_a_task_goes_over_all_its_attempts(restart: bool) -> None:
    world = World()
    run = world.start(task("a", total_timeout_us=35 * SECOND, retry=PATIENT))
    for _ in range(2):
        world.settle(world.hold_one(), BOOM)
        run = go_on(world, run, restart)
        world.wait(10 * SECOND)
    assert world.state(run, "a") is TaskState.RETRYING
    world.wait(15 * SECOND)
    assert world.failure(run, "a") == "TOTAL_TIMED_OUT"
    assert world.tables.events[run.run_id][-2]["message"].endswith("attempt 2 failed: BOOM")


@both
def test_a_wait_that_takes_too_long_fails(restart: bool) -> None:
    world = World()
    timer = Timer(delay_us=2 * MINUTE)
    run = world.start(task("a", kind="", wait=timer, total_timeout_us=MINUTE))
    run = go_on(world, run, restart)
    world.wait(MINUTE - 1)
    assert world.state(run, "a") is TaskState.ACTIVE
    world.wait(1)
    assert world.failure(run, "a") == "TOTAL_TIMED_OUT"


def test_a_timer_within_its_time_ends_well() -> None:
    world = World()
    timer = Timer(delay_us=MINUTE)
    run = world.start(task("a", kind="", wait=timer, total_timeout_us=2 * MINUTE))
    world.reopen()
    run = world.again(run)
    world.wait(MINUTE)
    assert run.state is RunState.SUCCEEDED


def test_a_leased_task_out_of_time_in_a_cancelled_run_is_cancelled() -> None:
    world = World()
    run = world.start(task("a", total_timeout_us=20 * SECOND))
    world.hold_one()
    world.desk.cancel_run(run, "", world.now_us)
    world.wait(20 * SECOND)
    assert world.state(run, "a") is TaskState.CANCELLED
    assert run.state is RunState.CANCELLED


# -- retry.total_timeout


BOUNDED = RetryPolicy(
    max_attempts=100,
    initial_delay_us=10 * SECOND,
    max_delay_us=10 * SECOND,
    jitter=0,
    total_timeout_us=25 * SECOND,
)


@both
def test_no_attempt_begins_after_the_time_of_all_attempts(restart: bool) -> None:
    world = World()
    run = world.start(task("a", retry=BOUNDED))
    # The time begins with the first lease.
    world.wait(10 * MINUTE)
    attempts = 0
    while world.state(run, "a") is TaskState.READY:
        attempts += 1
        world.settle(world.hold_one(), BOOM)
        run = go_on(world, run, restart) if run.state is RunState.RUNNING else run
        world.wait(10 * SECOND)
    assert attempts == 3
    assert world.failure(run, "a") == "BOOM"
    assert run.state is RunState.FAILED


@both
def test_an_attempt_that_began_in_time_may_go_on(restart: bool) -> None:
    world = World()
    run = world.start(task("a", retry=BOUNDED))
    lease = world.hold_one()
    for _ in range(10):
        world.wait(20 * SECOND)
        world.desk.renew(lease, None, world.now_us)
    run = go_on(world, run, restart)
    assert world.settle(lease) is Verdict.APPLIED
    assert run.state is RunState.SUCCEEDED


@both
def test_a_lease_that_is_lost_after_the_time_is_the_last(restart: bool) -> None:
    world = World()
    run = world.start(task("a", retry=BOUNDED))
    world.hold_one()
    run = go_on(world, run, restart)
    world.wait(LEASE_US)
    assert world.failure(run, "a") == "RETRY_TIMED_OUT"
    assert run.state is RunState.FAILED


@both
def test_a_task_that_waits_for_a_second_agent_fails_when_the_time_is_over(restart: bool) -> None:
    world = World()
    run = world.start(task("a", retry=BOUNDED))
    world.settle(world.hold_one(), BOOM)
    world.wait(10 * SECOND)
    run = go_on(world, run, restart)
    world.wait(15 * SECOND - 1)
    assert world.state(run, "a") is TaskState.READY
    world.wait(1)
    assert world.failure(run, "a") == "RETRY_TIMED_OUT"


def test_an_attempt_that_no_agent_makes_may_go_on_too() -> None:
    world = World()
    child = SubWorkflow(name="other")
    run = world.start(task("a", kind="", wait=child, retry=BOUNDED))
    world.wait(25 * SECOND)
    assert world.state(run, "a") is TaskState.ACTIVE
    # But there is none after it.
    [wanted] = world.desk.consequences.children.wanted
    world.desk.consequences.children.refused(wanted, "no such one", world.now_us)
    assert world.state(run, "a") is TaskState.FAILED


# -- heartbeat_timeout


def heartbeats(run_of: World) -> LiveRun:
    """A run of a task that must speak."""
    return run_of.start(task("a", heartbeat_timeout_us=20 * SECOND, retry=PATIENT))


@both
def test_renewals_alone_are_not_enough_for_who_must_speak(restart: bool) -> None:
    world = World()
    run = heartbeats(world)
    lease = world.hold_one()
    run = go_on(world, run, restart)
    lease = world.desk.leases[lease.key]
    world.wait(20 * SECOND)
    assert world.desk.renew(lease, None, world.now_us) is Standing.HELD
    world.wait(GRACE_US - 1)
    assert world.state(run, "a") is TaskState.LEASED
    world.wait(1)
    assert world.state(run, "a") is TaskState.RETRYING
    assert world.failure(run, "a") == "HEARTBEAT_TIMED_OUT"
    assert [why for _, why in world.desk.ended] == ["its handler was silent for too long"]


@pytest.mark.parametrize("what", ["progress", "checkpoint"])
def test_who_tells_of_progress_or_a_checkpoint_goes_on(what: str) -> None:
    world = World()
    run = heartbeats(world)
    lease = world.hold_one()
    for number in range(10):
        world.wait(20 * SECOND)
        checkpoint = json_payload(number) if what == "checkpoint" else None
        progress = (number / 10, "") if what == "progress" else None
        world.desk.renew(lease, checkpoint, world.now_us, progress=progress)
    assert world.state(run, "a") is TaskState.LEASED
    world.wait(20 * SECOND + GRACE_US)
    assert world.state(run, "a") is TaskState.RETRYING


def test_silence_of_an_earlier_attempt_does_not_end_the_next() -> None:
    world = World()
    run = heartbeats(world)
    first = world.hold_one()
    world.wait(5 * SECOND)
    world.settle(first, BOOM)
    world.wait(10 * SECOND)
    second = world.hold_one()
    # Now the alarm of the first goes off.
    world.wait(20 * SECOND)
    assert world.desk.leases[second.key] is second
    assert world.state(run, "a") is TaskState.LEASED


# -- checkpoints


@pytest.mark.parametrize("how", ["failed", "lost", "out of time", "silent"])
@both
def test_a_checkpoint_reaches_the_next_attempt_however_the_last_one_ended(
    how: str, restart: bool
) -> None:
    world = World()
    bounds: dict[str, dict[str, Any]] = {"out of time": {"attempt_timeout_us": 9 * SECOND}}
    bounds["silent"] = {"heartbeat_timeout_us": 9 * SECOND}
    run = world.start(task("a", retry=PATIENT, **bounds.get(how, {})))
    lease = world.hold_one()
    world.desk.renew(lease, json_payload("half"), world.now_us)
    if how == "failed":
        world.settle(lease, BOOM)
    world.wait(LEASE_US if how == "lost" else 10 * SECOND)
    expected = TaskState.READY if how in ("failed", "lost") else TaskState.RETRYING
    assert world.state(run, "a") is expected
    run = go_on(world, run, restart)
    world.wait(10 * SECOND)
    second = world.hold_one()
    assert second.checkpoint == json_payload("half")
    assert second.attempt == (1 if how == "lost" else 2)


# -- total_timeout of a run


@pytest.mark.parametrize(
    ("own", "parent", "deadline"),
    [(None, None, None), (5, None, 15), (None, 12, 12), (5, 12, 12), (5, 20, 15)],
)
def test_a_run_ends_no_later_than_the_run_it_was_started_for(
    own: int | None, parent: int | None, deadline: int | None
) -> None:
    assert run_deadline_us(own, 10, parent) == deadline


@both
def test_a_run_whose_time_is_up_fails(restart: bool) -> None:
    world = World()
    run = world.start_flow(
        flow(task("a"), task("b", "a"), task("c", kind="play"), total_timeout_us=25 * SECOND)
    )
    lease = world.hold_one()
    run = go_on(world, run, restart)
    world.wait(25 * SECOND - 1)
    assert run.state is RunState.RUNNING
    world.wait(1)
    assert world.run_state(run) is RunState.CANCELLING
    assert world.states(run) == {"a": "LEASED", "b": "CANCELLED", "c": "CANCELLED"}
    # Its agent is told as by a cancel.
    assert [one.cancelling for one in world.desk.cancelling] == ["it took longer than it may"]
    run = go_on(world, run, restart)
    assert world.settle(lease, STOPPED) is Verdict.APPLIED
    assert world.states(run) == {"a": "CANCELLED", "b": "CANCELLED", "c": "CANCELLED"}
    assert (run.state, run.reason) == (RunState.FAILED, "it took longer than it may")
    assert world.kinds(run)[-1] is EventKind.RUN_FAILED


@both
def test_a_run_whose_time_is_up_and_that_no_agent_works_for_fails_at_once(restart: bool) -> None:
    world = World()
    run = world.start_flow(flow(task("a"), total_timeout_us=25 * SECOND))
    world.desk.interventions.pause(run, "", world.now_us)
    run = go_on(world, run, restart)
    world.wait(25 * SECOND)
    assert run.state is RunState.FAILED
    assert EventKind.RUN_CANCELLING not in world.kinds(run)
    assert world.tables.run(run.run_id).state is RunState.FAILED


def test_a_cancel_before_the_time_is_up_is_a_cancel() -> None:
    world = World()
    run = world.start_flow(flow(task("a"), total_timeout_us=25 * SECOND))
    lease = world.hold_one()
    world.desk.cancel_run(run, "enough", world.now_us)
    world.wait(25 * SECOND)
    world.settle(lease, STOPPED)
    assert (run.state, run.reason) == (RunState.CANCELLED, "enough")


def test_what_failed_before_the_time_was_up_stays_in_the_reason() -> None:
    world = World()
    run = world.start_flow(flow(task("a"), task("b", kind="play"), total_timeout_us=25 * SECOND))
    world.settle(world.hold_one(), BOOM)
    world.wait(25 * SECOND)
    assert run.reason == "it took longer than it may; task a failed: BOOM"


# -- pausing


@both
def test_a_paused_run_is_leased_nothing_and_goes_on_where_it_stood(restart: bool) -> None:
    world = World()
    run = world.start(task("a"), task("b"), task("c", "a"))
    lease = world.hold_one()
    world.desk.interventions.pause(run, "to look at it", world.now_us)
    run = go_on(world, run, restart)
    assert world.settle(lease) is Verdict.APPLIED
    assert world.grant() == []
    assert world.states(run) == {"a": "SUCCEEDED", "b": "READY", "c": "READY"}
    run = go_on(world, run, restart)
    world.desk.interventions.resume(run, "", world.now_us)
    assert sorted(lease.task_key for lease in world.grant()) == ["b", "c"]
    kinds = world.kinds(run)
    assert kinds.count(EventKind.RUN_PAUSED) == kinds.count(EventKind.RUN_RESUMED) == 1


def test_pausing_and_resuming_twice_changes_nothing() -> None:
    world = World()
    run = world.start(task("a"))
    world.desk.interventions.resume(run, "", world.now_us)
    world.desk.interventions.pause(run, "", world.now_us)
    world.desk.interventions.pause(run, "", world.now_us)
    world.desk.interventions.resume(run, "", world.now_us)
    world.desk.interventions.resume(run, "", world.now_us)
    assert [kind.name for kind in world.kinds(run)] == ["RUN_STARTED", "RUN_PAUSED", "RUN_RESUMED"]
    assert len(world.grant()) == 1


# -- runs that cost one agent after the other


def lose_one(world: World, number: int) -> None:
    """An agent takes a task and is not heard of again."""
    world.agent(f"host-{number}", slots=1)
    lease = world.grant_one(world.agents["key-1", f"host-{number}"])
    world.desk.accept(lease)
    world.wait(LEASE_US)


@both
def test_a_run_that_costs_agent_after_agent_is_paused(restart: bool) -> None:
    world = World()
    run = world.start(*[task(f"t{number}") for number in range(10)])
    lost = 0
    while run.state is RunState.RUNNING:
        lose_one(world, lost)
        lost += 1
        if restart:
            world.reopen()
            run = world.again(run)
        assert lost <= poison.LOSSES_MAX + 1
    assert (lost, run.state) == (poison.LOSSES_MAX + 1, RunState.PAUSED)
    assert lost > LOST_LEASES_MAX
    assert world.grant() == []
    world.commit()
    event = world.tables.events[run.run_id][-1]
    assert event["kind"] == EventKind.RUN_PAUSED
    assert event["message"] == f"its tasks lost their agents {lost} times"
    # Whoever lets it go on gives it all its chances again.
    world.desk.interventions.resume(run, "", world.now_us)
    lose_one(world, lost)
    assert world.run_state(run) is RunState.RUNNING


def test_agents_that_are_lost_together_count_once() -> None:
    world = World()
    run = world.start(*[task(f"t{number}") for number in range(100)])
    for number in range(100):
        world.desk.accept(world.grant_one(world.agent(f"host-{number}", slots=1)))
    world.wait(LEASE_US)
    assert run.tallies[TaskState.READY] == 100
    assert run.state is RunState.RUNNING
    assert run.detail == {"losses": [1, world.now_us]}


def test_a_run_that_gets_on_may_lose_more_agents() -> None:
    world = World()
    run = world.start(*[task(f"t{number}") for number in range(60)])
    for _ in range(20):
        world.settle(world.hold_one())
    lost = 0
    while run.state is RunState.RUNNING:
        lose_one(world, lost)
        lost += 1
    assert lost == poison.LOSSES_MAX + 2 + 1


def test_what_was_given_back_is_no_loss() -> None:
    world = World()
    run = world.start(task("a"))
    for _ in range(100):
        world.desk.give_back(world.grant_one(), world.now_us)
        world.settle(world.hold_one(), STOPPED)
        world.wait(LEASE_US)
    assert run.state is RunState.RUNNING
    assert run.detail is None


def test_what_is_looked_at_late_fell_due_in_its_order() -> None:
    """The run's time was up before the task's; that of its queue had passed while it rested."""
    world = World()
    options: dict[str, Any] = {"queue_timeout_us": SECOND, "total_timeout_us": MINUTE + 1}
    run = world.start(task("a", **options), total_timeout_us=MINUTE)
    world.desk.interventions.pause(run, "", world.now_us)
    world.wait(2 * MINUTE)
    assert world.states(run) == {"a": "CANCELLED"}


def test_among_thousands_each_task_fails_in_its_time() -> None:
    """Alarms that matter no more are swept out; never those of what has just become ready."""
    world = World()
    many = [task(f"t{number}", queue_timeout_us=MINUTE) for number in range(3000)]
    run = world.start(*many)
    world.wait(MINUTE)
    assert set(world.states(run).values()) == {"FAILED"}
