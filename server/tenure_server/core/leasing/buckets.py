"""Buckets of ready tasks, and which of several goes first."""

from __future__ import annotations

from collections import deque

from tenure_server.core.runs.gates import Gate, Hold, Lane
from tenure_server.core.runs.live import LiveRun, Order

#: How long a bucket waits for each step by which its priority rises, and by how much at most.
AGEING_US = 60_000_000
AGEING_MAX = 60

#: Standing of a bucket: lower is leased first.
Rank = tuple[int, bool, Order]


class Bucket:
    """Ready tasks of one run that share kind, priority and gate, in their order."""

    __slots__ = (
        "gate",
        "hold",
        "kind",
        "lane",
        "priority",
        "queue",
        "rank",
        "run",
        "since_us",
        "woken_from",
    )

    def __init__(self, run: LiveRun, kind: str, priority: int, gate: Gate | None) -> None:
        self.run = run
        self.kind = kind
        self.priority = priority
        #: None: it declares no limits of its own, as nearly all do.
        self.gate = gate
        self.lane: str | Lane = kind if gate is None else gate.lane(kind, run.last_agent)
        self.queue: deque[int] = deque()
        self.rank: Rank = (-priority, run.start_us is None, run.order)
        #: What it waits for, left out of its heap meanwhile.
        self.hold: Hold | None = None
        #: What it waited for last: a place there is kept for it until it is leased or waits anew.
        self.woken_from: Hold | None = None
        #: Since when it waits.
        self.since_us: int | None = None

    @property
    def weight(self) -> int:
        """How many slots a lease of it takes."""
        return 1 if self.gate is None else self.gate.weight

    def aged(self, now_us: int) -> int:
        """Its priority with what waiting adds to it."""
        if self.since_us is None:
            return self.priority
        return self.priority + min((now_us - self.since_us) // AGEING_US, AGEING_MAX)


def first_of(heads: list[Bucket], now_us: int) -> Bucket:
    """The first of some buckets: of those with one priority by rank, and of these by ageing."""
    firsts: dict[int, Bucket] = {}
    for head in heads:
        other = firsts.get(head.priority)
        if other is None or _before(head, other):
            firsts[head.priority] = head
    if len(firsts) == 1:
        return firsts[heads[0].priority]
    return min(firsts.values(), key=lambda one: (-one.aged(now_us), one.rank))


def _before(one: Bucket, other: Bucket) -> bool:
    """Whether a bucket goes first. Of one run with two kinds, the earlier task does."""
    if one.rank != other.rank:
        return one.rank < other.rank
    return one.queue[0] < other.queue[0]
