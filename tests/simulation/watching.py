"""Clients that follow runs, from one life of the coordinator to the next, without a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tests.chaos.history import Watched
from tests.chaos.stored import kind_name
from tests.simulation.people import Network

from tenure_server.core.errors import Refusal
from tenure_server.core.ledger import records

_LAST = {"run.succeeded", "run.failed", "run.cancelled"}
_PATIENCE_SECONDS = 200.0

Seen = list[tuple[int, str, str, int]]


async def watch(network: Network, tenant: str, run_id: str) -> None:
    """Follows a run to its end or until patience is out, and notes what it saw."""
    began, seen = network.now(), Seen()
    while network.now() - began < _PATIENCE_SECONDS and not (seen and seen[-1][1] in _LAST):
        engine = network.house.engine
        if engine is not None:
            after = seen[-1][0] if seen else 0
            await _follow(network, engine.watch(tenant, run_id, after, False), seen)
        await asyncio.sleep(network.chance.uniform(0.1, 2.0))
    network.history.add(
        Watched(
            actor=f"watcher-{tenant}",
            tenant=tenant,
            run_id=run_id,
            began=began,
            ended=network.now(),
            events=tuple(seen),
        )
    )


async def _follow(
    network: Network, events: AsyncIterator[Sequence[records.Event]], seen: Seen
) -> None:
    """Reads one stream until it ends, is cut, or the coordinator dies."""
    while not network.happens(0.1):
        # Not ours: it dies with the coordinator.
        coming: Any = events.__anext__()
        reading = network.house.loop.create_task(coming, name=network.name("watch"))
        try:
            await asyncio.wait([reading], timeout=60)
        finally:
            reading.cancel()
        if not reading.done() or reading.cancelled():
            return
        try:
            batch = reading.result()
        except (StopAsyncIteration, Refusal, RuntimeError):
            return
        await network.travel()
        for event in batch:
            last = seen[-1][0] if seen else 0
            if event.sequence > last:
                seen.append((event.sequence, kind_name(event.kind), event.task_key, event.term))
        network.stepped()
