"""Decides from a history and the store's record whether the promises were kept: one rule each.

Pure: no clock, no I/O. Where an observer cannot know, a rule gives the benefit of the doubt; what
it calls wrong is wrong for certain.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.history import (
    DONE,
    Cancelled,
    Granted,
    Happening,
    LeaseName,
    Observation,
    Read,
    Record,
    Renewed,
    Settled,
    Shown,
    Started,
    StoredEvent,
    Watched,
)

#: Kinds of event after which a run has no other.
RUN_ENDS = {
    "run.succeeded": "SUCCEEDED",
    "run.failed": "FAILED",
    "run.cancelled": "CANCELLED",
}
#: What follows when a result counts.
RESULTS = {
    "success": {"task.succeeded"},
    "failure": {"task.failed", "task.retrying", "task.cancelled"},
    "stopped": {"task.lease_returned", "task.cancelled"},
    "return": {"task.lease_returned", "task.cancelled"},
}
#: Events after which a lease is no longer live.
RELEASES = {
    "task.succeeded",
    "task.failed",
    "task.retrying",
    "task.cancelled",
    "task.lease_lost",
    "task.lease_returned",
}
#: Verdicts by which a result counts, now or before.
COUNTED = {"APPLIED", "ALREADY_APPLIED"}
#: The coordinators' clocks and ours may differ by so much; certain spans are shortened by it.
CLOCK_SECONDS = 0.02

Observations = Sequence[Observation]
Rule = Callable[[Observations, Record], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    rule: str
    what: str


def check(observations: Observations, record: Record) -> list[Violation]:
    """Gives everything that is wrong; nothing when all promises were kept."""
    return [
        Violation(name, what) for name, rule in RULES.items() for what in rule(observations, record)
    ]


# -- nothing acknowledged is lost


def acknowledged_is_kept(observations: Observations, record: Record) -> Iterator[str]:
    """Runs, cancellations and results that were acknowledged, and events that were shown."""
    for seen in observations:
        match seen:
            case Started(outcome="OK", run_id=run_id):
                stored = record.runs.get(run_id)
                if stored is None:
                    yield f"run {run_id} of {seen.tenant} was acknowledged and is not there"
                elif (stored.tenant, stored.workflow) != (seen.tenant, seen.workflow):
                    yield f"run {run_id} is another one than was acknowledged"
            case Cancelled(outcome="OK", run_id=run_id):
                stored = record.runs.get(run_id)
                state = "nowhere" if stored is None else stored.state
                if state not in ("CANCELLING", "CANCELLED"):
                    yield f"the cancellation of run {run_id} was acknowledged; it is {state}"
            case Read(outcome="NOT_FOUND", run_id=run_id):
                yield f"run {run_id} was acknowledged to {seen.actor}, which could not read it"
            case Settled(verdict=verdict) if verdict in COUNTED:
                if not _followed(record, seen):
                    yield f"the {seen.end} of {seen.lease} was {verdict}, and nothing followed"
            case Watched():
                yield from _shown_stands(record, seen)
            case _:
                pass


def _followed(record: Record, seen: Settled) -> bool:
    run_id, task, term = seen.lease
    wanted = RESULTS[seen.end]
    events = record.events.get(run_id, ())
    return any(key == task and at == term and kind in wanted for _, kind, key, at, _ in events)


def _shown_stands(record: Record, seen: Watched) -> Iterator[str]:
    stored = {sequence: event for sequence, *event in record.events.get(seen.run_id, ())}
    for number, (sequence, kind, task, term) in enumerate(seen.events, start=1):
        if sequence != number:
            yield f"{seen.actor} saw event {sequence} of run {seen.run_id} in place of {number}"
            return
        if stored.get(sequence, [])[:3] != [kind, task, term]:
            yield f"{seen.actor} saw {kind} as event {sequence} of {seen.run_id}, which is gone"
            return


def a_request_is_one_run(observations: Observations, record: Record) -> Iterator[str]:
    """A request id that was repeated gets the same run, and there is no second one."""
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for seen in observations:
        if isinstance(seen, Started) and seen.outcome == DONE:
            answers[seen.tenant, seen.request_id].add(seen.run_id)
    for run_id, stored in record.runs.items():
        if stored.request_id:
            answers[stored.tenant, stored.request_id].add(run_id)
    for (tenant, request_id), runs in answers.items():
        if len(runs) > 1:
            yield f"request {request_id} of {tenant} is {len(runs)} runs: {sorted(runs)}"


# -- one result per task and term


def one_result_per_term(observations: Observations, record: Record) -> Iterator[str]:
    """At most one result is applied under each lease, as it was said and as it was written."""
    said = Counter(
        seen.lease
        for seen in observations
        if isinstance(seen, Settled) and seen.verdict == "APPLIED"
    )
    for lease, times in said.items():
        if times > 1:
            yield f"{times} results of {lease} were said to be applied"
    for run_id, events in record.events.items():
        written = Counter(
            (task, term)
            for _, kind, task, term, _ in events
            if kind in ("task.succeeded", "task.retrying", "task.failed") and term
        )
        for (task, term), times in written.items():
            if times > 1:
                yield f"{times} results of {(run_id, task, term)} were written"


# -- limits


def limits_hold(observations: Observations, record: Record) -> Iterator[str]:
    """Live leases of tenants, workflows and agents, at every instant of every log."""
    for tenant, most in record.tenants.items():
        yield from _tenant_limits_hold(tenant, most, record)
    everything = [item for log in record.logs.values() for entry in log for item in entry.items]
    # At one instant leases end before others begin: that is what makes these possible.
    everything.sort(key=lambda item: (item.at, item.kind == "task.leased"))
    agents = _agents_of(everything)
    yield from _replay(
        [step for step in everything if agents.get(_name(step), "") in record.agents],
        lambda step: f"agent {agents[_name(step)]}",
        lambda step: record.agents[agents[_name(step)]],
    )


def _tenant_limits_hold(tenant: str, most: int, record: Record) -> Iterator[str]:
    narrow = {
        name: flow.max_leases
        for (owner, name), flow in record.workflows.items()
        if owner == tenant and flow.max_leases
    }
    steps = [item for entry in record.logs.get(tenant, ()) for item in entry.items]
    yield from _replay(steps, lambda _: f"tenant {tenant}", lambda _: most)
    yield from _replay(
        [step for step in steps if _workflow(record, step) in narrow],
        lambda step: f"workflow {tenant}/{_workflow(record, step)}",
        lambda step: narrow[_workflow(record, step)],
    )


def _workflow(record: Record, step: Happening) -> str:
    stored = record.runs.get(step.run_id)
    return "" if stored is None else stored.workflow


def _name(step: Happening) -> LeaseName:
    return (step.run_id, step.task, step.term)


def _agents_of(steps: Iterable[Happening]) -> dict[LeaseName, str]:
    return {_name(step): step.agent for step in steps if step.kind == "task.leased"}


def _replay(
    steps: Iterable[Happening],
    whose: Callable[[Happening], str],
    most: Callable[[Happening], int],
) -> Iterator[str]:
    live: set[LeaseName] = set()
    held: Counter[str] = Counter()
    for step in steps:
        name = _name(step)
        if step.kind == "task.leased":
            live.add(name)
            held[whose(step)] += 1
            if held[whose(step)] > most(step):
                yield f"{whose(step)} had {held[whose(step)]} leases of {most(step)} at {name}"
                return
        elif step.kind in RELEASES and name in live:
            live.discard(name)
            held[whose(step)] -= 1


@dataclass(frozen=True, slots=True)
class Span:
    """A time during which a lease was live for certain."""

    lease: LeaseName
    agent: str
    tenant: str
    workflow: str
    begin: float
    end: float


def certain_spans(observations: Observations) -> list[Span]:
    """When leases were live without any doubt, as their agents can know.

    From the moment that the agent has it, until its end was first on the way to the coordinator or
    its time may have been over: it was granted not before `granted`, and kept not before the
    sending of a renewal that found it held.
    """
    until: dict[LeaseName, float] = {}
    begun: dict[LeaseName, Granted] = {}
    gone: dict[LeaseName, float] = {}
    for seen in observations:
        match seen:
            case Granted(lease=lease):
                begun.setdefault(lease, seen)
                until[lease] = max(until.get(lease, 0.0), seen.granted + seen.accept_seconds)
            case Renewed(lease=lease, standing=("HELD" | "CANCELLING")):
                until[lease] = max(until.get(lease, 0.0), seen.asked + seen.lease_seconds)
            case Settled(lease=lease, sent=sent):
                gone[lease] = min(gone.get(lease, sent), sent)
            case _:
                pass
    spans = []
    for lease, seen in begun.items():
        end = min(until[lease] - CLOCK_SECONDS, gone.get(lease, until[lease]))
        if seen.timeout_seconds is not None:
            end = min(end, seen.granted + seen.timeout_seconds - CLOCK_SECONDS)
        if end > seen.received:
            spans.append(Span(lease, seen.agent, seen.tenant, seen.workflow, seen.received, end))
    return spans


def limits_hold_as_seen(observations: Observations, record: Record) -> Iterator[str]:
    """No more leases were certainly live at one instant than a limit allows."""
    spans = certain_spans(observations)
    yield from _crowded(
        spans, lambda span: f"tenant {span.tenant}", lambda span: record.tenants.get(span.tenant)
    )
    yield from _crowded(
        spans,
        lambda span: f"workflow {span.tenant}/{span.workflow}",
        lambda span: (
            flow.max_leases or None
            if (flow := record.workflows.get((span.tenant, span.workflow)))
            else None
        ),
    )
    yield from _crowded(
        spans, lambda span: f"agent {span.agent}", lambda span: record.agents.get(span.agent)
    )
    # A task has one lease at a time.
    yield from _crowded(spans, lambda span: f"task {span.lease[:2]}", lambda _: 1)


def _crowded(
    spans: Sequence[Span], whose: Callable[[Span], str], most: Callable[[Span], int | None]
) -> Iterator[str]:
    steps = sorted(
        (step for span in spans for step in ((span.begin, 1, span), (span.end, -1, span))),
        key=lambda step: step[:2],
    )
    live: Counter[str] = Counter()
    for at, change, span in steps:
        limit = most(span)
        if limit is None:
            continue
        live[whose(span)] += change
        if live[whose(span)] > limit:
            yield f"{whose(span)} certainly had {live[whose(span)]} leases of {limit} at {at:.3f}"
            return


# -- order


def graphs_are_followed(observations: Observations, record: Record) -> Iterator[str]:
    """Nothing begins before what it depends on is done, and a run ends last."""
    for run_id, events in record.events.items():
        stored = record.runs.get(run_id)
        if stored is not None:
            flow = record.workflows.get((stored.tenant, stored.workflow))
            yield from _run_in_order(run_id, events, {} if flow is None else flow.upstream)
    yield from _order_as_seen(observations, record)


def _run_in_order(
    run_id: str, events: Sequence[StoredEvent], upstream: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    done: set[str] = set()
    terms: dict[str, int] = {}
    ended = ""
    for number, (sequence, kind, task, term, _) in enumerate(events, start=1):
        if sequence != number:
            yield f"run {run_id} has event {sequence} in place of {number}"
            return
        if ended:
            yield f"run {run_id} has {kind} after {ended}"
        if kind == "task.leased":
            early = set(upstream.get(task, ())) - done
            if early:
                yield f"run {run_id}: {task} began before {sorted(early)}"
            if term <= terms.get(task, 0):
                yield f"run {run_id}: the term of {task} did not grow: {term}"
            if task in done:
                yield f"run {run_id}: {task} began after it was done"
            terms[task] = term
        elif kind == "task.succeeded":
            if term != terms.get(task):
                yield f"run {run_id}: {task} succeeded under term {term}, not {terms.get(task)}"
            done.add(task)
        elif kind in RUN_ENDS:
            ended = kind
            if kind == "run.succeeded" and not done.issuperset(upstream):
                yield f"run {run_id} succeeded without {sorted(set(upstream) - done)}"


def _order_as_seen(observations: Observations, record: Record) -> Iterator[str]:
    sent: dict[tuple[str, str], float] = {}
    for seen in observations:
        if isinstance(seen, Settled) and seen.end == "success":
            key = seen.lease[:2]
            sent[key] = min(sent.get(key, seen.sent), seen.sent)
    for seen in observations:
        if not isinstance(seen, Granted):
            continue
        run_id, task, _ = seen.lease
        flow = record.workflows.get((seen.tenant, seen.workflow))
        for upstream in () if flow is None else flow.upstream.get(task, ()):
            # Who did it may be an agent that nobody looked over the shoulder of.
            if sent.get((run_id, upstream), 0.0) > seen.received:
                yield f"run {run_id}: {task} was handed out before {upstream} was reported"


# -- evidence


def evidence_is_whole(_: Observations, record: Record) -> Iterator[str]:
    """The logs verify, and everything that happened has exactly one piece of evidence."""
    yield from record.audit
    proven: dict[tuple[str, int], list[tuple[int, str, str, int]]] = defaultdict(list)
    for tenant, log in record.logs.items():
        for entry in log:
            for item in entry.items:
                stored = record.runs.get(item.run_id)
                if stored is None or stored.tenant != tenant:
                    yield f"entry {entry.index} of {tenant} tells of run {item.run_id}, not its own"
                said = (entry.index, item.kind, item.task, item.term)
                proven[item.run_id, item.sequence].append(said)
    for run_id, events in record.events.items():
        for sequence, kind, task, term, index in events:
            found = proven.pop((run_id, sequence), [])
            if len(found) != 1:
                yield f"event {sequence} of run {run_id} has {len(found)} pieces of evidence"
            elif found[0] != (index, kind, task, term):
                yield f"event {sequence} of run {run_id} is not what entry {found[0][0]} says"
    for run_id, sequence in proven:
        yield f"there is evidence of event {sequence} of run {run_id}, which is not there"


# -- isolation


def nothing_foreign_is_shown(observations: Observations, record: Record) -> Iterator[str]:
    """No answer names anything of a tenant that its caller does not act for."""
    for seen in observations:
        if not isinstance(seen, Shown):
            continue
        for what, name in seen.names:
            stored = record.runs.get(name)
            owner = stored.tenant if stored is not None else record.owners.get(name)
            if what == "TENANT":
                owner = name
            if owner is not None and owner not in seen.tenants:
                yield f"{seen.actor} of {', '.join(seen.tenants)} was shown {name} of {owner}"


# -- healing


def every_run_ends(_: Observations, record: Record) -> Iterator[str]:
    """Once the faults have stopped, whatever was begun comes to its end."""
    for run_id, stored in record.runs.items():
        events = record.events.get(run_id, ())
        last = events[-1][1] if events else "nothing"
        if RUN_ENDS.get(last) != stored.state:
            yield f"run {run_id} of {stored.tenant} is {stored.state} after {last}"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        acknowledged_is_kept,
        a_request_is_one_run,
        one_result_per_term,
        limits_hold,
        limits_hold_as_seen,
        graphs_are_followed,
        evidence_is_whole,
        nothing_foreign_is_shown,
        every_run_ends,
    )
}
