"""A desk of one tenant on a real store: time and chance are in the story's hand.

What the engine does around a desk is done here in its order, with its own functions: a run begins,
runs of runs begin, a run is opened again, everything is committed, and read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from tests.server.core.world import ACCEPT_US, LEASE_US, START_US, Chance, json_payload

from tenure_server.core import errors
from tenure_server.core.definitions.definition import WorkflowDefinition, digest_of
from tenure_server.core.desks import pauses
from tenure_server.core.desks.desk import Desk
from tenure_server.core.desks.interventions import needed_outputs, to_reopen
from tenure_server.core.evidence import Act
from tenure_server.core.leasing.leases import AgentSlots, End
from tenure_server.core.ledger import journal, records
from tenure_server.core.ledger.lifecycle import Verdict
from tenure_server.core.progress.children import WantedChild
from tenure_server.core.runs import extensions, restoring
from tenure_server.core.runs.live import LiveRun
from tenure_server.engine import judge, offspring, restore, starting
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

TERM = 1
#: Holder and name of each agent, its slots, kinds and labels. The second can take anything.
AGENTS: dict[tuple[str, str], tuple[int, frozenset[str], dict[str, str]]] = {
    ("key-1", "one"): (2, frozenset({"work", "strict", "undo"}), {"zone": "a"}),
    ("key-1", "two"): (4, frozenset({"work", "play", "strict", "undo"}), {"zone": "b"}),
    ("key-2", "one"): (2, frozenset({"work", "undo"}), {}),
}
#: Who starts runs, and so may not approve of what they ask.
STARTER = "key-0"
CORRELATION = "model"


class Bench:
    """The desk, its agents, and the store beneath. `store` must be lent for reading."""

    def __init__(self, store: Store, tenant_id: str, max_leases: int) -> None:
        self.tenant = records.Tenant(
            tenant_id=tenant_id,
            display_name="",
            max_leases=max_leases,
            weight=1,
            create_us=START_US,
        )
        self.now_us = START_US
        self.agents: dict[tuple[str, str], AgentSlots] = {}
        self.known: dict[str, KnownWorkflow] = {}
        self._store = store
        self._reads = TenantReads(store, tenant_id)
        # Ids are drawn apart, so that they do not depend on how often the desk was opened.
        self._ids, self._chance = Chance(), Chance()
        self._act(lambda acts: acts.create_tenant(self.tenant))
        self._open_desk()

    def _act(self, work: Any) -> Any:
        seats = {self.tenant.tenant_id: TERM} if hasattr(self, "desk") else {}
        return self._store.writer().act(seats, work)

    def _open_desk(self) -> None:
        self.journal = journal.Journal()
        self.desk = Desk(
            self.tenant,
            term=TERM,
            journal=self.journal,
            draw=self._chance,
            lease_us=LEASE_US,
            accept_us=ACCEPT_US,
        )
        self.agents = {}
        for (holder, name), (slots, kinds, labels) in AGENTS.items():
            agent = self.slots_of(holder, name)
            agent.kinds, agent.slots = kinds, slots
            agent.introduce(labels)

    def slots_of(self, holder: str, name: str) -> AgentSlots:
        """The slots of an agent."""
        return self.agents.setdefault((holder, name), AgentSlots(name, holder))

    # -- what the store keeps

    def commit(self) -> journal.Changes:
        """Writes all that was decided since the last time, as one act."""
        if self.journal.events:
            act = Act(kind="run.start", principal=STARTER, correlation_id=CORRELATION)
            self.journal.act(act, 0, self.now_us)
        changes = self.journal.seal()
        if changes:
            self._store.writer().commit(changes)
        return changes

    def reopen(self) -> None:
        """Throws memory away and reads it back, as whoever takes the seat does."""
        assert not self.journal.events, "not all is committed"
        self._open_desk()
        self.desk.pauses = self._reads.pauses()
        # Whoever held the seat before may have begun leases of runs that have ended since.
        self.desk.limits.resume(self.now_us)
        restore.restore(self.desk, restore.read_open_runs(self._reads), self.slots_of, self.now_us)

    def register(self, definition: WorkflowDefinition) -> None:
        """Makes a workflow known."""
        canonical, graph = definition.canonical(), definition.check()

        def work(acts: Acts) -> records.Workflow:
            record, _ = acts.register_workflow(
                self.tenant.tenant_id,
                definition.name,
                digest_of(canonical),
                canonical,
                len(graph.keys),
                graph.dependency_count,
                STARTER,
                self.now_us,
            )
            return record

        self.known[definition.name] = KnownWorkflow.of(self._act(work))

    def record(self, run_id: str) -> records.Run:
        """The row of a run."""
        found = self._reads.run(run_id)
        assert found is not None
        return found

    def rows(self, run_id: str) -> dict[int, records.Task]:
        """The rows of a run's tasks."""
        return {one.task_index: one for one in self._reads.tasks(run_id, -1, 1000, True)}

    # -- runs

    def start(self, name: str, given: Any, priority: int) -> LiveRun:
        """Starts a run. Raises FieldsInvalid for an input that does not fit."""
        start = records.StartRun(
            workflow=name,
            input=None if given is None else json_payload(given),
            priority=priority,
            labels={},
        )
        known = self.known[name]
        starting.check_inputs([start], [known])
        plan = self._plan()
        plan.add(start, known)
        [run] = plan.runs(self.desk)
        self.desk.open_run(run, self.now_us)
        return run

    def births(self) -> Iterator[tuple[WantedChild, LiveRun | None]]:
        """Starts what tasks want as runs, or refuses it, in the order of the engine."""
        children = self.desk.consequences.children
        while children.wanted:
            batch, children.wanted[:] = list(children.wanted), []
            for _, group in groupby(batch, key=lambda wanted: wanted.run.run_id):
                yield from self._start_all(list(group))

    def _start_all(
        self, wanted: Sequence[WantedChild]
    ) -> Iterator[tuple[WantedChild, LiveRun | None]]:
        children = self.desk.consequences.children
        try:
            born = self._start_children(wanted)
        except tuple(starting.DECIDING) as refusal:
            if len(wanted) > 1:
                for one in wanted:
                    yield from self._start_all([one])
            elif children.still_wanted(wanted[0]):
                children.refused(wanted[0], refusal.message, self.now_us)
                yield wanted[0], None
            return
        yield from born

    def _start_children(self, wanted: Sequence[WantedChild]) -> list[tuple[WantedChild, LiveRun]]:
        for one in wanted:
            if one.workflow.name not in self.known:
                raise errors.NotFound("workflow", one.workflow.name)
        starts = [offspring._start_of(one) for one in wanted]
        workflows = [self.known[one.workflow.name] for one in wanted]
        starting.check_inputs(starts, workflows)
        plan = self._plan()
        for start, known in zip(starts, workflows, strict=True):
            plan.add(start, known)
        born, children = [], self.desk.consequences.children
        for one, run in zip(wanted, plan.runs(self.desk), strict=True):
            if children.still_wanted(one):
                children.started(one, run.run_id)
                self.desk.open_run(run, self.now_us)
                born.append((one, run))
        return born

    def _plan(self) -> starting.Plan:
        origin = records.Origin(
            tenant_id=self.tenant.tenant_id, api_key_id=STARTER, correlation_id=CORRELATION
        )
        return starting.Plan(origin, {}, self.now_us, self._ids)

    def open_again(self, run_id: str, keys: Sequence[str], *, paused: bool) -> LiveRun:
        """Executes tasks of a run again. Raises RunStands and RunClosed."""
        _, stored, tasks = restore.read_run(self._reads, self.record(run_id))
        restoring.restore(stored, tasks, {})
        chosen = [stored.graph.index[key] for key in keys]
        again = to_reopen(stored, chosen)
        run = self.desk.runs.get(run_id, stored)
        assert to_reopen(run, chosen) == again, "the store would execute other tasks again"
        assert all(run.states[index] == stored.states[index] for index in again)
        for index, output in self._reads.outputs(run_id, needed_outputs(stored, again)).items():
            run.keep_output(index, output, also=again)
        self.desk.interventions.reopen(
            run, again, tasks, paused=paused, reason="again", now_us=self.now_us
        )
        return run

    # -- results

    def verdict(self, end: End, *, run_id: str, task_key: str, **words: Any) -> Verdict:
        """Reports the end of an attempt and, where the desk cannot judge it, asks the store."""
        verdict = self.desk.settle(
            run_id=run_id, task_key=task_key, end=end, now_us=self.now_us, **words
        )
        if verdict is not None:
            return verdict
        run = self._reads.run(run_id)
        index = None
        if run is not None:
            known = self.known[run.workflow]
            shape = extensions.shape_of(known.definition, known.graph, run.detail)
            index = shape.graph.index.get(task_key)
        task = None if index is None else self._reads.task(run_id, index)
        return judge.verdict_on(run, task, end=end, **words)

    # -- what holds for all runs

    def limit(self, max_leases: int) -> None:
        """Changes the tenant's limit."""
        self.tenant = self.desk.tenant = replace(self.tenant, max_leases=max_leases)
        self._act(lambda acts: acts.update_tenant(self.tenant))

    def pause(self, workflow: str) -> None:
        """Pauses a workflow, or the tenant."""
        tenant_id = self.tenant.tenant_id
        pause = records.Pause(
            workflow=workflow, reason="wait", pause_us=self.now_us, paused_by=STARTER
        )
        self._act(lambda acts: acts.pause(tenant_id, pause))
        pauses.take(self.desk, self._reads.pauses(), self.now_us)

    def resume(self, workflow: str) -> None:
        """Lets it go on."""
        self._act(lambda acts: acts.resume(self.tenant.tenant_id, workflow))
        pauses.take(self.desk, self._reads.pauses(), self.now_us)
