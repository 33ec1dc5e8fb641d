"""What is not kept for ever: payloads and runs go, and what was proved of them stays proved."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tests.conftest import LiveCoordinator, serving
from tests.server.rpc.test_evidence import all_entries, chain_of, ended_run, evidence, exported

from tenure.v1 import evidence_pb2, runs_pb2
from tenure_evidence import verify
from tenure_evidence.audit import LogEntry, audit
from tenure_server.engine.pruning import Pruning


@pytest.fixture
async def house(either_url: str, tmp_path: Path) -> AsyncIterator[LiveCoordinator]:
    """A coordinator on each of the databases."""
    async with serving(either_url, tmp_path) as live:
        yield live


async def prune(live: LiveCoordinator, *, payloads: bool = False, runs: bool = False) -> None:
    """Forgets what ended more than a microsecond ago."""
    engine = live.server.engine
    settings = dataclasses.replace(
        engine.settings, keep_payloads_us=int(payloads), keep_runs_us=int(runs)
    )
    await Pruning(live.server.store, settings).round(engine._floor)


async def assert_sound(live: LiveCoordinator) -> None:
    """The whole log of alpha passes an audit."""
    service = evidence(live, "viewer")
    note = await service.GetCheckpoint(evidence_pb2.GetCheckpointRequest())
    found = await all_entries(service, with_items=True)
    report = audit(
        [LogEntry(index=it.index, entry=it.entry, items=list(it.items)) for it in found],
        tenant="alpha",
        chain=await chain_of(live),
        checkpoints=[note.checkpoint],
    )
    assert report.faults == ()
    assert report.checkpoints == 1


async def test_payloads_go_and_the_run_can_still_be_proved(house: LiveCoordinator) -> None:
    """Of runs that have ended; those that are open keep theirs."""
    run_id = await ended_run(house)
    calls = house.calls("submitter").runs
    start = runs_pb2.StartRunRequest(workflow="fan")
    start.input.data = b'{"b":2}'
    opened = await calls.StartRun(start)
    before = await exported(house, "viewer", run_id)
    await prune(house, payloads=True)
    task = await calls.GetTask(runs_pb2.GetTaskRequest(run_id=run_id, task_key="t0"))
    assert not task.task.output.data
    ended = await calls.GetRun(runs_pb2.GetRunRequest(run_id=run_id))
    assert not ended.run.input.data
    kept = await calls.GetRun(runs_pb2.GetRunRequest(run_id=opened.run_id))
    assert kept.run.input.data
    for bundle in (before, await exported(house, "viewer", run_id)):
        assert verify.verify(bundle).findings == ()
    await assert_sound(house)
    [noted] = await all_entries(evidence(house, "viewer"), kind="retention.payloads")
    assert b'"count":"1"' in noted.entry
    await prune(house, payloads=True)
    assert len(await all_entries(evidence(house, "viewer"), kind="retention.payloads")) == 1


async def test_runs_go_and_the_log_and_its_proofs_stay(house: LiveCoordinator) -> None:
    """A bundle that was taken home before is as good as ever."""
    run_id = await ended_run(house)
    other = await ended_run(house, "beta")
    opened = await house.calls("submitter").runs.StartRun(runs_pb2.StartRunRequest(workflow="fan"))
    before = await exported(house, "viewer", run_id)
    await prune(house, runs=True)
    calls = house.calls("viewer").runs
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await calls.GetRun(runs_pb2.GetRunRequest(run_id=run_id))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await exported(house, "viewer", run_id)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    await calls.GetRun(runs_pb2.GetRunRequest(run_id=opened.run_id))
    with pytest.raises(grpc.aio.AioRpcError):
        await exported(house, "beta/viewer", other)
    root = (await chain_of(house)).keys[0].text
    assert verify.verify(before, root).findings == ()
    await assert_sound(house)


async def test_nothing_goes_unless_it_was_asked_for(house: LiveCoordinator) -> None:
    """The default keeps everything for ever."""
    run_id = await ended_run(house)
    await prune(house)
    task = await house.calls("viewer").runs.GetTask(
        runs_pb2.GetTaskRequest(run_id=run_id, task_key="t0")
    )
    assert task.task.output.data
