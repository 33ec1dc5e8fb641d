"""How many runs of a key are open for work at once, by workflow.

A run beyond the limit is *held*: nothing of it begins until one of its key has ended. Whether a run
is held is kept in its row, so a restart changes nothing. Those that wait come in by priority, then
by age.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from tenure_server.core.definitions.features import Strategy
from tenure_server.core.leasing.limits import KEY_FAILED, key_text
from tenure_server.core.ledger.lifecycle import TASK_ENDED, Failure, RunState, TaskState
from tenure_server.core.runs import data_flow
from tenure_server.core.runs.gates import KeyName
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts
from tenure_server.core.runs.triggers import Turn

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences


class RunLimits:
    """The books of one tenant. Only runs whose definitions declare such a limit are in them."""

    def __init__(self, consequences: Consequences) -> None:
        self._consequences = consequences
        #: Runs that were let in, by key.
        self.inside: dict[KeyName, dict[str, LiveRun]] = {}
        #: Those that wait, by priority and age.
        self._waiting: dict[KeyName, list[tuple[int, int, str, LiveRun]]] = {}
        self._key_of: dict[str, KeyName] = {}
        #: Runs about which is still to be decided what their coming means for others.
        self._new: list[LiveRun] = []
        self._keys_due: dict[KeyName, None] = {}

    @property
    def is_due(self) -> bool:
        """Whether `take_turns` has something to do."""
        return bool(self._new or self._keys_due)

    def key_of(self, run: LiveRun) -> KeyName | None:
        """The key of a run; None when it has none, or none that can be worked out."""
        return self._key_of.get(run.run_id)

    def enter(self, run: LiveRun) -> None:
        """Takes a run that begins, or is read back: lets it in, or holds it. Its row changes."""
        limit = run.definition.concurrency
        assert limit is not None
        try:
            text = key_text(run, "concurrency.key", limit.key) if limit.key else ""
        except data_flow.FieldFailed:
            run.hold()
            self._new.append(run)
            return
        key = (run.workflow, text)
        self._key_of[run.run_id] = key
        inside = self.inside.setdefault(key, {})
        if not run.held and (len(inside) < limit.limit and key not in self._waiting):
            inside[run.run_id] = run
            return
        run.hold()
        self._wait(key, run)
        self._new.append(run)

    def restore(self, run: LiveRun) -> None:
        """Takes a run that is read back: what was decided about it stands in its row."""
        if run.held:
            self.enter(run)
            key = self._key_of.get(run.run_id)
            if key is not None:
                self._keys_due[key] = None
            return
        limit = run.definition.concurrency
        assert limit is not None
        try:
            text = key_text(run, "concurrency.key", limit.key) if limit.key else ""
        except data_flow.FieldFailed:
            return
        key = self._key_of[run.run_id] = (run.workflow, text)
        self.inside.setdefault(key, {})[run.run_id] = run

    def ended(self, run: LiveRun) -> None:
        """Forgets a run that has ended; another one may come in."""
        key = self._key_of.pop(run.run_id, None)
        if key is None:
            return
        inside = self.inside.get(key, {})
        inside.pop(run.run_id, None)
        self._keys_due[key] = None
        if not inside and key not in self._waiting:
            self.inside.pop(key, None)

    def obstacle(self, old: LiveRun, new: LiveRun) -> str:
        """Why a run cannot go on as another version of itself. Empty: it can."""
        limit = new.definition.concurrency
        if limit is None:
            return ""
        try:
            text = key_text(new, "concurrency.key", limit.key) if limit.key else ""
        except data_flow.FieldFailed as error:
            return str(error)
        key = (new.workflow, text)
        newest = limit.strategy is Strategy.CANCEL_NEWEST
        if newest and not self._has_place(old, key) and self._is_full(key, limit.limit):
            return f"{limit.limit} runs of its key are open, and the newest one would be cancelled"
        return ""

    def leave(self, run: LiveRun) -> KeyName | None:
        """Forgets a run that goes on as another version of itself; gives the key of its place."""
        key = self._key_of.get(run.run_id)
        place = key if key is not None and self._has_place(run, key) else None
        self.ended(run)
        if key is not None and key in self._waiting:
            self._waiting[key] = [one for one in self._waiting[key] if one[3] is not run]
            heapq.heapify(self._waiting[key])
        self._new = [one for one in self._new if one is not run]
        return place

    def enter_again(self, run: LiveRun, place: KeyName | None) -> None:
        """Takes such a run: it keeps its place where its key is still the same. Its row changes."""
        limit = run.definition.concurrency
        if limit is None:
            if run.held:
                run.let_in()
            return
        text = key_text(run, "concurrency.key", limit.key) if limit.key else ""
        if place == (run.workflow, text):
            self._key_of[run.run_id] = place
            self.inside.setdefault(place, {})[run.run_id] = run
        else:
            self.enter(run)

    def _has_place(self, run: LiveRun, key: KeyName) -> bool:
        return run.run_id in self.inside.get(key, ())

    def take_turns(self, now_us: int) -> None:
        """Decides what the new runs mean for those inside, and lets in whom there is room for."""
        while self._new or self._keys_due:
            new, self._new = self._new, []
            for run in new:
                if run.held and run.end_us is None:
                    self._consider(run, now_us)
            keys, self._keys_due = self._keys_due, {}
            for key in keys:
                self._let_in_from(key, now_us)

    def _consider(self, run: LiveRun, now_us: int) -> None:
        key, limit = self._key_of.get(run.run_id), run.definition.concurrency
        assert limit is not None
        if key is None:
            self._fail(run, now_us)
        elif limit.strategy is Strategy.CANCEL_NEWEST and self._is_full(key, limit.limit):
            why = f"{limit.limit} runs of its key were open"
            self._consequences.children.cancel_run(run, why, now_us)
        elif limit.strategy is Strategy.CANCEL_RUNNING:
            self._displace(key, limit.limit, now_us)
        if key is not None:
            self._keys_due[key] = None

    def _is_full(self, key: KeyName, limit: int) -> bool:
        return len(self.inside.get(key, ())) >= limit

    def _displace(self, key: KeyName, limit: int, now_us: int) -> None:
        inside = self.inside.get(key, {}).values()
        staying = [one for one in inside if one.state is not RunState.CANCELLING]
        if len(staying) >= limit:
            why = "a newer run of its key took its place"
            # Not by when it was let in, which nobody knows after a restart.
            oldest = min(staying, key=lambda run: (run.create_us, run.run_id))
            self._consequences.children.cancel_run(oldest, why, now_us)

    def _wait(self, key: KeyName, run: LiveRun) -> None:
        entry = (-run.priority, run.create_us, run.run_id, run)
        heapq.heappush(self._waiting.setdefault(key, []), entry)

    def _let_in_from(self, key: KeyName, now_us: int) -> None:
        waiting = self._waiting.get(key, [])
        while waiting:
            run = waiting[0][3]
            if not run.held or run.end_us is not None or run.state is RunState.CANCELLING:
                heapq.heappop(waiting)
                continue
            limit = run.definition.concurrency
            assert limit is not None
            if self._is_full(key, limit.limit):
                if limit.strategy is Strategy.CANCEL_RUNNING:
                    self._displace(key, limit.limit, now_us)
                break
            heapq.heappop(waiting)
            self.inside.setdefault(key, {})[run.run_id] = run
            self._let_in(run, now_us)
        if not waiting:
            self._waiting.pop(key, None)
            if not self.inside.get(key):
                self.inside.pop(key, None)

    def _let_in(self, run: LiveRun, now_us: int) -> None:
        consequences = self._consequences
        run.let_in()
        consequences.under().run_changed(run.run_id, run)
        for index, state in enumerate(bytes(run.states)):
            if state == TaskState.READY:
                consequences.ready(run, index)
        for index in range(run.planned):
            # Those before it may have ended at once, and so have let it begin already.
            if run.states[index] == TaskState.WAITING and run.turn_of(index) is Turn.COME:
                consequences.turns.arrive(run, index, now_us)
        consequences.close_if_done(run, now_us)

    def _fail(self, run: LiveRun, now_us: int) -> None:
        """Fails what would have begun first, and with it the run."""
        limit = run.definition.concurrency
        assert limit is not None
        try:
            key_text(run, "concurrency.key", limit.key)
        except data_flow.FieldFailed as error:
            failure = Failure(KEY_FAILED, str(error), True)
        else:
            raise AssertionError("a key that came out is none that failed")
        run.let_in()
        # All of them before the first fails: what that lets begin is not among them.
        first = [
            index
            for index in range(run.planned)
            if run.states[index] not in TASK_ENDED and run.turn_of(index) is Turn.COME
        ]
        for index in first:
            facts = run.facts[index] = run.facts.get(index) or TaskFacts()
            self._consequences.fail(run, index, facts, failure, now_us)
