"""Real handlers in a real agent: whatever one does, it costs its own attempt only."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.wire.installation import Agent, Installation, until

from tenure.v1 import runs_pb2
from tenure_client import payload
from tenure_client.builder import Retry, Workflow
from tenure_client.client import Client

SUCCEEDED = runs_pb2.RUN_STATE_SUCCEEDED
FAILED = runs_pb2.RUN_STATE_FAILED
CANCELLED = runs_pb2.TASK_STATE_CANCELLED
MIB = 1 << 20


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with one agent, which all tests here share: none may bring it down."""
    folder = tmp_path_factory.mktemp("workshop")
    installation = Installation(folder, f"sqlite://{folder}/tenure.db")
    try:
        installation.add_coordinator().start()
        yield installation
    finally:
        installation.close()


@pytest.fixture
async def agent(workshop: Installation) -> Agent:
    """The one agent; started by the first test, and the same process in every other."""
    if not workshop.agents:
        await workshop.add_agent(slots=6)
    (agent,) = workshop.agents
    return agent


async def outcome(client: Client, kind: str, **task: Any) -> tuple[runs_pb2.Run, runs_pb2.Task]:
    """Has one task done and shows what became of it."""
    with Workflow(f"one-{kind}") as workflow:
        workflow.task("it", kind=kind, **task)
    await client.register_workflow(workflow.definition())
    run_id = (await client.start_run(f"one-{kind}")).run_id
    return await client.wait_run(run_id), await client.get_task(run_id, "it")


MISDEEDS: list[tuple[str, Any, str]] = [
    ("exit", 3, "SystemExit"),
    ("loud", 3 * MIB, "RuntimeError"),
    ("big", 2 * MIB, "OUTPUT_INVALID"),
    ("kill-itself", None, "SIGNAL_KILL"),
    ("loud-command", None, "OUTPUT_INVALID"),
    ("add-up", "no number", "TypeError"),
]


@pytest.mark.parametrize(("kind", "given", "code"), MISDEEDS, ids=[case[0] for case in MISDEEDS])
async def test_a_handler_that_misbehaves_costs_its_attempt_only(
    kind: str, given: Any, code: str, workshop: Installation, agent: Agent
) -> None:
    """What works beside it goes on, and the agent does the next task as if nothing had been."""
    async with workshop.client() as client:
        run, task = await outcome(client, kind, input=given)
        assert (run.state, task.failure.code) == (FAILED, code), task
        assert len(task.failure.message) <= 4000
        after, double = await outcome(client, "double-command", input=21)
        assert (after.state, payload.decode(double.output)) == (SUCCEEDED, 2121)
    assert agent.child.poll() is None


@pytest.mark.parametrize("kind", ["deaf", "deaf-async", "hold-command"])
async def test_a_handler_that_hangs_is_stopped_at_its_deadline(
    kind: str, workshop: Installation, agent: Agent, tmp_path: Path
) -> None:
    """With the code TIMED_OUT, and another attempt where the policy allows it."""
    retry = Retry(max_attempts=2, initial_delay="10ms")
    async with workshop.client() as client:
        run, task = await outcome(client, kind, input=str(tmp_path), timeout="500ms", retry=retry)
        assert (run.state, task.attempt, task.failure.code) == (FAILED, 2, "TIMED_OUT")
        after, _ = await outcome(client, "double-command", input=1)
        assert after.state == SUCCEEDED
    assert agent.child.poll() is None


async def test_a_cancel_is_heard_at_once_by_every_kind_of_handler(
    workshop: Installation, agent: Agent, tmp_path: Path
) -> None:
    """Functions see it, commands are gone with all their children, tasks are cancelled."""
    agent.folder.joinpath("shell").unlink(missing_ok=True)
    with Workflow("to-cancel") as workflow:
        workflow.task("plain", kind="hold", input=str(tmp_path))
        workflow.task("coroutine", kind="hold-async", input=str(tmp_path))
        workflow.task("shell", kind="hold-command")
        workflow.task("after", kind="tenure.noop", after=["plain", "coroutine", "shell"])
    async with workshop.client() as client:
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("to-cancel")).run_id
        note = agent.folder / "shell"
        for path in (tmp_path / "plain.1.began", tmp_path / "coroutine.1.began", note):
            await until(path.exists, f"{path.name} begins")
        await until(lambda: note.read_text().strip(), "the command says its number")
        group = int(note.read_text())
        os.killpg(group, 0)
        assert await client.cancel_run(run_id, reason="enough") == runs_pb2.RUN_STATE_CANCELLING
        run = await client.wait_run(run_id)
        assert (run.state, run.reason) == (runs_pb2.RUN_STATE_CANCELLED, "enough")
        assert [task.state async for task in client.list_tasks(run_id)] == [CANCELLED] * 4
    assert (tmp_path / "plain.stopped").exists()
    assert (tmp_path / "coroutine.stopped").exists()
    await until(lambda: _is_gone(group), "the command's process group is gone", seconds=5)


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, signal.SIGCONT)
    except ProcessLookupError:
        return True
    return False


async def test_outputs_reach_those_that_depend_on_them(
    workshop: Installation, agent: Agent
) -> None:
    """Along every path of the graph."""
    with Workflow("sums") as workflow:
        one = workflow.task("one", kind="add-up", input=1)
        left = workflow.task("left", kind="add-up", input=10, after=[one])
        right = workflow.task("right", kind="add-up", input=100, after=[one])
        workflow.task("all", kind="add-up", input=1000, after=[left, right])
    async with workshop.client() as client:
        await client.register_workflow(workflow.definition())
        run = await client.wait_run((await client.start_run("sums")).run_id)
        task = await client.get_task(run.run_id, "all")
    assert (run.state, payload.decode(task.output)) == (SUCCEEDED, {"sum": 1112})


async def test_a_failed_attempt_is_tried_again_after_the_wait_of_its_policy(
    workshop: Installation, agent: Agent
) -> None:
    """Until it works; the waits grow; a code that is not retryable ends the task at once."""
    retry = Retry(
        max_attempts=4, initial_delay="100ms", multiplier=2, jitter=0, non_retryable_codes=["Fatal"]
    )
    async with workshop.client() as client:
        instructions = {"attempt": 3, "code": "NotYet"}
        run, task = await outcome(client, "fail-until", input=instructions, retry=retry)
        assert (run.state, task.attempt, payload.decode(task.output)) == (SUCCEEDED, 3, 3)
        events = [event async for event in client.list_run_events(run.run_id)]
        leased = [e.time for e in events if e.kind == runs_pb2.RUN_EVENT_KIND_TASK_LEASED]
        failed = [e.time for e in events if e.kind == runs_pb2.RUN_EVENT_KIND_TASK_RETRYING]
        waits = [
            (later.ToNanoseconds() - earlier.ToNanoseconds()) / 1e9
            for earlier, later in zip(failed, leased[1:], strict=True)
        ]
        assert waits[0] >= 0.1
        assert waits[1] >= 0.2
        instructions["code"] = "Fatal"
        run, task = await outcome(client, "fail-until", input=instructions, retry=retry)
        assert (run.state, task.attempt, task.failure.code) == (FAILED, 1, "Fatal")


async def test_a_failure_dooms_what_depends_on_it_and_nothing_else(
    workshop: Installation, agent: Agent
) -> None:
    """The others are done to their end before the run fails."""
    with Workflow("half") as workflow:
        workflow.task("bad", kind="tenure.fail", input={"code": "BROKEN", "message": "as told"})
        workflow.task("doomed", kind="tenure.noop", after=["bad"])
        workflow.task("doomed-too", kind="tenure.noop", after=["doomed", "good"])
        workflow.task("good", kind="tenure.trace", input={"seconds": 0.3})
        workflow.task("better", kind="tenure.noop", after=["good"])
    async with workshop.client() as client:
        await client.register_workflow(workflow.definition())
        run = await client.wait_run((await client.start_run("half")).run_id)
        assert (run.state, "BROKEN" in run.reason) == (FAILED, True)
        states = {task.key: task.state async for task in client.list_tasks(run.run_id)}
    doomed, done = runs_pb2.TASK_STATE_UPSTREAM_FAILED, runs_pb2.TASK_STATE_SUCCEEDED
    assert states == {
        "bad": runs_pb2.TASK_STATE_FAILED,
        "doomed": doomed,
        "doomed-too": doomed,
        "good": done,
        "better": done,
    }


async def test_a_checkpoint_reaches_the_next_attempt(workshop: Installation, agent: Agent) -> None:
    """Nothing that was kept is done again."""
    retry = Retry(max_attempts=2, initial_delay="10ms")
    async with workshop.client() as client:
        run, task = await outcome(client, "count", input=4, retry=retry)
        assert (run.state, payload.decode(task.output)) == (SUCCEEDED, [1, 1, 1, 2])
        kinds = [event.kind async for event in client.list_run_events(run.run_id)]
    assert runs_pb2.RUN_EVENT_KIND_TASK_CHECKPOINTED in kinds
