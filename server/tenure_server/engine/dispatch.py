"""Who is on the line, and which ready task goes to whom."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tenure_constitution.facts import NO_LABELS
from tenure_server.core import errors
from tenure_server.core.desks import fairness
from tenure_server.core.desks.desk import Desk
from tenure_server.core.evidence import Act
from tenure_server.core.leasing.leases import AgentSlots, Lease
from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Journal
from tenure_server.core.ledger.lifecycle import Standing
from tenure_server.engine.sessions import AgentSession

#: Id of the key and name of the agent.
AgentKey = tuple[str, str]
#: What one act grants at most: its mandate goes with each frame that holds a lease of it.
GRANT_LEASES_MAX = 8192


class Dispatch:
    """The agents on the line and those whose leases outlived their streams."""

    def __init__(self) -> None:
        self._agents: dict[AgentKey, AgentSlots] = {}
        self._sessions: dict[AgentKey, AgentSession] = {}
        #: Waiting unary calls; they have slots of their own.
        self._calls: set[AgentSession] = set()
        self._left: dict[AgentKey, AgentSession] = {}
        #: Those on the line that other coordinators serve too: their credits are divided.
        self._divided: dict[AgentSession, None] = {}
        #: The tenants to which something happened while leases were granted, since it was taken.
        self._touched: set[str] = set()
        self._turn = 0

    # -- who is there

    def slots_of(self, holder: str, name: str) -> AgentSlots:
        """The slots of an agent, known or not."""
        agent = self._agents.get((holder, name))
        if agent is None:
            agent = self._agents[holder, name] = AgentSlots(name, holder)
        return agent

    def facts_of(self, holder: str, name: str) -> Mapping[str, Any]:
        """What articles may look at of an agent; of one that is not known, its name."""
        agent = self._agents.get((holder, name))
        return {"name": name, "labels": NO_LABELS} if agent is None else agent.facts

    def known_session(self, holder: str, name: str) -> AgentSession | None:
        """The session of an agent, or the last one it had."""
        key = (holder, name)
        return self._sessions.get(key) or self._left.get(key)

    def join(self, session: AgentSession) -> None:
        """Takes an agent on the line. An older stream under its name ends."""
        key = (session.agent.holder, session.agent.name)
        older = self._sessions.get(key)
        self._sessions[key] = session
        self._left.pop(key, None)
        if session.elsewhere:
            self._divided[session] = None
        agent = session.agent
        agent.kinds = session.hello.kinds
        agent.slots = session.hello.slots
        agent.introduce(session.hello.labels)
        agent.credits = 0
        if older is None:
            return
        refusal = None
        if older.hello.instance != session.hello.instance:
            name = agent.name
            refusal = errors.AgentReplaced(f"another process took over as agent {name}", agent=name)
        older.end(refusal)

    def call(self, session: AgentSession) -> None:
        """Takes a unary call that waits for leases."""
        self._calls.add(session)

    def leave(self, session: AgentSession) -> None:
        """Notes that a session is over."""
        self._calls.discard(session)
        self._divided.pop(session, None)
        key = (session.agent.holder, session.agent.name)
        if self._sessions.get(key) is session:
            session.agent.credits = 0
            self._left[key] = self._sessions.pop(key)

    def forget_left(self, before_us: int) -> None:
        """Forgets agents that left long ago and hold nothing."""
        for key, session in list(self._left.items()):
            if session.seen_us < before_us and not session.agent.leases:
                del self._left[key]
        for key, agent in list(self._agents.items()):
            if key not in self._sessions and key not in self._left and not agent.leases:
                del self._agents[key]

    def sessions(self) -> list[AgentSession]:
        """Everybody on the line, unary calls included."""
        return [*self._sessions.values(), *self._calls]

    def serving(self, tenant_id: str) -> list[AgentSlots]:
        """The slots of everybody on the line who may execute tasks of a tenant."""
        return [one.agent for one in self.sessions() if tenant_id in one.tenant_ids]

    def end_without(self, tenant_ids: Collection[str]) -> None:
        """Ends the streams of agents whose tenants these are, and which do not know that their
        seats are held here now: they come again.
        """
        for session in list(self._divided):
            if not session.over and any(name in tenant_ids for name in session.elsewhere):
                session.end(None)

    def forget_leases(self) -> None:
        """Memory was thrown away: no agent holds anything until it is read back."""
        self._agents.clear()
        for (holder, name), session in self._left.items():
            session.agent = self.slots_of(holder, name)

    def list(self, tenant_id: str) -> list[records.Agent]:
        """The agents of a tenant by name."""
        agents = []
        for known, on_line in ((self._sessions, True), (self._left, False)):
            for session in known.values():
                if tenant_id in session.tenant_ids:
                    agents.append(_record(session, tenant_id, on_line=on_line))
        return sorted(agents, key=lambda agent: (agent.name, agent.agent_id))

    # -- who gets what

    def grant(
        self, desks: Mapping[str, Desk], journal: Journal, now_us: int
    ) -> Iterable[AgentSession]:
        """Grants what can be granted now, and gives the sessions that have new leases pending."""
        ready = sum(desk.ready.size for desk in desks.values())
        if not ready:
            return ()
        hungry = [session for session in self.sessions() if session.agent.free > 0]
        if not hungry:
            return self._wanting(desks, journal, now_us) if self._divided else ()
        for tenant_id, desk in desks.items():
            if desk.ready.has_special:
                desk.placing.line = [
                    session.agent for session in hungry if tenant_id in session.tenant_ids
                ]
        # The turn moves on, so that no agent is always asked first.
        self._turn += 1
        start = self._turn % len(hungry)
        hungry = hungry[start:] + hungry[:start]
        fed: dict[AgentSession, None] = {}
        while hungry:
            # Work is spread over the agents rather than heaped onto the first.
            share = min(max(1, ready // len(hungry)), GRANT_LEASES_MAX)
            still, took = [], False
            for session in hungry:
                serving = _serving(session.tenant_ids, desks)
                since = len(journal.events)
                leases = fairness.grant(serving, session.agent, now_us, at_most=share)
                if len(journal.events) > since:
                    # An act of its own whenever agents take turns: so the entries of a run stand
                    # in the order of its events.
                    grant = _Grant(session)
                    self._touched.update(grant.note(journal, since, leases))
                    grant.close(journal, now_us)
                if leases:
                    session.pending.leases += leases
                    fed[session] = None
                    took = True
                    ready -= len(leases)
                if session.agent.free > 0 and (leases or session.agent.passed_over):
                    still.append(session)
            # Those who were passed over are asked again as long as others take something.
            hungry = still if ready > 0 and took else []
        if self._divided:
            fed |= dict.fromkeys(self._wanting(desks, journal, now_us))
        return fed

    def take_touched(self) -> set[str]:
        """The tenants to which something happened while leases were granted, by id: leases, or
        attempts that failed before they began.
        """
        touched, self._touched = self._touched, set()
        return touched

    def _wanting(
        self, desks: Mapping[str, Desk], journal: Journal, now_us: int
    ) -> Iterable[AgentSession]:
        """Asks agents for credits that have given theirs to other coordinators, and gives the
        sessions that have that pending.
        """
        asked, since = [], len(journal.events)
        for session in self._divided:
            agent = session.agent
            if session.wants or session.draining or agent.credits:
                continue
            waiting = [desk for desk in _serving(session.tenant_ids, desks) if desk.has_room]
            waiting = [desk for desk in waiting if desk.grants.next_for(agent, now_us) is not None]
            room = sum(
                min(
                    desk.ready.size,
                    desk.tenant.max_leases - desk.leases.slots,
                )
                for desk in waiting
            )
            wanted = min(room, agent.free_slots)
            if wanted > 0:
                session.wants = True
                session.pending.wanted = (wanted, sum(desk.tenant.weight for desk in waiting))
                asked.append(session)
        if len(journal.events) > since:
            # A task that was the newest of its key was cancelled.
            self._touched.update(journal.happened(since))
            journal.act(Act(kind="time.pass"), since, now_us)
        return asked

    def tell(self, desk: Desk) -> Iterable[AgentSession]:
        """Passes on what a desk wants its agents to know, and gives the sessions concerned."""
        told: dict[AgentSession, None] = {}
        for lease, _ in desk.ended:
            session = self._sessions.get((lease.agent.holder, lease.agent.name))
            if session is not None:
                standing = (lease.run.run_id, lease.task_key, lease.term, Standing.LOST)
                session.pending.standings.append((*standing, lease.until_us))
                told[session] = None
        for lease in desk.cancelling:
            session = self._sessions.get((lease.agent.holder, lease.agent.name))
            if session is not None:
                named = (lease.run.run_id, lease.task_key, lease.term, lease.cancelling)
                session.pending.cancellations.append(named)
                told[session] = None
        desk.ended.clear()
        desk.cancelling.clear()
        return told


class _Grant:
    """What one agent was granted at once: one act, one mandate for each tenant."""

    def __init__(self, session: AgentSession) -> None:
        self._session = session
        self._act = session.granting()
        self._happened: dict[str, Sequence[int]] = {}
        self._leases: list[Lease] = []

    def note(self, journal: Journal, since: int, leases: Sequence[Lease]) -> Collection[str]:
        """Notes what happened since an event, and says to which tenants."""
        self._happened = journal.happened(since)
        self._leases += leases
        if journal.objections:
            journal.settle_objections(self._act)
        return self._happened.keys()

    def close(self, journal: Journal, now_us: int) -> None:
        """Writes the act down."""
        if self._session.hello.labels:
            self._act.keep(agent=self._session.agent.facts)
        signed = self._session.hello.wants_mandates
        drafts = journal.draft(self._act, self._happened, now_us, mandate=signed)
        if drafts and signed:
            by_tenant = {draft.tenant_id: draft for draft in drafts}
            for lease in self._leases:
                lease.grant = by_tenant[lease.run.tenant_id]


def _serving(tenant_ids: Sequence[str], desks: Mapping[str, Desk]) -> list[Desk]:
    if len(tenant_ids) == 1:
        desk = desks.get(tenant_ids[0])
        return [desk] if desk is not None and desk.ready.size else []
    found = (desks.get(tenant_id) for tenant_id in tenant_ids)
    return [desk for desk in found if desk is not None and desk.ready.size]


def _record(session: AgentSession, tenant_id: str, *, on_line: bool) -> records.Agent:
    presence = records.AgentPresence.DISCONNECTED
    if on_line:
        presence = (
            records.AgentPresence.DRAINING if session.draining else records.AgentPresence.CONNECTED
        )
    leases = session.agent.leases.values()
    return records.Agent(
        agent_id=session.agent_id,
        name=session.agent.name,
        kinds=tuple(sorted(session.hello.kinds)),
        slots=session.hello.slots,
        leases=sum(lease.run.tenant_id == tenant_id for lease in leases),
        labels=session.hello.labels,
        presence=presence,
        connect_us=session.connect_us,
        seen_us=session.seen_us,
    )
