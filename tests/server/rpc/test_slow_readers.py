"""Those who read slowly, all the same, or nothing: what they cost, and what is told of them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.conftest import LiveCoordinator, serving
from tests.server.rpc.test_evidence import (
    PATIENCE_SECONDS,
    all_entries,
    ended_run,
    evidence,
    exported,
)

from tenure.v1 import agents_pb2, evidence_pb2, runs_pb2
from tenure_client.errors import from_rpc
from tenure_server.core import ids
from tenure_server.core.ledger import records
from tenure_server.engine import bundles
from tenure_server.engine.logbook import Logbook
from tenure_server.engine.sessions import AgentSession
from tenure_server.rpc.agents import _Stream
from tenure_server.rpc.evidence import EXPORTS_MAX
from tenure_server.rpc.runs import Runs
from tenure_server.store.evidence_reads import EvidenceReads

WATCHERS = 50
#: How far beyond the end of a log they wait for an entry.
LATER = 5
#: What an agent says that reads nothing: far more than may be due to it.
FRAMES, RENEWALS = 30, 5_000


async def test_watchers_of_one_log_share_what_is_read_of_it(
    coordinator: LiveCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them once read every entry by itself, and other tenants' reads stood behind them."""
    service = evidence(coordinator, "viewer")
    size = len(await all_entries(service))
    # All of them still look for it when the log grows: that they watch is written down later.
    asked = evidence_pb2.WatchEntriesRequest(from_index=size + LATER)
    watches = [service.WatchEntries(asked) for _ in range(WATCHERS)]
    for watch in watches:
        await watch.initial_metadata()
    read, looks = EvidenceReads.entries, Counter[int]()

    def counted(reads: EvidenceReads, index: int, *rest: Any, **more: Any) -> Any:
        looks[index] += 1
        return read(reads, index, *rest, **more)

    monkeypatch.setattr(EvidenceReads, "entries", counted)
    await coordinator.calls("submitter").runs.ListRuns(runs_pb2.ListRunsRequest())
    await ended_run(coordinator)
    for watch in watches:
        page = await watch.read()
        assert page.entries[0].index >= size + LATER
        watch.cancel()
    assert max(looks.values()) < WATCHERS / 2


async def test_while_exports_are_made_others_read(
    coordinator: LiveCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant's exports, as many as it may have, once were made where everybody's reads are."""
    run_id, theirs = await ended_run(coordinator), await ended_run(coordinator, "beta")
    loop, go_on = asyncio.get_running_loop(), threading.Event()
    all_asked, two_at_once = asyncio.Event(), asyncio.Event()
    asked, at_work = 0, threading.Semaphore(1)
    checkpoint, of_run = Logbook.checkpoint, bundles.of_run

    async def noted(logbook: Logbook, tenant_id: str) -> records.Checkpoint:
        nonlocal asked
        found = await checkpoint(logbook, tenant_id)
        asked += 1
        assert asked <= EXPORTS_MAX
        if asked == EXPORTS_MAX:
            # Before anybody hears of it the bundle is asked for.
            all_asked.set()
        return found

    def held(*asked: Any) -> bytes:
        if not at_work.acquire(blocking=False):
            loop.call_soon_threadsafe(two_at_once.set)
        assert go_on.wait(PATIENCE_SECONDS)
        at_work.release()
        return of_run(*asked)

    monkeypatch.setattr(Logbook, "checkpoint", noted)
    monkeypatch.setattr(bundles, "of_run", held)

    async def export() -> bytes:
        return await exported(coordinator, "viewer", run_id)

    exports = [asyncio.create_task(export()) for _ in range(EXPORTS_MAX)]
    filled, full = (asyncio.create_task(event.wait()) for event in (two_at_once, all_asked))
    try:
        await asyncio.wait([filled, full], return_when=asyncio.FIRST_COMPLETED)
        wish = runs_pb2.GetRunRequest(run_id=theirs)
        read = asyncio.ensure_future(coordinator.calls("beta/viewer").runs.GetRun(wish))
        await asyncio.wait([filled, read], return_when=asyncio.FIRST_COMPLETED)
        assert not two_at_once.is_set(), "they are made by those who read for everybody"
        assert (await read).run.run_id == theirs
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await export()
        assert from_rpc(refused.value).reason == "OVERLOADED"
        assert not any(one.done() for one in exports)
    finally:
        go_on.set()
    assert all(await asyncio.gather(*exports))


async def test_an_agent_that_reads_nothing_is_heard_no_further(
    coordinator: LiveCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is due to it was once kept, however much that was."""
    room, hear = getattr(AgentSession, "room", None), _Stream._hear
    held, heard, frames = asyncio.Event(), asyncio.Event(), 0

    async def noted(session: AgentSession) -> None:
        assert room is not None
        if len(session._due.standings) + len(session.pending.standings) > 2 * RENEWALS:
            held.set()
        await room(session)

    def counted(stream: _Stream, frame: agents_pb2.WorkRequest) -> None:
        nonlocal frames
        hear(stream, frame)
        frames += 1
        if frames == FRAMES:
            heard.set()

    monkeypatch.setattr(_Stream, "_hear", counted)
    if room is not None:  # there was none once
        monkeypatch.setattr(AgentSession, "room", noted)
    lost = agents_pb2.LeaseRef(
        run_id=ids.new_id("alpha", 1, b"random"), task_key="a", term=1, token=b"t"
    )
    frame = agents_pb2.WorkRequest(renewals=[agents_pb2.Renewal(lease=lost)] * RENEWALS)
    call = coordinator.calls("agent").agents.Work()
    hello = agents_pb2.Hello(agent="mute", instance="instance-1", kinds=["k"], slots=1)
    await call.write(agents_pb2.WorkRequest(hello=hello))
    await call.read()

    async def say() -> None:
        for _ in range(FRAMES):
            await call.write(frame)

    saying = asyncio.create_task(say())
    waiting = [asyncio.create_task(event.wait()) for event in (held, heard)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert not heard.is_set(), "it was heard to the end, and somebody keeps what is due to it"
    call.cancel()
    await asyncio.wait([saying])


async def test_a_line_that_breaks_in_mid_answer_is_a_caller_who_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a fault of ours: nothing is written down as refused for reasons of our own."""

    left = asyncio.Event()

    async def broken(*_: object) -> AsyncIterator[runs_pb2.WatchRunResponse]:
        yield runs_pb2.WatchRunResponse(events=[runs_pb2.RunEvent(sequence=1)])
        left.set()
        raise grpc.aio.InternalError("what gRPC says when it cannot send any more")

    monkeypatch.setattr(Runs, "WatchRun", broken)
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        run_id = await ended_run(live)
        watch = live.calls("viewer").runs.WatchRun(runs_pb2.WatchRunRequest(run_id=run_id))
        assert (await watch.read()).events
        await left.wait()
        watch.cancel()
        # What is written down after it is in the log before we look.
        await ended_run(live)
        assert not await all_entries(evidence(live, "admin"), refused_only=True)
