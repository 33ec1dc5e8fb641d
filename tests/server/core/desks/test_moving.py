"""A run goes on under a newer version of its workflow, or it is said what stands against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from tests.server.core.progress.test_children import born, call
from tests.server.core.world import LEASE_US, SECOND, World, flow, json_payload, portrait, task

from tenure_constitution.judge import Objection
from tenure_constitution.laws import Effect, Law, Perspective, Point
from tenure_server.core import errors
from tenure_server.core.definitions.definition import RetryPolicy, WorkflowDefinition, WorkflowTask
from tenure_server.core.definitions.features import (
    Approval,
    Concurrency,
    EventWait,
    ForEach,
    Handler,
    SignalWait,
    Strategy,
    SubWorkflow,
    Timer,
    TriggerRule,
    Wait,
)
from tenure_server.core.desks.law import Lawless
from tenure_server.core.desks.versions import Version, check_state
from tenure_server.core.leasing.leases import Lease, Success
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState, Verdict
from tenure_server.core.progress.approvals import Decider
from tenure_server.core.runs.live import LiveRun

BOOM = Failure("BOOM")
GIVEN = {"list": [1, 2, 3], "who": "ada", "k": "x"}


def wait(key: str, how: Wait, *depends_on: str, **options: Any) -> WorkflowTask:
    """A task that no agent executes."""
    return task(key, *depends_on, kind="", wait=how, **options)


def each(key: str, *depends_on: str, **options: Any) -> WorkflowTask:
    """A task for each of three items."""
    return task(
        key,
        *depends_on,
        for_each=ForEach(items="run.input.list", **options.pop("list", {})),
        bindings={"item": "item"},
        **options,
    )


def start(world: World, *tasks: WorkflowTask, **options: Any) -> LiveRun:
    """A run of these tasks, with an input."""
    return world.start_flow(flow(*tasks, **options), given=GIVEN)


def settle(world: World, *keys: str, end: Any = None) -> None:
    """Executes what is ready, of these keys only; the rest is given back."""
    for lease in world.grant():
        if lease.task_key in keys:
            world.desk.accept(lease)
            world.settle(lease, end or Success(json_payload(lease.task_key)))
        else:
            world.desk.give_back(lease, world.now_us)


def pause(world: World, run: LiveRun) -> None:
    world.desk.interventions.pause(run, "to move it", world.now_us)


def resume(world: World, run: LiveRun) -> LiveRun:
    """Lets it go on, after a restart that must have changed nothing."""
    again = restarted(world, run)
    world.desk.interventions.resume(again, "", world.now_us)
    return again


def restarted(world: World, run: LiveRun) -> LiveRun:
    """The run after a restart, which finds nothing that was not there before."""
    world.commit()
    before = portrait(world.desk)
    world.reopen()
    assert portrait(world.desk) == before
    return world.again(run)


def finish(world: World) -> list[str]:
    """Executes all that is ready until nothing is, and tells what it was."""
    done: list[str] = []
    while leases := world.grant():
        for lease in leases:
            done.append(lease.task_key)
            world.settle(lease, Success(json_payload(lease.task_key)))
    return done


def refusal(world: World, run: LiveRun, to: WorkflowDefinition) -> errors.VersionsDiffer:
    """Why a run cannot be moved; nothing has changed then."""
    world.commit()
    before, events = portrait(world.desk), len(world.tables.events[run.run_id])
    with pytest.raises(errors.VersionsDiffer) as caught:
        world.move(run, to)
    assert portrait(world.desk) == before
    assert not world.commit()
    assert len(world.tables.events[run.run_id]) == events
    assert run.run_id in caught.value.message
    assert world.tables.runs[run.run_id]["workflow_version"] == 1
    return caught.value


def against(world: World, run: LiveRun, *tasks: WorkflowTask, **options: Any) -> list[str]:
    """What stands against moving a run to these tasks, in words."""
    found = refusal(world, run, flow(*tasks, **options)).obstacles
    return [f"{kind}: {subject} {why}" for kind, subject, why in found]


# -- what goes on


def test_a_paused_run_keeps_what_it_has_done_and_goes_on_in_the_newer_graph() -> None:
    world = World()
    run = start(world, task("a"), task("b", "a"), task("gone", "b"))
    settle(world, "a")
    pause(world, run)
    uses = {"given": "tasks.a.output"}
    moved = world.move(
        run,
        flow(task("z"), task("b", "a", "z"), task("a"), task("last", "b", bindings=uses)),
    )
    assert world.run_state(moved) is RunState.PAUSED
    assert world.states(moved) == {
        "z": "READY",
        "b": "WAITING",
        "a": "SUCCEEDED",
        "last": "WAITING",
    }
    assert (moved.workflow_version, moved.start_us, moved.order) == (2, run.start_us, run.order)
    [was] = moved.earlier_versions
    assert (was.version, was.digest, was.until_us) == (1, run.workflow_digest, world.now_us)
    assert world.grant() == []
    resume(world, moved)
    [lease] = world.grant()
    assert lease.task_key == "z"
    world.settle(lease)
    [lease] = world.grant()
    assert (lease.task_key, lease.upstream["a"].data) == ("b", b'"a"')
    world.settle(lease)
    [lease] = world.grant()
    assert lease.input is not None
    assert orjson.loads(lease.input.data) == {"given": "a"}
    world.settle(lease)
    kinds = world.kinds(run)
    assert kinds[-1] is EventKind.RUN_SUCCEEDED
    assert kinds.count(EventKind.RUN_MOVED) == 1
    stored = world.tables.run(run.run_id)
    assert (stored.task_count, stored.succeeded) == (4, 4)


def test_the_event_names_both_versions_and_the_reason_and_its_number_is_kept() -> None:
    world = World()
    run = start(world, task("a"))
    pause(world, run)
    moved = world.move(run, flow(task("a"), task("b", "a")))
    world.commit()
    event = world.tables.events[run.run_id][-1]
    assert event["message"] == "version 1 to 2: for a test"
    assert event["sequence"] == moved.earlier_versions[0].until_sequence


def test_a_run_is_moved_again_and_again_and_remembers_each_version() -> None:
    world = World()
    run = start(world, task("a"), task("b", "a"))
    settle(world, "a")
    pause(world, run)
    for version in (2, 3, 4):
        names = [f"t{number}" for number in range(version)]
        to = flow(*map(task, names), task("a"), task("b", "a"), description=str(version))
        run = restarted(world, world.move(run, to, version))
    assert [one.version for one in run.earlier_versions] == [1, 2, 3]
    resume(world, run)
    assert sorted(finish(world)) == ["b", "t0", "t1", "t2", "t3"]


def test_what_has_begun_keeps_its_attempts_checkpoint_and_failure() -> None:
    world = World()
    retry = RetryPolicy(max_attempts=3, initial_delay_us=SECOND, jitter=0)
    run = start(world, task("x"), task("a", retry=retry))
    for lease in world.grant():
        if lease.task_key == "a":
            world.desk.renew(lease, json_payload("half"), world.now_us)
            world.settle(lease, BOOM)
        else:
            world.settle(lease)
    pause(world, run)
    longer = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
    moved = world.move(run, flow(task("a", retry=longer), task("y"), task("x")))
    assert world.state(moved, "a") is TaskState.RETRYING
    moved = resume(world, moved)
    world.wait(2 * SECOND)
    leases = {lease.task_key: lease for lease in world.grant()}
    assert (leases["a"].attempt, leases["a"].checkpoint) == (2, json_payload("half"))
    world.settle(leases["a"], BOOM)
    assert world.state(moved, "a") is TaskState.FAILED, "the newer version has two attempts"


def test_an_alarm_of_a_tasks_old_number_means_nothing_for_the_task_that_has_it_now() -> None:
    world = World()
    short = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
    long = RetryPolicy(max_attempts=2, initial_delay_us=60 * SECOND, max_delay_us=60 * SECOND)
    run = start(world, task("short", retry=short), task("long", retry=long))
    settle(world, "short", "long", end=BOOM)
    pause(world, run)
    moved = world.move(run, flow(task("long", retry=long), task("short", retry=short)))
    world.wait(2 * SECOND)
    assert world.states(moved) == {"long": "RETRYING", "short": "READY"}


def test_a_version_with_fewer_tasks_may_leave_nothing_to_do() -> None:
    world = World()
    run = start(world, task("a"), task("b", "a"))
    settle(world, "a")
    pause(world, run)
    world.move(run, flow(task("a")))
    assert world.kinds(run)[-1] is EventKind.RUN_SUCCEEDED
    assert world.tables.run(run.run_id).task_count == 1
    assert not world.desk.runs
    assert world.desk.open_tasks == 0


def test_a_run_goes_on_at_once_where_that_is_asked() -> None:
    world = World()
    run = start(world, task("a"))
    pause(world, run)
    moved = world.move(run, flow(task("b"), task("a")), resume=True)
    assert world.run_state(moved) is RunState.RUNNING
    assert sorted(finish(world)) == ["a", "b"]


def test_a_moved_run_can_be_cancelled_and_closed() -> None:
    for end, state in (("cancel", RunState.CANCELLED), ("close", RunState.CLOSED)):
        world = World()
        run = start(world, task("a"), task("b", "a"))
        settle(world, "a")
        pause(world, run)
        moved = restarted(world, world.move(run, flow(task("x"), task("a"), task("b", "a"))))
        getattr(world.desk.interventions, end)(moved, "enough", world.now_us)
        world.commit()
        stored = world.tables.run(run.run_id)
        assert (stored.state, stored.cancelled, stored.succeeded) == (state, 2, 1)


def test_the_result_of_a_lease_that_was_lost_before_comes_too_late() -> None:
    world = World()
    run = start(world, task("a"))
    lost = world.hold_one()
    pause(world, run)
    world.wait(LEASE_US)
    assert world.state(run, "a") is TaskState.READY
    moved = world.move(run, flow(task("b"), task("a")))
    assert world.verdict(lost) is Verdict.UNKNOWN
    moved = resume(world, moved)
    leases = {lease.task_key: lease for lease in world.grant()}
    assert leases["a"].term > lost.term
    assert world.verdict(lost) is Verdict.SUPERSEDED
    assert world.verdict(leases["a"]) is Verdict.APPLIED


def test_what_was_leased_once_has_begun_however_often_it_is_moved() -> None:
    world = World()
    bounded = RetryPolicy(max_attempts=2, total_timeout_us=3600 * SECOND)
    run = start(world, task("a", retry=bounded))
    by_us = world.now_us + 3600 * SECOND
    world.hold_one()
    pause(world, run)
    world.wait(LEASE_US)
    moved = world.move(run, flow(task("b"), task("a", retry=bounded)), 2)
    moved = restarted(world, moved)
    with pytest.raises(errors.VersionsDiffer, match="has begun, and in version 3 it is of kind"):
        world.move(moved, flow(task("a", kind="other", retry=bounded)), 3)
    moved = world.move(moved, flow(task("a", retry=bounded)), 3)
    facts = moved.facts[0]
    assert (facts.lost, facts.detail) == (1, {"attempts_by": by_us})


def test_a_repeated_report_of_what_counted_before_is_known_afterwards() -> None:
    world = World()
    retry = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
    run = start(world, task("a"), task("b", retry=retry))
    leases = {lease.task_key: lease for lease in world.grant()}
    world.settle(leases["a"])
    world.settle(leases["b"], BOOM)
    pause(world, run)
    world.move(run, flow(task("x"), task("b", retry=retry), task("a")))
    for key, end in (("a", Success()), ("b", BOOM)):
        moved = Lease(
            world.again(run), 0, leases[key].agent, term=1, attempt=1, token=leases[key].token,
            until_us=0, accepted=True,
        )  # fmt: skip
        assert world.verdict(moved, end, task_key=key) is Verdict.ALREADY_APPLIED
        assert world.verdict(moved, Failure("OTHER"), task_key=key) is Verdict.SUPERSEDED


# -- what stands against it


def leased(world: World, run: LiveRun) -> None:
    world.hold_one()


def failed(world: World, run: LiveRun) -> None:
    settle(world, "a", end=BOOM)


def first_done(world: World, run: LiveRun) -> None:
    settle(world, "a")


def first_retrying(world: World, run: LiveRun) -> None:
    first_done(world, run)
    settle(world, "b", end=BOOM)


def skipped(world: World, run: LiveRun) -> None:
    world.desk.interventions.skip(run, 0, "no need", world.now_us)


TWICE = RetryPolicy(max_attempts=2)
CHAIN = (task("a"), task("b", "a", retry=TWICE), task("c", "b"))
ALONE = (task("b", retry=TWICE),)


@pytest.mark.parametrize(
    ("progress", "tasks", "said"),
    [
        (leased, CHAIN[:2], "TASK_LEASED: task a is leased to agent host; wait for its end"),
        (first_done, ALONE, "TASK_MISSING: task a has succeeded and is not in version 2"),
        (
            first_done,
            (task("a", kind="play"), *CHAIN[1:]),
            "TASK_WORK: task a has succeeded, and in version 2 it is of kind play",
        ),
        (
            first_done,
            (wait("a", Timer(delay_us=1)), *CHAIN[1:]),
            "TASK_WORK: task a has succeeded, and in version 2 it is timer",
        ),
        (
            first_done,
            (each("a"), *CHAIN[1:]),
            "TASK_WORK: task a has succeeded, and in version 2 it is a list",
        ),
        (
            first_done,
            (task("check"), task("a", "check"), *CHAIN[1:]),
            "TASK_ORDER: task a has succeeded, and in version 2 it depends on check: not ended",
        ),
        (
            first_retrying,
            (CHAIN[0], task("x", "a"), task("b", "x", retry=TWICE)),
            "TASK_ORDER: task b has begun, and in version 2 it depends on x: not ended yet",
        ),
        (first_retrying, CHAIN[:1], "TASK_MISSING: task b has begun and is not in version 2"),
        (failed, ALONE, "TASK_MISSING: task a has failed and is not in version 2"),
        (
            failed,
            (CHAIN[0], task("b"), CHAIN[2]),
            "TASK_ORDER: task b failed with what it depended on, and in version 2 nothing that",
        ),
        (skipped, ALONE, "TASK_MISSING: task a was skipped and is not in version 2"),
        (
            first_done,
            (task("a", "b", trigger=TriggerRule.ANY_FAILED), task("b")),
            "TASK_ORDER: task a has succeeded, and in version 2 it depends on b: not ended yet",
        ),
    ],
)
def test_what_stands_against_it_is_named(
    progress: Callable[[World, LiveRun], None], tasks: tuple[WorkflowTask, ...], said: str
) -> None:
    world = World()
    run = start(world, *CHAIN, task("open"))
    progress(world, run)
    pause(world, run)
    found = against(world, run, *tasks, task("open"))
    assert found[0].startswith(said), found


def test_everything_that_stands_against_it_is_named_in_the_order_of_the_tasks() -> None:
    world = World()
    run = start(world, task("a"), task("b"), task("c"))
    settle(world, "a", "b")
    pause(world, run)
    schema = json_payload({"type": "array"})
    refused = refusal(world, run, flow(task("c"), input_schema=schema))
    kinds = [(kind, subject) for kind, subject, _ in refused.obstacles]
    assert kinds == [("RUN_INPUT", "run"), ("TASK_MISSING", "task a"), ("TASK_MISSING", "task b")]
    assert "and 2 more" in refused.message


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("running", "pause it first"),
        ("succeeded", "only a paused or a failed run can be moved"),
        ("cancelling", "wait for its end"),
        ("cancelled", "only a paused or a failed run can be moved"),
    ],
)
def test_only_a_paused_or_failed_run_is_moved(state: str, text: str) -> None:
    world = World()
    run = start(world, task("a"))
    if state == "succeeded":
        finish(world)
    if state == "cancelling":
        world.hold_one()
    if state.startswith("cancel"):
        world.desk.cancel_run(run, "", world.now_us)
    closed = state in ("succeeded", "cancelled")
    with pytest.raises(errors.RunClosed if closed else errors.RunStands, match=text):
        world.move(run, flow(task("a"), task("b")))


def test_an_older_version_is_refused_and_the_runs_own_changes_nothing() -> None:
    world = World()
    run = start(world, task("a"))
    pause(world, run)
    to = flow(task("a"), task("b"))
    moved = world.move(run, to, 3)
    count = len(world.kinds(run))
    assert world.move(moved, to, 3) is moved
    with pytest.raises(errors.RunStands, match="version 2 is older than version 3"):
        world.move(moved, flow(task("a")), 2)
    assert len(world.kinds(run)) == count


def test_a_failed_run_that_is_there_already_is_not_taken_up() -> None:
    world = World()
    run = start(world, task("a"))
    settle(world, "a", end=BOOM)
    version = Version(number=1, digest="", definition=run.definition, graph=run.graph)
    with pytest.raises(errors.RunStands, match="is under version 1 already"):
        check_state(run, version)


# -- tasks that wait


def ask(quorum: int = 2, **options: Any) -> Approval:
    return Approval(question="May it?", quorum=quorum, **options)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SignalWait(name="go"), SignalWait(name="stop")),
        (EventWait(name="paid"), EventWait(name="sold")),
        (call(), SubWorkflow(name="other")),
        (ask(), ask(quorum=1)),
        (ask(), Approval(question="Must it?", quorum=2)),
        (ask(), ask(approvers=("ann", "bob"))),
    ],
)
def test_what_waits_for_something_else_stands_against_it(before: Wait, after: Wait) -> None:
    world = World()
    run = start(world, wait("w", before))
    pause(world, run)
    [said] = against(world, run, task("x"), wait("w", after))
    assert said == "TASK_WAIT: task w is under way, and in version 2 it waits for something else"


def test_a_timer_keeps_its_time_and_what_comes_behind_it_follows_the_newer_version() -> None:
    world = World()
    run = start(world, wait("nap", Timer(delay_us=10 * SECOND)), task("up", "nap"))
    world.wait(SECOND)
    pause(world, run)
    moved = world.move(run, flow(task("x"), wait("nap", Timer(delay_us=SECOND)), task("y", "nap")))
    moved = restarted(world, moved)
    world.wait(8 * SECOND)
    assert world.state(moved, "nap") is TaskState.ACTIVE
    world.wait(SECOND)
    assert world.states(moved) == {"x": "READY", "nap": "SUCCEEDED", "y": "READY"}


def test_a_signal_that_came_early_serves_a_wait_of_the_newer_version() -> None:
    world = World()
    run = start(world, task("a"))
    signals = world.desk.consequences.signals
    assert not signals.signal(run, "go", json_payload(1), world.now_us)
    pause(world, run)
    moved = world.move(run, flow(wait("w", SignalWait(name="go")), task("a")))
    assert world.state(moved, "w") is TaskState.SUCCEEDED


def test_waits_go_on_under_their_new_numbers() -> None:
    world = World()
    run = start(
        world,
        wait("signal", SignalWait(name="go")),
        wait("event", EventWait(name="paid", key="run.input.who")),
        wait("asked", ask()),
    )
    consequences = world.desk.consequences
    one, two = Decider("key-8", "ann"), Decider("key-9", "bob")
    consequences.approvals.decide(run, 2, one, True, "", world.now_us)
    pause(world, run)
    moved = world.move(
        run,
        flow(
            task("x"),
            wait("asked", ask(timeout_us=SECOND)),
            wait("event", EventWait(name="paid", key="'eve'")),
            task("y"),
            wait("signal", SignalWait(name="go", timeout_us=SECOND)),
        ),
    )
    moved = restarted(world, moved)
    consequences = world.desk.consequences
    assert consequences.events.publish("paid", "eve", None, world.now_us) == 0
    assert consequences.events.publish("paid", "ada", json_payload(7), world.now_us) == 1
    assert consequences.signals.signal(moved, "go", None, world.now_us)
    asked = moved.graph.index["asked"]
    consequences.approvals.decide(moved, asked, two, True, "", world.now_us)
    assert set(world.states(moved).values()) == {"READY", "SUCCEEDED"}


def test_without_a_restart_waits_are_forgotten_under_their_old_numbers() -> None:
    world = World()
    run = start(world, wait("s", SignalWait(name="go")), wait("e", EventWait(name="paid")))
    pause(world, run)
    moved = world.move(
        run, flow(task("x"), wait("e", EventWait(name="paid")), wait("s", SignalWait(name="go")))
    )
    consequences = world.desk.consequences
    assert consequences.events.publish("paid", "", None, world.now_us) == 1
    assert consequences.signals.signal(moved, "go", None, world.now_us)
    assert world.states(moved) == {"x": "READY", "e": "SUCCEEDED", "s": "SUCCEEDED"}


@pytest.mark.parametrize("started", [False, True])
def test_the_run_that_a_task_is_goes_on_for_it(started: bool) -> None:
    world = World()
    run = start(world, wait("call", call()), task("z", "call"))
    child = born(world) if started else None
    pause(world, run)
    moved = world.move(run, flow(task("x"), wait("call", call(version=7)), task("z", "call")))
    wanted = world.desk.consequences.children.wanted
    if child is None:
        # Nothing begins while it is paused; what was wanted of the run as it was is wanted no more.
        wanted[:] = [one for one in wanted if world.desk.consequences.children.still_wanted(one)]
        assert not wanted
        moved = resume(world, moved)
        child = born(world)
        pause(world, moved)
    assert not world.desk.consequences.children.wanted
    world.settle(world.hold_one(), Success(json_payload(5)))
    assert world.run_state(child) is RunState.SUCCEEDED
    assert world.states(moved) == {"x": "READY", "call": "SUCCEEDED", "z": "READY"}


def test_a_run_of_a_run_can_be_moved_and_its_parent_hears_of_its_end() -> None:
    world = World()
    parent = start(world, wait("call", call()))
    child = born(world)
    pause(world, child)
    moved = world.move(child, flow(task("w"), task("x", "w"), name="child"))
    assert (moved.parent_run_id, moved.parent_task) == (parent.run_id, "call")
    resume(world, moved)
    assert finish(world) == ["w", "x"]
    assert world.kinds(parent)[-1] is EventKind.RUN_SUCCEEDED


def test_a_condition_is_asked_again_of_what_has_not_begun() -> None:
    world = World()
    run = start(world, task("a", when="run.input.who == 'ada'"), task("b", when="false"))
    assert world.states(run) == {"a": "READY", "b": "SKIPPED"}
    pause(world, run)
    moved = world.move(
        run,
        flow(
            task("a", when="run.input.who == 'eve'"),
            task("b", when="true"),
            task("c", "a", trigger=TriggerRule.ALL_DONE),
        ),
    )
    assert world.states(moved) == {"a": "SKIPPED", "b": "SKIPPED", "c": "READY"}


# -- lists


def test_a_list_goes_on_with_its_items_under_their_new_numbers() -> None:
    world = World()
    run = start(world, each("each", list={"parallelism": 2}), task("z", "each"))
    settle(world, "each[0]")
    pause(world, run)
    moved = world.move(
        run, flow(task("x"), task("y"), each("each", list={"parallelism": 1}), task("z", "each"))
    )
    assert world.states(moved) == {
        "x": "READY",
        "y": "READY",
        "each": "ACTIVE",
        "z": "WAITING",
        "each[0]": "SUCCEEDED",
        "each[1]": "READY",
        "each[2]": "WAITING",
    }
    resume(world, moved)
    assert finish(world) == ["x", "y", "each[1]", "each[2]", "z"]
    world.commit()
    found = world.tables.task(run.run_id, 2).output
    assert found is not None
    assert orjson.loads(found.data) == ["each[0]", "each[1]", "each[2]"]


def test_a_list_of_which_more_have_failed_than_now_may_fails_at_the_move() -> None:
    world = World()
    run = start(world, each("each", list={"failures_max": -1, "parallelism": 2}), task("z", "each"))
    settle(world, "each[0]", end=BOOM)
    pause(world, run)
    same = {"failures_max": 1, "parallelism": 2}
    moved = world.move(run, flow(each("each", list=same), task("z", "each")))
    assert world.state(moved, "each") is TaskState.ACTIVE
    moved = world.move(moved, flow(each("each", list={"failures_max": 0})), 3)
    world.commit()
    record, row = world.tables.run(run.run_id), world.tables.task(run.run_id, 0)
    assert (record.state, record.failed, record.cancelled) == (RunState.FAILED, 2, 2)
    message = "1 of 3 items failed: each[0]; at most 0 may"
    assert row.failure == Failure("ITEMS_FAILED", message)


def test_items_that_were_executed_stand_against_a_list_that_is_none_any_more() -> None:
    world = World()
    run = start(world, each("each", list={"parallelism": 1}), task("other"))
    settle(world, "each[0]", "other")
    pause(world, run)
    found = against(world, run, task("each"), task("other"))
    assert found == [
        "TASK_WORK: task each is under way, and in version 2 it is no list",
        "TASK_MISSING: task each[0] has succeeded and is not in version 2",
    ]
    found = against(world, run, each("each", kind="play"), task("other"))
    assert [one.partition(",")[0] for one in found] == [
        "TASK_WORK: task each is under way",
        "TASK_WORK: task each[0] has succeeded",
    ]


def test_a_failed_list_keeps_the_items_that_succeeded_and_the_list_itself() -> None:
    world = World()
    run = start(world, task("a"), each("each", "a", list={"failures_max": 0}))
    settle(world, "a")
    leases = {lease.task_key: lease for lease in world.grant()}
    world.settle(leases["each[0]"], Success(json_payload(0)))
    world.settle(leases["each[2]"], Success(json_payload(2)))
    world.settle(leases["each[1]"], BOOM)
    assert world.run_state(run) is RunState.FAILED
    moved = world.move(run, flow(task("new", "each"), each("each", "a"), task("a")), resume=True)
    assert world.state(moved, "each[0]") is TaskState.SUCCEEDED
    world.reopen()
    assert finish(world) == ["each[1]", "new"]
    assert world.kinds(run)[-1] is EventKind.RUN_SUCCEEDED


# -- failed runs


def test_a_failed_run_is_opened_as_by_a_retry_and_is_paused_then() -> None:
    world = World()
    run = start(world, task("a"), task("b", "a"), task("c", "b"), task("d"))
    settle(world, "a", "d")
    settle(world, "b", end=BOOM)
    world.commit()
    assert world.tables.run(run.run_id).state is RunState.FAILED
    moved = world.move(run, flow(task("fix", "a"), task("a"), task("b", "fix"), task("d")))
    assert world.run_state(moved) is RunState.PAUSED
    assert moved.reason == ""
    assert world.states(moved) == {
        "fix": "READY",
        "a": "SUCCEEDED",
        "b": "WAITING",
        "d": "SUCCEEDED",
    }
    world.commit()
    kinds = world.tables.kinds(run.run_id)
    assert kinds[-4:] == [
        EventKind.RUN_REOPENED,
        EventKind.TASK_REOPENED,
        EventKind.TASK_REOPENED,
        EventKind.RUN_MOVED,
    ]
    resume(world, moved)
    assert finish(world) == ["fix", "b"]
    assert world.kinds(run)[-1] is EventKind.RUN_SUCCEEDED


def test_what_failed_may_be_other_work_or_gone_in_the_newer_version() -> None:
    for tasks in (
        (task("b", kind="play"), task("c")),
        (task("c"),),
        (wait("b", Timer(delay_us=SECOND)), task("c")),
        (each("b"), task("c")),
    ):
        world = World()
        run = start(world, task("b"), task("c"))
        settle(world, "b", end=BOOM)
        settle(world, "c")
        moved = world.move(run, flow(*tasks))
        world.commit()
        stored = world.tables.run(run.run_id)
        if len(tasks) == 1:
            assert stored.state is RunState.SUCCEEDED
            continue
        assert world.state(moved, "c") is TaskState.SUCCEEDED
        resume(world, moved)
        world.wait(2 * SECOND)
        while leases := world.grant(world.agent(kinds=("work", "play"))):
            for lease in leases:
                world.settle(lease)
        assert world.kinds(run)[-1] is EventKind.RUN_SUCCEEDED


def test_a_run_whose_output_could_not_be_worked_out_comes_to_the_newer_one() -> None:
    world = World()
    run = start(world, task("a"), output={"n": "tasks.a.output.missing"})
    finish(world)
    world.commit()
    assert world.tables.run(run.run_id).state is RunState.FAILED
    world.move(run, flow(task("a"), output={"n": "tasks.a.output"}))
    world.commit()
    stored = world.tables.run(run.run_id)
    assert stored.state is RunState.SUCCEEDED
    assert world.tables.runs[run.run_id]["output"] == b'{"n":"a"}'


def test_a_task_that_comes_back_in_a_later_version_begins_from_the_beginning() -> None:
    world = World()
    run = start(world, task("a"), task("b"))
    settle(world, "b")
    settle(world, "a", end=BOOM)
    moved = world.move(run, flow(task("b"), task("c", "b")))
    moved = world.move(moved, flow(task("b"), task("a", "b"), description="again"), 3)
    resume(world, moved)
    lease = world.grant_one()
    assert (lease.task_key, lease.attempt) == ("a", 1)
    world.settle(lease)
    assert world.kinds(run)[-1] is EventKind.RUN_SUCCEEDED


def test_a_refused_move_leaves_a_failed_run_as_it_is() -> None:
    world = World()
    run = start(world, task("a"), task("b", "a"))
    settle(world, "a")
    settle(world, "b", end=BOOM)
    world.commit()
    refused = refusal(world, run, flow(task("b")))
    assert refused.facts["state"] == "FAILED"
    assert world.tables.run(run.run_id).state is RunState.FAILED


# -- what comes after a failure


def undo(key: str) -> dict[str, Any]:
    return {"compensation": Handler(kind=f"undo-{key}")}


def play(world: World, *, fails: str = "") -> list[str]:
    """Executes everything, whatever its kind, until nothing is ready."""
    kinds = ("work", "undo-a", "undo-b", "undo-c", "tell")
    done: list[str] = []
    while leases := world.grant(world.agent(kinds=kinds)):
        for lease in leases:
            done.append(lease.task_key)
            world.settle(lease, BOOM if lease.task_key == fails else Success(json_payload(1)))
    return done


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_undone_is_what_the_version_of_its_failure_says(restart: bool) -> None:
    world = World()
    run = start(world, task("b", **undo("b")), task("a", "b"), task("c", "a"), task("end", "c"))
    for key in ("b", "a", "c"):
        settle(world, key)
    pause(world, run)
    to = flow(
        task("end", "c"),
        task("a", "b", **undo("a")),
        task("c", "a", **undo("c")),
        task("b"),
        on_failure=Handler(kind="tell"),
    )
    moved = world.move(run, to)
    if restart:
        moved = restarted(world, moved)
    world.desk.interventions.resume(moved, "", world.now_us)
    assert play(world, fails="end") == ["end", "c~undo", "a~undo", "~on_failure"]
    world.commit()
    assert world.tables.run(run.run_id).state is RunState.FAILED


def test_a_run_that_was_undone_is_not_moved() -> None:
    world = World()
    run = start(world, task("a", **undo("a")), task("b", "a"))
    play(world, fails="b")
    with pytest.raises(errors.RunClosed, match="was undone"):
        world.move(run, flow(task("a"), task("b", "a")))


def test_a_run_that_is_paused_while_it_is_undone_is_not_moved() -> None:
    world = World()
    run = start(world, task("a", **undo("a")), task("b", "a"))
    settle(world, "a")
    settle(world, "b", end=BOOM)
    assert world.run_state(run) is RunState.COMPENSATING
    pause(world, run)
    with pytest.raises(errors.RunStands, match="was undone"):
        world.move(run, flow(task("a"), task("b", "a")))


@pytest.mark.parametrize("end", [None, BOOM], ids=["unbegun", "to be tried again"])
def test_a_run_that_is_paused_before_its_failure_is_told_is_not_moved(end: Failure | None) -> None:
    world = World()
    retry = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
    tell = Handler(kind="work", retry=retry)
    run = start(world, task("a"), on_failure=tell)
    settle(world, "a", end=BOOM)
    if end is not None:
        settle(world, "~on_failure", end=end)
    pause(world, run)
    with pytest.raises(errors.RunStands, match="what follows from its failure is under way"):
        world.move(run, flow(task("b"), task("a"), on_failure=tell))
    resume(world, run)
    world.wait(SECOND)
    assert finish(world) == ["~on_failure"]
    assert world.kinds(run)[-1] is EventKind.RUN_FAILED


def test_on_failure_that_was_executed_stays_and_is_not_executed_again() -> None:
    world = World()
    tell: dict[str, Any] = {"on_failure": Handler(kind="tell")}
    run = start(world, task("a"), **tell)
    assert play(world, fails="a") == ["a", "~on_failure"]
    found = against(world, run, task("x"), task("a"))
    assert found == ["TASK_MISSING: task ~on_failure has succeeded and is not in version 2"]
    moved = world.move(run, flow(task("x"), task("a"), **tell))
    assert moved.graph.keys == ("x", "a", "~on_failure")
    resume(world, moved)
    assert play(world, fails="a") == ["x", "a"]


# -- time


def test_the_deadline_counts_from_the_acceptance_by_the_newer_version() -> None:
    world = World()
    run = start(world, task("a"), total_timeout_us=100 * SECOND)
    began = world.now_us
    world.wait(10 * SECOND)
    pause(world, run)
    moved = world.move(run, flow(task("a"), total_timeout_us=30 * SECOND))
    assert moved.deadline_us == began + 30 * SECOND
    moved = restarted(world, moved)
    world.wait(25 * SECOND)
    assert world.kinds(run)[-1] is EventKind.RUN_FAILED


def test_a_version_by_which_the_time_is_up_already_is_refused() -> None:
    world = World()
    run = start(world, task("a"))
    world.wait(10 * SECOND)
    pause(world, run)
    [said] = against(world, run, task("a"), total_timeout_us=5 * SECOND)
    assert said.startswith("RUN_TIME: run its time would be up already")


def test_a_run_whose_time_was_up_has_the_time_of_the_newer_version() -> None:
    world = World()
    run = start(world, task("a"), total_timeout_us=10 * SECOND)
    began = world.now_us
    world.wait(20 * SECOND)
    world.commit()
    assert world.tables.run(run.run_id).state is RunState.FAILED
    moved = world.move(run, flow(task("a"), description="the same time"))
    assert moved.deadline_us is None
    world.wait(SECOND)
    moved = world.move(moved, flow(task("a"), total_timeout_us=60 * SECOND), 3)
    assert moved.deadline_us == began + 60 * SECOND
    moved = restarted(world, moved)
    world.wait(60 * SECOND)
    assert world.kinds(run)[-1] is EventKind.RUN_FAILED


def test_a_failed_run_has_no_deadline_that_is_over() -> None:
    world = World()
    run = start(world, task("a"), total_timeout_us=10 * SECOND)
    world.wait(20 * SECOND)
    moved = world.move(run, flow(task("a"), total_timeout_us=15 * SECOND))
    resume(world, moved)
    world.wait(SECOND)
    assert finish(world) == ["a"]


def test_times_of_a_task_that_has_begun_count_from_when_they_did() -> None:
    world = World()
    began = world.now_us
    retry = RetryPolicy(max_attempts=9, initial_delay_us=SECOND, total_timeout_us=50 * SECOND)
    run = start(world, task("a", total_timeout_us=100 * SECOND, retry=retry))
    settle(world, "a", end=BOOM)
    world.wait(10 * SECOND)
    pause(world, run)
    shorter = RetryPolicy(max_attempts=9, initial_delay_us=SECOND, total_timeout_us=20 * SECOND)
    found = against(world, run, task("a", total_timeout_us=9 * SECOND, retry=retry))
    assert found[0].startswith("TASK_TIME: task a has begun, and in version 2 its time")
    moved = world.move(run, flow(task("x"), task("a", total_timeout_us=40 * SECOND, retry=shorter)))
    detail = moved.facts[1].detail
    assert detail == {"total_by": began + 40 * SECOND, "attempts_by": began + 20 * SECOND}
    moved = restarted(world, moved)
    world.wait(10 * SECOND)
    assert world.failure(moved, "a") == "RETRY_TIMED_OUT"


def test_times_that_were_not_declared_before_count_from_the_move() -> None:
    world = World()
    run = start(world, wait("w", SignalWait(name="go")), task("q", queue_timeout_us=SECOND))
    pause(world, run)
    world.wait(5 * SECOND)
    at = world.now_us
    moved = world.move(
        run,
        flow(
            task("q", queue_timeout_us=9 * SECOND),
            wait("w", SignalWait(name="go"), total_timeout_us=7 * SECOND),
        ),
    )
    assert moved.facts[0].detail == {"queue_by": at + 9 * SECOND}
    assert moved.facts[1].detail is not None
    assert moved.facts[1].detail["total_by"] == at + 7 * SECOND


class NotNow(Lawless):
    """An article stands against every lease."""

    def on_lease(self, *_: Any) -> Sequence[Objection]:
        return [
            Objection(
                article="not-now",
                law=Law.PRECEDENCE,
                perspective=Perspective.RESOURCE_CONSTRAINT,
                point=Point.LEASE,
                effect=Effect.DENY,
                message="not now",
            )
        ]


def test_a_time_in_the_queue_that_is_declared_no_more_is_none() -> None:
    world = World()
    retry = RetryPolicy(max_attempts=9, initial_delay_us=SECOND, jitter=0)
    run = start(world, task("a", queue_timeout_us=30 * SECOND, retry=retry))
    world.desk.law = NotNow()
    assert world.grant() == []
    pause(world, run)
    world.wait(SECOND)
    assert (world.state(run, "a"), run.facts[0].attempt) == (TaskState.READY, 1)
    moved = world.move(run, flow(task("a", queue_timeout_us=60 * SECOND, retry=retry)))
    moved = world.move(moved, flow(task("a", retry=retry)), 3)
    assert moved.facts[0].detail is None
    moved = resume(world, moved)
    world.wait(90 * SECOND)
    assert finish(world) == ["a"]


# -- limits of runs


def keyed(key: str = "run.input.k", **options: Any) -> dict[str, Any]:
    return {"concurrency": Concurrency(limit=1, key=key, **options)}


def pair(world: World) -> tuple[LiveRun, LiveRun]:
    """A run that is let in and paused, and another one of its key that is held."""
    first = start(world, task("a"), **keyed())
    second = start(world, task("a"), **keyed())
    world.desk.grants.admit(world.now_us)
    assert (first.held, second.held) == (False, True)
    pause(world, first)
    return first, second


def test_a_run_keeps_its_place_where_its_key_stays_the_same() -> None:
    world = World()
    first, second = pair(world)
    moved = world.move(first, flow(task("b"), task("a"), **keyed("run.input.k")))
    world.desk.grants.admit(world.now_us)
    assert (moved.held, second.held) == (False, True)
    resume(world, moved)
    assert finish(world) == ["b", "a", "a"]


def test_a_run_of_another_key_gives_its_place_away_and_stands_in_line_for_the_other() -> None:
    world = World()
    first, second = pair(world)
    third = start(world, task("a"), **keyed("run.input.who"))
    world.desk.grants.admit(world.now_us)
    moved = world.move(first, flow(task("b"), task("a"), **keyed("run.input.who")))
    world.desk.grants.admit(world.now_us)
    assert (moved.held, second.held, third.held) == (True, False, False)
    moved = resume(world, moved)
    leases = [lease for lease in world.grant() if lease.run.run_id != moved.run_id]
    assert world.live_of(moved) == 0
    for lease in leases:
        world.settle(lease)
    assert finish(world) == ["b", "a"]


def test_a_run_that_is_held_is_held_by_the_newer_version_or_let_in() -> None:
    world = World()
    first, second = pair(world)
    pause(world, second)
    moved = world.move(second, flow(wait("w", Timer(delay_us=SECOND)), task("a"), **keyed()))
    world.desk.grants.admit(world.now_us)
    assert moved.held
    assert world.states(moved) == {"w": "WAITING", "a": "READY"}
    assert world.live_of(moved) == 0
    moved = restarted(world, moved)
    free = world.move(moved, flow(wait("w", Timer(delay_us=SECOND)), task("a")), 3)
    world.desk.grants.admit(world.now_us)
    assert not free.held
    assert world.states(free) == {"w": "ACTIVE", "a": "READY"}
    assert world.again(first) is not None


def test_a_run_that_would_be_cancelled_at_once_is_not_moved() -> None:
    world = World()
    first, _ = pair(world)
    other = start(world, task("a"), **keyed("run.input.who"))
    world.desk.grants.admit(world.now_us)
    newest = keyed("run.input.who", strategy=Strategy.CANCEL_NEWEST)
    [said] = against(world, first, task("a"), **newest)
    assert said.startswith("RUN_KEY: run 1 runs of its key are open")
    [said] = against(world, first, task("a"), **keyed("run.input.nothing"))
    assert said.startswith("RUN_KEY: run concurrency.key")
    assert not other.held


OLD: dict[str, Any] = {"attempt_timeout_us": 100 * SECOND, "total_timeout_us": 100 * SECOND}


def test_what_was_to_fall_due_of_a_failed_run_is_for_nobody_after_its_move() -> None:
    """Not the run's own time, nor what others would take for theirs by the numbers of tasks."""
    world = World()
    run = start(world, task("a", **OLD), task("b", "a"), total_timeout_us=100 * SECOND)
    settle(world, "a", end=BOOM)
    moved = world.move(run, flow(task("new"), task("x", "new")), resume=True)
    lease = world.hold_one()
    for _ in range(15):
        world.wait(10 * SECOND)
        assert world.states(moved) == {"new": "LEASED", "x": "WAITING"}
        assert world.run_state(moved) is RunState.RUNNING
        world.desk.renew(lease, None, world.now_us)
