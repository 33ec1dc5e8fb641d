"""When a task's time is up, whatever happened before: the table of docs/semantics.md, in seconds.

The task is leased at second 0, and its time is 50 s. At second 20 its attempt fails (and is tried
again a second later), its run is paused or cancelled, or the coordinator is restarted; or its agent
is not heard of from the beginning, so that it is leased again at second 30.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.core.world import SECOND, World, flow, task

from tenure_server.core.definitions.definition import RetryPolicy
from tenure_server.core.leasing.leases import STOPPED
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState

TIME_US = 50 * SECOND
RETRY = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)

#: What is declared, the code of the failure, and after which trouble it comes when.
ENDS: dict[str, tuple[str, dict[str, int]]] = {
    # Of each lease, with a second for the line.
    "attempt_timeout_us": (
        "TIMED_OUT",
        {"none": 51, "retry": 72, "loss": 81, "restart": 51, "pause": 51, "cancel": 51},
    ),
    # Of each lease; after a restart nobody knows when the handler spoke last.
    "heartbeat_timeout_us": (
        "HEARTBEAT_TIMED_OUT",
        {"none": 51, "retry": 72, "loss": 81, "restart": 71, "pause": 51, "cancel": 51},
    ),
    # Of all of them together.
    "total_timeout_us": (
        "TOTAL_TIMED_OUT",
        {"none": 50, "retry": 50, "loss": 50, "restart": 50, "pause": 50, "cancel": 50},
    ),
}
CASES = [(name, trouble) for name, (_, ends) in ENDS.items() for trouble in ends]


class Course:
    """A run of one task whose agent renews every ten seconds and says nothing."""

    def __init__(self, trouble: str, **declared: Any) -> None:
        self.trouble = trouble
        self.world = World()
        retry = RETRY if trouble == "retry" else RetryPolicy()
        of_run = {name[4:]: declared.pop(name) for name in list(declared) if name[:4] == "run_"}
        self.run = self.world.start_flow(flow(task("a", retry=retry, **declared), **of_run))
        self.began_us = self.world.now_us
        #: The last one that was granted.
        self.lease = self.world.hold_one()

    @property
    def seconds(self) -> int:
        """How much time has passed."""
        return (self.world.now_us - self.began_us) // SECOND

    def pass_second(self) -> None:
        """A second passes, with what belongs to it."""
        world, run = self.world, self.run
        world.wait(SECOND)
        if self.seconds == 20:
            self._trouble()
        for lease in world.grant(world.agent()):
            world.desk.accept(lease)
            self.lease = lease
        silent = self.trouble == "loss" and self.seconds < 30
        for lease in list(world.desk.leases.values()):
            if self.seconds % 10 == 0 and not silent:
                world.desk.renew(lease, None, world.now_us)
        self.run = world.desk.runs.get(run.run_id, run)

    def _trouble(self) -> None:
        world = self.world
        [lease] = world.desk.leases.values()
        if self.trouble == "retry":
            world.settle(lease, Failure("BUSY"))
        elif self.trouble == "restart":
            world.reopen()
        elif self.trouble == "pause":
            world.desk.interventions.pause(self.run, "a walk", world.now_us)
        elif self.trouble == "cancel":
            world.desk.cancel_run(self.run, "enough", world.now_us)


@pytest.mark.parametrize(("declared", "trouble"), CASES)
def test_a_task_is_out_of_time_at_its_second(declared: str, trouble: str) -> None:
    code, ends = ENDS[declared]
    course = Course(trouble, **{declared: TIME_US})
    while course.world.state(course.run, "a") is not TaskState.FAILED:
        course.pass_second()
        if course.run.ended:
            break
    assert course.seconds == ends[trouble]
    if trouble == "cancel":
        # A cancel is a cancel: what is out of time meanwhile has been cancelled.
        assert course.world.state(course.run, "a") is TaskState.CANCELLED
        assert course.run.state is RunState.CANCELLED
    else:
        assert course.world.failure(course.run, "a") == code
        assert course.run.reason == f"task a failed: {code}"


@pytest.mark.parametrize("trouble", ["none", "retry", "loss", "restart", "pause"])
def test_the_time_of_a_run_is_up_at_its_second(trouble: str) -> None:
    course = Course(trouble, run_total_timeout_us=TIME_US)
    while course.run.state in (RunState.RUNNING, RunState.PAUSED):
        course.pass_second()
    assert course.seconds == 50
    [lease] = course.world.desk.leases.values()
    assert lease.cancelling == "it took longer than it may"
    course.world.settle(course.lease, STOPPED)
    course.world.commit()
    run = course.world.tables.run(course.run.run_id)
    assert (run.state, run.reason) == (RunState.FAILED, "it took longer than it may")


@pytest.mark.parametrize("trouble", ["none", "restart", "pause", "cancel"])
def test_the_time_of_all_attempts_goes_on_while_none_is_under_way(trouble: str) -> None:
    world = World()
    waits = RetryPolicy(max_attempts=9, initial_delay_us=SECOND, jitter=0, total_timeout_us=TIME_US)
    run = world.start(task("a", retry=waits))
    world.settle(world.hold_one(), Failure("BUSY"))
    world.wait(20 * SECOND)
    assert world.state(run, "a") is TaskState.READY
    if trouble == "restart":
        world.reopen()
        run = world.again(run)
    elif trouble == "pause":
        world.desk.interventions.pause(run, "a walk", world.now_us)
    elif trouble == "cancel":
        world.desk.cancel_run(run, "enough", world.now_us)
        assert world.state(run, "a") is TaskState.CANCELLED
        return
    world.wait(30 * SECOND - 1)
    assert world.state(run, "a") is TaskState.READY
    world.wait(1)
    assert world.failure(run, "a") == "RETRY_TIMED_OUT"
    assert run.state is RunState.FAILED
