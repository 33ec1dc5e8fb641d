"""The agents' protocol: sessions on a stream, and single calls through the same desks."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tenure_server.core import errors, ids
from tenure_server.core.evidence import Act
from tenure_server.core.leasing.leases import AgentSlots, Lease
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Standing, Verdict
from tenure_server.core.runs import extensions
from tenure_server.engine import judge
from tenure_server.engine.floor import Floor
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.engine.sessions import (
    AgentSession,
    Hello,
    LeaseStanding,
    Outcome,
    Renewal,
    Report,
)
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

#: How a call introduces itself that says nothing of its agent.
NOBODY = Hello(agent="", instance="", kinds=frozenset(), slots=1)


class Work:
    """What agents may ask. Answers after the commit."""

    def __init__(
        self,
        floor: Floor,
        store: Store,
        *,
        read: Callable[..., Awaitable[Any]],
        workflow_by_digest: Callable[[str, str], Awaitable[KnownWorkflow]],
    ) -> None:
        self._floor = floor
        self._store = store
        self._read = read
        self._workflow_by_digest = workflow_by_digest

    def agents(self, tenant_id: str) -> list[records.Agent]:
        """The agents of a tenant, by name."""
        return self._floor.dispatch.list(tenant_id)

    def progress(self, tenant_id: str, run_id: str, index: int) -> tuple[float, str] | None:
        """How far the handler of a leased task says it is, 0 to 1, and what it does."""
        desk = self._floor.desks.get(tenant_id)
        lease = None if desk is None else desk.leases.get((run_id, index))
        return None if lease is None else lease.progress

    def open_session(
        self,
        key: records.ApiKey,
        tenant_ids: Sequence[str],
        hello: Hello,
        act: Act | None = None,
        *,
        elsewhere: Sequence[str] = (),
    ) -> AgentSession:
        """Takes an agent on the line. Raises SeatElsewhere, Stopping, StoreUnavailable.

        `elsewhere` are those of its tenants that other coordinators decide for.
        """
        for tenant_id in tenant_ids:
            self._floor.check_seat(tenant_id)
        dispatch = self._floor.dispatch
        agent = dispatch.slots_of(key.api_key_id, hello.agent)
        known = dispatch.known_session(key.api_key_id, hello.agent)
        random = os.urandom(ids.RANDOM_BYTES)
        agent_id = (
            known.agent_id
            if known
            else ids.new_id(ids.owner_of(tenant_ids), self._floor.now_us(), random)
        )
        session = AgentSession(
            self._floor, key, tenant_ids, hello, agent, agent_id, act, elsewhere=elsewhere
        )
        since = self._floor.mark()
        dispatch.join(session)
        if hello.several:
            session.unnamed = _unnamed(session)
        for ref in hello.held:
            session.renew(Renewal(ref))
        self._floor.close_act(session.act.again(objected=True), since, tenant_ids)
        session.act.taken = True
        if not self._floor.desks.keys().isdisjoint(elsewhere):
            session.end(None)  # a seat came just now: with it the agent is to come again
        return session

    async def lease_tasks(
        self,
        key: records.ApiKey,
        tenant_ids: Sequence[str],
        *,
        agent: str,
        kinds: frozenset[str],
        max_leases: int,
        wait_us: int,
        labels: Mapping[str, str] | None = None,
        act: Act | None = None,
    ) -> list[Lease]:
        """Grants leases without a stream; they count as accepted. Waits for the first one."""
        hello = Hello(
            agent=agent, instance="", kinds=kinds, slots=max_leases, labels=dict(labels or {})
        )
        session = self._voice(key, tenant_ids, act, hello)
        self._floor.dispatch.call(session)
        session.add_credits(max_leases)
        try:
            due = []
            if wait_us:
                due.append(await session.outbound_within(wait_us / 1e6))
            else:
                await self._floor.flushed()
            # More may have been granted meanwhile, or in the very moment the wait was over.
            session.drain()
            await self._floor.flushed()
            session.close()
            due.append(await session.outbound())
            if session.ended is not None:
                raise session.ended
            leases = [lease for outbound in due if outbound for lease in outbound.leases]
            for lease in leases:
                self._floor.desk(lease.run.tenant_id).accept(lease)
            return leases
        finally:
            session.close()

    async def renew_leases(
        self,
        key: records.ApiKey,
        tenant_ids: Sequence[str],
        renewals: Sequence[Renewal],
        act: Act | None = None,
    ) -> list[LeaseStanding]:
        """Renews leases and says how each stands, after the commit of their checkpoints."""
        session = self._voice(key, tenant_ids, act)
        since = self._floor.mark()
        standings = [session.standing_after(renewal) for renewal in renewals]
        self._floor.close_act(session.act, since, tenant_ids)
        await self._floor.flushed()
        return standings

    async def settle_tasks(
        self,
        key: records.ApiKey,
        tenant_ids: Sequence[str],
        results: Sequence[Report],
        act: Act | None = None,
    ) -> list[Outcome]:
        """Takes results and says what became of each, after the commit."""
        session = self._voice(key, tenant_ids, act)
        since = self._floor.mark()
        verdicts = session.verdicts_on(results)
        self._floor.close_act(session.act, since, tenant_ids)
        await self._floor.flushed()
        outcomes = []
        for report, verdict in zip(results, verdicts, strict=True):
            judged = verdict or await self._judge(session, report)
            outcomes.append((*report.ref[:3], judged))
        return outcomes

    def _voice(
        self,
        key: records.ApiKey,
        tenant_ids: Sequence[str],
        act: Act | None = None,
        hello: Hello = NOBODY,
    ) -> AgentSession:
        """A session for one unary call, with slots of its own."""
        for tenant_id in tenant_ids:
            self._floor.check_seat(tenant_id)
        own = AgentSlots(hello.agent, key.api_key_id, hello.kinds, hello.slots)
        own.introduce(hello.labels)
        return AgentSession(self._floor, key, tenant_ids, hello, own, "", act)

    async def judge_and_tell(self, session: AgentSession, report: Report) -> None:
        """Judges a result from the store, and tells the session once it is known."""
        try:
            await self._floor.flushed()
        except errors.StoreUnavailable:
            return  # the session has ended with it, and the agent will report again
        verdict = await self._judge(session, report)
        session.pending.outcomes.append((*report.ref[:3], verdict))
        self._floor.owe(session)

    async def _judge(self, session: AgentSession, report: Report) -> Verdict:
        """Asks the store about a result whose task or run has ended."""
        run_id = report.ref[0]
        for tenant_id in session.tenant_ids:
            if ids.belongs(run_id, tenant_id):
                run = await self._read(TenantReads(self._store, tenant_id).run, run_id)
                if run is not None:
                    return await self._judge_in(run, session.key.api_key_id, report)
        return Verdict.UNKNOWN

    async def _judge_in(self, run: records.Run, holder: str, report: Report) -> Verdict:
        run_id, task_key, term, token = report.ref
        known = await self._workflow_by_digest(run.tenant_id, run.workflow_digest)
        shape = extensions.shape_of(known.definition, known.graph, run.detail)
        index = shape.graph.index.get(task_key)
        if index is None:
            return Verdict.UNKNOWN
        task = await self._read(TenantReads(self._store, run.tenant_id).task, run_id, index)
        return judge.verdict_on(run, task, term=term, token=token, end=report.end, holder=holder)


def _unnamed(session: AgentSession) -> list[LeaseStanding]:
    """The agent's live leases that its hello does not name."""
    held = {ref[:3] for ref in session.hello.held}
    return [
        (*name, Standing.HELD, lease.until_us)
        for lease in session.agent.leases.values()
        if (name := (lease.run.run_id, lease.task.key, lease.term)) not in held
        and lease.run.tenant_id in session.tenant_ids
    ]
