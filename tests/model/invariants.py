"""What is true after every step, whatever happened: the promises, and that both say the same.

`Watch` sees every commit. The evidence is judged by the verifier that everybody can run, event by
event, and in the end the rows by the audit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.model.course import Course
from tests.model.expressions import said
from tests.model.tasks import Run, Task

from tenure_evidence import canonical, standing
from tenure_evidence.database import Database
from tenure_evidence.items import events_of
from tenure_evidence.plan import plan_of
from tenure_evidence.results import Results
from tenure_evidence.sequence import Sequence
from tenure_server.core.leasing.leases import extra_slots
from tenure_server.core.ledger import journal
from tenure_server.core.ledger.items import items_of
from tenure_server.core.ledger.lifecycle import EventKind, RunState, TaskState
from tenure_server.core.runs import view
from tenure_server.core.runs.extensions import Shape
from tenure_server.core.runs.live import LiveRun

#: Events after which a task may have a result of its own.
_REPORTED = (EventKind.TASK_SUCCEEDED, EventKind.TASK_FAILED, EventKind.TASK_RETRYING)


class Watch:
    """Follows one course."""

    def __init__(self, course: Course) -> None:
        self._course = course
        #: Where the events of each run have led the verifier.
        self._sequences: dict[str, Sequence] = {}
        #: The states that rows have, by run.
        self._rows: dict[str, dict[int, TaskState]] = {}
        #: Runs that may still change.
        self._watched: dict[str, Run] = {}

    def check(self, changes: journal.Changes) -> None:
        """Everything, after a commit."""
        course = self._course
        for run in course.model.open_runs:
            self._watched[run.run_id] = run
        self._take_rows(changes)
        self._take_evidence(changes)
        for run_id, run in list(self._watched.items()):
            live = course.live[run_id]
            check_run(run, live)
            self._check_rows(run, live)
            if run.ended:
                del self._watched[run_id]
        check_leases(course)
        check_limits(course)
        check_alarm(course)

    def _take_rows(self, changes: journal.Changes) -> None:
        for row in changes.tasks:
            task = dict(zip(journal.TASK_COLUMNS, row, strict=True))
            self._rows.setdefault(task["run_id"], {})[task["task_index"]] = task["state"]
            mine = self._course.model.run(task["run_id"]).tasks[task["task_key"]]
            if not mine.ended:
                found = task["attempt"], task["lost"]
                assert found == (mine.attempt, mine.lost), f"another attempt of {mine.key}"

    def _take_evidence(self, changes: journal.Changes) -> None:
        words = map(canonical.read, items_of(changes.events, changes.said).written)
        items = [event for item in words for event in events_of(item)]
        results = {(row[1], row[3]): row[14] for row in changes.tasks}
        for row, item in zip(changes.events, items, strict=True):
            _check_item(row, item, results)
            problem = self._sequence(item["run"]).take(item)
            assert not problem, f"the verifier says: {problem}"

    def _sequence(self, run_id: Any) -> Sequence:
        if run_id not in self._sequences:
            definition = self._course.live[run_id].definition
            self._sequences[run_id] = Sequence(plan_of(definition.canonical()))
        return self._sequences[run_id]

    def _check_rows(self, run: Run, live: LiveRun) -> None:
        """The rows say what memory says: a task without one stands where the graph says."""
        rows = self._rows.get(run.run_id, {})
        shape = Shape(live.tasks, live.graph, live.extensions, frozenset(live.aftermath))
        states = view.task_states(shape, {at: TaskState(one) for at, one in rows.items()})
        for key, state in zip(live.graph.keys, states, strict=True):
            task = run.tasks[key]
            due = task.state == "READY" and state is TaskState.RETRYING
            same = task.state == state.name or (run.held and _not_begun(task, state))
            assert same or due, f"{key} is {task.state}, and its row says {state.name}"

    def audit(self, path: Path) -> None:
        """The rows of the whole tenant against its log, by the audit."""
        tenant_id = self._course.bench.tenant.tenant_id
        with Database(path) as database:
            results = Results(database, tenant_id)
            faults = list(standing.faults(database, tenant_id))
            for run in self._course.model.runs:
                faults += results.faults(run.run_id)
        assert not faults, f"the audit says: {faults[0]}"


def _check_item(row: journal.Row, item: Any, results: dict[tuple[str, str], Any]) -> None:
    """An item says what its event says, with the digest of the result that counted."""
    event = dict(zip(journal.EVENT_COLUMNS[:-1], row, strict=True))
    kind = EventKind(event["kind"])
    assert (item["run"], item["seq"], item["at"]) == (
        event["run_id"],
        event["sequence"],
        event["at_us"],
    )
    assert item["kind"] == kind.name.lower().replace("_", ".", 1)
    for word, column in (("task", "task_key"), ("agent", "agent"), ("code", "code")):
        assert item.get(word, "") == event[column]
    for word in ("attempt", "term"):
        assert item.get(word, 0) == event[word]
    assert ("result" in item) <= (kind in _REPORTED)
    if kind is EventKind.TASK_SUCCEEDED:
        digest = results.get((event["run_id"], event["task_key"]))
        assert item.get("result") == (f"sha256:{digest.hex()}" if digest else None)


def _not_begun(task: Task, state: TaskState) -> bool:
    """Of a run that is held, what waits for nothing but that may be called ready."""
    return {task.state, state.name} <= {"WAITING", "READY"}


def check_run(run: Run, live: LiveRun) -> None:
    """A run stands where the reference has it, and so do its tasks."""
    assert live.state.name == run.state, f"run {run.number} is {live.state.name}, not {run.state}"
    assert set(live.graph.keys) == set(run.tasks), f"run {run.number} has other tasks"
    assert live.held == run.held or run.ended
    for key, number in zip(live.graph.keys, live.states, strict=True):
        task, state = run.tasks[key], TaskState(number)
        same = task.state == state.name or (run.held and _not_begun(task, state))
        assert same, f"{key} of run {run.number} is {state.name}, not {task.state}"
    states = [TaskState(number) for number in live.states]
    assert live.tallies == [live.states.count(number) for number in range(len(live.tallies))]
    assert live.counts() == view.counts(states)
    assert run.ended == (live.open_tasks == 0 and live.end_us is not None)
    if run.ended:
        assert said(live.output) == said(run.output)
        return
    waits_for_nothing = all(task.state == "WAITING" for task in run.open_tasks)
    assert run.held or run.state == "PAUSED" or not waits_for_nothing, "it waits for nothing"


def check_leases(course: Course) -> None:
    """Slots in use are live leases: by tenant, workflow, agent and key."""
    desk, model = course.bench.desk, course.model
    assert set(desk.runs) == {run.run_id for run in model.open_runs}
    assert desk.open_tasks == sum(len(run.tasks) for run in model.open_runs)
    mine = {
        (run.run_id, course.live[run.run_id].graph.index[task.key]): (run, task)
        for run, task in model.leases()
    }
    assert set(desk.leases) == set(mine)
    extra = set()
    of_workflow: dict[str, set[Any]] = {}
    keyed = set()
    for key, (run, task) in mine.items():
        lease = desk.leases[key]
        assert (lease.term, lease.attempt) == (task.term, task.attempt)
        assert bool(lease.cancelling) == model.is_told(run, task), f"{task.key} is told otherwise"
        assert (lease.until_us, lease.accepted) == (task.until_us, task.accept_us is None)
        extra |= extra_slots(key, task.node.weight)
        of_workflow.setdefault(run.flow.name, set()).add(key)
        if task.node.concurrency is not None:
            keyed.add(key)
    assert desk.leases.by_workflow == of_workflow
    assert desk.leases.extra == extra == set().union(*desk.leases.extra_by_workflow.values())
    assert set().union(*desk.limits.leases.values()) == keyed
    for name, agent in course.bench.agents.items():
        held = {key for key, (_, task) in mine.items() if (task.holder, task.agent) == name}
        assert set(agent.leases) == held
        assert agent.extra == {slot for slot in extra if slot[0] in held}


def check_limits(course: Course) -> None:
    """No limit is exceeded but by what was granted before it was lowered."""
    model = course.model
    live = model.leases()
    for run, task in live:
        same = sum(one.node.weight for of, one in live if of.flow is run.flow)
        assert not run.flow.max_leases or same <= run.flow.max_leases
        limit = task.node.concurrency
        if limit is not None and all(
            one.node.concurrency is not None and one.node.concurrency.limit == limit.limit
            for _, one in model.of_same_key(run, task)
        ):
            assert len(model.of_same_key(run, task)) <= limit.limit
        if task.of is not None and task.of.node.for_each is not None and task.place == "item":
            most = task.of.node.for_each.parallelism
            assert not most or len(task.of.open_parts) - _asleep(task.of) <= most
    for run in model.open_runs:
        if run.flow.concurrency is not None and not run.held and run.key is not None:
            same_key = [
                one
                for one in model.open_runs
                if (one.flow.name, one.key) == (run.flow.name, run.key)
            ]
            assert sum(not one.held for one in same_key) <= run.flow.concurrency.limit
    inside = course.bench.desk.consequences.run_limits.inside
    of_key = {run_id for runs in inside.values() for run_id in runs}
    narrow = [run for run in model.open_runs if run.flow.concurrency is not None]
    assert of_key == {run.run_id for run in narrow if not run.held and run.key is not None}


def _asleep(of: Task) -> int:
    return sum(part.state == "WAITING" for part in of.parts)


def check_alarm(course: Course) -> None:
    """Whoever sets the alarm clock sets it in time."""
    due_us = course.model.next_due_us()
    if due_us is not None:
        known_us = course.bench.desk.dues.next_us()
        assert known_us is not None, "nothing is known to fall due"
        assert known_us <= max(due_us, course.now_us), "something falls due before it is known"


def check_end(course: Course) -> None:
    """What the store keeps of runs that have ended is what the reference says."""
    for run in course.model.runs:
        record = course.bench.record(run.run_id)
        assert record.state.name == run.state
        assert run.ended == (record.end_us is not None)
        assert record.state not in (RunState.SUCCEEDED,) or said(record.output) == said(run.output)
        rows = course.bench.rows(run.run_id)
        for row in rows.values():
            task = run.tasks[row.task_key]
            assert row.state.name == task.state
            if row.state is TaskState.SUCCEEDED:
                assert said(row.output) == said(task.output)
            elif row.state is TaskState.FAILED:
                assert row.failure is not None
                assert row.failure.code == task.failure, f"{row.failure.code} is not {task.failure}"
