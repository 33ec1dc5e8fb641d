"""The ready tasks of one tenant, in the order in which they are to be leased.

Priority first, then runs that have started before those that have not, then age. Tasks of one run,
kind and priority share a bucket, so a ready task costs one number, and the heaps hold buckets, not
tasks.
"""

from __future__ import annotations

import heapq
from collections import deque

from tenure_server.core.lifecycle import TaskState
from tenure_server.core.runs import LiveRun

_READY = int(TaskState.READY)

#: Standing of a bucket: lower is leased first.
Rank = tuple[int, bool, int]


class Bucket:
    """Ready tasks of one run that share kind and priority, in their order."""

    __slots__ = ("kind", "parked", "priority", "queue", "rank", "run")

    def __init__(self, run: LiveRun, kind: str, priority: int) -> None:
        self.run = run
        self.kind = kind
        self.priority = priority
        self.queue: deque[int] = deque()
        self.rank: Rank = (-priority, run.start_us is None, run.order)
        #: Left out of its heap, because its workflow has no free lease.
        self.parked = False


#: A bucket in a heap, under the rank it had when it was pushed; the number breaks ties by age.
Entry = tuple[Rank, int, Bucket]


class ReadyQueue:
    """Buckets by kind, best first."""

    __slots__ = ("_dropped", "_heaps", "_parked", "_pushes", "_runs", "size")

    def __init__(self) -> None:
        #: How many entries there are, stale ones included.
        self.size = 0
        #: A bucket whose rank improved is pushed again; its older entry is known by its older rank.
        self._heaps: dict[str, list[Entry]] = {}
        self._runs: dict[str, dict[tuple[str, int], Bucket]] = {}
        #: By workflow; then by the limit that was full, in which its versions may differ, and by
        #: kind, since no agent may be there for the kind of the best one.
        self._parked: dict[str, dict[tuple[int, str], list[Entry]]] = {}
        self._pushes = 0
        self._dropped = 0

    def add(self, run: LiveRun, index: int, *, first: bool = False) -> None:
        """Adds a ready task: at the end of its bucket, or at its head when it was ready before."""
        task = run.definition.tasks[index]
        priority = run.priority + task.priority
        buckets = self._runs.get(run.run_id)
        if buckets is None:
            buckets = self._runs[run.run_id] = {}
        bucket = buckets.get((task.kind, priority))
        if bucket is None:
            bucket = buckets[task.kind, priority] = Bucket(run, task.kind, priority)
            self._push(bucket)
        if first:
            bucket.queue.appendleft(index)
        else:
            bucket.queue.append(index)
        self.size += 1

    def best(self, kinds: frozenset[str]) -> Bucket | None:
        """The bucket to lease from next for an agent with these kinds. Its first task is ready."""
        best: Bucket | None = None
        heaps = self._heaps
        for kind in tuple(kinds) if len(kinds) < len(heaps) else heaps.keys() & kinds:
            heap = heaps.get(kind)
            if heap is None:
                continue
            head = self._head(kind, heap)
            if head is not None and (best is None or _before(head, best)):
                best = head
        return best

    def take(self, bucket: Bucket) -> int:
        """Takes the first task of a bucket that `best` gave."""
        self.size -= 1
        return bucket.queue.popleft()

    def park(self, bucket: Bucket) -> None:
        """Leaves a bucket that `best` gave out until `unpark`: its workflow has no free lease."""
        heapq.heappop(self._heaps[bucket.kind])
        bucket.parked = True
        self._push(bucket)

    def unpark(self, workflow: str) -> None:
        """Brings back the best bucket of each kind and limit: a lease of the workflow has ended."""
        parked = self._parked.get(workflow)
        if parked is None:
            return
        for group, heap in list(parked.items()):
            while heap:
                rank, _, bucket = heapq.heappop(heap)
                if rank != bucket.rank or not bucket.parked:
                    continue
                bucket.parked = False
                if bucket.queue:
                    self._push(bucket)
                    break
                self._forget(bucket)
            if not heap:
                del parked[group]
        if not parked:
            del self._parked[workflow]

    def run_started(self, run: LiveRun) -> None:
        """Ranks a run that was leased from for the first time before those not started."""
        for bucket in self._runs.get(run.run_id, {}).values():
            bucket.rank = (-bucket.priority, False, run.order)
            self._push(bucket)

    def drop(self, run: LiveRun) -> None:
        """Forgets a run that has ended."""
        for bucket in self._runs.pop(run.run_id, {}).values():
            self.size -= len(bucket.queue)
            bucket.queue.clear()
            self._dropped += 1
        # Others of its workflow may have been waiting behind it.
        self.unpark(run.workflow)
        # Entries of buckets that no agent asks for would hold their runs in memory for ever.
        if self._dropped > 64 + sum(map(len, self._heaps.values())) // 2:
            self._compact()

    def _compact(self) -> None:
        self._dropped = 0
        for kind, heap in list(self._heaps.items()):
            heap[:] = [entry for entry in heap if entry[2].queue]
            heapq.heapify(heap)
            if not heap:
                del self._heaps[kind]
        for run_id, buckets in list(self._runs.items()):
            kept = {key: one for key, one in buckets.items() if one.queue or one.parked}
            if kept:
                self._runs[run_id] = kept
            else:
                del self._runs[run_id]

    def _push(self, bucket: Bucket) -> None:
        self._pushes += 1
        if bucket.parked:
            groups = self._parked.setdefault(bucket.run.workflow, {})
            heap = groups.setdefault((bucket.run.definition.max_leases, bucket.kind), [])
        else:
            heap = self._heaps.setdefault(bucket.kind, [])
        heapq.heappush(heap, (bucket.rank, self._pushes, bucket))

    def _head(self, kind: str, heap: list[Entry]) -> Bucket | None:
        while heap:
            rank, _, bucket = heap[0]
            if rank != bucket.rank or bucket.parked:
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
            self.unpark(bucket.run.workflow)
        del self._heaps[kind]
        return None

    def _forget(self, bucket: Bucket) -> None:
        buckets = self._runs.get(bucket.run.run_id)
        if buckets and buckets.get((bucket.kind, bucket.priority)) is bucket:
            del buckets[bucket.kind, bucket.priority]
            if not buckets:
                del self._runs[bucket.run.run_id]


def _before(one: Bucket, other: Bucket) -> bool:
    """Whether a bucket goes first. Of one run with two kinds, the earlier task does."""
    if one.rank != other.rank:
        return one.rank < other.rank
    return one.queue[0] < other.queue[0]
