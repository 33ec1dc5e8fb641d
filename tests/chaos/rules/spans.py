"""Whether limits held as agents saw it: while each was certain to hold what it held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.history import Granted, LeaseName, Observations, Record, Renewed, Settled
from tests.chaos.rules.course import RELEASES
from tests.chaos.rules.limits import weight_of

#: The coordinators' clocks and ours may differ by so much; certain spans are shortened by it.
CLOCK_SECONDS = 0.02
#: Ends that an agent need not have known of: by hand, by a timeout, with the run or the list.
_DECIDED = RELEASES - {"task.lease_lost", "task.lease_returned"}


@dataclass(frozen=True, slots=True)
class Span:
    """A time during which a lease was live for certain."""

    lease: LeaseName
    agent: str
    tenant: str
    workflow: str
    begin: float
    end: float


def certain_spans(observations: Observations, record: Record) -> list[Span]:
    """When leases were live without any doubt, as their agents can know.

    From the moment that the agent has it, until its end was first on the way to the coordinator or
    its time may have been over: it was granted not before `granted`, and kept not before the
    sending of a renewal that found it held. What the coordinator decided itself is taken from the
    record, but never that a lease was lost.
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
    lasted = _lasted(record)
    spans = []
    for lease, seen in begun.items():
        end = min(until[lease] - CLOCK_SECONDS, gone.get(lease, until[lease]))
        if lease in lasted:
            end = min(end, seen.granted + lasted[lease] - CLOCK_SECONDS)
        if end > seen.received:
            spans.append(Span(lease, seen.agent, seen.tenant, seen.workflow, seen.received, end))
    return spans


def _lasted(record: Record) -> dict[LeaseName, float]:
    """How long after its grant each lease was ended by a decision, by the coordinator's clock."""
    lasted = {}
    for run_id, events in record.events.items():
        granted: dict[tuple[str, int], float] = {}
        for event in events:
            name = (event.task, event.term)
            if event.kind == "task.leased":
                granted[name] = event.at
            elif event.kind in _DECIDED and name in granted:
                lasted[run_id, event.task, event.term] = event.at - granted.pop(name)
    return lasted


def limits_hold_as_seen(observations: Observations, record: Record) -> Iterator[str]:
    """No more leases were certainly live at one instant than a limit allows."""
    spans = certain_spans(observations, record)

    def of_workflow(span: Span) -> int | None:
        definition = record.definition_of(span.lease[0])
        return None if definition is None else definition.max_leases or None

    def weight(span: Span) -> int:
        return weight_of(record, *span.lease[:2])

    yield from _crowded(
        spans,
        lambda span: f"tenant {span.tenant}",
        lambda span: record.tenants.get(span.tenant),
        weight,
    )
    yield from _crowded(
        spans, lambda span: f"workflow {span.tenant}/{span.workflow}", of_workflow, weight
    )
    yield from _crowded(
        spans,
        lambda span: f"agent {span.agent}",
        lambda span: record.agents.get(span.agent),
        weight,
    )
    # A task has one lease at a time.
    yield from _crowded(spans, lambda span: f"task {span.lease[:2]}", lambda _: 1, lambda _: 1)


def _crowded(
    spans: Sequence[Span],
    whose: Callable[[Span], str],
    most: Callable[[Span], int | None],
    weight: Callable[[Span], int],
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
        live[whose(span)] += change * weight(span)
        if live[whose(span)] > limit:
            yield f"{whose(span)} certainly had {live[whose(span)]} leases of {limit} at {at:.3f}"
            return
