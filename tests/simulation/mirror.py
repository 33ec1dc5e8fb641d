"""Compares every desk of the engine, after every step, with the reference that does the same.

Whatever the engine asks of a desk is asked of the reference too. What a commit kept is noted when
it was sealed, so that after a crash both begin from the same state.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from tests.server.core.reference import ENDED, Reference, Run, Task

from tenure_server.core.desks.desk import Desk
from tenure_server.core.desks.dues import Dues
from tenure_server.core.desks.grants import Grants
from tenure_server.core.ledger.journal import Changes, Journal
from tenure_server.core.ledger.lifecycle import TaskState, Verdict
from tenure_server.engine.floor import Floor
from tenure_server.engine.seating import Seating
from tenure_server.store.writer import Writer

#: More are never under way at once.
_SEALED_MAX = 16
References = dict[str, Reference]


def _cloned(references: References) -> References:
    return {
        tenant: Reference(
            one.limit,
            one.now_us,
            {
                run_id: Run(
                    run_id,
                    run.workflow,
                    run.workflow_limit,
                    {key: copy.copy(task) for key, task in run.tasks.items()},
                    run.state,
                )
                for run_id, run in one.runs.items()
            },
        )
        for tenant, one in references.items()
    }


@dataclass(eq=False)
class Mirror:
    """The references of all tenants, and the desks that they mirror."""

    now_us: Callable[[], int]
    live: References = field(default_factory=dict)
    #: What the store has.
    kept: References = field(default_factory=dict)
    desks: dict[str, Desk] = field(default_factory=dict)
    #: The first answer of a desk that was not the reference's.
    fault: str = ""
    #: With what was sealed, so that nothing else comes by its id.
    _sealed: dict[int, tuple[Changes, References]] = field(default_factory=dict)
    _inside: bool = False

    # -- what the store keeps

    def sealed(self, changes: Changes) -> None:
        """All that was decided up to now goes into one commit."""
        while len(self._sealed) > _SEALED_MAX:
            # An empty one is never committed.
            del self._sealed[next(iter(self._sealed))]
        # Of what is not read back yet after a crash, no memory goes into it.
        open_ = {tenant: self.live[tenant] for tenant in self.desks}
        self._sealed[id(changes)] = changes, _cloned(open_)

    def committed(self, changes: Changes) -> None:
        """That commit was kept."""
        # What the installation alone notes is sealed by nobody.
        _, memory = self._sealed.pop(id(changes), (changes, {}))
        self.kept |= memory

    def crashed(self) -> None:
        """Memory is gone, and what is under way with it."""
        self.desks.clear()

    def opened(self, desk: Desk) -> None:
        """A desk was read back from the store."""
        tenant = desk.tenant.tenant_id
        self.desks[tenant] = desk
        kept = self.kept.get(tenant, Reference(desk.tenant.max_leases, self.now_us()))
        model = self.live[tenant] = _cloned({tenant: kept})[tenant]
        model.now_us = self.now_us()
        model.restart()
        for run in list(model.runs.values()):
            if run.ended:
                del model.runs[run.run_id]
            for task in run.tasks.values():
                if task.state == "READY" and task.retry_us:
                    # What fell due left no row, and falls due again.
                    task.state = "RETRYING"

    # -- what is asked of a desk

    def tap(self, owner: type, name: str, after: Callable[..., None]) -> Callable[..., Any]:
        """A method of desks, or of a part of them, that asks the reference as well, after it."""
        method = getattr(owner, name)

        @wraps(method)
        def asked(one: Any, *args: Any, **kwargs: Any) -> Any:
            desk = None if self._inside else self._desk_of(one)
            if desk is None:
                return method(one, *args, **kwargs)
            model = self.live[desk.tenant.tenant_id]
            self._inside = True
            try:
                model.now_us = self.now_us()
                found = method(one, *args, **kwargs)
                after(model, found, *args, **kwargs)
            except AssertionError as error:
                # The engine takes it for a fault of its own, and goes on.
                self.fault = self.fault or f"{name}: {error}"
                raise
            finally:
                self._inside = False
            return found

        return asked

    def _desk_of(self, one: Any) -> Desk | None:
        """The desk that is mirrored and is this, or has it as a part."""
        for desk in self.desks.values():
            if one in (desk, desk.grants, desk.dues):
                return desk
        return None

    # -- what must be the same

    def compare(self) -> None:
        """Raises AssertionError when a desk is not where its reference is."""
        assert not self.fault, self.fault
        for tenant, desk in self.desks.items():
            model = self.live[tenant]
            open_runs = {run_id for run_id, run in model.runs.items() if not run.ended}
            assert open_runs == set(desk.runs), f"{tenant}: open runs differ"
            for run_id, live in desk.runs.items():
                states = {
                    key: TaskState(state).name
                    for key, state in zip(live.graph.keys, live.states, strict=True)
                }
                expected = {key: task.state for key, task in model.runs[run_id].tasks.items()}
                assert states == expected, f"{tenant}: run {run_id}"
                assert live.state.name == model.runs[run_id].state
            leases = {(run.run_id, task.node.key): task.term for run, task in model.live()}
            held = {(key[0], one.task.key): one.term for key, one in desk.leases.items()}
            assert held == leases, f"{tenant}: live leases differ"
            assert len(held) <= desk.tenant.max_leases


def _started(model: Reference, _: None, run: Any, now_us: int) -> None:
    definition = run.definition
    tasks = {node.key: Task(node) for node in definition.tasks}
    model.start(Run(run.run_id, definition.name, definition.max_leases, tasks))


def _granted(model: Reference, lease: Any, *_: Any) -> None:
    assert lease is not None, "a task of the simulation turned out to be impossible"
    model.lease(lease)
    _task(model, lease)[1].retry_us = 0


def _accepted(model: Reference, _: None, lease: Any) -> None:
    _task(model, lease)[1].accept_us = None


def _renewed(
    model: Reference, _: Any, lease: Any, checkpoint: Any, now_us: int, **said: Any
) -> None:
    model.renew(_task(model, lease)[1], checkpoint)


def _returned(model: Reference, _: None, lease: Any, *args: Any) -> None:
    model.give_back(*_task(model, lease))


def _settled(
    model: Reference,
    verdict: Verdict | None,
    run_id: str,
    task_key: str,
    term: int,
    token: bytes,
    end: Any,
    holder: str,
    now_us: int,
) -> None:
    run = model.runs.get(run_id)
    if verdict is None:
        assert run is None or run.tasks[task_key].state in ENDED
        return
    assert model.settle(run_id, task_key, term, token, holder, end) is verdict
    _forget_ended(model)


def _cancelled(model: Reference, _: None, run: Any, *args: Any) -> None:
    mirrored = model.runs.get(run.run_id)
    if mirrored is not None and mirrored.state == "RUNNING":
        model.cancel(mirrored)
        _forget_ended(model)


def _passed(model: Reference, _: None, now_us: int) -> None:
    model.pass_time(now_us)
    _forget_ended(model)


def _forget_ended(model: Reference) -> None:
    for run_id in [run_id for run_id, run in model.runs.items() if run.ended]:
        del model.runs[run_id]


def _task(model: Reference, lease: Any) -> tuple[Run, Task]:
    run = model.runs[lease.run.run_id]
    return run, run.tasks[lease.task.key]


@contextlib.contextmanager
def mirroring(mirror: Mirror) -> Iterator[None]:
    """Lets the mirror see everything that happens to desks while it lasts."""
    asked: dict[tuple[type, str], Callable[..., None]] = {
        (Desk, "open_run"): _started,
        (Grants, "grant"): _granted,
        (Desk, "accept"): _accepted,
        (Desk, "renew"): _renewed,
        (Desk, "give_back"): _returned,
        (Desk, "settle"): _settled,
        (Desk, "cancel_run"): _cancelled,
        (Dues, "pass_time"): _passed,
    }
    taps: dict[tuple[type, str], Any] = {
        (owner, name): mirror.tap(owner, name, after) for (owner, name), after in asked.items()
    }
    seal, open_desk, commit, fail = Journal.seal, Seating.open, Writer.commit, Floor.fail

    def sealing(journal: Journal) -> Changes:
        changes = seal(journal)
        mirror.sealed(changes)
        return changes

    def opening(seating: Seating, *args: Any) -> Desk | None:
        desk = open_desk(seating, *args)
        assert desk is not None, "open work could not be read back"
        mirror.opened(desk)
        return desk

    def committing(writer: Writer, changes: Changes) -> None:
        commit(writer, changes)
        mirror.committed(changes)

    def failing(floor: Floor, error: BaseException) -> None:
        mirror.crashed()
        fail(floor, error)

    taps |= {
        (Journal, "seal"): sealing,
        (Seating, "open"): opening,
        (Writer, "commit"): committing,
        (Floor, "fail"): failing,
    }
    before = {(owner, name): getattr(owner, name) for owner, name in taps}
    try:
        for (owner, name), tap in taps.items():
            setattr(owner, name, tap)
        yield
    finally:
        for (owner, name), method in before.items():
            setattr(owner, name, method)
