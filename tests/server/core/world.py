"""A desk to try things on: time and chance are in the test's hand, and commits go to dictionaries.

`Tables` takes changes exactly as the store does, compare-and-set included, so that a desk can be
thrown away and read back at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import orjson

from tenure_server.core import ids
from tenure_server.core.definitions.definition import Payload, WorkflowDefinition, WorkflowTask
from tenure_server.core.desks import fairness, moving
from tenure_server.core.desks.desk import Desk, End
from tenure_server.core.desks.interventions import needed_outputs, to_reopen
from tenure_server.core.desks.versions import Version, check_state
from tenure_server.core.leasing import timeouts
from tenure_server.core.leasing.leases import AgentSlots, Lease, Success
from tenure_server.core.ledger import journal, records
from tenure_server.core.ledger.lifecycle import (
    RUN_ENDED,
    TASK_ENDED,
    EventKind,
    Failure,
    RunState,
    TaskState,
    Verdict,
)
from tenure_server.core.runs import restoring
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine import judge

TENANT = "acme"
START_US = 1_700_000_000_000_000
LEASE_US = 30_000_000
ACCEPT_US = 5_000_000
SECOND = 1_000_000

WORK = frozenset({"work"})


def task(key: str, *depends_on: str, kind: str = "work", **options: Any) -> WorkflowTask:
    """A task of a workflow, in few words."""
    return WorkflowTask(key=key, kind=kind, depends_on=depends_on, **options)


def flow(*tasks: WorkflowTask, name: str = "flow", **options: Any) -> WorkflowDefinition:
    """A workflow, in few words."""
    return WorkflowDefinition(name=name, tasks=tasks, **options)


def json_payload(value: Any) -> Payload:
    """A JSON payload."""
    return Payload(orjson.dumps(value))


class Chance:
    """Bytes that look random and are the same in every test."""

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        blocks = (self._drawn.to_bytes(8, "big") + at.to_bytes(8, "big") for at in range(size))
        return b"".join(blocks)[:size] if size >= 16 else self._drawn.to_bytes(8, "big")[-size:]


class Tables:
    """The record in dictionaries: rows by their keys, as dictionaries of their columns."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.tasks: dict[tuple[str, int], dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.definitions: dict[str, WorkflowDefinition] = {}

    def commit(self, changes: journal.Changes) -> None:
        """Writes what the store would write, and refuses what it would refuse."""
        if changes:
            assert changes.seats == {TENANT: 1}, "rows without a seat"
        for row in changes.runs:
            run = dict(zip(journal.RUN_COLUMNS, row, strict=True))
            assert run["run_id"] not in self.runs, "a run twice"
            self.runs[run["run_id"]] = run
            self.events[run["run_id"]] = []
        for row in changes.runs_reopened:
            self._change_run(row)
        self._move(changes)
        for row in changes.run_changes:
            self._change_run(row)
        for row in changes.tasks:
            self._upsert(dict(zip(journal.TASK_COLUMNS, row, strict=True)))
        for row in changes.events:
            event = dict(zip(journal.EVENT_COLUMNS[:-1], row, strict=True))
            log = self.events[event["run_id"]]
            log.append(event)
            assert event["sequence"] == len(log), "a gap in the log"

    def _change_run(self, row: journal.Row) -> None:
        change = dict(zip(journal.RUN_CHANGE_COLUMNS, row, strict=True))
        stored = self.runs[change["run_id"]]
        again = change["state"] not in RUN_ENDED
        assert again or stored["state"] not in RUN_ENDED, "an ended run changes"
        stored.update(change)

    def _move(self, changes: journal.Changes) -> None:
        kept = {(row[1], row[2]): (row[3], row[4]) for row in changes.tasks_moved}
        for row in changes.runs_moved:
            move = dict(zip(journal.RUN_MOVED_COLUMNS, row, strict=True))
            run_id = move["run_id"]
            assert self.runs[run_id]["state"] not in RUN_ENDED, "an ended run is moved"
            self.runs[run_id].update(move)
            mine = [key for key in self.tasks if key[0] == run_id]
            old = {key: self.tasks.pop(key) for key in mine}
            for key, (number, detail) in kept.items():
                if key[0] == run_id:
                    moved = {**old[key], "task_index": number, "detail": detail}
                    self.tasks[run_id, number] = moved

    def _upsert(self, row: dict[str, Any]) -> None:
        key = row["run_id"], row["task_index"]
        stored = self.tasks.get(key)
        if stored is not None:
            ended = stored["state"] in TASK_ENDED
            assert not ended or stored["term"] < row["term"], "an ended task changes"
            assert stored["term"] <= row["term"], "a term goes back"
        self.tasks[key] = row

    def run(self, run_id: str) -> records.Run:
        """A stored run."""
        row = self.runs[run_id]
        names = set(records.Run.__dataclass_fields__) - {"input", "labels", "state"}
        return records.Run(
            **{name: row[name] for name in names},
            state=RunState(row["state"]),
            labels=orjson.loads(row["labels"]),
            input=_payload(row["input"], row["input_type"]),
        )

    def task(self, run_id: str, index: int) -> records.Task:
        """A stored task."""
        row = self.tasks[run_id, index]
        carried = {"state", "failure", "output", "checkpoint"}
        names = set(records.Task.__dataclass_fields__) - carried
        code = row["failure_code"]
        return records.Task(
            **{name: row[name] for name in names},
            state=TaskState(row["state"]),
            failure=None if code is None else Failure(code, row["failure_message"]),
            output=_payload(row["output"], row["output_type"]),
            checkpoint=_payload(row["checkpoint"], row["checkpoint_type"]),
        )

    def tasks_of(self, run_id: str) -> dict[int, records.Task]:
        """The stored tasks of a run."""
        return {index: self.task(run_id, index) for of, index in self.tasks if of == run_id}

    def successes(self, run_id: str) -> dict[str, int]:
        """By which event each task of a run has succeeded last."""
        succeeded = EventKind.TASK_SUCCEEDED
        return {
            event["task_key"]: event["sequence"]
            for event in self.events[run_id]
            if event["kind"] == succeeded
        }

    def kinds(self, run_id: str) -> list[EventKind]:
        """What happened in a run."""
        return [EventKind(event["kind"]) for event in self.events[run_id]]


def _payload(data: bytes | None, content_type: str) -> Payload | None:
    return None if data is None else Payload(data, content_type)


class World:
    """A desk, its agents, and the tables beneath."""

    def __init__(self, *, max_leases: int = 1000, weight: int = 1, tenant: str = TENANT) -> None:
        self.tenant = records.Tenant(
            tenant_id=tenant, display_name="", max_leases=max_leases, weight=weight, create_us=0
        )
        self.now_us = START_US
        self.tables = Tables()
        self.agents: dict[tuple[str, str], AgentSlots] = {}
        self._chance = Chance()
        self._runs = 0
        self._open_desk()

    def _open_desk(self) -> None:
        self.journal = journal.Journal()
        self.desk = Desk(
            self.tenant,
            term=1,
            journal=self.journal,
            draw=self._chance,
            lease_us=LEASE_US,
            accept_us=ACCEPT_US,
        )

    # -- acts -----------------------------------------------------------------------------------

    def start(self, *tasks: WorkflowTask, priority: int = 0, **options: Any) -> LiveRun:
        """Starts a run of these tasks."""
        return self.start_flow(flow(*tasks, **options), priority=priority)

    def start_flow(
        self,
        definition: WorkflowDefinition,
        *,
        priority: int = 0,
        given: Any = None,
        parent: str = "",
    ) -> LiveRun:
        """Starts a run of a definition; `given` is its input, `parent` the run it is for."""
        self._runs += 1
        run_id = self.new_id()
        record = self.record_of(
            definition,
            run_id,
            priority=priority,
            labels={"n": str(self._runs)},
            input=json_payload({"n": self._runs} if given is None else given),
            correlation_id=f"correlation-{self._runs}",
            parent_run_id=parent,
        )
        run = LiveRun(record, definition, definition.check(), order=self.desk.next_order())
        self.desk.open_run(run, self.now_us)
        return run

    def new_id(self) -> str:
        """An id that no run has."""
        return ids.new_id(self.tenant.tenant_id, self.now_us, self._chance(ids.RANDOM_BYTES))

    def record_of(self, definition: WorkflowDefinition, run_id: str, **values: Any) -> records.Run:
        """The record of a run that is about to begin."""
        digest = definition.digest()
        self.tables.definitions[digest] = definition
        known: dict[str, Any] = {
            "tenant_id": self.tenant.tenant_id,
            "run_id": run_id,
            "workflow": definition.name,
            "workflow_version": 1,
            "workflow_digest": digest,
            "state": RunState.RUNNING,
            "priority": 0,
            "labels": {},
            "input": None,
            "correlation_id": "correlation",
            "started_by": "key-0",
            "reason": "",
            "task_count": len(definition.tasks),
            **dict.fromkeys(("succeeded", "failed", "upstream_failed", "cancelled"), 0),
            "create_us": self.now_us,
            "start_us": None,
            "end_us": None,
            "deadline_us": timeouts.run_deadline_us(definition.total_timeout_us, self.now_us),
        }
        return records.Run(**(known | values))

    def text_of(self, detail: Any) -> str:
        """What is kept of a run or a task, as the store has it."""
        return orjson.dumps(detail).decode()

    def agent(
        self,
        name: str = "host",
        *,
        slots: int = 1000,
        kinds: Iterable[str] = WORK,
        holder: str = "key-1",
    ) -> AgentSlots:
        """An agent with credits for all its slots."""
        agent = self.slots_of(holder, name)
        agent.kinds = frozenset(kinds)
        agent.slots = agent.credits = slots
        return agent

    def slots_of(self, holder: str, name: str) -> AgentSlots:
        """The slots of an agent, known or not."""
        return self.agents.setdefault((holder, name), AgentSlots(name, holder))

    def grant(self, agent: AgentSlots | None = None, *, at_most: int = 1000) -> list[Lease]:
        """Grants what an agent can take."""
        agent = agent or self.agent()
        return fairness.grant([self.desk], agent, self.now_us, at_most=at_most)

    def grant_one(self, agent: AgentSlots | None = None) -> Lease:
        """Grants one lease."""
        [lease] = self.grant(agent, at_most=1)
        return lease

    def hold_one(self, agent: AgentSlots | None = None) -> Lease:
        """Grants one lease, which is accepted."""
        lease = self.grant_one(agent)
        self.desk.accept(lease)
        return lease

    def settle(self, lease: Lease, end: End | None = None, **words: Any) -> Verdict | None:
        """Reports the end of a lease's attempt; `words` replace those of the lease."""
        said: dict[str, Any] = {
            "run_id": lease.run.run_id,
            "task_key": lease.task_key,
            "term": lease.term,
            "token": lease.token,
            "holder": lease.agent.holder,
            **words,
        }
        return self.desk.settle(end=end or Success(), now_us=self.now_us, **said)

    def verdict(self, lease: Lease, end: End | None = None, **words: Any) -> Verdict:
        """Reports the end of an attempt and, where the desk cannot judge it, asks the tables."""
        verdict = self.settle(lease, end, **words)
        if verdict is not None:
            return verdict
        self.commit()
        run_id, key = words.get("run_id", lease.run.run_id), words.get("task_key", lease.task_key)
        index = lease.run.graph.index.get(key)
        known = run_id in self.tables.runs and index is not None
        stored = known and (run_id, index) in self.tables.tasks
        return judge.verdict_on(
            self.tables.run(run_id) if known else None,
            self.tables.task(run_id, index) if stored and index is not None else None,
            term=words.get("term", lease.term),
            token=words.get("token", lease.token),
            end=end or Success(),
            holder=words.get("holder", lease.agent.holder),
        )

    def limit(self, max_leases: int) -> None:
        """Changes the tenant's limit."""
        self.tenant = self.desk.tenant = replace(self.tenant, max_leases=max_leases)

    def wait(self, us: int) -> None:
        """Lets time pass."""
        self.now_us += us
        self.desk.dues.pass_time(self.now_us)

    def commit(self) -> journal.Changes:
        """Commits what was decided."""
        changes = self.journal.seal()
        self.tables.commit(changes)
        return changes

    def reopen(self) -> None:
        """Commits, throws memory away and reads it back, as a coordinator does at its start."""
        self.commit()
        self.agents = {}
        self._open_desk()
        read_back(self.tables, self.desk, self.slots_of, self.now_us)

    def execute_again(self, run: LiveRun, *keys: str, pause: bool = False) -> LiveRun:
        """Executes tasks of a run again as the engine does: from the tables, when it has ended."""
        self.commit()
        stored = self.tables.tasks_of(run.run_id)
        if run.run_id not in self.desk.runs:
            run = self.read_run(run.run_id)
        again = to_reopen(run, [run.graph.index[key] for key in keys])
        for index in needed_outputs(run, again):
            if index in stored:
                run.keep_output(index, stored[index].output, also=again)
        self.desk.interventions.reopen(
            run, again, stored, paused=pause, reason="again", now_us=self.now_us
        )
        return run

    def move(
        self, run: LiveRun, to: WorkflowDefinition, version: int = 2, *, resume: bool = False
    ) -> LiveRun:
        """Moves a run to another definition as the engine does: from the tables."""
        self.commit()
        self.tables.definitions[to.digest()] = to
        run = self.desk.runs.get(run.run_id) or self.read_run(run.run_id)
        target = Version(number=version, digest=to.digest(), definition=to, graph=to.graph())
        if not check_state(run, target):
            return run
        crossing = moving.crossing_of(self.desk, run, target, self.now_us)
        stored = self.tables.tasks_of(run.run_id)
        wish = moving.Move(
            to=target,
            resume=resume,
            reason="for a test",
            stored=stored,
            outputs={
                crossing.numbers[index]: output
                for index in crossing.needed_outputs()
                if (output := stored[index].output) is not None
            },
            successes=self.tables.successes(run.run_id),
        )
        moving.move(self.desk, run, wish, self.now_us)
        return self.desk.runs.get(run.run_id) or run

    def read_run(self, run_id: str) -> LiveRun:
        """A run from the tables, which may have ended."""
        record = self.tables.run(run_id)
        definition = self.tables.definitions[record.workflow_digest]
        run = LiveRun(record, definition, definition.check(), order=self.desk.next_order())
        run.sequence = len(self.tables.events[run_id])
        restoring.restore(run, self.tables.tasks_of(run_id), {})
        return run

    # -- views ----------------------------------------------------------------------------------

    def again(self, run: LiveRun) -> LiveRun:
        """A run as it is in memory now, which may have been read back since."""
        return self.desk.runs[run.run_id]

    def failure(self, run: LiveRun, key: str) -> str:
        """The code with which a task failed last, after a commit. Empty: with none."""
        self.commit()
        failure = self.tables.task(run.run_id, run.graph.index[key]).failure
        return "" if failure is None else failure.code

    def live_of(self, run: LiveRun) -> int:
        """How many leases of a run are live."""
        return sum(run_id == run.run_id for run_id, _ in self.desk.leases)

    def state(self, run: LiveRun, key: str) -> TaskState:
        """Where a task stands in memory."""
        return TaskState(run.states[run.graph.index[key]])

    def run_state(self, run: LiveRun) -> RunState:
        """Where a run stands in memory."""
        return run.state

    def states(self, run: LiveRun) -> dict[str, str]:
        """Where all tasks stand in memory, by name."""
        return {key: self.state(run, key).name for key in run.graph.keys}

    def kinds(self, run: LiveRun) -> list[EventKind]:
        """What happened in a run, after a commit."""
        self.commit()
        return self.tables.kinds(run.run_id)


def read_back(
    tables: Tables, desk: Desk, slots_of: Callable[[str, str], AgentSlots], now_us: int
) -> None:
    """Reads all open runs back, as the engine does from the store."""
    opened = [row for row in tables.runs.values() if row["state"] not in RUN_ENDED]
    for row in sorted(opened, key=lambda row: (row["create_us"], row["run_id"])):
        definition = tables.definitions[row["workflow_digest"]]
        run = LiveRun(
            tables.run(row["run_id"]), definition, definition.check(), order=desk.next_order()
        )
        run.sequence = len(tables.events[run.run_id])
        tasks = tables.tasks_of(run.run_id)
        outputs = {
            index: one.output
            for index, one in tasks.items()
            if one.state is TaskState.SUCCEEDED and one.output is not None
        }
        leased = [
            (slots_of(one.holder, one.agent), index)
            for index, one in tasks.items()
            if one.state is TaskState.LEASED
        ]
        desk.restore(run, tasks, outputs, leased, now_us)


def portrait(desk: Desk) -> dict[str, Any]:
    """Everything that can be seen of a desk and that the tables must be able to give back."""
    return {
        "open tasks": desk.open_tasks,
        "runs": {run_id: _portrait_of_run(run) for run_id, run in desk.runs.items()},
        "leases": {
            key: (lease.term, lease.attempt, lease.agent.holder, lease.agent.name, lease.cancelling)
            for key, lease in sorted(desk.leases.items())
        },
        "workflows": desk.leases.by_workflow,
    }


def _portrait_of_run(run: LiveRun) -> dict[str, Any]:
    facts = {
        index: replace(
            known,
            # Whether it could be retried was asked when it came.
            failure=known.failure and replace(known.failure, non_retryable=False),
        )
        for index, known in run.facts.items()
    }
    names = set(LiveRun.__slots__) - {"states", "missing", "facts", "definition", "graph", "order"}
    # Digests are worked out when they are needed.
    names -= {"_input_digest"}
    return {
        **{name: getattr(run, name) for name in names},
        "states": [TaskState(state).name for state in run.states],
        "missing": list(run.missing),
        "facts": facts,
        "waiters": run.outputs.waiters,
    }
