"""Tasks wait for signals, events and consent, through restarts, and give up when time is over."""

from __future__ import annotations

import pytest
from tests.server.core.world import SECOND, World, json_payload, task

from tenure_server.core import errors
from tenure_server.core.definitions.features import Approval, EventWait, SignalWait, Timer
from tenure_server.core.ledger.lifecycle import EventKind, RunState, TaskState
from tenure_server.core.progress.approvals import APPROVAL_EXPIRED, REJECTED, Decider
from tenure_server.core.progress.waits import SIGNALS_KEPT_MAX, WAIT_TIMED_OUT
from tenure_server.core.runs.live import LiveRun

ANN, BEN, CLEO = Decider("id-a", "ann"), Decider("id-b", "ben"), Decider("id-c", "cleo")
STARTER = Decider("key-0", "starter")


def waiting(world: World, wait: object, **options: object) -> LiveRun:
    """A run that waits, and has one task behind the wait."""
    return world.start(task("w", kind="", wait=wait, **options), task("z", "w"))


def signal(world: World, run: LiveRun, name: str, value: object) -> bool:
    """Gives a signal to a run."""
    signals = world.desk.consequences.signals
    return signals.signal(run, name, json_payload(value), world.now_us)


def decide(world: World, run: LiveRun, who: Decider, consents: bool = True) -> None:
    """Decides what the first task asks."""
    world.desk.consequences.approvals.decide(run, 0, who, consents, "because", world.now_us)


def failure_code(world: World, run: LiveRun) -> str:
    """Why the first task failed."""
    world.commit()
    failure = world.tables.task(run.run_id, 0).failure
    assert failure is not None
    return failure.code


@pytest.mark.parametrize("restart", [False, True])
def test_a_signal_ends_the_task_that_waits_for_it_with_its_payload(restart: bool) -> None:
    world = World()
    run = waiting(world, SignalWait(name="go"))
    assert world.state(run, "w") is TaskState.ACTIVE
    if restart:
        world.reopen()
        run = world.desk.runs[run.run_id]
    assert not signal(world, run, "other", 1)
    assert signal(world, run, "go", {"n": 7})
    assert world.grant_one().upstream["w"].data == b'{"n":7}'


@pytest.mark.parametrize("restart", [False, True])
def test_early_signals_are_kept_in_their_order_each_for_one_wait(restart: bool) -> None:
    world = World()
    go = SignalWait(name="go")
    run = world.start(
        task("a"), task("v", "a", kind="", wait=go), task("w", "v", kind="", wait=go),
        task("z", "v", "w"),
    )  # fmt: skip
    lease = world.hold_one()
    for number in range(2):
        assert not signal(world, run, "go", number)
    if restart:
        world.reopen()
        run = world.desk.runs[run.run_id]
    world.settle(lease)
    given = world.grant_one().upstream
    assert (given["v"].data, given["w"].data) == (b"0", b"1")
    assert "signals" not in (run.detail or {})


@pytest.mark.parametrize("restart", [False, True])
def test_a_signal_goes_to_the_task_that_has_waited_longest(restart: bool) -> None:
    world = World()
    go = SignalWait(name="go")
    run = world.start(
        task("late", "a", kind="", wait=go), task("a"), task("early", kind="", wait=go)
    )
    world.settle(world.hold_one())
    if restart:
        world.reopen()
        run = world.desk.runs[run.run_id]
    assert world.states(run) == {"late": "ACTIVE", "a": "SUCCEEDED", "early": "ACTIVE"}
    assert signal(world, run, "go", 1)
    assert world.states(run)["early"] == "SUCCEEDED"


def test_only_so_many_signals_are_kept_and_one_more_changes_nothing() -> None:
    world = World()
    run = waiting(world, SignalWait(name="go"))
    for number in range(SIGNALS_KEPT_MAX):
        signal(world, run, "early", number)
    world.commit()
    with pytest.raises(errors.QuotaExceeded):
        signal(world, run, "early", 0)
    assert not world.journal.events
    assert signal(world, run, "go", 1)


def test_a_wait_is_over_in_vain_when_its_time_is() -> None:
    world = World()
    run = waiting(world, SignalWait(name="go", timeout_us=5 * SECOND))
    world.wait(4 * SECOND)
    world.reopen()
    run = world.desk.runs[run.run_id]
    world.wait(2 * SECOND)
    assert world.run_state(run) is RunState.FAILED
    assert failure_code(world, run) == WAIT_TIMED_OUT


def test_an_event_ends_all_that_wait_for_its_key_or_for_any() -> None:
    world = World()
    keyed = EventWait(name="paid", key='string(run.input["n"])')
    first, second = waiting(world, keyed), waiting(world, keyed)
    anything = waiting(world, EventWait(name="paid"))
    world.reopen()
    runs = world.desk.runs
    events = world.desk.consequences.events
    assert events.publish("paid", "1", json_payload(True), world.now_us) == 2
    assert world.state(runs[first.run_id], "w") is TaskState.SUCCEEDED
    assert world.state(runs[second.run_id], "w") is TaskState.ACTIVE
    assert world.state(runs[anything.run_id], "w") is TaskState.SUCCEEDED
    assert events.publish("paid", "1", None, world.now_us) == 0


def test_a_cancelled_wait_takes_nothing_any_more() -> None:
    world = World()
    run = waiting(world, EventWait(name="paid"))
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.run_state(run) is RunState.CANCELLED
    assert world.desk.consequences.events.publish("paid", "", None, world.now_us) == 0


@pytest.mark.parametrize("restart", [False, True])
def test_an_approval_takes_a_quorum_of_different_people(restart: bool) -> None:
    world = World()
    run = waiting(world, Approval(question="Ship it?", quorum=2))
    decide(world, run, ANN)
    decide(world, run, ANN)
    if restart:
        world.reopen()
        run = world.desk.runs[run.run_id]
    assert world.state(run, "w") is TaskState.ACTIVE
    decide(world, run, BEN)
    output = world.grant_one().upstream["w"].data
    assert b'"name":"ann"' in output
    assert b'"name":"ben"' in output
    assert world.kinds(run).count(EventKind.TASK_DECIDED) == 2


def test_one_rejection_is_enough() -> None:
    world = World()
    run = waiting(world, Approval(quorum=2))
    decide(world, run, ANN)
    decide(world, run, BEN, consents=False)
    assert failure_code(world, run) == REJECTED
    assert world.states(run) == {"w": "FAILED", "z": "UPSTREAM_FAILED"}


def test_nobody_decides_for_others() -> None:
    world = World()
    named = waiting(world, Approval(approvers=("ann",)))
    with pytest.raises(errors.NotApprover):
        decide(world, named, BEN)
    anybody = waiting(world, Approval())
    with pytest.raises(errors.NotApprover):
        decide(world, anybody, STARTER)
    assert world.state(named, "w") is world.state(anybody, "w") is TaskState.ACTIVE


def test_who_has_decided_cannot_decide_otherwise() -> None:
    world = World()
    run = waiting(world, Approval(quorum=2))
    decide(world, run, ANN)
    with pytest.raises(errors.RunStands):
        decide(world, run, ANN, consents=False)


def test_others_may_decide_after_a_while_and_in_the_end_nobody() -> None:
    world = World()
    asked = Approval(
        approvers=("ann",),
        escalate_after_us=10 * SECOND,
        escalate_to=("cleo",),
        timeout_us=20 * SECOND,
    )
    late, never = waiting(world, asked), waiting(world, asked)
    with pytest.raises(errors.NotApprover):
        decide(world, late, CLEO)
    world.wait(11 * SECOND)
    world.reopen()
    late, never = (world.desk.runs[run.run_id] for run in (late, never))
    decide(world, late, CLEO)
    assert world.state(late, "w") is TaskState.SUCCEEDED
    world.wait(10 * SECOND)
    assert failure_code(world, never) == APPROVAL_EXPIRED
    assert world.kinds(never).count(EventKind.TASK_ESCALATED) == 1


def test_what_asks_nobody_cannot_be_decided() -> None:
    world = World()
    run = world.start(task("a"))
    with pytest.raises(errors.RunStands):
        decide(world, run, ANN)


def test_a_timer_waits_until_a_time_that_data_gives() -> None:
    world = World()
    run = waiting(world, Timer(until=f"{(world.now_us + 5 * SECOND) / SECOND}"))
    world.wait(4 * SECOND)
    assert world.state(run, "w") is TaskState.ACTIVE
    world.reopen()
    world.wait(2 * SECOND)
    assert world.grant_one().task_key == "z"


def test_ten_thousand_waits_that_end_at_once_follow_each_other() -> None:
    world = World()
    tasks = [task("t0")]
    for number in range(1, 100):
        tasks.append(task(f"t{number}", f"t{number - 1}", kind="", wait=SignalWait(name="go")))
    run = world.start(*tasks)
    for _ in range(99):
        signal(world, run, "go", None)
    world.settle(world.hold_one())
    assert world.run_state(run) is RunState.SUCCEEDED
