"""Every task that does not run and has not ended can say why, in words and in facts."""

from __future__ import annotations

import pytest
from tests.server.core.world import SECOND, START_US, World, task

from tenure_server.core.definitions.definition import RetryPolicy, WorkflowTask
from tenure_server.core.definitions.features import (
    Approval,
    Concurrency,
    EventWait,
    ForEach,
    Handler,
    Placement,
    Rate,
    SignalWait,
    SubWorkflow,
    Timer,
)
from tenure_server.core.desks.law import DENIED
from tenure_server.core.leasing.leases import STOPPED, AgentSlots
from tenure_server.core.ledger.lifecycle import TASK_ENDED, Failure, RunState, TaskState
from tenure_server.core.progress.approvals import Decider
from tenure_server.core.runs import extensions
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.seeing.hindrances import (
    KEYS_NAMED_MAX,
    Explained,
    Hindrance,
    Kind,
    explain,
    idle,
)


def why(world: World, run: LiveRun, key: str, *agents: AgentSlots) -> list[Hindrance]:
    """What stands in the way of one task; the same, whether it is asked about it or about all."""
    index = run.graph.index[key]
    [explained] = explain(world.desk, run, [index], agents, world.now_us)
    every = explain(world.desk, run, range(len(run.states)), agents, world.now_us)
    assert every[index] == explained
    return list(explained.hindrances)


def kinds(reasons: list[Hindrance]) -> list[Kind]:
    """What they are."""
    return [reason.kind for reason in reasons]


def test_a_task_waits_for_those_before_it_that_have_not_ended() -> None:
    world = World()
    run = world.start(task("a"), task("b"), task("c", "a", "b"))
    [reason] = why(world, run, "c")
    assert reason.kind is Kind.TASKS
    assert (reason.task_keys, reason.count) == (("a", "b"), 2)
    assert reason.sentence == "it waits for tasks a, b"
    world.settle(world.hold_one())
    [reason] = why(world, run, "c")
    assert (reason.task_keys, reason.sentence) == (("b",), "it waits for task b")


def test_of_many_tasks_the_first_are_named() -> None:
    world = World()
    before = [f"t{number}" for number in range(KEYS_NAMED_MAX + 5)]
    run = world.start(*map(task, before), task("last", *before))
    [reason] = why(world, run, "last")
    assert reason.task_keys == tuple(before[:KEYS_NAMED_MAX])
    assert reason.count == KEYS_NAMED_MAX + 5
    assert reason.sentence == "it waits for tasks t0, t1, t2 and 22 more"


def test_a_failed_attempt_says_when_the_next_one_is_due() -> None:
    world = World()
    run = world.start(task("a", retry=RetryPolicy(max_attempts=3, jitter=0.0)))
    world.settle(world.hold_one(), Failure("BOOM", "no"))
    [reason] = why(world, run, "a")
    assert reason.kind is Kind.RETRY
    assert (reason.due_us, reason.count) == (START_US + SECOND, 1)
    assert reason.sentence == "its next attempt after BOOM is due at 2023-11-14T22:13:21Z"


def test_a_denied_attempt_names_the_article() -> None:
    world = World()
    run = world.start(task("a", retry=RetryPolicy(max_attempts=3)))
    world.settle(world.hold_one(), Failure(DENIED, "article night: not by day"))
    assert kinds(reasons := why(world, run, "a")) == [Kind.RETRY, Kind.DENIED]
    assert "article night: not by day" in reasons[1].sentence


def test_waits_say_what_for_and_until_when() -> None:
    world = World()
    run = world.start(
        task("timer", kind="", wait=Timer(delay_us=60 * SECOND)),
        task("signal", kind="", wait=SignalWait(name="go", timeout_us=SECOND)),
        task("event", kind="", wait=EventWait(name="paid", key="'o-1'")),
        task("approval", kind="", wait=Approval(quorum=2)),
    )
    [timer] = why(world, run, "timer")
    assert (timer.kind, timer.due_us) == (Kind.TIMER, START_US + 60 * SECOND)
    [signal] = why(world, run, "signal")
    assert (signal.kind, signal.name, signal.due_us) == (
        Kind.SIGNAL,
        "go",
        START_US + SECOND,
    )
    [event] = why(world, run, "event")
    assert (event.kind, event.name, event.key) == (Kind.EVENT, "paid", "o-1")
    assert event.due_us is None
    index = run.graph.index["approval"]
    ada = Decider("key-ada", "ada")
    world.desk.consequences.approvals.decide(run, index, ada, True, "", world.now_us)
    [approval] = why(world, run, "approval")
    assert (approval.kind, approval.count, approval.limit) == (Kind.APPROVAL, 1, 2)


def test_a_run_of_another_workflow_is_named_once_it_is_there() -> None:
    world = World()
    run = world.start(task("child", kind="", wait=SubWorkflow(name="other")))
    [reason] = why(world, run, "child")
    assert (reason.kind, reason.name, reason.child_run_id) == (Kind.CHILD_RUN, "other", "")
    [wanted] = world.desk.consequences.children.wanted
    world.desk.consequences.children.started(wanted, "child-id")
    [reason] = why(world, run, "child")
    assert reason.child_run_id == "child-id"
    assert "child-id" in reason.sentence


def test_a_list_of_runs_waits_for_its_items_and_each_item_for_its_run() -> None:
    world = World()
    calls = task("calls", kind="", wait=SubWorkflow(name="other"), for_each=ForEach(items="[1, 2]"))
    run = world.start(calls)
    [reason] = why(world, run, "calls")
    assert (reason.kind, reason.count, reason.limit) == (Kind.ITEMS, 2, 2)
    [reason] = why(world, run, "calls[1]")
    assert (reason.kind, reason.name) == (Kind.CHILD_RUN, "other")


def test_a_kind_that_no_agent_executes_is_named() -> None:
    world = World()
    run = world.start(task("a", kind="rare"))
    [reason] = why(world, run, "a", world.agent())
    assert (reason.kind, reason.name) == (Kind.NO_AGENT, "rare")
    assert reason.sentence == "no agent is connected that executes rare"


def test_agents_without_a_slot_are_named() -> None:
    world = World()
    agent = world.agent(slots=1)
    run = world.start(task("a"), task("b"))
    world.hold_one(agent)
    [busy] = why(world, run, "b", agent)
    assert (busy.kind, busy.name) == (Kind.AGENTS_BUSY, "work")
    assert busy.sentence == "no agent that could take it has a slot free: host"


def test_whoever_goes_first_is_named_to_all_but_itself() -> None:
    world = World()
    agent = world.agent()
    run = world.start(task("a"), task("b"), task("c"))
    assert kinds(why(world, run, "a", agent)) == [Kind.NOTHING]
    for key in "bc":
        [behind] = why(world, run, key, agent)
        assert behind.kind is Kind.BEHIND_OTHERS
        assert behind.sentence == f"others go first, next one task a of run {run.run_id}"
    urgent = world.start(task("a"), priority=9)
    for key in "abc":
        [behind] = why(world, run, key, agent)
        assert urgent.run_id in behind.sentence


@pytest.mark.parametrize(
    ("late", "kind", "sentence"),
    [
        (
            task("late", concurrency=Concurrency(limit=1)),
            Kind.KEY_LIMIT,
            "1 of 1 tasks of its key late are leased",
        ),
        (
            task("late", rate=Rate(count=1, per_us=SECOND)),
            Kind.RATE,
            "1 tasks of its key late were begun of late; next at 2023-11-14T22:13:21Z",
        ),
        (
            task("late", weight=1000),
            Kind.TOO_HEAVY,
            "it takes 1000 slots, and the tenant may hold 100",
        ),
        (
            task("late", placement=Placement(required={"gpu": "a"})),
            Kind.PLACEMENT,
            "no agent that executes work has the labels gpu=a",
        ),
    ],
)
def test_limits_and_placement_that_tasks_declare(
    late: WorkflowTask, kind: Kind, sentence: str
) -> None:
    world = World(max_leases=100)
    agent = world.agent()
    world.start(late)
    world.grant(agent)
    [hindrance] = why(world, world.start(late), "late", agent)
    assert (hindrance.kind, hindrance.sentence) == (kind, sentence)


def test_a_run_that_waits_for_others_of_its_key_says_so_for_each_task() -> None:
    world = World()
    limit = Concurrency(limit=1)
    world.start(task("a"), concurrency=limit)
    held = world.start(task("a"), task("b", "a"), concurrency=limit)
    [hindrance] = why(world, held, "a")
    assert (hindrance.kind, hindrance.count, hindrance.limit) == (Kind.RUN_LIMIT, 1, 1)
    assert kinds(why(world, held, "b")) == [Kind.TASKS, Kind.RUN_LIMIT]


def test_a_list_says_how_many_of_its_items_are_open() -> None:
    world = World()
    each = task("each", for_each=ForEach(items="[1, 2, 3]", parallelism=1))
    run = world.start(each)
    world.settle(world.hold_one())
    [list_] = why(world, run, "each")
    assert (list_.kind, list_.count, list_.limit) == (Kind.ITEMS, 2, 3)
    [item] = why(world, run, run.graph.keys[3])
    assert (item.kind, item.task_keys) == (Kind.ITEMS, ("each",))


def test_what_is_about_to_be_leased_says_so() -> None:
    world = World()
    run = world.start(task("a"))
    assert kinds(why(world, run, "a", world.agent())) == [Kind.NOTHING]


def test_limits_of_the_tenant_and_of_the_workflow() -> None:
    world = World(max_leases=1)
    agent = world.agent()
    run = world.start(task("a"), task("b"), max_leases=1)
    world.hold_one(agent)
    [workflow] = why(world, run, "b", agent)
    assert workflow.kind is Kind.WORKFLOW_LEASES
    assert (workflow.name, workflow.count, workflow.limit) == ("flow", 1, 1)
    assert workflow.sentence == "workflow flow holds 1 leases of at most 1"
    other = world.start(task("a"), name="other")
    [tenant] = why(world, other, "a", agent)
    assert (tenant.kind, tenant.count, tenant.limit) == (Kind.TENANT_LEASES, 1, 1)


def test_a_paused_run_holds_all_its_tasks() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"))
    world.desk.interventions.pause(run, "look first", world.now_us)
    agent = world.agent()
    assert kinds(why(world, run, "a", agent)) == [Kind.RUN_PAUSED]
    assert kinds(why(world, run, "b", agent)) == [Kind.TASKS, Kind.RUN_PAUSED]


def test_a_run_that_is_being_cancelled_leaves_nothing_to_explain() -> None:
    world = World()
    run = world.start(task("a"), task("b", "a"), task("c"))
    lease = world.hold_one()
    world.desk.cancel_run(run, "enough", world.now_us)
    assert world.states(run) == {"a": "LEASED", "b": "CANCELLED", "c": "CANCELLED"}
    assert idle(run) == []
    world.settle(lease, STOPPED)
    assert run.state is RunState.CANCELLED
    assert idle(run) == []


def test_what_comes_after_a_failure_waits_its_turn() -> None:
    world = World()
    undo = Handler(kind="work")
    run = world.start(
        task("a", compensation=undo), task("b", "a", compensation=undo), task("c", "b")
    )
    for end in (None, None, Failure("BOOM")):
        world.settle(world.hold_one(), end)
    assert [one.kind for one in run.extensions] == [extensions.UNDO] * 2
    waiting = [index for index in idle(run) if run.states[index] == TaskState.WAITING]
    [explained] = explain(world.desk, run, waiting, [], world.now_us)
    assert kinds(list(explained.hindrances)) == [Kind.AFTERMATH]


def test_what_runs_or_has_ended_has_no_reason_and_is_not_idle() -> None:
    world = World()
    run = world.start(task("a"), task("b"), task("c", "b"))
    world.settle(world.hold_one())
    world.hold_one()
    assert world.states(run) == {"a": "SUCCEEDED", "b": "LEASED", "c": "WAITING"}
    assert why(world, run, "a") == why(world, run, "b") == []
    assert idle(run) == [2]


def test_every_idle_task_has_a_reason_after_a_restart_too() -> None:
    world = World()
    run = world.start(
        task("a", retry=RetryPolicy(max_attempts=2)),
        task("wait", kind="", wait=SignalWait(name="go")),
        task("nap", kind="", wait=Timer(delay_us=SECOND)),
        task("end", "a", "wait", "nap"),
    )
    world.settle(world.hold_one(), Failure("BOOM"))
    before = _all(world, run)
    world.reopen()
    assert _all(world, world.again(run)) == before
    assert all(one.hindrances for one in before)
    ended = sum(state in TASK_ENDED for state in run.states)
    assert len(before) == len(run.states) - ended


def _all(world: World, run: LiveRun) -> list[Explained]:
    return explain(world.desk, run, idle(run), [], world.now_us)
