"""A coordinator in a few lines that keeps every promise, so that the checker has right histories.

It serves two tenants and two agents on one clock, in whatever order it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.history import (
    Cancelled,
    Entry,
    Granted,
    Happening,
    LeaseName,
    Observation,
    Record,
    Renewed,
    Settled,
    Shown,
    Started,
    StoredEvent,
    StoredRun,
    Watched,
)
from tests.server.core.world import flow, task

GRAPH = {"first": (), "left": ("first",), "right": ("first",), "last": ("left", "right")}
TENANTS = {"alpha": 2, "beta": 3}
AGENTS = {"one": 2, "two": 1}
FLOWS = {
    (tenant, name, 1): flow(
        *(task(key, *upstream) for key, upstream in GRAPH.items()), name=name, max_leases=limit
    )
    for tenant in TENANTS
    for name, limit in (("wide", 0), ("narrow", 1))
}
LEASE_SECONDS = 10.0
_ENDS = {"SUCCEEDED", "CANCELLED"}


@dataclass(eq=False)
class _Run:
    tenant: str
    workflow: str
    request_id: str
    state: str = "RUNNING"
    done: set[str] = field(default_factory=set)
    terms: dict[str, int] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    events: list[StoredEvent] = field(default_factory=list)


@dataclass(eq=False)
class Honest:
    """What it did, as everybody saw it and as it wrote it down."""

    now: float = 100.0
    seen: list[Observation] = field(default_factory=list)
    runs: dict[str, _Run] = field(default_factory=dict)
    logs: dict[str, list[Entry]] = field(default_factory=lambda: {tenant: [] for tenant in TENANTS})

    def start(self, tenant: str, workflow: str) -> str:
        """Starts a run, and tells the client a second time when it asks again."""
        run_id = f"run-{len(self.runs) + 1}"
        request_id = f"request-{run_id}"
        self.runs[run_id] = _Run(tenant, workflow, request_id)
        self._act("run.start", run_id, ("run.started", "", 0, ""))
        for _ in range(2):
            began = self._pass()
            self.seen.append(
                Started(
                    actor=f"client-{tenant}",
                    tenant=tenant,
                    workflow=workflow,
                    request_id=request_id,
                    began=began,
                    ended=self._pass(),
                    outcome="OK",
                    run_id=run_id,
                )
            )
        self._show(tenant, ("RUN", run_id), ("TENANT", tenant))
        return run_id

    def lease(self, agent: str) -> LeaseName | None:
        """Grants the first task that may be leased, if there is one."""
        live = [(run, held) for run in self.runs.values() for held in run.live.values()]
        if sum(held == agent for _, held in live) >= AGENTS[agent]:
            return None
        for run_id, run in self.runs.items():
            mine = [one for one, _ in live if one.tenant == run.tenant]
            same = sum(one.workflow == run.workflow for one in mine)
            limit = FLOWS[run.tenant, run.workflow, 1].max_leases or 99
            if run.state != "RUNNING" or len(mine) >= TENANTS[run.tenant] or same >= limit:
                continue
            for key, upstream in GRAPH.items():
                if key not in run.done and key not in run.live and run.done.issuperset(upstream):
                    return self._grant(run_id, key, agent)
        return None

    def renew(self, lease: LeaseName) -> None:
        """Keeps a lease."""
        self.seen.append(
            Renewed(
                agent=self.runs[lease[0]].live[lease[1]],
                lease=lease,
                asked=self._pass(),
                answered=self._pass(),
                standing="HELD",
                lease_seconds=LEASE_SECONDS,
            )
        )

    def lose(self, lease: LeaseName) -> None:
        """Lets a lease expire."""
        run_id, key, term = lease
        self._pass(2 * LEASE_SECONDS)
        run = self.runs[run_id]
        happened = [("task.lease_lost", key, term, run.live.pop(key))]
        if run.state == "CANCELLING":
            happened = [("task.cancelled", *happened[0][1:])]
            self._end(run, happened)
        self._act("time.pass", run_id, *happened)

    def settle(self, lease: LeaseName) -> None:
        """Takes a success, and tells so once more when it is repeated."""
        run_id, key, term = lease
        run = self.runs[run_id]
        agent, sent = run.live.pop(key), self._pass()
        run.done.add(key)
        happened = [("task.succeeded", key, term, agent)]
        if run.state == "CANCELLING":
            self._end(run, happened)
        elif run.done.issuperset(GRAPH):
            run.state = "SUCCEEDED"
            happened.append(("run.succeeded", "", 0, ""))
        self._act("lease.settle", run_id, *happened)
        for verdict in ("APPLIED", "ALREADY_APPLIED"):
            self.seen.append(
                Settled(
                    agent=agent,
                    lease=lease,
                    sent=sent,
                    answered=self._pass(),
                    end="success",
                    verdict=verdict,
                )
            )

    def cancel(self, run_id: str) -> None:
        """Cancels a run that has not ended."""
        run = self.runs[run_id]
        if run.state != "RUNNING":
            return
        run.state = "CANCELLING"
        happened = [
            ("task.cancelled", key, 0, "")
            for key in GRAPH
            if key not in run.live and key not in run.done
        ]
        if run.live:
            happened.append(("run.cancelling", "", 0, ""))
        self._end(run, happened)
        began = self._pass()
        self._act("run.cancel", run_id, *happened)
        self.seen.append(
            Cancelled(
                actor=f"client-{run.tenant}",
                tenant=run.tenant,
                run_id=run_id,
                began=began,
                ended=self._pass(),
                outcome="OK",
            )
        )

    def finish(self) -> None:
        """Brings everything to its end, and lets everybody look."""
        while any(run.state not in _ENDS for run in self.runs.values()):
            for lease in self.live():
                self.settle(lease)
            for agent in AGENTS:
                self.lease(agent)
        for run_id, run in self.runs.items():
            began = self._pass()
            self.seen.append(
                Watched(
                    actor=f"client-{run.tenant}",
                    tenant=run.tenant,
                    run_id=run_id,
                    began=began,
                    ended=self._pass(),
                    events=tuple(event[:4] for event in run.events),
                )
            )

    def live(self) -> list[LeaseName]:
        """The live leases."""
        return [
            (run_id, key, run.terms[key]) for run_id, run in self.runs.items() for key in run.live
        ]

    def record(self) -> Record:
        """What is in the store."""
        return Record(
            tenants=TENANTS,
            workflows=FLOWS,
            agents=AGENTS,
            runs={
                run_id: StoredRun(
                    tenant=run.tenant,
                    workflow=run.workflow,
                    state=run.state,
                    request_id=run.request_id,
                )
                for run_id, run in self.runs.items()
            },
            events={run_id: tuple(run.events) for run_id, run in self.runs.items()},
            logs={tenant: tuple(log) for tenant, log in self.logs.items()},
            owners={f"key-{tenant}": tenant for tenant in TENANTS},
        )

    def _grant(self, run_id: str, key: str, agent: str) -> LeaseName:
        run = self.runs[run_id]
        term = run.terms[key] = run.terms.get(key, 0) + 1
        run.live[key] = agent
        granted = self._pass()
        self._act("lease.grant", run_id, ("task.leased", key, term, agent))
        self.seen.append(
            Granted(
                agent=agent,
                tenant=run.tenant,
                workflow=run.workflow,
                lease=(run_id, key, term),
                granted=granted,
                received=self._pass(),
                accept_seconds=LEASE_SECONDS,
            )
        )
        return run_id, key, term

    @staticmethod
    def _end(run: _Run, happened: list[tuple[str, str, int, str]]) -> None:
        if not run.live:
            run.state = "CANCELLED"
            happened.append(("run.cancelled", "", 0, ""))

    def _act(self, kind: str, run_id: str, *happened: tuple[str, str, int, str]) -> None:
        run = self.runs[run_id]
        log = self.logs[run.tenant]
        items = []
        for what, key, term, agent in happened:
            sequence = len(run.events) + 1
            run.events.append(StoredEvent(sequence, what, key, term, entry=len(log), at=self.now))
            items.append(
                Happening(
                    run_id=run_id,
                    sequence=sequence,
                    kind=what,
                    at=self.now,
                    task=key,
                    term=term,
                    agent=agent,
                )
            )
        log.append(Entry(index=len(log), kind=kind, items=tuple(items)))

    def _show(self, tenant: str, *names: tuple[str, str]) -> None:
        self.seen.append(
            Shown(actor=f"client-{tenant}", tenants=(tenant,), at=self._pass(), names=names)
        )

    def _pass(self, seconds: float = 0.1) -> float:
        self.now += seconds
        return self.now


def story(choose: Callable[[int], int], steps: int) -> Honest:
    """An honest history of so many steps; `choose(n)` gives a number below n."""
    world = Honest()
    tenants, agents = list(TENANTS), list(AGENTS)
    for _ in range(steps):
        live = world.live()
        match choose(7):
            case 0 | 1:
                world.start(tenants[choose(2)], ("wide", "narrow")[choose(2)])
            case 2 | 3:
                world.lease(agents[choose(2)])
            case 4 if live:
                world.settle(live[choose(len(live))])
            case 5 if live:
                act = (world.renew, world.lose)[choose(2)]
                act(live[choose(len(live))])
            case 6 if world.runs:
                world.cancel(list(world.runs)[choose(len(world.runs))])
            case _:
                pass
    world.finish()
    return world
