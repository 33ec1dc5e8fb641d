"""The ready tasks of one tenant, in the order in which they are to be leased.

Priority first, then runs that have started before those that have not, then age. Waiting raises the
priority: by 1 a minute, by 60 at most. Tasks of one run, kind, priority and gate share a bucket, so
a ready task costs one number, and the heaps hold buckets, not tasks. Only the first of each
priority is looked at, so what waiting is worth is worked out for a handful of buckets.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from tenure_server.core.leasing.buckets import Bucket, Rank, first_of
from tenure_server.core.ledger.lifecycle import TaskState
from tenure_server.core.runs.gates import Gate, Hold, Lane
from tenure_server.core.runs.live import LiveRun

_READY = int(TaskState.READY)
#: A bucket in a heap, under the rank it had when it was pushed; the number breaks ties by age.
Entry = tuple[Rank, int, Bucket]
#: What a bucket is held to: how many leases, or how many begun in how long a span.
Held = int | tuple[int, int]
#: Waiting buckets of which one is woken at a time: the limit they are held to, in which versions
#: may differ, their lane, since no agent may be there for the best one's, and their priority,
#: since waiting may have raised that of others above the best one's.
Group = tuple[Held, str | Lane, int]


class ReadyQueue:
    """Buckets by lane and priority, best first."""

    __slots__ = (
        "_dropped",
        "_fresh",
        "_lanes",
        "_parked",
        "_pushes",
        "_runs",
        "_special",
        "arrivals",
        "size",
    )

    def __init__(self) -> None:
        #: How many entries there are, stale ones included.
        self.size = 0
        #: Tasks with limits of their own that have become ready and are not in a bucket yet; with
        #: whether each was ready before.
        self.arrivals: list[tuple[LiveRun, int, bool]] = []
        #: A bucket whose rank or lane changed is pushed again; the older entry is known by those.
        self._lanes: dict[str | Lane, dict[int, list[Entry]]] = {}
        #: The lanes that are more than a kind, by kind.
        self._special: dict[str, dict[Lane, None]] = {}
        self._runs: dict[str, dict[tuple[str, int, Gate | None], Bucket]] = {}
        self._parked: dict[Hold, dict[Group, list[Entry]]] = {}
        self._fresh: list[Bucket] = []
        self._pushes = 0
        self._dropped = 0

    @property
    def has_special(self) -> bool:
        """Whether there are tasks that not every agent of their kind may take."""
        return bool(self._special)

    def has_lane(self, lane: str | Lane) -> bool:
        """Whether tasks of a lane are there to be leased."""
        return lane in self._lanes

    def add(self, run: LiveRun, index: int, *, first: bool = False) -> None:
        """Adds a ready task: at the end of its bucket, or at its head when it was ready before."""
        if run.held:
            return
        self.size += 1
        if run.graph.limited and run.tasks[index].is_limited:
            self.arrivals.append((run, index, first))
        else:
            self._put(run, index, None, first=first)

    def take_arrivals(self) -> Iterable[tuple[LiveRun, int, bool]]:
        """Takes out the tasks that have come and are still ready."""
        taken, self.arrivals = self.arrivals, []
        self.size -= len(taken)
        return [one for one in taken if one[0].states[one[1]] == _READY and not one[0].held]

    def put(self, run: LiveRun, index: int, gate: Gate, *, first: bool) -> None:
        """Adds a task that has arrived."""
        self.size += 1
        self._put(run, index, gate, first=first)

    def _put(self, run: LiveRun, index: int, gate: Gate | None, *, first: bool) -> None:
        task = run.tasks[index]
        key = task.kind, run.priority + task.priority, gate
        buckets = self._runs.get(run.run_id)
        if buckets is None:
            buckets = self._runs[run.run_id] = {}
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = Bucket(run, key[0], key[1], gate)
            self._push(bucket)
            self._fresh.append(bucket)
        if first:
            bucket.queue.appendleft(index)
        else:
            bucket.queue.append(index)

    def date(self, now_us: int) -> None:
        """Notes since when the buckets wait that were added since it was last called."""
        for bucket in self._fresh:
            bucket.since_us = now_us
        self._fresh.clear()

    def best(
        self,
        kinds: frozenset[str],
        now_us: int = 0,
        suits: Callable[[Lane], bool] | None = None,
    ) -> Bucket | None:
        """The bucket to lease from next for an agent with these kinds. Its first task is ready.

        `suits` says of a lane that is more than a kind whether the agent may take from it now.
        """
        heads, pushes = self._all_heads(kinds, suits)
        while pushes != self._pushes:
            # One that turned out to have nothing woke another, which may go before those found.
            heads, pushes = self._all_heads(kinds, suits)
        if len(heads) < 2:
            return heads[0] if heads else None
        return first_of(heads, now_us)

    def _all_heads(
        self, kinds: frozenset[str], suits: Callable[[Lane], bool] | None
    ) -> tuple[list[Bucket], int]:
        """The first bucket of each lane and priority, and how many pushes there were before."""
        heads: list[Bucket] = []
        lanes, pushes = self._lanes, self._pushes
        for kind in tuple(kinds) if len(kinds) < len(lanes) else lanes.keys() & kinds:
            if kind in lanes:
                self._heads(kind, heads)
        if self._special and suits is not None:
            for kind in self._special.keys() & kinds:
                for lane in tuple(self._special[kind]):
                    if suits(lane):
                        self._heads(lane, heads)
        return heads, pushes

    def take(self, bucket: Bucket) -> int:
        """Takes the first task of a bucket that `best` gave."""
        self.size -= 1
        bucket.woken_from = None
        return bucket.queue.popleft()

    def first_in(self, bucket: Bucket) -> int | None:
        """The first ready task of a bucket, or None."""
        states = bucket.run.states
        return next((index for index in bucket.queue if states[index] == _READY), None)

    def bucket_of(self, run: LiveRun, index: int) -> Bucket | None:
        """The bucket that a ready task is in; None when it is in none."""
        task = run.tasks[index]
        priority = run.priority + task.priority
        for (kind, of, _), bucket in self._runs.get(run.run_id, {}).items():
            if (kind, of) == (task.kind, priority) and index in bucket.queue:
                return bucket
        return None

    # -- waiting for a limit

    def park(self, bucket: Bucket, hold: Hold) -> None:
        """Leaves a bucket that `best` gave out until `unpark`: a limit is full."""
        heapq.heappop(self._lanes[bucket.lane][bucket.priority])
        bucket.hold = hold
        self._push(bucket)
        woken_from, bucket.woken_from = bucket.woken_from, None
        if woken_from is not None and woken_from != hold:
            # The place that it was woken for is another's now.
            self.unpark(woken_from)

    def unpark(self, hold: Hold) -> None:
        """Brings back the best bucket of each group that waits: there may be room."""
        parked = self._parked.get(hold)
        if parked is None:
            return
        for group, heap in list(parked.items()):
            while heap:
                rank, _, bucket = heapq.heappop(heap)
                if rank != bucket.rank or bucket.hold != hold or bucket.lane != group[1]:
                    continue
                bucket.hold = None
                if bucket.queue:
                    bucket.woken_from = hold
                    self._push(bucket)
                    break
                self._forget(bucket)
            if not heap:
                del parked[group]
        if not parked:
            self._parked.pop(hold, None)

    def unpark_all(self, hold: Hold) -> None:
        """Brings back all that wait."""
        while hold in self._parked:
            self.unpark(hold)

    def is_awaited(self, hold: Hold) -> bool:
        """Whether a ready task waits."""
        return next(self.waiting(hold), None) is not None

    def waiting(self, hold: Hold) -> Iterator[Bucket]:
        """The first bucket of each group that waits with a ready task."""
        for group, heap in self._parked.get(hold, {}).items():
            while heap:
                rank, _, bucket = heap[0]
                if rank != bucket.rank or bucket.hold != hold or bucket.lane != group[1]:
                    # It was woken or ranked anew since.
                    heapq.heappop(heap)
                elif self.first_in(bucket) is None:
                    heapq.heappop(heap)
                    self.size -= len(bucket.queue)
                    bucket.queue.clear()
                    self._forget(bucket)
                else:
                    yield bucket
                    break

    def heavier_waits(self, bucket: Bucket) -> bool:
        """Whether one that weighs more waits for the same workflow and goes first."""
        limit = bucket.run.definition.max_leases
        for group, heap in self._parked.get(bucket.run.workflow, {}).items():
            if group[0] != limit or not isinstance(group[1], Lane) or not heap:
                continue
            rank, _, other = heap[0]
            if other.hold is None or rank != other.rank or other.lane != group[1]:
                continue
            if other.weight > bucket.weight and rank < bucket.rank:
                return self.first_in(other) is not None
        return False

    # -- runs

    def run_started(self, run: LiveRun) -> None:
        """Ranks a run that was leased from for the first time before those not started."""
        for bucket in self._runs.get(run.run_id, {}).values():
            bucket.rank = (-bucket.priority, False, run.order)
            self._push(bucket)

    def run_moved(self, run: LiveRun) -> None:
        """Another agent has executed a task of the run: tasks that would follow it do."""
        for bucket in self._runs.get(run.run_id, {}).values():
            if bucket.gate is not None and bucket.gate.sticky:
                lane = bucket.gate.lane(bucket.kind, run.last_agent)
                if lane != bucket.lane:
                    bucket.lane = lane
                    self._push(bucket)

    def drop(self, run: LiveRun) -> None:
        """Forgets a run that has ended."""
        if self.arrivals and run.graph.limited:
            kept = [one for one in self.arrivals if one[0] is not run]
            self.size -= len(self.arrivals) - len(kept)
            self.arrivals = kept
        for bucket in self._runs.pop(run.run_id, {}).values():
            self.size -= len(bucket.queue)
            bucket.queue.clear()
            self._dropped += 1
            self._make_way(bucket)
        # Others of its workflow may have been waiting behind it.
        self.unpark(run.workflow)
        # Entries of buckets that no agent asks for would hold their runs in memory for ever.
        if self._dropped > 64 + sum(map(len, self._heaps())) // 2:
            self._compact()

    def _make_way(self, bucket: Bucket) -> None:
        """Lets others have the place that was kept for a bucket which will not take it."""
        woken_from, bucket.woken_from = bucket.woken_from, None
        if woken_from is not None and woken_from != bucket.run.workflow:
            self.unpark(woken_from)

    def _heaps(self) -> Iterable[list[Entry]]:
        return (heap for levels in self._lanes.values() for heap in levels.values())

    def _compact(self) -> None:
        self._dropped = 0
        self._fresh = [bucket for bucket in self._fresh if bucket.queue]
        for lane, levels in list(self._lanes.items()):
            for priority, heap in list(levels.items()):
                heap[:] = [entry for entry in heap if entry[2].queue]
                heapq.heapify(heap)
                if not heap:
                    self._clear(lane, priority)
        for run_id, buckets in list(self._runs.items()):
            kept = {key: one for key, one in buckets.items() if one.queue or one.hold is not None}
            if kept:
                self._runs[run_id] = kept
            else:
                del self._runs[run_id]

    def _push(self, bucket: Bucket) -> None:
        self._pushes += 1
        if bucket.hold is not None:
            groups = self._parked.setdefault(bucket.hold, {})
            limit: Held = bucket.run.definition.max_leases if isinstance(bucket.hold, str) else 0
            if bucket.gate is not None and bucket.hold == bucket.gate.key_hold:
                limit = bucket.gate.limit
            elif bucket.gate is not None and bucket.hold == bucket.gate.rate_hold:
                limit = bucket.gate.count, bucket.gate.per_us
            heap = groups.setdefault((limit, bucket.lane, bucket.priority), [])
        else:
            lane = bucket.lane
            levels = self._lanes.get(lane)
            if levels is None:
                levels = self._lanes[lane] = {}
                if isinstance(lane, Lane):
                    self._special.setdefault(lane.kind, {})[lane] = None
            heap = levels.setdefault(bucket.priority, [])
        heapq.heappush(heap, (bucket.rank, self._pushes, bucket))

    def _heads(self, lane: str | Lane, heads: list[Bucket]) -> None:
        """Adds the first bucket of each priority."""
        for priority, heap in tuple(self._lanes[lane].items()):
            head = self._head(lane, priority, heap)
            if head is not None:
                heads.append(head)

    def _head(self, lane: str | Lane, priority: int, heap: list[Entry]) -> Bucket | None:
        while heap:
            rank, _, bucket = heap[0]
            if rank != bucket.rank or bucket.hold is not None or bucket.lane != lane:
                heapq.heappop(heap)
                continue
            queue = bucket.queue
            states = bucket.run.states
            while queue and states[queue[0]] != _READY:
                queue.popleft()
                self.size -= 1
            if queue:
                return bucket
            heapq.heappop(heap)
            self._forget(bucket)
            self._make_way(bucket)
            self.unpark(bucket.run.workflow)
        self._clear(lane, priority)
        return None

    def _clear(self, lane: str | Lane, priority: int) -> None:
        levels = self._lanes[lane]
        del levels[priority]
        if levels:
            return
        del self._lanes[lane]
        if isinstance(lane, Lane):
            lanes = self._special[lane.kind]
            del lanes[lane]
            if not lanes:
                del self._special[lane.kind]

    def _forget(self, bucket: Bucket) -> None:
        buckets = self._runs.get(bucket.run.run_id)
        key = bucket.kind, bucket.priority, bucket.gate
        if buckets and buckets.get(key) is bucket:
            del buckets[key]
            if not buckets:
                del self._runs[bucket.run.run_id]
