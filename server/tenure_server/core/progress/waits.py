"""Tasks that wait for the world: for a signal to their run, or for an event of the tenant.

A signal is meant for one run, and one that comes early is kept in the run's `detail`, under
``signals``, until a task waits for it: each serves one wait, in the order in which they came. An
event is meant for whoever waits for its name and key at that moment, and is not kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tenure_server.core import errors
from tenure_server.core.definitions.features import EventWait, SignalWait
from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.expressions.evaluation import EvaluationFailed
from tenure_server.core.leasing.alarms import ACTIVITY
from tenure_server.core.ledger.lifecycle import EventKind, Failure, TaskState
from tenure_server.core.runs import data_flow, history, run_data
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences

#: How many signals of a run are kept for tasks that do not wait for them yet, and their bytes.
SIGNALS_KEPT_MAX = 100
SIGNALS_BYTES_MAX = 1 << 20

WAIT_TIMED_OUT = "WAIT_TIMED_OUT"
KEY_FAILED = "KEY_FAILED"

#: Run id and task number.
Place = tuple[str, int]


class Waits(ABC):
    """What both kinds have in common. `detail` holds when it is over in vain: ``due``, or none."""

    def __init__(self, consequences: Consequences) -> None:
        self._consequences = consequences

    def due(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Fails it when its time is over."""
        due_us = (facts.detail or {}).get("due")
        if due_us is not None and due_us <= now_us:
            self.forget(run, index, facts)
            failure = Failure(WAIT_TIMED_OUT, "nothing came in time", True)
            self._consequences.fail(run, index, facts, failure, now_us)

    def part_ended(  # noqa: B027 - there is nothing to do, in any of them
        self, run: LiveRun, index: int, part: int, now_us: int
    ) -> None:
        """It has no parts."""

    def cancel(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Nobody waits any more."""
        self.forget(run, index, facts)

    def leave(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Nobody waits here any more."""
        self.forget(run, index, facts)

    def restore(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Waits on."""
        self.expect(run, index, facts)
        self._set_alarm(run, index, facts)

    @abstractmethod
    def expect(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Notes that a task waits."""

    @abstractmethod
    def forget(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Notes that it does not."""

    def _activate(
        self,
        run: LiveRun,
        index: int,
        facts: TaskFacts,
        detail: dict[str, Any],
        timeout_us: int | None,
        message: str,
        now_us: int,
    ) -> None:
        due_us = None if timeout_us is None else now_us + timeout_us
        facts.keep(**detail, due=due_us)
        self._consequences.note(run, index, facts, EventKind.TASK_ACTIVATED, message, now_us)
        self._set_alarm(run, index, facts)

    def _set_alarm(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        due_us = (facts.detail or {}).get("due")
        if due_us is not None:
            self._consequences.alarm(due_us, ACTIVITY, run.run_id, index)


class Signals(Waits):
    """Waits for signals. `detail` holds the number of the event of its activation, ``since``."""

    def __init__(self, consequences: Consequences) -> None:
        super().__init__(consequences)
        #: The tasks that wait, by run and by name of the signal.
        self._waiting: dict[str, dict[str, set[int]]] = {}

    def begin(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Takes what came early, or waits."""
        wait = _signal(run, index)
        text = f"signal {wait.name}"
        since = {"since": run.sequence + 1}
        self._activate(run, index, facts, since, wait.timeout_us, text, now_us)
        kept = (run.detail or {}).get("signals", {}).get(wait.name)
        if kept:
            payload = _unpacked(kept.pop(0))
            self._tidy(run, wait.name)
            self._consequences.succeed(run, index, facts, payload, now_us)
        else:
            self.expect(run, index, facts)

    def expect(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Notes that a task waits."""
        names = self._waiting.setdefault(run.run_id, {})
        names.setdefault(_signal(run, index).name, set()).add(index)

    def forget(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Notes that it does not."""
        names, name = self._waiting.get(run.run_id, {}), _signal(run, index).name
        names.get(name, set()).discard(index)
        if not names.get(name):
            names.pop(name, None)
        if not names:
            self._waiting.pop(run.run_id, None)

    def signal(self, run: LiveRun, name: str, payload: Payload | None, now_us: int) -> bool:
        """Gives a signal to the task that waits for it, or keeps it; says whether one did.

        Raises QuotaExceeded when too many are kept.
        """
        journal = self._consequences.under()
        waiting = self._waiting.get(run.run_id, {}).get(name)
        if not waiting:
            self._keep(run, name, payload)
        journal.run_changed(run.run_id, run)
        history.note_run(run, journal, EventKind.RUN_SIGNALLED, now_us, name)
        if not waiting:
            return False
        index = min(waiting, key=lambda one: _since(run.facts[one]))
        facts = run.facts[index]
        self.forget(run, index, facts)
        self._consequences.succeed(run, index, facts, payload, now_us)
        return True

    def _keep(self, run: LiveRun, name: str, payload: Payload | None) -> None:
        kept = (run.detail or {}).get("signals", {})
        packed = _packed(payload)
        count = sum(map(len, kept.values()))
        size = sum(len(one["data"] or "") for many in kept.values() for one in many)
        if count >= SIGNALS_KEPT_MAX or size + len(packed["data"] or "") > SIGNALS_BYTES_MAX:
            limit = SIGNALS_KEPT_MAX if count >= SIGNALS_KEPT_MAX else SIGNALS_BYTES_MAX
            what = "signals" if limit == SIGNALS_KEPT_MAX else "bytes of signals"
            message = f"run {run.run_id} has {limit} {what} that nothing waits for yet"
            raise errors.QuotaExceeded("signals", limit, message)
        run.detail = run.detail or {}
        run.detail.setdefault("signals", {}).setdefault(name, []).append(packed)

    def _tidy(self, run: LiveRun, name: str) -> None:
        assert run.detail is not None
        signals = run.detail["signals"]
        if not signals[name]:
            del signals[name]
        if not signals:
            del run.detail["signals"]
        self._consequences.under().run_changed(run.run_id, run)


class Events(Waits):
    """Waits for events. `detail` holds the key that is waited for, ``key``; empty for any."""

    def __init__(self, consequences: Consequences) -> None:
        super().__init__(consequences)
        #: The tasks that wait, by name and key of the event, those that came first at the head.
        self._waiting: dict[tuple[str, str], dict[Place, None]] = {}

    def begin(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Works the key out and waits."""
        wait = _event(run, index)
        key = ""
        if wait.key:
            try:
                key = data_flow.text(wait.key, run_data.names_of(run, index, facts.attempt))
            except EvaluationFailed as error:
                failure = Failure(KEY_FAILED, f"key: {wait.key}: {error}", True)
                self._consequences.fail(run, index, facts, failure, now_us)
                return
        text = f"event {wait.name} {key}".rstrip()
        self._activate(run, index, facts, {"key": key}, wait.timeout_us, text, now_us)
        self.expect(run, index, facts)

    def expect(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Notes that a task waits."""
        self._waiting.setdefault(self._name(run, index, facts), {})[run.run_id, index] = None

    def forget(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Notes that it does not."""
        name = self._name(run, index, facts)
        places = self._waiting.get(name, {})
        places.pop((run.run_id, index), None)
        if not places:
            self._waiting.pop(name, None)

    def publish(self, name: str, key: str, payload: Payload | None, now_us: int) -> int:
        """Gives an event to all that wait for it, and tells how many did."""
        served = 0
        for run_id, index in list(self._matching(name, key)):
            run = self._consequences.runs.get(run_id)
            if run is None or run.states[index] != TaskState.ACTIVE:
                continue
            facts = run.facts[index]
            self.forget(run, index, facts)
            self._consequences.succeed(run, index, facts, payload, now_us)
            served += 1
        return served

    def _matching(self, name: str, key: str) -> Iterator[Place]:
        yield from self._waiting.get((name, key), ())
        if key:
            yield from self._waiting.get((name, ""), ())

    def _name(self, run: LiveRun, index: int, facts: TaskFacts) -> tuple[str, str]:
        return _event(run, index).name, (facts.detail or {}).get("key", "")


def _since(facts: TaskFacts) -> int:
    """Since when a task waits; 0 where an earlier version has not noted it."""
    return int((facts.detail or {}).get("since", 0))


def _signal(run: LiveRun, index: int) -> SignalWait:
    wait = run.tasks[index].wait
    assert isinstance(wait, SignalWait)
    return wait


def _event(run: LiveRun, index: int) -> EventWait:
    wait = run.tasks[index].wait
    assert isinstance(wait, EventWait)
    return wait


def _packed(payload: Payload | None) -> dict[str, Any]:
    if payload is None:
        return {"data": None, "type": ""}
    return {"data": b64encode(payload.data).decode(), "type": payload.content_type}


def _unpacked(value: dict[str, Any]) -> Payload | None:
    return None if value["data"] is None else Payload(b64decode(value["data"]), value["type"])
