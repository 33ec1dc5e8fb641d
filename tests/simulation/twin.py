"""Compares what is read back after a crash with what memory held when it was written down.

Whatever an engine decides goes into commits. What memory held when one was sealed is kept beside
it; so whoever reads the store back must be where that memory was, but for what is not kept on
purpose: how long leases hold, and in which order the ready tasks stand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tenure_server.core.definitions.features import SubWorkflow
from tenure_server.core.desks import pauses
from tenure_server.core.desks.desk import Desk
from tenure_server.core.ledger.journal import Changes, Journal
from tenure_server.core.ledger.lifecycle import RUN_WORKING, TASK_ENDED, TaskState
from tenure_server.core.runs.extensions import ITEMS
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts
from tenure_server.engine.floor import Floor
from tenure_server.engine.seating import Seating
from tenure_server.store.errors import StoreFailed
from tenure_server.store.writer import Writer

#: More are never under way at once.
_SEALED_MAX = 16
#: By tenant, then by what it is about.
Memory = dict[str, dict[str, Any]]


@dataclass(eq=False)
class Twin:
    """The memories that were written down, and the first that was not found again."""

    now_us: Callable[[], int]
    desks: dict[str, Desk] = field(default_factory=dict)
    kept: Memory = field(default_factory=dict)
    fault: str = ""
    #: With what was sealed, so that nothing else comes by its id.
    _sealed: dict[int, tuple[Changes, Memory]] = field(default_factory=dict)

    def crashed(self) -> None:
        """Memory is gone, and what is under way with it."""
        self.desks.clear()

    def sealed(self, changes: Changes) -> None:
        """All that was decided up to now goes into one commit."""
        while len(self._sealed) > _SEALED_MAX:
            # An empty one is never committed.
            del self._sealed[next(iter(self._sealed))]
        memory = {name: memory_of(desk) for name, desk in self.desks.items()}
        self._sealed[id(changes)] = changes, memory

    def committed(self, changes: Changes) -> None:
        """That commit was kept."""
        # What the installation alone notes is sealed by nobody.
        _, memory = self._sealed.pop(id(changes), (changes, {}))
        self.kept |= memory

    def opened(self, desk: Desk) -> None:
        """A desk was read back from the store."""
        tenant = desk.tenant.tenant_id
        self.desks[tenant] = desk
        found, kept = memory_of(desk), self.kept.get(tenant)
        if kept is None:
            self.kept[tenant] = found
            return
        for about in sorted(kept.keys() | found.keys()):
            for what in _differing(kept.get(about), found.get(about)):
                self.note(f"read back, {about} of {tenant} has other {what}")
        wanted = {(one.run.run_id, one.index) for one in desk.consequences.children.wanted}
        if wanted != _wanting(desk):
            self.note(f"read back, {tenant} wants runs for {wanted}, not {_wanting(desk)}")

    def note(self, fault: str) -> None:
        """Something is wrong; the first of it counts."""
        self.fault = self.fault or fault

    def compare(self) -> None:
        """Raises AssertionError when something was wrong, or a ready task is in no queue."""
        assert not self.fault, self.fault
        for tenant, desk in self.desks.items():
            held = len(desk.leases) + len(desk.leases.extra)
            assert held <= desk.tenant.max_leases, f"{tenant} holds {held}"
            for run in desk.runs.values():
                lost = _lost(desk, run)
                assert not lost, f"run {run.run_id}: {lost} are ready, and in no queue"


def _differing(kept: Any, found: Any) -> Iterator[str]:
    """In what two memories of one thing differ, in words."""
    if isinstance(kept, Mapping) and isinstance(found, Mapping):
        for name in kept.keys() | found.keys():
            if kept.get(name) != found.get(name):
                yield f"{name}: {kept.get(name)} is {found.get(name)}"
    elif kept != found:
        yield f"content: {kept} is {found}"


def _wanting(desk: Desk) -> set[tuple[str, int]]:
    """The tasks that wait for a run which nobody has started yet, and which may begin."""
    return {
        (run.run_id, index)
        for run in desk.runs.values()
        if not pauses.rests(desk, run)
        for index, facts in run.facts.items()
        if run.states[index] == TaskState.ACTIVE
        and isinstance(run.tasks[index].wait, SubWorkflow)
        and run.tasks[index].for_each is None
        and not (facts.detail or {}).get("child")
    }


def _lost(desk: Desk, run: LiveRun) -> list[str]:
    """Ready tasks that nobody would ever be given."""
    if run.held or run.state not in RUN_WORKING:
        return []
    arriving = {index for one, index, _ in desk.ready.arrivals if one is run}
    return [
        run.graph.keys[index]
        for index, state in enumerate(run.states)
        if state == TaskState.READY
        and index not in arriving
        and desk.ready.bucket_of(run, index) is None
    ]


def memory_of(desk: Desk) -> dict[str, Any]:
    """All that a desk knows and must know again, as values that stay as they are."""
    memory: dict[str, Any] = {
        "leases": {
            (key[0], lease.task_key): (lease.term, lease.attempt, bool(lease.cancelling))
            for key, lease in desk.leases.items()
        },
        "signals": _signals(desk),
        "events": {
            (*name, *place)
            for name, places in desk.consequences.events._waiting.items()
            for place in places
        },
        "lists": {
            place: (course.open, course.awake, course.failed, course.stopping or course.bytes)
            for place, course in desk.consequences.expansion._courses.items()
        },
        "keys": {
            key: set(inside)
            for key, inside in desk.consequences.run_limits.inside.items()
            if inside
        },
    }
    for run_id, run in desk.runs.items():
        memory[f"run {run_id}"] = _run(run)
    return memory


def _signals(desk: Desk) -> set[tuple[str, str, int]]:
    return {
        (run_id, name, index)
        for run_id, names in desk.consequences.signals._waiting.items()
        for name, tasks in names.items()
        for index in tasks
    }


def _run(run: LiveRun) -> Mapping[str, Any]:
    facts = {
        run.graph.keys[index]: _facts(one) for index, one in run.facts.items() if one != TaskFacts()
    }
    return {
        "state": run.state.name,
        "reason": run.reason,
        "detail": repr(run.detail or None),
        "held": run.held,
        "sequence": run.sequence,
        "tasks": {key: _state(run, index) for index, key in enumerate(run.graph.keys)},
        "missing": tuple(run.missing),
        "facts": facts,
        "outputs": {
            run.graph.keys[index]: one.data
            for index, one in run.outputs.items()
            if _is_needed(run, index)
        },
        "successes": dict(run.successes),
        "failures": dict(run.failures),
        "lists": repr(sorted(one for one in run.lists.items() if one[1])),
    }


def _is_needed(run: LiveRun, index: int) -> bool:
    """Whether an output may still matter: not of an item whose list has ended."""
    if index < run.planned or run.needed_at_end(index):
        return True
    extension, _ = run.extension_of(index)
    return extension.kind != ITEMS or run.states[extension.of] not in TASK_ENDED


def _state(run: LiveRun, index: int) -> str:
    state, facts = TaskState(run.states[index]), run.facts.get(index)
    if state is TaskState.READY and facts is not None and facts.retry_us:
        # What fell due left no row, and falls due again.
        return TaskState.RETRYING.name
    return state.name


def _facts(facts: TaskFacts) -> tuple[Any, ...]:
    failure = facts.failure
    return (
        facts.attempt,
        facts.term,
        facts.lost,
        facts.agent,
        facts.holder,
        facts.token_hash,
        facts.retry_us,
        facts.result_hash,
        "" if failure is None else failure.code,
        None if facts.checkpoint is None else facts.checkpoint.data,
        repr(facts.detail or None),
    )


@contextlib.contextmanager
def twinning(twin: Twin) -> Iterator[None]:
    """Lets the twin see what is sealed, kept and read back, and faults that engines hide."""
    seal, open_desk, commit, fail = Journal.seal, Seating.open, Writer.commit, Floor.fail

    def sealing(journal: Journal) -> Changes:
        changes = seal(journal)
        twin.sealed(changes)
        return changes

    def opening(seating: Seating, *args: Any) -> Desk | None:
        desk = open_desk(seating, *args)
        if desk is None:
            twin.note(f"open work could not be read back: {seating._quarantine}")
        else:
            twin.opened(desk)
        return desk

    def committing(writer: Writer, changes: Changes) -> None:
        commit(writer, changes)
        twin.committed(changes)

    def failing(floor: Floor, error: BaseException) -> None:
        # All else is no fault that the simulation has made.
        if not isinstance(error, StoreFailed):
            twin.note(f"a turn failed: {type(error).__name__}: {error}")
        twin.desks.clear()
        fail(floor, error)

    taps: dict[tuple[type, str], tuple[Any, Any]] = {
        (Journal, "seal"): (seal, sealing),
        (Seating, "open"): (open_desk, opening),
        (Writer, "commit"): (commit, committing),
        (Floor, "fail"): (fail, failing),
    }
    try:
        for (owner, name), (_, tap) in taps.items():
            setattr(owner, name, tap)
        yield
    finally:
        for (owner, name), (method, _) in taps.items():
            setattr(owner, name, method)
