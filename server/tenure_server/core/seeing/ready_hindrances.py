"""Why a ready task is not leased now, as a value.

Asked for one task at a time and never on the way to a lease. It changes nothing that decides.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tenure_server.core.desks import pauses
from tenure_server.core.desks.desk import Desk
from tenure_server.core.leasing.leases import AgentSlots
from tenure_server.core.leasing.placing import may_take
from tenure_server.core.ledger import lifecycle
from tenure_server.core.ledger.lifecycle import Failure, RunState, TaskState
from tenure_server.core.runs.gates import Gate, Lane
from tenure_server.core.runs.live import LiveRun


class Why(enum.Enum):
    """What a ready task waits for."""

    #: It is not ready: `state` says what it is.
    NOT_READY = "not_ready"
    #: Its run is paused, or is being cancelled: `state`.
    RUN_STATE = "run_state"
    #: Its tenant or its workflow is paused: `workflow`, empty for the tenant, and `reason`.
    PAUSED = "paused"
    #: Its run waits for others of its key: `key`, `limit`, `open`, ids in `runs`.
    RUN_LIMIT = "run_limit"
    #: The key of a limit cannot be worked out; it fails at the next turn: `message`.
    KEY_FAILED = "key_failed"
    #: As many tasks of its key are leased as may be: `key`, `limit`, `live`, ids in `runs`.
    KEY_LIMIT = "key_limit"
    #: As many were begun as may be: `key`, `count`, `per_us`, and from `free_us` on it may go on.
    RATE = "rate"
    #: It weighs more than the tenant may hold: `weight`, `max_leases`.
    TOO_HEAVY = "too_heavy"
    #: The leases of its workflow are used up: `workflow`, `limit`, `used`, `weight`.
    WORKFLOW_LIMIT = "workflow_limit"
    #: The leases of its tenant are used up: `limit`, `used`, `weight`.
    TENANT_LIMIT = "tenant_limit"
    #: No agent of its kind is on the line: `kind`.
    NO_AGENT = "no_agent"
    #: No agent of its kind has the labels, or the slots, that it needs: `required`, `weight`.
    PLACEMENT = "placement"
    #: All agents that could take it are busy: `agents`.
    NO_SLOTS = "no_slots"
    #: Others go first: `priority`, its own; run id and task of the first in line.
    BEHIND = "behind"
    #: It is next.
    NEXT = "next"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, with what is known of it; all values of `facts` are JSON."""

    why: Why
    facts: dict[str, Any] = field(default_factory=dict)


def why_not(
    desk: Desk, run: LiveRun, index: int, agents: Sequence[AgentSlots], now_us: int
) -> Reason:
    """Says why a task is not leased now. `agents` are those on the line that serve its tenant."""
    state = TaskState(run.states[index])
    if run.held:
        return _held(desk, run)
    if state is not TaskState.READY:
        return Reason(Why.NOT_READY, {"state": state.name})
    if run.state not in lifecycle.RUN_WORKING:
        return Reason(Why.RUN_STATE, {"state": RunState(run.state).name})
    for pause in pauses.of(desk, run):
        return Reason(Why.PAUSED, {"workflow": pause.workflow, "reason": pause.reason})
    gate: Gate | None = None
    if run.graph.limited and run.tasks[index].is_limited:
        found = desk.limits.gate_of(run, index)
        if isinstance(found, Failure):
            return Reason(Why.KEY_FAILED, {"message": found.message})
        gate = found
    weight = 1 if gate is None else gate.weight
    return (
        (None if gate is None else _of_keys(desk, gate, now_us))
        or _of_leases(desk, run, weight)
        or _of_agents(run, index, gate, agents)
        or _of_order(desk, run, index, agents, now_us)
    )


def _held(desk: Desk, run: LiveRun) -> Reason:
    limits, limit = desk.consequences.run_limits, run.definition.concurrency
    key = limits.key_of(run)
    inside = limits.inside.get(key, {}) if key is not None else {}
    return Reason(
        Why.RUN_LIMIT,
        {
            "key": key[-1] if key else "",
            "limit": limit.limit if limit is not None else 0,
            "open": len(inside),
            "runs": list(inside)[:10],
        },
    )


def _of_keys(desk: Desk, gate: Gate, now_us: int) -> Reason | None:
    if desk.limits.is_full(gate) and gate.key is not None:
        live = desk.limits.leases[gate.key].values()
        runs = list(dict.fromkeys(lease.run.run_id for lease in live))[:10]
        facts = {"key": gate.key[-1], "limit": gate.limit, "live": len(live), "runs": runs}
        return Reason(Why.KEY_LIMIT, facts)
    free_us = desk.limits.free_us(gate)
    if gate.rate is not None and free_us is not None and free_us > now_us:
        facts = {"key": gate.rate[-1], "count": gate.count, "per_us": gate.per_us}
        return Reason(Why.RATE, {**facts, "free_us": free_us})
    return None


def _of_leases(desk: Desk, run: LiveRun, weight: int) -> Reason | None:
    most = desk.tenant.max_leases
    if weight > most:
        return Reason(Why.TOO_HEAVY, {"weight": weight, "max_leases": most})
    limit, name = run.definition.max_leases, run.workflow
    used = desk.leases.slots_of(name)
    if limit and used + weight > limit:
        facts = {"workflow": name, "limit": limit, "used": used, "weight": weight}
        return Reason(Why.WORKFLOW_LIMIT, facts)
    used = desk.leases.slots
    if used + weight > most:
        return Reason(Why.TENANT_LIMIT, {"limit": most, "used": used, "weight": weight})
    return None


def _of_agents(
    run: LiveRun, index: int, gate: Gate | None, agents: Sequence[AgentSlots]
) -> Reason | None:
    kind = run.tasks[index].kind
    of_kind = [agent for agent in agents if kind in agent.kinds]
    if not of_kind:
        return Reason(Why.NO_AGENT, {"kind": kind})
    weight = 1 if gate is None else gate.weight
    required = dict(gate.required) if gate is not None else {}
    lane = Lane(kind, weight, frozenset(required.items()))
    able = [agent for agent in of_kind if may_take(lane, agent)]
    if not able:
        return Reason(Why.PLACEMENT, {"kind": kind, "required": required, "weight": weight})
    if not any(agent.credits > 0 and agent.free_slots >= weight for agent in able):
        names = sorted(agent.name for agent in able)[:10]
        return Reason(Why.NO_SLOTS, {"agents": names, "weight": weight})
    return None


def _of_order(
    desk: Desk, run: LiveRun, index: int, agents: Sequence[AgentSlots], now_us: int
) -> Reason:
    kind = run.tasks[index].kind
    kinds = frozenset().union(*(agent.kinds for agent in agents if kind in agent.kinds))
    first = desk.ready.best(kinds, now_us, lambda _: True)
    number = None if first is None else desk.ready.first_in(first)
    if first is None or number is None or (first.run is run and number == index):
        return Reason(Why.NEXT)
    return Reason(
        Why.BEHIND,
        {
            "priority": run.priority + run.tasks[index].priority,
            "run": first.run.run_id,
            "task": first.run.graph.keys[number],
        },
    )
