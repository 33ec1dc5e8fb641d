"""Runs that tasks wait for are started by whoever holds the desk, whatever happens in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.server.core.world import task
from tests.server.engine.conftest import PATIENCE_SECONDS, TENANT, House, soon

from tenure_server.core.definitions.features import SubWorkflow
from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.leasing.leases import Lease, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import EventKind, RunState
from tenure_server.engine.sessions import AgentSession
from tenure_server.store.reads import TenantReads


async def furnished(house: House, version: int = 0) -> str:
    """Starts a run whose only task is a run of another workflow."""
    await house.register(task("x"), name="child")
    wait = SubWorkflow(name="child", version=version)
    await house.register(task("call", kind="", wait=wait), name="parent")
    return await house.start("parent")


async def next_lease(session: AgentSession) -> Lease:
    """The next lease, which is accepted."""
    session.add_credits(1)
    [lease] = (await soon(session)).leases
    session.accept(lease.run.run_id, lease.task_key, lease.term, lease.token)
    return lease


def settle(session: AgentSession, lease: Lease, output: bytes) -> None:
    """Reports a success."""
    words = (lease.run.run_id, lease.task_key, lease.term, lease.token)
    session.settle(*words, Success(Payload(output)))


async def ended(house: House, run_id: str) -> records.Run:
    """A run when it has ended."""

    async def follow() -> None:
        async for _ in house.engine.watch("acme", run_id, 0, True):
            pass

    await asyncio.wait_for(follow(), PATIENCE_SECONDS)
    return await house.run(run_id)


async def test_a_child_is_started_in_the_name_of_who_started_its_parent(house: House) -> None:
    run_id = await furnished(house)
    session = house.session()
    lease = await next_lease(session)
    settle(session, lease, b"7")
    assert (await ended(house, run_id)).state is RunState.SUCCEEDED
    child, parent = await house.run(lease.run.run_id), await house.run(run_id)
    assert (child.parent_run_id, child.parent_task) == (run_id, "call")
    assert (child.started_by, child.correlation_id) == (parent.started_by, parent.correlation_id)
    task_row = await house.engine.read(TenantReads(house.store, "acme").task, run_id, 0)
    assert task_row is not None
    assert task_row.output == Payload(b'{"x":7}')


async def test_a_workflow_that_is_not_there_fails_the_task(house: House) -> None:
    run_id = await furnished(house, version=9)
    run = await ended(house, run_id)
    assert run.state is RunState.FAILED
    assert run.reason == "task call failed: RUN_REFUSED"


async def test_an_input_that_breaks_the_workflows_schema_fails_the_task(house: House) -> None:
    schema = Payload(b'{"type":"object","properties":{"n":{"type":"integer"}}}')
    await house.register(task("x"), name="child", input_schema=schema)
    call = task("call", kind="", wait=SubWorkflow(name="child"), bindings={"n": "run.id"})
    await house.register(call, name="parent")
    run_id = await house.start("parent")
    assert (await ended(house, run_id)).reason == "task call failed: RUN_REFUSED"
    row = await house.engine.read(TenantReads(house.store, "acme").task, run_id, 0)
    assert row is not None
    assert row.failure is not None
    assert row.failure.message == f'tasks.call.input: /n: "{run_id}" is not of type "integer"'


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_commit_that_fails_starts_one_child_only(house: House, when: str) -> None:
    run_id = await furnished(house)
    session = house.session()
    lease = await next_lease(session)
    house.store.tricky.breaks.append(when)
    settle(session, lease, b"1")
    await house.serving(wanted=False)
    await house.serving()
    session = house.session()
    if when == "before":
        # The result was lost with the memory, and the agent reports it again.
        words = (lease.run.run_id, lease.task_key, lease.term, lease.token)
        session.settle(*words, Success(Payload(b"1")))
    assert (await ended(house, run_id)).state is RunState.SUCCEEDED
    runs = await house.engine.read(TenantReads(house.store, "acme").runs, "child", [], None, 10)
    assert len(runs) == 1
    kinds = await house.kinds(run_id)
    assert kinds.count(EventKind.TASK_ACTIVATED) == 1


@pytest.mark.parametrize("what", ["run", "workflow", "tenant"])
async def test_no_child_is_started_while_its_parent_rests(house: House, what: str) -> None:
    await house.register(task("x"), name="child")
    call = task("call", "a", kind="", wait=SubWorkflow(name="child"))
    await house.register(task("a"), call, name="parent")
    run_id = await house.start("parent")
    session = house.session()
    lease = await next_lease(session)
    await change_rest(house, run_id, what, pause=True)
    settle(session, lease, b"1")
    session.add_credits(1)
    await house.engine._floor.flushed()
    assert EventKind.TASK_ACTIVATED in await house.kinds(run_id)
    assert list(house.engine._floor.desks[TENANT].runs) == [run_id]
    await house.close()
    await house.open()
    await house.engine._floor.flushed()
    assert list(house.engine._floor.desks[TENANT].runs) == [run_id]
    await change_rest(house, run_id, what, pause=False)
    session = house.session()
    lease = await next_lease(session)
    assert lease.run.parent_run_id == run_id
    settle(session, lease, b"1")
    assert (await ended(house, run_id)).state is RunState.SUCCEEDED


async def change_rest(house: House, run_id: str, what: str, *, pause: bool) -> None:
    """Pauses a run, the workflow `parent` or the tenant, or lets it go on."""
    engine, origin = house.engine, house.origin
    if what == "run":
        change = engine.operations.pause if pause else engine.operations.resume
        await change(origin, run_id, "", None)
        return
    name = "parent" if what == "workflow" else ""
    words: dict[str, Any] = {
        "act": origin.acting("workflow.pause"),
        "request": None,
        "remember_under": TENANT,
    }
    if pause:
        await engine.pausing.pause(TENANT, name, "", by="key-0", **words)
    else:
        await engine.pausing.resume(TENANT, name, "", **words)
