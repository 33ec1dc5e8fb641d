"""Runs go through their graphs, end when all their tasks have, and can be cancelled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.server.core.world import ACCEPT_US, LEASE_US, SECOND, World, json_payload, task

from tenure_server.core.definitions.definition import Payload, RetryPolicy
from tenure_server.core.desks import grants
from tenure_server.core.leasing.leases import STOPPED, Lease, Success
from tenure_server.core.ledger.lifecycle import (
    EventKind,
    Failure,
    RunState,
    Standing,
    TaskState,
    Verdict,
)

BOOM = Failure("BOOM")
PATIENT = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)


def test_a_task_is_ready_when_all_it_depends_on_has_succeeded() -> None:
    world = World()
    run = world.start(task("d", "b", "c"), task("b", "a"), task("c", "a"), task("a"))
    order = []
    while leases := world.grant():
        order.append(sorted(lease.task_key for lease in leases))
        for lease in leases:
            world.settle(lease)
    assert order == [["a"], ["b", "c"], ["d"]]
    assert world.run_state(run) is RunState.SUCCEEDED
    assert world.desk.open_tasks == 0
    assert not world.desk.runs


def test_a_failure_fails_what_depends_on_it_and_nothing_else() -> None:
    world = World()
    run = world.start(
        task("a"), task("b"), task("a1", "a"), task("a2", "a1"), task("ab", "a", "b"),
        task("b1", "b"), task("c"),
    )  # fmt: skip
    leases = {lease.task_key: lease for lease in world.grant()}
    world.settle(leases["a"], BOOM)
    assert world.states(run) == {
        "a": "FAILED", "b": "LEASED", "a1": "UPSTREAM_FAILED", "a2": "UPSTREAM_FAILED",
        "ab": "UPSTREAM_FAILED", "b1": "WAITING", "c": "LEASED",
    }  # fmt: skip
    world.settle(leases["b"])
    world.settle(leases["c"])
    assert world.run_state(run) is RunState.RUNNING
    world.settle(world.grant_one())
    assert world.run_state(run) is RunState.FAILED
    assert world.kinds(run)[-1] is EventKind.RUN_FAILED
    counts = run.counts()
    assert (counts.total, counts.succeeded, counts.failed, counts.upstream_failed) == (7, 3, 1, 3)
    stored = world.tables.run(run.run_id)
    assert (stored.succeeded, stored.failed, stored.upstream_failed) == (3, 1, 3)
    assert stored.reason == "task a failed: BOOM"


def test_the_reason_of_the_first_failure_outlives_a_restart() -> None:
    world = World()
    world.start(task("a"), task("b"))
    first, second = world.grant()
    world.settle(first, BOOM)
    world.reopen()
    world.settle(second, Failure("LATER"))
    world.commit()
    [stored] = [world.tables.run(run_id) for run_id in world.tables.runs]
    assert (stored.state, stored.reason) == (RunState.FAILED, "task a failed: BOOM")


def test_a_run_starts_with_its_first_lease() -> None:
    world = World()
    run = world.start(task("a"), task("b"))
    created_us = world.now_us
    world.commit()
    assert world.tables.run(run.run_id).start_us is None
    world.wait(SECOND)
    world.settle(world.grant_one())
    world.wait(SECOND)
    world.settle(world.grant_one())
    world.commit()
    stored = world.tables.run(run.run_id)
    assert stored.create_us == created_us
    assert (stored.start_us, stored.end_us) == (created_us + SECOND, created_us + 2 * SECOND)


# -- cancelling


def test_cancelling_a_run_without_leases_ends_it_at_once() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"), task("c", retry=PATIENT, kind="play"))
    world.settle(world.grant_one(world.agent(kinds=["play"])), BOOM)
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.run_state(run) is RunState.CANCELLED
    assert set(world.states(run).values()) == {"CANCELLED"}
    assert EventKind.RUN_CANCELLING not in world.kinds(run)
    stored = world.tables.run(run.run_id)
    assert (stored.reason, stored.cancelled) == ("enough", 3)
    assert not world.grant(world.agent(kinds=["work", "play"]))
    world.wait(10 * SECOND)
    assert not world.commit()


def test_cancelling_a_run_with_leases_waits_for_them() -> None:
    world = World()
    run = world.start(task("a"), task("b"), task("c", "a"))
    a, b = world.grant()
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.run_state(run) is RunState.CANCELLING
    assert world.states(run) == {"a": "LEASED", "b": "LEASED", "c": "CANCELLED"}
    assert world.desk.cancelling == [a, b]
    assert world.desk.renew(a, None, world.now_us) is Standing.CANCELLING
    world.desk.cancel_run(run, "again", world.now_us)
    assert run.reason == "enough"
    assert world.settle(a, STOPPED) is Verdict.APPLIED
    assert world.run_state(run) is RunState.CANCELLING
    assert world.settle(b, Success()) is Verdict.APPLIED
    assert world.run_state(run) is RunState.CANCELLED
    assert world.states(run) == {"a": "CANCELLED", "b": "SUCCEEDED", "c": "CANCELLED"}
    assert world.kinds(run)[-1] is EventKind.RUN_CANCELLED


def test_leases_of_a_cancelled_run_that_are_lost_end_it() -> None:
    world = World()
    run = world.start(*[task(key, retry=PATIENT) for key in ("a", "b", "c", "d")])
    a, b, c, d = world.grant()
    world.desk.cancel_run(run, "", world.now_us)
    world.desk.give_back(a, world.now_us)
    world.settle(b, BOOM)
    world.desk.accept(c)
    world.wait(ACCEPT_US)
    assert [lease for lease, _ in world.desk.ended] == [d]
    assert world.run_state(run) is RunState.CANCELLING
    world.wait(LEASE_US)
    assert world.run_state(run) is RunState.CANCELLED
    assert set(world.states(run).values()) == {"CANCELLED"}
    assert world.tables is not None
    world.commit()
    assert world.tables.run(run.run_id).reason == "cancelled"


def test_a_cancelled_run_whose_task_had_failed_is_cancelled() -> None:
    world = World()
    run = world.start(task("a"), task("b"))
    world.settle(world.grant_one(), BOOM)
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.run_state(run) is RunState.CANCELLED
    assert world.states(run) == {"a": "FAILED", "b": "CANCELLED"}


def test_a_cancel_goes_on_after_a_restart() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"))
    lease = world.grant_one()
    world.desk.cancel_run(run, "enough", world.now_us)
    world.reopen()
    [again] = world.desk.runs.values()
    [held] = world.desk.leases.values()
    assert world.run_state(again) is RunState.CANCELLING
    assert world.desk.renew(held, None, world.now_us) is Standing.CANCELLING
    assert world.settle(lease, STOPPED) is Verdict.APPLIED
    assert world.run_state(again) is RunState.CANCELLED


def test_a_repeated_cancel_stands_under_the_seat() -> None:
    world = World()
    run = world.start(task("a"))
    world.grant_one()
    world.desk.cancel_run(run, "enough", world.now_us)
    world.commit()
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.journal.seal().seats == {world.tenant.tenant_id: 1}


# -- outputs


def test_outputs_go_to_the_tasks_that_depend_on_them() -> None:
    world = World()
    world.start(task("a"), task("b"), task("quiet"), task("c", "a", "b", "quiet"), task("d", "c"))
    for lease in world.grant():
        assert lease.upstream == {}
        quiet = lease.task_key == "quiet"
        world.settle(lease, Success(None if quiet else json_payload(lease.task_key)))
    lease = world.grant_one()
    assert lease.upstream == {"a": json_payload("a"), "b": json_payload("b")}
    world.settle(lease, Success(json_payload("c")))
    assert world.grant_one().upstream == {"c": json_payload("c")}


def test_outputs_are_kept_no_longer_than_somebody_waits_for_them() -> None:
    world = World()
    run = world.start(
        task("a"), task("b", "a"), task("c", "a"), task("end", "b"), task("bad", kind="play"),
        task("e", "b", "bad"),
    )  # fmt: skip
    world.settle(world.grant_one(), Success(json_payload("a")))
    b, c = world.grant()
    assert set(run.outputs) == {0}
    world.settle(b, Success(json_payload("b")))
    assert set(run.outputs) == {0, 1}
    world.settle(c, Success(json_payload("nobody wants this")))
    assert set(run.outputs) == {1}
    world.settle(world.grant_one(), Success())
    assert set(run.outputs) == {1}
    world.settle(world.grant_one(world.agent(kinds=["play"])), BOOM)
    assert world.run_state(run) is RunState.FAILED
    assert not run.outputs


def test_outputs_for_retried_and_lost_attempts_are_kept() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a", retry=PATIENT))
    world.settle(world.grant_one(), Success(json_payload("a")))
    world.settle(world.grant_one(), BOOM)
    world.wait(SECOND)
    world.grant_one()
    world.wait(LEASE_US)
    world.reopen()
    lease = world.grant_one()
    assert lease.upstream == {"a": json_payload("a")}
    world.settle(lease, BOOM)
    assert not lease.run.outputs
    assert lease.run.run_id == run.run_id


def test_a_cancel_frees_the_outputs_that_nobody_will_ask_for() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"), task("c", "a"), task("slow", kind="play"))
    world.grant_one(world.agent("player", kinds=["play"]))
    world.settle(world.grant_one(), Success(json_payload("a")))
    b = world.grant_one()
    world.desk.cancel_run(run, "", world.now_us)
    assert set(run.outputs) == {0}
    world.settle(b, STOPPED)
    assert world.run_state(run) is RunState.CANCELLING
    assert not run.outputs


def test_outputs_that_are_too_large_together_fail_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "UPSTREAM_BYTES_MAX", 10)
    world = World()
    run = world.start(task("a"), task("b"), task("c", "a", "b", retry=PATIENT), task("d", "c"))
    six = Payload(b"x" * 6, "text/plain")
    for lease in world.grant():
        world.settle(lease, Success(six))
    assert world.grant() == []
    assert world.states(run)["c"] == "FAILED"
    assert world.states(run)["d"] == "UPSTREAM_FAILED"
    assert world.run_state(run) is RunState.FAILED
    world.commit()
    failure = world.tables.task(run.run_id, 2).failure
    assert failure is not None
    assert failure.code == "INPUT_TOO_LARGE"
    assert world.tables.run(run.run_id).reason == "task c failed: INPUT_TOO_LARGE"


# -- limits


def test_a_tenant_holds_no_more_leases_than_its_limit() -> None:
    world = World(max_leases=3)
    world.start(*[task(f"t{at}") for at in range(10)])
    leases = world.grant()
    assert len(leases) == 3
    assert not world.desk.has_room
    assert not world.grant(world.agent("other"))
    world.settle(leases[0])
    assert len(world.grant(world.agent("other"))) == 1


def test_an_agent_holds_no_more_leases_than_slots_and_gets_none_without_credit() -> None:
    world = World()
    world.start(*[task(f"t{at}") for at in range(10)])
    agent = world.agent(slots=2)
    agent.credits = 5
    leases = world.grant(agent)
    assert (len(leases), agent.credits, agent.free) == (2, 3, 0)
    world.settle(leases[0])
    assert len(world.grant(agent)) == 1
    agent.credits = 0
    world.settle(leases[1])
    assert not world.grant(agent)


def test_a_workflow_holds_no_more_leases_than_its_limit_and_stands_in_nobodys_way() -> None:
    world = World()
    world.start(*[task(f"a{at}") for at in range(5)], name="narrow", max_leases=2)
    world.start(*[task(f"b{at}") for at in range(5)], name="narrow", max_leases=2)
    world.start(*[task(f"c{at}") for at in range(2)], name="wide")
    leases = world.grant()
    assert [lease.task_key for lease in leases] == ["a0", "a1", "c0", "c1"]
    world.settle(leases[0])
    assert [lease.task_key for lease in world.grant()] == ["a2"]
    world.wait(LEASE_US)
    assert len(world.grant()) == 4


def test_a_limit_of_a_workflow_counts_the_leases_of_its_other_versions() -> None:
    world = World()
    world.start(*[task(f"old{at}") for at in range(3)], name="w")
    assert len(world.grant(at_most=2)) == 2
    world.start(task("new"), name="w", max_leases=2)
    assert [lease.task_key for lease in world.grant()] == ["old2"]
    for lease in list(world.desk.leases.values())[:2]:
        world.settle(lease)
    assert [lease.task_key for lease in world.grant()] == ["new"]


def test_limits_hold_after_a_restart() -> None:
    world = World(max_leases=4)
    world.start(*[task(f"a{at}") for at in range(5)], name="narrow", max_leases=1)
    world.start(*[task(f"b{at}") for at in range(5)], name="wide")
    world.grant(world.agent(slots=3))
    world.reopen()
    agent = world.agent(slots=3)
    assert len(agent.leases) == 3
    assert not world.grant(agent)
    [lease] = world.grant(world.agent("other"))
    assert lease.run.workflow == "wide"
    world.wait(LEASE_US)
    assert not agent.leases
    assert len(world.grant(world.agent())) == 4


def test_a_workflow_may_wait_while_its_only_lease_comes_back_in_any_way() -> None:
    world = World()
    world.start(*[task(f"t{at}") for at in range(6)], max_leases=1)

    def lose(lease: Lease) -> None:
        world.desk.accept(lease)
        world.wait(LEASE_US)

    ways: list[Callable[[Lease], object]] = [
        world.settle,
        lambda lease: world.settle(lease, BOOM),
        lambda lease: world.settle(lease, STOPPED),
        lambda lease: world.desk.give_back(lease, world.now_us),
        lambda lease: world.wait(ACCEPT_US),
        lose,
    ]
    for way in ways:
        [lease] = world.grant()
        assert not world.grant(world.agent("other"))
        way(lease)
        assert not world.desk.leases.by_workflow
    assert [lease.run.state for lease in world.grant()] == [RunState.RUNNING]
    assert TaskState.LEASED in world.desk.runs[next(iter(world.desk.runs))].states
