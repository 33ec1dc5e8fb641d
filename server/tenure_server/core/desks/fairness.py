"""Who gets the next lease where tenants compete for the same agents.

At each grant the tenant goes first that holds least for its weight (max-min fairness over live
leases, as in weighted fair queueing); among equals, the one served less often. So a newcomer beside
a flood gets freed slots at once until it holds its share, and a share that nobody uses is given to
whoever has work.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from tenure_server.core.desks.desk import Desk
from tenure_server.core.leasing.buckets import Bucket
from tenure_server.core.leasing.leases import AgentSlots, Lease


def grant(desks: Sequence[Desk], agent: AgentSlots, now_us: int, *, at_most: int) -> list[Lease]:
    """Grants an agent leases out of these desks, at most as many as it has room for."""
    room = min(agent.free, at_most)
    if room <= 0 or not desks:
        return []
    agent.kept = agent.passed_over = False
    for desk in desks:
        desk.grants.admit(now_us)
    if len(desks) == 1:
        return _grant_alone(desks[0], agent, now_us, room)
    floor = min(desk.served for desk in desks)
    heap = []
    for number, desk in enumerate(desks):
        # Who was away for long does not come back with a long row of first turns.
        desk.served = min(desk.served, floor + room)
        heap.append((_held(desk), desk.served, number))
    heapq.heapify(heap)
    leases: list[Lease] = []
    while heap and len(leases) < room and agent.free > 0:
        _, _, number = heap[0]
        desk = desks[number]
        bucket = _next(desk, agent, now_us) if desk.has_room else None
        if bucket is None:
            if agent.kept:
                # It is this tenant's turn, and its task needs more slots than are free yet.
                break
            heapq.heappop(heap)
            continue
        lease = desk.grants.grant(bucket, agent, now_us)
        if lease is not None:
            leases.append(lease)
            desk.served += 1
        heapq.heapreplace(heap, (_held(desk), desk.served, number))
    return leases


def _held(desk: Desk) -> float:
    return (desk.leases.slots + 1) / desk.tenant.weight


def _next(desk: Desk, agent: AgentSlots, now_us: int) -> Bucket | None:
    """Where the next lease comes from."""
    while (bucket := desk.grants.next_for(agent, now_us)) is None and desk.grants.has_arrivals:
        # What could not be leased and has ended may have let others begin.
        desk.grants.admit(now_us)
    return bucket


def _grant_alone(desk: Desk, agent: AgentSlots, now_us: int, room: int) -> list[Lease]:
    leases: list[Lease] = []
    while len(leases) < room and agent.free > 0 and desk.has_room:
        bucket = _next(desk, agent, now_us)
        if bucket is None:
            break
        lease = desk.grants.grant(bucket, agent, now_us)
        if lease is not None:
            leases.append(lease)
            desk.served += 1
    return leases
