"""The five laws, each broken on purpose."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from tests.conftest import LiveCoordinator, serving, serving_again
from tests.server.core.world import World, flow, task
from tests.server.rpc.conftest import Refusal, read_refusal
from tests.server.store import world
from tests.server.store.world import NOW, TENANT

from tenure.v1 import agents_pb2, constitution_pb2, runs_pb2, verdict_pb2, workflows_pb2
from tenure_constitution.laws import Law
from tenure_server.core import errors, laws
from tenure_server.core.definitions.definition import WorkflowDefinition, WorkflowTask
from tenure_server.core.evidence import Act, Draft
from tenure_server.store.database import Store, open_store
from tenure_server.store.errors import StoreConflict

K = [{"key": "a", "kind": "k"}]


def test_each_law_says_where_it_is_enforced() -> None:
    """Every name is one of this code, so that the report cannot speak of what is not there."""
    assert laws.LAWS.keys() == set(Law)
    for enforcements in laws.LAWS.values():
        for one in enforcements:
            _find(one.where)
    for law in Law:
        assert laws.standing(law).endswith(".")


def _find(where: str) -> Any:
    parts = where.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"nothing is called {where}")


# -- precedence


def test_a_definition_with_a_cycle_is_refused() -> None:
    tasks = (
        WorkflowTask(key="a", kind="k", depends_on=("c",)),
        WorkflowTask(key="b", kind="k", depends_on=("a",)),
        WorkflowTask(key="c", kind="k", depends_on=("b",)),
    )
    with pytest.raises(errors.GraphInvalid, match="cycle"):
        WorkflowDefinition(name="w", tasks=tasks).check()


def test_a_run_is_not_moved_against_the_order_of_what_it_has_done() -> None:
    here = World()
    run = here.start(task("a"), task("b", "a"))
    here.settle(here.hold_one())
    here.desk.interventions.pause(run, "", here.now_us)
    with pytest.raises(errors.VersionsDiffer, match="it depends on first: not ended yet"):
        here.move(run, flow(task("first"), task("a", "first"), task("b", "a")))


# -- verifiability and provenance


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a tenant and a workflow."""
    opened = open_store(f"sqlite:///{tmp_path}/t.db", holder="me", address="here:1")
    world.settle(opened)
    yield opened
    opened.close()


def test_an_event_that_follows_from_no_act_is_not_written(store: Store) -> None:
    store.writer().commit(world.changes(runs=[world.run_row(world.new_id(1))]))
    event = world.event_row(world.new_id(1), 1)
    with pytest.raises(LookupError, match="follows from no act"):
        store.writer().commit(world.changes(events=[event], said=[{}]))


def test_an_orphan_run_is_refused(store: Store) -> None:
    """Without its definition, and without a tenant whose seat is held."""
    orphan = world.run_row(world.new_id(1), workflow="never-registered")
    with pytest.raises(StoreConflict):
        store.writer().commit(world.changes(runs=[orphan]))
    with pytest.raises(LookupError):
        store.writer().commit(world.changes(runs=[world.run_row(world.new_id(1), "nobody")]))


# -- integrity


def test_an_event_cannot_be_written_twice(store: Store) -> None:
    run_id = world.new_id(1)
    store.writer().commit(world.changes(runs=[world.run_row(run_id)]))
    event = world.event_row(run_id, 1)
    store.writer().commit(world.changes(events=[event]))
    with pytest.raises(StoreConflict):
        store.writer().commit(world.changes(events=[event]))


def test_a_log_goes_on_only_where_it_ended(store: Store, tmp_path: Path) -> None:
    """Neither over a gap nor from an end that somebody has moved."""

    def write() -> None:
        act = Act(kind="x.y", principal="k-1")
        store.writer().act({TENANT: 1}, lambda _: None, [Draft(act, TENANT, NOW)])

    write()
    write()
    _change(tmp_path / "t.db", "UPDATE evidence_heads SET size = 1 WHERE tenant_id = ?", TENANT)
    with pytest.raises(StoreConflict):
        write()


async def test_a_gap_at_the_end_of_a_log_shows_in_the_report(tmp_path: Path) -> None:
    """The laws that it breaks are not kept, and their standing says what is wrong."""
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        assert {one.kept for one in await _laws(live)} == {True}
        newest = "(SELECT MAX(entry_index) FROM evidence_entries WHERE tenant_id = ?1)"
        _change(
            tmp_path / "tenure.db",
            f"DELETE FROM evidence_entries WHERE tenant_id = ?1 AND entry_index = {newest}",
            "alpha",
        )
        broken = [one for one in await _laws(live) if not one.kept]
        assert [one.law for one in broken] == [
            verdict_pb2.LAW_VERIFIABILITY,
            verdict_pb2.LAW_INTEGRITY,
        ]
        assert "is missing: the log is said to have" in broken[0].standing


async def _laws(live: LiveCoordinator) -> Any:
    report = await live.calls("viewer").constitution.GetComplianceReport(
        constitution_pb2.GetComplianceReportRequest()
    )
    return report.laws


async def test_a_result_without_the_right_token_or_content_does_not_count(
    coordinator: LiveCoordinator,
) -> None:
    """Another token is unknown; another result after the first is superseded."""
    await _register(coordinator)
    await coordinator.calls("submitter").runs.StartRun(runs_pb2.StartRunRequest(workflow="w"))
    agents = coordinator.calls("agent").agents
    found = await agents.LeaseTasks(agents_pb2.LeaseTasksRequest(agent="host", kinds=["k"]))
    [lease] = found.batch.leases

    async def settle(token: bytes, **end: Any) -> int:
        ref = agents_pb2.LeaseRef(run_id=lease.run_id, task_key="a", term=lease.term, token=token)
        settled = await agents.SettleTasks(
            agents_pb2.SettleTasksRequest(results=[agents_pb2.Result(lease=ref, **end)])
        )
        return int(settled.outcomes[0].verdict)

    success, failure = agents_pb2.Success(), runs_pb2.Failure(code="E")
    assert await settle(bytes(16), success=success) == agents_pb2.VERDICT_UNKNOWN
    assert await settle(lease.token, success=success) == agents_pb2.VERDICT_APPLIED
    assert await settle(lease.token, success=success) == agents_pb2.VERDICT_ALREADY_APPLIED
    assert await settle(lease.token, failure=failure) != agents_pb2.VERDICT_APPLIED


# -- reproducibility


async def test_a_changed_definition_stops_the_act_and_not_the_service(tmp_path: Path) -> None:
    """Whoever needs the definition is refused; everything else goes on."""
    url = f"sqlite:///{tmp_path}/tenure.db"
    async with serving(url, tmp_path) as live:
        await _register(live)
        await _register(live, name="sound")
        secrets = dict(live.secrets)
    changed = "CAST(replace(canonical, 'Works', 'Break') AS BLOB)"
    sql = f"UPDATE workflow_definitions SET canonical = {changed} WHERE name = ?"
    _change(tmp_path / "tenure.db", sql, "w")
    async with serving_again(url, secrets) as live:
        calls = live.calls("submitter")
        for call in (
            calls.workflows.GetWorkflow(workflows_pb2.GetWorkflowRequest(name="w")),
            calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="w")),
        ):
            refusal = await _refused(call)
            assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
            assert refusal.reason == "DEFINITION_CHANGED"
            assert "does not have its digest" in refusal.message
            assert refusal.facts["decision"].startswith("alpha/")
        started = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="sound"))
        assert started.run_id


async def test_a_changed_constitution_stops_its_tenant_and_no_other(tmp_path: Path) -> None:
    """Nobody can say under which articles it would go on."""
    url = f"sqlite:///{tmp_path}/tenure.db"
    async with serving(url, tmp_path) as live:
        for tenant in ("alpha", "beta"):
            await live.calls(f"{tenant}/admin").constitution.SetConstitution(
                constitution_pb2.SetConstitutionRequest(text="articles: []")
            )
        secrets = dict(live.secrets)
    changed = "UPDATE constitutions SET canonical = CAST(replace(canonical, '[]', '[ ]') AS BLOB)"
    _change(tmp_path / "tenure.db", f"{changed} WHERE tenant_id = ?", "alpha")
    async with serving_again(url, secrets) as live:
        request = runs_pb2.ListRunsRequest()
        refusal = await _refused(live.calls("viewer").runs.ListRuns(request))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "QUARANTINED",
        )
        await live.calls("beta/viewer").runs.ListRuns(request)


def _change(file: Path, sql: str, *values: str) -> None:
    """Does what nobody may do."""
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute(sql, values).rowcount == 1


async def _register(live: LiveCoordinator, name: str = "w") -> None:
    content = {"name": name, "description": "Works.", "tasks": K}
    definition = ParseDict(content, workflows_pb2.WorkflowDefinition())
    await live.calls("submitter").workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )


async def _refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return read_refusal(raised.value)
