"""What had succeeded is undone when a run fails, last first, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from tests.server.core.world import (
    LEASE_US,
    SECOND,
    WORK,
    World,
    flow,
    json_payload,
    portrait,
    task,
)

from tenure_server.core import errors
from tenure_server.core.definitions.definition import RetryPolicy, WorkflowDefinition
from tenure_server.core.definitions.features import ForEach, Handler, Timer
from tenure_server.core.leasing.leases import STOPPED, Lease, Success
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState, Verdict
from tenure_server.core.runs import extensions, restoring, view
from tenure_server.core.runs.live import MESSAGE_TOLD_MAX, LiveRun

BOOM = Failure("BOOM")
TWICE = RetryPolicy(max_attempts=2, initial_delay_us=SECOND, jitter=0)
TELL = Handler(kind="tell", input=json_payload({"to": "ops"}))
KINDS = (*WORK, "undo", "tell", "fail")

restarts = pytest.mark.parametrize("restart", [False, True], ids=["in memory", "after restarts"])


def undo(**options: Any) -> Handler:
    """What undoes a task."""
    return Handler(kind="undo", **options)


def saga(**options: Any) -> WorkflowDefinition:
    """Two tasks that can be undone, one that cannot, and one that fails behind them."""
    return flow(
        task("book", compensation=undo(input=json_payload({"n": 1}))),
        task("pay", "book", compensation=undo()),
        task("log", "pay"),
        task("ship", "log", kind="fail"),
        **options,
    )


class Stage:
    """A world in which memory may be thrown away after each step."""

    def __init__(self, restart: bool) -> None:
        self.world = World()
        self._restart = restart

    def start(self, definition: WorkflowDefinition) -> LiveRun:
        """Starts a run."""
        self.run = self.world.start_flow(definition)
        return self.run

    def step(self) -> None:
        """Something has happened."""
        self.world.commit()
        if self._restart:
            before = portrait(self.world.desk)
            self.world.reopen()
            assert portrait(self.world.desk) == before
        self.run = self.world.desk.runs.get(self.run.run_id, self.run)

    def lease(self, key: str) -> Lease:
        """The one lease there is to have."""
        agent = self.world.agent(kinds=KINDS)
        [lease] = self.world.grant(agent)
        assert lease.task_key == key
        self.world.desk.accept(lease)
        self.step()
        return lease

    def do(self, key: str, end: Any = None) -> Lease:
        """Executes the one task there is to execute."""
        lease = self.lease(key)
        assert self.world.settle(lease, end or Success(json_payload(f"{key} done"))) is (
            Verdict.APPLIED
        )
        self.step()
        return lease

    def fail_after(self, *keys: str) -> None:
        """Executes tasks well, and lets the next one fail."""
        for key in keys[:-1]:
            self.do(key)
        self.do(keys[-1], BOOM)

    def state(self) -> RunState:
        """Where the run stands."""
        return self.world.tables.run(self.run.run_id).state

    @property
    def reason(self) -> str:
        """Why."""
        return self.world.tables.run(self.run.run_id).reason

    def kinds(self) -> list[str]:
        """What happened in the run."""
        return [kind.name for kind in self.world.kinds(self.run)]


@restarts
def test_what_had_succeeded_is_undone_in_reverse_order_and_then_the_run_fails(
    restart: bool,
) -> None:
    stage = Stage(restart)
    stage.start(saga())
    stage.fail_after("book", "pay", "log", "ship")
    assert stage.state() is RunState.COMPENSATING
    assert stage.world.states(stage.run) == {
        **dict.fromkeys(("book", "pay", "log"), "SUCCEEDED"),
        "ship": "FAILED",
        "pay~undo": "READY",
        "book~undo": "WAITING",
    }
    stage.do("pay~undo")
    assert stage.state() is RunState.COMPENSATING
    stage.do("book~undo")
    assert stage.state() is RunState.FAILED
    assert stage.reason == "task ship failed: BOOM"
    assert stage.kinds()[-6:] == [
        "RUN_COMPENSATING",
        *["TASK_LEASED", "TASK_SUCCEEDED"] * 2,
        "RUN_FAILED",
    ]
    row = stage.world.tables.runs[stage.run.run_id]
    assert (row["task_count"], row["succeeded"], row["failed"]) == (6, 5, 1)
    assert stage.world.desk.open_tasks == 0


@restarts
def test_who_undoes_is_given_what_the_task_put_out(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga())
    stage.fail_after("book", "pay", "log", "ship")
    lease = stage.do("pay~undo")
    assert (lease.task.kind, lease.input) == ("undo", None)
    assert lease.upstream == {"pay": json_payload("pay done")}
    lease = stage.do("book~undo")
    assert lease.input == json_payload({"n": 1})
    assert lease.upstream == {"book": json_payload("book done")}


@restarts
def test_the_order_is_that_of_the_successes_not_of_the_definition(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(
        flow(
            *[task(key, kind=f"kind-{key}", compensation=undo()) for key in "abc"],
            task("d", "a", "b", "c", kind="fail"),
        )
    )
    # All at one moment: only the numbers of the events tell them apart.
    for key in "bca":
        agent = stage.world.agent(f"for {key}", kinds=[f"kind-{key}"])
        [lease] = stage.world.grant(agent)
        stage.world.settle(lease)
        stage.step()
    stage.do("d", BOOM)
    for key in ("a~undo", "c~undo", "b~undo"):
        stage.do(key)
    assert stage.state() is RunState.FAILED


def test_results_of_one_moment_are_undone_in_the_reverse_of_their_order() -> None:
    stage = Stage(restart=True)
    stage.start(flow(*[task(key, compensation=undo()) for key in "abc"], task("d", kind="fail")))
    leases = {lease.task_key: lease for lease in stage.world.grant(stage.world.agent(kinds=KINDS))}
    for key in "cabd":
        stage.world.settle(leases[key], BOOM if key == "d" else None)
    stage.step()
    for key in ("b~undo", "a~undo", "c~undo"):
        stage.do(key)
    assert stage.state() is RunState.FAILED


@restarts
def test_a_run_goes_on_with_what_is_under_way_before_it_undoes_anything(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(
        flow(task("a", compensation=undo()), task("b", kind="slow"), task("c", "a", kind="fail"))
    )
    [slow] = stage.world.grant(stage.world.agent("slow", kinds=["slow"]))
    stage.world.desk.accept(slow)
    stage.fail_after("a", "c")
    assert stage.state() is RunState.RUNNING
    assert stage.world.settle(slow) is Verdict.APPLIED
    stage.step()
    stage.do("a~undo")
    assert stage.state() is RunState.FAILED


def test_a_run_without_anything_to_undo_fails_at_once() -> None:
    stage = Stage(restart=False)
    stage.start(flow(task("a"), task("b", "a", kind="fail", compensation=undo())))
    stage.fail_after("a", "b")
    assert stage.state() is RunState.FAILED
    assert "RUN_COMPENSATING" not in stage.kinds()


def test_a_run_that_succeeds_undoes_nothing() -> None:
    stage = Stage(restart=False)
    stage.start(flow(task("a", compensation=undo()), on_failure=TELL))
    stage.do("a")
    assert stage.state() is RunState.SUCCEEDED


@restarts
def test_what_undoes_is_retried_as_it_declares(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(flow(task("a", compensation=undo(retry=TWICE)), task("b", "a", kind="fail")))
    stage.fail_after("a", "b")
    first = stage.do("a~undo", BOOM)
    assert stage.world.state(stage.run, "a~undo") is TaskState.RETRYING
    stage.world.wait(SECOND)
    second = stage.do("a~undo")
    assert (first.attempt, second.attempt) == (1, 2)
    assert second.upstream == {"a": json_payload("a done")}
    assert stage.reason == "task b failed: BOOM"


@restarts
def test_what_cannot_be_undone_is_written_down_and_the_others_are_undone(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga())
    stage.fail_after("book", "pay", "log", "ship")
    stage.do("pay~undo", BOOM)
    assert stage.state() is RunState.COMPENSATING
    stage.do("book~undo")
    assert stage.state() is RunState.FAILED
    assert stage.reason == "task ship failed: BOOM; 1 of 2 compensations failed: pay~undo"
    assert stage.world.failure(stage.run, "pay~undo") == "BOOM"


@restarts
def test_an_agent_that_is_lost_while_it_undoes_is_replaced(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga())
    stage.fail_after("book", "pay", "log", "ship")
    lost = stage.lease("pay~undo")
    stage.world.wait(LEASE_US)
    stage.step()
    again = stage.lease("pay~undo")
    assert (again.attempt, again.term) == (1, 2)
    assert stage.world.verdict(lost) is Verdict.SUPERSEDED
    assert stage.world.verdict(again) is Verdict.APPLIED
    stage.step()
    stage.do("book~undo")
    assert stage.state() is RunState.FAILED


# -- on_failure


@restarts
def test_on_failure_is_told_what_failed_after_all_is_undone(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga(on_failure=TELL))
    stage.fail_after("book", "pay", "log", "ship")
    stage.do("pay~undo", Failure("STUCK", "nobody answers"))
    stage.do("book~undo")
    assert stage.state() is RunState.COMPENSATING
    lease = stage.do("~on_failure")
    assert lease.task.kind == "tell"
    assert lease.input is not None
    assert orjson.loads(lease.input.data) == {
        "to": "ops",
        "failed": [
            {"task": "ship", "code": "BOOM", "message": ""},
            {"task": "pay~undo", "code": "STUCK", "message": "nobody answers"},
        ],
    }
    assert stage.state() is RunState.FAILED
    assert stage.reason == "task ship failed: BOOM; 1 of 2 compensations failed: pay~undo"


@restarts
def test_on_failure_alone_is_executed_too_and_its_own_failure_changes_nothing(
    restart: bool,
) -> None:
    stage = Stage(restart)
    stage.start(flow(task("a", kind="fail"), on_failure=Handler(kind="tell")))
    stage.fail_after("a")
    lease = stage.do("~on_failure", BOOM)
    assert lease.input == json_payload({"failed": [{"task": "a", "code": "BOOM", "message": ""}]})
    assert (stage.state(), stage.reason) == (RunState.FAILED, "task a failed: BOOM")


def test_on_failure_is_told_of_a_hundred_failures_at_most() -> None:
    stage = Stage(restart=True)
    stage.start(
        flow(*[task(f"t{number}") for number in range(150)], on_failure=Handler(kind="tell"))
    )
    for lease in stage.world.grant(stage.world.agent(kinds=KINDS)):
        stage.world.settle(lease, Failure("BOOM", "x" * 4000))
    stage.step()
    lease = stage.lease("~on_failure")
    assert lease.input is not None
    failed = orjson.loads(lease.input.data)["failed"]
    assert [one["task"] for one in failed] == [f"t{number}" for number in range(100)]
    assert [one["message"] for one in failed] == ["x" * MESSAGE_TOLD_MAX] * 100


@restarts
def test_fields_of_on_failure_say_which_task_failed_and_why(restart: bool) -> None:
    fields = {
        "failed": "failed.map(f, f.task + ': ' + f.message)",
        "first": "failed[0].code",
        "why": "run.reason",
        "seen": "tasks.a.output",
    }
    stage = Stage(restart)
    stage.start(
        flow(
            task("a", compensation=undo()),
            task("b", "a", kind="fail"),
            on_failure=Handler(kind="tell", input=json_payload({"to": "ops"}), bindings=fields),
        )
    )
    stage.do("a")
    stage.do("b", Failure("BOOM", "it burst"))
    stage.do("a~undo")
    lease = stage.lease("~on_failure")
    assert lease.input is not None
    assert orjson.loads(lease.input.data) == {
        "to": "ops",
        "failed": ["b: it burst"],
        "first": "BOOM",
        "why": "task b failed: BOOM",
        "seen": "a done",
    }


def test_fields_of_on_failure_know_why_a_run_ended_in_which_no_task_failed() -> None:
    why = {"why": "run.reason", "none": "size(failed) == 0"}
    stage = Stage(restart=True)
    stage.start(
        flow(task("a"), total_timeout_us=SECOND, on_failure=Handler(kind="tell", bindings=why))
    )
    stage.world.wait(SECOND)
    stage.step()
    lease = stage.lease("~on_failure")
    assert lease.input is not None
    told = orjson.loads(lease.input.data)
    assert told == {"why": "it took longer than it may", "none": True, "failed": []}


# -- what else happens meanwhile


@restarts
def test_a_cancel_undoes_nothing(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga(on_failure=TELL))
    stage.do("book")
    stage.world.desk.cancel_run(stage.run, "not wanted", stage.world.now_us)
    stage.step()
    assert (stage.state(), stage.reason) == (RunState.CANCELLED, "not wanted")


@restarts
@pytest.mark.parametrize("leased", [False, True])
def test_a_cancel_while_something_is_undone_ends_it(restart: bool, leased: bool) -> None:
    stage = Stage(restart)
    stage.start(saga(on_failure=TELL))
    stage.fail_after("book", "pay", "log", "ship")
    lease = stage.lease("pay~undo") if leased else None
    stage.world.desk.cancel_run(stage.run, "leave it", stage.world.now_us)
    stage.step()
    if lease is not None:
        assert stage.state() is RunState.CANCELLING
        assert stage.world.desk.leases[lease.key].cancelling == "leave it"
        stage.world.settle(lease, STOPPED)
        stage.step()
    states = stage.world.states(stage.run)
    assert {states[key] for key in ("pay~undo", "book~undo", "~on_failure")} == {"CANCELLED"}
    assert stage.state() is RunState.CANCELLED
    assert stage.reason == "leave it; 2 of 2 compensations failed: pay~undo, book~undo"


@restarts
def test_a_paused_run_undoes_nothing_until_it_is_resumed(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga(on_failure=TELL))
    for key in ("book", "pay", "log"):
        stage.do(key)
    lease = stage.lease("ship")
    stage.world.desk.interventions.pause(stage.run, "", stage.world.now_us)
    stage.step()
    stage.world.settle(lease, BOOM)
    stage.step()
    assert stage.state() is RunState.PAUSED
    assert stage.world.grant(stage.world.agent(kinds=KINDS)) == []
    stage.world.desk.interventions.resume(stage.run, "", stage.world.now_us)
    stage.step()
    assert stage.state() is RunState.COMPENSATING
    stage.do("pay~undo")


@restarts
def test_undoing_can_be_paused_and_goes_on_where_it_stood(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga())
    stage.fail_after("book", "pay", "log", "ship")
    lease = stage.lease("pay~undo")
    stage.world.desk.interventions.pause(stage.run, "", stage.world.now_us)
    stage.step()
    stage.world.settle(lease)
    stage.step()
    assert stage.world.grant(stage.world.agent(kinds=KINDS)) == []
    stage.world.desk.interventions.resume(stage.run, "", stage.world.now_us)
    stage.step()
    assert stage.state() is RunState.COMPENSATING
    stage.do("book~undo")
    assert stage.state() is RunState.FAILED


@restarts
def test_a_run_whose_time_is_up_is_undone_in_all_the_time_it_takes(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga(total_timeout_us=25 * SECOND, on_failure=TELL))
    stage.do("book")
    lease = stage.lease("pay")
    stage.world.wait(25 * SECOND)
    stage.step()
    assert stage.state() is RunState.CANCELLING
    # It may still succeed, and is then undone.
    assert stage.world.settle(lease) is Verdict.APPLIED
    stage.step()
    assert stage.state() is RunState.COMPENSATING
    stage.world.wait(60 * SECOND)
    for key in ("pay~undo", "book~undo", "~on_failure"):
        stage.do(key)
    assert (stage.state(), stage.reason) == (RunState.FAILED, "it took longer than it may")


def test_a_cancel_of_a_run_whose_time_was_up_ends_it_as_cancelled() -> None:
    stage = Stage(restart=True)
    stage.start(saga(total_timeout_us=25 * SECOND))
    stage.do("book")
    stage.world.wait(25 * SECOND)
    stage.step()
    assert stage.state() is RunState.COMPENSATING
    stage.world.desk.cancel_run(stage.run, "", stage.world.now_us)
    stage.step()
    assert stage.state() is RunState.CANCELLED


def test_a_run_closed_by_force_is_not_undone() -> None:
    stage = Stage(restart=True)
    stage.start(saga())
    stage.fail_after("book", "pay", "log", "ship")
    stage.world.desk.interventions.close(stage.run, "enough", stage.world.now_us)
    stage.step()
    assert stage.state() is RunState.CLOSED


# -- what can be undone


@restarts
def test_a_wait_can_be_undone_too(restart: bool) -> None:
    stage = Stage(restart)
    timer = Timer(delay_us=SECOND)
    stage.start(
        flow(task("a", kind="", wait=timer, compensation=undo()), task("b", "a", kind="fail"))
    )
    stage.world.wait(SECOND)
    stage.step()
    stage.fail_after("b")
    stage.do("a~undo")
    assert stage.state() is RunState.FAILED


def test_many_tasks_are_undone_one_after_the_other() -> None:
    stage = Stage(restart=False)
    count = 300
    tasks = [task(f"t{number}", compensation=undo()) for number in range(count)]
    stage.start(flow(*tasks, task("end", kind="fail")))
    leases = stage.world.grant(stage.world.agent(kinds=KINDS))
    for lease in leases:
        stage.world.settle(lease, BOOM if lease.task_key == "end" else None)
    done = [lease.task_key for lease in leases if lease.task_key != "end"]
    for key in reversed(done):
        stage.do(f"{key}~undo")
    assert stage.state() is RunState.FAILED


def test_each_item_of_a_list_is_undone_and_not_the_list() -> None:
    each = task("each", for_each=ForEach(items="[1, 2]"), compensation=undo(), total_timeout_us=9)
    definition = flow(each, task("b", "each"))
    graph = definition.check()
    items = extensions.Extension(extensions.ITEMS, 0, 2)
    # What undoes the second item, which is task number 3.
    undone = extensions.Extension(extensions.UNDO, 3)
    tasks, extended = extensions.extend(definition, definition.tasks, graph, [items, undone])
    assert extended.keys == ("each", "b", "each[0]", "each[1]", "each[1]~undo")
    assert [one.kind for one in tasks] == ["work", "work", "work", "work", "undo"]
    assert extended.upstream[4] == (3,)
    # The time of the list is not that of each item.
    assert [one.total_timeout_us for one in tasks] == [9, None, None, None, None]
    for key in extended.keys:
        found = extensions.declared_as(definition, graph, key)
        assert found.kind == tasks[extended.index[key]].kind
    for key in ("each~undo~undo", "b~undo", "b[0]", "~on_failure", "c"):
        with pytest.raises(LookupError):
            extensions.declared_as(definition, graph, key)


@restarts
def test_the_rows_alone_tell_where_what_undoes_stands(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(saga(on_failure=TELL))
    stage.fail_after("book", "pay", "log", "ship")
    stage.do("pay~undo")
    stored = stage.world.tables.run(stage.run.run_id)
    definition = stage.world.tables.definitions[stored.workflow_digest]
    shape = extensions.shape_of(definition, definition.check(), stored.detail)
    rows = {index: one.state for index, one in stage.world.tables.tasks_of(stored.run_id).items()}
    states = dict(zip(shape.graph.keys, view.task_states(shape, rows), strict=True))
    assert {key: state.name for key, state in states.items()} == stage.world.states(stage.run)


def test_the_numbers_of_tasks_beside_the_graph_are_those_of_their_extensions() -> None:
    stage = Stage(restart=False)
    run = stage.start(saga(on_failure=TELL))
    stage.fail_after("book", "pay", "log", "ship")
    found = [run.extension_of(index) for index in range(run.planned, len(run.states))]
    assert [(one.kind, one.of, place) for one, place in found] == [
        (extensions.UNDO, 1, 0),
        (extensions.UNDO, 0, 0),
        (extensions.ON_FAILURE, -1, 0),
    ]
    for index in (0, 3, 7):
        with pytest.raises(LookupError):
            run.extension_of(index)


# -- reopening


def reopened(stage: Stage, *keys: str) -> LiveRun:
    """Executes tasks of a run again, as an operator asks."""
    from tenure_server.core.desks.interventions import to_reopen

    world, tables = stage.world, stage.world.tables
    world.commit()
    run = stage.run
    definition = tables.definitions[run.workflow_digest]
    if run.ended:
        run = LiveRun(
            tables.run(run.run_id),
            definition,
            definition.check(),
            order=world.desk.next_order(),
        )
        run.sequence = len(tables.events[run.run_id])
        restoring.restore(run, tables.tasks_of(run.run_id), {})
    again = to_reopen(run, [run.graph.index[key] for key in keys])
    world.desk.interventions.reopen(
        run, again, tables.tasks_of(run.run_id), paused=False, reason="", now_us=world.now_us
    )
    stage.run = run
    stage.step()
    return stage.run


def test_a_run_that_was_undone_is_not_executed_again() -> None:
    stage = Stage(restart=False)
    stage.start(saga())
    stage.fail_after("book", "pay", "log", "ship")
    for key in ("pay~undo", "book~undo"):
        stage.do(key)
    with pytest.raises(errors.RunClosed, match="was undone"):
        reopened(stage, "ship")


@restarts
@pytest.mark.parametrize("ends_well", [False, True])
def test_on_failure_is_executed_once_in_a_run(restart: bool, ends_well: bool) -> None:
    stage = Stage(restart)
    stage.start(flow(task("a", kind="fail", compensation=undo()), task("b", "a"), on_failure=TELL))
    stage.fail_after("a")
    stage.do("~on_failure")
    reopened(stage, "a")
    stage.do("a")
    stage.do("b", None if ends_well else BOOM)
    if not ends_well:
        assert stage.state() is RunState.COMPENSATING
        stage.do("a~undo")
    assert stage.state() is (RunState.SUCCEEDED if ends_well else RunState.FAILED)
    assert stage.kinds().count("RUN_REOPENED") == 1


@restarts
def test_what_follows_from_a_failure_is_not_asked_for_by_hand(restart: bool) -> None:
    """It would wait for ever: only a failure begins it, and only once."""
    stage = Stage(restart)
    stage.start(flow(task("a", kind="fail"), on_failure=TELL))
    stage.fail_after("a")
    stage.do("~on_failure")
    with pytest.raises(errors.RunClosed, match="follows from a failure alone"):
        reopened(stage, "~on_failure")


@restarts
def test_a_run_is_not_opened_again_while_what_follows_from_its_failure_is_under_way(
    restart: bool,
) -> None:
    stage = Stage(restart)
    stage.start(flow(task("a", kind="fail"), on_failure=TELL))
    stage.fail_after("a")
    stage.world.desk.interventions.pause(stage.run, "", stage.world.now_us)
    stage.step()
    with pytest.raises(errors.RunStands, match="is under way"):
        reopened(stage, "a")


@restarts
def test_a_run_that_is_reopened_after_its_time_has_time(restart: bool) -> None:
    stage = Stage(restart)
    stage.start(flow(task("a"), total_timeout_us=25 * SECOND))
    stage.world.wait(25 * SECOND)
    stage.step()
    assert stage.state() is RunState.FAILED
    reopened(stage, "a")
    stage.world.wait(60 * SECOND)
    stage.do("a")
    assert stage.state() is RunState.SUCCEEDED


# -- at every point where memory can be lost

STEPS: list[Callable[[Stage], object]] = [
    lambda stage: stage.do("book"),
    lambda stage: stage.do("pay"),
    lambda stage: stage.do("log"),
    lambda stage: stage.do("ship", BOOM),
    lambda stage: stage.do("pay~undo"),
    lambda stage: stage.do("book~undo", BOOM),
    lambda stage: stage.do("~on_failure"),
]


@pytest.mark.parametrize("point", range(len(STEPS)))
def test_one_restart_at_any_point_changes_nothing(point: int) -> None:
    stage = Stage(restart=False)
    stage.start(saga(on_failure=TELL))
    for number, step in enumerate(STEPS):
        if number == point:
            before = portrait(stage.world.desk)
            stage.world.reopen()
            assert portrait(stage.world.desk) == before
            stage.run = stage.world.again(stage.run)
        step(stage)
    assert stage.kinds() == [
        "RUN_STARTED",
        *["TASK_LEASED", "TASK_SUCCEEDED"] * 3,
        *["TASK_LEASED", "TASK_FAILED"],
        "RUN_COMPENSATING",
        *["TASK_LEASED", "TASK_SUCCEEDED"],
        *["TASK_LEASED", "TASK_FAILED"],
        *["TASK_LEASED", "TASK_SUCCEEDED"],
        "RUN_FAILED",
    ]
    assert EventKind.RUN_COMPENSATING in stage.world.kinds(stage.run)
