"""Limits by key: how many leases at once, and how many begun in a span of time.

How many are live is the size of a dictionary of leases, never a counter. A key that an expression
gives is one for all workflows of the tenant; without an expression it is the task's own, over all
runs of its workflow. Each task is held to the limit that it declares itself, whatever others of
the same key declare.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from tenure_server.core.definitions.features import Strategy
from tenure_server.core.expressions.evaluation import EvaluationFailed
from tenure_server.core.leasing.leases import Lease, LeaseKey
from tenure_server.core.ledger.lifecycle import Failure
from tenure_server.core.runs import data_flow, run_data
from tenure_server.core.runs.gates import NO_LABELS, Gate, Hold, KeyName
from tenure_server.core.runs.live import LiveRun

#: The failure code of a task whose key cannot be worked out.
KEY_FAILED = "KEY_FAILED"
_MESSAGE_CHARACTERS_MAX = 4000
#: So many rates may be remembered before those that no longer matter are looked for.
_SWEEP_MIN = 1024


class Limits:
    """The books of one tenant."""

    def __init__(self) -> None:
        #: Live leases by key, the one granted first first.
        self.leases: dict[KeyName, dict[LeaseKey, Lease]] = {}
        #: When the last leases of each rate were begun: as many as any task of its key asks about.
        self._begun: dict[KeyName, deque[int]] = {}
        #: When the last of those was begun that are not among them any more.
        self._dropped: dict[KeyName, int] = {}
        #: The longest span that each rate was asked for.
        self._spans: dict[KeyName, int] = {}
        #: Until when nothing is known of what was begun, so that each rate counts as used up then.
        self._unknown_until_us: int | None = None
        self._wakes: list[tuple[int, Hold]] = []
        self._waking: dict[Hold, int] = {}
        self._sweep_at = _SWEEP_MIN

    def resume(self, now_us: int) -> None:
        """Somebody else may have granted leases until now; when, is not known."""
        self._unknown_until_us = now_us

    # -- keys

    def gate_of(self, run: LiveRun, index: int) -> Gate | Failure:
        """The gate of a task that declares limits; a failure when a key cannot be worked out."""
        base = index if index < run.planned else run.extension_of(index)[0].of
        gate = run.gates.get(base)
        if gate is None:
            try:
                gate = run.gates[base] = self._known(_gate(run, index, base))
            except data_flow.FieldFailed as error:
                return Failure(KEY_FAILED, str(error)[:_MESSAGE_CHARACTERS_MAX], True)
        return gate

    def is_full(self, gate: Gate) -> bool:
        """Whether as many leases of its key are live as there may be."""
        return gate.key is not None and len(self.leases.get(gate.key, ())) >= gate.limit

    def to_displace(self, gate: Gate) -> Lease | None:
        """The oldest lease that must go so that one more of the key can come, or None."""
        if gate.key is None or gate.strategy is not Strategy.CANCEL_RUNNING:
            return None
        staying = [one for one in self.leases.get(gate.key, {}).values() if not one.cancelling]
        return staying[0] if len(staying) >= gate.limit else None

    def hold(self, lease: Lease) -> None:
        """Counts a live lease."""
        if lease.gate is not None and lease.gate.key is not None:
            self.leases.setdefault(lease.gate.key, {})[lease.key] = lease

    def release(self, lease: Lease) -> Hold | None:
        """Forgets a lease that has ended, and says who may go on."""
        gate = lease.gate
        if gate is None or gate.key is None:
            return None
        live = self.leases[gate.key]
        del live[lease.key]
        if not live:
            del self.leases[gate.key]
        return gate.key_hold

    # -- rates

    def _known(self, gate: Gate) -> Gate:
        """Sees to it that as much is remembered of a rate as a gate asks about."""
        if gate.rate is not None:
            begun = self._begun.get(gate.rate, ())
            if not isinstance(begun, deque) or (begun.maxlen or 0) < gate.count:
                self._begun[gate.rate] = deque(begun, gate.count)
            self._spans[gate.rate] = max(gate.per_us, self._spans.get(gate.rate, 0))
        return gate

    def begin(self, gate: Gate, now_us: int) -> None:
        """Counts a lease that begins."""
        if gate.rate is None:
            return
        self._known(gate)
        begun = self._begun[gate.rate]
        if len(begun) == begun.maxlen:
            self._dropped[gate.rate] = begun[0]
        begun.append(now_us)
        if len(self._begun) > self._sweep_at:
            self._sweep(now_us)

    def free_us(self, gate: Gate) -> int | None:
        """From when on the rate allows one more lease; None: it always did."""
        if gate.rate is None:
            return None
        begun = self._begun.get(gate.rate, ())
        if len(begun) >= gate.count:
            return begun[-gate.count] + gate.per_us
        last_us = self._dropped.get(gate.rate, self._unknown_until_us)
        return None if last_us is None else last_us + gate.per_us

    def obstacle(self, gate: Gate, now_us: int) -> Hold | None:
        """What a task must wait for as far as keys go; sees to it that it is woken."""
        if self.is_full(gate):
            return gate.key_hold
        free_us = self.free_us(gate)
        if free_us is None or free_us <= now_us:
            return None
        self.wake(gate, free_us)
        return gate.rate_hold

    def wake(self, gate: Gate, at_us: int) -> None:
        """Sees to it that those who wait for a rate are woken."""
        hold = gate.rate_hold
        if self._waking.get(hold, at_us + 1) > at_us:
            self._waking[hold] = at_us
            heapq.heappush(self._wakes, (at_us, hold))

    def next_us(self) -> int | None:
        """When a rate allows more that somebody waits for, or None."""
        return self._wakes[0][0] if self._wakes else None

    def due(self, now_us: int) -> Iterator[Hold]:
        """The rates that allow more again."""
        while self._wakes and self._wakes[0][0] <= now_us:
            at_us, hold = heapq.heappop(self._wakes)
            if self._waking.get(hold) == at_us:
                del self._waking[hold]
                yield hold

    def _sweep(self, now_us: int) -> None:
        for key, begun in list(self._begun.items()):
            if not begun or begun[-1] + self._spans[key] <= now_us:
                del self._begun[key], self._spans[key]
                self._dropped.pop(key, None)
        self._sweep_at = max(_SWEEP_MIN, 2 * len(self._begun))


def _gate(run: LiveRun, index: int, base: int) -> Gate:
    task = run.tasks[index]
    gate = Gate(weight=task.weight)
    own = ("task", run.workflow, run.tasks[base].key)
    if (limit := task.concurrency) is not None:
        gate.limit, gate.strategy = limit.limit, limit.strategy
        gate.key = own if not limit.key else ("key", key_text(run, "concurrency.key", limit.key))
    if (rate := task.rate) is not None:
        gate.count, gate.per_us = rate.count, rate.per_us
        gate.rate = own if not rate.key else ("key", key_text(run, "rate.key", rate.key))
    if (placement := task.placement) is not None:
        gate.required = frozenset(placement.required.items()) or NO_LABELS
        gate.preferred = frozenset(placement.preferred.items()) or NO_LABELS
        gate.sticky = placement.sticky
    return gate


def key_text(run: LiveRun, field: str, source: str) -> str:
    """What the expression of a key comes out as. Raises FieldFailed."""
    try:
        return data_flow.text(source, run_data.names_of(run))
    except EvaluationFailed as error:
        raise data_flow.FieldFailed(field, source, str(error)) from error
