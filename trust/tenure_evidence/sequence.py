"""What may follow what in a run: the law of Precedence, checked on the events alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tenure_evidence.plan import ON_FAILURE, SUCCEEDED, Place, Plan, undo_of
from tenure_evidence.rows import KINDS, RUN_ENDS, TASK_ENDS

_KINDS = frozenset(KINDS)
_RUN_ENDS = frozenset(RUN_ENDS.values())
RESULTS = frozenset({"task.succeeded", "task.failed", "task.retrying"})
#: Ends of tasks that may never have been executed.
_UNEXECUTED = frozenset({"skipped", "upstream_failed", "cancelled"})
#: Events after which a task is not leased any more.
_LEASE_ENDS = RESULTS | TASK_ENDS.keys() | {"task.lease_lost", "task.lease_returned"}


@dataclass(slots=True)
class Sequence:
    """The events of one run, taken one after the other.

    Without a plan, when the definition is not the one of the run, only that is checked which the
    events say by themselves.
    """

    plan: Plan | None
    #: What the definitions that the run is moved to say, by their digests.
    later: Mapping[str, Plan] = field(default_factory=dict)
    #: The last event's number.
    seq: int = 0
    ended: str = ""
    #: The digests of the definitions that the run was moved to.
    moved_to: list[object] = field(default_factory=list)
    _definition: object = None
    #: How each task has ended.
    _ends: dict[str, str] = field(default_factory=dict)
    _terms: dict[str, int] = field(default_factory=dict)
    _results: set[tuple[str, int]] = field(default_factory=set)
    #: Tasks that no agent executes and that have begun.
    _active: set[str] = field(default_factory=set)
    #: The items of each list that were leased and have not ended.
    _begun: dict[str, set[str]] = field(default_factory=dict)
    #: Tasks that have succeeded, in the order of their success.
    _succeeded: dict[str, None] = field(default_factory=dict)
    #: Tasks of which a lease is live.
    _leased: set[str] = field(default_factory=set)
    #: What is to be done after the failure, the next one last. None: the run has not failed yet.
    _aftermath: list[str] | None = None

    def take(self, item: Mapping[str, Any]) -> str:
        """Takes the next event; says what is wrong with it, or nothing."""
        seq, kind, task = item.get("seq"), item.get("kind"), item.get("task")
        if type(seq) is not int or type(kind) is not str or kind not in _KINDS:
            return f"it has no number or no known kind: {seq!r}, {kind!r}"
        problem = self._number_problem(seq)
        if problem:
            return problem
        if self.ended and kind != "run.reopened":
            return f"event {seq}, {kind}, comes after the end of the run, {self.ended}"
        self.seq = seq
        if (kind == "run.started") != (seq == 1):
            return f"event {seq} is {kind}; the first event, and no other, is run.started"
        if kind.startswith("task."):
            place = None
            if type(task) is not str or (self.plan and not (place := self.plan.place(task))):
                return f"event {seq} is of task {task!r}, which the definition has not"
            return self._task_problem(seq, kind, task, item, place)
        return self._run_problem(seq, kind, item)

    def _number_problem(self, seq: int) -> str:
        if seq == self.seq + 1:
            return ""
        if seq <= self.seq:
            return f"event {seq} comes after event {self.seq}"
        if seq == self.seq + 2:
            return f"event {seq - 1} is missing before event {seq}"
        return f"events {self.seq + 1} to {seq - 1} are missing before event {seq}"

    # -- the whole run

    def _run_problem(self, seq: int, kind: str, item: Mapping[str, Any]) -> str:
        if kind == "run.started":
            self._definition = item.get("definition")
        elif kind == "run.reopened":
            self.ended, self._aftermath = "", None
        elif kind == "run.moved":
            return self._move_problem(seq, item)
        elif kind == "run.compensating":
            self._aftermath = self._to_be_done()
            return self._open_problem(seq, kind)
        elif kind in _RUN_ENDS:
            self.ended = kind
            return self._end_problem(seq, kind)
        return ""

    def _end_problem(self, seq: int, kind: str) -> str:
        if self.plan is None:
            return ""
        if kind == "run.succeeded":
            for task in sorted(self.plan.tasks):
                if self._ends.get(task, "failed") == "failed":
                    return f"event {seq} is run.succeeded, but task {task!r} has not succeeded"
        if kind == "run.failed":
            left = self._to_be_done()
            if left:
                return f"event {seq} is run.failed, but {left[-1]!r} was not done"
        return self._open_problem(seq, kind)

    def _open_problem(self, seq: int, kind: str) -> str:
        """Whether a task of the definition has not ended."""
        if self.plan is None or self.plan.tasks.keys() <= self._ends.keys():
            return ""
        task = min(self.plan.tasks.keys() - self._ends.keys())
        return f"event {seq} is {kind}, but task {task!r} has not ended"

    def _to_be_done(self) -> list[str]:
        """What is to be done after a failure and was not, the next one last."""
        if self.plan is None:
            return []
        last = [ON_FAILURE] if self.plan.on_failure else []
        can = self.plan.can_be_undone
        left = last + [undo_of(task) for task in self._succeeded if can(task)]
        return [task for task in left if task not in self._ends]

    def _move_problem(self, seq: int, item: Mapping[str, Any]) -> str:
        """Whether the run may go on under another definition, and goes on under it."""
        if item.get("previous") != self._definition:
            return f"event {seq} moves the run from another definition than its own"
        if self._leased:
            return f"event {seq} moves the run while task {min(self._leased)!r} is leased"
        self._definition = item.get("definition")
        self.moved_to.append(self._definition)
        before, after = self.plan, self.later.get(str(self._definition))
        self.plan = after
        if before is None or after is None:
            return ""
        problem = next(filter(None, map(partial(self._misfit, before, after), self._ends)), "")
        for task in self._active - self._ends.keys():
            problem = problem or self._misfit(before, after, task)
        # What is not there may come back under a later definition, and is another task then.
        self._terms = {task: term for task, term in self._terms.items() if after.place(task)}
        self._results = {result for result in self._results if after.place(result[0])}
        return f"event {seq} moves the run to a definition {problem}" if problem else ""

    def _misfit(self, before: Plan, after: Plan, task: str) -> str:
        """Why a task that has begun or ended has no place under another definition."""
        was, place, how = before.place(task), after.place(task), self._ends.get(task)
        if place is None:
            return f"that has no task {task!r}"
        if how in _UNEXECUTED:
            doomed = how != "upstream_failed" or place.step.is_doomed(self._ends)
            return "" if doomed else f"in which task {task!r} would not have failed"
        if was is None or was.handler != place.handler:
            return f"in which task {task!r} has another handler"
        if task == ON_FAILURE:
            return ""
        why = place.step.before(self._ends)
        return f"in which task {task!r} began {why}" if why else ""

    # -- one task

    def _task_problem(
        self, seq: int, kind: str, task: str, item: Mapping[str, Any], place: Place | None
    ) -> str:
        end, term = self._ends.get(task), item.get("term")
        if kind == "task.reopened":
            self._ends.pop(task, None)
            self._succeeded.pop(task, None)
            if type(term) is int:
                self._terms[task] = term
            return ""
        problem = ""
        if kind in _LEASE_ENDS:
            self._leased.discard(task)
        if kind == "task.leased":
            self._leased.add(task)
            problem = self._lease_problem(seq, task, item, place)
        elif end is not None:
            second = kind == "task.succeeded" and end == SUCCEEDED
            what = "succeeds a second time" if second else f"has ended, and now {kind} follows"
            problem = f"event {seq}: task {task!r} {what}"
        elif kind == "task.activated" and type(term) is int:
            # No lease, so no new term; each activation may have a result of its own.
            self._terms[task] = term
            self._results.discard((task, term))
            self._active.add(task)
            problem = self._turn_problem(seq, task, "activated", place)
        elif kind in RESULTS:
            problem = self._result_problem(seq, task, item, place)
        elif kind == "task.upstream_failed" and place and not place.step.is_doomed(self._ends):
            problem = f"event {seq}: nothing that task {task!r} depends on has failed"
        begun = self._begun.get(task)
        if not problem and kind == "task.succeeded" and begun:
            problem = f"event {seq}: task {task!r} succeeds before its item {min(begun)!r} ended"
        if place is not None and place.item_of:
            items = self._begun.setdefault(place.item_of, set())
            if kind == "task.leased":
                items.add(task)
            elif kind in TASK_ENDS or kind == "task.reopened":
                items.discard(task)
        if not problem and kind in TASK_ENDS:
            self._end(task, TASK_ENDS[kind])
        return problem

    def _end(self, task: str, how: str) -> None:
        self._ends[task] = how
        self._active.discard(task)
        if how == SUCCEEDED:
            self._succeeded[task] = None

    def _result_problem(
        self, seq: int, task: str, item: Mapping[str, Any], place: Place | None
    ) -> str:
        term = item.get("term")
        reported = item.get("result") is not None
        if term is not None:
            last = self._terms.get(task, None if reported else 0)
            if type(term) is not int or last != term:
                return f"event {seq}: result of task {task!r} for term {term!r}, not its last lease"
            if reported and (task, term) in self._results:
                return f"event {seq}: a second result of task {task!r} for term {term}"
            if reported:
                self._results.add((task, term))
        # What nobody reported was decided about a task that may never have been leased.
        return "" if reported else self._turn_problem(seq, task, "ended", place)

    def _lease_problem(
        self, seq: int, task: str, item: Mapping[str, Any], place: Place | None
    ) -> str:
        term = item.get("term")
        if type(term) is not int or term <= self._terms.get(task, -1):
            return f"event {seq}: term {term!r} of task {task!r} does not grow"
        self._terms[task] = term
        if item.get("definition") != self._definition:
            return f"event {seq}: lease of task {task!r} under another definition than the run's"
        if end := self._ends.get(task):
            how = "succeeded" if end == SUCCEEDED else "ended"
            return f"event {seq}: task {task!r} is leased after it {how}"
        if place is None:
            return ""
        if item.get("handler") != place.handler:
            said = item.get("handler")
            return f"event {seq}: task {task!r} is leased as {said!r}, not {place.handler!r}"
        return self._turn_problem(seq, task, "leased", place)

    def _turn_problem(self, seq: int, task: str, what: str, place: Place | None) -> str:
        """Whether the turn of a task has come."""
        if place is None:
            return ""
        why = ""
        if place.undoes or task == ON_FAILURE:
            why = self._aftermath_problem(task)
        elif self._aftermath is not None:
            why = "while the run is undone"
        elif place.item_of:
            if place.item_of not in self._active:
                why = f"while {place.item_of!r} is not active"
        elif what == "leased" and place.step.repeated:
            why = "though only its items can be"
        else:
            why = place.step.before(self._ends)
        return f"event {seq}: task {task!r} is {what} {why}" if why else ""

    def _aftermath_problem(self, task: str) -> str:
        left = self._aftermath
        if left is None:
            return "before the run has failed"
        while left and left[-1] in self._ends:
            left.pop()
        if not left or left[-1] != task:
            return f"before {left[-1]!r} has ended" if left else "after all was done"
        return ""
