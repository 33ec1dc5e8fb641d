"""Judges what happened by the execution log alone: nothing lost or twice, no limit exceeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tenure.v1 import runs_pb2
from tenure_client.client import Client

_K = runs_pb2
LEASED = _K.RUN_EVENT_KIND_TASK_LEASED
SUCCEEDED = _K.RUN_EVENT_KIND_TASK_SUCCEEDED
#: Events after which a lease is no longer live.
RELEASES = frozenset(
    {
        SUCCEEDED,
        _K.RUN_EVENT_KIND_TASK_RETRYING,
        _K.RUN_EVENT_KIND_TASK_FAILED,
        _K.RUN_EVENT_KIND_TASK_CANCELLED,
        _K.RUN_EVENT_KIND_TASK_LEASE_LOST,
        _K.RUN_EVENT_KIND_TASK_LEASE_RETURNED,
    }
)


@dataclass(frozen=True, slots=True)
class RunHistory:
    """The events of one run."""

    run: runs_pb2.Run
    events: Sequence[runs_pb2.RunEvent]


@dataclass(slots=True)
class Peaks:
    """The most leases that were live at one instant."""

    tenants: Counter[str] = field(default_factory=Counter)
    workflows: Counter[str] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)


async def read(client: Client, run_ids: Iterable[str]) -> list[RunHistory]:
    """Reads runs with all their events."""
    return [
        RunHistory(
            await client.get_run(run_id), [event async for event in client.list_run_events(run_id)]
        )
        for run_id in run_ids
    ]


def check_run(history: RunHistory, upstream: Mapping[str, Sequence[str]]) -> None:
    """Wants a run that succeeded to have a history without fault. `upstream` is the graph."""
    run, events = history.run, history.events
    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, f"run {run.run_id} is {run.state}"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].kind == _K.RUN_EVENT_KIND_RUN_SUCCEEDED, "a run ends with its last event"
    terms: dict[str, int] = {}
    done: set[str] = set()
    for event in events:
        key = event.task_key
        if event.kind == LEASED:
            assert key not in done, f"{key} was leased after it had succeeded"
            assert event.term > terms.get(key, 0), f"{key}: its term did not grow"
            assert done.issuperset(upstream[key]), f"{key} began before what it depends on"
            terms[key] = event.term
        elif event.kind == SUCCEEDED:
            assert key not in done, f"{key} succeeded twice"
            assert terms[key] == event.term, f"{key}: an older term's result counts"
            done.add(key)
    assert done == set(upstream)
    assert run.tasks.succeeded == run.tasks.total == len(upstream)


def peaks(histories: Iterable[RunHistory]) -> Peaks:
    """Replays all leases in order and gives the most that were live at one instant."""
    found, live_tenants, live_workflows = Peaks(), Counter[str](), Counter[str]()
    live_agents: Counter[str] = Counter()
    steps = []
    for history in histories:
        for event in history.events:
            if event.kind == LEASED or event.kind in RELEASES:
                # At one instant leases end before others begin: that is what makes them possible.
                when = (event.time.ToNanoseconds(), event.kind == LEASED, event.sequence)
                steps.append((when, history.run, event))
    live: dict[tuple[str, str], str] = {}
    for _, run, event in sorted(steps, key=lambda step: step[0]):
        name = (run.run_id, event.task_key)
        begins = event.kind == LEASED
        if not begins and name not in live:
            continue
        agent = event.agent if begins else live.pop(name)
        if begins:
            assert name not in live, f"{name} has two live leases"
            live[name] = agent
        for live_now, most, of in (
            (live_tenants, found.tenants, run.tenant_id),
            (live_workflows, found.workflows, run.workflow),
            (live_agents, found.agents, agent),
        ):
            live_now[of] += 1 if begins else -1
            most[of] = max(most[of], live_now[of])
    assert not live, f"leases that never ended: {live}"
    return found
